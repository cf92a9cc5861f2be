"""A finished run as rows: regret by seed at the episodes that the claims look at, exact values.

Rows carry ``gamma``, ``c`` (bonus scale) and ``episodes`` (K). "regret" is a curve for each seed.
What a run counts besides is a mean over its seeds and has seed -1. The whole curves go into an
extra, as means with their bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from common.run import Run
from common.stats import band
from papers.bvvi.method import OPTIMISTIC
from papers.bvvi.methods import METHODS
from papers.bvvi.task import judged

ALL_SEEDS = -1  # "seed" of a mean over the seeds of a run


@dataclass
class EvalConfig:
    """Evaluate a run."""

    run: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # unused: everything was computed exactly while learning


def short(values: np.ndarray, digits: int = 6) -> list[float]:
    """Numbers with a few significant digits; rounding noise of an exact zero becomes zero."""
    return [float(f"{value:.{digits}g}") if abs(value) > 1e-9 else 0.0 for value in values]


def evaluate(cfg: EvalConfig) -> None:
    """Write the rows and curves of the run."""
    run = Run.load(cfg.run)
    final = run.final()
    label = {"method": final["method"], "task": final["task"]}
    if METHODS[final["method"]].learn is None:
        rows = [
            {**label, "seed": one["seed"], "gamma": one["gamma"], "metric": metric, "value": value}
            for one in final["exact"]
            for metric, value in one["values"].items()
        ]
        return run.write_eval(rows)
    k = np.array(final["k"])
    looked_at = np.isin(k, judged(final["episodes"]))
    rows = []
    curves: list[dict[str, Any]] = []
    for g, gamma in enumerate(final["gammas"]):
        for c, scale in enumerate(final["scales"]):
            cell = {"gamma": gamma, "c": scale, "episodes": final["episodes"]}
            regret, tally = final["regret"][g, c], final["tallies"][g, c]
            for seed, curve in zip(final["seeds"], regret, strict=True):
                rows.append(
                    {**label, "seed": seed, **cell, "metric": "regret"}
                    | {"step": k[looked_at].tolist(), "value": short(curve[looked_at])}
                )
            share = tally[:, OPTIMISTIC].mean() / final["episodes"]
            rows.append(
                {**label, "seed": ALL_SEEDS, **cell, "metric": "optimistic"}
                | {"value": float(f"{share:.5g}")}
            )
            bands = zip(("mean", "low", "high"), band(regret), strict=True)
            curves.append({**cell, "n": len(regret)} | {n: short(x, 3) for n, x in bands})
    extra = {"name": "curves", **label, "seed": final["seeds"][0]}
    return run.write_eval(rows, [extra | {"data": {"k": k.tolist(), "curves": curves}}])


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
