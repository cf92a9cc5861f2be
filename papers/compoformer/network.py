"""One decision transformer, and what each of K tasks has of it: features, heads, policies."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from common.control.adapters import add_lora, lora_parameters, use_lora
from common.control.decision_transformer import (
    DecisionTransformer,
    TransformerConfig,
    decision_transformer,
)
from common.control.sequences import Windows
from papers.compoformer.config import Config
from papers.compoformer.method import FREE, Fusion, MetaPolicy, composed, mask_of
from papers.compoformer.methods import METHODS
from papers.compoformer.task import ACTION_DIM, OBS_DIM, STREAMS

Tensors = dict[str, Tensor]


class Features(nn.Module):
    """A decision transformer's features as its forward pass, without a head."""

    def __init__(self, net: DecisionTransformer) -> None:
        super().__init__()
        self.net = net
        net.head = nn.Identity()  # type: ignore[assignment]

    def forward(self, windows: Windows) -> Tensor:
        """Hidden states at the state tokens. [B, T, d]"""
        return self.net.features(windows)


class Continual(nn.Module):
    """What has been learned of K tasks so far.

    Attributes:
        alpha: weights of the sources of each task [K, K], constant once the task's warm-up is over.
        decided: whether that is so. [K]
        grown: whether a task has learned with parameters of its own; it is then a source. [K]
        reused: whether a task does without: its policy is the composed one. [K]
        owner: of each maskable weight, see ``method.mask_of``. [D], empty without masks

    Args:
        cfg: of the run.
        texts: vectors of the tasks' sentences [K, e].
    """

    alpha: Tensor
    decided: Tensor
    grown: Tensor
    reused: Tensor
    owner: Tensor
    texts: Tensor

    def __init__(self, cfg: Config, texts: Tensor) -> None:
        super().__init__()
        self.method, self.stream, K = METHODS[cfg.method], STREAMS[cfg.task], len(texts)
        config = TransformerConfig(
            *(OBS_DIM, ACTION_DIM),
            max_steps=self.stream.limit,
            width=cfg.width,
            layers=cfg.layers,
            heads=cfg.heads,
            dropout=cfg.dropout,
        )
        trunk = Features(decision_transformer(config, cfg.seed))
        number = K if self.method.growth == "apart" else 1
        self.trunks = nn.ModuleList([trunk, *(copy.deepcopy(trunk) for _ in range(number - 1))])
        if self.method.growth == "lora":
            for k in range(K):
                add_lora(trunk.net.blocks, pair(k), 1_000 * cfg.seed + k, rank=cfg.rank)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)
            self.heads = nn.ModuleList([nn.Linear(cfg.width, ACTION_DIM) for _ in range(K)])
            fusions = [Fusion(cfg.width, ACTION_DIM) for _ in range(K * self.method.composes)]
            self.fusions = nn.ModuleList(fusions)
            metas = [
                MetaPolicy(texts.shape[1], cfg.text_width, self.method.initial)
                for _ in range(K * (self.method.composition == "attention"))
            ]
            self.metas = nn.ModuleList(metas)
        D = sum(p.numel() for p in self.maskable().values()) * (self.method.growth == "masks")
        self.register_buffer("texts", texts)
        self.register_buffer("alpha", torch.zeros(K, K))
        self.register_buffer("decided", torch.zeros(K, dtype=torch.bool))
        self.register_buffer("grown", torch.zeros(K, dtype=torch.bool))
        self.register_buffer("reused", torch.zeros(K, dtype=torch.bool))
        self.register_buffer("owner", torch.full((D,), FREE))

    # -- whose parameters ---------------------------------------------------------------------

    def base(self, task: int = 0) -> dict[str, nn.Parameter]:
        """A transformer's parameters by name, without low-rank pairs."""
        trunk = self.trunks[task if len(self.trunks) > 1 else 0]
        return {n: p for n, p in trunk.named_parameters() if "lora_" not in n}

    def maskable(self) -> dict[str, nn.Parameter]:
        """What masks are over: all of the transformer but the embedding of time steps."""
        return {n: p for n, p in self.base().items() if "embed_timestep" not in n}

    def low_rank(self, task: int) -> list[nn.Parameter]:
        """A and B of a task's pair in every block."""
        return lora_parameters(self.trunks[0].net.blocks, pair(task))  # type: ignore[union-attr, arg-type]

    def head_of(self, task: int) -> int:
        """Where a task's head is: a task that comes again in joint training has one head."""
        earlier = self.stream.earlier(task) if self.method.joint else None
        return task if earlier is None else earlier

    def exit(self, task: int) -> nn.Module:
        """A task's head, or its fusion: with a composition every task but the first has sources."""
        fused = self.method.composes and task > 0
        return self.fusions[task] if fused else self.heads[self.head_of(task)]

    def sources(self, task: int) -> list[int]:
        """S_k: the earlier tasks with parameters of their own."""
        return torch.nonzero(self.grown[:task]).flatten().tolist()

    # -- features and policies ----------------------------------------------------------------

    def features(self, task: int, windows: Windows) -> Tensor:
        """h_k: with what the task has of the transformer. [B, T, d]"""
        growth = self.method.growth
        trunk = self.trunks[task if growth == "apart" else 0]
        if growth == "lora":
            use_lora(trunk.net.blocks, pair(task))  # type: ignore[union-attr, arg-type]
        if growth == "masks" and self.grown[task]:
            found: Tensor = functional_call(trunk, self.masked(task), (windows,))
            return found
        found = trunk(windows)
        return found

    def masked(self, task: int) -> Tensors:
        """Eq. 8: the maskable weights with those zeroed that the task does not act with."""
        theta = self.maskable()
        mask = views(mask_of(self.owner, task), theta)
        return {name: p * mask[name] for name, p in theta.items()}

    def weigh(self, task: int) -> Tensor:
        """Eq. 1, or what stands in its place, over ``sources(task)``. [S]"""
        sources = self.sources(task)
        if self.decided[task]:
            return self.alpha[task, sources]
        if self.method.composition == "attention":
            found: Tensor = self.metas[task](self.texts[task], self.texts[sources])
            return found
        equal = torch.full((len(sources),), 1 / len(sources), device=self.alpha.device)
        return torch.zeros_like(equal) if self.method.composition == "own" else equal

    def policy(self, task: int, features: Mapping[int, Tensor]) -> Tensor:
        """Eq. 5, or the head where there is no source: a policy of one's own. [B, T, a]

        Args:
            features: by task: its own and, where it has sources, theirs.
        """
        sources = self.sources(task)
        if not (self.method.composes and sources):
            return torch.tanh(self.heads[self.head_of(task)](features[task]))
        mixed = composed(self.weigh(task), torch.stack([features[j] for j in sources]))
        found: Tensor = self.fusions[task](mixed, features[task])
        return found

    def all_features(self, tasks: Sequence[int], windows: Windows) -> dict[int, Tensor]:
        """Features of several tasks on the same windows."""
        return {j: self.features(j, windows) for j in tasks}

    def act(self, task: int, windows: Windows) -> Tensor:
        """The policy of a task as it is now, learned, reused or not yet learned. [B, T, a]

        A task without parameters of its own acts with the composed policy: that of the source with
        the largest weight (authors' code), or the mixture where weights are equal.
        """
        sources = self.sources(task)
        if self.grown[task] or not sources or self.method.composition in ("none", "own"):
            needed = [*sources, task] if self.method.composes else [task]
            return self.policy(task, self.all_features(needed, windows))
        weights = self.weigh(task)
        if self.method.composition != "uniform":
            chosen = sources[int(weights.argmax())]
            return self.act(chosen, windows)
        features = self.all_features(sources, windows)
        actions = torch.stack([self.policy(j, features) for j in sources])
        return composed(weights, actions)

    @torch.no_grad()
    def of_sources(self, task: int, windows: Windows) -> tuple[Tensor, Tensor]:
        """Features and actions of a task's sources, in eval mode, without gradient. [S, B, T, …]"""
        was_training = self.training
        self.eval()
        sources = self.sources(task)
        features = self.all_features(sources, windows)
        actions = torch.stack([self.policy(j, features) for j in sources])
        self.train(was_training)
        return torch.stack([features[j] for j in sources]), actions


def pair(task: int) -> str:
    """Name of a task's low-rank pair."""
    return f"task{task}"


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """Tensors as one vector. [D]"""
    return torch.cat([t.flatten() for t in tensors.values()])


def views(vector: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """A vector [D] as tensors with the names and shapes of ``like``."""
    parts = vector.split([t.numel() for t in like.values()])
    return {n: part.view(t.shape) for (n, t), part in zip(like.items(), parts, strict=True)}


def acting(net: Continual, task: int) -> Any:
    """The policy of a task for roll-outs: windows of B episodes -> actions [B, a]; eval mode."""
    net.eval()

    @torch.no_grad()
    def policy(windows: Windows) -> Tensor:
        return net.act(task, windows)[:, -1]

    return policy


def learned(net: Continual, task: int) -> Iterator[nn.Parameter]:
    """What the updates of a task change (masks narrow it down): its own, the shared, its exit."""
    growth = net.method.growth
    if growth == "lora":
        yield from net.low_rank(task)
    if growth in ("shared", "apart") or (growth == "lora" and task == 0):
        yield from net.base(task).values()
    if growth == "masks":
        yield from net.maskable().values()
    if net.method.joint:
        yield from net.heads.parameters()
        return
    yield from net.exit(task).parameters()
    if net.method.memory and not net.method.projected:  # what is rehearsed goes through old heads
        for j in range(task):
            yield from net.heads[j].parameters()
