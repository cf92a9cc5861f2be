"""A finished run as rows: regret by seed over the last decade, coverage, sizes, known values.

Rows carry ``risk``. "regret" is a curve for each seed over ``task.decade``. What is a mean or a sum
over the seeds of a run has seed -1. "value_*" has one row per measure whose "step" is the seed. The
whole curves go into an extra, as means with their bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from common.run import Run
from common.stats import band
from papers.rs_disrl.config import TALLY, VALUES
from papers.rs_disrl.task import decade

ALL_SEEDS = -1  # "seed" of what is taken over all seeds of a run
LIVE_AT = (10, 100, 1000)  # episodes at which the size of the set is shown, besides the last


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
    k, seeds = np.array(final["k"]), final["seeds"]
    late = np.isin(k, decade(int(k[-1])))
    shown = np.isin(k, [*LIVE_AT, k[-1]])
    rows: list[dict[str, Any]] = []
    curves = []
    for i, risk in enumerate(final["risks"]):
        regret, live, tally = final["regret"][i], final["live"][i], final["tally"][i]
        for seed, curve in zip(seeds, regret, strict=True):
            rows.append(
                {**label, "seed": seed, "risk": risk, "metric": "regret"}
                | {"step": k[late].tolist(), "value": short(curve[late])}
            )
        of = {**label, "seed": ALL_SEEDS, "risk": risk}
        counts = dict(zip(TALLY, tally.T, strict=True))
        summed = {
            "runs": len(seeds),
            "runs_in_set": counts["in_set_always"].sum(),
            "in_set": counts["in_set"].mean(),
            "optimistic": counts["optimistic"].mean(),
            "broken_optimism": counts["broken_optimism"].sum(),
            "rejected": counts["rejected"].mean(),
            "lipschitz": final["lipschitz"][i],
        }
        rows += [of | {"metric": m, "value": float(f"{v:.7g}")} for m, v in summed.items()]
        sizes = short(live.mean(axis=0)[shown])
        rows.append(of | {"metric": "live", "step": k[shown].tolist(), "value": sizes})
        for name, values in zip(VALUES, final["values"][i].T, strict=True):
            if np.isfinite(values).all():
                named = of | {"metric": f"value_{name}", "step": list(seeds)}
                rows.append(named | {"value": values.tolist()})
        bands = dict(zip(("mean", "low", "high"), map(short, band(regret)), strict=True))
        data = {"n": len(seeds), "lipschitz": final["lipschitz"][i], "k": k.tolist(), **bands}
        curves.append({"risk": risk, "live": short(live.mean(axis=0)), **data})
    extra = {"name": "curves", **label, "seed": seeds[0], "data": curves}
    run.write_eval(rows, [extra])


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
