"""DIGM on random networks: are the agents' best actions the best joint action?

DIGM (the papers' condition): argmax_u E[Z_jt(u)] = (argmax E[Z_1], ..., argmax E[Z_n]). Every joint
action is enumerated, in float64.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.marl.targets import taken
from papers.dfac.method import mean_shape, midpoints, per_quantile
from papers.dfac.method_c51 import joint_masses, quantiles
from papers.dfac.methods import METHODS
from papers.dfac.networks import Psi, Sizes

AGENTS, ACTIONS, SAMPLES, STATE = 3, 4, 8, 4
ATOMS, EDGE = 41, 40.0  # C51: wide enough that next to nothing is cut off
CVAR = 0.25  # the mean of the two lowest of eight quantiles
TIE = 1e-9


@dataclass(frozen=True)
class Check:
    """An entry per random network. [draws] each.

    Attributes:
        violated: the agents' best actions have not the largest E[Z_jt].
        violated_cvar: the agents' actions of largest CVaR have not the largest CVaR of Z_jt.
        mean_gap: largest |E[Z_jt] - Psi(E[Z_1], ..., E[Z_n])| over joint actions.
    """

    violated: NDArray[np.bool_]
    violated_cvar: NDArray[np.bool_]
    mean_gap: NDArray[np.float64]


@torch.no_grad()
def check(name: str, seed: int, draws: int) -> Check:
    """Random agents and a random Psi of a method, ``draws`` times.

    Means and spreads of the agents' laws are drawn by action, mixers as at the begin of training.
    """
    method = METHODS[name]
    generator = torch.Generator().manual_seed(seed)
    sizes = Sizes(AGENTS, 1, ACTIONS, STATE)
    psi = Psi(method.mean, [generator] * draws, sizes).double()
    each = torch.tensor(list(itertools.product(range(ACTIONS), repeat=AGENTS)))  # [U, n]
    actions = each.expand(draws, -1, -1)
    state = torch.randn(draws, 1, STATE, generator=generator, dtype=torch.float64)
    state = state.expand(-1, len(each), -1)
    shape = (draws, AGENTS, ACTIONS)
    centre = torch.randn(*shape, generator=generator, dtype=torch.float64)
    spread = 3 * torch.rand(*shape, generator=generator, dtype=torch.float64)
    if method.law == "categorical":
        grid = torch.linspace(-EDGE, EDGE, ATOMS, dtype=torch.float64)
        far = (grid - centre.unsqueeze(-1)) / spread.clamp(min=0.3).unsqueeze(-1)
        masses = (-0.5 * far.square()).softmax(-1)  # [draws, n, A, m]
        local = quantiles(masses, grid, midpoints(SAMPLES).double().expand(*shape, -1))
        means = masses @ grid
    else:
        noise = torch.randn(*shape, SAMPLES, generator=generator, dtype=torch.float64)
        local = (centre.unsqueeze(-1) + spread.unsqueeze(-1) * noise).sort(-1).values
        means = local.mean(-1)
    best = means.amax(-1).unsqueeze(1).expand(-1, len(each), -1)

    def mixed(q: Tensor) -> Tensor:
        return psi(q, best, actions, state)[0]

    value = mixed(_of(means, actions))
    if method.law == "categorical":
        index = actions.transpose(1, 2)[..., None].expand(-1, -1, -1, ATOMS)
        chosen = masses.gather(2, index).transpose(1, 2)  # [draws, U, n, m]
        spacing = 2 * EDGE / (ATOMS - 1)
        parts = zip(chosen.split(20), value.split(20), strict=True)  # the projection is large
        joint = torch.cat([joint_masses(p, v, -EDGE, spacing) for p, v in parts])
        mean = joint @ grid
        low = quantiles(joint, grid, midpoints(SAMPLES).double().expand(*mean.shape, -1))
    else:
        index = actions.transpose(1, 2)[..., None].expand(-1, -1, -1, SAMPLES)
        chosen = local.gather(2, index).transpose(1, 2)  # [draws, U, n, K]
        factorise = per_quantile if method.law == "per-quantile" else mean_shape
        low = factorise(chosen, mixed)
        mean = low.mean(-1)
    k = int(CVAR * SAMPLES)
    return Check(
        violated=_violated(mean, means),
        violated_cvar=_violated(low[..., :k].mean(-1), local[..., :k].mean(-1)),
        mean_gap=(mean - value).abs().amax(-1).numpy(),
    )


def _of(utilities: Tensor, actions: Tensor) -> Tensor:
    """Utilities of joint actions. [draws, n, A], [draws, U, n] -> [draws, U, n]."""
    U = actions.shape[1]
    return taken(utilities.unsqueeze(1).expand(-1, U, -1, -1), actions)


def _violated(joint: Tensor, local: Tensor) -> NDArray[np.bool_]:
    """Whether the agents' best actions fall short of the best joint one. [draws]."""
    weights = ACTIONS ** torch.arange(AGENTS - 1, -1, -1)
    cell = (local.argmax(-1) * weights).sum(-1, keepdim=True)
    return (joint.gather(1, cell).squeeze(1) < joint.amax(1) - TIE).numpy()
