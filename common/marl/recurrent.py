"""Gated recurrent units and recurrent agents, trained over whole sequences.

A stack of G networks is held on a leading axis: one that all agents share, or one for each agent.
Where there are several, the recurrence goes through time in one autograd node, with the input's and
all weight gradients in one product each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from common.marl.protocol import Seen
from common.stacked import StackedLinear


def gru_step(gates: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One step of a gated recurrent unit (PyTorch's, gates in the order r, z, n).

    r = s(x_r + h W_r + b_r),  z = s(x_z + h W_z + b_z),  n = tanh(x_n + r (h W_n + b_n)),
    h' = (1 - z) n + z h.

    Args:
        gates: what the input contributes to the gates. [G, R, 3H].
        h: hidden state. [G, R, H].
        weight: [G, H, 3H].
        bias: [G, 1, 3H].
    """
    width = h.shape[-1]
    recurrent = torch.baddbmm(bias, h, weight)
    rz = torch.sigmoid(gates[..., : 2 * width] + recurrent[..., : 2 * width])
    r, z = rz[..., :width], rz[..., width:]
    n = torch.tanh(gates[..., 2 * width :] + r * recurrent[..., 2 * width :])
    return n + z * (h - n)


class _Sequence(torch.autograd.Function):
    """``gru_step`` through time. Gates [T, G, R, 3H] -> hidden states [T, G, R, H]."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, h0: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        T, width = gates.shape[0], h0.shape[-1]
        hidden = gates.new_empty(T, *h0.shape)
        opened = gates.new_empty(T, *h0.shape[:-1], 2 * width)  # r and z
        candidate = gates.new_empty(T, *h0.shape)  # n
        inner = gates.new_empty(T, *h0.shape)  # h W_n + b_n
        h = h0
        for t in range(T):
            recurrent = torch.baddbmm(bias, h, weight)
            rz = torch.add(
                gates[t, ..., : 2 * width], recurrent[..., : 2 * width], out=opened[t]
            ).sigmoid_()
            inner[t] = recurrent[..., 2 * width :]
            n = torch.addcmul(
                gates[t, ..., 2 * width :], rz[..., :width], inner[t], out=candidate[t]
            ).tanh_()
            h = torch.lerp(n, h, rz[..., width:], out=hidden[t])
        ctx.save_for_backward(h0, weight, hidden, opened, candidate, inner)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h0, weight, hidden, opened, candidate, inner = ctx.saved_tensors
        T, G, R, width = hidden.shape
        before = torch.cat([h0[None], hidden[:-1]])
        r, z = opened[..., :width], opened[..., width:]
        # factors that need no gradient of a later step, for all steps at once
        to_n = (1 - z) * (1 - candidate.square())
        to_z = (before - candidate) * z * (1 - z)
        to_r = inner * r * (1 - r)
        d_recurrent = grad.new_empty(T, G, R, 3 * width)
        d_gates = grad.new_empty(T, G, R, 3 * width)
        transposed = weight.transpose(1, 2)
        dh = torch.zeros_like(h0)
        for t in range(T - 1, -1, -1):
            dh = dh + grad[t]
            dn = torch.mul(dh, to_n[t], out=d_gates[t, ..., 2 * width :])
            torch.mul(dn, to_r[t], out=d_gates[t, ..., :width])
            torch.mul(dh, to_z[t], out=d_gates[t, ..., width : 2 * width])
            d_recurrent[t, ..., : 2 * width] = d_gates[t, ..., : 2 * width]
            torch.mul(dn, r[t], out=d_recurrent[t, ..., 2 * width :])
            dh = torch.baddbmm(dh * z[t], d_recurrent[t], transposed)
        by_net = d_recurrent.transpose(0, 1).reshape(G, T * R, 3 * width)
        d_weight = before.transpose(0, 1).reshape(G, T * R, width).transpose(1, 2) @ by_net
        return d_gates, dh, d_weight, by_net.sum(1, keepdim=True)


class StackedGRU(nn.Module):
    """G gated recurrent units, each with its own weights.

    Args:
        generators: one per network; PyTorch's default initialisation is drawn from it.
        n_in: width of the input.
        width: H, of the hidden state.
    """

    def __init__(self, generators: Sequence[torch.Generator], n_in: int, width: int) -> None:
        super().__init__()
        self.width = width
        # nn.GRU draws all from U(-1/sqrt(H), 1/sqrt(H)), whatever the input's width
        bound = width**-0.5
        self.input = StackedLinear(generators, n_in, 3 * width)
        self.hidden = StackedLinear(generators, width, 3 * width)
        with torch.no_grad():
            for parameter in self.parameters():
                for row, generator in zip(parameter, generators, strict=True):
                    row.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor, h0: Tensor | None = None) -> Tensor:
        """Hidden states after each step of sequences. [T, G, R, in] -> [T, G, R, H]."""
        T, G, R, _ = x.shape
        if G == 1:  # PyTorch's own kernel
            return self._alone(x[:, 0], h0).unsqueeze(1)
        rows = x.transpose(0, 1).reshape(G, T * R, -1)
        gates = self.input(rows).view(G, T, R, -1).transpose(0, 1)
        if h0 is None:
            h0 = x.new_zeros(G, R, self.width)
        out: Tensor = _Sequence.apply(gates, h0, self.hidden.weight, self.hidden.bias)
        return out

    def _alone(self, x: Tensor, h0: Tensor | None) -> Tensor:
        """The only network's. [T, R, in] -> [T, R, H]."""
        first = x.new_zeros(1, x.shape[1], self.width) if h0 is None else h0
        weights = [self.input.weight[0].t(), self.hidden.weight[0].t()]
        weights += [self.input.bias[0, 0], self.hidden.bias[0, 0]]
        out: Tensor = torch.gru(x, first, weights, True, 1, 0.0, False, False, False)[0]
        return out

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """One step. [G, R, in], [G, R, H] -> [G, R, H]."""
        return gru_step(self.input(x), h, self.hidden.weight, self.hidden.bias)


class RecurrentAgents(nn.Module):
    """Utilities of N agents: Linear-relu-GRU-Linear, one network for all of them or one for each.

    Args:
        n_agents: N.
        n_in: width of an agent's input (see ``agent_inputs``).
        n_actions: A outputs.
        hidden: H.
        share: one network for all agents (PyMARL's default); else one for each.
        generator: of the initial weights.
    """

    def __init__(
        self,
        n_agents: int,
        n_in: int,
        n_actions: int,
        hidden: int = 64,
        *,
        share: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_agents, self.share = n_agents, share
        generators = [generator] * (1 if share else n_agents)
        self.encoder = StackedLinear(generators, n_in, hidden)
        self.gru = StackedGRU(generators, hidden, hidden)
        self.head = StackedLinear(generators, hidden, n_actions)

    @property
    def n_networks(self) -> int:
        """G: 1 where the agents share one."""
        return 1 if self.share else self.n_agents

    def features(self, inputs: Tensor) -> Tensor:
        """Hidden states of whole episodes. [B, T, N, in] -> [B, T, N, H]."""
        B, T, N, _ = inputs.shape
        # rows of a network: (b, n) where it is shared, b where each agent has its own
        order = (1, 0, 2, 3) if self.share else (1, 2, 0, 3)
        rows = inputs.permute(*order).reshape(T, self.n_networks, -1, inputs.shape[-1])
        G, R = rows.shape[1:3]
        flat = rows.transpose(0, 1).reshape(G, T * R, -1)
        x = F.relu(self.encoder(flat)).view(G, T, R, -1).transpose(0, 1)
        hidden = self.gru(x).view(T, *((B, N) if self.share else (N, B)), -1)
        return hidden.permute(*((1, 0, 2, 3) if self.share else (2, 0, 1, 3)))

    def values(self, features: Tensor) -> Tensor:
        """The last layer. [B, T, N, H] -> [B, T, N, A]."""
        B, T, N, width = features.shape
        if self.share:
            return self.head(features.reshape(1, -1, width)).view(B, T, N, -1)
        rows = features.permute(2, 0, 1, 3).reshape(N, B * T, width)
        return self.head(rows).view(N, B, T, -1).permute(1, 2, 0, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Utilities over whole episodes, from a hidden state of zeros. -> [B, T, N, A]."""
        return self.values(self.features(inputs))

    def initial(self, n: int) -> Tensor:
        """Hidden state at the beginning of ``n`` episodes."""
        weight = self.encoder.weight
        rows = n * self.n_agents // self.n_networks
        return weight.new_zeros(self.n_networks, rows, self.gru.width)

    def step(self, inputs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """One step of E episodes. [E, N, in] -> (utilities [E, N, A], hidden state)."""
        E, N, _ = inputs.shape
        rows = inputs.reshape(1, E * N, -1) if self.share else inputs.transpose(0, 1)
        h = self.gru.step(F.relu(self.encoder(rows)), h)
        out = self.head(h)
        values = out.view(E, N, -1) if self.share else out.transpose(0, 1)
        return values, h


def input_width(obs_dim: int, n_actions: int, n_agents: int, *, last: bool, ids: bool) -> int:
    """Width of what ``agent_inputs`` gives."""
    return obs_dim + n_actions * last + n_agents * ids


def agent_inputs(
    obs: Tensor, actions: Tensor | None, n_actions: int, *, last: bool = True, ids: bool = True
) -> Tensor:
    """What agents see: [observation, last action (one-hot), own number (one-hot)].

    Args:
        obs: of whole episodes. [B, T, N, O].
        actions: taken at steps 0, 1, ...; step t sees that of t - 1, step 0 none (zeros). At least
            T - 1 steps. [B, >= T - 1, N] int64.
        n_actions: A.
        last: append the last action.
        ids: append the agent's number.

    Returns:
        [B, T, N, O (+ A) (+ N)].
    """
    B, T, N, _ = obs.shape
    parts = [obs]
    if last:
        before = obs.new_zeros(B, T, N, n_actions)
        if T > 1:
            assert actions is not None
            before[:, 1:].scatter_(-1, actions[:, : T - 1, :, None], 1.0)
        parts.append(before)
    if ids:
        parts.append(torch.eye(N, device=obs.device, dtype=obs.dtype).expand(B, T, N, N))
    return torch.cat(parts, -1) if len(parts) > 1 else obs


class Acting:
    """A recurrent network that acts in E environments, step by step.

    Args:
        agents: has ``initial(E)`` and ``step(inputs, h)``, as ``RecurrentAgents``.
        n_envs: E.
        n_actions: A.
        last, ids: as in ``agent_inputs``.
    """

    def __init__(
        self, agents: Any, n_envs: int, n_actions: int, *, last: bool = True, ids: bool = True
    ) -> None:
        self.n_envs = n_envs
        self._agents, self._n_actions, self._last, self._ids = agents, n_actions, last, ids
        self._h = agents.initial(n_envs)
        self._device = self._h.device
        self._actions: Tensor | None = None

    @torch.no_grad()
    def values(self, seen: Seen) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Utilities of what is seen now. [E, N, A] float32. Follow it by ``acted``."""
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
        out, self._h = self._agents.step(torch.cat(parts, -1), self._h)
        return np.asarray(out.cpu().numpy())

    def acted(self, actions: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Tell which actions were taken. [E, N]."""
        self._actions = torch.from_numpy(actions).to(self._device)


__all__ = [
    "Acting",
    "RecurrentAgents",
    "StackedGRU",
    "agent_inputs",
    "gru_step",
    "input_width",
]
