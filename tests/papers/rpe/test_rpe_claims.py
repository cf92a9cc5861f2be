"""The judges on made-up rows: each verdict can come out either way."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from common.claims_v1 import CONTRADICTED, INCONCLUSIVE, REPRODUCED
from papers.rpe import claims


def rows(seeds: int = 5, **final: float) -> pd.DataFrame:
    """Curves and exact numbers of every learner and task; ``final``: its L1 at the end."""
    rng = np.random.default_rng(0)
    made: list[dict[str, Any]] = []
    for task in claims.TITLES:
        numbers = {
            **{"n_objects": 10, "n_inner": 5, "l1_rectified": 1e-15, "l1_unrectified": 0.5},
            **{"l1_flow_iteration": 1e-15, "l1_uniform": 1.0},
        }
        for metric, value in numbers.items():
            made.append({"method": "exact", "task": task, "metric": metric, "value": value})
        for m in claims.MAIN:
            for seed in range(seeds):
                l1 = final.get(m.replace("-", "_"), 0.3) + 0.01 * rng.random()
                shared = {"method": m, "task": task, "seed": seed}
                for metric, value in (
                    ("l1_sum_exact", l1),
                    ("accuracy", 100 * (1 - l1)),
                    ("modes", 300 * (1 - l1)),
                ):
                    made.append({**shared, "metric": f"{metric}_final", "value": value})
                    for step, factor in ((1, 2.0), (2, 1.0)):
                        point = {"metric": metric, "step": step, "value": factor * value}
                        made.append({**shared, **point})
                made.append({**shared, "metric": "reward_calls", "value": 100.0})
    for k in ("smallest", "largest"):
        for metric in (f"value_over_Z_{k}_factor", f"l1_{k}_factor"):
            made.append({"method": "exact", "task": "grid", "metric": metric, "value": 0.5})
    for metric, value in (("log_path_dependence", 5.5), ("l1_unrectified", 1.4)):
        made.append({"method": "exact", "task": "grid", "metric": metric, "value": value})
    made.append({"method": "exact", "task": "grid", "metric": "l1_flow_iteration", "value": 1e-16})
    return pd.DataFrame(made).fillna({"seed": 0})


def test_exact_claims() -> None:
    good = rows()
    assert claims.rpe1(good).verdict == REPRODUCED
    assert claims.rpe6(good).verdict == REPRODUCED
    bad = good.copy()
    bad.loc[(bad.metric == "l1_rectified") & (bad.task == "words"), "value"] = 1e-9
    bad.loc[bad.metric == "log_path_dependence", "value"] = 0.0
    assert claims.rpe1(bad).verdict == CONTRADICTED
    assert claims.rpe2(bad).verdict == CONTRADICTED
    assert claims.rpe6(bad).verdict == CONTRADICTED


@pytest.mark.parametrize(
    "final,rpe2,rpe3,rpe4",
    [
        ({"rpe": 0.3, "rpe_unrectified": 0.6}, REPRODUCED, REPRODUCED, None),
        ({"rpe": 0.6, "rpe_unrectified": 0.3}, CONTRADICTED, CONTRADICTED, CONTRADICTED),
        ({"rpe": 0.1, "rpe_unrectified": 0.6}, REPRODUCED, REPRODUCED, REPRODUCED),
        ({"rpe": 0.33, "tb": 0.2, "rpe_unrectified": 0.6}, REPRODUCED, CONTRADICTED, None),
    ],
)
def test_learned_claims(final: dict[str, float], rpe2: str, rpe3: str, rpe4: str | None) -> None:
    made = rows(**final)
    assert claims.rpe2(made).verdict == rpe2
    assert claims.rpe3(made).verdict == rpe3
    if rpe4:
        assert claims.rpe4(made).verdict == rpe4


def test_stability() -> None:
    made = rows()
    at = (made.method == "rpe") & (made.metric == "l1_sum_exact_final")
    wide, narrow = made.copy(), made.copy()
    wide.loc[at, "value"] = 0.3 + 0.1 * made.loc[at, "seed"]
    narrow.loc[at, "value"] = 0.3
    assert claims.rpe5(wide).verdict == CONTRADICTED
    assert claims.rpe5(narrow).verdict == REPRODUCED
    assert claims.rpe5(rows(seeds=3)).verdict == INCONCLUSIVE


def test_tables_and_figures() -> None:
    made = rows()
    assert len(claims.tables(made)) == 3
    extras: list[dict[str, Any]] = []
    for name in ("target", "l1_rectified", "l1_unrectified"):
        label = {"method": "exact", "seed": 0, "name": name}
        extras.append({**label, "task": "words", "data": [0.1, 0.9]})
        extras.append({**label, "task": "rna1-var", "data": [0.1, 0.2, 0.3, 0.4]})
    for name in ("path_dependence", "target", "l1_smallest_factor", "l1_largest_factor"):
        data = np.eye(8).tolist()
        extras.append({"method": "exact", "seed": 0, "name": name, "task": "grid", "data": data})
    extras.append({**extras[-1], "name": "l1_unrectified"})
    trained = {"method": "rpe", "seed": 0, "name": "p_objects"}
    extras.append({**trained, "task": "words", "data": [0.2, 0.8]})
    extras.append({**trained, "task": "rna1-var", "data": [[0.1, 0.2, 0.3, 0.4]] * 2})
    drawn = claims.figures(made, extras)
    assert set(drawn) == {"curves", "modes", "rectification", "grid"}
