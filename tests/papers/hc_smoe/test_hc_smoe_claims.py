"""Every claim can fail and be left open; every scale runs on stand-ins; a method can be added."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED, NoResults
from common.rows import Rows
from common.textlab import evaluate as judging
from papers.hc_smoe import claims, report
from papers.hc_smoe.methods import METHODS
from papers.hc_smoe.task import PRETRAINED
from tests.papers import kit
from tests.papers.hc_smoe import stand_in
from tools.manifest import ROOT

torch.set_num_threads(1)
LOSSES = {  # increases at 75 % and 50 %
    **{"hc-avg": (0.02, 0.05), "oneshot": (0.05, 0.12), "random": (0.03, 0.07)},
    **{"fprune": (0.06, 0.15), "sprune": (0.06, 0.16), "oprune": (0.04, 0.08)},
    **{"hc-weight": (0.04, 0.09), "hc-router": (0.045, 0.11), "kmeans": (0.04, 0.08)},
}


def world(noise: float = 0.002, **changes: Any) -> Rows:
    """Rows as eval.py writes them; every claim holds unless ``changes`` says otherwise.

    ``changes``: increases (75 %, 50 %) by method or "task/method"; "accuracy/method".
    """
    rng, rows = np.random.default_rng(0), []

    def add(task: str, method: str, seed: int, metric: str, value: float, kept: float) -> None:
        row = {"task": task, "method": method, "seed": seed, "metric": metric, "kept": kept}
        rows.append({**row, "value": float(value)})

    accuracy = {"original": 0.45, "hc-avg": 0.44, "random": 0.3, "fprune": 0.3}
    accuracy |= {k.removeprefix("accuracy/"): v for k, v in changes.items() if "accuracy/" in k}
    for seed in range(5):
        for task in ("mixtral", "qwen", "mixtral-scratch"):
            base = 4 + 0.2 * rng.standard_normal()
            add(task, "original", seed, "nll", base, 1.0)
            for method, usual in LOSSES.items():
                lost = changes.get(f"{task}/{method}", changes.get(method, usual))
                worse = 3.0 if task == "mixtral-scratch" else 1.0
                for kept, more in zip((0.75, 0.5), lost, strict=True):
                    found = base + worse * more + noise * rng.standard_normal()
                    add(task, method, seed, "nll", found, kept)
            for method, value in accuracy.items():
                kept = 1.0 if method == "original" else 0.75
                spread = 0.2 * np.sqrt(noise) * rng.standard_normal()
                add(task, method, seed, "accuracy", value + spread, kept)
    paper = {"hc-avg": 0.64, "oprune": 0.6, "fprune": 0.58, "sprune": 0.57, "msmoe": 0.4}
    paper |= {k.removeprefix("zero/"): v for k, v in changes.items() if "zero/" in k}
    for task in PRETRAINED:
        for method, value in paper.items():
            for kept in (0.75, 0.5):
                for i, name in enumerate(PRETRAINED[task].tasks):
                    found = value + 0.02 * i + 10 * noise * rng.standard_normal()
                    add(task, method, 0, f"accuracy_{name}", found, kept)
    return Rows(rows)


def verdicts(rows: Rows, scale: str = "default") -> dict[str, str]:
    return {name: entry["verdict"] for name, entry in kit.judged("hc_smoe", rows, scale).items()}


def test_claims_hold_in_a_world_where_they_do() -> None:
    found = verdicts(world())
    assert found.pop("c8") == "needs paper"
    assert set(found.values()) == {REPRODUCED}, found
    assert verdicts(world(), "gpu")["c1"] == REPRODUCED
    assert verdicts(world(), "paper")["c8"] == REPRODUCED


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    kit.check_judges(
        "hc_smoe",
        {
            "c1": (world(**{"qwen/hc-avg": (0.02, 0.2)}), world(0.05)),
            "c2": (
                [world(fprune=(0.001, 0.01)), world(**{"mixtral/sprune": (0.001, 0.2)})],
                world(0.1),
            ),
            "c3": (world(oprune=(0.01, 0.02)), world(oprune=(0.03, 0.04))),
            "c4": (world(**{"qwen/hc-router": (0.01, 0.02)}), world(0.05)),
            "c5": (world(kmeans=(0.01, 0.02)), world(0.05)),
            "c6": (world(**{"accuracy/hc-avg": 0.3}), world(0.05, **{"accuracy/hc-avg": 0.4})),
            "c7": (
                world(**{"mixtral-scratch/hc-avg": (0.0, 0.02)}),
                world(0.02, **{"mixtral-scratch/hc-avg": (0.0, 0.028)}),
            ),
            "c8": (world(**{"zero/fprune": 0.7}), world(0.01, **{"zero/oprune": 0.64})),
        },
    )


def test_what_any_grouping_does_is_left_open() -> None:
    """The assay: better than the rival, but not better than random groups."""
    rows = world(**{"random": (0.02, 0.05)})
    judged = kit.judged("hc_smoe", rows)
    for name in ("c1", "c2", "c3", "c4", "c5"):
        assert judged[name]["verdict"] == INCONCLUSIVE, name
        assert "no better than random groups" in judged[name]["details"], name
    # a rival that is better contradicts all the same
    assert verdicts(world(random=(0.02, 0.05), fprune=(0.0, 0.0)))["c2"] == CONTRADICTED


def test_an_original_that_guesses_decides_nothing() -> None:
    rows = world(**{"accuracy/original": 0.3, "accuracy/hc-avg": 0.29})
    entry = kit.judged("hc_smoe", rows)["c6"]
    assert entry["verdict"] == INCONCLUSIVE and "below 0.35" in entry["ours"]
    # what random groups and pruning keep as well is not the method's
    as_good = {f"accuracy/{name}": 0.44 for name in ("random", "fprune")}
    assert verdicts(world(**as_good))["c6"] == NOT_SPECIFIC


def test_a_baseline_that_is_as_good_makes_a_claim_unspecific() -> None:
    assert verdicts(world(**{"kmeans": (0.02, 0.05)}))["c1"] == NOT_SPECIFIC
    assert "c1" in verdicts(world()) and verdicts(world(**{"fprune": (0.01, 0.04)}))["c2"] == (
        CONTRADICTED
    )


@pytest.mark.parametrize("method", METHODS)
def test_judges_take_any_method_and_say_what_is_missing(method: str) -> None:
    for claim in claims.CLAIMS:
        for rows in (world(), Rows([])):
            try:
                assert claim.judge(rows, method).ours
            except NoResults as missing:
                assert str(missing)


# -- scales ---------------------------------------------------------------------------------------


def tiny(job: Any) -> Sequence[str] | None:
    if job.module == "pretrain":
        few = {**stand_in.TRAINING, "dense_steps": 2, "steps": 2}
        return stand_in.flags(few)
    few = {**stand_in.MERGING, "items": 4 if "--items" in job.args else 0}
    if job.scale == "tuning":
        del few["calibration"]  # its grid
    return stand_in.flags(few)


@pytest.mark.parametrize("scale", ["default", "tuning", "study", "gpu"])
def test_every_stage_of_every_scale_on_stand_ins(scale: str, tmp_path: Path) -> None:
    found = kit.run_scale("hc_smoe", scale, tmp_path, tiny, seeds=2 if scale == "default" else 1)
    drawn = {figure["name"] for figure in found["figures"]}
    titles = " ".join(table["title"] for table in found["tables"])
    if scale == "tuning":
        assert drawn == set() and "windows of calibration text" in titles
        return
    assert {"increase", "error", "dendrograms"} <= drawn
    main = next(table for table in found["tables"] if table["main"])
    assert len(main["rows"]) <= 12 and len(main["columns"]) <= 8
    assert "Rank correlation" in titles and "before anything is merged" in titles


def test_the_papers_scale_on_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERS_DATA", str(stand_in.c4(tmp_path / "data")))
    monkeypatch.setattr(judging, "harness", stand_in.harness)
    folders = {
        "mixtral-8x7b": stand_in.public_mixture(tmp_path / "mixtral", "mixtral"),
        "qwen1.5-moe": stand_in.public_mixture(tmp_path / "qwen", "qwen"),
    }

    def small(job: Any) -> Sequence[str]:
        return [*stand_in.flags(stand_in.MERGING), "--model", str(folders[job.task])]

    found = kit.run_scale("hc_smoe", "paper", tmp_path / "runs", small)
    judged = {claim["id"]: claim["verdict"] for claim in found["claims"]}
    assert judged["c8"] in kit.VERDICTS and judged["c1"].startswith("needs ")
    assert sum("zero-shot accuracy" in table["title"] for table in found["tables"]) == 2


@pytest.mark.skipif(
    not (ROOT / "papers" / "hc_smoe" / "results" / "default.json").is_file(),
    reason="compares with committed results, which are not made yet",
)
def test_an_added_method_goes_through_everything(earlier: Path, tmp_path: Path) -> None:
    shutil.copytree(earlier / "moe", tmp_path / "moe")
    trained = tmp_path / "moe" / "mixtral" / "moe"
    flags = stand_in.flags({**stand_in.MERGING, "trained": trained})
    kit.check_added_method("hc_smoe", tmp_path, flags=flags)


def test_figures_without_runs() -> None:
    assert report.figures(Rows([]), []) == {} and report.tables(Rows([])) == []
