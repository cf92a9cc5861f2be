"""Textbook mixers: from the agents' utilities to the value of the joint action.

Shapes: utilities q [..., N] of the actions taken, state [..., S], result [...]. All but
``CentralMixer`` keep the individual-global-max property: the joint action of the agents' best
actions is the best joint action.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _linear(n_in: int, n_out: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """``nn.Linear`` with PyTorch's default initialisation drawn from ``generator``."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias)
    bound = n_in**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if bias:
            layer.bias.uniform_(-bound, bound, generator=generator)
    made: nn.Linear = layer
    return made


def hypernetwork(
    n_in: int,
    n_out: int,
    width: int | None,
    generator: torch.Generator,
    layers: int = 2,
    *,
    bias: bool = True,
) -> nn.Sequential:
    """Linear-relu-...-Linear of ``layers`` layers, the last with a bias or without.

    Raises:
        ValueError: if hidden layers are asked for without a width.
    """
    if layers > 1 and not width:
        raise ValueError("hidden layers need a width")
    sizes = [n_in, *[width or 0] * (layers - 1), n_out]
    parts: list[nn.Module] = []
    for i in range(layers):
        last = bias or i < layers - 1
        parts += [nn.ReLU()] * (i > 0) + [_linear(sizes[i], sizes[i + 1], generator, bias=last)]
    return nn.Sequential(*parts)


class VDN(nn.Module):
    """Q_tot = sum_i q_i (value decomposition networks)."""

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """[..., N] -> [...]."""
        return q.sum(-1)


class QMix(nn.Module):
    """Q_tot = elu(q W_1(s) + b_1(s)) w_2(s) + v(s) with W_1, w_2 >= 0 (Rashid et al. 2018).

    Args:
        n_agents: N.
        state_dim: S.
        embed: width of the mixing layer.
        hypernet: width of the hidden layer of the weights' hypernetworks; None: they are linear.
        generator: of the initial weights.
    """

    def __init__(
        self,
        n_agents: int,
        state_dim: int,
        embed: int = 32,
        hypernet: int | None = 64,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_agents, self.embed = n_agents, embed
        layers = 2 if hypernet else 1
        self.w1 = hypernetwork(state_dim, n_agents * embed, hypernet, generator, layers)
        self.b1 = _linear(state_dim, embed, generator)
        self.w2 = hypernetwork(state_dim, embed, hypernet, generator, layers)
        self.v = hypernetwork(state_dim, 1, embed, generator)

    def weights(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W_1 [..., N, embed], b_1 [..., embed], w_2 [..., embed], v [...] of states."""
        w1 = self.w1(state).abs().unflatten(-1, (self.n_agents, self.embed))
        return w1, self.b1(state), self.w2(state).abs(), self.v(state).squeeze(-1)

    def mix(self, q: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """Mix utilities by given weights; broadcasts, so that many q share one state's weights."""
        w1, b1, w2, v = weights
        hidden = F.elu((q.unsqueeze(-2) @ w1).squeeze(-2) + b1)
        return (hidden * w2).sum(-1) + v

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """[..., N], [..., S] -> [...]."""
        return self.mix(q, self.weights(state))

    def each(self, q: Tensor, state: Tensor) -> Tensor:
        """Many joint utilities of each state. [..., K, N], [..., S] -> [..., K]."""
        w1, b1, w2, v = self.weights(state)
        hidden = F.elu(q @ w1 + b1.unsqueeze(-2))  # [..., K, embed]
        return (hidden @ w2.unsqueeze(-1)).squeeze(-1) + v.unsqueeze(-1)


class QPlex(nn.Module):
    """Duplex duelling mixing (Wang et al. 2021).

    With q'_i = w_i(s) q_i + v(s) / N and m'_i = w_i(s) max_u q_i + v(s) / N,
    Q_tot = sum_i q'_i + sum_i sg(q'_i - m'_i) (lambda_i(s, u) - 1),
    lambda_i = sum_k |key_k(s)| sigmoid(agent_k,i(s)) sigmoid(action_k,i(s, u)).

    Args:
        n_agents: N.
        state_dim: S.
        n_actions: A.
        unit_dim: the state begins with N blocks of so many features, one per agent (attention).
        transform: where w_i comes from: "attention" of the state over the agents' own features,
            or "hypernet", |H(s)|.
        embed: width of queries, keys and hidden layers.
        hypernet: width of the hidden layers of queries and of "hypernet".
        heads: of the attention, and terms k of lambda.
        layers: of each network of lambda.
        generator: of the initial weights.
    """

    def __init__(
        self,
        n_agents: int,
        state_dim: int,
        n_actions: int,
        *,
        unit_dim: int | None = None,
        transform: Literal["attention", "hypernet"] = "attention",
        embed: int = 32,
        hypernet: int = 64,
        heads: int = 4,
        layers: int = 1,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if transform == "attention" and not unit_dim:
            raise ValueError("attention needs unit_dim, the width of an agent's own features")
        self.n_agents, self.n_actions, self.embed = n_agents, n_actions, embed
        self.unit_dim, self.transform, self.heads = unit_dim or 0, transform, heads
        g = generator

        def nets(n_in: int, n_out: int, width: int, depth: int, bias: bool = True) -> nn.ModuleList:
            made = (hypernetwork(n_in, n_out, width, g, depth, bias=bias) for _ in range(heads))
            return nn.ModuleList(made)

        if transform == "attention":
            self.query = nets(state_dim, embed, hypernet, 2, bias=False)
            self.key = nets(self.unit_dim, embed, hypernet, 1, bias=False)
        else:
            self.w = hypernetwork(state_dim, n_agents, hypernet, g)
        self.v = hypernetwork(state_dim, 1, embed, g)
        joint = state_dim + n_agents * n_actions
        self.importance = nets(state_dim, 1, hypernet, layers)
        self.of_agent = nets(state_dim, n_agents, hypernet, layers)
        self.of_action = nets(joint, n_agents, hypernet, layers)

    def transformation(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """w [..., N] and the mean square of the attention's logits, sum over heads. []."""
        if self.transform == "hypernet":
            return self.w(state).abs() + 1e-10, state.new_zeros(())
        units = state[..., : self.n_agents * self.unit_dim]
        units = units.unflatten(-1, (self.n_agents, self.unit_dim))
        weights, penalty = torch.full_like(units[..., 0], 1e-10), state.new_zeros(())
        for query, key in zip(self.query, self.key, strict=True):
            logits = (key(units) @ query(state).unsqueeze(-1)).squeeze(-1)  # [..., N]
            weights = weights + torch.softmax(logits / self.embed**0.5, -1)
            penalty = penalty + logits.square().mean()
        return weights, penalty

    def importances(self, state: Tensor, actions: Tensor) -> Tensor:
        """lambda_i(s, u) > 0. [..., S], actions [..., N] int64 -> [..., N]."""
        taken = F.one_hot(actions, self.n_actions).to(state.dtype).flatten(-2)
        joint = torch.cat([state, taken], -1)
        total = torch.zeros_like(state[..., :1])
        for key, agent, action in zip(self.importance, self.of_agent, self.of_action, strict=True):
            scale = key(state).abs() + 1e-10
            total = total + scale * torch.sigmoid(agent(state)) * torch.sigmoid(action(joint))
        return total

    def parts(
        self, q: Tensor, best: Tensor, actions: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """V_tot and A_tot of Q_tot = V_tot + A_tot, and the attention's penalty.

        Args:
            q: utilities of the actions taken. [..., N].
            best: max_u q_i over available actions. [..., N].
            actions: taken. [..., N] int64.
            state: [..., S].
        """
        w, penalty = self.transformation(state)
        shift = self.v(state) / self.n_agents
        value = (w * q + shift).sum(-1)
        advantage = (w * (q - best)).detach()
        return value, (advantage * (self.importances(state, actions) - 1)).sum(-1), penalty

    def forward(self, q: Tensor, best: Tensor, actions: Tensor, state: Tensor) -> Tensor:
        """Q_tot [...]; arguments as in ``parts``."""
        value, advantage, _ = self.parts(q, best, actions, state)
        return value + advantage


class CentralMixer(nn.Module):
    """An unrestricted mixer: a feed-forward network of [q, s], plus v(s) (weighted QMIX's Q*).

    Args:
        n_agents: N.
        state_dim: S.
        width: of the hidden layers.
        generator: of the initial weights.
    """

    def __init__(
        self, n_agents: int, state_dim: int, width: int = 256, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.net = hypernetwork(n_agents + state_dim, 1, width, generator, layers=4)
        self.v = hypernetwork(state_dim, 1, width, generator)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """[..., N], [..., S] -> [...]."""
        out: Tensor = self.net(torch.cat([q, state], -1)) + self.v(state)
        return out.squeeze(-1)

    def each(self, q: Tensor, state: Tensor) -> Tensor:
        """Many joint utilities of each state. [..., K, N], [..., S] -> [..., K]."""
        return self(q, state.unsqueeze(-2).expand(*q.shape[:-1], -1))


__all__ = ["VDN", "CentralMixer", "QMix", "QPlex", "hypernetwork"]
