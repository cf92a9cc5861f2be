"""How near guidance is to the intermediate energy of its own behaviour and critic.

A bandit's energy is known: in closed form (a Gaussian), or as the sum over all data (a set). In
control it is summed over ``DRAWN`` actions of the behaviour's diffusion in each of ``STATES``
states. Every method is asked at the same noisy actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.control.diffusion import noised
from common.stacked import randint, randn, seed_generators
from papers.aepo.exact import FiniteData, Gaussian, Quadratic
from papers.aepo.method import energy_gradient, isotropic_spread, value_and_gradient
from papers.aepo.prior import SCHEDULE, Prior
from papers.aepo.train import analytic
from papers.aepo.trained import Policy

BANDIT_STEPS = (50, 100, 200, 400, 600, 800)  # of the diffusion, where energies are compared
CONTROL_STEPS = (50, 100, 200, 400)  # noise of .17 to .94: a narrow behaviour is long known by then
WIDEST = 800  # where the posterior's variance is nearly the behaviour's
POINTS = 200  # actions of a bandit
STATES, DRAWN, ASKED = 32, 128, 8  # of control; actions of a state that are summed and asked about
REGRESSED = ("analytic", "local", "mean")  # whose target is a function of the noisy action
Energy = Callable[[Tensor, int], Tensor]  # (a_n [S, B, d], n) -> [S, B]


@dataclass(frozen=True)
class Sight:
    """Where energies are compared.

    Attributes:
        obs: states. [S, B, o]
        clean: actions. [S, B, d]
        energy: the intermediate energy in those states.
        groups: of actions that share a state; energies of one group differ by the action alone.
        steps: of the diffusion.
    """

    obs: Tensor
    clean: Tensor
    energy: Energy
    groups: int
    steps: tuple[int, ...]


def known_energy(policy: Policy) -> Energy:
    """A bandit's."""
    prior, beta = policy.prior, policy.setting.beta
    if prior.task.kind == "gaussian":
        found = Gaussian().energy(SCHEDULE, Quadratic(curvature=prior.task.curvature), beta)
        return lambda a, n: found(a, n)
    data = finite(policy)
    return lambda a, n: data.energy(SCHEDULE, a, n, beta)


def finite(policy: Policy) -> FiniteData:
    """A set's data with Q at them, as the truth."""
    action = policy.prior.data.action
    with torch.no_grad():
        return FiniteData(action, policy.prior.critic(action[..., :0], action))


@torch.no_grad()
def sight(policy: Policy) -> Sight:
    """States, actions and the truth."""
    prior, setting = policy.prior, policy.setting
    generators = seed_generators(policy.seeds, 9, prior.data.action.device)
    if prior.task.bandit:
        obs, clean = prior.data.sample(generators, POINTS)
        return Sight(obs, clean, known_energy(policy), 1, BANDIT_STEPS)
    S = len(policy.seeds)
    index = randint(generators, prior.data.obs.shape[1], STATES)
    each = prior.data.picked(index)[0]  # [S, P, o]
    rows = each.repeat_interleave(DRAWN + ASKED, 1)
    action = prior.drawn(rows, generators, setting.solver_steps)
    q = prior.critic(rows, action).view(S * STATES, -1)
    action = action.view(S * STATES, DRAWN + ASKED, -1)
    truth = FiniteData(action[:, :DRAWN], q[:, :DRAWN])

    def energy(a: Tensor, n: int) -> Tensor:
        by_state = a.view(S * STATES, -1, a.shape[-1])
        return truth.energy(SCHEDULE, by_state, n, setting.beta).view(a.shape[:2])

    asked = action[:, DRAWN:].reshape(S, STATES * ASKED, -1)
    return Sight(each.repeat_interleave(ASKED, 1), asked, energy, STATES, CONTROL_STEPS)


def gradient_errors(policy: Policy) -> dict[str, np.ndarray]:
    """Relative RMSE and cosine of grad E, means over steps [S]; how well E_Theta fits its target.

    ``fit`` is the correlation of E_Theta with Eq. 7 within a state: 0 where the network has learned
    of its target what depends on the state alone, which guides nothing.
    """
    seen = sight(policy)
    generators = seed_generators(policy.seeds, 15, seen.clean.device)
    found: dict[str, list[Tensor]] = {"gradient_error": [], "gradient_cosine": []}
    for n in seen.steps:
        a = noised(SCHEDULE, seen.clean, randn(generators, *seen.clean.shape[1:]), n)
        truth = energy_gradient(lambda x, n=n: seen.energy(x, n), a)  # type: ignore[misc]
        own = policy.gradient(a, n, seen.obs)
        square = (own - truth).square().sum(-1).mean(1) / truth.square().sum(-1).mean(1)
        found["gradient_error"].append(square.sqrt())
        found["gradient_cosine"].append(torch.cosine_similarity(own, truth, -1).mean(1))
        if policy.method.learns in REGRESSED:
            every = torch.full(a.shape[:2], n, device=a.device)
            beta, learns = policy.setting.beta, policy.method.learns
            target = analytic(learns, policy.prior, seen.obs, a, every, beta)
            with torch.no_grad():
                fitted = policy.energy(a, n, seen.obs)
            found.setdefault("fit", []).append(correlation(fitted, target, seen.groups))
    return {name: torch.stack(x).mean(0).cpu().numpy() for name, x in found.items()}


def correlation(one: Tensor, other: Tensor, groups: int) -> Tensor:
    """Correlation of deviations from the mean of a group. [S, groups x K] each -> [S]."""
    x, y = (v.unflatten(1, (groups, -1)) for v in (one, other))
    x, y = (v - v.mean(-1, keepdim=True) for v in (x, y))
    size = (x.square().sum((1, 2)) * y.square().sum((1, 2))).sqrt()
    return (x * y).sum((1, 2)) / size.clamp(min=1e-12)


def nonlinearity(policy: Policy) -> dict[str, np.ndarray]:
    """Whether Eq. 7's assumption holds: what its variance term amounts to. [S] each.

    ``kappa`` = -beta v g^T H g / |g|^2, the mean weighted with |g|^2, with H by differences one
    standard deviation to either side along g: below 1 the term of a concave Q helps, above it turns
    the guidance round (NOTES.md). ``term`` is the term's deviation within a state in units of beta
    Q(m)'s.
    """
    prior, beta = policy.prior, policy.setting.beta
    seen = sight(policy)
    generators = seed_generators(policy.seeds, 15, seen.clean.device)

    def asked(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a = noised(SCHEDULE, seen.clean, randn(generators, *seen.clean.shape[1:]), n)
        with torch.no_grad():
            m = prior.mean(a, n, seen.obs)
        return (*_asked(prior, m, seen.obs), prior.variance[:, n : n + 1], m)

    values, spreads = [], []
    for n in seen.steps:
        q, g, v, _ = asked(n)
        values.append(beta * q)
        spreads.append(0.5 * beta**2 * isotropic_spread(g, v))
    many = seen.groups * len(seen.steps)
    deviations = [_within(torch.cat(x, 1), many) for x in (spreads, values)]
    ratio = deviations[0] / deviations[1].clamp(min=1e-12)
    _, g, v, m = asked(WIDEST)
    kappa = beta * curvature(lambda x: _asked(prior, x, seen.obs)[1], m, g, v)
    return {"kappa": kappa.cpu().numpy(), "term": ratio.cpu().numpy()}


def curvature(
    gradient: Callable[[Tensor], Tensor], m: Tensor, g: Tensor, variance: Tensor
) -> Tensor:
    """-v g^T H g / |g|^2, the mean over rows weighted with |g|^2. [S, B, d], [S, 1] -> [S]."""
    size = g.norm(dim=-1, keepdim=True)
    step = variance.sqrt().unsqueeze(-1) * g / size.clamp(min=1e-12)
    change = gradient(m + step) - gradient(m - step)  # 2 sqrt(v) H g / |g|
    along = (size * g * change).sum((1, 2)) * 0.5 * variance.squeeze(-1).sqrt()
    return -along / size.square().sum((1, 2)).clamp(min=1e-12)


def _asked(prior: Prior, m: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Q and its gradient as Eq. 7 asks them: in the box, with no gradient outside."""
    return value_and_gradient(lambda x: prior.critic(obs, prior.data.clipped(x)), m)


def _within(values: Tensor, groups: int) -> Tensor:
    """Standard deviation within groups. [S, groups x K] -> [S]."""
    return values.unflatten(1, (groups, -1)).var(-1).mean(1).sqrt()
