"""Claims on made-up rows, scales on stand-ins, figures, an added method."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import files
from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED, NoResults
from common.rows import Rows
from papers.compoformer import claims, report
from papers.compoformer.methods import METHODS
from papers.compoformer.task import STREAMS, TEN
from tests.papers import kit
from tools import manifest

torch.set_num_threads(1)

SUCCESS = {
    **{"compo_prune": 0.8, "compo_grow": 0.75, "compo_uniform": 0.5, "compo_own": 0.45},
    **{"prune_own": 0.45},
    **{"packnet": 0.5, "lora": 0.5, "rehearsal": 0.45, "ewc": 0.3, "finetune": 0.2},
    **{"untrained": 0.0, "multitask": 0.82, "expert": 1.0, "mean": 1.0},
}
SEVEN, ALL = ("ocw7",), ("ocw7", "ocw10", "ocw20")
KEPT = ("compo_prune", "compo_grow", "compo_uniform", "compo_own", "prune_own", "packnet", "lora")


@functools.cache
def world(
    noise: float = 0.01,
    seeds: int = 3,
    forgotten: float = 0.5,
    drift: float = 0.0,
    right: float = 1.0,
    lead: float = 0.1,
    streams: tuple[str, ...] = SEVEN,
    **success: float,
) -> Rows:
    """Rows in which every claim holds: errors are (1.05 - success) / 10.

    Args:
        noise: of success, per cell; errors have it in their logarithm.
        forgotten: F of finetuning and EWC.
        drift: by which CompoFormer's finished tasks move.
        right: share of the repeats that are recognised.
        lead: by which PackNet's success is lower on twenty tasks.
        streams: that were run.
        success: of methods, in the place of what makes claims hold.
    """
    rng, rows = np.random.default_rng(1), []
    for stream in streams:
        tasks = STREAMS[stream].tasks
        for method, level in {**SUCCESS, **success}.items():
            mean = level - lead * (stream == "ocw20" and method == "packnet")
            for seed in range(seeds):
                name = {"method": method, "task": stream, "seed": seed}
                moves = 0.0 if method in KEPT else 0.4
                found = []
                for place, subtask in enumerate(tasks, 1):
                    own = {**name, "place": place, "subtask": subtask}
                    found.append(mean + noise * rng.standard_normal())
                    rows.append({**own, "metric": "place_success", "value": found[-1]})
                    error = (1.05 - mean) / 10 * np.exp(noise * rng.standard_normal())
                    if method not in ("expert", "mean"):
                        rows.append({**own, "metric": "place_action_error", "value": error})
                    if method not in ("expert", "mean", "untrained", "multitask"):
                        moved = drift if method.startswith("compo") else moves
                        rows.append({**own, "metric": "place_drift", "value": moved})
                    if METHODS[method].composes:
                        again = STREAMS[stream].earlier(place - 1) is not None
                        reused = again and METHODS[method].composition == "attention"
                        rows.append({**own, "metric": "place_reused", "value": float(reused)})
                        if reused:
                            value = float((3 * seed + place) % 10 < 10 * right)
                            rows.append({**own, "metric": "place_recognised", "value": value})
                for metric, value in (("performance", np.mean(found)), ("grown", 5.0)):
                    rows.append({**name, "metric": metric, "value": float(value)})
                if method not in ("expert", "mean", "untrained", "multitask"):
                    value = forgotten + 0.01 * rng.standard_normal() if moves else 0.0
                    rows.append({**name, "metric": "forgetting", "value": float(value)})
                curve = {"step": [1, 2], "value": [0.2, 0.1]}
                rows.append({**name, "metric": "loss", **curve})
                rows.append({**name, "metric": "action_error", "value": (1.05 - mean) / 10})
    return Rows(rows)


def test_claims_hold_in_a_world_where_they_do() -> None:
    found = kit.judged("compoformer", world(streams=ALL))
    judged = {name: entry["verdict"] for name, entry in found.items()}
    assert judged == dict.fromkeys(judged, REPRODUCED)


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    loose = world(4.0)
    even = world(4.0, lead=0.0, streams=ALL)
    kit.check_judges(
        "compoformer",
        {
            "compo.vs_packnet": (world(packnet=0.9), loose),
            "compo.vs_lora": (world(lora=0.9), loose),
            "compo.vs_packnet_error": (world(packnet=0.9), loose),
            "compo.vs_lora_error": (world(lora=0.9), loose),
            "compo.forgetting": (
                [world(forgotten=0.1), world(drift=1e-6)],
                world(forgotten=0.3),
            ),
            "compo.beats_finetune": ([world(ewc=0.9), world(finetune=0.9)], loose),
            "compo.reuse": (world(right=0.6), None),
            "compo.attention": (world(compo_uniform=0.9), loose),
            "compo.sources": (world(compo_own=0.9), loose),
            "compo.upper": (world(multitask=0.5), world(multitask=0.75, noise=0.2)),
            "compo.longer": (world(lead=-0.1, streams=ALL), even),
        },
    )


def test_a_rival_that_does_as_well_is_named() -> None:
    entry = kit.judged("compoformer", world(lora=0.8))["compo.vs_packnet"]
    assert entry["verdict"] == NOT_SPECIFIC and "LoRA" in entry["also_met_by"]
    entry = kit.judged("compoformer", world(prune_own=0.8))["compo.vs_packnet"]
    assert entry["verdict"] == NOT_SPECIFIC and "Prune, no sources" in entry["also_met_by"]
    entry = kit.judged("compoformer", world(compo_own=0.75))["compo.vs_lora"]
    assert entry["verdict"] == NOT_SPECIFIC and "Grow, no sources" in entry["also_met_by"]


@pytest.mark.parametrize("method", ["packnet", "untrained"])
def test_nothing_is_equal_to_nothing(method: str) -> None:
    judged = claims.upper(world(compo_prune=0.1).of(task="ocw7"), method)
    assert judged.verdict == INCONCLUSIVE and "not learned enough" in judged.ours


def test_an_untrained_network_meets_no_claim() -> None:
    for claim in claims.CLAIMS:
        try:
            assert claim.judge(world(), "untrained").verdict == CONTRADICTED
        except NoResults:
            continue


def test_mixtures_are_compared_where_both_have_learned_on_two_sources() -> None:
    rows = world().of(task="ocw7")
    assert claims.grown_places(rows, "compo_grow", "compo_uniform") == [3, 4, 5]
    assert claims.grown_places(rows, "lora", "compo_uniform") == [3, 4, 5, 6, 7]
    assert "places 3, 4, 5" in claims.mixes_better("compo_uniform")(rows, "compo_grow").ours


def test_cells_are_paired_by_place_and_seed() -> None:
    rows = world(0.0).of(task="ocw7")
    a, b = claims.cells(rows, "place_success", "compo_prune", "packnet")
    assert len(a) == 21 and np.allclose(a - b, 0.3)
    some = rows.frame[~((rows.frame["method"] == "packnet") & (rows.frame["seed"] == 1))]
    assert len(claims.cells(Rows(some), "place_success", "compo_prune", "packnet")[0]) == 14


def test_new_tasks_and_those_that_come_again_are_told_apart() -> None:
    rows = world(0.0)
    for place in (6, 7):
        rows = kit.edited(rows, lambda v: v + 0.7, method="compo_prune", place=place,
                          metric="place_success")  # fmt: skip
    claim = next(c for c in claims.CLAIMS if c.id == "compo.vs_packnet")
    found = claim.judge(rows, "compo_prune")
    assert (found.evidence["new"], found.evidence["again"]) == pytest.approx((0.3, 1.0))
    assert "new tasks 0.300, again 1.000" in found.ours
    assert "again" not in claim.judge(world(streams=("ocw10",)), "compo_prune").ours


def test_every_stream_has_to_agree() -> None:
    made, of = world(streams=ALL), {"task": "ocw10", "metric": "place_success"}
    worse = kit.edited(made, lambda v: 0 * v, method="compo_prune", **of)
    claim = next(c for c in claims.CLAIMS if c.id == "compo.vs_packnet")
    assert claim.judge(worse, "compo_prune").verdict == CONTRADICTED
    assert claims.streams(worse) == ["ocw7", "ocw10", "ocw20"]


def test_given_settings_are_not_the_claims() -> None:
    frame = world().frame.assign(eta=0.5)
    for claim in claims.CLAIMS:
        with pytest.raises(NoResults):
            claim.judge(Rows(frame), claim.method)


@pytest.mark.parametrize("method", METHODS)
def test_judges_take_any_method_and_say_what_is_missing(method: str) -> None:
    made = world(0.0, 2, streams=ALL)
    for claim in claims.CLAIMS:
        for rows in (made, Rows([])):
            try:
                assert claim.judge(rows, method).ours
            except NoResults as missing:
                assert str(missing)


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.id)
def test_statements_are_short(claim: Any) -> None:
    assert len(claim.statement.split()) <= 25


def test_what_a_scale_cannot_decide_names_the_scale_that_can() -> None:
    judged = kit.judged("compoformer", world().of(task="ocw7"))
    assert judged["compo.longer"]["verdict"] == "needs gpu"


# -- scales ---------------------------------------------------------------------------------------


AT_DEFAULT = {job.method for job in manifest.load("compoformer").scale("default").jobs}


def tiny(job: Any) -> Sequence[str] | None:
    """Flags that make a job small. Every method runs at the default, the others on the ten tasks
    at gpu; beyond, where the same code has other data, those run that differ most."""
    few = job.method in ("compo_prune", "packnet", "compo_ones", "expert")
    seen = job.method in AT_DEFAULT or job.task != "ocw10"
    if job.scale in ("gpu", "paper") and seen and not few:
        return None
    if job.scale == "tuning" and job.method in ("rehearsal", "finetune", "multitask"):
        return None
    if job.scale == "paper" and job.task.startswith(("ocw10-sac-sub", "ocw20-sac-sub")):
        return None
    if "order" in str(job.task) and job.task != "ocw10-order1-sac-near":
        return None
    flags = ["--steps", "3", "--first-steps", "3", "--warm-up", "1", "--batch", "2"]
    flags += ["--width", "8", "--layers", "1", "--heads", "1", "--window", "3", "--goals", "2"]
    flags += ["--text-width", "4", "--samples", "2", "--episodes", "4"]
    flags += ["--encoder", "minilm-l6"]
    return flags if job.scale == "paper" else [*flags, "--pool", "10"]


@pytest.fixture
def short_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of four, two and four tasks: the repeat, the ten, the ten twice."""
    two, seven = TEN[:2], STREAMS["ocw7"].tasks
    for name, stream in list(STREAMS.items()):
        if name == "ocw7":
            monkeypatch.setitem(STREAMS, name, replace(stream, tasks=(*seven[:3], seven[0])))
        if name.startswith(("ocw10", "ocw20")):
            tasks = two * 2 if name.startswith("ocw20") else two
            monkeypatch.setitem(STREAMS, name, replace(stream, tasks=tasks))


@pytest.mark.usefixtures("stand_in", "short_streams")
@pytest.mark.parametrize("scale", ["default", "study", "tuning", "gpu", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, published: Callable[..., Path]
) -> None:
    if scale == "paper":
        published(TEN[:2], 4)
    found = kit.run_scale("compoformer", scale, tmp_path / "runs", tiny, seeds=1)
    if scale == "study":
        [main] = [t for t in found["tables"] if t.get("main")]
        assert any("q 0.7" in line[0] for line in main["rows"]) and len(main["rows"]) <= 12
    if scale == "tuning":
        assert len(found["tables"]) == 3
    if scale == "default":
        assert any(f["name"] == "attention_ocw7" for f in found["figures"])


def test_no_rival_is_tuned_with_fewer_settings_than_the_method() -> None:
    settings: dict[str, set[str]] = {}
    for job in manifest.load("compoformer").scale("tuning").jobs:
        settings.setdefault(job.method, set()).add(str(job.args))
    counts = {method: len(found) for method, found in settings.items()}
    assert counts["compo_prune"] == counts["compo_grow"] == min(counts.values()) == 4
    judged = {rival for claim in claims.CLAIMS for rival in claim.against}
    assert {m for m in judged if METHODS[m].role != "ablation"} <= set(counts)


def test_the_main_table_and_figure_fit_a_page() -> None:
    rows = world()
    [main] = [t for t in report.tables(rows) if t.main]
    assert len(main.rows) <= 12 and len(main.columns) <= 8
    extras = [
        {"name": "attention", "method": m, "task": "ocw7", "seed": s,
         "data": np.tril(np.ones((7, 7)), -1).tolist(), "grown": [True] * 7}
        for m in ("compo_grow", "compo_prune") for s in (1, 0)
    ]  # fmt: skip
    drawn = report.figures(rows, extras)
    [figure] = [d for d in drawn.values() if d.main]
    assert len(figure.figure.axes) <= 6
    titles = [a.get_title() for a in drawn["attention_ocw7"].figure.axes]
    assert titles[:2] == ["CompoFormer-Prune", "CompoFormer-Grow"]


@pytest.mark.usefixtures("stand_in")
def test_an_added_method_goes_through_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the rows of a world, as long as no results are committed."""
    made = world()
    judged = kit.judged("compoformer", made)
    kept = [{"id": k, "verdict": v["verdict"]} for k, v in judged.items()]
    path = tmp_path / "papers" / "compoformer"
    (path / "results").mkdir(parents=True)
    rows = made.frame.astype(object).where(made.frame.notna(), None).to_dict("records")
    rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
    files.write_json(path / "results/default.json", {"rows": rows, "claims": kept, "extras": []})
    source = manifest.ROOT / "papers" / "compoformer" / "paper.toml"
    (path / "paper.toml").write_bytes(source.read_bytes())
    monkeypatch.setattr(kit, "ROOT", tmp_path)
    jobs = manifest.load("compoformer").scale("smoke", 1).jobs
    job = next(j for j in jobs if j.method == "compo_grow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "imported_anew", patched_anew(patch))
        kit.check_added_method("compoformer", tmp_path / "runs", like="compo_grow", flags=tiny(job))


def patched_anew(patch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """``kit.imported_anew`` with the stand-ins in the modules that are imported anew."""
    from tests.papers.compoformer.conftest import SHORT, Simulator, made, vectors

    anew = kit.imported_anew

    @contextlib.contextmanager
    def within(slug: str) -> Any:
        with anew(slug):
            tasks = importlib.import_module("papers.compoformer.task")
            patch.setattr(tasks, "TaskSimulator", Simulator)
            patch.setattr(tasks, "goal_episodes", made)
            patch.setattr(tasks, "embed_tasks", vectors)
            patch.setattr(tasks, "LIMIT", SHORT)
            yield

    return within
