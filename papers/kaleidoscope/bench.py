"""Milliseconds of a gradient step through the agents' networks, by how weights are held.

    python -m papers.kaleidoscope.bench [--json FILE]

Forward and backward over whole episodes (1R3, 64 units): one network for all; masks, with each
agent's weights made once for the whole sequence; masks, with a weight gathered for every sample, as
a reader of the equations may write it; a network each; and five runs' networks stacked against five
steps of one. CPU time of one thread, medians of interleaved repeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from common import files
from common.cli import run_cli
from common.marl.recurrent import StackedGRU
from common.torch_utils import setup
from papers.kaleidoscope.agents import Agents
from papers.kaleidoscope.baselines import PlainLinear
from papers.kaleidoscope.methods import METHODS

N, N_IN, N_ACTIONS, HIDDEN = 4, 24, 5, 64  # of the hunt
STACK = 5  # runs in the stack


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    batch: int = 16  # episodes
    steps: int = 26  # moments of an episode
    repeats: int = 9  # interleaved repeats of each side
    updates: int = 5  # gradient steps per repeat


def gathered(agents: Agents, inputs: Tensor, types: Tensor) -> Tensor:
    """The forward with a weight for every sample, [B T N, in, out]. [B, T, N, in] -> [..., A]."""
    B, T, n, _ = inputs.shape
    owner = torch.arange(n).repeat(B * T)

    def linear(x: Tensor, layer: int) -> Tensor:
        weight, bias = agents.layers[layer].effective()  # type: ignore[operator]
        return torch.bmm(x.unsqueeze(1), weight[owner]).squeeze(1) + bias[0]

    x = F.relu(linear(inputs.reshape(B * T * n, -1), 0)).view(B, T, n, -1)
    h = agents.gru(x.permute(1, 2, 0, 3).reshape(T, 1, n * B, -1))
    h = h.view(T, n, B, -1).permute(2, 0, 1, 3).reshape(B * T * n, -1)
    return linear(F.relu(linear(F.relu(linear(h, 1)), 2)), 3).view(B, T, n, -1)


class Stack(torch.nn.Module):
    """``STACK`` shared networks side by side, as a stack of seeds would hold them."""

    def __init__(self) -> None:
        super().__init__()
        generators = [torch.Generator().manual_seed(s) for s in range(STACK)]
        sizes = [N_IN, HIDDEN, HIDDEN, HIDDEN, N_ACTIONS]
        self.layers = torch.nn.ModuleList(
            PlainLinear(generators, sizes[i], sizes[i + 1]) for i in range(4)
        )
        self.gru = StackedGRU(generators, HIDDEN, HIDDEN)

    def forward(self, inputs: Tensor) -> Tensor:
        """[STACK, T, rows, in] -> [STACK, T rows, A]."""
        S, T, rows, _ = inputs.shape
        x = F.relu(self.layers[0](inputs.flatten(1, 2))).view(S, T, rows, -1)
        h = self.gru(x.transpose(0, 1)).transpose(0, 1).reshape(S, T * rows, -1)
        return self.layers[3](F.relu(self.layers[2](F.relu(self.layers[1](h)))))


def sides(cfg: BenchConfig) -> dict[str, tuple[Callable[[], Tensor], int]]:
    """Name -> (what gives an output to differentiate, gradient steps that it stands for)."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(cfg.batch, cfg.steps, N, N_IN, generator=generator)
    types = torch.zeros(inputs.shape[:3], dtype=torch.int64)

    def net(name: str) -> Agents:
        return Agents(METHODS[name], N, 1, N_IN, N_ACTIONS, HIDDEN, generator=generator)

    shared, masked, own, stack = net("fups-id"), net("kaleidoscope"), net("nops"), Stack()
    many = torch.randn(STACK, cfg.steps, cfg.batch * N, N_IN, generator=generator)
    return {
        "one network (FuPS)": (lambda: shared(inputs, types), 1),
        "masks, weights made once": (lambda: masked(inputs, types), 1),
        "masks, gathered by sample": (lambda: gathered(masked, inputs, types), 1),
        "a network each (NoPS)": (lambda: own(inputs, types), 1),
        f"one network, {STACK} runs stacked": (lambda: stack(many), STACK),
    }


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds per gradient step, and how many times one network's they are."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    chosen = sides(cfg)
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for call, _ in chosen.values():
        call().square().mean().backward()
    for _ in range(cfg.repeats):
        for name, (call, count) in chosen.items():
            began = time.process_time()
            for _ in range(cfg.updates):
                call().square().mean().backward()
            seconds[name].append((time.process_time() - began) / (cfg.updates * count))
    one = median(seconds["one network (FuPS)"])
    result = {
        name: {"ms": 1e3 * median(values), "times one network": median(values) / one}
        for name, values in seconds.items()
    }
    for name, found in result.items():
        print(f"{name:32s} {found['ms']:7.2f} ms, {found['times one network']:.2f} x", flush=True)
    if cfg.json:
        files.write_json(cfg.json, result)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
