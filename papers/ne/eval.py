"""A run directory -> rows: returns, what neurons did, and what topologies and review did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.ne.config import SWEPT, Config, resolve
from papers.ne.drq import DrQConfig
from papers.ne.method import connections
from papers.ne.methods import METHODS
from papers.ne.pixels import TASKS as PIXELS
from papers.ne.probe import TASK as PROBE
from papers.ne.probe import ProbeConfig

LAST = 5  # tasks of the probe that the first and the last part of training are
NEURONS = ("inactive", "dormant", "fau", "density")
Lines = Sequence[Mapping[str, Any]]
Add = Callable[..., None]


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


@dataclass
class Settings:
    """What the configurations of all kinds of run have."""

    method: str
    task: str


def table(lines: Lines, name: str) -> NDArray[np.float64]:
    """A logged quantity, a line per step. [K, S]."""
    return np.array([line[name] for line in lines], dtype=np.float64)


def quarters(steps: NDArray, begin: int, end: int) -> tuple[NDArray, NDArray]:
    """Which evaluations lie in the first (one at least) and the last quarter of training.

    Args:
        steps: of the evaluations, the last one at the end of training. [K]
        begin, end: of training.

    Returns:
        [K] bool each.
    """
    share = (steps - begin) / (end - begin)
    return (share <= 0.25) | (share == share.min()), share > 0.75


def ends(direction: NDArray, last: NDArray) -> NDArray:
    """Evaluations in the later halves of the last two phases: one phase for each direction.

    Args:
        direction: that was trained at each evaluation. [K]
        last: which lie in the last quarter of training; taken where no direction flips. [K] bool

    Returns:
        [K] bool.
    """
    turns = np.flatnonzero(np.diff(direction)) + 1
    if not len(turns):
        return last
    found = np.zeros(len(direction), dtype=bool)
    bounds = [0, *turns, len(direction)]
    for begin, end in pairwise(bounds[-3:]):
        found[begin + (end - begin) // 2 : end] = True
    return found


def add_returns(lines: Lines, steps: NDArray, last: NDArray, add: Add) -> None:
    """Return on what is being trained, and on the other direction where there is one.

    The final return is of both directions, for one is harder to run in; the final one of the other
    direction is the last quarter's, when what is reviewed is of the other direction.
    """
    forward = table(lines, "forward")
    backward = table(lines, "backward") if "backward" in lines[0] else forward
    direction = np.array([line.get("direction", 1.0) for line in lines])[:, None]
    trained = np.where(direction > 0, forward, backward)
    other = np.where(direction > 0, backward, forward)
    add("return", trained, step=steps)
    add("final_return", trained[ends(direction[:, 0], last)].mean(0))
    add("mean_return", trained.mean(0))
    if (turns := np.flatnonzero(np.diff(direction[:, 0]))).size > 1:  # learned a second time
        begins = np.array([0, *(turns + 1), len(steps)])
        again, before = begins[-2:], begins[-4:-2]
        add("relearned", trained[slice(*again)].mean(0) - trained[slice(*before)].mean(0))
    if (direction < 0).any():
        add("other_return", other, step=steps)
        add("final_other", other[last].mean(0))


def add_neurons(lines: Lines, steps: NDArray, first: NDArray, last: NDArray, add: Add) -> None:
    """Shares of neurons and connections: curves, and what claims read."""
    for part in ("critic", "actor"):
        for kind in NEURONS:
            add(f"{part}_{kind}", table(lines, f"{part}_{kind}"), step=steps)
        inactive = table(lines, f"{part}_inactive")
        add(f"{part}_final_dormant", table(lines, f"{part}_dormant")[last].mean(0))
        add(f"{part}_active", 1 - inactive[last].mean(0))
        add(f"{part}_inactive_rise", inactive[last].mean(0) - inactive[first].mean(0))


def add_review(lines: Lines, last: NDArray, add: Add) -> None:
    """Share of reviewed updates, and how much of it was of another direction, at the end."""
    updates, reviewed = table(lines, "updates"), table(lines, "reviewed")
    add("reviewed_share", reviewed.sum(0) / updates.sum(0))
    if "review_other" in lines[0]:
        other = table(lines, "review_other")[last].sum(0)
        add("review_other", other / np.maximum(reviewed[last].sum(0), 1))


def add_topology(lines: Lines, parts: Sequence[str], add: Add) -> None:
    """Changes of the topologies, from the log: none if it never changed."""
    found: dict[str, list[NDArray]] = {"least_growth": [], "most_pruned": []}
    for part in parts:
        logged = [line for line in lines if f"{part}_least" in line]
        if logged:
            found["least_growth"].append(table(logged, f"{part}_least").min(0))
            found["most_pruned"].append(table(logged, f"{part}_share").max(0))
            add(f"{part}_pruned", table(logged, f"{part}_pruned").sum(0))
            add(f"{part}_skipped", [len(logged)] * len(table(logged, f"{part}_share")[0]))
    if found["least_growth"]:
        add("least_growth", np.min(found["least_growth"], axis=0))
        add("most_pruned", np.max(found["most_pruned"], axis=0))


def missing(masks: Sequence[Any], end_sparsity: float, dense: int = 0) -> NDArray:
    """Largest share of a layer's target that is not there (or is too much). [S].

    Args:
        masks: of a stack of networks. [G, in, out] each
        end_sparsity: of the target.
        dense: last layers that take no part.
    """
    taking_part = [np.asarray(mask) for mask in masks][: len(masks) - dense]
    target = connections([mask.shape[1:] for mask in taking_part], end_sparsity)
    gap = [abs(m.sum((1, 2)) - n) / n for m, n in zip(taking_part, target, strict=True)]
    return np.max(gap, axis=0)


def of_control(run: Run, add: Add) -> None:
    """Rows of TD3 on a control task."""
    cfg = run.config(Config)
    setting, ne = resolve(cfg)
    every = run.metrics()
    lines = [line for line in every if "forward" in line]
    steps = table(lines, "step")
    first, last = quarters(steps, setting.warm_up, setting.steps)
    add_returns(lines, steps, last, add)
    [floors] = [line for line in every if "untrained" in line]
    for name in ("untrained", "random"):
        add(f"{name}_return", floors[name])
    add_neurons(lines, steps, first, last, add)
    add_review(lines, last, add)
    add_topology(every, ("critic", "actor"), add)
    if ne.growth != "none":
        final, gaps = run.final(), []
        for part in ("critic", "actor") if METHODS[cfg.method].actor else ("critic",):
            gap = missing(final[part]["topology"]["masks"], ne.end_sparsity)
            gaps.append(gap.reshape(len(cfg.seed), -1).max(1))
        add("target_missed", np.max(gaps, axis=0))


def of_probe(run: Run, add: Add) -> None:
    """Rows of the probe; a curve's step is the number of the task."""
    cfg = run.config(ProbeConfig)
    every = run.metrics()
    lines = [line for line in every if "accuracy" in line]
    early = [line for line in every if "early_accuracy" in line]
    n, number = min(LAST, len(lines)), 1 + np.arange(len(lines))
    for name in ("accuracy", "inactive", "dormant", "fau", "density"):
        add(name, table(lines, name), step=number)
    add("early_accuracy", table(early, "early_accuracy"), step=number)
    for name, found in (("accuracy", lines), ("early_accuracy", early)):
        values = table(found, name)
        add(f"first_{name}", values[:n].mean(0))
        add(f"last_{name}", values[-n:].mean(0))
    inactive = table(lines, "inactive")
    add("last_inactive", inactive[-n:].mean(0))
    add("last_fau", table(lines, "fau")[-n:].mean(0))
    add("inactive_rise", inactive[-n:].mean(0) - inactive[:n].mean(0))
    add_topology(every, ("net",), add)
    if any("net_least" in line for line in every):
        add("target_missed", missing(run.final()["topology"]["masks"], cfg.end_sparsity))


def of_pixels(run: Run, add: Add) -> None:
    """Rows of DrQ; a curve's step is the number of the episode."""
    cfg = run.config(DrQConfig)
    every = run.metrics()
    lines = [line for line in every if "forward" in line]
    steps = table(lines, "step")
    first, last = quarters(steps, 0, cfg.training)
    add_returns(lines, steps, last, add)
    add_neurons(lines, steps, first, last, add)
    add_review(lines, last, add)
    add_topology(every, ("critic", "actor"), add)


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    setup(cfg.device, 0)
    known = run.config(Settings)
    kind: Any = Config
    of: Callable[[Run, Add], None] = of_control
    if known.task == PROBE:
        kind, of = ProbeConfig, of_probe
    elif known.task in PIXELS:
        kind, of = DrQConfig, of_pixels
    settings = run.config(kind)
    METHODS[known.method]  # an unknown one is refused
    seeds = (settings.seed,) if isinstance(settings.seed, int) else settings.seed
    given = {name: getattr(settings, name, None) for name in SWEPT}
    given["lr"] = learning_rate(settings)
    labels = {name: given[name] for name in settings.labels}
    label = {"method": known.method, "task": known.task, **labels}
    rows: list[dict[str, Any]] = []

    def add(metric: str, values: Any, step: Any = None, **more: Any) -> None:
        """One row per seed, of a number [S] or of a curve [K, S]."""
        for i, seed in enumerate(seeds):
            row = {**label, "seed": seed, "metric": metric, **more}
            if step is None:
                rows.append({**row, "value": float(values[i])})
            else:
                curve = [float(v) for v in np.asarray(values)[:, i]]
                rows.append({**row, "step": [int(s) for s in step], "value": curve})

    of(run, add)
    run.write_eval(rows)


def learning_rate(settings: Any) -> float:
    """Adam's, the task's own where none was given."""
    return float(resolve(settings)[0].lr if isinstance(settings, Config) else settings.lr)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
