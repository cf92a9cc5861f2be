"""The judges on made-up rows: each can come out contradicted and open; who else meets a claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.claims import CONTRADICTED, INCONCLUSIVE, REPRODUCED
from common.rows import NoResults, Rows
from papers.rpe import claims
from papers.rpe.claims import CLAIMS
from papers.rpe.methods import METHODS
from papers.rpe.task import SHORT, STRINGS
from tests.papers.kit import check_judges, edited, judged, rows_of

LEARNED = ("rpe", "rpe-unrectified", *claims.RIVALS)


def rows(seeds: int = 5, noise: float = 0.01, **l1: float) -> Rows:
    """Curves and exact numbers of every learner and task; ``l1``: its L1 at the end."""
    rng = np.random.default_rng(0)
    made: list[dict[str, Any]] = []

    def add(method: str, task: str, metric: str, value: Any, seed: int = 0, **labels: Any) -> None:
        labels = {"method": method, "task": task, "metric": metric, **labels}
        made.append({**labels, "seed": seed, "value": value})

    for task in SHORT:
        add("exact", task, "l1_rectified", 1e-15)
        add("exact", task, "l1_unrectified", 0.5)
        for name in LEARNED:
            for seed in range(seeds):
                x = l1.get(name.replace("-", "_"), 0.3) + noise * rng.standard_normal()
                add(name, task, "l1_sum_exact_final", x, seed)
                add(name, task, "accuracy_final", 100 * (1 - x), seed)
                found = [200 * (1 - x), 300 * (1 - x)]
                add(name, task, "modes", found, seed, step=[1, 2])
    add("exact", "grid", "log_path_dependence", 5.5)
    for k in ("smallest", "largest"):
        add("exact", "grid", f"l1_{k}_factor", 0.5)
    return Rows(made)


def test_every_judge_can_fail() -> None:
    better, good = rows(rpe=0.2, rpe_unrectified=0.6), rows(rpe_unrectified=0.6)
    wide = edited(
        good,
        lambda values: values + np.tile([0.0, 0.3, -0.2, 0.25, -0.25], 4),
        method="rpe",
        metric="l1_sum_exact_final",
        task=STRINGS,
    )
    exact = edited(good, lambda v: 0 * v + 1e-9, method="exact", metric="l1_rectified")
    mild = edited(good, lambda v: 0 * v + 0.01, method="exact", metric="l1_unrectified")
    same = edited(good, lambda v: 0 * v, method="exact", metric="log_path_dependence")
    worse = rows(rpe=0.6, rpe_unrectified=0.3)
    loose = rows(rpe=0.37, noise=0.06, rpe_unrectified=0.4)
    check_judges(
        "rpe",
        {
            "rpe1": (exact, None),
            "rpe2a": ([exact, mild], None),
            "rpe2b": (worse, loose),
            "rpe3": (worse, loose),
            "rpe4": (worse, rows(noise=0.02)),
            "rpe5": (wide, rows(noise=0.02)),
            "rpe6": (same, None),
        },
    )
    for claim in CLAIMS:
        verdict = claim.judge(better, claim.method).verdict
        assert verdict == (INCONCLUSIVE if claim.id == "rpe5" else REPRODUCED), claim.id


def test_stability_can_hold_and_needs_five_seeds() -> None:
    narrow = edited(rows(), lambda v: 0 * v + 0.3, method="rpe", metric="l1_sum_exact_final")
    assert claims.stable(narrow, "rpe").verdict == REPRODUCED
    with pytest.raises(NoResults):
        claims.stable(rows(seeds=3), "rpe")


def test_deviations_estimate_the_standard_deviation() -> None:
    rng, made = np.random.default_rng(1), []
    for task in STRINGS:
        for seed, x in enumerate(rng.normal(1.0, 0.1, 400)):
            key = {"method": "rpe", "task": task, "metric": "l1_sum_exact_final"}
            made.append({**key, "seed": seed, "value": x})
    found = claims.deviations(Rows(made), "rpe")
    assert found.shape == (400,) and found.mean() == pytest.approx(0.1, rel=0.05)
    assert claims.deviations(Rows(made), "rpe", relative=True).mean() == pytest.approx(0.1, rel=0.1)


def test_verdicts_of_the_committed_rows() -> None:
    found = judged("rpe", rows_of("rpe"))
    assert found["rpe5"]["verdict"] == INCONCLUSIVE  # a difference without an interval says more
    assert found["rpe3"]["verdict"] == CONTRADICTED and found["rpe3"]["also_met_by"] == []
    assert "DB" in found["rpe2b"]["also_met_by"] and found["rpe2b"]["verdict"] == REPRODUCED


def test_judges_take_every_method_or_say_what_lacks() -> None:
    little = Rows([{"method": "rpe", "task": "rna1-dag", "metric": "x", "seed": 0, "value": 1.0}])
    for claim in CLAIMS:
        for name in METHODS:
            with pytest.raises(NoResults):
                claim.judge(little, name)
