"""A finished run as rows: mean queue, its slope at the end, average utility; curves as extras.

Rows carry the setting (``horizon``, ``rho``, ``kappa``, ``v``), those of the grid of AdaPFOL
``magnitude`` and ``switches``. The growth exponent of the queue is fitted to the mean over the
seeds of a run: it has seed -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from common.run import Run
from common.stats import band, loglog_slope
from papers.umo2.methods import OLO, UTILITY
from papers.umo2.task import MEASURED, QUEUE, VALUE

ALL_SEEDS = -1  # "seed" of what is fitted to all seeds of a run
POINTS = 50  # of a curve: means over T / 50 slots


@dataclass
class EvalConfig:
    """Evaluate a run."""

    run: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # unused: everything was counted while playing


def short(values: np.ndarray, digits: int = 4) -> list[float]:
    """Numbers with so many significant digits: four are enough for curves."""
    return [float(f"{value:.{digits}g}") for value in values]


def quarter_slope(measured: np.ndarray) -> float:
    """(Mean queue of the last quarter - of the third) / (T / 4), packets per slot; 0 if stable.

    Args:
        measured: [windows, sums].
    """
    quarters = measured.reshape(4, -1, len(MEASURED)).sum(axis=1)
    means = quarters[:, QUEUE] / quarters[:, 0]
    return float((means[3] - means[2]) / (quarters.sum(axis=0)[0] / 4))


def growth(queue: np.ndarray) -> list[float]:
    """Exponent of the mean queue's growth over the last decade of slots, with its interval.

    Windows are gathered in ten bins, equally long in log t, so that late ones do not weigh more.

    Args:
        queue: [seeds, windows] mean queue in windows of the same length.

    Returns:
        exponent, low, high; nothing where the network is empty.
    """
    n = queue.shape[1]
    edges = np.unique(np.round(np.geomspace(n // 10, n, 11)).astype(int))
    t = np.sqrt(edges[:-1] * edges[1:])
    means = np.add.reduceat(queue, edges[:-1], axis=1) / np.diff(edges)
    if (means.mean(axis=0) <= 0).any():
        return []
    ci = loglog_slope(t, means, t_min=0)
    return [ci.value, ci.low, ci.high]


def network_rows(final: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    """Rows and curves of a policy."""
    label = {"method": final["method"], "task": final["task"]}
    rows, curves = [], []
    for setting, measured in zip(final["settings"], final["measured"], strict=True):
        for seed, one in zip(final["seeds"], measured, strict=True):
            slots = one[:, 0].sum()
            values = {"mean_queue": one[:, QUEUE].sum() / slots}
            values["quarter_slope"] = quarter_slope(one)
            if final["task"] == UTILITY:
                values["utility"] = one[:, VALUE].sum() / slots
            rows += [
                {**label, **setting, "seed": seed, "metric": m, "value": short([value], 6)[0]}
                for m, value in values.items()
            ]
        queue = measured[:, :, QUEUE] / measured[:, :, 0]
        exponent = growth(queue)
        if exponent:
            rows.append(
                {**label, **setting, "seed": ALL_SEEDS, "metric": "growth"}
                | {"step": [0, 1, 2], "value": short(exponent)}
            )
        coarse = queue.reshape(len(queue), POINTS, -1).mean(axis=2)
        curve = dict(zip(("mean", "low", "high"), map(short, band(coarse)), strict=True))
        if final["task"] == UTILITY:
            running = measured.cumsum(axis=1)
            average = (running[:, :, VALUE] / running[:, :, 0]).mean(axis=0)
            curve = {"mean": curve["mean"], "utility": short(average[3::4])}
        curves.append({**setting, "n": len(final["seeds"]), **curve})
    return rows, [{"name": "curves", **label, "seed": final["seeds"][0], "data": curves}]


def grid_rows(final: dict[str, Any]) -> list[dict]:
    """Rows of AdaPFOL's grid: its ratio, and (step j) that of each single step-size 0.7 * 2^j."""
    rows: list[dict] = []
    cells = zip(final["magnitudes"], final["switches"], final["ratios"], strict=True)
    for magnitude, switches, ratios in cells:
        cell = {"task": OLO, "metric": "ratio", "magnitude": magnitude, "switches": switches}
        for seed, values in zip(final["seeds"], ratios, strict=True):
            ours, *alone = short(values, 6)
            rows.append({**cell, "method": "adapfol", "seed": seed, "value": ours})
            steps = {"step": list(range(len(alone))), "value": alone}
            rows.append({**cell, "method": "single", "seed": seed, **steps})
    return rows


def evaluate(cfg: EvalConfig) -> None:
    """Write the rows and curves of the run."""
    run = Run.load(cfg.run)
    final = run.final()
    if final["kind"] == OLO:
        run.write_eval(grid_rows(final))
    else:
        run.write_eval(*network_rows(final))


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
