"""Each step of the derivation in NOTES.md, by numbers: sums over finite data and quadrature.

Nothing here knows a Gaussian formula of ``exact.Gaussian``; the worlds are finite, lop-sided and
multimodal, except where a step assumes otherwise.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common.control.diffusion import Schedule
from papers.aepo.exact import FiniteData, Gaussian, Quadratic
from papers.aepo.method import (
    analytic_variance,
    energy_gradient,
    energy_loss,
    energy_target,
    guided_epsilon,
    local_spread,
    posterior_mean,
    residual_variance,
)

torch.set_num_threads(1)

ALPHA, SIGMA = 0.8, 0.6
ONE = Schedule(np.array([0.36]))
BETA = 1.7


def world() -> FiniteData:
    """Seven actions in the plane, with no symmetry, and Q of them."""
    drawn = torch.Generator().manual_seed(3)
    action = torch.randn(1, 7, 2, dtype=torch.float64, generator=drawn)
    return FiniteData(action, torch.sin(3 * action[..., 0]) + action[..., 1] ** 2)


def noisy(count: int = 5) -> Tensor:
    drawn = torch.Generator().manual_seed(4)
    return torch.randn(1, count, 2, dtype=torch.float64, generator=drawn)


def log_density(actions: Tensor, weights: Tensor, a: Tensor) -> Tensor:
    """log sum_i weights_i N(a; alpha a_i, sigma^2 I). [N, d], [N], [1, B, d] -> [1, B]."""
    d = a.shape[-1]
    distance = (a.unsqueeze(2) - ALPHA * actions).square().sum(-1) / SIGMA**2
    normal = -0.5 * distance - 0.5 * d * math.log(2 * math.pi * SIGMA**2)
    return torch.logsumexp(normal + weights.log(), -1)


def behaviour_and_policy() -> tuple[FiniteData, Tensor, Tensor]:
    """The world, the weights of mu, and those of pi = mu exp(beta Q) / Z."""
    found = world()
    return found, torch.full((7,), 1 / 7, dtype=torch.float64), torch.softmax(BETA * found.q[0], 0)


def test_step_1_the_noisy_policy_is_the_noisy_behaviour_times_exp_e() -> None:
    found, mu, pi = behaviour_and_policy()
    a = noisy()
    ratio = log_density(found.action[0], pi, a) - log_density(found.action[0], mu, a)
    log_z = torch.logsumexp(BETA * found.q[0], 0) - math.log(7)
    torch.testing.assert_close(ratio + log_z, found.energy(ONE, a, 0, BETA))


def test_step_2_the_gradient_of_e_is_the_difference_of_the_scores() -> None:
    found, mu, pi = behaviour_and_policy()
    a = noisy()
    scores = [
        energy_gradient(lambda x, p=p: log_density(found.action[0], p, x), a) for p in (mu, pi)
    ]  # type: ignore[misc]
    g = energy_gradient(lambda x: found.energy(ONE, x, 0, BETA), a)
    torch.testing.assert_close(scores[1] - scores[0], g)


def epsilon_of_mu(found: FiniteData, a: Tensor) -> Tensor:
    """The exact noise prediction, -sigma times the score of the noisy behaviour."""
    mu = torch.full(found.q[0].shape, 1 / found.q.shape[1], dtype=torch.float64)
    return -SIGMA * energy_gradient(lambda x: log_density(found.action[0], mu, x), a)


def test_step_3_the_posterior_mean_of_any_behaviour() -> None:
    found, a = world(), noisy()
    weights = found.log_weights(ONE, a, 0).exp()
    truth = torch.einsum("sbn,snd->sbd", weights, found.action)
    torch.testing.assert_close(posterior_mean(ONE, a, epsilon_of_mu(found, a), 0), truth)


def line() -> tuple[FiniteData, Tensor, Tensor]:
    """Four actions on a line; a fine grid of noisy ones and its density's weights."""
    action = torch.tensor([[[-1.3], [-0.2], [0.1], [1.6]]], dtype=torch.float64)
    found = FiniteData(action, action[..., 0])
    a = torch.linspace(-7, 7, 20_001, dtype=torch.float64).view(1, -1, 1)
    density = log_density(action[0], torch.full((4,), 0.25, dtype=torch.float64), a).exp()[0]
    return found, a, density * float(a[0, 1, 0] - a[0, 0, 0])


def test_steps_4_and_5_the_mean_of_the_posterior_variance_of_any_behaviour() -> None:
    found, a, weight = line()
    assert weight.sum().item() == pytest.approx(1, abs=1e-9)
    posterior = found.log_weights(ONE, a, 0).exp()[0]  # [B, 4]
    clean = found.action[0, :, 0]
    mean = posterior @ clean
    truth = (weight * (posterior @ clean.square() - mean.square())).sum()

    epsilon = epsilon_of_mu(found, a)[0, :, 0]
    square = (weight * epsilon.square()).sum()
    noise = (a[0] - ALPHA * clean) / SIGMA  # [B, 4], with probability weight * posterior
    cross = (weight * (posterior * noise).sum(-1) * epsilon).sum()
    torch.testing.assert_close(cross, square)  # why 4 and 5 are one
    loss = (weight * (posterior * (noise - epsilon[:, None]).square()).sum(-1)).sum()
    n = torch.tensor([0])
    torch.testing.assert_close(analytic_variance(ONE, square.view(1, 1), n)[0, 0], truth)
    torch.testing.assert_close(residual_variance(ONE, loss.view(1, 1), n)[0, 0], truth)


def test_step_6_the_local_covariance_of_any_behaviour() -> None:
    found, a = world(), noisy()
    weights = found.log_weights(ONE, a, 0).exp()
    mean = torch.einsum("sbn,snd->sbd", weights, found.action)
    away = found.action.unsqueeze(1) - mean.unsqueeze(2)  # [1, B, N, d]
    covariance = torch.einsum("sbn,sbni,sbnj->sbij", weights, away, away)
    g = noisy(6)[:, 1:]
    truth = torch.einsum("sbi,sbij,sbj->sb", g, covariance, g)

    def posterior(x: Tensor) -> Tensor:
        return torch.einsum("sbn,snd->sbd", found.log_weights(ONE, x, 0).exp(), found.action)

    rate = torch.full((1, 5), SIGMA**2 / ALPHA, dtype=torch.float64)
    unbounded = torch.full((1, 1), 1e9, dtype=torch.float64)
    torch.testing.assert_close(local_spread(posterior, a, g, rate, unbounded), truth)


def hermite(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes [K, 2] and weights [K] of N(mean, covariance)."""
    x, w = np.polynomial.hermite_e.hermegauss(40)
    nodes = torch.tensor([[u, v] for u in x for v in x], dtype=torch.float64)
    weights = torch.tensor([u * v for u in w for v in w], dtype=torch.float64) / (2 * math.pi)
    return mean + nodes @ torch.linalg.cholesky(covariance).T, weights


MEAN = torch.tensor([0.4, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.20, 0.05], [0.05, 0.10]], dtype=torch.float64)
HESSIAN = torch.tensor([[-2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
SLOPE = torch.tensor([1.5, -0.7], dtype=torch.float64)


def test_step_7_a_gaussian_posterior_and_a_linear_q() -> None:
    nodes, weights = hermite(MEAN, COVARIANCE)
    truth = (weights * torch.exp(BETA * (nodes @ SLOPE))).sum().log()
    spread = SLOPE @ COVARIANCE @ SLOPE
    found = energy_target(MEAN @ SLOPE, spread, BETA)
    torch.testing.assert_close(found, truth)
    other = torch.tensor([1.1, 0.9], dtype=torch.float64)  # expanded about another action
    moved = energy_target(other @ SLOPE, spread, BETA) + BETA * SLOPE @ (MEAN - other)
    torch.testing.assert_close(moved, truth)


def test_step_7_what_is_left_out_for_a_quadratic_q() -> None:
    """g^T (Sigma^-1 - beta H)^-1 g and a determinant in the place of g^T Sigma g."""

    def q(a: Tensor) -> Tensor:
        return a @ SLOPE + 0.5 * torch.einsum("...i,ij,...j->...", a, HESSIAN, a)

    nodes, weights = hermite(MEAN, COVARIANCE)
    truth = (weights * torch.exp(BETA * q(nodes))).sum().log()
    g = SLOPE + HESSIAN @ MEAN
    inverse = torch.linalg.inv(torch.linalg.inv(COVARIANCE) - BETA * HESSIAN)
    identity = torch.eye(2, dtype=torch.float64)
    log_det = torch.logdet(identity - BETA * COVARIANCE @ HESSIAN)
    exact = BETA * q(MEAN) + 0.5 * BETA**2 * g @ inverse @ g - 0.5 * log_det
    torch.testing.assert_close(exact, truth, atol=1e-6, rtol=0)
    assert abs(energy_target(q(MEAN), g @ COVARIANCE @ g, BETA) - truth) > 0.1


def test_step_7_a_linear_q_and_any_posterior_to_second_order_in_beta() -> None:
    """What a posterior that is not Gaussian leaves out begins with its third cumulant."""
    found, a = world(), noisy()
    slope = torch.tensor([1.0, -0.5], dtype=torch.float64)
    linear = FiniteData(found.action, found.action @ slope)
    weights = found.log_weights(ONE, a, 0).exp()
    mean = (weights * linear.q.unsqueeze(1)).sum(-1)
    spread = (weights * (linear.q.unsqueeze(1) - mean.unsqueeze(-1)).square()).sum(-1)
    errors = [
        (energy_target(mean, spread, beta) - linear.energy(ONE, a, 0, beta)).abs().max().item()
        for beta in (0.02, 0.01)
    ]
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("kappa", [0.1, 0.5, 1.0, 2.0, -0.5])
def test_step_7_the_variance_term_helps_below_a_kappa_of_one_and_turns_round_above(
    kappa: float,
) -> None:
    """Quadratic Q, isotropic Gaussian: gradients are J beta g times 1 - kappa, 1, 1 / (1 + kappa).

    kappa = -beta H v: positive for a concave Q. So |error| with the term is |kappa| times that
    without it.
    """
    mu, a = Gaussian(0.3, 0.5), torch.linspace(-1, 2, 6, dtype=torch.float64).view(1, 6, 1)
    v = mu.posterior(ONE, a, 0)[1].item()
    q = Quadratic(2.0, -kappa / (BETA * v))
    gradient = {
        kind: energy_gradient(lambda x, k=kind: mu.energy(ONE, q, BETA, k)(x, 0), a)  # type: ignore[misc]
        for kind in ("exact", "analytic", "mean")
    }
    torch.testing.assert_close(gradient["analytic"], (1 - kappa) * gradient["mean"])
    torch.testing.assert_close(gradient["exact"], gradient["mean"] / (1 + kappa))
    errors = {k: (gradient[k] - gradient["exact"]).abs() for k in ("analytic", "mean")}
    torch.testing.assert_close(errors["analytic"], abs(kappa) * errors["mean"])


def test_step_8_what_depends_on_the_state_alone_is_free() -> None:
    a = noisy()

    def target(x: Tensor, offset: float) -> Tensor:
        q = torch.sin(x).sum(-1) - offset
        return energy_target(q, 0.1 * torch.cos(x).square().sum(-1), BETA)

    found = [energy_gradient(lambda x, c=c: target(x, c), a) for c in (0.0, 5.0)]  # type: ignore[misc]
    torch.testing.assert_close(found[0], found[1])


def test_step_8_several_draws_of_a_state_forget_what_it_adds() -> None:
    drawn = torch.Generator().manual_seed(5)
    target, predicted = torch.randn(2, 1, 1_000, 4, dtype=torch.float64, generator=drawn)
    state = torch.randn(1, 1_000, 1, dtype=torch.float64, generator=drawn)
    found, moved = (
        energy_loss((predicted + c * state).flatten(1), target.flatten(1), 4) for c in (0.0, 9.0)
    )
    torch.testing.assert_close(found, moved)
    plain = energy_loss(predicted.flatten(1), target.flatten(1))
    torch.testing.assert_close(found, plain, rtol=0.05, atol=0)  # no state: the same expectation


def test_step_8_the_best_function_is_the_conditional_mean_of_the_target() -> None:
    """Eq. 7 is a function of the noisy action: nothing is averaged away. beta Q(a_0) is not."""
    table = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    cell = torch.tensor([0, 1, 1, 2])  # two clean actions share a noisy one
    optimizer = torch.optim.LBFGS([table], max_iter=50)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = energy_loss(table[:, cell], target).sum()
        found.backward()
        return found

    optimizer.step(loss)
    expected = torch.tensor([[1.0, 3.0, 8.0]], dtype=torch.float64)
    torch.testing.assert_close(table.detach(), expected, atol=1e-4, rtol=0)


def test_step_9_guided_noise_is_the_noise_of_the_policy() -> None:
    found, _, pi = behaviour_and_policy()
    a = noisy()
    g = energy_gradient(lambda x: found.energy(ONE, x, 0, BETA), a)
    guided = guided_epsilon(epsilon_of_mu(found, a), g, torch.tensor(SIGMA), 1.0)
    truth = -SIGMA * energy_gradient(lambda x: log_density(found.action[0], pi, x), a)
    torch.testing.assert_close(guided, truth)
