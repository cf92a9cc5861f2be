"""Every claim can fail and be left open; every scale runs on stand-ins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import files
from common.claims import NOT_SPECIFIC, REPRODUCED, NoResults
from common.rows import Rows
from papers.aepo import claims, report
from papers.aepo.claims import BETA, KAPPA_HALF, SCORED, SHAPES
from papers.aepo.methods import METHODS
from papers.aepo.task import D4RL
from papers.aepo.task import SETS as ALL_SETS
from tests.papers import kit
from tools import manifest

torch.set_num_threads(1)

BANDITS = ("aepo", "no-variance", "mse", "cep", "naive", "bc", "exact")
CONTROL = ("aepo", "no-variance", "mse", "cep", "naive", "iql", "bc")
PAPER = ("aepo", "no-variance", "cep", "qgpo", "iql", "bc")
GOOD = {"score": 80.0, "w2": 0.1, "seconds_guidance": 10.0}
BAD = {"score": 60.0, "w2": 0.3, "seconds_guidance": 30.0}
SETS = ("8gaussians", "swissroll")


def world(noise: float = 0.01, **changes: float) -> Rows:
    """Rows as eval.py writes them; every claim holds unless ``changes`` say otherwise.

    ``changes``: means by "group/method/metric", group one of gaussian, sets, control, d4rl.
    """
    groups = {
        "gaussian": (SHAPES, BANDITS, KAPPA_HALF, ("w2", "seconds_guidance")),
        "sets": (SETS, BANDITS, BETA, ("w2", "seconds_guidance")),
        "control": (SCORED, CONTROL, BETA, ("score", "seconds_guidance")),
        "d4rl": (tuple(D4RL)[:3], PAPER, BETA, ("score",)),
    }
    rng, rows, used = np.random.default_rng(1), [], set()
    for group, (tasks, methods, beta, metrics) in groups.items():
        for task in tasks:
            for method in methods:
                for metric in metrics:
                    key = f"{group}/{method}/{metric}"
                    used.add(key)
                    good = method == "aepo" or (method, metric) == ("cep", "w2")
                    mean = changes.get(key, (GOOD if good else BAD)[metric])
                    for seed in range(5):
                        value = mean * (1 + noise * rng.standard_normal())
                        row = {"task": task, "method": method, "seed": seed, "metric": metric}
                        row |= {"value": value, "beta": beta}
                        rows.append({**row, "w": 1.0} if metric == "score" else row)
    assert set(changes) <= used
    return Rows(rows)


def test_claims_hold_in_a_world_where_they_do() -> None:
    judged = {}
    for scale in ("default", "paper"):
        found = kit.judged("aepo", world(), scale)
        judged |= {
            k: e["verdict"] for k, e in found.items() if (k == "ae.d4rl") == (scale == "paper")
        }
    assert judged == dict.fromkeys(judged, REPRODUCED) and len(judged) == len(claims.CLAIMS)


def level(noise: float = 0.3, **aepo: float) -> Rows:
    """All methods are as good as AEPO, whose means may be given."""
    changes = {
        f"{group}/{method}/{metric}": GOOD[metric]
        for group, methods, metrics in (
            ("gaussian", BANDITS, ("w2", "seconds_guidance")),
            ("sets", BANDITS, ("w2", "seconds_guidance")),
            ("control", CONTROL, ("score", "seconds_guidance")),
            ("d4rl", PAPER, ("score",)),
        )
        for method in methods
        for metric in metrics
    }
    return world(noise, **{**changes, **aepo})


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    loose = level()
    quarter = level(**{f"{group}/aepo/w2": 0.125 for group in ("gaussian", "sets")})
    three_less = level(0.1, **{"control/aepo/score": 77.0})
    kit.check_judges(
        "aepo",
        {
            "ae.surpasses": (
                [world(**{"control/iql/score": 90.0}), world(**{"control/cep/score": 90.0})],
                loose,
            ),
            "ae.improves": (
                [world(**{"control/bc/score": 90.0}), world(**{"control/naive/score": 90.0})],
                loose,
            ),
            "ae.term": (world(**{"control/no-variance/score": 90.0}), loose),
            "ae.keeps_up": (world(**{"control/cep/score": 90.0}), three_less),
            "ae.variance": (
                [world(**{"gaussian/no-variance/w2": 0.05}), world(**{"gaussian/naive/w2": 0.05})],
                loose,
            ),
            "ae.close_gaussian": (world(**{"gaussian/cep/w2": 0.05}), quarter),
            "ae.close_sets": (world(**{"sets/cep/w2": 0.05}), quarter),
            "ae.cost": (
                [
                    world(**{"control/cep/seconds_guidance": 5.0}),
                    world(
                        **{
                            "gaussian/cep/seconds_guidance": 5.0,
                            "sets/cep/seconds_guidance": 5.0,
                        }
                    ),
                ],
                loose,
            ),
            "ae.d4rl": (world(**{"d4rl/qgpo/score": 90.0}), loose),
        },
    )


def test_level_scores_surpass_nobody_and_keep_up() -> None:
    level = world(**{f"control/{m}/score": 80.0 for m in ("iql", "cep")})
    judged = kit.judged("aepo", level)
    assert judged["ae.surpasses"]["verdict"] != REPRODUCED
    assert judged["ae.keeps_up"]["verdict"] == REPRODUCED


def test_an_ablation_that_is_as_good_is_named() -> None:
    judged = kit.judged("aepo", world(**{"control/no-variance/score": 80.0}))
    entry = judged["ae.surpasses"]
    assert entry["verdict"] == NOT_SPECIFIC and "AEPO without variance" in entry["also_met_by"]
    assert "without variance" in entry["ours"]
    assert judged["ae.term"]["verdict"] != REPRODUCED


def test_doing_nothing_surpasses_nobody() -> None:
    idle = world(**{f"control/{m}/score": 60.0 for m in CONTROL})
    judged = kit.judged("aepo", idle)
    for name in ("ae.surpasses", "ae.improves", "ae.term"):
        assert judged[name]["verdict"] != REPRODUCED


def test_the_tuned_scale_is_the_one_that_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = world().frame
    other = frame[(frame.method == "aepo") & (frame.metric == "score")].assign(w=2.0, value=1.0)
    import pandas as pd

    rows = Rows(pd.concat([frame, other], ignore_index=True))
    assert kit.judged("aepo", rows)["ae.surpasses"]["verdict"] == REPRODUCED
    monkeypatch.setitem(vars(METHODS["aepo"]), "w", 2.0)
    assert kit.judged("aepo", rows)["ae.surpasses"]["verdict"] != REPRODUCED


def test_tables_and_figures_show_the_tuned_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    frame = world().frame
    scored = (frame.method == "aepo") & (frame.metric == "score")
    others = [frame[scored].assign(w=2.0, value=33.0), frame[scored].assign(beta=0.5, value=44.0)]
    rows = Rows(pd.concat([frame, *others], ignore_index=True))
    for beta, w, shown in ((BETA, 1.0, "80"), (BETA, 2.0, "33"), (0.5, 1.0, "44")):
        monkeypatch.setitem(vars(METHODS["aepo"]), "w", w)
        monkeypatch.setitem(vars(METHODS["aepo"]), "beta", beta)
        line = next(line for line in report.main_table(rows).rows if line[0] == "AEPO")
        assert line[1].strip("*").startswith((shown, "79.9"))
        panel = report.figures(rows, [])["aepo"].figure.axes[0]
        assert abs(panel.lines[1].get_xdata()[0] - float(shown)) < 1


def test_every_method_set_and_critic_is_run_at_some_scale() -> None:
    paper = manifest.load("aepo")
    jobs = [job for scale in ("default", "study") for job in paper.scale(scale).jobs]
    assert {job.method for job in jobs} >= set(METHODS)
    assert {job.task for job in jobs} >= {*ALL_SETS, *SHAPES, *SCORED}
    assert any("support" in job.command and job.module == "pretrain" for job in jobs)


def test_tuning_gives_every_rival_as_many_settings() -> None:
    settings: dict[str, set[Any]] = {}
    for job in manifest.load("aepo").scale("tuning").jobs:
        if job.module == "train":
            settings.setdefault(job.method, set()).add((job.task, job.args))
    assert set(settings) == {"aepo", "no-variance", "mse", "cep", "direct", "naive", "iql"}
    assert len({frozenset(found) for found in settings.values()}) == 1


def test_best_of_several_and_other_supports_are_not_the_claims() -> None:
    for label in ("candidates", "support"):
        rows = Rows(world().frame.assign(**{label: 4.0}))
        for claim in claims.CLAIMS:
            with pytest.raises(NoResults):
                claim.judge(rows, claim.method)


def test_what_a_scale_cannot_decide_names_the_scale_that_can() -> None:
    default = [*SCORED, *SHAPES, *SETS]
    judged = kit.judged("aepo", world().of(task=default))
    assert judged["ae.d4rl"]["verdict"] == "needs paper"
    study = kit.judged("aepo", world().of(task=list(SHAPES)), "study")
    assert study["ae.surpasses"]["verdict"] == "needs default"


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


# -- scales ---------------------------------------------------------------------------------------

FEW = ("halfcheetah-medium-d4rl", "pen-human-d4rl", "antmaze-umaze-d4rl")
TWINS = ("swissroll", "rings", "checkerboard", "moons", "convex", "halfcheetah-replay")


def same_code(job: Any) -> bool:
    """Whether a job differs by its data alone from one that is run: time is short."""
    if job.scale == "paper":
        return job.task not in FEW or (job.task == FEW[1] and job.method in ("cep", "iql"))
    if job.scale == "default":
        halved = job.task.startswith("halfcheetah") and job.method in ("mse", "direct", "bc-mean")
        return halved or (job.task == "swissroll" and job.method in ("mse", "direct", "naive"))
    return job.task in TWINS


def tiny(job: Any) -> Sequence[str] | None:
    """Flags that make a job small; None where another job is the same code."""
    if same_code(job):
        return None
    flags = ["--hidden", "8", "--batch", "8", "--solver-steps", "3"]
    if job.module == "pretrain":
        return [*flags, "--behaviour-steps", "3", "--critic-steps", "3", "--support", "2"]
    flags += ["--steps", "3", "--groups", "3", "--support-states", "6", "--layers", "1"]
    return [*flags, "--samples", "12", "--episodes", "2"]


@pytest.mark.parametrize("scale", ["default", "study", "tuning", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(scale: str, tmp_path: Path, small: None) -> None:
    found = kit.run_scale("aepo", scale, tmp_path, tiny, seeds=2)
    main = [table for table in found["tables"] if table.get("main")]
    assert len(main) == 1 and len(main[0]["columns"]) <= 8 and len(main[0]["rows"]) <= 12


def test_the_main_figure_has_six_panels_at_most() -> None:
    drawn = report.figures(world(), [])
    [main] = [drawing for drawing in drawn.values() if drawing.main]
    assert len(main.figure.axes) == 6


def test_an_added_method_goes_through_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    """On the rows of a world, as long as no results are committed."""
    from papers.aepo import pretrain
    from papers.aepo.config import PriorConfig

    made = world()
    entries = kit.judged("aepo", made)
    plan = [{"id": name, "verdict": entry["verdict"]} for name, entry in entries.items()]
    path = tmp_path / "papers" / "aepo" / "results"
    path.mkdir(parents=True)
    rows = made.frame.to_dict("records")
    rows = [{k: v for k, v in row.items() if v == v} for row in rows]
    files.write_json(path / "default.json", {"rows": rows, "claims": plan, "extras": []})
    (tmp_path / "papers" / "aepo" / "paper.toml").write_bytes(
        (manifest.ROOT / "papers" / "aepo" / "paper.toml").read_bytes()
    )
    monkeypatch.setattr(kit, "ROOT", tmp_path)
    out = tmp_path / "prior"
    sizes = {"hidden": 8, "behaviour_steps": 2, "critic_steps": 1}
    pretrain.train(PriorConfig(task="gauss", seed=(0, 1), out=out, **sizes))  # type: ignore[arg-type]
    job = next(j for j in manifest.load("aepo").scale("smoke", 2).jobs if j.method == "aepo")
    flags = [*(tiny(job) or ()), "--prior", str(out)]
    kit.check_added_method("aepo", tmp_path / "runs", like="aepo", flags=flags)
