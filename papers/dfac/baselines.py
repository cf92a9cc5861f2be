"""What DFAC extends: IQL, VDN, QMIX and QPLEX, the same agents with one number per action."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.marl.targets import masked, taken
from common.stacked import StackedLinear
from papers.dfac.method import DFACConfig, masked_mean_per_seed
from papers.dfac.networks import Batch, Generators, Psi, Sizes, Trunk, rows


class ScalarNet(nn.Module):
    """Agents with expected utilities, and a mixer."""

    def __init__(self, psi: Psi, generators: Generators, sizes: Sizes) -> None:
        super().__init__()
        self.trunk = Trunk(generators, sizes.n_in, sizes.hidden)
        self.head = StackedLinear(generators, sizes.hidden, sizes.n_actions)
        self.psi = psi

    def means(self, h: Tensor, omega: Tensor | None = None) -> Tensor:
        """Q_i of all actions, whatever omega. [..., n, H] -> [..., n, A]."""
        return rows(self.head, h)

    def value(
        self, h: Tensor, actions: Tensor, state: Tensor, avail: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Q_tot of joint actions [S, B, T] (alone: each Q_i [S, B, T, n]) and the penalty [S]."""
        utilities = self.means(h)
        q = taken(utilities, actions)
        if self.psi.mean == "none":
            return q, q.new_zeros(len(q))
        best = masked(utilities, avail).amax(-1).detach()
        return self.psi(q, best, actions, state)

    def law(
        self, h: Tensor, omega: Tensor, actions: Tensor, state: Tensor, avail: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A point mass at the value, as ``QuantileNet.law``: the same number at every omega."""
        value, penalty = self.value(h, actions, state, avail)
        return value.unsqueeze(-1).expand(*value.shape, omega.shape[-1]), penalty


def td_loss(
    net: ScalarNet, target: ScalarNet, batch: Batch, cfg: DFACConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error to r + gamma (1 - term) Q_tot^-(s', u*). Returns as ``method.dfac_loss``."""
    h_online = net.trunk(batch.inputs)
    now = (batch.actions, batch.state[:, :, :-1], batch.avail[:, :, :-1])
    q, penalty = net.value(h_online[:, :, :-1], *now)
    with torch.no_grad():
        h, avail = target.trunk(batch.inputs)[:, :, 1:], batch.avail[:, :, 1:]
        chooser, seen = (net, h_online[:, :, 1:]) if cfg.double_q else (target, h)
        best = masked(chooser.means(seen), avail).argmax(-1)
        after, _ = target.value(h, best, batch.state[:, :, 1:], avail)
        alone = (slice(None),) * 3 + (None,) * (after.dim() - 3)
        y = batch.reward[alone] + cfg.gamma * (1 - batch.terminated[alone]) * after
    error, value = (q - y).square(), q.detach()
    if error.dim() == 4:  # IQL: a mean over agents
        error, value = error.mean(-1), value.mean(-1)
    found = masked_mean_per_seed(error, batch.filled)
    logged = {"value": masked_mean_per_seed(value, batch.filled)}
    return found + cfg.penalty * penalty, {"loss": found.detach(), **logged}
