"""Oracles of the energy view, the objectives, the determinants and the layers."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.flows import ActNorm, AffineCoupling, Flow, Linear, SmoothLeakyReLU
from common.stacked import MLP, rademacher, randn, seed_generators
from papers.ebflow import baselines, layers, method, models
from papers.ebflow.layers import (
    ChannelActNorm,
    ChannelCoupling,
    Convolution,
    Logit,
    Normalise,
    Partial,
    PointwiseConvolution,
    Squeeze,
)
from papers.ebflow.methods import METHODS

torch.set_num_threads(1)
IMAGE = (2, 4, 4)


def generators(*seeds):
    return seed_generators(seeds or (0, 1), 1)


def randomise(flow, scale=0.3):
    """Random parameters everywhere, in float64."""
    g = torch.Generator().manual_seed(5)
    for p in flow.parameters():
        p.data += scale * torch.randn(p.shape, generator=g)
    return flow.double()


def mlp(dim, g):
    return MLP(g, [dim, 8, dim])


def coupling(dim, g):
    mask = (torch.arange(dim) % 2).float()
    return AffineCoupling(mask, mlp(dim, g), mlp(dim, g))


def models_to_test():
    g = generators()
    normal = lambda w, generator: nn.init.normal_(w, std=0.5, generator=generator)  # noqa: E731
    conv = [Convolution(g, IMAGE, 3, normal, normal) for _ in range(2)]
    return {
        "fc": (models.fc_layers(g, 5), 5),
        "actnorm + coupling": ([ActNorm(2, 5), coupling(5, g), Linear(g, 5)], 5),
        "convolution": ([conv[0], SmoothLeakyReLU(0.3, residual=True), conv[1]], 32),
        "squeeze": ([Logit(0.7), Squeeze((1, 4, 4)), Convolution(g, (4, 2, 2), 3, normal)], 16),
        "cnn": (models.cnn_layers(g, (1, 4, 4)), 16),
        "glow": (models.glow_layers(g, (1, 4, 4), depth=2, width=6), 16),
        "toy": (models.toy_layers(g, blocks=2, hidden=8), 2),
        "preprocessing": ([*models.preprocessing((1, 2, 2), 17, 0.5), *models.fc_layers(g, 4)], 4),
    }


def inputs(name, dim, n=3):
    g = torch.Generator().manual_seed(3)
    x = torch.rand(2, n, dim, generator=g, dtype=torch.float64)
    if name == "preprocessing":
        return 0.5 + 16 * x
    return 0.05 + 0.9 * x if name == "squeeze" else 2 * x - 1


def full_log_prob(flow, x, seed):
    """-log p of one sample from the Jacobian of the whole of g, by torch.func."""

    def g(y):
        return flow(torch.stack([y, y])[:, None])[0][seed, 0]

    J = torch.func.jacrev(g)(x)
    u = g(x)
    return torch.linalg.slogdet(J).logabsdet + torch.distributions.Normal(0, 1).log_prob(u).sum()


# ------------------------------------------------------------------ 1, 2: the factorisation


@pytest.mark.parametrize("name", models_to_test())
def test_energy_and_log_Z_make_the_density(name):
    parts, dim = models_to_test()[name]
    flow = randomise(Flow(parts), 0.1)
    x = inputs(name, dim)
    ours = method.log_prob(flow, x)
    for seed, row in itertools.product(range(2), range(2)):
        torch.testing.assert_close(
            ours[seed, row], full_log_prob(flow, x[seed, row], seed), atol=1e-6, rtol=0
        )
    # and the inverse is one
    u = flow(x)[0]
    torch.testing.assert_close(flow.inverse(u), x, atol=1e-6, rtol=1e-6)


def test_energy_computes_no_determinant_of_a_linear_layer(monkeypatch):
    g = generators()
    flows = [
        (Flow(models.fc_layers(g, 6)), torch.randn(2, 3, 6)),
        (Flow(models.cnn_layers(g, (1, 4, 4))), torch.randn(2, 3, 16)),
        (Flow(models.glow_layers(g, (1, 4, 4), depth=1, width=4)), torch.randn(2, 3, 16)),
    ]

    def refuse(*_, **__):
        raise AssertionError("a determinant was computed")

    for name in ("slogdet", "det", "inv", "solve"):
        monkeypatch.setattr(torch.linalg, name, refuse)
    noise = seed_generators((0, 1), 9)
    for flow, x in flows:
        for loss in ("ssm", "dsm", "fdssm"):
            result = METHODS[loss].objective(flow, x, noise, sigma=0.3, xi=0.3)
            result.loss.sum().backward()
        with pytest.raises(AssertionError):
            method.log_Z(flow)
        with pytest.raises(AssertionError):
            baselines.ml(flow, x)
        with pytest.raises(AssertionError):  # SML samples: it inverts
            METHODS["sml"].objective(flow, x, noise, sigma=0.3, xi=0.3)


def test_Z_is_the_integral_of_the_unnormalised_density():
    flow = randomise(Flow(models.fc_layers(generators(), 2)), 0.3)
    axis = torch.linspace(-15, 15, 301, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(1, -1, 2).expand(2, -1, -1)
    with torch.no_grad():
        integral = torch.exp(-method.energy(flow, x)).sum(1) * (axis[1] - axis[0]) ** 2
        determinants = [torch.linalg.det(flow.layers[i].map.weight).abs() for i in (0, 2)]
    torch.testing.assert_close(integral, 1 / (determinants[0] * determinants[1]), rtol=1e-3, atol=0)
    torch.testing.assert_close(integral.log(), method.log_Z(flow)[:, 0], rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------ 3: Toeplitz determinants


@pytest.mark.parametrize(("shape", "kernel"), [((2, 4, 4), 3), ((3, 2, 5), 7), ((1, 6, 4), 5)])
def test_toeplitz_matrix_is_the_convolution(shape, kernel):
    g = torch.Generator().manual_seed(0)
    w = torch.randn(2, shape[0], shape[0], kernel, kernel, generator=g, dtype=torch.float64)
    x = torch.randn(2, 3, *shape, generator=g, dtype=torch.float64)
    T = layers.toeplitz(w, shape)
    for s in range(2):
        y = F.conv2d(x[s], w[s], padding=kernel // 2)
        torch.testing.assert_close(x[s].flatten(1) @ T[s].mT, y.flatten(1))
        jacobian = torch.func.jacrev(
            lambda v, s=s: F.conv2d(v.view(1, *shape), w[s], padding=kernel // 2).flatten()
        )(x[s, 0].flatten())
        torch.testing.assert_close(jacobian, T[s])
    flow = Flow([Convolution(generators(), shape, kernel)]).double()
    flow.layers[0].map.weight.data = w
    expected = torch.linalg.slogdet(T).logabsdet
    torch.testing.assert_close(flow.log_det_constant()[:, 0], expected)


def test_gradient_of_a_convolution_s_determinant():
    layer = Convolution(generators(), (2, 3, 3), 3, models.negative_identity).double()
    layer.map.weight.data += 0.1 * torch.randn(layer.map.weight.shape).double()

    def f(w):
        return torch.linalg.slogdet(layers.toeplitz(w, (2, 3, 3))).logabsdet

    assert torch.autograd.gradcheck(f, (layer.map.weight,))


def test_stacked_convolutions_are_each_seed_s_own():
    g = torch.Generator().manual_seed(0)
    w, b = torch.randn(3, 4, 2, 3, 3, generator=g), torch.randn(3, 4, generator=g)
    x = torch.randn(3, 5, 2, 6, 6, generator=g)
    together = layers.conv2d(x, w, b, 1)
    for s in range(3):
        torch.testing.assert_close(together[s], F.conv2d(x[s], w[s], b[s], padding=1))
        alone = layers.conv2d(x[s : s + 1], w[s : s + 1], b[s : s + 1], 1)
        torch.testing.assert_close(together[s : s + 1], alone)


# ------------------------------------------------------------------ 4: the score


@pytest.mark.parametrize("name", ["fc", "cnn", "actnorm + coupling", "preprocessing"])
def test_score_is_the_gradient_of_log_p(name):
    parts, dim = models_to_test()[name]
    flow = randomise(Flow(parts), 0.1)
    x = inputs(name, dim)
    s, E = method.score(flow, x)
    torch.testing.assert_close(E, method.energy(flow, x))
    h = 1e-5
    with torch.no_grad():
        for i in range(dim):
            step = h * torch.eye(dim, dtype=torch.float64)[i]
            rise = method.log_prob(flow, x + step) - method.log_prob(flow, x - step)
            torch.testing.assert_close(s[..., i], rise / (2 * h), atol=1e-6, rtol=1e-5)


def test_score_is_blind_to_Z_but_not_to_the_linear_layers():
    class Shifted(Linear):
        """A linear layer whose determinant is wrong by a factor of e^3."""

        def log_det(self, context=None):
            return super().log_det(context) + 3.0

    g = generators()
    right, wrong = Flow([Linear(g, 4)]), Flow([Shifted(g, 4)])
    wrong.load_state_dict(right.state_dict())
    x = torch.randn(2, 5, 4)
    assert torch.equal(method.score(right, x)[0], method.score(wrong, x)[0])
    assert not torch.allclose(method.log_prob(right, x), method.log_prob(wrong, x))
    W, b = right.layers[0].map.weight.mT, right.layers[0].map.bias  # s = -W'(Wx + b)
    expected = -(x @ W.mT + b) @ W
    torch.testing.assert_close(method.score(right, x)[0], expected)
    right.layers[0].map.bias.data += 1.0
    assert not torch.allclose(method.score(right, x)[0], expected)


# ------------------------------------------------------------------ 5: linear-Gaussian optima

SIGMA = torch.tensor([[1.0, 0.6, 0.1], [0.6, 1.5, -0.3], [0.1, -0.3, 0.5]], dtype=torch.float64)


def fit(loss, W, steps=400):
    """Minimise a population loss in W by L-BFGS."""
    W = W.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([W], max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss(W)
        value.backward()
        return value

    optimiser.step(closure)
    return W.detach()


def linear_flow(W, seeds=1):
    flow = Flow([Linear(seed_generators(range(seeds), 1), len(W))]).double()
    del flow.layers[0].map.weight
    flow.layers[0].map.weight = W.mT[None]
    flow.layers[0].map.bias.data.zero_()
    return flow


def exact_sample(cov, n):
    """n points with mean zero and exactly the covariance: expectations of quadratics are exact."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, len(cov), generator=g, dtype=torch.float64)
    z = z - z.mean(0)
    z = torch.linalg.solve_triangular(
        torch.linalg.cholesky(z.T @ z / n).mT, z, upper=True, left=False
    )
    return (z @ torch.linalg.cholesky(cov).mT)[None]


@pytest.mark.parametrize("name", ["ml", "ssm", "dsm", "fdssm small", "fdssm large"])
def test_linear_gaussian_optimum(name):
    """W'W = Sigma^-1 for all but DSM, which fits (Sigma + sigma^2 I)^-1.

    All losses are quadratic in (x, noise) or use directions of which all are taken, so a sample
    with the exact moments makes them population losses.
    """
    sigma, n = 0.7, 512
    start = torch.eye(3, dtype=torch.float64) + 0.1
    if name == "dsm":
        both = torch.block_diag(SIGMA, torch.eye(3, dtype=torch.float64))
        x, z = exact_sample(both, n).split(3, dim=-1)
    else:
        x = exact_sample(SIGMA, n)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3))).double()
    design = signs / math.sqrt(3)  # cube's corners: E[ee'] = I/3; quartic moments: see below

    def loss(W):
        flow = linear_flow(W)
        if name == "ml":
            return baselines.ml(flow, x).loss.mean()
        if name == "dsm":
            return method.denoising(flow, x, z, sigma).loss.mean()
        if name == "ssm":
            slices = signs.repeat(n // 8, 1)[None]
            return method.ssm(flow, x, slices).loss.mean()
        xi = 0.1 if name == "fdssm small" else 2.0
        every = x[:, :64].repeat_interleave(8, 1), xi * design.repeat(64, 1)[None]
        return method.fdssm(flow, *every, xi).loss.mean()

    if name.startswith("fdssm"):
        x = exact_sample(SIGMA, 64)
    W = fit(loss, start)
    target = SIGMA + sigma**2 * torch.eye(3) if name == "dsm" else SIGMA
    torch.testing.assert_close(W.T @ W, torch.linalg.inv(target), rtol=0.02, atol=0.002)


def test_linear_gaussian_optimum_of_sml():
    """SML with stochastic gradients and a decaying step, 2 % of Sigma^-1 in the Frobenius norm."""
    g = seed_generators((0,), 4)
    flow = Flow([Linear(g, 3)]).double()
    flow.layers[0].map.weight.data[:] = torch.eye(3)
    flow.layers[0].map.bias.data.zero_()
    flow.layers[0].map.bias.requires_grad_(False)
    factor = torch.linalg.cholesky(SIGMA)
    optimiser = torch.optim.Adam([flow.layers[0].map.weight], lr=0.05)
    average, n = torch.zeros(3, 3, dtype=torch.float64), 0
    for step in range(500):
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * (1 - step / 500) + 1e-4
        x = randn(g, 512, 3, dtype=torch.float64) @ factor.mT
        optimiser.zero_grad()
        method.sml(flow, x, g).loss.mean().backward()
        optimiser.step()
        if step >= 250:
            W = flow.layers[0].map.weight[0].detach().mT
            average, n = average + W.T @ W, n + 1
    error = (average / n - torch.linalg.inv(SIGMA)).norm() / torch.linalg.inv(SIGMA).norm()
    assert error < 0.02


# ------------------------------------------------------------------ 6, 7: FDSSM and SSM


def test_fdssm_of_a_quadratic_energy_is_exact_for_any_radius():
    g = torch.Generator().manual_seed(0)
    W = torch.randn(4, 4, generator=g, dtype=torch.float64)
    A = W.T @ W  # E = x'Ax / 2 + const for u = W x
    flow = linear_flow(W)
    x = torch.randn(1, 6, 4, generator=g, dtype=torch.float64)
    for xi in (0.01, 0.5, 3.0):
        eps = torch.randn(1, 6, 4, generator=g, dtype=torch.float64)
        eps = xi * eps / eps.norm(dim=-1, keepdim=True)
        value = method.fdssm(flow, x, eps, xi).loss * xi**2 / 4  # undo D / xi^2
        expected = 0.5 * ((eps @ A) * x).sum(-1) ** 2 - ((eps @ A) * eps).sum(-1)
        torch.testing.assert_close(value, expected, atol=1e-7, rtol=1e-7)


def test_fdssm_tends_to_score_matching():
    flow = randomise(Flow(models.fc_layers(generators(0), 4)), 0.3)
    x = torch.randn(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = exact_sm(flow, x)
    directions = torch.eye(4, dtype=torch.float64)  # E[ee'] = I/4 over the axes
    per_axis = [method.fdssm(flow, x, 1e-3 * e.expand(1, 3, 4), 1e-3).loss for e in directions]
    torch.testing.assert_close(torch.stack(per_axis).mean(0), exact, atol=1e-4, rtol=1e-4)


def test_sphere_has_its_radius_and_no_preferred_direction():
    eps = method.sphere(seed_generators((0, 1), 3), 20_000, 3, 0.5)
    torch.testing.assert_close(eps.norm(dim=-1), torch.full((2, 20_000), 0.5))
    second = eps.mT @ eps / 20_000
    assert (second - 0.25 / 3 * torch.eye(3)).abs().max() < 2e-3


def exact_sm(flow, x):
    """1/2 |s|^2 + tr grad s from the Jacobian of the score."""

    def s_of(v):
        return method.score(flow, v.expand(x.shape[0], 1, -1), create_graph=True)[0][0, 0]

    values = []
    for row in x[0]:
        row = row.clone().requires_grad_()
        J = torch.autograd.functional.jacobian(s_of, row)
        values.append(0.5 * s_of(row).square().sum() + J.trace())
    return torch.stack(values)[None].detach()


def test_ssm_over_all_slices_is_score_matching():
    flow = randomise(Flow(models.fc_layers(generators(0), 4)), 0.3)
    x = torch.randn(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slices = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4))).double()
    losses = [method.ssm(flow, x, v.expand(1, 3, 4)).loss for v in slices]
    torch.testing.assert_close(torch.stack(losses).mean(0), exact_sm(flow, x))


def test_dsm_of_a_perfect_gaussian_model():
    """Its minimum for N(0, tau^2 I) is D/2 (1/sigma^2 - 1/(tau^2 + sigma^2))."""
    tau, sigma, D, n = 1.3, 0.6, 3, 4096
    both = torch.diag(torch.tensor([tau**2] * D + [1.0] * D, dtype=torch.float64))
    x, z = exact_sample(both, n).split(D, dim=-1)
    W = torch.eye(D, dtype=torch.float64) / math.hypot(tau, sigma)
    value = method.denoising(linear_flow(W), x, z, sigma).loss.mean()
    expected = 0.5 * D * (1 / sigma**2 - 1 / (tau**2 + sigma**2))
    torch.testing.assert_close(value.item(), expected, rtol=1e-9, atol=0)


def test_score_losses_train_the_parameters_through_the_score():
    """Detaching the score would leave no gradient; the energy's constant has none."""
    flow = Flow(models.fc_layers(generators(), 4))
    x, noise = torch.randn(2, 8, 4), seed_generators((0, 1), 9)
    for name in ("ssm", "dsm", "fdssm"):
        loss = METHODS[name].objective(flow, x, noise, sigma=0.3, xi=0.3).loss.sum()
        gradients = torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True)
        assert all(g is not None and g.abs().max() > 0 for g in gradients), name


def test_per_dimension_and_energy_weight():
    result = method.Objective(torch.tensor([[6.0]]), torch.tensor([[5.0]]))
    assert method.per_dimension(result, 3).item() == 2.0
    assert method.per_dimension(result, 3, 0.1).item() == 2.5


# ------------------------------------------------------------------ 8: SML


def test_sml_gradient_is_the_ml_gradient():
    """One layer: E[W x x'] - W^-T; ML exactly, SML's mean over many samples converges to it."""
    g = torch.Generator().manual_seed(0)
    W = torch.randn(3, 3, generator=g, dtype=torch.float64) + 2 * torch.eye(3)
    x = exact_sample(SIGMA, 200_000)
    expected = W @ SIGMA - torch.linalg.inv(W).T

    def gradient(loss):
        free = W.clone().requires_grad_()
        (result,) = torch.autograd.grad(loss(linear_flow(free)).loss.mean(), free)
        return result

    torch.testing.assert_close(gradient(lambda f: baselines.ml(f, x)), expected)
    noise = seed_generators((3,), 2)
    ours = gradient(lambda f: method.sml(f, x, noise))
    torch.testing.assert_close(ours, expected, atol=0.01, rtol=0.01)


def test_sml_samples_carry_no_gradient_and_are_the_model_s():
    flow = Flow(models.fc_layers(generators(), 3))
    seen = []
    original = flow.inverse

    def spy(u, context=None):
        seen.append(original(u, context))
        return seen[-1]

    flow.inverse = spy
    x = torch.randn(2, 7, 3)
    method.sml(flow, x, seed_generators((0, 1), 2)).loss.sum().backward()
    assert seen[0].shape == x.shape and not seen[0].requires_grad
    samples = method.sample(flow, 4_000, 3, seed_generators((0, 1), 2))
    u = flow(samples)[0]
    assert u.mean().abs() < 0.05 and (u.std() - 1).abs() < 0.05


# ------------------------------------------------------------------ 9: a library


def test_coupling_and_actnorm_against_normflows():
    nf = pytest.importorskip("normflows")
    g = generators(0)
    D = 4
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    t, s = mlp(D, g), mlp(D, g)
    ours = AffineCoupling(mask, t, s)
    actnorm = ActNorm(1, D)
    x = torch.randn(1, 9, D, generator=torch.Generator().manual_seed(1))
    actnorm.initialise(x)
    flow = Flow([actnorm, ours])
    y, log_det = flow(x)

    class Single(nn.Module):
        """The only seed of a stacked net."""

        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, v):
            return self.net(v[None])[0]

    # theirs generates by y -> y exp(s) + t; its inverse is this direction
    theirs = nf.flows.MaskedAffineFlow(mask, Single(t), Single(s))
    constant = nf.flows.AffineConstFlow((D,))
    constant.s.data[:] = -actnorm.scale[0].log()
    constant.t.data[:] = -actnorm.shift[0]
    a, log_det_a = constant.inverse(x[0])
    b, log_det_b = theirs.inverse(a)
    torch.testing.assert_close(y[0], b)
    torch.testing.assert_close(log_det[0], log_det_b)
    torch.testing.assert_close(flow.log_det_constant()[0, 0], torch.as_tensor(log_det_a).squeeze())


# ------------------------------------------------------------------ 10: MaP


def test_map_changes_the_score_and_not_the_likelihood():
    g = generators()
    flow = Flow([*models.preprocessing((1, 2, 2), 256, 0.5), *models.fc_layers(g, 4)])
    flow = randomise(flow, 0.1)
    x = 255 * torch.rand(2, 6, 4, dtype=torch.float64) + 0.5
    before, after = method.match_after(flow, 2)
    y, log_det = before(x)
    split = method.log_prob(after, y) + log_det + before.log_det_constant()
    torch.testing.assert_close(split, method.log_prob(flow, x))
    torch.testing.assert_close(before.inverse(y), x, atol=1e-8, rtol=1e-8)
    J = torch.func.jacrev(lambda v: before(v[None, None])[0][0, 0])(x[0, 0])
    torch.testing.assert_close(
        torch.linalg.slogdet(J).logabsdet, log_det[0, 0] + before.log_det_constant()[0, 0]
    )
    # near 0 the pixels' score explodes, that of the logits does not
    edge = torch.full((2, 1, 4), 1e-3, dtype=torch.float64)
    assert method.score(flow, edge)[0].abs().max() > 100 * (
        method.score(after, before(edge)[0])[0].abs().max()
    )
    assert list(after.parameters())[0] is list(flow.parameters())[0]  # shared, not copied


def test_noise_in_pixel_space_leaves_the_logit_s_domain():
    """The authors' logit is NaN there and so is the gradient of the batch; ours is clamped."""
    x = torch.tensor([[[0.3, 5.0]]])
    noisy = x + torch.tensor([[[-0.5, 0.0]]])
    y = Normalise(2, 17)(noisy)[0]
    assert ((y.log() - torch.log1p(-y)) / 0.5).isnan().any()
    flow = Flow([*models.preprocessing((1, 1, 2), 17, 0.5), *models.fc_layers(generators(0), 2)])
    assert method.denoising(flow, x, torch.tensor([[[-1.0, 0.0]]]), 0.5).loss.isfinite().all()
    # data lie inside of the clamp: it does not touch their likelihood
    for edge in (0.0, 17.0):
        inside = Normalise(1, 17)(torch.tensor([edge], dtype=torch.float64))[0]
        assert abs(inside.item() - inside.clamp(1e-6, 1 - 1e-6).item()) < 1e-11


# ------------------------------------------------------------------ other parts of the method


def test_importance_sampling_finds_the_determinant():
    """One linear layer: exact with the model's own density, and unbiased with another."""
    g = torch.Generator().manual_seed(0)
    W = torch.randn(3, 3, generator=g, dtype=torch.float64)
    flow, exact = linear_flow(W), -torch.linalg.slogdet(W).logabsdet
    x = torch.randn(1, 200_000, 3, generator=g, dtype=torch.float64)
    own = torch.linalg.solve(W.mT, x, left=False)
    log_q = method.log_prob(flow, own)
    estimate, effective = method.importance_log_Z(method.energy(flow, own), log_q)
    torch.testing.assert_close(estimate, exact[None])
    torch.testing.assert_close(effective, torch.tensor([200_000.0]).double())
    wide = 1.5 * torch.linalg.inv(W).norm()
    estimate, effective = method.importance_log_Z(
        method.energy(flow, wide * x), method.log_base(x) - 3 * wide.log()
    )
    torch.testing.assert_close(estimate, exact[None], atol=0.05, rtol=0)
    assert 500 < effective.item() < 100_000


def test_langevin_samples_the_conditional():
    """A Gaussian model: mean and variance of the missing given the known coordinate."""
    L = torch.linalg.cholesky(SIGMA[:2, :2])
    flow = linear_flow(torch.linalg.inv(L))
    x = torch.zeros(1, 2_000, 2, dtype=torch.float64)
    x[..., 0] = 1.0
    seen = []
    out = method.langevin_impute(
        flow,
        x,
        torch.tensor([0.0, 1.0]),
        seed_generators((1,), 5),
        alpha=0.05,
        steps=150,
        watch=lambda step, _: seen.append(step),
    )
    assert (out[..., 0] == 1).all() and len(seen) == 150
    variance = SIGMA[1, 1] - SIGMA[0, 1] ** 2 / SIGMA[0, 0]
    assert abs(out[..., 1].mean() - SIGMA[0, 1] / SIGMA[0, 0]) < 0.08
    assert abs(out[..., 1].var() - variance) < 0.15


def test_the_paper_s_sizes():
    def count(parts):
        return sum(p.numel() for p in Flow(parts).parameters())

    g = generators(0)
    assert round(count(models.fc_layers(g, 784)) / 1e6, 3) == 1.231  # "1.230 M", cut
    assert round(count(models.cnn_layers(g, (1, 28, 28))) / 1e6, 3) == 0.027
    assert round(count(models.cnn_layers(g, (3, 32, 32))) / 1e6, 3) == 0.241


def test_models_start_as_the_paper_says():
    x = torch.randn(2, 3, 16)
    first, activation, second = models.fc_layers(generators(), 16)
    torch.testing.assert_close(first(x)[0], 1 - x)
    slope = torch.func.grad(lambda v: activation(v.view(1, 1, 1))[0].sum())(torch.tensor(0.4))
    torch.testing.assert_close(slope, 0.3 + 0.7 * torch.sigmoid(torch.tensor(0.4)))
    conv = models.cnn_layers(generators(), (1, 4, 4))[0]
    assert (conv(x)[0] + x).abs().max() < 0.01
    glow = models.glow_layers(generators(), (1, 4, 4), depth=1, width=4)
    flow = Flow(glow)
    models.initialise(flow, x)
    rotated = flow(x)[0]  # couplings start as the identity, 1x1 convolutions as rotations
    assert abs(rotated.var() - 1) < 0.35


def test_data_dependent_initialisation():
    flow = Flow(models.toy_layers(generators(), blocks=3, hidden=8))
    x = 5 * torch.randn(2, 400, 2) + 3
    models.initialise(flow, x)
    for layer in flow.layers:
        x = layer(x)[0]
        if isinstance(layer, ActNorm):
            torch.testing.assert_close(x.mean(1), torch.zeros(2, 2), atol=1e-5, rtol=0)
            torch.testing.assert_close(x.std(1), torch.ones(2, 2), atol=1e-4, rtol=0)
    norm = ChannelActNorm(2, (2, 2, 2))
    images = 3 * torch.randn(2, 50, 8) + 1
    norm.initialise(images)
    out = norm(images)[0].unflatten(-1, (2, 4))
    torch.testing.assert_close(out.mean((1, 3)), torch.zeros(2, 2), atol=1e-5, rtol=0)


def test_squeeze_is_space_to_depth():
    x = torch.arange(16.0).view(1, 1, 16)
    squeeze = Squeeze((1, 4, 4))
    torch.testing.assert_close(
        squeeze(x)[0].view(1, 1, 4, 2, 2)[0], F.pixel_unshuffle(x.view(1, 1, 4, 4), 2)
    )
    with pytest.raises(ValueError, match="squeezed"):
        Squeeze((1, 3, 4))


def test_partial_leaves_the_rest_alone():
    inner = Flow([Linear(generators(), 3), SmoothLeakyReLU(0.3)])
    layer = Partial(inner, 3)
    x = torch.randn(2, 4, 5)
    y, log_det = layer(x)
    assert torch.equal(y[..., 3:], x[..., 3:])
    torch.testing.assert_close(y[..., :3], inner(x[..., :3])[0])
    torch.testing.assert_close(layer.log_det(), inner.log_det_constant())
    torch.testing.assert_close(log_det, inner(x[..., :3])[1])


def test_pointwise_convolution_has_one_matrix_for_all_pixels():
    layer = PointwiseConvolution(generators(), (3, 2, 2), nn.init.orthogonal_)
    x = torch.randn(2, 4, 12)
    expected = torch.einsum("sij,sbjp->sbip", layer.weight, x.view(2, 4, 3, 4))
    torch.testing.assert_close(layer(x)[0].view(2, 4, 3, 4), expected)
    torch.testing.assert_close(layer.log_det(), torch.zeros(2, 1), atol=1e-5, rtol=0)


def test_channel_coupling_is_conditional_on_the_first_half():
    layer = ChannelCoupling(generators(), (4, 2, 2), 6)
    for p in layer.parameters():
        p.data += 0.2 * torch.randn(p.shape)
    x = torch.randn(2, 3, 16)
    y, log_det = layer(x)
    assert torch.equal(y[..., :8], x[..., :8]) and (log_det != 0).all()
    assert log_det.abs().max() < 2 * 8  # log s = 2 tanh(h / 2)


def test_gaussian_baseline():
    g = torch.Generator().manual_seed(0)
    L = torch.linalg.cholesky(SIGMA)
    x = torch.randn(20_000, 3, generator=g, dtype=torch.float64) @ L.mT + 2
    fitted = baselines.Gaussian(x, ridge=0)
    reference = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T))
    torch.testing.assert_close(fitted.log_prob(x[:5]), reference.log_prob(x[:5]))
    drawn = fitted.sample(50_000, g)
    assert (torch.cov(drawn.T) - SIGMA).abs().max() < 0.05
    missing = torch.tensor([0.0, 0.0, 1.0])
    filled = fitted.impute(x, missing)
    assert torch.equal(filled[:, :2], x[:, :2])
    A = torch.cat((x[:, :2], torch.ones(len(x), 1)), 1)
    regression = A @ torch.linalg.lstsq(A, x[:, 2:]).solution  # the conditional mean
    torch.testing.assert_close(filled[:, 2:], regression, atol=1e-8, rtol=1e-8)
    assert torch.equal(baselines.mean_fill(x, missing, x)[:3, 2], x.mean(0)[2].expand(3))


def test_rademacher_is_the_slice():
    v = rademacher(seed_generators((0,), 3), 100, 4)
    assert set(v.unique().tolist()) == {-1.0, 1.0}


# ------------------------------------------------------------------ faults of the authors' code


def test_constants_inside_logarithms_bias_the_determinant():
    """The authors' toy layers add 1e-8 (FC) and 1e-6 (ActNorm) inside the log; ours add nothing."""
    layer = Linear(generators(0), 8).double()
    layer.map.weight.data = 0.05 * torch.eye(8, dtype=torch.float64)[None]
    exact = 8 * math.log(0.05)
    assert layer.log_det().item() == pytest.approx(exact, abs=1e-9)
    theirs = torch.log(torch.linalg.det(layer.map.weight).abs() + 1e-8).item()
    assert theirs - exact > 5  # nats
    norm = ActNorm(1, 2)
    norm.scale.data.fill_(1e-4)
    assert norm.log_det().item() == pytest.approx(2 * math.log(1e-4), rel=1e-6)
    assert torch.log(norm.scale.abs() + 1e-6).sum().item() - norm.log_det().item() > 0.01


def test_a_mean_over_data_and_samples_together_halves_sml():
    """The authors' image SML averages over 2 B entries; the gradient of ML is twice that."""
    W = torch.linalg.cholesky(SIGMA) + torch.eye(3)
    x = exact_sample(SIGMA, 1_000)

    def gradient(reduce):
        free = W.clone().requires_grad_()
        result = method.sml(linear_flow(free), x, seed_generators((3,), 2))
        (g,) = torch.autograd.grad(reduce(result.loss), free)
        return g

    ours = gradient(lambda loss: loss.mean())
    theirs = gradient(lambda loss: loss.sum() / (2 * loss.shape[1]))
    torch.testing.assert_close(theirs, ours / 2)


def test_base_density_is_normalised_in_any_dimension():
    """The authors' toy energy has the Gaussian's constant of two dimensions throughout."""
    for dim in (1, 2, 5):
        u = torch.randn(1, 4, dim)
        expected = torch.distributions.Normal(0, 1).log_prob(u).sum(-1)
        torch.testing.assert_close(method.log_base(u), expected)
        theirs = -0.5 * u.square().sum(-1) - math.log(2 * math.pi)
        assert torch.allclose(theirs, expected) == (dim == 2)
