"""Every claim can fail and be left open; every scale runs on stand-ins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import files
from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED, NoResults
from common.rows import Rows
from papers.ne import claims, report
from papers.ne.methods import METHODS
from tests.papers import kit
from tools import manifest

torch.set_num_threads(1)

CYCLE = ("ne", "dense", "static", "redo", "reset", "ne-random", "ne-no-review", "ne-no-prune")
PROBE = ("ne", "dense", "static", "redo", "ne-no-prune")
GROWING = ("ne", "ne-random", "ne-no-review", "ne-no-prune")


def world(noise: float = 0.02, **changes: float) -> Rows:
    """Rows as eval.py writes them; every claim holds unless ``changes`` say otherwise.

    ``changes``: means by "task/method/metric".
    """
    base = {f"cycle/{m}/final_return": 8.0 if m == "ne" else 4.0 for m in CYCLE}
    base |= {f"cycle/{m}/final_other": 3.0 if m == "ne" else 1.0 for m in CYCLE}
    base |= {f"cycle/{m}/critic_active": 0.9 if m == "ne" else 0.6 for m in CYCLE}
    base |= {f"cycle/{m}/critic_inactive_rise": 0.3 for m in CYCLE}
    base |= {f"cycle/{m}/reviewed_share": 0.3 for m in CYCLE}
    base |= {f"cycle/{m}/review_other": 0.9 for m in CYCLE}
    base |= {f"cycle/{m}/least_growth": 3.0 for m in GROWING}
    base |= {f"cycle/{m}/most_pruned": 0.39 for m in GROWING}
    base |= {f"cycle/{m}/target_missed": 0.0 for m in GROWING}
    base |= {f"probe/{m}/last_inactive": 0.4 if m == "ne" else 0.8 for m in PROBE}
    for task in (*claims.MUJOCO, "pixels-cheetah_run", "pixels-walker_walk"):
        rivals = ("dense", "redo", "reset")
        base |= {f"{task}/{m}/final_return": 8.0 if m == "ne" else 4.0 for m in ("ne", *rivals)}
    rng, rows = np.random.default_rng(1), []
    exact = ("least_growth", "most_pruned", "target_missed", "reviewed_share", "review_other")
    assert set(changes) <= set(base)
    for key, mean in {**base, **changes}.items():
        task, method, metric = key.split("/")
        for seed in range(5):
            moved = 0.0 if metric in exact else noise * rng.standard_normal()
            row = {"task": task, "method": method, "seed": seed, "metric": metric}
            rows.append({**row, "value": mean + moved})
    return Rows(rows)


def test_claims_hold_in_a_world_where_they_do() -> None:
    judged = {name: entry["verdict"] for name, entry in kit.judged("ne", world()).items()}
    assert judged == dict.fromkeys(judged, REPRODUCED)


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    loose = world(30.0, **{"cycle/dense/critic_inactive_rise": 90.0})
    kit.check_judges(
        "ne",
        {
            "ne.return": (world(**{"cycle/dense/final_return": 9.0}), loose),
            "ne.active": (
                world(**{"cycle/ne/critic_active": 0.4}),
                world(**{"cycle/dense/critic_inactive_rise": 0.0}),
            ),
            "ne.remedies": (
                [
                    world(**{"cycle/redo/final_return": 9.0}),
                    world(**{"cycle/reset/final_return": 9.0}),
                ],
                loose,
            ),
            "ne.review": (
                world(**{"cycle/ne-no-review/final_other": 5.0}),
                world(**{"cycle/ne/reviewed_share": 0.01}),
            ),
            "ne.gradient_growth": (world(**{"cycle/ne-random/final_return": 9.0}), loose),
            "ne.dormant_probe": (world(**{"probe/dense/last_inactive": 0.1}), loose),
            "ne.prune_probe": (world(**{"probe/ne-no-prune/last_inactive": 0.1}), loose),
            "ne.grow": (
                [
                    world(**{"cycle/ne/least_growth": -1.0}),
                    world(**{"cycle/ne/most_pruned": 0.5}),
                    world(**{"cycle/ne/target_missed": 0.1}),
                ],
                None,
            ),
            "ne.mujoco": (
                [
                    world(**{"ant/dense/final_return": 9.0}),
                    world(**{"humanoid/reset/final_return": 9.0}),
                ],
                loose,
            ),
            "ne.pixels": (world(**{"pixels-walker_walk/dense/final_return": 9.0}), loose),
        },
    )


@pytest.mark.parametrize("name", ["ne.active", "ne.review"])
def test_wide_intervals_leave_open_what_an_assay_lets_pass(name: str) -> None:
    loose = world(30.0, **{"cycle/dense/critic_inactive_rise": 90.0})
    claim = next(claim for claim in claims.CLAIMS if claim.id == name)
    assert claim.judge(loose, "ne").verdict == INCONCLUSIVE


def test_without_a_loss_of_plasticity_nothing_is_said_of_it() -> None:
    judged = claims.stays_active(world(**{"cycle/dense/critic_inactive_rise": 0.01}), "ne")
    assert judged.verdict == INCONCLUSIVE and "no plasticity loss" in judged.ours


def test_a_review_of_the_same_direction_is_none() -> None:
    judged = claims.keeps_the_other(world(**{"cycle/ne/review_other": 0.2}), "ne")
    assert judged.verdict == INCONCLUSIVE and "hardly used" in judged.ours
    dense = world(**{"cycle/dense/final_other": 5.0})  # it does not review, and forgets less
    assert claims.keeps_the_other(dense, "dense").verdict == REPRODUCED
    assert kit.judged("ne", dense)["ne.review"]["verdict"] == NOT_SPECIFIC


def test_sparsity_alone_is_named() -> None:
    entry = kit.judged("ne", world(**{"cycle/static/final_return": 8.0}))["ne.return"]
    assert entry["verdict"] == NOT_SPECIFIC and entry["also_met_by"] == ["static sparse"]
    assert "static sparse" in entry["ours"]


def test_a_probe_that_a_static_network_passes_is_not_specific() -> None:
    entry = kit.judged("ne", world(**{"probe/static/last_inactive": 0.4}))["ne.dormant_probe"]
    assert entry["verdict"] == NOT_SPECIFIC and "static sparse" in entry["also_met_by"]


def test_given_settings_are_not_the_claims() -> None:
    """Rows of a sweep carry its label, and no judge takes them for the task's own."""
    frame = world().frame.assign(start_sparsity=0.5)
    with pytest.raises(NoResults):
        claims.better_return(("dense",))(Rows(frame), "ne")


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
    judged = kit.judged("ne", world().of(task=["cycle", "probe"]))
    assert judged["ne.mujoco"]["verdict"] == "needs paper"
    assert judged["ne.pixels"]["verdict"] == "needs gpu"


# -- scales ---------------------------------------------------------------------------------------


def tiny(job: Any) -> Sequence[str] | None:
    """Flags that make a job small. At scale paper the five from pixels are one code, and so are
    the four of MuJoCo: there one of each is run with all methods, the others with two (or, where a
    claim needs them, four)."""
    few = ("ne", "dense", "redo", "reset")
    if job.task in claims.MUJOCO[1:] and job.method not in few:
        return None
    others = job.module == "drq" and job.task != "pixels-walker_walk"
    if job.scale == "paper" and others and job.method not in few[:2]:
        return None
    if job.module == "probe":
        return ["--tasks", "2", "--steps", "8", "--batch", "8", "--hidden", "8", "--interval", "4"]
    if job.module == "drq":
        flags = ["--training", "2", "--warm-up", "6", "--eval-every", "2", "--episodes", "1"]
        flags += ["--batch", "4", "--size", "21", "--hidden", "8", "--feature", "4"]
        return [*flags, "--interval", "4", "--capacity", "20", "--redo-every", "6"]
    flags = ["--steps", "24", "--warm-up", "8", "--limit", "4", "--eval-every", "4"]
    flags += ["--episodes", "1", "--batch", "4", "--hidden", "8", "--capacity", "24"]
    return [*flags, "--interval", "4", "--redo-every", "4"]


@pytest.mark.parametrize("scale", ["default", "study", "tuning", "gpu", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, small_pixels: None
) -> None:
    found = kit.run_scale("ne", scale, tmp_path, tiny, seeds=1 if scale == "paper" else 2)
    assert Rows(found["rows"]).unique("metric")
    if scale == "study":
        [main] = [t for t in found["tables"] if t.get("main")]
        for setting in ("start sparsity 0.25", "lr 0.003", "phases 1"):
            assert any(setting in line[0] for line in main["rows"])


def test_the_figures_of_all_claims_have_six_panels_at_most() -> None:
    rows = world().frame.to_dict("records")
    metrics = ("return", "other_return", "critic_inactive", "critic_fau", "critic_density")
    for task, names in (("cycle", metrics), ("probe", ("inactive",))):
        for metric in names:
            for seed in range(2):
                label = {"task": task, "method": "ne", "seed": seed, "metric": metric}
                rows.append({**label, "step": [1, 2], "value": [0.1, 0.2]})
    drawn = report.figures(Rows(rows), [])
    [main] = [drawing for drawing in drawn.values() if drawing.main]
    assert len(main.figure.axes) == 6


def test_an_added_method_goes_through_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_pixels: None
) -> None:
    """On the rows of a world, as long as no results are committed."""
    made = world()
    plan = claims_of(made)
    path = tmp_path / "papers" / "ne" / "results"
    path.mkdir(parents=True)
    files.write_json(
        path / "default.json",
        {"rows": made.frame.to_dict("records"), "claims": plan, "extras": []},
    )
    (tmp_path / "papers" / "ne" / "paper.toml").write_bytes(
        (manifest.ROOT / "papers" / "ne" / "paper.toml").read_bytes()
    )
    monkeypatch.setattr(kit, "ROOT", tmp_path)
    job = next(j for j in manifest.load("ne").scale("smoke", 1).jobs if j.method == "ne")
    kit.check_added_method("ne", tmp_path / "runs", like="ne", flags=tiny(job))


def claims_of(rows: Rows) -> list[dict[str, Any]]:
    """Ids and verdicts."""
    found = kit.judged("ne", rows)
    return [{"id": name, "verdict": entry["verdict"]} for name, entry in found.items()]


def test_contradictions_are_not_hidden_by_other_methods() -> None:
    entry = kit.judged("ne", world(**{"cycle/dense/final_return": 9.0}))["ne.return"]
    assert entry["verdict"] == CONTRADICTED
