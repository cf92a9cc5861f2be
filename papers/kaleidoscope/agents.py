"""The agents' networks: one layer, a GRU, three layers ("1R3"), shared in one way or another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.marl.protocol import Floats, Ints, Seen
from common.marl.recurrent import StackedGRU
from papers.kaleidoscope.baselines import PlainLinear, PrunedLinear
from papers.kaleidoscope.method import MaskedLinear, hard, soft
from papers.kaleidoscope.methods import Learner

Weights = list[tuple[Tensor, Tensor]]  # of every layer: [G, in, out] and [G or 1, 1, out]


class Agents(nn.Module):
    """Utilities of N agents: masked linear, relu, GRU, then three more masked linear layers.

    The GRU is never masked; agents of their own (NoPS) have one each.

    Args:
        method: how the layers are shared.
        n_agents: N.
        n_types: kinds of units; above 1 a mask belongs to a kind, else to an agent.
        n_in: width of an agent's input.
        n_actions: A.
        hidden: H.
        pruned: share of the weights that a fixed mask cuts.
        generator: of all that is drawn.
    """

    def __init__(
        self,
        method: Learner,
        n_agents: int,
        n_types: int,
        n_in: int,
        n_actions: int,
        hidden: int = 64,
        pruned: float = 0.2,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_agents, self.hidden = n_agents, hidden
        has_masks = method.sharing in ("masks", "fixed")
        self.by_type = has_masks and n_types > 1
        masks = self.n_masks = n_types if self.by_type else n_agents
        own = [generator] * (n_agents if method.sharing == "none" else 1)

        def linear(n_in: int, n_out: int, head: bool = False) -> nn.Module:
            if method.sharing == "masks":
                form = hard if method.form == "hard" else soft
                return MaskedLinear(n_in, n_out, masks, form=form, generator=generator)
            if method.sharing == "fixed":
                return PrunedLinear(n_in, n_out, masks, pruned, generator=generator)
            several = head and method.sharing == "heads"
            return PlainLinear([generator] * n_agents if several else own, n_in, n_out)

        self.layers = nn.ModuleList([linear(n_in, hidden)])
        self.gru = StackedGRU(own, hidden, hidden)
        self.layers.append(linear(hidden, hidden))
        self.layers.append(linear(hidden, hidden))
        self.layers.append(linear(hidden, n_actions, head=True))

    @property
    def masked(self) -> list[MaskedLinear]:
        """The layers with learnable masks, from the first to the last."""
        return [layer for layer in self.layers if isinstance(layer, MaskedLinear)]

    def effective(self) -> Weights:
        """The weights that every agent (or type) works with, made once for many steps."""
        return [layer.effective() for layer in self.layers]  # type: ignore[operator]

    def forward(self, inputs: Tensor, types: Tensor) -> Tensor:
        """Utilities over whole episodes, from a hidden state of zeros.

        Args:
            inputs: [B, T, N, in].
            types: kinds of the units. [B, T, N] int64.

        Returns:
            [B, T, N, A].
        """
        B, T, N, _ = inputs.shape
        weights = self.effective()
        order = self._order(types.permute(2, 1, 0))
        x = inputs.permute(2, 1, 0, 3).reshape(N, T * B, -1)
        x = F.relu(apply(weights[:1], x, order)).view(N, T, B, -1)
        networks = self.gru.hidden.weight.shape[0]
        x = x.transpose(0, 1).reshape(T, networks, -1, self.hidden)
        h = self.gru(x).view(T, N, B, -1).transpose(0, 1).reshape(N, T * B, -1)
        return apply(weights[1:], h, order).view(N, T, B, -1).permute(2, 1, 0, 3)

    def initial(self, n: int) -> Tensor:
        """Hidden state at the beginning of ``n`` episodes."""
        weight = self.gru.hidden.weight
        networks = weight.shape[0]
        return weight.new_zeros(networks, n * self.n_agents // networks, self.hidden)

    def step(
        self, weights: Weights, inputs: Tensor, types: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One step of E episodes. [E, N, in], [E, N] -> utilities [E, N, A] and the new state."""
        E, N, _ = inputs.shape
        order = self._order(types.transpose(0, 1))
        x = F.relu(apply(weights[:1], inputs.transpose(0, 1), order))
        h = self.gru.step(x.reshape(h.shape), h)
        return apply(weights[1:], h.view(N, E, -1), order).transpose(0, 1), h

    def _order(self, types: Tensor) -> Order | None:
        return Order(types, self.n_masks) if self.by_type else None


class Order:
    """Rows sorted by their type, so that each type's weights are used once.

    Args:
        types: of the rows in whatever shape, flattened.
        n_types: how many there may be.
    """

    def __init__(self, types: Tensor, n_types: int) -> None:
        flat = types.reshape(-1)
        self.rows = flat.argsort(stable=True)
        self.back = self.rows.argsort()
        self.sizes = torch.bincount(flat, minlength=n_types).tolist()


def apply(weights: Weights, x: Tensor, order: Order | None) -> Tensor:
    """Linear layers with relu between them. x: [N, R, in] -> [N, R, out]."""
    N, R, _ = x.shape
    if order is not None:
        rows = x.flatten(0, 1)[order.rows]
        for i, (weight, bias) in enumerate(weights):
            parts = (F.relu(rows) if i else rows).split(order.sizes)
            rows = torch.cat([p @ w for p, w in zip(parts, weight, strict=True)]) + bias[0]
        return rows[order.back].view(N, R, -1)
    for i, (weight, bias) in enumerate(weights):
        x = F.relu(x) if i else x
        if len(weight) == 1:
            x = torch.addmm(bias[0], x.reshape(N * R, -1), weight[0]).view(N, R, -1)
        else:
            x = torch.baddbmm(bias, x, weight)
    return x


class Clustered(nn.Module):
    """A network for each cluster of agents (SePS), with the calls of ``Agents``.

    Args:
        groups: the agents of each cluster.
        make: number of agents -> their ``Agents``.
    """

    def __init__(self, groups: Sequence[Sequence[int]], make: Any) -> None:
        super().__init__()
        self.parts = nn.ModuleList(make(len(group)) for group in groups)
        # index tensors are moved to the parameters' device with them
        for i, group in enumerate(groups):
            self.register_buffer(f"group_{i}", torch.tensor(group), persistent=False)
        order = torch.tensor([agent for group in groups for agent in group])
        self.register_buffer("back", order.argsort(), persistent=False)
        self.masked: list[MaskedLinear] = []

    def _divided(self, x: Tensor, axis: int) -> list[Tensor]:
        """What belongs to each part."""
        groups = [self.get_buffer(f"group_{i}") for i in range(len(self.parts))]
        return [x.index_select(axis, group) for group in groups]

    def effective(self) -> list[Weights]:
        """Of every part."""
        return [part.effective() for part in self.parts]  # type: ignore[operator]

    def forward(self, inputs: Tensor, types: Tensor) -> Tensor:
        """[B, T, N, in] -> [B, T, N, A]."""
        shares = zip(self.parts, self._divided(inputs, 2), self._divided(types, 2), strict=True)
        out = [part(x, kinds) for part, x, kinds in shares]
        return torch.cat(out, 2).index_select(2, self.get_buffer("back"))

    def initial(self, n: int) -> list[Tensor]:
        """Hidden states of all parts."""
        return [part.initial(n) for part in self.parts]  # type: ignore[operator]

    def step(
        self, weights: list[Weights], inputs: Tensor, types: Tensor, h: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """[E, N, in] -> utilities [E, N, A] and the new states."""
        shares = (self._divided(inputs, 1), self._divided(types, 1))
        both = [
            part.step(w, x, kinds, state)  # type: ignore[operator]
            for part, w, x, kinds, state in zip(self.parts, weights, *shares, h, strict=True)
        ]
        values = torch.cat([v for v, _ in both], 1)
        return values.index_select(1, self.get_buffer("back")), [state for _, state in both]


class Acting:
    """Agents that act in E environments, step by step, with weights made once.

    Args:
        agents: ``Agents`` or ``Clustered``.
        n_envs: E.
        n_actions: A.
        last, ids: what the input holds, as in ``common.marl.recurrent.agent_inputs``.
    """

    @torch.no_grad()
    def __init__(self, agents: Any, n_envs: int, n_actions: int, *, last: bool, ids: bool) -> None:
        self._agents, self._n_actions, self._last, self._ids = agents, n_actions, last, ids
        self._weights = agents.effective()
        self._h = agents.initial(n_envs)
        self._device = next(agents.parameters()).device
        self._actions: Tensor | None = None

    @torch.no_grad()
    def values(self, seen: Seen) -> Floats:
        """Utilities of what is seen now. [E, N, A]. Follow it by ``acted``."""
        obs = torch.from_numpy(np.ascontiguousarray(seen.obs)).to(self._device)
        E, N, _ = obs.shape
        parts = [obs]
        if self._last:
            before = obs.new_zeros(E, N, self._n_actions)
            if self._actions is not None:
                before.scatter_(-1, self._actions[..., None], 1.0)
            parts.append(before)
        if self._ids:
            parts.append(torch.eye(N, device=self._device).expand(E, N, N))
        types = torch.from_numpy(np.ascontiguousarray(seen.agent_type)).to(self._device)
        out, self._h = self._agents.step(self._weights, torch.cat(parts, -1), types, self._h)
        return np.asarray(out.cpu().numpy())

    def acted(self, actions: Ints) -> None:
        """Tell which actions were taken. [E, N]."""
        self._actions = torch.from_numpy(actions).to(self._device)
