"""The judges: rows that contradict each claim, and rows that leave it open; who else meets one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from common.claims import NOT_SPECIFIC, REPRODUCED
from common.rows import NoResults, Rows
from papers.bn.claims import CLAIMS, ENUMERATED, GRIDS_AND_SETS
from papers.bn.methods import METHODS
from tests.papers.kit import check_judges, judged, made, rows_of

AHEAD = {"bn": 0.2, "bn-flat": 0.2, "fm": 0.3, "db": 0.4, "tb": 1.0, "stb": 0.4}


def rows(
    metric: str, means: Mapping[str, float], tasks: tuple[str, ...], spread: float = 0.01
) -> Rows:
    """Five seeds around the means; the spread is a share of the mean."""
    return made(
        **{
            metric: {
                (task, name): [mean * (1 + spread * (s - 2)) for s in range(5)]
                for task in tasks
                for name, mean in means.items()
            }
        }
    )


def test_every_judge_can_fail() -> None:
    behind, level = {**AHEAD, "bn": 0.5}, {**AHEAD, "bn": 0.39}
    exact = {("tabular", "bn"): [1e-6, 2e-3]}
    check_judges(
        "bn",
        {
            "bn1": (made(l1_end=exact, log_Z_error_end={("tabular", "bn"): [1e-6, 1e-6]}), None),
            "bn2a": (
                rows("area", behind, GRIDS_AND_SETS),
                rows("area", level, GRIDS_AND_SETS, 0.2),
            ),
            "bn2b": (
                rows("area", {**AHEAD, "bn": 1.2}, GRIDS_AND_SETS),
                rows("area", {**AHEAD, "bn": 0.95}, GRIDS_AND_SETS, 0.2),
            ),
            "bn3a": (
                rows("area", behind, GRIDS_AND_SETS),
                rows("area", {**AHEAD, "bn": 0.32}, GRIDS_AND_SETS, 0.2),
            ),
            "bn3b": (
                rows("area", behind, GRIDS_AND_SETS),
                rows("area", {**AHEAD, "bn": 0.29}, GRIDS_AND_SETS, 0.2),
            ),
            "bn4": (
                rows("l1_final", behind, ENUMERATED),
                rows("l1_final", {**AHEAD, "bn": 0.24}, ENUMERATED, 0.2),
            ),
            "bn5": (
                rows("modes_area", {**AHEAD, "bn": 0.9, "uniform": 0.1}, ("rna",)),
                rows("modes_area", {**AHEAD, "bn": 0.96, "uniform": 0.1}, ("rna",), 0.1),
            ),
        },
    )


def test_judges_hold_where_the_rows_are_ahead() -> None:
    for claim in CLAIMS:
        if claim.id.startswith("bn2") or claim.id.startswith("bn3"):
            assert claim.judge(rows("area", AHEAD, GRIDS_AND_SETS), "bn").verdict == REPRODUCED
    four = [c.judge for c in CLAIMS if c.id == "bn4"][0]
    assert four(rows("l1_final", AHEAD, ENUMERATED), "bn").verdict == REPRODUCED


def test_one_grid_behind_contradicts() -> None:
    """Means ahead on three grids do not make up for a fourth that is clearly behind."""
    frame = rows("area", AHEAD, GRIDS_AND_SETS).frame.copy()
    at = (frame.task == "g2") & (frame.method == "bn")
    frame.loc[at, "value"] = 0.6
    assert [c for c in CLAIMS if c.id == "bn2a"][0].judge(Rows(frame), "bn").verdict == (
        "contradicted"
    )


def test_who_else_meets_the_claims() -> None:
    """On the committed rows: what DB and SubTB meet as well is not BN's own."""
    found = judged("bn", rows_of("bn"))
    assert found["bn2b"]["verdict"] == NOT_SPECIFIC
    assert {"DB", "SubTB(0.9)", "BN-flat"} <= set(found["bn2b"]["also_met_by"])
    assert "uniform" not in found["bn5"]["also_met_by"]


def test_judges_take_every_method_or_say_what_lacks() -> None:
    there = rows("area", {"bn": 0.2, "fm": 0.3}, ("g3",))
    for claim in CLAIMS:
        for name in METHODS:
            with pytest.raises(NoResults):
                claim.judge(there, name)
