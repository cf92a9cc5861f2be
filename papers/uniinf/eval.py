"""A finished run as rows: regret curves by seed over the last decade, and what was counted.

Rows carry ``alpha``. "regret" is a curve over [T/10, T] for each seed, from which the claims are
judged. What a run counts besides is a mean over its seeds and has seed -1. The whole curves go into
an extra, as means with their bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import run_cli
from common.run import Run
from common.stats import band

ALL_SEEDS = -1  # "seed" of a mean over the seeds of a run


@dataclass
class EvalConfig:
    """Evaluate a run."""

    run: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # unused: everything was counted while playing


def short(values: np.ndarray) -> list[float]:
    """Numbers with five significant digits: a hundred times finer than their intervals."""
    return [float(f"{value:.5g}") for value in values]


def evaluate(cfg: EvalConfig) -> None:
    """Write the rows and curves of the run."""
    run = Run.load(cfg.run)
    final = run.final()
    label = {"method": final["method"], "task": final["task"]}
    t = np.array(final["t"])
    decade = t >= t[-1] / 10 * (1 - 1e-9)
    rows, curves = [], []
    for a, alpha in enumerate(final["alphas"]):
        regret, tally = final["regret"][a], final["tallies"][a]
        for seed, curve in zip(final["seeds"], regret, strict=True):
            rows.append(
                {**label, "seed": seed, "alpha": alpha, "metric": "regret"}
                | {"step": t[decade].tolist(), "value": short(curve[decade])}
            )
        counted = {
            "best_fraction": tally[:, 1].mean() / t[-1],
            "skipped": tally[:, 2].mean(),
            "sigma": final["sigmas"][a],
        }
        if "S" in final:
            counted["final_S"] = final["S"][a].mean()
        for metric, value in counted.items():
            rows.append(
                {**label, "seed": ALL_SEEDS, "alpha": alpha, "metric": metric}
                | {"value": float(f"{value:.5g}")}
            )
        bands = dict(zip(("mean", "low", "high"), map(short, band(regret)), strict=True))
        data = {"n": len(regret), "sigma": final["sigmas"][a], "n_arms": final["n_arms"]}
        curves.append({"alpha": alpha, "t": t.tolist(), **data, **bands})
    extra = {"name": "curves", **label, "seed": final["seeds"][0], "data": curves}
    run.write_eval(rows, [extra])


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
