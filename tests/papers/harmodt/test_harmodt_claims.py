"""Claims on made-up rows, scales on stand-ins, figures, an added method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import files
from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED, NoResults
from common.rows import Rows
from papers.harmodt import claims, report
from papers.harmodt.methods import METHODS
from papers.harmodt.task import FIFTY, SUITES
from tests.papers import kit
from tools import manifest

torch.set_num_threads(1)

SUCCESS = {
    **{"harmo_f": 0.7, "harmo_m": 0.68, "harmo_r": 0.5, "harmo_f_code": 0.5, "prompt_dt": 0.5},
    **{
        "mtdt": 0.48,
        "mixed_dt": 0.45,
        "pcgrad_dt": 0.4,
        "dt_agnostic": 0.3,
        "g_harmo": 0.45,
        "g_harmo_r": 0.3,
    },
    **{"untrained": 0.0, "expert": 1.0, "mean": 1.0},
}
CONFLICT = {"harmo_f": 0.1, "harmo_m": 0.3, "harmo_r": 0.4, "harmo_f_code": 0.45, "prompt_dt": 0.5}
SUITES_RUN = ("mt6-sub", "mt6-near", "mt8-sub")


def world(noise: float = 0.01, seeds: int = 3, scale: float = 1.0, **success: float) -> Rows:
    """Rows in which every claim holds: errors are (1 - success) / 10.

    Args:
        noise: of success, per cell; errors have it in their logarithm.
        success: of methods, in the place of what makes claims hold; "conflict_NAME" sets conflict.
    """
    rng, rows = np.random.default_rng(1), []
    conflict = CONFLICT | {k[9:]: v for k, v in success.items() if k.startswith("conflict_")}
    level = SUCCESS | {k: v for k, v in success.items() if not k.startswith("conflict_")}
    for suite in SUITES_RUN:
        for method, mean in level.items():
            for seed in range(seeds):
                name = {"method": method, "task": suite, "seed": seed}
                for subtask in (*SUITES[suite].tasks, *SUITES[suite].unseen):
                    prefix = "unseen_" * (subtask in SUITES[suite].unseen)
                    value = scale * (mean + noise * rng.standard_normal())
                    own = {**name, "subtask": subtask}
                    rows.append({**own, "metric": f"task_{prefix}success", "value": value})
                    error = (1.05 - mean) / 10 * np.exp(noise * rng.standard_normal())
                    if not prefix and method not in ("expert", "mean"):
                        rows.append({**own, "metric": "task_action_error", "value": error})
                for metric, value in (("success", mean), ("action_error", (1.05 - mean) / 10)):
                    rows.append({**name, "metric": metric, "value": value})
                if METHODS[method].groups:
                    for when, right in (("first", 0.6), ("late", 0.99)):
                        rows.append({**name, "metric": f"gate_{when}", "value": right})
                if method in conflict:
                    values = conflict[method] + noise * rng.standard_normal(4)
                    step = {"step": [1, 2, 3, 4], "value": values.tolist()}
                    for metric in ("conflict_masked", "conflict_masked_cosine", "loss"):
                        rows.append({**name, "metric": metric, **step})
    return Rows(rows)


def test_claims_hold_in_a_world_where_they_do() -> None:
    judged = {name: entry["verdict"] for name, entry in kit.judged("harmodt", world()).items()}
    assert judged == dict.fromkeys(judged, REPRODUCED)


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    loose = world(3.0, scale=1.0)
    kit.check_judges(
        "harmodt",
        {
            "harmo.beats_prompt": (world(prompt_dt=0.8), loose),
            "harmo.beats_prompt_error": (world(prompt_dt=0.8), loose),
            "harmo.beats_prompt_near": (world(prompt_dt=0.8), loose),
            "harmo.learned_masks": (world(harmo_r=0.8), loose),
            "harmo.prompt_vs_mtdt": (world(mtdt=0.7), world(mtdt=0.55, noise=0.1)),
            "harmo.conflict": (world(conflict_harmo_r=0.05), loose),
            "harmo.dense_recovery": (world(harmo_f_code=0.8), loose),
            "harmo.agnostic": (world(dt_agnostic=0.6), world(0.5)),
            "harmo.unseen": (world(prompt_dt=0.8), loose),
        },
    )


@pytest.mark.parametrize("method", ["prompt_dt", "harmo_r", "untrained"])
def test_nothing_is_equal_to_nothing(method: str) -> None:
    """Where MTDT has learned nothing, whatever does nothing is as good, and that says nothing."""
    judged = claims.as_good_as_mtdt(world(mtdt=0.0).of(task="mt6-sub"), method)
    assert judged.verdict == INCONCLUSIVE and "not learned enough" in judged.ours


def test_random_masks_that_do_as_well_are_named() -> None:
    entry = kit.judged("harmodt", world(harmo_r=0.7))["harmo.beats_prompt"]
    assert entry["verdict"] == NOT_SPECIFIC and "HarmoDT-R" in entry["also_met_by"]


def test_a_dense_network_that_fits_better_than_random_masks_is_named() -> None:
    entry = kit.judged("harmodt", world(prompt_dt=0.6))["harmo.learned_masks"]
    assert entry["verdict"] == NOT_SPECIFIC and "Prompt-DT" in entry["also_met_by"]


def test_those_who_are_told_do_not_stand_in_for_those_who_are_not() -> None:
    entry = kit.judged("harmodt", world())["harmo.agnostic"]
    assert entry["tried"] == ["g_harmo_r"] and entry["verdict"] == REPRODUCED
    assert "gate right 0.60" in entry["ours"]
    entry = kit.judged("harmodt", world(g_harmo_r=0.4))["harmo.agnostic"]
    assert entry["verdict"] == NOT_SPECIFIC


def test_an_untrained_network_meets_no_claim_of_the_contribution() -> None:
    for claim in claims.CLAIMS:
        try:
            assert claim.judge(world(), "untrained").verdict == CONTRADICTED
        except NoResults:
            continue


def test_cells_are_paired_by_task_and_seed() -> None:
    rows = world(0.0, prompt_dt=0.5).of(task="mt6-sub")
    a, b = claims.cells(rows, "task_success", "harmo_f", "prompt_dt")
    assert len(a) == 18 and np.allclose(a - b, 0.2)
    some = rows.frame[~((rows.frame["method"] == "prompt_dt") & (rows.frame["seed"] == 1))]
    assert len(claims.cells(Rows(some), "task_success", "harmo_f", "prompt_dt")[0]) == 12


def test_every_suite_of_a_kind_has_to_agree() -> None:
    frame = world().frame
    bigger = frame[frame["task"] == "mt6-sub"].assign(task="mt10-sub")
    worse = kit.edited(Rows(bigger), lambda v: 0 * v, method="harmo_f", metric="task_success")
    both = Rows([*frame.to_dict("records"), *worse.frame.to_dict("records")])
    claim = next(c for c in claims.CLAIMS if c.id == "harmo.beats_prompt")
    assert claim.judge(both, "harmo_f").verdict == CONTRADICTED
    assert claims.suites(both, claims.SUB) == ["mt6-sub", "mt10-sub"]
    assert claims.suites(both, claims.UNSEEN) == ["mt8-sub"]


def test_given_settings_are_not_the_claims() -> None:
    frame = world().frame.assign(sparsity=0.5)
    for claim in claims.CLAIMS:
        with pytest.raises(NoResults):
            claim.judge(Rows(frame), claim.method)


@pytest.mark.parametrize("method", METHODS)
def test_judges_take_any_method_and_say_what_is_missing(method: str) -> None:
    for claim in claims.CLAIMS:
        for rows in (world(), Rows([])):
            try:
                assert claim.judge(rows, method).ours
            except NoResults as missing:
                assert str(missing)


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.id)
def test_statements_are_short(claim: Any) -> None:
    assert len(claim.statement.split()) <= 25


def test_what_a_scale_cannot_decide_names_the_scale_that_can() -> None:
    judged = kit.judged("harmodt", world().of(task=["mt6-sub", "mt6-near"]))
    assert judged["harmo.unseen"]["verdict"] == "needs gpu"


# -- scales ---------------------------------------------------------------------------------------


def tiny(job: Any) -> Sequence[str] | None:
    """Flags that make a job small. At paper the suites are one code: the smallest is run with all
    methods, it and the largest with the two that the first claims compare."""
    if job.scale == "paper" and job.task != "mt5-sub":
        compared = job.method in ("harmo_f", "prompt_dt")
        if job.task not in ("mt5-near", "mt50-sub") or not compared:
            return None
    flags = ["--steps", "12", "--batch", "2", "--width", "8", "--layers", "1", "--heads", "1"]
    flags += ["--window", "3", "--prompt", "2", "--interval", "6", "--goals", "2"]
    flags += ["--conflict-batch", "2", "--gate-batch", "2", "--warm-up", "2", "--episodes", "4"]
    return flags


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("scale", ["default", "study", "tuning", "gpu", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, published: Callable[..., Path]
) -> None:
    if scale == "paper":
        published(FIFTY, 4)
    found = kit.run_scale("harmodt", scale, tmp_path / "runs", tiny, seeds=1)
    if scale == "study":
        [main] = [t for t in found["tables"] if t.get("main")]
        assert any("sparsity 0.5" in line[0] for line in main["rows"])
        assert len(main["rows"]) <= 12
    if scale == "tuning":
        assert len(found["tables"]) == 1


def test_the_main_table_and_figure_fit_a_page() -> None:
    rows = world().of(method=[m for m in METHODS if m not in ("harmo_m", "mixed_dt", "pcgrad_dt")])
    [main] = [t for t in report.tables(rows) if t.main]
    assert len(main.rows) <= 12 and len(main.columns) <= 8
    drawn = report.figures(rows, [])
    [figure] = [d for d in drawn.values() if d.main]
    assert len(figure.figure.axes) <= 6


@pytest.mark.usefixtures("stand_in")
def test_an_added_method_goes_through_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the rows of a world, as long as no results are committed."""
    made = world()
    judged = [{"id": k, "verdict": v["verdict"]} for k, v in kit.judged("harmodt", made).items()]
    path = tmp_path / "papers" / "harmodt"
    (path / "results").mkdir(parents=True)
    rows = made.frame.astype(object).where(made.frame.notna(), None).to_dict("records")
    rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
    files.write_json(path / "results/default.json", {"rows": rows, "claims": judged, "extras": []})
    source = manifest.ROOT / "papers" / "harmodt" / "paper.toml"
    (path / "paper.toml").write_bytes(source.read_bytes())
    monkeypatch.setattr(kit, "ROOT", tmp_path)
    job = next(j for j in manifest.load("harmodt").scale("smoke", 1).jobs if j.method == "harmo_f")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "imported_anew", patched_anew(patch))
        kit.check_added_method("harmodt", tmp_path / "runs", like="harmo_f", flags=tiny(job))


def patched_anew(patch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """``kit.imported_anew`` with the stand-ins in the modules that are imported anew."""
    import contextlib
    import importlib

    from tests.papers.harmodt.conftest import Simulator, made

    anew = kit.imported_anew

    @contextlib.contextmanager
    def within(slug: str) -> Any:
        with anew(slug):
            tasks = importlib.import_module("papers.harmodt.task")
            patch.setattr(tasks, "TaskSimulator", Simulator)
            patch.setattr(tasks, "goal_episodes", made)
            yield

    return within
