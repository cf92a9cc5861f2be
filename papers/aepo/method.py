"""Analytic energy-guided policy optimisation: guidance of a diffusion policy in closed form.

The policy mu(a|s) exp(beta Q(s, a)) / Z is sampled by a diffusion model of the behaviour mu whose
noise prediction is moved by the gradient of the intermediate energy (Eq. 1). Equation numbers are
those of NOTES.md, where derivations stand. Actions diffuse as a_n = alpha_n a_0 + sigma_n eps; S
seeds are stacked on the first axis, [S, B, ...].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.control.denoisers import sinusoids
from common.control.diffusion import Schedule, dpm_solver, x0_of
from common.stacked import MLP

BETA = 3.0  # inverse temperature, on advantages whose mean size is 1
SOLVER_STEPS = 15
TIME_FEATURES = 32
Field = Callable[[Tensor, int], Tensor]  # (a_n [S, B, d], n) -> [S, B, d]
Steps = Tensor | int  # one step, or one per row [S, B]


# -- 1. the posterior of clean actions -------------------------------------------------------------


def posterior_mean(schedule: Schedule, a: Tensor, epsilon: Tensor, n: Steps) -> Tensor:
    """m = E[a_0 | a_n] = (a_n - sigma eps_phi) / alpha, Eq. 3. [S, B, d]."""
    return x0_of(schedule, a, epsilon, n)


def noise_ratio(schedule: Schedule, n: Steps, like: Tensor) -> Tensor:
    """sigma_n^2 / alpha_n^2, of the shape that multiplies ``like``."""
    alpha, sigma = schedule.rates(n, like)
    return (sigma / alpha).square()


def analytic_variance(schedule: Schedule, square: Tensor, n: Tensor) -> Tensor:
    """v = sigma^2 / alpha^2 (1 - E||eps_phi||^2 / d) within [0, sigma^2 / alpha^2], Eq. 4.

    Args:
        schedule: of the diffusion.
        square: E||eps_phi||^2 / d at each step. [S, K]
        n: the K steps.
    """
    ratio = noise_ratio(schedule, n, square[0])
    return (ratio * (1 - square)).clamp(min=0).minimum(ratio)


def residual_variance(schedule: Schedule, loss: Tensor, n: Tensor) -> Tensor:
    """v = sigma^2 / alpha^2 E||eps - eps_phi||^2 / d, Eq. 5: Eq. 4's expectation, well conditioned.

    For the exact eps_phi both are the mean of the posterior's variances. Eq. 4 is the difference of
    two numbers near 1, multiplied with 23,000 at the last step.

    Args:
        schedule: of the diffusion.
        loss: E||eps - eps_phi||^2 / d at each step. [S, K]
        n: the K steps.
    """
    return noise_ratio(schedule, n, loss[0]) * loss


def isotropic_spread(gradient: Tensor, variance: Tensor) -> Tensor:
    """g^T Sigma g for Sigma = v I. [S, B, d], [S, B] -> [S, B]."""
    return variance * gradient.square().sum(-1)


def local_spread(
    mean: Callable[[Tensor], Tensor], a: Tensor, gradient: Tensor, rate: Tensor, largest: Tensor
) -> Tensor:
    """g^T Sigma g for Sigma = sigma^2 / alpha dm/da_n (Eq. 6), by one vector-Jacobian product.

    Args:
        mean: a_n -> m.
        a: [S, B, d].
        gradient: g. [S, B, d]
        rate: sigma^2 / alpha. [S, B]
        largest: bound of the variance along g (an imperfect eps_phi has none). [S, 1]
    """
    with torch.enable_grad():
        leaf = a.detach().requires_grad_()
        [pulled] = torch.autograd.grad((mean(leaf) * gradient).sum(), leaf)  # J^T g
    spread = rate * (gradient * pulled).sum(-1)
    return spread.clamp(min=0).minimum(isotropic_spread(gradient, largest))


# -- 2. the intermediate energy --------------------------------------------------------------------


def value_and_gradient(q: Callable[[Tensor], Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
    """Q and g = grad_a Q at ``action``. [S, B, d] -> [S, B], [S, B, d]."""
    with torch.enable_grad():
        leaf = action.detach().requires_grad_()
        found = q(leaf)
        [gradient] = torch.autograd.grad(found.sum(), leaf)
    return found.detach(), gradient


def energy_target(q: Tensor, spread: Tensor | float, beta: float) -> Tensor:
    """beta Q(m) + beta^2 / 2 g^T Sigma g, Eq. 7: log E exp(beta Q) of a Gaussian, Q linearised.

    Args:
        q: Q(s, m), less anything that depends on the state alone. [S, B]
        spread: g^T Sigma g [S, B]; 0 leaves the posterior's variance out.
        beta: inverse temperature.
    """
    return beta * q + 0.5 * beta**2 * spread


class EnergyNetwork(nn.Module):
    """E_Theta(s, a_n, n), a perceptron of the action, the step's features and the state."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256, 256, 256),
    ) -> None:
        super().__init__()
        self.net = MLP(generators, [action_dim + TIME_FEATURES + obs_dim, *hidden, 1], F.silu)

    def forward(self, a: Tensor, n: Steps, obs: Tensor) -> Tensor:
        """[S, B, d], n one number or [S, B], [S, B, o] -> [S, B]."""
        steps = torch.as_tensor(n, device=a.device).expand(a.shape[:2])
        return self.net(torch.cat((a, sinusoids(steps, TIME_FEATURES), obs), -1)).squeeze(-1)


def energy_loss(predicted: Tensor, target: Tensor, draws: int = 1) -> Tensor:
    """Mean of (E_Theta - target)^2, Eq. 8. [S, B] each -> [S].

    Args:
        predicted: E_Theta. [S, B]
        target: Eq. 7. [S, B]
        draws: noisy actions in a row that share state and step. With several only their deviations
            from the mean count: what depends on state and step alone guides nothing.
    """
    error = (predicted - target.detach()).unflatten(-1, (-1, draws))
    if draws > 1:
        error = (error - error.mean(-1, keepdim=True)) * (draws / (draws - 1)) ** 0.5
    return error.square().mean((-1, -2))


# -- 3. guided sampling ----------------------------------------------------------------------------


def energy_gradient(energy: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """grad_{a_n} E. [S, B, d]."""
    return value_and_gradient(energy, a)[1]


def guided_epsilon(
    epsilon: Tensor, gradient: Tensor, sigma: Tensor, w: Tensor | float, keep_norm: bool = False
) -> Tensor:
    """eps_phi - w sigma_n grad E, Eq. 9. [S, B, d].

    Args:
        epsilon: eps_phi(s, a_n, n). [S, B, d]
        gradient: of the intermediate energy. [S, B, d]
        sigma: sigma_n.
        w: guidance scale, 1 in theory; a number or [S, B, 1].
        keep_norm: scale the result to the norm of ``epsilon`` (an option of the paper).
    """
    guided = epsilon - w * sigma * gradient
    if not keep_norm:
        return guided
    norms = [x.norm(dim=-1, keepdim=True) for x in (epsilon, guided)]
    return guided * norms[0] / norms[1].clamp(min=1e-8)


def sample(
    epsilon: Field,
    gradient: Field | None,
    noise: Tensor,
    schedule: Schedule,
    *,
    w: Tensor | float = 1.0,
    steps: int = SOLVER_STEPS,
    clip: float | None = 1.0,
    keep_norm: bool = False,
) -> Tensor:
    """Actions of the guided policy by DPM-Solver++(2M). [S, B, d].

    Args:
        epsilon: eps_phi of the behaviour, the states given.
        gradient: of the intermediate energy; None: the behaviour itself.
        noise: draws of N(0, I). [S, B, d]
        schedule: of the diffusion.
        w: guidance scale, a number or [S, B, 1].
        steps: of the solver.
        clip: half the side of the box of actions.
        keep_norm: see :func:`guided_epsilon`.
    """

    def denoise(a: Tensor, n: int) -> Tensor:
        plain = epsilon(a, n)
        if gradient is None:
            return plain
        sigma = schedule.rates(n, a)[1]
        return guided_epsilon(plain, gradient(a, n), sigma, w, keep_norm)

    with torch.no_grad():
        return dpm_solver(denoise, noise, schedule, steps, clip=clip)
