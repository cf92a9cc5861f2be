"""Claims on made-up rows, scales on stand-ins, figures, an added method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import files, stats
from common.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_SPECIFIC,
    REPRODUCED,
    NoResults,
    judge,
    plan_of,
)
from common.rows import Rows
from papers.prompt_diffuser import claims, pretrain, report
from papers.prompt_diffuser.config import PolicyConfig
from papers.prompt_diffuser.methods import METHODS, RATES
from papers.prompt_diffuser.task import TASKS
from tests.papers import kit
from tools import manifest

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up rows are clear enough for intervals by fewer draws."""
    monkeypatch.setattr(stats, "RESAMPLES", 999)


RANDOM = {  # scores on the random pool; those on an expert's are in EXPERT
    **{"prompt_diffuser": 0.9, "svd": 0.6, "conflict": 0.6, "sum": 0.6, "dm_only": 0.0},
    **{"dt_only": 0.7, "zero_shot": 0.0, "regression": 0.5, "gradient": 0.55, "soft": 0.5},
    **{"prompt_tuning_dt": 0.72, "adapter": 0.5, "fine_tuning": 0.6, "prompt_dt": 0.1},
    **{"random_prompt": 0.0, "wrong_prompt": -0.9, "no_prompt": 0.0, "right_prompt": 0.95},
    **{"full": 0.95},
}
TUNED = [name for name in METHODS if METHODS[name].tunes != "nothing"]
EXPERT = {**RANDOM, **dict.fromkeys(TUNED, 0.92), "prompt_diffuser": 0.93, "prompt_dt": 0.92}
CURVED = ("prompt_diffuser", "sum", "dm_only", "dt_only")  # curves of more tell no more
TASKS_RUN = ("point-random", "point-expert", "ood-expert", "reach-random", "reach-expert")
PAPERS = ("cheetah-dir-expert", "cheetah-vel-expert", "ant-dir-expert")


@functools.cache
def plain(tasks: Any = TASKS_RUN) -> Rows:
    """The world in which every claim holds, made once: rows are not written to."""
    return world(tasks=tasks)


def world(noise: float = 0.01, seeds: int = 3, tasks: Any = TASKS_RUN, **scores: Any) -> Rows:
    """Rows in which every claim holds, unless told otherwise.

    Args:
        noise: of scores, per cell.
        tasks: that were run.
        scores: of methods, in the place of what makes claims hold: on all tasks, or a dictionary by
            the beginning or the end of their names.
    """
    rng, rows = np.random.default_rng(1), []
    for task in tasks:
        level = dict(EXPERT if task.endswith("expert") else RANDOM)
        if task in PAPERS:
            level["zero_shot"] = 0.6
        if task == "point-random":  # so that it does not beat the ablations there
            level["prompt_tuning_dt"] = 0.65
        for method, given in scores.items():
            by = given if isinstance(given, dict) else {"": given}
            level[method] = next(
                (v for k, v in by.items() if task.startswith(k) or task.endswith(k)), level[method]
            )
        for method, mean in level.items():
            for seed in range(seeds):
                name = {"method": method, "task": task, "seed": seed}
                goals = [f"{g:g}" for g in TASKS[task].test]
                values = mean + noise * rng.standard_normal(len(goals))
                for goal, value in zip(goals, values, strict=True):
                    row = {**name, "subtask": goal}
                    rows.append({**row, "metric": "task_score", "value": float(value)})
                rows.append({**name, "metric": "score", "value": float(values.mean())})
                tuned = {"prompt_diffuser": 164_775.0, "full": 13.7e6}.get(method, 0.0)
                rows.append({**name, "metric": "parameters", "value": tuned})
                rows.append({**name, "metric": "policy_parameters", "value": 13.7e6})
                rows.append({**name, "metric": "calls", "value": 450.0})
                if method in CURVED:
                    step = {"step": [10, 20], "value": [0.2, 0.1 + 0.01 * seed]}
                    for metric in ("guidance", "denoising", "cosine"):
                        rows.append({**name, "metric": metric, **step})
    return Rows(rows)


def test_claims_hold_in_a_world_where_they_do() -> None:
    judged = {k: v["verdict"] for k, v in kit.judged("prompt_diffuser", plain()).items()}
    needs = {"pd.zero_shot": "needs paper", "pd.parameters": "needs paper"}
    assert judged == {**dict.fromkeys(judged, REPRODUCED), **needs}
    papers = kit.judged("prompt_diffuser", plain(PAPERS), "paper")
    assert {papers[name]["verdict"] for name in needs} == {REPRODUCED}
    assert "164,775 of 13,700,000" in papers["pd.parameters"]["details"]


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    loose = world(2.0, right_prompt=9.0, wrong_prompt=-9.0)
    on_paper = {"right_prompt": 9.0, "wrong_prompt": -9.0, "tasks": PAPERS}
    many = kit.edited(
        plain(PAPERS), lambda v: 13e6 + 0 * v, method="prompt_diffuser", metric="parameters"
    )
    kit.check_judges(
        "prompt_diffuser",
        {
            "pd.few_shot": ((world(prompt_dt=0.95), world(prompt_tuning_dt=0.95)), loose),
            "pd.few_shot_expert": (world(prompt_dt=1.1), loose),
            "pd.insensitive": (
                (
                    world(prompt_diffuser={"random": 0.6}),
                    world(prompt_tuning_dt=0.9),
                    world(prompt_diffuser=0.2),
                ),
                loose,
            ),
            "pd.projection": ((world(sum=0.95), world(dt_only=0.95), world(dm_only=0.95)), loose),
            "pd.outside": (world(prompt_diffuser={"ood": 0.7}), loose),
            "pd.zero_shot": (world(tasks=PAPERS, zero_shot=-0.5), world(2.0, **on_paper)),
            "pd.close_to_full": (world(prompt_diffuser=0.7), world(prompt_dt=0.9)),
            "pd.parameters": (many, None),
        },
    )


def test_nothing_is_said_where_the_policy_ignores_its_prompt() -> None:
    rows = world(wrong_prompt=0.95)
    for claim in claims.CLAIMS:
        if claim.only:
            continue
        found = claim.judge(rows, claim.method)
        assert found.verdict == INCONCLUSIVE and "ignores its prompt" in found.ours, claim.id


@pytest.mark.parametrize("method", ["dt_only", "regression"])
def test_what_does_as_well_without_the_diffusion_is_named(method: str) -> None:
    plan = plan_of(manifest.ROOT / "papers/prompt_diffuser/paper.toml")
    claim = next(c for c in claims.CLAIMS if c.id == "pd.few_shot")
    entry = judge(claim, METHODS, world(**{method: 0.9}), "default", plan)
    assert entry["verdict"] == NOT_SPECIFIC and METHODS.label(method) in entry["also_met_by"]


def test_what_loses_nothing_because_it_has_nothing_is_not_insensitive() -> None:
    """A prompt that the pool does not touch, and that is of no use."""
    claim = next(c for c in claims.CLAIMS if c.id == "pd.insensitive")
    assert claim.judge(plain(), "random_prompt").verdict == CONTRADICTED
    assert claim.judge(plain(), "no_prompt").verdict == CONTRADICTED
    assert claim.judge(world(prompt_dt={"": 0.95}), "prompt_dt").verdict == REPRODUCED


def test_zero_shot_is_asked_of_those_who_see_no_demonstration() -> None:
    claim = next(c for c in claims.CLAIMS if c.id == "pd.zero_shot")
    entry = judge(claim, METHODS, plain(PAPERS), "paper", {})
    assert entry["tried"] == ["no_prompt"] and entry["verdict"] == REPRODUCED


def test_a_raw_prompt_that_is_close_to_full_decides_nothing() -> None:
    claim = next(c for c in claims.CLAIMS if c.id == "pd.close_to_full")
    found = claim.judge(world(prompt_dt=0.95), "prompt_diffuser")
    assert found.verdict == INCONCLUSIVE and "the raw prompt passes" in found.ours


def test_families_without_the_ablations_do_not_count_for_them() -> None:
    """Fine-tuning on fifty episodes is not run on the hand; projection is judged where it can."""
    frame = plain().frame
    dropped = frame["method"].isin(["full", "sum"]) & frame["task"].str.startswith("reach")
    rows = Rows(frame[~dropped])
    for name in ("pd.projection", "pd.close_to_full"):
        claim = next(c for c in claims.CLAIMS if c.id == name)
        assert claim.judge(rows, "prompt_diffuser").verdict == REPRODUCED
    with pytest.raises(NoResults):
        claim.judge(Rows(frame[frame["method"] != "full"]), "prompt_diffuser")


def test_every_family_has_to_agree() -> None:
    claim = next(c for c in claims.CLAIMS if c.id == "pd.few_shot")
    found = claim.judge(world(prompt_diffuser={"reach": 0.0}), "prompt_diffuser")
    assert found.verdict == CONTRADICTED and "reach" in found.ours
    ood = claim.judge(world(prompt_diffuser={"ood": -1.0}), "prompt_diffuser")
    assert ood.verdict == REPRODUCED  # not the left-out quadrant


def test_cells_are_paired_by_test_task_and_seed() -> None:
    rows = world(0.0)
    a, b = claims.shared(
        *(claims.scores(rows, "point-random", m) for m in ("prompt_diffuser", "dt_only"))
    )
    assert len(a) == 12 and np.allclose(a - b, 0.2)
    frame = rows.frame
    some = Rows(frame[~((frame["method"] == "dt_only") & (frame["seed"] == 1))])
    assert claims.lead(some, "point-random", "prompt_diffuser", "dt_only").n == 8


def test_a_sweeps_rows_are_not_the_claims() -> None:
    swept = Rows(plain((*TASKS_RUN, *PAPERS)).frame.assign(lam=10.0))
    for claim in claims.CLAIMS:
        if claim.id != "pd.parameters":  # which no setting changes
            with pytest.raises(NoResults):
                claim.judge(swept, claim.method)


@pytest.mark.parametrize("method", METHODS)
def test_judges_take_any_method_and_say_what_is_missing(method: str) -> None:
    for claim in claims.CLAIMS:
        for rows in (plain(), plain(PAPERS), Rows([])):
            try:
                assert claim.judge(rows, method).ours
            except NoResults as missing:
                assert str(missing)


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.id)
def test_statements_are_short(claim: Any) -> None:
    assert len(claim.statement.split()) <= 25


# -- scales ---------------------------------------------------------------------------------------

PAIR = ("prompt_diffuser", "prompt_tuning_dt", "prompt_dt", "right_prompt", "wrong_prompt")


LEAST = ("prompt_diffuser",)
SMALL = ("--steps", "3", "--batch", "2", "--prompt-batch", "2", "--few", "2", "--episodes", "2")
RUN = {  # by scale and task; it is one code, so all methods run on one task of the default
    "default": {"point-random": tuple(METHODS)},
    "study": {"point-random": tuple(METHODS)},
    "tuning": {"tune-random": ("prompt_diffuser", "sum", "soft", "prompt_tuning_dt")},
    "gpu": {
        "velocity-random": (*PAIR, "sum", "dm_only", "dt_only", "full"),
        **dict.fromkeys(("velocity-medium", "point-expert", "reach-random", "ood-random"), LEAST),
    },
    "paper": {
        "cheetah-vel-expert": PAIR,
        "ant-dir-expert": ("prompt_diffuser", "zero_shot", "random_prompt", *PAIR[-2:]),
        **dict.fromkeys(("cheetah-dir-random", "cheetah-vel-medium", "reach-500-random"), LEAST),
    },
}


def tiny(job: Any) -> Sequence[str] | None:
    """Flags that make a job small; None: it is left out."""
    if job.module == "pretrain":
        flags = ["--steps", "2", "--batch", "2", "--width", "8", "--layers", "1", "--heads", "1"]
        flags += ["--window", "3", "--prompt", "2", "--prior-steps", "1", "--prior-batch", "2"]
        flags += ["--hidden", "8", "--diffusion-steps", "2", "--demonstrations", "2"]
        return [*flags, "--max-steps", "8"]
    elsewhere = {"default": PAIR, "study": LEAST}.get(job.scale, ())
    if job.method not in RUN[job.scale].get(job.task, elsewhere):
        return None
    return SMALL


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("scale", ["default", "study", "tuning", "gpu", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, published: Callable[..., Path]
) -> None:
    if scale == "paper":
        published(("cheetah-dir", "cheetah-vel", "ant-dir"))
    found = kit.run_scale("prompt_diffuser", scale, tmp_path / "runs", tiny, seeds=1)
    if scale == "tuning":
        assert len(found["tables"]) == 1
        return
    [main] = [t for t in found["tables"] if t.get("main")]
    assert len(main["rows"]) <= 12 and len(main["columns"]) <= 8
    if scale == "study":
        assert any("lam 10" in line[0] for t in found["tables"] for line in t["rows"])


@pytest.mark.parametrize("pool", ["random", "expert"])
def test_whoever_has_no_diffusion_is_asked_the_same_wherever_ours_is(pool: str) -> None:
    """The headline and insensitivity: their controls are run in every family of the default."""
    run = set(plan_of(manifest.ROOT / "papers/prompt_diffuser/paper.toml")["default"])
    tasks = [task for method, task in run if method == claims.OURS and task.endswith(pool)]
    controls = ("dt_only", "regression", "gradient", claims.RAW, claims.RIVAL, *claims.GATE)
    for task in tasks:
        if not task.startswith("ood"):
            assert {(c, task) for c in controls} <= run, task


def test_rates_are_those_of_the_tuning() -> None:
    """Whoever is tuned has a rate of its own; once there are results it is their best."""
    path = manifest.ROOT / "papers/prompt_diffuser"
    tuned = {m for m, task in plan_of(path / "paper.toml")["tuning"] if m and task}
    assert set(RATES) == tuned
    assert all(METHODS[name].lr == rate for name, rate in RATES.items())
    assert {METHODS[m].lr for m in ("svd", "conflict", "dm_only")} == {RATES["prompt_diffuser"]}
    assert METHODS["full"].lr == RATES["fine_tuning"]
    if not (path / "results/tuning.json").is_file():
        return  # not tuned yet
    found = Rows(files.read_json(path / "results/tuning.json")["rows"]).of(metric="score")
    for name, rate in RATES.items():
        of = {lr: np.median(found.of(method=name, lr=lr).values(1)) for lr in found.unique("lr")}
        assert of[rate] == max(of.values()), name


def test_the_main_table_and_figure_fit_a_page() -> None:
    [main] = [t for t in report.tables(plain()) if t.main]
    assert len(main.rows) <= 12 and len(main.columns) <= 8
    extras = [
        {"name": "pointing", "method": m, "task": "point-random", "seed": 0, "data": [[1, 0]]}
        for m in METHODS
    ]
    drawn = report.figures(plain(), extras)
    [figure] = [d for d in drawn.values() if d.main]
    assert len(figure.figure.axes) == 5
    assert len(drawn["pointing_point-random"].figure.axes) == 6


def test_an_added_method_goes_through_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the rows of a world, as long as no results are committed."""
    made = plain()
    entries = kit.judged("prompt_diffuser", made)
    judged = [{"id": name, "verdict": entry["verdict"]} for name, entry in entries.items()]
    path = tmp_path / "papers" / "prompt_diffuser"
    (path / "results").mkdir(parents=True)
    rows = made.frame.astype(object).where(made.frame.notna(), None).to_dict("records")
    rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
    files.write_json(path / "results/default.json", {"rows": rows, "claims": judged, "extras": []})
    source = manifest.ROOT / "papers" / "prompt_diffuser" / "paper.toml"
    (path / "paper.toml").write_bytes(source.read_bytes())
    monkeypatch.setattr(kit, "ROOT", tmp_path)
    jobs = manifest.load("prompt_diffuser").scale("smoke", 2).jobs
    job = next(j for j in jobs if j.method == "prompt_diffuser")
    sizes = {"width": 8, "layers": 1, "heads": 1, "window": 3, "prompt": 2, "hidden": 8}
    for seed in job.seeds:
        out = tmp_path / "policies" / "point" / f"seed-{seed}"
        few = {"steps": 1, "prior_steps": 1, "diffusion_steps": 2}
        pretrain.train(PolicyConfig(out=out, seed=seed, demonstrations=2, **sizes, **few))
    flags = [*SMALL, "--policy", str(tmp_path / "policies")]
    kit.check_added_method("prompt_diffuser", tmp_path / "runs", flags=flags)
