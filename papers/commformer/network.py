"""The transformer over agents that messages pass through: encoder, critic, decoder.

It is the Multi-Agent Transformer's, with the attention of ``method.RelationAttention``; actions are
chosen one agent after the other. Stacked over S training seeds.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.stacked import Initialiser, StackedLayerNorm, StackedLinear, rand, zeros
from papers.commformer.method import (
    Generators,
    Graph,
    RelationAttention,
    gated,
    per_token,
    small,
    straight_through,
)

NEVER = -1e10  # logit of an action that is not available
OPEN = 2.0  # first logit of an open gate, against 0 of a closed one
inner: Initialiser = functools.partial(nn.init.orthogonal_, gain=math.sqrt(2.0))
last: Initialiser = functools.partial(nn.init.orthogonal_, gain=0.01)


@dataclass(frozen=True)
class Shape:
    """Sizes of a network and what it is made of.

    Attributes:
        n_agents: N.
        obs_dim: numbers in an observation.
        n_actions: A.
        width: D.
        dropout: share of zeros in the encoder while training.
        shared_actor: one head for all agents instead of one each.
        gate: agents decide whether to receive.
        relations, as_released: see ``RelationAttention``.
        silent: every token of the decoder is the start symbol.
    """

    n_agents: int
    obs_dim: int
    n_actions: int
    width: int = 64
    dropout: float = 0.1
    shared_actor: bool = False
    gate: bool = False
    relations: bool = True
    as_released: bool = False
    silent: bool = False


class Encoder(nn.Module):
    """Observations -> representations that one round of messages has passed, and values."""

    def __init__(self, generators: Generators, shape: Shape) -> None:
        super().__init__()
        S, D = len(generators), shape.width
        make = functools.partial(StackedLinear, generators, bias_init=zeros)
        self.norm_obs = StackedLayerNorm(S, shape.obs_dim)
        self.embed = make(shape.obs_dim, D, weight_init=inner)
        self.norms = nn.ModuleList(StackedLayerNorm(S, D) for _ in range(4))
        self.attention = RelationAttention(
            generators, D, relations=shape.relations, as_released=shape.as_released
        )
        self.inside, self.outside = (make(D, D, weight_init=inner) for _ in range(2))
        self.value_inside = make(D, D, weight_init=inner)
        self.value_out = make(D, 1, weight_init=last)
        self.gate = make(D, 2, weight_init=last) if shape.gate else None
        if self.gate is not None:  # open at first: messages are worth nothing yet
            with torch.no_grad():
                self.gate.bias[..., 1] = OPEN
        self.rate = shape.dropout

    def embedded(self, obs: Tensor) -> Tensor:
        """LN(GELU(Linear(LN(o)))): what an agent knows by itself. [S, B, N, D]."""
        x = per_token(self.norm_obs, obs)
        return per_token(self.norms[0], F.gelu(per_token(self.embed, x)))

    def gates(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Eq. 8 (extension): 0 or 1 by each agent's own embedding, straight through. [S, B, N].

        Args:
            x: of ``embedded``.
            noise: Gumbel noise [S, B, N, 2]; None: the more probable, as at execution.
        """
        assert self.gate is not None
        logits = per_token(self.gate, x)
        soft = (logits if noise is None else logits + noise).softmax(-1)[..., 1]
        return straight_through((soft > 0.5).to(soft.dtype), soft)

    def forward(
        self, x: Tensor, graph: Graph, edges: Tensor, dropout: Generators | None
    ) -> tuple[Tensor, Tensor]:
        """Embedded observations -> representations [S, B, N, D] and values [S, B, N].

        ``dropout``: generators of the zeros; None: none.
        """

        def drop(y: Tensor) -> Tensor:
            if dropout is None or self.rate == 0:
                return y
            return y * (rand(dropout, *y.shape[1:]) >= self.rate) / (1 - self.rate)

        attention = self.attention
        q, k, v = (per_token(f, x) for f in (attention.query, attention.key, attention.value))
        x = per_token(self.norms[1], x + drop(attention(q, k, v, graph, edges)))
        hidden = drop(F.relu(per_token(self.inside, x)))
        x = per_token(self.norms[2], x + drop(per_token(self.outside, hidden)))
        value = per_token(self.norms[3], F.gelu(per_token(self.value_inside, x)))
        return x, per_token(self.value_out, value).squeeze(-1)


class Heads(nn.Module):
    """LN - Linear - GELU - LN - Linear, for every agent its own or one for all.

    Args:
        generators: of the weights.
        n: heads.
        shape: of the network.
    """

    def __init__(self, generators: Generators, n: int, shape: Shape) -> None:
        super().__init__()
        each, D = [g for g in generators for _ in range(n)], shape.width
        inside = StackedLinear(each, D, D, inner, zeros)
        out = StackedLinear(each, D, shape.n_actions, last, zeros)
        parts = [part for layer in (inside, out) for part in (layer.weight, layer.bias)]
        # [S, n, ...], so that a gradient has its seed in front
        self.layers = nn.ParameterList(part.detach().unflatten(0, (-1, n)) for part in parts)
        ones = torch.ones(len(generators), n, 1, D)
        self.norms = nn.ParameterList((ones, 0 * ones, ones.clone(), 0 * ones))

    def forward(self, hidden: Tensor, avail: Tensor, agent: int | None = None) -> Tensor:
        """Logits [S, B, N, A] of hidden [S, B, N, D] and avail [S, B, N, A].

        ``agent``: hidden and avail are of this one alone (N = 1).
        """
        S, B, N, _ = hidden.shape
        n = self.layers[0].shape[1]
        row = slice(None) if agent is None or n == 1 else slice(agent, agent + 1)
        w_in, b_in, w_out, b_out = (part[:, row].flatten(0, 1) for part in self.layers)
        g_in, h_in, g_out, h_out = (part[:, row].flatten(0, 1) for part in self.norms)
        x = hidden.transpose(1, 2).reshape(len(w_in), -1, hidden.shape[-1])
        x = F.layer_norm(x, x.shape[-1:]) * g_in + h_in
        x = F.gelu(torch.baddbmm(b_in, x, w_in))
        x = F.layer_norm(x, x.shape[-1:]) * g_out + h_out
        x = torch.baddbmm(b_out, x, w_out)
        return x.reshape(S, N, B, -1).transpose(1, 2).masked_fill(~avail, NEVER)


class Decoder(nn.Module):
    """Representations and the actions of the agents before -> logits, in the agents' order.

    Keys and values are tokens, so that it is actions that travel here.
    """

    def __init__(self, generators: Generators, shape: Shape) -> None:
        super().__init__()
        S, D = len(generators), shape.width
        make = functools.partial(StackedLinear, generators, bias_init=zeros)
        tables = [torch.empty(D, shape.n_actions + 1) for _ in generators]
        for table, g in zip(tables, generators, strict=True):
            inner(table, generator=g)
        self.symbols = nn.Parameter(torch.stack(tables).mT.contiguous())  # [S, A + 1, D]
        self.norms = nn.ModuleList(StackedLayerNorm(S, D) for _ in range(4))
        attention = functools.partial(
            RelationAttention,
            *(generators, D),
            causal=True,
            relations=shape.relations,
            as_released=shape.as_released,
        )
        self.among_actions, self.from_actions = attention(), attention()
        self.inside, self.outside = (make(D, D, weight_init=inner) for _ in range(2))
        self.heads = Heads(generators, 1 if shape.shared_actor else shape.n_agents, shape)

    def forward(self, rep: Tensor, tokens: Tensor, graph: Graph, edges: Tensor) -> Tensor:
        """Hidden states of the agents 1 to n. [S, B, n, D].

        Args:
            rep: of the encoder, [S, B, n, D].
            tokens: one-hot of a^{i-1} among the actions and, last, the start symbol,
                [S, B, n, A + 1].
            graph: of these agents.
            edges: E, [S, 2, D].
        """
        first, second = self.among_actions, self.from_actions
        # there are A + 1 different tokens: what depends on the token alone is computed per symbol
        symbols = self.norms[0](F.gelu(self.symbols))  # [S, A + 1, D]
        parts = (symbols, first.query(symbols), first.key(symbols), first.value(symbols))
        table = torch.cat(parts, dim=-1).unsqueeze(1)
        x, q, k, v = (tokens @ table).chunk(4, dim=-1)
        x = per_token(self.norms[1], x + first(q, k, v, graph, edges))
        q, k, v = per_token(second.query, rep), per_token(second.key, x), per_token(second.value, x)
        x = per_token(self.norms[2], rep + second(q, k, v, graph, edges))
        hidden = F.gelu(per_token(self.inside, x))
        return per_token(self.norms[3], x + per_token(self.outside, hidden))


class CommFormer(nn.Module):
    """Encoder, decoder and edge embeddings; the graph is given."""

    def __init__(self, generators: Generators, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        tables = [small(torch.empty(2, shape.width), generator=g) for g in generators]
        self.edges = nn.Parameter(torch.stack(tables))  # E, [S, 2, D]
        self.encoder = Encoder(generators, shape)
        self.decoder = Decoder(generators, shape)

    def encode(
        self,
        obs: Tensor,
        graph: Graph,
        *,
        dropout: Generators | None = None,
        gate_noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Graph, Tensor | None]:
        """Representations [S, B, N, D], values [S, B, N], the graph in use, gates [S, B, N]."""
        x = self.encoder.embedded(obs)
        gate = None
        if self.encoder.gate is not None:
            gate = self.encoder.gates(x, gate_noise)
            graph = gated(graph, gate)
        rep, value = self.encoder(x, graph, self.edges, dropout)
        return rep, value, graph, gate

    def tokens(self, actions: Tensor) -> Tensor:
        """Shifted by one agent, after the start symbol. [S, B, N] -> [S, B, N, A + 1]."""
        start = torch.full_like(actions[..., :1], self.shape.n_actions)
        if self.shape.silent:
            before = start.expand_as(actions)
        else:
            before = torch.cat((start, actions[..., :-1]), dim=-1)
        return F.one_hot(before, self.shape.n_actions + 1).to(self.edges.dtype)

    def logits(self, rep: Tensor, actions: Tensor, avail: Tensor, graph: Graph) -> Tensor:
        """Eq. 6, teacher-forced: logits given the actions of those before. [S, B, N, A]."""
        hidden = self.decoder(rep, self.tokens(actions), graph, self.edges)
        return self.decoder.heads(hidden, avail)

    @torch.no_grad()
    def act(
        self, obs: Tensor, avail: Tensor, graph: Graph, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Graph]:
        """One agent after the other.

        Args:
            obs: [S, B, N, O].
            avail: [S, B, N, A].
            graph: the exact one.
            noise: Gumbel noise [S, B, N, A]; None: the most probable actions.

        Returns:
            actions [S, B, N], their log-probabilities [S, B, N], values [S, B, N], graph in use.
        """
        rep, value, graph, _ = self.encode(obs, graph)
        actions = torch.zeros(obs.shape[:3], dtype=torch.int64, device=obs.device)
        log_probs = []
        for i in range(self.shape.n_agents):
            n = i + 1
            tokens = self.tokens(actions[..., :n])
            hidden = self.decoder(rep[:, :, :n], tokens, graph.first(n), self.edges)[:, :, i:]
            logits = self.decoder.heads(hidden, avail[:, :, i:n], i)
            log_p = logits.log_softmax(-1).squeeze(2)
            chosen = (log_p if noise is None else log_p + noise[:, :, i]).argmax(-1)
            actions[..., i] = chosen
            log_probs.append(log_p.gather(-1, chosen.unsqueeze(-1)).squeeze(-1))
        return actions, torch.stack(log_probs, dim=-1), value, graph
