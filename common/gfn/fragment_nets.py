"""Policies and flows of fragment molecules: message passing over the tree of fragments.

The network of the first GFlowNet release in its lines (an edge network of rank one between
embedded stems, a GRU, ten rounds), with the networks of N agents or seeds side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.gfn.fragments import FragmentEnv
from common.stacked import StackedLinear


def _layers(generators: Sequence[torch.Generator], *sizes: int) -> nn.ModuleList:
    return nn.ModuleList(StackedLinear(generators, a, b) for a, b in pairwise(sizes))


class FragmentNetworks(nn.Module):
    """N networks; every parameter is [N, ...], from its own generator."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        env: FragmentEnv,
        width: int = 256,
        n_rounds: int = 10,
        *,
        own_flow: bool = False,
    ) -> None:
        """See the class.

        Args:
            generators: one per network, for its initial weights.
            env: the fragment MDP.
            width: of every layer.
            n_rounds: of messages.
            own_flow: log F has a stream of its own above the messages; else it shares the hidden
                layer of the stop action, as in the release.
        """
        super().__init__()
        self.env, self.n_rounds, self.width = env, n_rounds, width

        def table(n: int) -> nn.Parameter:
            return nn.Parameter(
                torch.stack([torch.randn(n, width, generator=g) for g in generators])
            )

        self.block = table(env.n_true_blocks + 1)  # the last one: an empty slot
        self.stem = table(env.n_stem_types + 1)
        self.bond = table(env.n_stem_types)
        self.enter = _layers(generators, width, width, width)
        self.root = _layers(generators, width, width)
        self.received = _layers(generators, width, 3 * width)  # of the GRU, as nn.GRUCell's ih
        self.kept = _layers(generators, width, 3 * width)  # hh
        self.add = _layers(generators, 2 * width, width, width, env.n_blocks)
        self.whole = _layers(generators, width, width, 1 if own_flow else 2)
        self.flow = _layers(generators, width, width, 1) if own_flow else None

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States [N, ..., K, 3] of each network -> logits [N, ..., A], log F [N, ...]."""
        env, lead = self.env, states.shape[:-2]
        flat = states.flatten(1, -3) if states.dim() > 4 else states  # [N, B, K, 3]
        block, parent, _ = flat.unbind(-1)
        x = self._messages(flat)
        kinds = env.stem_type[block]  # [N, B, K, R]
        begin = (block[..., :1] == env.n_blocks).unsqueeze(-1)
        kinds = torch.where(begin, torch.full_like(kinds, env.n_stem_types), kinds)
        per_stem = x.unsqueeze(3).expand(-1, -1, -1, env.n_stems, -1)
        add = _through(self.add, torch.cat([per_stem, _look_up(self.stem, kinds)], -1)).flatten(2)
        real = (block != env.n_blocks).unsqueeze(-1)
        real[:, :, 0] = True  # the empty molecule is one special node
        pooled = (x * real).sum(2) / real.sum(2)
        both = _through(self.whole, pooled)
        log_flow = both[..., 1] if self.flow is None else _through(self.flow, pooled)[..., 0]
        return torch.cat([add, both[..., :1]], -1).view(*lead, -1), log_flow.view(lead)

    def _messages(self, states: Tensor) -> Tensor:
        """Features of the slots. [N, B, K, 3] -> [N, B, K, width]."""
        env = self.env
        block, parent, used = states.unbind(-1)
        above, hung = parent.clamp(min=0), parent >= 0
        at_parent = env.stem_type[block.gather(2, above), used.clamp(min=0)]
        at_child = env.stem_type[block, 0]
        first = _look_up(self.bond, torch.where(hung, at_parent, torch.zeros_like(at_parent)))
        second = _look_up(self.bond, torch.where(hung, at_child, torch.zeros_like(at_child)))
        x = _through(self.enter, _look_up(self.block, env.true_block[block]))
        index = above.unsqueeze(-1).expand_as(x)
        for _ in range(self.n_rounds):
            # rank-one edge network: x_parent (e_1 e_2^T)
            message = (x.gather(2, index) * first).sum(-1, keepdim=True) * second
            message = message * hung.unsqueeze(-1)
            m = nn.functional.leaky_relu(message + _through(self.root, x))
            reset, gate, new = _through(self.received, m).chunk(3, -1)
            old_reset, old_gate, old = _through(self.kept, x).chunk(3, -1)
            gate = torch.sigmoid(gate + old_gate)
            x = gate * x + (1 - gate) * torch.tanh(new + torch.sigmoid(reset + old_reset) * old)
        return x


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """Rows of each network's table. [N, n, width], [N, ...] -> [N, ..., width]."""
    width = table.shape[-1]
    flat = index.flatten(1).unsqueeze(-1).expand(-1, -1, width)
    return table.gather(1, flat).view(*index.shape, width)


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Linear layers with leaky ReLUs between them, over any number of axes. [N, ..., in]."""
    lead = x.shape[:-1]
    x = x.flatten(1, -2)
    for i, layer in enumerate(layers):
        x = layer(nn.functional.leaky_relu(x) if i else x)
    return x.view(*lead, -1)
