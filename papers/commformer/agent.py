"""What a run trains: the network of every seed, its graph, and their optimisers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.marl.protocol import BatchEnv
from common.stacked import clip_grad_norm_per_seed, seed_generators
from papers.commformer.baselines import random_graph
from papers.commformer.config import Config, settings_of, updates_of
from papers.commformer.method import Graph, edges_per_row, gumbel, make_graph, sample_graph
from papers.commformer.methods import METHODS
from papers.commformer.network import CommFormer, Shape
from papers.commformer.ppo import Data, loss_of

MAX_NORM = 10.0  # of a seed's gradient
EVERY = 5  # each fifth epoch is the graph's


class Agent:
    """The networks and graphs of S seeds.

    Attributes:
        net: phi.
        alpha: of the graph, [S, N, N]; adjacency itself where it is not learned.
        k: edges per row.
        learned: whether the graph is.
    """

    def __init__(self, cfg: Config, env: BatchEnv, device: torch.device) -> None:
        if env.n_actions == 0:
            raise UserError(f"{env.name} has continuous actions; only discrete ones are here")
        self.cfg, self.settings = cfg, settings_of(cfg)
        self.scheme = scheme = METHODS[cfg.method]
        self.n = env.n_agents
        sparsity = cfg.sparsity if scheme.sparsity is None else scheme.sparsity
        self.k = min(edges_per_row(self.n, sparsity), self.n - scheme.exclude_diagonal)
        shape = Shape(
            *(self.n, env.obs_dim, env.n_actions, cfg.width, cfg.dropout),
            shared_actor=self.settings.shared_actor,
            gate=scheme.gate,
            relations=scheme.relations,
            as_released=scheme.as_released,
            silent=scheme.tokens == "silent",
        )
        self.net = CommFormer(seed_generators(cfg.seed, 0), shape).to(device)
        self.learned = scheme.graph == "learned"
        self.alpha = self._first_graph(len(cfg.seed)).to(device).requires_grad_(self.learned)
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), lr=self.settings.lr, eps=1e-5, fused=True
        )
        graph_lr = cfg.graph_lr if scheme.graph_lr is None else scheme.graph_lr
        self.graph_optimizer = torch.optim.Adam([self.alpha], lr=graph_lr)
        self.noise = seed_generators(cfg.seed, 1, device)  # of graphs and gates
        self.zeros = seed_generators(cfg.seed, 2, device)  # of dropout
        self.shuffling = seed_generators(cfg.seed, 5, device)
        self.penalty = scheme.gate_penalty if cfg.gate_penalty is None else cfg.gate_penalty
        self.updates = updates_of(self.settings)

    def _first_graph(self, S: int) -> Tensor:
        n, scheme = self.n, self.scheme
        if scheme.graph == "random":
            generators = seed_generators(self.cfg.seed, 3)
            return random_graph(generators, n, self.k, exclude_diagonal=scheme.exclude_diagonal)
        return torch.zeros(S, n, n) if scheme.graph == "none" else torch.ones(S, n, n)

    # -- graphs -----------------------------------------------------------------------------------

    def graph_of(self, adjacency: Tensor) -> Graph:
        """Connectivity and edge classes of an adjacency."""
        scheme = self.scheme
        return make_graph(
            adjacency,
            "replaced" if scheme.exclude_diagonal else self.settings.diagonal,
            truncated=scheme.as_released,
            self_edges=scheme.relations,
        )

    @torch.no_grad()
    def exact(self) -> Tensor:
        """The adjacency at execution, 0 or 1. [S, N, N]."""
        if not self.learned:
            return self.alpha.detach().clone()
        return sample_graph(
            self.alpha.detach(), self.k, exclude_diagonal=self.scheme.exclude_diagonal
        )

    def noisy(self, update: int) -> bool:
        """Whether graphs and gates are sampled in this update."""
        return update <= self.settings.post_ratio * self.updates

    def training_graph(self, update: int) -> Graph:
        """Of one pass: alpha itself in the warm-up, then sampled, at last (post_stable) exact."""
        if not self.learned:
            return self.graph_of(self.alpha)
        if update <= self.settings.warmup:
            return self.graph_of(self.alpha)
        n, excluded = self.n, self.scheme.exclude_diagonal
        noise = gumbel(self.noise, n, n) if self.noisy(update) else None
        return self.graph_of(sample_graph(self.alpha, self.k, noise, exclude_diagonal=excluded))

    # -- learning ---------------------------------------------------------------------------------

    def loss(
        self, data: Data, update: int, *, dropout: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of every seed [S] with the graph of this pass, and what is logged."""
        B = data.obs.shape[1]
        noisy = self.scheme.gate and self.noisy(update)
        rep, value, graph, gate = self.net.encode(
            data.obs,
            self.training_graph(update),
            dropout=self.zeros if dropout else None,
            gate_noise=gumbel(self.noise, B, self.n, 2) if noisy else None,
        )
        logits = self.net.logits(rep, data.actions, data.avail, graph)
        loss, logged = loss_of(logits, value, data, self.settings.clip)
        if gate is not None:
            if update > self.settings.warmup:
                loss = loss + self.penalty * gate.mean((1, 2))
            logged["gate"] = gate.detach().mean((1, 2))
        return loss, {"loss": loss.detach(), **logged}

    def epoch(self, data: Data, update: int, epoch: int) -> dict[str, Tensor]:
        """One pass over the roll-out in mini-batches; what the last of them logged.

        Every fifth is the graph's, the others are the network's (Eq. 7). With a graph that is
        not learned the fifth is left out, so that all methods make the same steps on phi.
        """
        of_graph = epoch % EVERY == 0
        if of_graph and not self.learned:
            return {}
        logged: dict[str, Tensor] = {}
        for part in data.split(self.settings.mini_batches, self.shuffling):
            logged = self.step_graph(part, update) if of_graph else self.step(part, update)
        return logged

    def step_graph(self, data: Data, update: int) -> dict[str, Tensor]:
        """One step on alpha alone."""
        loss, _ = self.loss(data, update)
        (self.alpha.grad,) = torch.autograd.grad(loss.sum(), (self.alpha,))
        self.graph_optimizer.step()
        return {}

    def step(self, data: Data, update: int) -> dict[str, Tensor]:
        """One step on phi alone."""
        loss, logged = self.loss(data, update)
        parameters = list(self.net.parameters())
        gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        logged["grad_norm"] = clip_grad_norm_per_seed(parameters, MAX_NORM)
        self.optimizer.step()
        return logged

    # -- checkpoints ------------------------------------------------------------------------------

    def _generators(self) -> list[torch.Generator]:
        return [*self.noise, *self.zeros, *self.shuffling]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "net": self.net.state_dict(),
            "alpha": self.alpha.detach(),
            "optimizer": self.optimizer.state_dict(),
            "graph_optimizer": self.graph_optimizer.state_dict(),
            "generators": [g.get_state() for g in self._generators()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes back to what ``state`` gave."""
        self.net.load_state_dict(state["net"])
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.graph_optimizer.load_state_dict(state["graph_optimizer"])
        for generator, saved in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(saved)
