"""Speed: an iteration against a plain GPT's, a masked one against a dense one, seeds at once.

    python -m papers.mst.bench [--json FILE]

The plain GPT is written out in the style of nanoGPT (plain.py), with AdamW and clipping as here.
MST saves operations that a dense matrix product makes all the same: here it is not faster. One
thread, CPU time, medians of interleaved repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from common import files
from common.cli import run_cli
from common.textlab.training import descend
from common.timing import alternately
from common.torch_utils import setup
from papers.mst.costs import prunable
from papers.mst.learning import adamw, gradient
from papers.mst.method import Masks
from papers.mst.plain import plain_of
from papers.mst.plan import patterns
from papers.mst.task import TASKS, Task, model_of


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    task: str = "gpt2-tiny"  # see task.TASKS
    repeats: int = 7  # interleaved


def iteration(task: Task, *, sparsity: float, cut: bool, evolves: bool) -> Callable[[], object]:
    """One iteration on random tokens."""
    model = model_of(task, task.width, task.heads, 0)
    draw = torch.Generator().manual_seed(0)
    masks = Masks(prunable(model, head=task.mask_head), sparsity, draw)
    optimizer = adamw(model, masks, task.lr, 0.1)
    windows = torch.randint(task.vocabulary, (task.batch, task.length + 1), generator=draw)
    attention = patterns(task, "sparse")[1][None, None] if cut else None

    def run() -> None:
        gradient(model, task, windows[:, :-1], windows[:, 1:], attention)
        if evolves:
            masks.evolve(sparsity, 0.15, masks.gradients(), draw)
            return
        if sparsity:
            masks.mask_gradients()
        descend(model, optimizer, task.lr)
        if sparsity:
            masks.mask_weights()

    return run


def plain_iteration(task: Task) -> Callable[[], object]:
    """One iteration of the plain GPT of the same shape on as many tokens."""
    model = plain_of(model_of(task, task.width, task.heads, 0))
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    norms = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, task.lr, betas=(0.9, 0.95), fused=True)
    draw = torch.Generator().manual_seed(0)
    windows = torch.randint(task.vocabulary, (task.batch, task.length + 1), generator=draw)

    def run() -> None:
        logits = model(windows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds of each kind of iteration."""
    setup("cpu", 0)
    task = TASKS[cfg.task]
    twice = replace(task, batch=2 * task.batch, micro=2 * task.micro)
    sides = {
        "plain GPT, nanoGPT's style": plain_iteration(task),
        "dense": iteration(task, sparsity=0.0, cut=False, evolves=False),
        "masked, 90 %": iteration(task, sparsity=0.9, cut=False, evolves=False),
        "masked, sparse attention": iteration(task, sparsity=0.9, cut=True, evolves=False),
        "update of the topology": iteration(task, sparsity=0.9, cut=True, evolves=True),
        "dense, twice the windows": iteration(twice, sparsity=0.0, cut=False, evolves=False),
    }
    found = alternately(sides, cfg.repeats)
    for side, value in found.items():
        print(f"{side}: {value:.1f} ms, {value / found['dense']:.2f} x", flush=True)
    if cfg.json:
        files.write_json(cfg.json, found)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
