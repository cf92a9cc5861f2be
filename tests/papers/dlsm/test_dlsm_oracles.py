"""The losses and scores against closed forms, quadrature and finite differences."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.score import dsm, parzen
from common.stacked import MLP
from papers.dlsm.baselines import cross_entropy_loss, score_loss
from papers.dlsm.method import (
    dlsm_loss,
    elsm_loss,
    guided,
    langevin,
    likelihood_score,
    posterior_score,
    total_loss,
)
from papers.dlsm.moons import SIGMA, Oracle, exact, grid
from papers.dlsm.task import load

torch.set_num_threads(1)

FOUR_X = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
FOUR_Y = torch.tensor([0, 0, 1, 1])  # split along one axis


def quadrature(n=161, half=7.0):
    """Points and weights of the plane around the four points; spectral for Gaussians."""
    ticks = torch.linspace(1 - half, 1 + half, n, dtype=torch.float64)
    return torch.cartesian_prod(ticks, ticks), float((ticks[1] - ticks[0]) ** 2)


def random_classifier(seed, n_out=2, n_in=2, activation=torch.tanh):
    net = MLP([torch.Generator().manual_seed(seed)], (n_in, 16, n_out), activation).double()
    return lambda x, sigma: net(x), net


def losses_by_quadrature(classifier, sigma=1.0):
    """L_DLSM with the true prior score, and L_ELSM: expectations over (x, y) and x~ given x."""
    oracle = Oracle(FOUR_X, FOUR_Y)
    points, area = quadrature()
    prior, likelihood = oracle.prior(points, sigma), oracle.likelihood(points, sigma)
    dlsm = elsm = 0.0
    for x, y in zip(FOUR_X, FOUR_Y, strict=True):
        labels = torch.full((1, len(points)), int(y))
        g, _ = likelihood_score(classifier, points[None], labels, torch.tensor(sigma))
        z = (points - x) / sigma
        density = torch.exp(-0.5 * z.square().sum(-1)) / (2 * math.pi * sigma**2)
        mass = density * area / len(FOUR_X)
        dlsm += (mass * dlsm_loss(g, prior[None], sigma, z[None])[0]).sum()
        elsm += (mass * elsm_loss(g, likelihood[int(y)][None])[0]).sum()
    return float(dlsm), float(elsm)


def test_dlsm_is_elsm_plus_a_constant_that_knows_no_classifier():
    differences = []
    for seed in (1, 2, 3):
        dlsm, elsm = losses_by_quadrature(random_classifier(seed)[0])
        assert elsm > 1e-3  # the classifiers are wrong, and differently so
        differences.append(dlsm - elsm)
    assert max(differences) - min(differences) < 1e-8
    assert differences[0] == pytest.approx(0.224800, abs=1e-6)


def test_a_wrong_label_breaks_the_identity():
    """Labels must be those of the clean point: a random label leaves no constant behind."""
    oracle = Oracle(FOUR_X, FOUR_Y)
    points, area = quadrature()
    prior, likelihood = oracle.prior(points, 1.0), oracle.likelihood(points, 1.0)
    differences = []
    for seed in (1, 2):
        classifier, _ = random_classifier(seed)
        dlsm = elsm = 0.0
        for x, y in zip(FOUR_X, FOUR_Y, strict=True):
            z = points - x
            mass = torch.exp(-0.5 * z.square().sum(-1)) / (2 * math.pi) * area / 4
            for label in (0, 1):  # drawn without looking at x
                at = torch.full((1, len(points)), label)
                g, _ = likelihood_score(classifier, points[None], at, torch.tensor(1.0))
                dlsm += 0.5 * (mass * dlsm_loss(g, prior[None], 1.0, z[None])[0]).sum()
            g, _ = likelihood_score(
                classifier, points[None], torch.full((1, len(points)), int(y)), torch.tensor(1.0)
            )
            elsm += (mass * elsm_loss(g, likelihood[int(y)][None])[0]).sum()
        differences.append(float(dlsm - elsm))
    assert abs(differences[0] - differences[1]) > 1e-3


def bayes_classifier(x, sigma):
    """Logits log sum_{i in c} N(x~; x_i, sigma^2): differentiable, exact."""
    square = (x.unsqueeze(-2) - FOUR_X).square().sum(-1) / (-2 * float(sigma) ** 2)
    return torch.stack([torch.logsumexp(square[..., FOUR_Y == c], dim=-1) for c in (0, 1)], dim=-1)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_the_bayes_classifier_has_no_explicit_loss(sigma):
    x = 3 * torch.randn(1, 200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    oracle = Oracle(FOUR_X, FOUR_Y)
    truth = oracle.likelihood(x[0], sigma)
    weighted = 0.0
    for label in (0, 1):
        labels = torch.full(x.shape[:-1], label)
        g, logits = likelihood_score(bayes_classifier, x, labels, torch.tensor(sigma))
        assert elsm_loss(g, truth[label][None]).max() < 1e-20
        # Bayes' rule: posterior = likelihood + prior, and scores average to 0 over the classes
        prior = lambda at, s: oracle.prior(at[0], float(s))[None]  # noqa: E731
        both = posterior_score(bayes_classifier, prior, x, labels, torch.tensor(sigma))
        torch.testing.assert_close(both[0], oracle.posterior(x[0], sigma)[label])
        weighted = weighted + F.softmax(logits, -1)[..., label, None] * g
    assert weighted.abs().max() < 1e-12
    log_p = oracle.log_probability(x[0], sigma)
    torch.testing.assert_close(log_p, F.log_softmax(logits[0], dim=-1))


def test_the_true_logistic_classifier_is_where_the_gradient_of_dlsm_vanishes():
    """Two Gaussians N(mu_c, tau^2): the true logit at noise sigma is linear, its slope known."""
    sigma, tau = 0.8, 0.6
    mu = torch.tensor([[-1.0, 0.5], [1.5, -0.5]], dtype=torch.float64)
    variance = sigma**2 + tau**2
    w = ((mu[1] - mu[0]) / variance).requires_grad_()
    b = ((mu[0].square().sum() - mu[1].square().sum()) / (2 * variance)).requires_grad_()

    def classifier(x, _):
        return torch.stack((torch.zeros_like(x[..., 0]), x @ w + b), dim=-1)

    def scores(x):  # of the smoothed mixture
        log_p = torch.stack([-(x - m).square().sum(-1) / (2 * variance) for m in mu], dim=-1)
        share = torch.softmax(log_p, dim=-1)
        return (share @ mu - x) / variance

    def gradient(n):
        g = torch.Generator().manual_seed(3)
        y = torch.randint(2, (1, n), generator=g)
        x = mu[y] + tau * torch.randn(1, n, 2, dtype=torch.float64, generator=g)
        z = torch.randn(1, n, 2, dtype=torch.float64, generator=g)
        noisy = x + sigma * z
        likelihood, _ = likelihood_score(
            classifier, noisy, y, torch.tensor(sigma), create_graph=True
        )
        loss = dlsm_loss(likelihood, scores(noisy), sigma, z)
        per_sample = []
        for value in (loss.mean(),):
            per_sample.append(torch.cat([p.flatten() for p in torch.autograd.grad(value, (w, b))]))
        return per_sample[0]

    at_truth = gradient(400_000).abs().max()
    assert at_truth < 0.01
    with torch.no_grad():
        w.mul_(1.5)
    assert gradient(400_000).abs().max() > 10 * at_truth


def test_tweedie_the_oracle_denoises_into_the_hull():
    x, y = load("moons")
    assert x.shape == (10_000, 2) and y.bincount().tolist() == [5_000, 5_000]
    assert x.mean(0).abs().max() < 1e-4 and 29 < x[:, 0].max() < 31  # centred, times 20
    points = grid().double()
    mean = points + SIGMA**2 * exact().on_grid[0]
    assert (mean >= x.min(0).values - 1e-6).all() and (mean <= x.max(0).values + 1e-6).all()
    # the posterior mean by its definition, at a corner where densities are about 1e-8
    corner = points[:1]
    weights = torch.softmax(-(corner - x.double()).square().sum(-1) / (2 * SIGMA**2), dim=0)
    torch.testing.assert_close(mean[0], weights @ x.double())


def test_the_published_oracle_is_biased_far_from_the_data():
    """exp(...) / (density + 1e-8), as published, shrinks scores at the grid's corners; log-sum-exp
    does not."""
    x, y = load("moons")
    points, data = grid().double(), x[y == 0].double()
    kernel = torch.exp(-torch.cdist(points, data).square() / (2 * SIGMA**2))
    kernel = kernel / (2 * math.pi * SIGMA**2)
    numerator = (kernel @ data - kernel.sum(1, keepdim=True) * points) / SIGMA**2 / len(data)
    published = numerator / (kernel.mean(1, keepdim=True) + 1e-8)
    truth = exact().on_grid[1][0]
    error = (published - truth).norm(dim=-1)
    density = kernel.mean(1)
    assert error[density > 1e-5].max() < 2e-3
    assert error.max() > 0.2 and density[error.argmax()] < 1e-7
    assert (numerator / kernel.mean(1, keepdim=True) - truth).abs().max() < 1e-6


def test_no_gradient_reaches_the_score_model():
    _, prior = random_classifier(5)
    classifier, net = random_classifier(6)
    x, z = torch.randn(2, 1, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, sigma = torch.tensor([[0, 1] * 4]), torch.full((1, 8, 1), 0.7, dtype=torch.float64)
    loss, _ = total_loss(classifier, lambda x, s: prior(x), x, y, sigma, z)
    loss.sum().backward()
    assert all(p.grad is None for p in prior.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in list(net.parameters())[:-1])
    # nor when the caller forgot no_grad
    s = prior(x)
    g, _ = likelihood_score(classifier, x, y, sigma, create_graph=True)
    dlsm_loss(g, s, sigma, z).sum().backward()
    assert all(p.grad is None for p in prior.parameters())


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_double_backward_by_finite_differences(weight):
    classifier, net = random_classifier(7)
    _, other = random_classifier(8)
    g = torch.Generator().manual_seed(2)
    x, z = torch.randn(2, 1, 16, 2, dtype=torch.float64, generator=g)
    y = torch.randint(2, (1, 16), generator=g)
    sigma = torch.rand(1, 16, 1, dtype=torch.float64, generator=g) + 0.3

    def loss():
        value, _ = total_loss(
            classifier, lambda x, s: other(x), x, y, sigma, z, weight=weight, lambda_ce=0.125
        )
        return value.sum()

    loss().backward()
    for parameter in net.parameters():
        flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 5)):
            kept = flat[i].item()
            values = []
            for sign in (1, -1):
                flat[i] = kept + sign * 1e-5
                values.append(loss().item())
            flat[i] = kept
            assert grad[i].item() == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-7)


def test_without_the_second_derivative_dlsm_teaches_nothing():
    """The trap: a likelihood score without its graph leaves theta without a gradient."""
    classifier, _ = random_classifier(9)
    x = torch.randn(1, 4, 2, dtype=torch.float64)
    g, _ = likelihood_score(classifier, x, torch.zeros(1, 4, dtype=torch.long), torch.tensor(1.0))
    assert not g.requires_grad


def test_total_is_dlsm_over_dimensions_plus_lambda_cross_entropy():
    classifier, _ = random_classifier(10)
    _, prior = random_classifier(11)
    g = torch.Generator().manual_seed(4)
    x, z = torch.randn(2, 1, 32, 2, dtype=torch.float64, generator=g)
    y = torch.randint(2, (1, 32), generator=g)
    sigma = torch.rand(1, 32, 1, dtype=torch.float64, generator=g) + 0.3
    noisy = x + sigma * z
    # by hand: labels one-hot against log-probabilities, as in the text
    at = noisy.clone().requires_grad_()
    log_p = torch.log(torch.softmax(classifier(at, sigma), dim=-1))
    (score,) = torch.autograd.grad(log_p, at, grad_outputs=F.one_hot(y, 2).double())
    residual = sigma**2 * (score + prior(noisy)) + sigma * z
    expected = 0.5 * residual.square().mean()
    ce = F.cross_entropy(classifier(noisy, sigma)[0], y[0])
    args = (classifier, lambda x, s: prior(x), x, y, sigma, z)
    loss, parts = total_loss(*args, weight=2.0, lambda_ce=0.125)
    torch.testing.assert_close(parts["dlsm"][0], expected)
    torch.testing.assert_close(parts["ce"][0], ce)
    torch.testing.assert_close(loss[0], expected + 0.125 * ce)
    base, _ = cross_entropy_loss(classifier, x, y, sigma, z)
    torch.testing.assert_close(base[0], ce)


def test_large_lambda_is_cross_entropy():
    classifier, net = random_classifier(12)
    _, prior = random_classifier(13)
    g = torch.Generator().manual_seed(5)
    x, z = torch.randn(2, 1, 64, 2, dtype=torch.float64, generator=g)
    y = torch.randint(2, (1, 64), generator=g)
    sigma = torch.ones(1, 64, 1, dtype=torch.float64)
    directions = []
    for loss in (
        total_loss(classifier, lambda x, s: prior(x), x, y, sigma, z, lambda_ce=1e8)[0],
        cross_entropy_loss(classifier, x, y, sigma, z)[0],
    ):
        grads = torch.autograd.grad(loss.sum(), list(net.parameters()))
        flat = torch.cat([grad.flatten() for grad in grads])
        directions.append(flat / flat.norm())
    torch.testing.assert_close(directions[0], directions[1], atol=1e-6, rtol=0)


def test_constant_logits_leave_the_prior_s_own_loss():
    _, prior = random_classifier(14)
    x, z = torch.randn(2, 1, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    sigma = torch.full((1, 8, 1), 0.5, dtype=torch.float64)
    y = torch.zeros(1, 8, dtype=torch.long)
    one_class = lambda x, s: 0 * x[..., :1] + 3.0  # noqa: E731
    loss, parts = total_loss(one_class, lambda x, s: prior(x), x, y, sigma, z, lambda_ce=0.0)
    stage_1, _ = score_loss(lambda x, s: prior(x), x, sigma, z, weight=0.0)
    torch.testing.assert_close(loss, stage_1 / 2)  # mean over D = 2
    assert parts["ce"].item() == 0.0


def test_weights_multiply_by_sigma_to_the_2w():
    """The authors' comment has 1 / sigma^(2w); the loss, theirs and ours, multiplies."""
    g, s, z = torch.randn(
        3, 1, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    )
    plain, weighted = (dlsm_loss(g, s, 0.3, z, w) for w in (0.0, 2.0))
    torch.testing.assert_close(weighted, 0.3**4 * plain)
    torch.testing.assert_close(plain, 0.5 * (g + s + z / 0.3).square().sum(-1))


def test_a_confident_mistake_keeps_its_gradient():
    """log(softmax + 1e-8), as published, saturates where log_softmax does not."""
    slope = torch.tensor([3.0, 0.0])

    def classifier(x, _):
        return torch.stack((torch.zeros_like(x[..., 0]), x @ slope), dim=-1)

    x = torch.tensor([[[10.0, 0.0]]])  # certain of class 1, the label says 0
    y = torch.zeros(1, 1, dtype=torch.long)
    g, _ = likelihood_score(classifier, x, y, torch.tensor(1.0))
    torch.testing.assert_close(g[0, 0], -slope)
    at = x.clone().requires_grad_()
    published = torch.log(torch.softmax(classifier(at, None), dim=-1) + 1e-8)[..., 0]
    (saturated,) = torch.autograd.grad(published.sum(), at)
    assert saturated.abs().max() < 1e-4


def test_scaled_guidance_scales_the_likelihood_score_alone():
    classifier, _ = random_classifier(15)
    _, prior = random_classifier(16)
    x = torch.randn(1, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    y = torch.ones(1, 6, dtype=torch.long)
    sigma = torch.tensor(1.0)
    g, _ = likelihood_score(classifier, x, y, sigma)
    for alpha in (1.0, 10.0):
        expected = alpha * g + prior(x)
        torch.testing.assert_close(
            posterior_score(classifier, lambda x, s: prior(x), x, y, sigma, alpha), expected
        )
        score = guided(classifier, lambda x, s: prior(x), 1, alpha)
        torch.testing.assert_close(score(x, sigma), expected)


def test_langevin_samples_the_density_of_its_score():
    """N(0, s^2): an AR(1) chain with variance s^2 / (1 - epsilon^2 / (4 s^2)), in closed form."""
    generator, s, epsilon = torch.Generator().manual_seed(0), 7.5, 3.5
    noise = lambda: torch.randn(1, 20_000, 2, generator=generator)  # noqa: E731
    x = langevin(
        lambda x, sigma: -x / sigma**2, noise(), torch.tensor(s), noise, epsilon=epsilon, steps=200
    )
    variance = s**2 / (1 - epsilon**2 / (4 * s**2))
    assert x.var().item() == pytest.approx(variance, rel=0.02)


def test_the_published_moons_sampler_heats_up_and_moves_too_far():
    """As published, sigma rises over the steps, the predictor does not move, and the corrector's
    score step sqrt(2 epsilon) does not belong to its noise epsilon: for N(0, s^2) its variance is
    not s^2."""
    levels = [1e-3 * (10.0 / 1e-3) ** (i / 1000) for i in range(1000)]
    assert levels[0] < levels[-1]
    s, epsilon = 7.5, 3.5
    decay = 1 - math.sqrt(2 * epsilon) / s**2  # x <- decay x + epsilon z
    published = epsilon**2 / (1 - decay**2)
    ours = s**2 / (1 - epsilon**2 / (4 * s**2))
    assert published / s**2 > 2.3 and abs(ours / s**2 - 1) < 0.06


def test_parzen_posteriors_mix_to_the_prior():
    x, y = load("moons")
    oracle, points = exact(), grid()[::37]
    shares = oracle.log_probability(points, SIGMA).exp()
    mixed = torch.einsum("nc,cnd->nd", shares, oracle.posterior(points, SIGMA))
    torch.testing.assert_close(mixed, oracle.prior(points, SIGMA))
    log_p, _ = parzen(points.double(), x.double(), SIGMA)
    direct = torch.cdist(points.double(), x.double()).square() / (-2 * SIGMA**2)
    direct = torch.logsumexp(direct, 1) - math.log(len(x) * 2 * math.pi * SIGMA**2)
    torch.testing.assert_close(log_p, direct)


def test_dsm_of_a_perfect_gaussian_model_has_its_known_value():
    """p = N(0, tau^2 I): the minimum is D/2 (1/sigma^2 - 1/(tau^2 + sigma^2))."""
    g = torch.Generator().manual_seed(1)
    tau, sigma, n = 2.0, 0.7, 200_000
    x, z = torch.randn(2, n, 2, dtype=torch.float64, generator=g)
    noisy = tau * x + sigma * z
    loss = dsm(-noisy / (tau**2 + sigma**2), sigma, z).mean().item()
    assert loss == pytest.approx(1 / sigma**2 - 1 / (tau**2 + sigma**2), rel=0.01)
