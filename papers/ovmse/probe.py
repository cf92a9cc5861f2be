"""How values and actions change on fixed episodes of the data set."""

from __future__ import annotations

import torch
from torch import Tensor

from common.marl.episodes import Episode, batch_of
from common.marl.targets import greedy, masked, masked_mean, taken
from papers.ovmse.networks import Values


class Probe:
    """Follows a value function on fixed episodes.

    Args:
        episodes: of the data set.
        offline: theta_off, which it is compared with; None where there was none.
        device: where the networks are.
    """

    def __init__(
        self, episodes: list[Episode], offline: Values | None, device: torch.device
    ) -> None:
        self.batch = batch_of(episodes, device)
        self.before = None if offline is None else self._greedy(offline)
        # moments at which an agent has a choice
        several = self.batch.avail[:, :-1].sum(-1) > 1
        self.choice = several * self.batch.filled.unsqueeze(-1)  # [B, T, N]

    @torch.no_grad()
    def _greedy(self, values: Values) -> Tensor:
        return greedy(values.utilities(self.batch), self.batch.avail)[:, :-1]

    @torch.no_grad()
    def __call__(self, values: Values) -> dict[str, float]:
        """What is found.

        Returns:
            ``probe_q``: mean Q_tot of the data's actions; ``data_rank``: mean rank of an agent's
            own action of the data among those available (0: the best), over their number less one;
            ``agreement``: share of the agents' greedy actions that are theta_off's.
        """
        batch = self.batch
        utilities = values.utilities(batch)
        q, avail = utilities[:, :-1], batch.avail[:, :-1]
        own = taken(q, batch.actions)
        q_tot = values.mix(own, batch.state[:, :-1])
        better = (masked(q, avail) > own.unsqueeze(-1)).sum(-1)
        rank = better / (avail.sum(-1) - 1).clamp(min=1)
        found = {
            "probe_q": float(masked_mean(q_tot, batch.filled)),
            "data_rank": float((rank * self.choice).sum() / self.choice.sum()),
        }
        if self.before is not None:
            same = greedy(utilities, batch.avail)[:, :-1] == self.before
            found["agreement"] = float((same * self.choice).sum() / self.choice.sum())
        return found


__all__ = ["Probe"]
