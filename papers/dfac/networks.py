"""What all methods share: recurrent agents with seeds stacked in front, and stacks of mixers.

S seeds, B episodes, T moments, n agents, A actions, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.marl.mixers import QMix, QPlex
from common.marl.recurrent import StackedGRU
from common.stacked import StackedLinear
from papers.dfac.methods import Mean

Generators = Sequence[torch.Generator]


@dataclass(frozen=True)
class Sizes:
    """What networks are made for, and how large they are; the defaults are the released ones.

    Attributes:
        n_agents: n.
        n_in: width of an agent's input.
        n_actions: A.
        state_dim: width of the state that mixers see.
        hidden: H, of the agents.
        embed: of the mixers.
        hypernet: width of the hidden layers of the mixers' networks.
        unit_dim: QPLEX: the state begins with n blocks of so many features (attention over them);
            0: weights are |H(s)|.
        heads: QPLEX: of the attention and of lambda.
        layers: QPLEX: of each network of lambda.
        features: cosines that embed a quantile fraction.
        atoms: C51: of an agent's law and of the joint one.
        support: C51: smallest and largest atom.
    """

    n_agents: int
    n_in: int
    n_actions: int
    state_dim: int
    hidden: int = 64
    embed: int = 32
    hypernet: int = 64
    unit_dim: int = 0
    heads: int = 4
    layers: int = 1
    features: int = 64
    atoms: int = 51
    support: tuple[float, float] = (-10.0, 20.0)


@dataclass
class Batch:
    """Episodes of S seeds.

    Attributes:
        inputs: of the agents. [S, B, T + 1, n, in].
        state: [S, B, T + 1, state].
        avail: [S, B, T + 1, n, A] bool.
        actions: [S, B, T, n] int64.
        reward, terminated, filled: [S, B, T].
    """

    inputs: Tensor
    state: Tensor
    avail: Tensor
    actions: Tensor
    reward: Tensor
    terminated: Tensor
    filled: Tensor


def rows(layer: nn.Module, x: Tensor) -> Tensor:
    """A stacked layer over any axes between the seeds and the features. [S, ..., in]."""
    out: Tensor = layer(x.flatten(1, -2))
    return out.unflatten(1, x.shape[1:-1])


class Trunk(nn.Module):
    """relu(Linear), then a GRU, the same for all agents of a seed."""

    def __init__(self, generators: Generators, n_in: int, hidden: int) -> None:
        super().__init__()
        self.encoder = StackedLinear(generators, n_in, hidden)
        self.gru = StackedGRU(generators, hidden, hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        """Hidden states over whole episodes, from zeros. [S, B, T, n, in] -> [S, B, T, n, H]."""
        S, B, T, n, _ = inputs.shape
        x = F.relu(rows(self.encoder, inputs.permute(0, 2, 1, 3, 4)))  # [S, T, B, n, H]
        hidden = self.gru(x.reshape(S, T, B * n, -1).transpose(0, 1))  # [T, S, B n, H]
        return hidden.view(T, S, B, n, -1).permute(1, 2, 0, 3, 4)

    def initial(self, n: int) -> Tensor:
        """Hidden states at the beginning of ``n`` episodes-times-agents. [S, n, H]."""
        weight = self.encoder.weight
        return weight.new_zeros(weight.shape[0], n, self.gru.width)

    def step(self, inputs: Tensor, h: Tensor) -> Tensor:
        """One step. [S, R, in], [S, R, H] -> [S, R, H]."""
        return self.gru.step(F.relu(self.encoder(inputs)), h)


class Stack(nn.Module):
    """Networks of one architecture, called side by side on inputs with a leading axis of them."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, _ = torch.func.stack_module_state(list(networks))
        self._names = {name.replace(".", "/"): name for name in weights}
        self.weights = nn.ParameterDict(
            {flat: nn.Parameter(weights[name].detach()) for flat, name in self._names.items()}
        )
        self._form = (networks[0],)  # in a tuple: its weights are none of ours

    def forward(self, *inputs: Tensor) -> Any:
        """Each network's output on its own part of the inputs, stacked again."""
        weights = {name: self.weights[flat] for flat, name in self._names.items()}

        def one(weights: dict[str, Tensor], *inputs: Tensor) -> Any:
            return torch.func.functional_call(self._form[0], weights, inputs)

        if len(inputs[0]) > 1:
            return torch.func.vmap(one)(weights, *inputs)
        out = one({k: w[0] for k, w in weights.items()}, *(x[0] for x in inputs))
        return tuple(x[None] for x in out) if isinstance(out, tuple) else out[None]


class _Mix(QMix):
    """QMIX's mixer, also of many utilities of one state."""

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """[..., n] or [..., K, n] -> [...] or [..., K]."""
        return self.each(q, state) if q.dim() > state.dim() else super().forward(q, state)


class _Parts(QPlex):
    """QPLEX as a function of all that it sees: its value and the attention's penalty."""

    def forward(  # type: ignore[override]
        self, q: Tensor, best: Tensor, actions: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        value, advantage, penalty = self.parts(q, best, actions, state)
        return value + advantage, penalty


class Psi(nn.Module):
    """Psi: from the agents' expected utilities to the expected value of the joint action."""

    def __init__(self, mean: Mean, generators: Generators, sizes: Sizes) -> None:
        super().__init__()
        self.mean = mean
        self.mixers: Stack | None = None
        common = (sizes.n_agents, sizes.state_dim)
        if mean == "qmix":
            widths = (sizes.embed, sizes.hypernet)
            self.mixers = Stack([_Mix(*common, *widths, generator=g) for g in generators])
        if mean == "qplex":
            transform: Literal["attention", "hypernet"] = "hypernet"
            if sizes.unit_dim:
                transform = "attention"
            self.mixers = Stack(
                [
                    _Parts(
                        *(*common, sizes.n_actions),
                        unit_dim=sizes.unit_dim or None,
                        transform=transform,
                        embed=sizes.embed,
                        hypernet=sizes.hypernet,
                        heads=sizes.heads,
                        layers=sizes.layers,
                        generator=g,
                    )
                    for g in generators
                ]
            )

    def forward(
        self, q: Tensor, best: Tensor, actions: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The joint action's value [S, ...] and a penalty to be added to the loss [S].

        Args:
            q: expected utilities of the actions taken. [S, ..., n]; but for QPLEX many of them,
                [S, ..., K, n], as well.
            best: the largest over available actions; QPLEX alone looks at it. [S, ..., n].
            actions: taken. [S, ..., n] int64.
            state: [S, ..., state].
        """
        if self.mean == "qplex":
            assert self.mixers is not None
            value, penalty = self.mixers(q, best, actions, state)
            return value, penalty
        none = q.new_zeros(len(q))
        return (q.sum(-1) if self.mixers is None else self.mixers(q, state)), none
