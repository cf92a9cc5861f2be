"""A run directory -> rows: curves, unlearning, sample efficiency, what explains them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from common.cli import run_cli
from common.marl import datasets
from common.run import Run
from papers.ovmse.config import Config, OfflineConfig
from papers.ovmse.methods import METHODS
from papers.ovmse.task import CHAIN, QUALITIES
from papers.ovmse.trained import config_of

Floats = NDArray[np.float64]
Found = Iterator[tuple[str, Any, dict[str, Any]]]  # metric, value, labels
ENOUGH, BETTER = 0.6, 0.2  # win rate; gain over the offline policy
LAST = 3  # evaluations whose mean is the final win rate
PER_ROUND = ("remembered", "lift", "explorers", "several", "memory", "loss")


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # nothing is computed anew


def series(lines: list[dict[str, Any]], x: str, y: str) -> tuple[Floats, Floats]:
    """The logged points that have both."""
    points = [(line[x], line[y]) for line in lines if x in line and y in line]
    pairs = np.array(points, dtype=float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def steps_to(steps: Floats, win_rate: Floats, level: float, never: float) -> float:
    """The step at which the mean of three evaluations reaches a level; ``never`` if none does."""
    means = np.convolve(win_rate, np.ones(LAST) / LAST, "valid")
    there = np.flatnonzero(means >= level - 1e-9)
    return float(steps[there[0] + LAST - 1]) if len(there) else never


def relative(values: Floats) -> Floats:
    """1 + (x - x_0) / |x_0|: 1 at the start, lower after a fall whatever the sign."""
    return 1 + (values - values[0]) / max(abs(values[0]), 1e-9)


def binned(steps: Floats, values: Floats, grid: Floats) -> Floats:
    """Means of what was logged between the points of a grid; the value before where it is empty."""
    place = np.clip(np.searchsorted(grid, steps), 1, len(grid) - 1)
    found, last = [], float(values[0])
    for i in range(1, len(grid)):
        inside = values[place == i]
        last = float(inside.mean()) if len(inside) else last
        found.append(last)
    return np.array(found)


def curve(metric: str, steps: Floats, values: Floats) -> tuple[str, Any, dict[str, Any]]:
    """A row with a curve."""
    return metric, list(map(float, values)), {"step": list(map(float, steps))}


def of_online(run: Run, cfg: Any) -> Found:
    """Stage 3: win rates, unlearning in the first quarter, explorers, use of the memory."""
    lines = run.metrics()
    steps, win_rate = series(lines, "evaluated_at", "win_rate")
    early = steps <= cfg.dip_until * cfg.steps
    yield curve("win_rate", steps, win_rate)
    yield curve("return", *series(lines, "evaluated_at", "return"))
    yield "start", win_rate[0], {}
    yield "dip", win_rate[0] - win_rate[early].min(), {}
    yield "auc", trapezoid(win_rate, steps) / (steps[-1] - steps[0]), {}
    yield "final", win_rate[-LAST:].mean(), {}
    yield "steps_to_60", steps_to(steps, win_rate, ENOUGH, cfg.steps), {}
    yield "steps_to_more", steps_to(steps, win_rate, win_rate[0] + BETTER, cfg.steps), {}
    if METHODS[cfg.method].pretrained:
        probe = relative(series(lines, "evaluated_at", "probe_q")[1])
        agreement = series(lines, "evaluated_at", "agreement")[1]
        yield curve("probe_q", steps, probe)
        yield "probe_fall", 1 - probe[early].min(), {}
        yield "probe_early", probe[early][1:].mean(), {}
        yield curve("agreement", steps, agreement)
        yield "agreement_early", agreement[early][1:].mean(), {}
    yield curve("data_rank", *series(lines, "evaluated_at", "data_rank"))
    grid = np.array(steps)
    for metric in PER_ROUND:
        at, values = series(lines, "step", metric)
        if not len(at):
            continue
        found = binned(at, values, grid)
        yield curve(metric, grid[1:], found)
        yield f"{metric}_early", found[early[1:]].mean(), {}
        yield f"{metric}_late", found[-LAST:].mean(), {}
    for metric in ("explorers", "several"):
        yield f"{metric}_mean", series(lines, "step", metric)[1].mean(), {}
    yield "env_steps", lines[-1]["step"], {}
    yield "updates", series(lines, "step", "updates")[1][-1], {}


def of_offline(run: Run, cfg: Any) -> Found:
    """Stage 2: greedy win rate and gap while it learns without an environment."""
    lines = run.metrics()
    for metric in ("win_rate", "return", "q", "gap"):
        steps, values = series(lines, "step", metric)
        if len(steps):
            yield curve(f"offline_{metric}", steps, values)
    _, win_rate = series(lines, "step", "win_rate")
    yield "offline_final", win_rate[-LAST:].mean(), {}
    yield "offline_updates", lines[-1]["step"], {}


def of_data(run: Run, cfg: Any) -> Found:
    """Stage 1: how the behaviour learnt, and what is in the data sets."""
    lines = run.metrics()
    yield curve("behaviour_win_rate", *series(lines, "step", "win_rate"))
    for quality in QUALITIES:
        path = run.folder / f"{quality}.npz"
        if not path.is_file():
            continue
        header, about = datasets.read_header(path), {"quality": quality}
        yield "data_win_rate", header.win_rate, about
        yield "data_return", header.mean_return, about
        yield "data_episodes", header.episodes, about
        yield "data_steps", header.steps, about
        yield "data_checkpoint", header.checkpoint, about


def of_chain(run: Run, cfg: Any) -> Iterator[dict[str, Any]]:
    """The exact chain: rows of every seed."""
    final = run.final()
    name = {"method": cfg.method, "task": cfg.task}
    for s, seed in enumerate(cfg.seed):
        for metric, part, of in (
            *(("chain_worst", "exact", "worst"), ("chain_last", "exact", "last")),
            *(("chain_noisy_mean", "noisy", "mean"), ("chain_noisy_last", "noisy", "last")),
        ):
            value = float(final[part][of][s])
            yield {**name, "seed": seed, "metric": metric, "value": value}
    values = np.asarray(final["exact"]["curve"])
    row = {**name, "seed": cfg.seed[0], "metric": "chain_value"}
    yield {**row, "value": values.mean(0).tolist(), "step": list(range(values.shape[1]))}


STAGES: dict[str, Callable[[Run, Any], Found]] = {
    **{"data": of_data, "offline": of_offline, "online": of_online},
}


def varied(cfg: Any) -> dict[str, float]:
    """Labels of a run: alpha of stage 2; in stage 3 what is not the default's or the method's."""
    if isinstance(cfg, OfflineConfig):
        return {} if METHODS[cfg.method].clones else {"alpha": cfg.alpha}
    found: dict[str, float] = {}
    if isinstance(cfg, Config):
        if cfg.memory != Config.memory:
            found["lambda0"] = cfg.memory
        if cfg.epsilon not in (None, METHODS[cfg.method].epsilon):
            found["epsilon"] = float(cfg.epsilon)
    return found


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    run_cfg = config_of(run)
    if run_cfg.task == CHAIN:
        run.write_eval(of_chain(run, run_cfg))
        return
    name = {"method": run_cfg.method, "task": run_cfg.task, "seed": run_cfg.seed}
    settings = varied(run_cfg)
    rows = []
    for metric, value, labels in STAGES[METHODS[run_cfg.method].stage](run, run_cfg):
        value = value if isinstance(value, list) else float(value)
        rows.append({**name, **settings, "metric": metric, "value": value, **labels})
    run.write_eval(rows)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
