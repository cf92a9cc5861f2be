"""Scores, the variance-exploding SDE, sample metrics and the digits, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common import digits
from common.sample_metrics import mmd2, prdc
from common.score import divergence, dsm, jacobian, noise_level, parzen
from common.stacked import randn, seed_generators
from common.toy_data import checkerboard
from common.ve_sde import (
    corrector,
    levels,
    ode_log_likelihood,
    ode_sample,
    pc_sample,
    predictor,
)


def gaussian_score(tau: float):
    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return -x / (tau**2 + sigma**2)

    return score


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_dsm_of_the_perfect_score_has_its_known_minimum(weight: float) -> None:
    g = torch.Generator().manual_seed(0)
    tau, sigma, dim = 1.3, 0.7, 3
    x = tau * torch.randn(400_000, dim, generator=g, dtype=torch.float64)
    z = torch.randn(400_000, dim, generator=g, dtype=torch.float64)
    loss = dsm(gaussian_score(tau)(x + sigma * z, torch.tensor(sigma)), sigma, z, weight)
    least = 0.5 * dim * (1 / sigma**2 - 1 / (tau**2 + sigma**2)) * sigma ** (2 * weight)
    assert loss.shape == (400_000,)
    assert loss.mean().item() == pytest.approx(least, rel=5e-3)


def test_jacobian_and_divergence_of_stacked_rows() -> None:
    g = torch.Generator().manual_seed(1)
    w = torch.randn(2, 3, 3, generator=g, dtype=torch.float64)
    x = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)

    def field(at: Tensor) -> Tensor:
        return torch.tanh(at @ w)

    full = jacobian(field, x)
    for s in range(2):
        for b in range(5):
            one = torch.func.jacrev(lambda at, s=s: torch.tanh(at @ w[s]))(x[s, b])
            torch.testing.assert_close(full[s, b], one)
    value, trace = divergence(field, x)
    torch.testing.assert_close(value, field(x))
    torch.testing.assert_close(trace, full.diagonal(dim1=-2, dim2=-1).sum(-1))


def test_jacobian_can_be_differentiated() -> None:
    w = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    x = torch.zeros(4, 2, dtype=torch.float64)
    j = jacobian(lambda at: at @ w.T, x, create_graph=True)
    torch.testing.assert_close(j[0], w)
    j.sum().backward()
    torch.testing.assert_close(w.grad, torch.full((2, 2), 4.0, dtype=torch.float64))


def test_parzen_is_the_gradient_of_its_log_density_and_stays_finite() -> None:
    g = torch.Generator().manual_seed(2)
    data = torch.randn(50, 2, generator=g, dtype=torch.float64)
    x = (3 * torch.randn(20, 2, generator=g, dtype=torch.float64)).requires_grad_()
    log_p, score = parzen(x, data, 0.4, entries=150)  # chunks of three rows
    (gradient,) = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(score, gradient)
    direct = torch.distributions.MultivariateNormal(data, 0.16 * torch.eye(2).double())
    expected = torch.logsumexp(direct.log_prob(x.detach().unsqueeze(1)), 1) - math.log(50)
    torch.testing.assert_close(log_p.detach(), expected)
    far, away = parzen(torch.tensor([[1e3, -1e3]]).double(), data, 0.1)
    assert torch.isfinite(far).all() and torch.isfinite(away).all()


def test_predictor_reaches_the_marginals_of_a_gaussian() -> None:
    """Reverse diffusion with the exact score keeps N(0, tau^2 + sigma^2) at every level."""
    tau = 1.0
    g = seed_generators([0], 1)
    sigmas = levels(0.01, 10.0, 400)
    x = 10.05 * randn(g, 20_000, 2)  # sqrt(tau^2 + sigma_max^2)
    end = pc_sample(gaussian_score(tau), x, sigmas, lambda: randn(g, 20_000, 2), corrector_steps=0)
    assert end.std().item() == pytest.approx(tau, rel=0.03)
    corrected = pc_sample(gaussian_score(tau), x[:, :4000], sigmas, lambda: randn(g, 4000, 2))
    assert corrected.std().item() == pytest.approx(tau, rel=0.06)


def test_grid_and_predictor_are_those_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.ScoreSdeVeScheduler(
        num_train_timesteps=50, sigma_min=0.01, sigma_max=50.0, snr=0.16
    )
    scheduler.set_timesteps(50)
    scheduler.set_sigmas(50, sigma_min=0.01, sigma_max=50.0)
    grid = levels(0.01, 50.0, 50)
    torch.testing.assert_close(
        scheduler.discrete_sigmas.flip(0).double(), grid, rtol=1e-4, atol=1e-6
    )
    g = torch.Generator().manual_seed(0)
    x, s, z = (torch.randn(4, 3, 2, 2, generator=g) for _ in range(3))
    theirs = scheduler.step_pred(s, scheduler.timesteps[10], x, torch.Generator().manual_seed(7))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    ours, mean = predictor(x, s, grid[10], grid[11], noise)
    torch.testing.assert_close(theirs.prev_sample_mean, mean, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(theirs.prev_sample, ours, rtol=1e-4, atol=1e-3)
    again = scheduler.step_correct(s, x, torch.Generator().manual_seed(7)).prev_sample
    flat = corrector(*(t.reshape(4, -1) for t in (x, s, noise)))
    torch.testing.assert_close(again.reshape(4, -1), flat, rtol=1e-4, atol=1e-4)


def test_corrector_takes_its_norms_per_seed() -> None:
    g = seed_generators([3, 4], 0)
    x, s, z = (randn(g, 7, 2) for _ in range(3))
    together = corrector(x, s, z)
    torch.testing.assert_close(together[1], corrector(x[1], s[1], z[1]))


def test_ode_likelihood_of_a_gaussian_and_what_the_usual_prior_costs() -> None:
    x = torch.tensor([[[2.0, -1.0], [0.0, 0.0]]], dtype=torch.float64)
    true = math.sqrt(1 + 9.0)
    exact, _ = ode_log_likelihood(
        gaussian_score(1.0), x, 0.1, 3.0, prior_std=true, rtol=1e-6, atol=1e-8
    )
    variance = 1 + 0.1**2
    expected = -x.square().sum(-1) / (2 * variance) - math.log(2 * math.pi * variance)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-4)
    usual, result = ode_log_likelihood(gaussian_score(1.0), x, 0.1, 3.0, rtol=1e-6, atol=1e-8)
    assert -usual[0].numpy() == pytest.approx([4.4927, 1.7425], abs=2e-4)
    back = ode_sample(gaussian_score(1.0), result.x, 0.1, 3.0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(back.x, x, rtol=0, atol=1e-5)
    assert back.n_evaluations > 20


def test_noise_levels_fall_geometrically() -> None:
    grid = levels(0.01, 50.0, 5)
    assert grid[0].item() == pytest.approx(50) and grid[-1].item() == pytest.approx(0.01)
    torch.testing.assert_close(grid[1:] / grid[:-1], (grid[1] / grid[0]).expand(4))
    assert noise_level(torch.tensor(0.5), 0.01, 1.0).item() == pytest.approx(0.1)


def test_prdc_is_that_of_the_prdc_package() -> None:
    package = pytest.importorskip("prdc")
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(200, 3)), 0.3 + 0.8 * rng.normal(size=(150, 3))
    for k in (1, 5):
        theirs = package.compute_prdc(real, fake, nearest_k=k)
        ours = prdc(torch.from_numpy(real), torch.from_numpy(fake), k)
        for name in ("precision", "recall", "density", "coverage"):
            assert getattr(ours, name) == pytest.approx(theirs[name], abs=1e-12), name
    same = prdc(torch.from_numpy(real), torch.from_numpy(real), 3)
    assert same.precision == same.recall == same.coverage == 1
    with pytest.raises(ValueError, match="neighbours"):
        prdc(torch.from_numpy(real[:3]), torch.from_numpy(fake), 3)


def test_mmd_tells_a_shift_from_none() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 2, generator=g), torch.randn(400, 2, generator=g)
    assert abs(mmd2(a, b)) < 0.02
    assert mmd2(a, b + 1.0) > 0.1


def test_digits_split_and_units() -> None:
    parts = digits.splits()
    assert [len(parts[n].x) for n in ("train", "valid", "test")] == [1197, 300, 300]
    assert parts["train"].x.min() == 0 and parts["train"].x.max() == 16
    x = digits.dequantise(parts["test"].x, np.random.default_rng(0))
    assert 0 <= x.min() and x.max() < 1
    assert (np.floor(x * 17).astype(int) == parts["test"].x).all()
    # the uniform density on [0, 1)^64 has NLL 0: log2(17) bits per dimension
    assert digits.bits_per_dim(0.0) == pytest.approx(4.0875, abs=1e-4)
    assert digits.bits_per_dim(1092.4, dim=784, n_levels=1) == pytest.approx(2.010, abs=1e-3)


def test_checkerboard_lies_on_its_squares() -> None:
    x = checkerboard(np.random.default_rng(0), 5000) / 3
    assert np.abs(x[:, 0]).max() <= 2 and np.abs(x[:, 1]).max() <= 2
    assert ((np.floor(x[:, 0]) + np.floor(x[:, 1])) % 2 == 0).all()
