"""Speed: relation attention by edge class against pair by pair, and seeds stacked against alone.

    python -m papers.commformer.bench [--json FILE]

Pair by pair is how the scores read: tensors of [B, N, N, D] for q_i + r_ij and k_j + r_ij. Forward
and backward of one attention, one thread, CPU time, medians of interleaved repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import files
from common.cli import run_cli
from common.stacked import seed_generators
from common.timing import alternately
from common.torch_utils import setup
from papers.commformer.agent import Agent
from papers.commformer.baselines import random_graph
from papers.commformer.config import Config
from papers.commformer.method import Graph, RelationAttention, make_graph, per_token
from papers.commformer.play import roll_out
from papers.commformer.ppo import ValueNorm
from papers.commformer.task import make_env

CPU = torch.device("cpu")


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    samples: int = 2560  # B
    agents: int = 5  # N
    width: int = 64  # D
    stack: int = 3  # seeds
    repeats: int = 5  # interleaved


def pair_by_pair(
    part: RelationAttention, q: Tensor, k: Tensor, v: Tensor, graph: Graph, embedding: Tensor
) -> Tensor:
    """``RelationAttention.forward`` with a relation per pair. [S, B, N, D]."""
    assert part.relation is not None
    seed = torch.arange(len(embedding)).view(-1, 1, 1)
    relation = part.relation(embedding)[seed, graph.classes.long()]  # [S, N, N, 2 D]
    of_q, of_k = relation.unsqueeze(1).chunk(2, dim=-1)
    scores = ((q.unsqueeze(3) + of_q) * (k.unsqueeze(2) + of_k)).sum(-1) / math.sqrt(q.shape[-1])
    C = graph.connectivity.unsqueeze(1)
    weights = scores.masked_fill(C == 0, -torch.inf).softmax(-1) * C
    return per_token(part.out, weights @ v)


def attentions(cfg: BenchConfig) -> dict[str, Callable[[], object]]:
    """One forward and backward each way."""
    generators = seed_generators((0,), 0)
    part = RelationAttention(generators, cfg.width)
    N = cfg.agents
    graph = make_graph(random_graph(seed_generators((0,), 1), N, max(1, 2 * N // 5)))
    embedding = torch.randn(1, 2, cfg.width)
    shape = (1, cfg.samples, N, cfg.width)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    return {
        "pair by pair": lambda: pair_by_pair(part, q, k, v, graph, embedding).sum().backward(),
        "by class": lambda: part(q, k, v, graph, embedding).sum().backward(),
    }


def updates(cfg: BenchConfig) -> dict[str, Callable[[], object]]:
    """One update of the network: of every seed alone, and of the stack."""

    def made(seeds: tuple[int, ...]) -> Callable[[], object]:
        config = Config(task="pp-5", seed=seeds, n_envs=max(1, cfg.samples // 40), horizon=40)
        envs = [make_env("pp-5", config.n_envs or 1) for _ in seeds]
        agent, norm = Agent(config, envs[0], CPU), ValueNorm(len(seeds), CPU)
        data, _ = roll_out(agent, envs, norm, seed_generators(seeds, 4), CPU)
        return lambda: agent.step(data, 11)

    alone = [made((seed,)) for seed in range(cfg.stack)]
    return {
        f"{cfg.stack} seeds alone": lambda: [step() for step in alone],
        f"{cfg.stack} seeds stacked": made(tuple(range(cfg.stack))),
    }


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds of each side, and how many times faster the second is."""
    setup("cpu", 0)
    result: dict[str, dict[str, float]] = {}
    for name, make in (("attention", attentions), ("step on phi", updates)):
        found = alternately(make(cfg), cfg.repeats)
        slow, fast = found.values()
        result[name] = {**found, "ratio": slow / fast}
        text = ", ".join(f"{side} {value:.1f} ms" for side, value in found.items())
        print(f"{name}: {text}; {slow / fast:.2f} x", flush=True)
    if cfg.json:
        files.write_json(cfg.json, result)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
