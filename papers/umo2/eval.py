"""A finished run as rows: mean queue, its slope at the end, average utility; curves as extras.

Rows carry the setting (``horizon``, ``rho``, ``kappa``, ``v``), those of the grid of AdaPFOL
``magnitude`` and ``switches``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from common.run import Run
from common.stats import band
from papers.umo2.task import MEASURED, QUEUE, UTILITY


@dataclass
class EvalConfig:
    """Evaluate a run."""

    run: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # unused: everything was counted while playing


def short(values: np.ndarray) -> list[float]:
    """Numbers with four significant digits, for curves."""
    return [float(f"{value:.4g}") for value in values]


def quarter_slope(measured: np.ndarray) -> float:
    """(Mean queue of the last quarter - of the third) / (T / 4), packets per slot; 0 if stable.

    Args:
        measured: [windows, sums].
    """
    quarters = measured.reshape(4, -1, len(MEASURED)).sum(axis=1)
    means = quarters[:, QUEUE] / quarters[:, 0]
    return float((means[3] - means[2]) / (quarters.sum(axis=0)[0] / 4))


def network_rows(final: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    """Rows and curves of a policy."""
    label = {"method": final["method"], "task": final["task"]}
    rows, curves = [], []
    for setting, measured in zip(final["settings"], final["measured"], strict=True):
        for seed, one in zip(final["seeds"], measured, strict=True):
            slots = one[:, 0].sum()
            values = {"mean_queue": one[:, QUEUE].sum() / slots}
            values["quarter_slope"] = quarter_slope(one)
            if final["task"] == "utility":
                values["utility"] = one[:, UTILITY].sum() / slots
                values["arrivals"] = one[:, MEASURED.index("arrivals")].sum() / slots
            rows += [
                {**label, **setting, "seed": seed, "metric": m, "value": float(value)}
                for m, value in values.items()
            ]
        queue = measured[:, :, QUEUE] / measured[:, :, 0]
        curve = dict(zip(("mean", "low", "high"), map(short, band(queue)), strict=True))
        if final["task"] == "utility":
            running = measured.cumsum(axis=1)
            average = running[:, :, UTILITY] / running[:, :, 0]
            curve = {"mean": curve["mean"][3::4], "utility": short(average.mean(axis=0)[3::4])}
        curves.append({**setting, "n": len(final["seeds"]), **curve})
    return rows, [{"name": "curves", **label, "seed": final["seeds"][0], "data": curves}]


def grid_rows(final: dict[str, Any]) -> list[dict]:
    """Rows of AdaPFOL's grid: the ratio of AdaPFOL and of each single step-size."""
    rows = []
    cells = zip(final["magnitudes"], final["switches"], final["ratios"], strict=True)
    for magnitude, switches, ratios in cells:
        for seed, values in zip(final["seeds"], ratios, strict=True):
            for learner, value in enumerate(values):
                method = "adapfol" if learner == 0 else f"step{learner - 1}"
                row = {"method": method, "task": "olo", "seed": seed, "metric": "ratio"}
                cell = {"magnitude": magnitude, "switches": switches}
                rows.append({**row, **cell, "value": float(f"{value:.6g}")})
    return rows


def evaluate(cfg: EvalConfig) -> None:
    """Write the rows and curves of the run."""
    run = Run.load(cfg.run)
    final = run.final()
    if final["kind"] == "olo":
        run.write_eval(grid_rows(final))
    else:
        run.write_eval(*network_rows(final))


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
