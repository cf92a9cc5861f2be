"""Claims on made-up rows, scales on stand-ins, figures, an added method."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import files
from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED, NoResults
from common.rows import Rows
from papers.vq_cd import claims, report
from papers.vq_cd.methods import METHODS
from papers.vq_cd.task import SEQUENCES
from tests.papers import kit
from tests.papers.vq_cd.conftest import put_in
from tools import manifest

torch.set_num_threads(1)

P = {
    **{"vq_cd": 80.0, "vq_cd_reset": 80.0, "not_assembled": 60.0, "kernels_only": 40.0},
    **{"ae": 20.0, "ae_std": 60.0, "vae": 40.0, "padding": 50.0, "mlp": 40.0},
    **{"diffused_actions": 60.0, "own_vectors": 40.0, "finetune": 30.0, "ewc": 40.0},
    **{"replay": 60.0, "packnet": 60.0, "single": 70.0, "untrained": 0.0, "multitask": 82.0},
    **{"behaviour": 50.0},
}
KEEPS = ("vq_cd", "vq_cd_reset", "packnet", "single", "ae", "ae_std", "vae", "padding", "mlp")
KEEPS += ("diffused_actions", "untrained")


def world(noise: float = 0.5, seeds: int = 3, **changes: float) -> Rows:
    """Rows in which every claim holds.

    Args:
        noise: of scores.
        changes: P of methods; or "own" (score when learned), "moved", "last", "calls", "time",
            "fewer" (points that few steps gain), "error" of the paper's method.
    """
    rng, rows = np.random.default_rng(1), []
    level = P | {k: v for k, v in changes.items() if k in P}
    for sequence in ("spaces-rsh", "same-mw3", "alone-swimmer"):
        names = [domain.name for domain in SEQUENCES[sequence]]
        for method, mean in level.items():
            for seed in range(seeds):
                own = {"method": method, "task": sequence, "seed": seed}

                def add(metric: str, value: Any, own: dict = own, **labels: Any) -> None:
                    rows.append({**own, "metric": metric, "value": value, **labels})

                add("score", mean + noise * rng.standard_normal())
                for name in names:
                    learned = changes.get("own", max(mean, 75.0)) if method == "vq_cd" else mean
                    add("task_end", mean, subtask=name)
                    if method not in ("multitask", "behaviour"):
                        add("task_own", learned, subtask=name)
                    for part in ("state", "action"):
                        add(f"task_{part}_error", changes.get("error", 0.02), subtask=name)
                if method in ("multitask", "behaviour"):
                    continue
                add("own", max(mean, 75.0))
                add("forgetting", max(mean, 75.0) - mean)
                add("output_change", changes.get("moved", 0.0 if method in KEEPS else 0.5))
                add("unassembled_change", changes.get("last", 0.1))
                add("noise_loss", 1.0 - mean / 200)
                add("loss", [1.0, 0.5], step=[100, 200])
                if sequence == "alone-swimmer":
                    steps_of(add, rng, noise, changes)
    return Rows(rows)


def steps_of(add: Any, rng: Any, noise: float, changes: dict[str, float]) -> None:
    """Rows of 10 and of 200 steps."""
    for steps in (10, 200):
        add("calls", changes.get("calls", 20.0) * 10 if steps > 10 else 10, steps=steps)
        add("seconds_action", changes.get("time", 19.0) / 10 if steps > 10 else 0.1, steps=steps)
        for episode in range(4):
            gain = changes.get("fewer", 0.0) * (steps == 10)
            score = 70 + gain + noise * rng.standard_normal()
            add("episode_score", score, steps=steps, episode=episode)


def judged(rows: Rows, scale: str = "gpu") -> dict[str, dict[str, Any]]:
    return kit.judged("vq_cd", rows, scale)


def test_claims_hold_in_a_world_where_they_do() -> None:
    """But for what a weaker method meets as well: comparisons with the weakest."""
    found = judged(world())
    verdicts = {name: entry["verdict"] for name, entry in found.items()}
    assert set(verdicts.values()) <= {REPRODUCED, NOT_SPECIFIC}, verdicts
    assert verdicts["vqcd.no_forgetting"] == verdicts["vqcd.few_steps"] == REPRODUCED
    assert verdicts["vqcd.small_networks_same"] == REPRODUCED
    assert "small network each" in found["vqcd.beats_finetune"]["also_met_by"]
    alone = {m: 20.0 for m in P if m not in ("vq_cd", "vq_cd_reset", "multitask", "untrained")}
    verdicts = {k: e["verdict"] for k, e in judged(world(**alone, own=85.0)).items()}
    assert verdicts == dict.fromkeys(verdicts, REPRODUCED)


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    def apart(v: Any) -> Any:
        return v + np.tile([-100.0, 0.0, 100.0], len(v) // 3)

    loose = kit.edited(world(), apart, method="vq_cd", metric="score")
    kit.check_judges(
        "vq_cd",
        {
            "vqcd.beats_finetune": (world(finetune=90.0), loose),
            "vqcd.beats_ewc": ([world(finetune=90.0), world(ewc=90.0)], loose),
            "vqcd.no_forgetting": ([world(moved=0.01), world(last=0.0)], None),
            "vqcd.small_networks_spaces": (world(single=90.0), loose),
            "vqcd.small_networks_same": (world(single=90.0), loose),
            "vqcd.assembling": (world(not_assembled=90.0), loose),
            "vqcd.padding": (world(padding=90.0), loose),
            "vqcd.multitask_level": (world(multitask=99.0), loose),
            "vqcd.quantised": ([world(vae=90.0), world(ae_std=90.0)], loose),
            "vqcd.inverse_dynamics": (world(diffused_actions=90.0), loose),
            "vqcd.few_steps": (
                [world(calls=19.0), world(time=12.0), world(fewer=-9.0)],
                world(30.0),
            ),
        },
    )


@pytest.mark.parametrize("changes", [{"own": 30.0}, {"error": 0.2}])
def test_what_is_not_learned_is_not_compared(changes: dict[str, float]) -> None:
    found = judged(world(**changes))
    for name in ("beats_finetune", "beats_ewc", "quantised", "inverse_dynamics"):
        assert found[f"vqcd.{name}"]["verdict"] == INCONCLUSIVE
    low = claims.below_the_gate(world(**changes).of(task="spaces-rsh"), "vq_cd")
    assert "not learned" in low or "lose 0.20" in low


def test_few_steps_of_plans_that_reach_nothing_are_left_open() -> None:
    entry = judged(world(own=30.0))["vqcd.few_steps"]
    assert entry["verdict"] == INCONCLUSIVE and "swimmer 30" in entry["ours"]


def test_all_methods_of_a_sequence_are_told_alike() -> None:
    """Plans of states or of differences are the sequence's, whatever the method or the scale."""
    for name in ("default", "study", "tuning"):
        for job in manifest.load("vq_cd").scale(name, 1).jobs:
            if job.module == "train":
                assert ("--differences" in job.command) is (job.task == "same-mw3"), job.command


def test_every_method_is_run_at_some_scale_and_tuned_ones_as_often() -> None:
    loaded = manifest.load("vq_cd")
    scales = {s: loaded.scale(s, 1).jobs for s in ("default", "study", "gpu", "tuning")}
    run = {job.method for jobs in scales.values() for job in jobs}
    assert set(METHODS) <= run
    tuned = [job.method for job in scales["tuning"] if job.module == "train"]
    assert {m: tuned.count(m) for m in tuned} == dict.fromkeys(
        ("vq_cd", "finetune", "multitask", "single", "ewc"), 3
    )


def test_multitask_that_has_not_learned_is_no_level() -> None:
    entry = judged(world(multitask=30.0))["vqcd.multitask_level"]
    assert entry["verdict"] == INCONCLUSIVE and "Multitask: not learned" in entry["ours"]


def test_a_gate_is_passed_by_two_of_three() -> None:
    rows = world().of(task="spaces-rsh")

    def one(value: Any) -> Any:
        return 0 * value

    swimmer = kit.edited(rows, one, method="vq_cd", metric="task_own", subtask="swimmer")
    assert claims.below_the_gate(swimmer, "vq_cd") == ""
    both = kit.edited(swimmer, one, method="vq_cd", metric="task_own", subtask="reacher")
    assert "swimmer 0" in claims.below_the_gate(both, "vq_cd")


def test_an_unscaled_autoencoder_is_beside_and_decides_nothing() -> None:
    entry = judged(world(ae=95.0))["vqcd.quantised"]
    assert entry["verdict"] in (REPRODUCED, NOT_SPECIFIC) and "AE alignment: -1" in entry["ours"]


def test_an_untrained_network_meets_no_claim_of_the_contribution() -> None:
    for claim in claims.CLAIMS:
        if claim.specific:
            assert claim.judge(world(), "untrained").verdict in (CONTRADICTED, INCONCLUSIVE)


def test_every_sequence_of_a_kind_has_to_agree() -> None:
    frame = world().frame
    other = frame[frame["task"] == "spaces-rsh"].assign(task="spaces-d4rl-medium")
    worse = kit.edited(Rows(other), lambda v: 0 * v, method="vq_cd", metric="score")
    both = Rows([*frame.to_dict("records"), *worse.frame.to_dict("records")])
    claim = next(c for c in claims.CLAIMS if c.id == "vqcd.beats_finetune")
    assert claim.judge(both, "vq_cd").verdict == CONTRADICTED


def test_settings_of_a_tuning_are_not_the_claims() -> None:
    frame = world().frame.assign(lr=1e-3)
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
    rows = world().of(task=["spaces-rsh", "same-mw3"])
    verdicts = {name: entry["verdict"] for name, entry in judged(rows, "default").items()}
    for name in ("multitask_level", "quantised", "inverse_dynamics"):
        assert verdicts[f"vqcd.{name}"] == "needs gpu"
    assert verdicts["vqcd.few_steps"] == "needs study"


# -- scales ---------------------------------------------------------------------------------------


def tiny(job: Any) -> Sequence[str] | None:
    """Flags that make a job small.

    At paper all methods are run on the first sequence, some on one of one space, VQ-CD on the
    others; the paper's levels are VQ-CD's on the first. What gpu shares with paper is left out
    there; of a tuning's grid the ends are run.
    """
    first = job.task in ("spaces-d4rl-full-replay", "same-ant4")
    if job.scale == "paper" and not first and (job.method or job.stage) not in ("vq_cd", "vq"):
        return None
    if job.task == "same-ant4" and job.method not in ("vq_cd", "ewc", "single"):
        return None
    if job.scale == "gpu" and job.method in ("single", "packnet", "behaviour"):
        return None
    if {"lr=0.001", "elastic=1000.0"} & set(job.grid):
        return None
    if job.module == "align":
        return ["--steps", "4", "--hidden", "4", "--codes", "4", "--batch", "4"]
    flags = ["--steps", "2", "--batch", "4", "--width", "8", "--inverse-hidden", "4"]
    flags += ["--diffusion-steps", "20", "--acting-steps", "1", "--fisher-batches", "2"]
    if job.scale == "paper" and not (first and job.method == "vq_cd"):
        flags += ["--multipliers", "1", "1"]
    if not (job.scale == "tuning" or job.method == "behaviour"):
        flags += ["--episodes", "2"]
    return flags + (["--more-steps", "20"] if "--more-steps" in job.command else [])


@pytest.mark.usefixtures("points")
@pytest.mark.parametrize("scale", ["default", "study", "tuning", "gpu", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(scale: str, tmp_path: Path) -> None:
    seeds = 1 if scale == "paper" else 2
    found = kit.run_scale("vq_cd", scale, tmp_path / "runs", tiny, seeds=seeds)
    if scale == "tuning":
        assert len(found["tables"]) == 2
        return
    [main] = [t for t in found["tables"] if t.get("main")]
    if scale in ("default", "study"):
        assert len(main["rows"]) <= 12 and len(main["columns"]) <= 8
    figures = {figure["name"] for figure in found["figures"]}
    assert any(name.startswith("matrix_") for name in figures)
    if scale == "study":
        titles = " ".join(table["title"] for table in found["tables"])
        assert "other returns" in titles and "calls of the denoiser" in titles


def test_figures_fit_a_page() -> None:
    names = ["reacher", "swimmer", "halfcheetah"]
    data = [[50.0, None, None], [40.0, 60.0, None], [30.0, 50.0, 70.0]]
    extras = [
        {
            "name": "matrix",
            "method": m,
            "task": "spaces-rsh",
            "seed": 0,
            "tasks": names,
            "data": data,
        }
        for m in P
    ]
    drawn = report.figures(world(), extras)
    [figure] = [d for d in drawn.values() if d.main]
    assert 1 <= len(figure.figure.axes) <= 6
    [main] = [t for t in report.tables(world()) if t.main]
    assert len(main.columns) <= 8


def anew(patch: pytest.MonkeyPatch, slug: str) -> Callable[[str], Any]:
    """``kit.imported_anew`` with the stand-ins in the modules that are imported anew."""
    real = kit.imported_anew

    @contextlib.contextmanager
    def within(name: str) -> Iterator[None]:
        with real(name):
            put_in(patch)
            yield

    return within


@pytest.mark.usefixtures("points")
def test_an_added_method_goes_through_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the rows of a world, as long as no results are committed."""
    made = world()
    found = [{"id": k, "verdict": v["verdict"]} for k, v in judged(made, "default").items()]
    path = tmp_path / "papers" / "vq_cd"
    (path / "results").mkdir(parents=True)
    rows = made.frame.astype(object).where(made.frame.notna(), None).to_dict("records")
    rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
    files.write_json(path / "results/default.json", {"rows": rows, "claims": found, "extras": []})
    source = manifest.ROOT / "papers" / "vq_cd" / "paper.toml"
    (path / "paper.toml").write_bytes(source.read_bytes())
    jobs = manifest.load("vq_cd").scale("smoke", 2).jobs
    spaces, job = jobs[0], next(j for j in jobs if j.method == "vq_cd")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path / "runs" / "added"
        kit.run_job(spaces, tmp_path / "spaces", tiny(spaces) or ())
        patch.setattr(kit, "ROOT", tmp_path)
        patch.setattr(kit, "imported_anew", anew(patch, "vq_cd"))
        flags = [*(tiny(job) or ()), "--spaces", str(tmp_path / "spaces")]
        kit.check_added_method("vq_cd", folder.parent, like="vq_cd", flags=flags)
