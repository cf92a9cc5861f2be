"""Every claim can fail and be left open; every scale runs on stand-ins; a method can be added."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED, NoResults
from common.marl import environments
from common.marl.matrix_games import MatrixGame
from common.rows import Rows
from papers.dfac import claims, report
from papers.dfac.methods import METHODS
from tests.papers import kit

torch.set_num_threads(1)
G, H, D, M, R = claims.GAME, claims.HARD, claims.RANDOM, claims.MAP, claims.RELEASED
NOISE = claims.NOISE
STUDIED, PAPER = {"C5r"}, {"C5p", "C6"}


def world(noise: float = 0.02, seeds: int = 5, **means: float) -> Rows:
    """Rows as eval.py writes them; every claim holds unless ``means`` says otherwise.

    ``means``: by "task/method/metric"; noise is relative, of shares there is none.
    """
    base: dict[str, float] = {
        **{f"{D}/{m}/violations": 0.0 for m in ("dmix", "ddn", "dplex")},
        **{f"{D}/{m}/mean_gap": 1e-12 for m in ("dmix", "ddn", "dplex")},
        **{f"{D}/naive/violations": 0.22, f"{D}/naive/mean_gap": 9.0},
        **{f"{G}/{m}/optimal": 1.0 for m in ("dmix", "qmix", "naive")},
        **{f"{G}/{m}/worst_mean_error": 0.3 for m in ("dmix", "qmix", "naive")},
        **{f"{G}/dmix/w1_mean": 0.2, f"{G}/qmix/w1_mean": 0.9, f"{G}/ddn/w1_mean": 1.5},
        **{f"{G}/{m}/chooses_b": 0.0 for m in ("ddn", "vdn")},
        **{f"{G}/{m}/chooses_b": 1.0 for m in ("dmix", "qmix")},
        **{f"{H}/{m}/optimal": 0.0 for m in ("dmix", "ddn", "qmix", "vdn")},
        **{f"{H}/{m}/optimal": 1.0 for m in ("dplex", "qplex")},
        **{f"{H}/{m}/best_cell_error": 0.3 for m in ("dplex", "qplex")},
        **{f"{H}/dplex/w1_mean": 0.6, f"{H}/qplex/w1_mean": 1.5, f"{H}/true-means/w1_mean": 1.3},
        **{f"{NOISE}/{m}/w1_shape_point": 4.0 for m in ("dmix", "ddn")},
        **{f"{NOISE}/{m}/w1_shape": 2.0 for m in ("dmix", "ddn")},
        **{f"{NOISE}/qmix/{metric}": 4.0 for metric in ("w1_shape", "w1_shape_point")},
    }
    for task, metric in ((M, "auc"), (R, "auc"), *((m, "final_win_rate") for m in claims.MAPS)):
        wins = {"dmix": 0.8, "ddn": 0.9, "qmix": 0.6, "vdn": 0.5}
        base |= {f"{task}/{m}/{metric}": win for m, win in wins.items()}
    base |= means
    rng, rows = np.random.default_rng(0), []
    for key, mean in base.items():
        task, method, metric = key.split("/")
        label = {"cvar": 1.0} if metric == "chooses_b" else {}
        exact = metric in ("optimal", "chooses_b") or method == "true-means"
        for seed in range(seeds):
            value = mean if exact else mean * (1 + noise * rng.standard_normal())
            row = {"task": task, "method": method, "seed": seed, "metric": metric}
            rows.append({**row, "value": value, **label})
    return Rows(rows)


def verdicts(rows: Rows, scale: str) -> dict[str, str]:
    return {name: entry["verdict"] for name, entry in kit.judged("dfac", rows, scale).items()}


def test_claims_hold_in_a_world_where_they_do() -> None:
    at_default, at_study, at_paper = (verdicts(world(), s) for s in ("default", "study", "paper"))
    judged = at_default.keys() - STUDIED - PAPER
    assert {name: at_default[name] for name in judged} == dict.fromkeys(judged, REPRODUCED)
    assert {at_default[name] for name in PAPER} == {"needs paper"}
    assert at_default["C5r"] == "needs study" and at_study["C5r"] == REPRODUCED
    assert {at_paper[name] for name in PAPER} == {REPRODUCED}


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    worse = {f"{t}/{m}/auc": w for t in (M, R) for m, w in (("dmix", 0.5), ("ddn", 0.3))}
    lost = {f"{claims.MAPS[2]}/dmix/final_win_rate": 0.5}
    ahead = {f"{claims.MAPS[2]}/dmix/final_win_rate": 0.95}
    even = {f"{M}/dmix/auc": 0.6, f"{M}/ddn/auc": 0.5, f"{R}/dmix/auc": 0.6, f"{R}/ddn/auc": 0.5}
    level = {f"{claims.MAPS[0]}/dmix/final_win_rate": 0.6}
    kit.check_judges(
        "dfac",
        {
            "C1": (world(**{f"{D}/dmix/violations": 0.005}), None),
            "C1b": (
                world(**{f"{D}/naive/violations": 0.0}),
                world(3.0, **{f"{D}/naive/violations": 0.01}),
            ),
            "C2a": (
                [
                    world(**{f"{G}/dmix/optimal": 0.0}),
                    world(**{f"{G}/dmix/worst_mean_error": 0.9}),
                ],
                world(0.5, **{f"{G}/dmix/worst_mean_error": 0.5}),
            ),
            "C2b": (
                world(**{f"{G}/dmix/w1_mean": 0.5}),
                world(0.5, **{f"{G}/dmix/w1_mean": 0.4}),
            ),
            "C2c": (world(**{f"{G}/ddn/chooses_b": 1.0}), None),
            "C3a": (world(**{f"{H}/dmix/optimal": 1.0}), None),
            "C3b": (world(**{f"{H}/dplex/optimal": 0.4}), None),
            "C3c": (world(**{f"{H}/dplex/best_cell_error": 4.0}), None),
            "C3d": (
                world(**{f"{H}/dplex/w1_mean": 2.0}),
                world(0.5, **{f"{H}/dplex/w1_mean": 1.3}),
            ),
            "C4": (world(**{f"{D}/dmix/mean_gap": 0.01}), None),
            "C5": (world(**worse), world(0.2, **even)),
            "C5r": (world(**worse), world(0.2, **even)),
            "C5p": (world(**lost), world(0.05, **level)),
            "C6": (world(**ahead), world(0.2, **{f"{claims.MAPS[0]}/dmix/final_win_rate": 0.9})),
            "C7": (
                world(**{f"{NOISE}/dmix/w1_shape": 5.0}),
                world(1.0, **{f"{NOISE}/dmix/w1_shape": 4.0}),
            ),
        },
    )


def test_methods_without_the_contribution_are_told_apart() -> None:
    """Scalars have no law and naive mixing no DIGM; laws as good without the split show."""
    judged = kit.judged("dfac", world())
    assert judged["C1"]["also_met_by"] == ["DDN", "DPLEX"]
    assert judged["C1b"]["also_met_by"] == [] and "DMIX" not in judged["C1b"]["also_met_by"]
    assert judged["C2b"]["also_met_by"] == [] and judged["C2b"]["tried"] == ["qmix", "ddn"]
    assert judged["C2a"]["also_met_by"] == ["QMIX", "QMIX per quantile"]
    assert judged["C7"]["also_met_by"] == ["DDN"]
    naive = kit.judged("dfac", world(**{f"{G}/naive/w1_mean": 0.2}))["C2b"]
    assert naive["verdict"] == NOT_SPECIFIC and naive["also_met_by"] == ["QMIX per quantile"]


def test_both_pairs_count_for_dmix_and_one_for_others() -> None:
    rows = world(0.0)
    found = claims.gains(rows, "dmix", M, "auc")
    np.testing.assert_allclose([found["dmix"], found["ddn"]], [[0.2] * 5, [0.4] * 5])
    assert list(claims.gains(rows, "ddn", M, "auc")) == ["ddn"]
    assert claims.higher_area(M)(rows, "dmix").evidence["n"] == 10
    with pytest.raises(NoResults, match="extends no other"):
        claims.gains(rows, "qmix", M, "auc")


@pytest.mark.parametrize("method", METHODS)
def test_judges_take_any_method_and_say_what_is_missing(method: str) -> None:
    for claim in claims.CLAIMS:
        for rows in (world(), Rows([])):
            try:
                assert claim.judge(rows, method).ours
            except NoResults as missing:
                assert str(missing)
    assert METHODS[method].rival in ("", *METHODS)


def test_a_point_is_no_nearer_than_itself() -> None:
    assert claims.nearer_than_a_point(world(0.0), "qmix").verdict == INCONCLUSIVE
    open_one = world(0.0, **{f"{G}/dmix/w1_mean": claims.LAW_ERROR})
    assert claims.interval(G, "w1_mean", claims.LAW_ERROR)(open_one, "dmix").verdict == INCONCLUSIVE
    assert claims.often(G, "optimal")(world(**{f"{G}/dmix/optimal": 0.4}), "dmix").verdict == (
        CONTRADICTED
    )


# ------------------------------------------------------------------ scales


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every battle is a matrix game."""

    def make(name: str, n: int, **_: Any) -> MatrixGame:
        return MatrixGame("dfac_m", n)

    monkeypatch.setattr(environments, "make_env", make)


def tiny(job: Any) -> Sequence[str] | None:
    if job.module == "train_games":
        flags = ["--batch", "4", "--buffer", "10", "--samples", "3", "--hidden", "8"]
        return [*flags, "--updates", "2", "--evaluations", "2", "--draws", "4"]
    if job.task.startswith("smac") and job.task not in ("smac-corridor", "smac-MMM2"):
        return None  # as those two
    flags = ["--steps", "16", "--envs", "4", "--hidden", "8", "--batch", "4", "--episodes", "4"]
    flags += ["--steps-per-update", "8", "--evaluations", "2", "--samples", "3"]
    return [*flags, "--monte-carlo", "4"]


@pytest.mark.parametrize("scale", ["default", "study", "tuning", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, stand_ins: None
) -> None:
    found = kit.run_scale("dfac", scale, tmp_path, tiny, seeds=1 if scale == "paper" else 2)
    rows = Rows(found["rows"])
    drawn = {figure["name"] for figure in found["figures"]}
    if scale == "default":
        assert {"laws", "game_m", "game_n", "smax_3m", "smax_3m_noise"} <= drawn
        assert len(found["tables"]) == 10 and len(found["tables"][0]["columns"]) <= 8
        assert len(found["tables"][0]["rows"]) <= 12
    if scale == "tuning":
        assert len(found["tables"]) == 2 and len(rows.unique("lr")) == 2
    if scale == "study":
        assert set(rows.unique("seed")) == {100, 101}
        titles = [table["title"] for table in found["tables"]]
        assert any("released" in title for title in titles)


def test_an_added_method_goes_through_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On made-up results: an added method is shown and changes no verdict."""
    folder = tmp_path / "root" / "papers" / "dfac"
    (folder / "results").mkdir(parents=True)
    shutil.copyfile(kit.ROOT / "papers" / "dfac" / "paper.toml", folder / "paper.toml")
    rows = world()
    entries = kit.judged("dfac", rows)
    found = rows.frame.astype(object).where(rows.frame.notna(), None).to_dict("records")
    laws = np.zeros((4, 16)).tolist()
    extra = {"name": "laws", "method": "dmix", "task": G, "seed": 0, "data": laws}
    results = {"rows": found, "claims": list(entries.values()), "extras": [extra]}
    (folder / "results" / "default.json").write_text(json.dumps(results))
    monkeypatch.setattr(kit, "ROOT", tmp_path / "root")
    kit.check_added_method("dfac", tmp_path, like="dmix", flags=["--updates", "2"])


def test_nothing_to_show_is_nothing() -> None:
    assert report.tables(Rows([])) == [] and report.figures(Rows([]), []) == {}


def test_what_the_committed_rows_say() -> None:
    rows = kit.rows_of("dfac")
    judged = kit.judged("dfac", rows)
    said = {name: entry["verdict"] for name, entry in judged.items()}
    assert all(said[name] == REPRODUCED for name in ("C1", "C1b", "C2c", "C3a", "C4", "C7"))
    assert said["C2b"] == NOT_SPECIFIC
    assert METHODS.label("naive") in judged["C2b"]["also_met_by"]
    assert all(said[name] == CONTRADICTED for name in ("C3b", "C3c", "C3d"))
    assert said["C2a"] == said["C5"] == INCONCLUSIVE
    law = rows.of(task="smax-3m-noise", method="dmix")  # learnt returns are too narrow
    assert law.of(metric="law_std").value() < 0.6 * law.of(metric="return_std").value()
