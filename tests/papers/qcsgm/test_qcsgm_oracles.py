"""The method against closed forms: Jacobians, estimators and their gradients, ODE likelihoods."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from common.score import jacobian, noise_level, parzen
from common.stacked import seed_generators
from common.ve_sde import ode_log_likelihood
from papers.qcsgm import method, rotation
from papers.qcsgm.autoencoder import Autoencoder, grid
from papers.qcsgm.baselines import constrained, constrained_output
from papers.qcsgm.likelihood import hutchinson_log_likelihood
from papers.qcsgm.networks import DigitsNetwork, ToyNetwork

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tanh_net(dim=3, hidden=5, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, dim)).double()
    return net, torch.randn(7, dim, dtype=torch.float64)


def all_signs(dim, rows):
    """[2^D, rows, D]: each row meets each sign vector."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dim)), dtype=torch.float64)
    return signs[:, None].expand(-1, rows, -1)


def exact_jacobian(net, x):
    return torch.func.vmap(torch.func.jacrev(net))(x)


# -- measures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_linear_field(dim):
    torch.manual_seed(dim)
    M = torch.randn(dim, dim, dtype=torch.float64)
    J = jacobian(lambda x: x @ M.T, torch.randn(4, dim, dtype=torch.float64))
    torch.testing.assert_close(J, M.expand(4, dim, dim))
    expected = 0.5 * (M - M.T).square().sum()
    torch.testing.assert_close(method.asymmetry(J), expected.expand(4))
    torch.testing.assert_close(method.asymmetry_trace(J), expected.expand(4))
    normalised = 0.25 * (M - M.T).square().sum() / M.square().sum()
    torch.testing.assert_close(method.normalised_asymmetry(J), normalised.expand(4))


def test_normalised_asymmetry_ends_at_0_and_1():
    M = torch.randn(4, 4, dtype=torch.float64)
    assert method.normalised_asymmetry(M + M.T) == 0
    assert method.normalised_asymmetry(M - M.T) == pytest.approx(1, abs=1e-12)
    assert 0 < method.normalised_asymmetry(M) < 1


def test_rotation_added_to_a_gradient_field():
    """grad phi + c (-x2, x1): Asym = 4 c^2 whatever phi is."""
    c = 0.7

    def field(x):
        gradient = torch.stack([x[..., 0] ** 3 + x[..., 1], x[..., 0] + x[..., 1].cos()], dim=-1)
        return gradient + c * torch.stack([-x[..., 1], x[..., 0]], dim=-1)

    J = jacobian(field, torch.randn(9, 2, dtype=torch.float64))
    torch.testing.assert_close(method.asymmetry(J), torch.full((9,), 4 * c**2).double())
    torch.testing.assert_close(method.rotation(J)[:, 1, 0], torch.full((9,), 2 * c).double())


# -- the estimate and its gradient ----------------------------------------------------------------


def test_products_are_those_of_the_exact_jacobian():
    net, x = tanh_net()
    v = torch.randn_like(x)
    s, JTv, Jv = method.jacobian_products(net, x, v)
    J = exact_jacobian(net, x)
    torch.testing.assert_close(s, net(x))
    torch.testing.assert_close(JTv, (J.mT @ v.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(Jv, (J @ v.unsqueeze(-1)).squeeze(-1))
    _, by_forward_mode = torch.func.jvp(net, (x,), (v,))
    torch.testing.assert_close(Jv, by_forward_mode)


@pytest.mark.parametrize("dim", [2, 3, 4])
@pytest.mark.parametrize("estimate", [method.qc_estimate, method.qc_difference])
def test_mean_over_all_sign_vectors_is_the_exact_regulariser(dim, estimate):
    net, x = tanh_net(dim)
    values = torch.stack(
        [estimate(*method.jacobian_products(net, x, v)[1:]) for v in all_signs(dim, len(x))]
    )
    J = exact_jacobian(net, x)
    torch.testing.assert_close(values.mean(0), method.asymmetry(J), rtol=0, atol=1e-12)
    torch.testing.assert_close(method.asymmetry_trace(J), method.asymmetry(J), rtol=0, atol=1e-12)


def test_the_estimate_may_be_negative_and_the_difference_not():
    net, x = tanh_net(4)
    products = [method.jacobian_products(net, x, v)[1:] for v in all_signs(4, len(x))]
    assert min(method.qc_estimate(*p).min() for p in products) < 0
    assert min(method.qc_difference(*p).min() for p in products) >= 0


def test_in_two_dimensions_the_difference_has_no_variance_and_the_estimate_has():
    net, x = tanh_net(2)
    exact = method.asymmetry(exact_jacobian(net, x))
    worst = 0.0
    for v in all_signs(2, len(x)):
        products = method.jacobian_products(net, x, v)[1:]
        torch.testing.assert_close(method.qc_difference(*products), exact)
        worst = max(worst, float((method.qc_estimate(*products) - exact).detach().abs().max()))
    assert worst > 1e-2


def gradients(loss, net):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters())[:3])])


@pytest.mark.parametrize("way", ["attached", "two-step", "difference"])
def test_parameter_gradient_is_that_of_the_exact_regulariser(way):
    """Averaged over all sign vectors; the last bias has no gradient at all."""
    net, x = tanh_net()
    parameters = list(net.parameters())[:3]
    exact = gradients(method.asymmetry(method.score_and_jacobian(net, x)[1]).sum(), net)
    total = torch.zeros_like(exact)
    for v in all_signs(3, len(x)):
        if way == "two-step":
            net.zero_grad()
            method.qc_backward_two_step(net, x, v, parameters)
            total += torch.cat([p.grad.flatten() for p in parameters])
        else:
            estimate = method.qc_estimate if way == "attached" else method.qc_difference
            products = method.jacobian_products(net, x, v)[1:]
            total += gradients(estimate(*products).sum(), net)
    torch.testing.assert_close(total / 8, exact, rtol=0, atol=1e-8)


def test_half_the_gradient_is_not_the_gradient():
    """Detaching w and forgetting the secondary part, or differentiating through w, is wrong."""
    net, x = tanh_net()
    exact = gradients(method.asymmetry(method.score_and_jacobian(net, x)[1]).sum(), net)
    half, through = torch.zeros_like(exact), torch.zeros_like(exact)
    for v in all_signs(3, len(x)):
        at = x.clone().requires_grad_()
        s = net(at)
        (w,) = torch.autograd.grad((s * v).sum(), at, create_graph=True)
        (JTw,) = torch.autograd.grad((s * w.detach()).sum(), at, create_graph=True)
        half += gradients(w.square().sum() - (v * JTw).sum(), net)
        at = x.clone().requires_grad_()
        s = net(at)
        (w,) = torch.autograd.grad((s * v).sum(), at, create_graph=True)
        (wrong,) = torch.autograd.grad((s * w).sum(), at, create_graph=True)
        through += gradients(w.square().sum() - (v * wrong).sum(), net)
    assert (half / 8 - exact).abs().max() > 0.1 * exact.abs().max()
    assert (through / 8 - exact).abs().max() > 0.1 * exact.abs().max()


@pytest.mark.parametrize("slices", [1, 3])
def test_loss_of_a_stack_with_slices(slices):
    """sigma^2 times the mean over the K vectors of a point, for every seed and point."""
    net = ToyNetwork(seed_generators([0, 1], 0)).double()
    score = method.unconstrained(net)
    x, sigma = torch.randn(2, 5, 2).double(), 0.1 + torch.rand(2, 5, 1).double()
    v = (2 * torch.randint(2, (2, slices, 5, 2)) - 1).double()
    s, regulariser = method.qc_loss(score, x, sigma, v)
    torch.testing.assert_close(s, score(x, sigma))
    J = jacobian(lambda at: score(at, sigma), x)
    for seed, point in itertools.product(range(2), range(5)):
        j, level = J[seed, point], sigma[seed, point, 0]
        expected = torch.stack([(j.T @ u) @ (j.T @ u) - u @ j @ j @ u for u in v[seed, :, point]])
        torch.testing.assert_close(regulariser[seed, point], level**2 * expected.mean())
    _, exact = method.qc_loss(score, x, sigma)
    torch.testing.assert_close(exact, sigma[..., 0] ** 2 * method.asymmetry(J))


def test_matching_loss_is_weighted_by_the_variance():
    s, z = torch.randn(3, 4, 2).double(), torch.randn(3, 4, 2).double()
    sigma = 0.1 + torch.rand(3, 4, 1).double()
    expected = 0.5 * sigma[..., 0] ** 2 * (s + z / sigma).square().sum(-1)
    torch.testing.assert_close(method.dsm_loss(s, sigma, z), expected)


# -- parameterisations ----------------------------------------------------------------------------


def test_unconstrained_score_has_the_papers_sign():
    x, sigma = torch.randn(1, 3, 2), torch.rand(1, 3, 1) + 0.1
    score = method.unconstrained(lambda x, sigma: 3 * x)
    torch.testing.assert_close(score(x, sigma), -2 * x / sigma)


@pytest.mark.parametrize("activation", ["none", "elu", "leaky_relu"])
def test_constrained_model_is_a_gradient(activation):
    net = ToyNetwork(seed_generators([3], 0), activation).double()
    score = constrained(net)
    x, sigma = 3 * torch.randn(1, 20, 2).double(), 0.1 + torch.rand(1, 20, 1).double()
    J = jacobian(lambda at: score(at, sigma), x)
    assert J.abs().max() > 1e-2
    assert method.rotation(J).abs().max() < 1e-12 * J.abs().max()
    assert method.asymmetry(J).max() < 1e-20 * J.square().sum((-1, -2)).max()
    free = jacobian(lambda at: method.unconstrained(net)(at, sigma), x)
    assert method.asymmetry(free).mean() > 1e-4  # the same network, unconstrained


def test_constrained_scores_are_minus_the_gradient_of_their_energies():
    x, sigma = torch.randn(1, 4, 3).double(), torch.rand(1, 4, 1).double() + 0.1
    A = torch.randn(3, 3).double()
    toy = constrained(lambda x, sigma: x @ A.T)
    R = torch.eye(3).double() - A
    torch.testing.assert_close(toy(x, sigma), -(x @ R.T @ R) / sigma)
    images = constrained_output(lambda x, sigma: x @ A.T / sigma)
    torch.testing.assert_close(images(x, sigma), -(x @ A.T @ A) / sigma**3)


def test_constrained_model_trains_through_its_gradient():
    net = ToyNetwork(seed_generators([0], 0)).double()
    x, sigma, z = torch.randn(1, 6, 2).double(), torch.rand(1, 6, 1).double() + 0.1, 1.0
    loss = method.dsm_loss(constrained(net)(x, sigma), sigma, torch.full_like(x, z)).sum()
    loss.backward()
    weight = net.out.weight
    step = 1e-6
    with torch.no_grad():
        weight[0, 5, 1] += step
        above = method.dsm_loss(constrained(net)(x, sigma), sigma, torch.full_like(x, z)).sum()
        weight[0, 5, 1] -= 2 * step
        below = method.dsm_loss(constrained(net)(x, sigma), sigma, torch.full_like(x, z)).sum()
    assert float(weight.grad[0, 5, 1]) == pytest.approx(float(above - below) / (2 * step), rel=1e-6)
    with torch.no_grad():
        assert not constrained(net)(x, sigma).requires_grad


def test_u_and_c_have_the_same_number_of_parameters():
    def count(net):
        return sum(p.numel() for p in net.parameters())

    generators = seed_generators([0], 0)
    assert count(ToyNetwork(generators)) == count(ToyNetwork(generators, "elu"))
    expected = (2 * 64 + 64) + (64 * 128 + 128) + (128 * 256 + 256)  # x
    expected += 3 * 2 + (64 + 128) + 2 + 257 + (257 * 2 + 2)  # sigma, betas, out
    assert count(ToyNetwork(generators)) == expected


def test_the_authors_toy_network_sees_sigma_as_a_shift_only():
    """Joined before the last layer: J of f is the same at all levels, Asym of U goes as 1/sigma^2.

    Raising sigma at a fixed x therefore lowers Asym whatever was learnt.
    """
    net = ToyNetwork(seed_generators([0], 0)).double()
    x = 3 * torch.randn(1, 8, 2).double()
    score = method.unconstrained(net)
    J = [jacobian(lambda at, s=s: net(at, torch.tensor(s).double()), x) for s in (0.1, 3.0)]
    torch.testing.assert_close(J[0], J[1])
    low, high = (
        method.asymmetry(jacobian(lambda at, s=s: score(at, torch.tensor(s).double()), x))
        for s in (0.1, 3.0)
    )
    torch.testing.assert_close(low, 900 * high)


def test_digits_score_is_scaled_by_sigma_and_takes_scalars():
    net = DigitsNetwork(seed_generators([0, 1], 0), width=16)
    x, sigma = torch.rand(2, 3, 64), torch.full((2, 3, 1), 0.3)
    torch.testing.assert_close(net(x, sigma), net(x, torch.tensor(0.3)))
    assert net(x, sigma).shape == x.shape


# -- Gaussian data: likelihoods -------------------------------------------------------------------

TAU, LOW, HIGH = 1.0, 0.1, 3.0


def gaussian_score(x, sigma):
    return -x / (TAU**2 + sigma**2)


def test_ode_likelihood_of_a_gaussian():
    """The density is that at sigma_min; the usual prior puts it off by a known amount."""
    x = torch.tensor([[2.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    variance = TAU**2 + LOW**2
    exact = x.square().sum(-1) / (2 * variance) + math.log(2 * math.pi * variance)
    terminal = math.sqrt(TAU**2 + HIGH**2)
    found, _ = ode_log_likelihood(gaussian_score, x, LOW, HIGH, prior_std=terminal, rtol=1e-6)
    torch.testing.assert_close(-found, exact, rtol=0, atol=1e-4)

    usual, _ = ode_log_likelihood(gaussian_score, x, LOW, HIGH, rtol=1e-6)
    q = x.square().sum(-1) / variance
    offset = math.log(HIGH**2 / (TAU**2 + HIGH**2)) + q * TAU**2 / (2 * HIGH**2)
    torch.testing.assert_close(-usual, exact + offset, rtol=0, atol=1e-4)
    assert (-usual).tolist() == pytest.approx([4.4927, 1.7425], abs=1e-4)
    assert exact.tolist() == pytest.approx([4.3231, 1.8478], abs=1e-4)

    coarse, _ = ode_log_likelihood(gaussian_score, x, LOW, HIGH, rtol=1e-3)
    assert 1e-4 < (coarse - usual).abs().max() < 4.5e-3


def test_hutchinson_likelihood_averages_to_the_exact_one():
    """Over all sign vectors; the field's Jacobian is neither diagonal nor constant."""

    def score(x, sigma):
        turned = torch.stack([x[..., 1], x[..., 0].sin()], dim=-1)
        return (-x + 0.5 * turned) / (1 + sigma**2)

    x = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0)).double()[:1]
    exact, result = ode_log_likelihood(score, x, LOW, HIGH, rtol=1e-8, atol=1e-8)
    values = [
        hutchinson_log_likelihood(score, x, v[None], LOW, HIGH, rtol=1e-8, atol=1e-8)
        for v in all_signs(2, 5)
    ]
    torch.testing.assert_close(
        torch.stack([value for value, _ in values]).mean(0), exact, rtol=0, atol=1e-5
    )
    assert max(float((value - exact).abs().max()) for value, _ in values) > 1e-2
    assert result.n_evaluations > 20


def test_oracle_score_is_that_of_the_clean_points_smoothed_once():
    """The authors smooth points that are noised already: the score at sqrt 2 sigma."""
    points = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)).double()
    sigma = float(noise_level(torch.tensor(0.5), LOW, HIGH))
    x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    right = parzen(x, points, sigma)[1]
    noised = points + sigma * torch.randn(20_000, 2, dtype=torch.float64)
    authors = parzen(x, noised, sigma)[1]
    torch.testing.assert_close(right, -x / (1 + sigma**2), rtol=0.03, atol=0)
    torch.testing.assert_close(authors, -x / (1 + 2 * sigma**2), rtol=0.03, atol=0)


# -- Example 1 ------------------------------------------------------------------------------------

PUBLISHED = {"radial": [1, 2, 3, 3, 4, 5, 16], "rotational": [1, 4, 5, 6, 57, 121, 238]}


@pytest.mark.parametrize("kind", ["radial", "rotational"])
def test_published_numbers_of_steps(kind):
    start = rotation.starts(0)
    assert [rotation.ascend(start, e, kind) for e in rotation.EPSILONS] == PUBLISHED[kind]
    other = [rotation.ascend(rotation.starts(3), e, kind) for e in rotation.EPSILONS]
    differing = [i for i, (a, b) in enumerate(zip(other, PUBLISHED[kind], strict=True)) if a != b]
    assert differing == ([3] if kind == "rotational" else [6])


def test_both_errors_have_the_same_norm_everywhere():
    x = torch.randn(50, 2, dtype=torch.float64)
    rotational, radial = (rotation.error(x, 1e-3, kind) for kind in ("rotational", "radial"))
    torch.testing.assert_close(rotational.norm(dim=-1), radial.norm(dim=-1), rtol=1e-12, atol=0)
    assert (rotational * radial).sum(-1).abs().max() < 1e-10 * radial.square().sum(-1).max()


def test_measures_of_the_errors():
    rotational, radial = (rotation.measures(0.5e-3, kind) for kind in ("rotational", "radial"))
    assert rotational["error"] == pytest.approx(1.54e-6, rel=2e-3)
    assert rotation.measures(1e-3, "radial")["error"] == pytest.approx(3.06e-6, rel=2e-3)
    assert radial["error"] == pytest.approx(rotational["error"], rel=1e-12)
    assert radial["nasym"] < 1e-15 < rotational["nasym"]
    finer = rotation.measures(0.5e-3, "rotational", n=401, reach=0.9)
    assert finer == pytest.approx(rotational, rel=1e-5)


def test_authors_table_is_a_sum_over_a_coarse_grid_with_its_columns_swapped():
    """value x p summed over 20 x 20 points without their area: 1.77e-2 is Asym, 4.41e-7 NAsym."""
    axis = torch.linspace(-3, 3, 20, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    J = jacobian(lambda at: rotation.field(at, 0.5e-3, "rotational"), x)
    weight = rotation.density(x)
    assert float((weight * method.asymmetry(J)).sum()) == pytest.approx(1.77e-2, rel=5e-3)
    assert float((weight * method.normalised_asymmetry(J)).sum()) == pytest.approx(
        4.41e-7, rel=5e-3
    )
    exact = rotation.measures(0.5e-3, "rotational")
    area = (6 / 19) ** 2
    assert exact["asym"] == pytest.approx(1.77e-2 * area, rel=0.1)
    assert exact["nasym"] == pytest.approx(4.41e-7 * area, rel=0.1)


# -- the autoencoder ------------------------------------------------------------------------------


def test_closed_jacobian_of_the_autoencoder():
    net = Autoencoder(seed_generators([0, 1], 0), dim=3, hidden=4).double()
    with torch.no_grad():
        net.beta.uniform_(0.5, 2)
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(net.jacobian(x), jacobian(net, x))
    torch.testing.assert_close(net.jacobian(x[0]), jacobian(net, x[0].expand(2, -1, -1)))


def test_tied_autoencoder_is_conservative():
    net = Autoencoder(seed_generators([0], 0)).double()
    assert net.measures(grid().double())["loss"] > 1e-4
    with torch.no_grad():
        net.R.copy_(net.W)
    measured = net.measures(grid().double())
    assert measured["loss"] < 1e-25 and measured["gap"] < 1e-12 and measured["untied"] == 0


def test_parallel_units_are_enough_and_a_symmetric_product_is_not():
    """The paper's condition W R^T = R W^T does not make J symmetric; r_k parallel to w_k does."""
    net = Autoencoder(seed_generators([0], 0)).double()
    with torch.no_grad():
        net.R.copy_(net.W * torch.tensor([[-0.5, 3.0]]))
    parallel = net.measures(grid().double())
    assert parallel["loss"] < 1e-25 and parallel["angle"] < 1e-7 and parallel["untied"] > 0.3
    with torch.no_grad():
        net.W.copy_(torch.eye(2)[None])
        net.R.copy_(torch.eye(2).flip(0)[None])
        net.b.copy_(torch.tensor([[[0.3, -1.0]]]))
    swapped = net.measures(grid().double())
    assert swapped["gap"] == 0 and swapped["loss"] > 0.1 and swapped["angle"] == 1


def test_gap_is_the_authors_up_to_the_root_of_two():
    net = Autoencoder(seed_generators([0, 5], 0)).double()
    r, w = net.R.detach(), net.W.detach()
    printed = ((r[:, 0] * w[:, 1]).sum(-1) - (r[:, 1] * w[:, 0]).sum(-1)).abs()
    torch.testing.assert_close(net.measures(grid().double())["gap"], math.sqrt(2) * printed)


def test_autoencoder_starts_within_one():
    net = Autoencoder(seed_generators(range(50), 0))
    values = np.concatenate([p.detach().flatten() for p in (net.W, net.R, net.b, net.c)])
    assert values.min() < -0.95 and values.max() > 0.95 and abs(values).max() <= 1
