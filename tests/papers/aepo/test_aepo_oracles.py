"""Equations against closed forms, brute force over finite data, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common.control.diffusion import Schedule, dpm_solver, vp_schedule
from common.control.iql import expectile_loss, value_loss
from common.stacked import adam, seed_generators
from papers.aepo.baselines import clean_target, contrastive_loss, support_value
from papers.aepo.exact import FiniteData, Gaussian, Quadratic
from papers.aepo.method import (
    EnergyNetwork,
    analytic_variance,
    energy_gradient,
    energy_loss,
    energy_target,
    guided_epsilon,
    isotropic_spread,
    local_spread,
    noise_ratio,
    posterior_mean,
    residual_variance,
    sample,
    value_and_gradient,
)

torch.set_num_threads(1)

ONE = Schedule(np.array([0.36]))  # alpha = .8, sigma = .6
VP = vp_schedule(1000)
MU = Gaussian()
LINEAR, CONCAVE, CONVEX = Quadratic(2.0, 0.0), Quadratic(2.0, -2.0), Quadratic(2.0, 2.0)
HALF = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
KINDS = ("exact", "analytic", "mean", "naive")


def sampled(q: Quadratic, beta: float, kind: str, steps: int = 150) -> tuple[float, float]:
    """Mean and standard deviation of guided samples, with exact networks and no box."""
    noise = torch.randn(1, 4_000, 1, dtype=torch.float64, generator=torch.manual_seed(0))
    noise = (noise - noise.mean()) / noise.std()
    energy = MU.energy(VP, q, beta, kind)
    found = sample(
        lambda a, n: MU.epsilon(VP, a, n),
        lambda a, n: energy_gradient(lambda x: energy(x, n), a),
        noise,
        VP,
        **{"steps": steps, "clip": None},
    )
    return float(found.mean()), float(found.std())


# -- one step, by hand ----------------------------------------------------------------------------


def test_the_posterior_of_a_gaussian() -> None:
    m, v = MU.posterior(ONE, HALF, 0)
    assert m.item() == pytest.approx(0.4, abs=1e-12)
    assert v.item() == pytest.approx(0.1730769, abs=1e-7)
    epsilon = MU.epsilon(ONE, HALF, 0)
    assert posterior_mean(ONE, HALF, epsilon, 0).item() == pytest.approx(0.4, abs=1e-12)


@pytest.mark.parametrize(
    ("q", "analytic", "exact"), [(LINEAR, 2.984615, 2.984615), (CONCAVE, 1.778462, 1.311499)]
)
def test_the_energy_of_a_gaussian(q: Quadratic, analytic: float, exact: float) -> None:
    found = MU.energy(ONE, q, 2.0, "analytic")(HALF, 0).item()
    assert found == pytest.approx(analytic, abs=1e-6)
    assert MU.energy(ONE, q, 2.0)(HALF, 0).item() == pytest.approx(exact, abs=1e-6)
    m, v = MU.posterior(ONE, HALF, 0)  # the exact one, by quadrature
    x = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    density = torch.exp(-0.5 * (x - m.item()) ** 2 / v.item()) / math.sqrt(2 * math.pi * v.item())
    integral = torch.trapezoid(density * torch.exp(2.0 * q(x[:, None])), x)
    assert math.log(integral) == pytest.approx(exact, abs=1e-6)
    value, g = value_and_gradient(q, m)
    assert energy_target(value, isotropic_spread(g, v[..., 0]), 2.0).item() == pytest.approx(found)


def test_the_gradient_of_a_linear_energy_is_constant_and_needs_no_variance() -> None:
    a = torch.linspace(-3, 3, 7, dtype=torch.float64).view(1, 7, 1)
    for kind in ("exact", "analytic", "mean"):
        energy = MU.energy(ONE, LINEAR, 2.0, kind)
        found = energy_gradient(lambda x, e=energy: e(x, 0), a)  # type: ignore[misc]
        torch.testing.assert_close(found, torch.full_like(a, 1.538462), atol=1e-6, rtol=0)


def test_the_analytic_energy_is_the_exact_one_to_first_order_in_the_variance() -> None:
    a = torch.linspace(-1, 1, 5, dtype=torch.float64).view(1, 5, 1)

    def error(kind: str, std: float) -> float:
        mu = Gaussian(0.3, std)
        gradients = [
            energy_gradient(lambda x, k=k: mu.energy(ONE, CONCAVE, 2.0, k)(x, 0), a)  # type: ignore[misc]
            for k in (kind, "exact")
        ]
        jacobian = mu.posterior(ONE, HALF + 1, 0)[0] - mu.posterior(ONE, HALF, 0)[0]
        return float(((gradients[0] - gradients[1]) / jacobian).abs().max())

    halved = [error(kind, 0.02) / error(kind, 0.01) for kind in ("analytic", "mean")]
    assert halved[0] == pytest.approx(16, rel=0.1)  # second order in v ~ std^2
    assert halved[1] == pytest.approx(4, rel=0.1)


# -- variances -------------------------------------------------------------------------------------


def test_two_forms_of_the_variance_have_one_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    steps = torch.tensor([30, 100, 400, 700])
    clean = MU.mean + MU.std * torch.randn(100_000, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(100_000, 1, dtype=torch.float64, generator=generator)
    squares, losses, exact = [], [], []
    for n in steps.tolist():
        alpha, sigma = VP.rates(n, clean)
        a = alpha * clean + sigma * noise
        epsilon = MU.epsilon(VP, a, n)
        squares.append(epsilon.square().mean())
        losses.append((noise - epsilon).square().mean())
        exact.append(MU.posterior(VP, a, n)[1].mean())
    by_norm = analytic_variance(VP, torch.stack(squares)[None], steps)[0]
    by_loss = residual_variance(VP, torch.stack(losses)[None], steps)[0]
    torch.testing.assert_close(by_loss, torch.stack(exact), rtol=0.02, atol=0)
    torch.testing.assert_close(by_norm[:2], torch.stack(exact)[:2], rtol=0.05, atol=0)


def test_the_norm_says_nothing_of_the_variance_at_the_last_step() -> None:
    """An error of 1 in 1,000 in E||eps_phi||^2 is 23 in v, and the true v is .25."""
    last = torch.tensor([999])
    close = torch.tensor([[0.999]], dtype=torch.float64)
    assert analytic_variance(VP, close, last).item() > 20
    assert analytic_variance(VP, 2 - close, last).item() == 0
    ratio = noise_ratio(VP, 999, close).item()
    assert ratio == pytest.approx(23_000, rel=0.02)
    assert analytic_variance(VP, torch.zeros_like(close), last).item() == pytest.approx(ratio)


def test_the_norm_of_the_exact_noise_prediction() -> None:
    square = torch.tensor([[0.692308]], dtype=torch.float64)
    found = analytic_variance(ONE, square, torch.tensor([0])).item()
    assert found == pytest.approx(0.1730769, abs=1e-6)


def test_the_local_variance_of_a_gaussian_is_its_variance() -> None:
    a = torch.tensor([[[0.5, -0.2], [1.0, 0.3]]], dtype=torch.float64)
    g = torch.tensor([[[1.0, 2.0], [-3.0, 0.5]]], dtype=torch.float64)
    alpha, sigma = ONE.rates(0, a)
    rate = (sigma**2 / alpha).squeeze(-1).expand(1, 2)
    mean = lambda x: MU.posterior(ONE, x, 0)[0]  # noqa: E731
    unbounded = torch.full((1, 1), 9.0, dtype=torch.float64)
    found = local_spread(mean, a, g, rate, unbounded)
    torch.testing.assert_close(found, 0.1730769 * g.square().sum(-1), rtol=1e-6, atol=0)
    bounded = local_spread(mean, a, g, rate, torch.full((1, 1), 0.1, dtype=torch.float64))
    torch.testing.assert_close(bounded, 0.1 * g.square().sum(-1))


# -- limits ----------------------------------------------------------------------------------------


def test_a_small_beta_gives_means_of_q() -> None:
    m, v = MU.posterior(ONE, HALF, 0)
    beta = 1e-6
    exact = MU.energy(ONE, CONCAVE, beta)(HALF, 0) / beta
    analytic = MU.energy(ONE, CONCAVE, beta, "analytic")(HALF, 0) / beta
    assert analytic.item() == pytest.approx(CONCAVE(m).item(), abs=1e-5)
    assert (exact - analytic).item() == pytest.approx(-v.item(), abs=1e-5)  # tr(H Sigma) / 2


def test_near_step_zero_the_energy_is_beta_q() -> None:
    a = torch.tensor([[[0.1], [0.9]]], dtype=torch.float64)
    found = MU.energy(VP, CONCAVE, 3.0, "analytic")(a, 0)
    torch.testing.assert_close(found, 3.0 * CONCAVE(a), atol=5e-3, rtol=0)
    assert MU.posterior(VP, a, 0)[1].item() == pytest.approx(1.1e-4, rel=0.05)


def test_the_box_stops_the_gradient() -> None:
    m = torch.tensor([[[0.5, 2.0]]])
    _, g = value_and_gradient(lambda x: CONCAVE(x.clamp(-1, 1)), m)
    assert g[0, 0, 0] == pytest.approx(1.0) and g[0, 0, 1] == 0


# -- sampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "kind", "mean", "std"),
    [
        (LINEAR, "exact", 1.296, 0.500),
        (LINEAR, "mean", 1.296, 0.500),
        (CONCAVE, "exact", 0.6485, 0.3536),
        (CONCAVE, "analytic", 0.502, 0.389),
        (CONCAVE, "mean", 0.805, 0.303),
    ],
)
def test_guided_sampling_of_a_gaussian(q: Quadratic, kind: str, mean: float, std: float) -> None:
    found = sampled(q, 2.0, kind)
    assert found == pytest.approx((mean, std), abs=0.01)


def test_q_of_the_noisy_action_is_no_energy() -> None:
    mean, _ = sampled(LINEAR, 2.0, "naive")
    assert mean > 5.0  # the target's is 1.3


def test_the_target_of_a_gaussian() -> None:
    assert MU.target(CONCAVE, 2.0) == pytest.approx((0.65, 0.353553), abs=1e-6)
    with pytest.raises(ValueError, match="no integral"):
        MU.target(CONVEX, 2.0)


def test_fifteen_steps_of_the_solver() -> None:
    noise = torch.randn(1, 20_000, 1, dtype=torch.float64, generator=torch.manual_seed(0))
    noise = (noise - noise.mean()) / noise.std()
    for steps, std in ((10, 0.5165), (15, 0.5106), (30, 0.5032)):
        found = dpm_solver(lambda a, n: MU.epsilon(VP, a, n), noise, VP, steps)
        assert found.mean().item() == pytest.approx(0.299, abs=2e-3)
        assert found.std().item() == pytest.approx(std, abs=4e-3)


def test_no_guidance_is_the_behaviour_bit_for_bit() -> None:
    noise = torch.randn(2, 5, 3, generator=torch.manual_seed(0))

    def epsilon(a: Tensor, n: int) -> Tensor:
        return MU.epsilon(VP, a, n)

    def gradient(a: Tensor, n: int) -> Tensor:
        return torch.full_like(a, 7.0)

    plain = sample(epsilon, None, noise, VP)
    assert torch.equal(sample(epsilon, gradient, noise, VP, w=0.0), plain)
    w = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    both = sample(epsilon, gradient, noise, VP, w=w)
    assert torch.equal(both[0], plain[0]) and not torch.equal(both[1], plain[1])
    assert plain.abs().max() <= 1


def test_guidance_adds_to_the_score_and_may_keep_the_norm() -> None:
    epsilon, g = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 0.0]]])
    sigma = torch.tensor(0.5)
    found = guided_epsilon(epsilon, g, sigma, 2.0)
    assert found.tolist() == [[[2.0, 4.0]]]  # score -eps / sigma rises by w grad E
    kept = guided_epsilon(epsilon, g, sigma, 2.0, keep_norm=True)
    torch.testing.assert_close(kept, found * 5 / math.sqrt(20))


# -- finite data -----------------------------------------------------------------------------------


def data(count: int = 4_000) -> FiniteData:
    generator = torch.Generator().manual_seed(2)
    action = MU.mean + MU.std * torch.randn(1, count, 1, generator=generator, dtype=torch.float64)
    return FiniteData(action, CONCAVE(action))


def test_finite_data_of_a_gaussian_has_its_energy() -> None:
    a = torch.linspace(-0.5, 1, 4, dtype=torch.float64).view(1, 4, 1)
    found = data().energy(VP, a, 300, 1.0)
    torch.testing.assert_close(found, MU.energy(VP, CONCAVE, 1.0)(a, 300), atol=0.03, rtol=0)


def test_reweighted_data_of_a_gaussian_has_its_target() -> None:
    drawn = data().reweighted([torch.Generator().manual_seed(0)], 2.0, 4_000)
    assert (drawn.mean().item(), drawn.std().item()) == pytest.approx((0.65, 0.3536), abs=0.03)


def contrastive_minimiser(actions: Tensor, beta: float) -> Tensor:
    """E over a table of noisy actions, by gradient descent on all pairs of a tiny world.

    Two clean actions, three noisy ones; a pair (i, k) has probability p(i) p(k | i).
    """
    table = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.0, 1.0], dtype=torch.float64)
    optimizer = torch.optim.LBFGS([table], max_iter=200, tolerance_grad=1e-12)
    pairs = [(i, k) for i in range(2) for k in range(3)]

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for i, k in pairs:
            for j, m in pairs:
                weight = 0.25 * actions[i, k] * actions[j, m]
                energy = torch.stack((table[k], table[m])).view(1, 1, 2)
                found = contrastive_loss(energy, q[[i, j]].view(1, 1, 2), beta)
                total = total + weight * found.sum()
        total.backward()
        return total

    optimizer.step(loss)
    return table.detach()


def test_the_contrastive_minimiser_is_the_energy_up_to_a_constant() -> None:
    """With two samples exactly where exp(beta Q) is normalised over both; see the tolerance."""
    conditional = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    beta = 0.05  # for M samples the minimiser is exact as M grows, or as beta falls
    found = contrastive_minimiser(conditional, beta)
    posterior = conditional / conditional.sum(0)
    exact = torch.log((posterior * torch.exp(beta * torch.tensor([[0.0], [1.0]]))).sum(0))
    torch.testing.assert_close(found - found.mean(), exact - exact.mean(), atol=2e-4, rtol=0)


def test_the_contrastive_loss_forgets_constants_and_prefers_the_better() -> None:
    energy, q = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 5.0]]])
    low = contrastive_loss(energy, q, 3.0)
    torch.testing.assert_close(contrastive_loss(energy + 9, q - 4, 3.0), low)
    assert contrastive_loss(energy.flip(-1), q, 3.0) > low
    by_hand = -math.log(math.exp(2) / (math.exp(1) + math.exp(2)))
    assert low.item() == pytest.approx(by_hand, abs=1e-5)


def test_regression_on_the_clean_action_lies_below_the_energy() -> None:
    found = data()
    a = torch.tensor([[[0.3]]], dtype=torch.float64)
    weights = found.log_weights(VP, a, 400).exp()
    mean = (weights * clean_target(found.q, 2.0).unsqueeze(1)).sum(-1)
    assert mean.item() < found.energy(VP, a, 400, 2.0).item() - 0.1


def test_the_value_of_support_actions() -> None:
    q = torch.tensor([0.0, 1.0])
    assert support_value(q, 0.0).item() == pytest.approx(0.5)
    assert support_value(q, 50.0).item() == pytest.approx(1.0)


# -- networks --------------------------------------------------------------------------------------


def test_the_network_learns_what_it_is_told() -> None:
    net = EnergyNetwork(seed_generators((0, 1), 1), 0, 1, (32, 32))
    optimizer = adam([{"params": list(net.parameters())}], lr=3e-3)
    drawing = torch.Generator().manual_seed(0)
    states = torch.zeros(2, 64, 0)
    for _ in range(400):
        a = torch.randn(2, 64, 1, generator=drawing)
        loss = energy_loss(net(a, 10, states), 2.0 * a.squeeze(-1))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    assert loss.shape == (2,) and (loss < 0.05).all()
    a = torch.linspace(-1, 1, 9).view(1, 9, 1).expand(2, 9, 1)
    g = energy_gradient(lambda x: net(x, 10, torch.zeros(2, 9, 0)), a)
    assert (g.mean(1) - 2.0).abs().max() < 0.2


def test_expectiles() -> None:
    u = torch.tensor([-1.0, 2.0])
    torch.testing.assert_close(expectile_loss(u, 0.5), 0.5 * u.square())
    v = torch.full((1, 2), 0.9, requires_grad=True)  # the .9-expectile of {0, 1}
    q = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    value_loss(v, q, 0.9).sum().backward()
    assert v.grad is not None and v.grad.sum().abs() < 1e-6
