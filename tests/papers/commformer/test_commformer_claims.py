"""Every claim can fail and be left open; every scale runs on stand-ins; a method can be added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.commformer as commformer
from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED, NoResults
from common.errors import UserError
from common.rows import Rows
from papers.commformer import claims, report, task
from papers.commformer.config import Config
from papers.commformer.methods import METHODS
from papers.commformer.train import train
from tests.papers import kit

torch.set_num_threads(1)
PP, PCP, MAP = claims.PURSUIT, claims.CAPTURE, "smac-3m"


def world(noise: float = 0.01, **changes: Any) -> Rows:
    """Rows as eval.py writes them; every claim holds unless ``changes`` says otherwise.

    ``changes``: by "task/method/metric".
    """
    base: dict[str, Any] = {
        f"{PP}/commformer/steps": 6.0,
        f"{PP}/commformer-gate/steps": 6.1,
        f"{PP}/random/steps": 9.0,
        f"{PP}/full/steps": 5.6,
        f"{PP}/none/steps": 9.5,
        f"{PP}/commformer/used": 0.4,
        f"{PP}/commformer-gate/used": 0.2,
        f"{PP}/commformer/row_error": 0.0,
        f"{PP}/commformer-gate/excess": 0.0,
        f"{PCP}/commformer/drawn_steps": 9.0,
        f"{PCP}/full/drawn_steps": 8.0,
        f"{PCP}/random/drawn_steps": 14.0,
        f"{PCP}/none/drawn_steps": 16.0,
        f"{PCP}/commformer/row_error": 0.0,
        f"{PCP}/commformer/to_seeing": 2.0,
        f"{PCP}/commformer/blind": 3.0,
        f"{MAP}/commformer/success": 0.9,
        f"{MAP}/full/success": 0.9,
    }
    exact = ("row_error", "excess", "to_seeing", "blind")
    rng, rows = np.random.default_rng(0), []
    for key, mean in {**base, **changes}.items():
        where, method, metric = key.split("/")
        for seed in range(5):
            spread = 1.0 if metric in exact else 1 + noise * rng.standard_normal()
            row = {"task": where, "method": method, "seed": seed, "metric": metric}
            rows.append({**row, "value": mean * spread})
    return Rows(rows)


def verdicts(rows: Rows, scale: str = "default") -> dict[str, str]:
    return {name: entry["verdict"] for name, entry in kit.judged("commformer", rows, scale).items()}


def test_claims_hold_in_a_world_where_they_do() -> None:
    found = verdicts(world())
    assert found.pop("C6") == "needs paper"
    assert set(found.values()) == {REPRODUCED}
    assert verdicts(world(), "paper")["C6"] == REPRODUCED


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    near = {f"{PP}/commformer/steps": 6.45}
    kit.check_judges(
        "commformer",
        {
            "C1": (
                [world(**{f"{PP}/commformer/steps": 8.0}), world(**{f"{PP}/commformer/used": 0.7})],
                world(0.05, **near),
            ),
            "C2": (
                [
                    world(**{f"{PP}/commformer/steps": 11.0}),
                    world(**{f"{PCP}/commformer/drawn_steps": 18}),
                ],
                world(0.1, **{f"{PP}/commformer/steps": 9.5}),
            ),
            "C3a": (
                world(**{f"{PCP}/commformer/drawn_steps": 16.0}),
                world(0.05, **{f"{PCP}/commformer/drawn_steps": 14.0}),
            ),
            "C3b": (world(**{f"{PCP}/commformer/to_seeing": 1.4}), None),
            "C4": (
                [
                    world(**{f"{PCP}/commformer/row_error": 1.0}),
                    world(**{f"{PP}/commformer-gate/excess": 0.05}),
                ],
                None,
            ),
            "C5": (
                [
                    world(**{f"{PP}/commformer-gate/steps": 8.0}),
                    world(**{f"{PP}/commformer-gate/used": 0.38}),
                ],
                world(0.05, **{f"{PP}/commformer-gate/steps": 6.6}),
            ),
            "C6": (world(**{f"{MAP}/commformer/success": 0.6}), world(0.1, **{})),
        },
    )


@pytest.mark.parametrize("claim", ["C1", "C2", "C5"])
def test_where_communication_does_not_matter_nothing_is_judged(claim: str) -> None:
    for none in (5.5, 6.2):  # no better; better by less than the margin
        rows = world(0.001, **{f"{PP}/none/steps": none, f"{PCP}/none/drawn_steps": none})
        judged = kit.judged("commformer", rows)[claim]
        assert judged["verdict"] == INCONCLUSIVE and "does not matter" in judged["ours"]


def test_a_random_graph_that_is_as_good_makes_the_claim_unspecific() -> None:
    as_good = {f"{PP}/random/steps": 6.0, f"{PP}/random/used": 0.4}
    assert verdicts(world(**as_good))["C1"] == NOT_SPECIFIC
    more = {f"{PP}/mat/steps": 5.6, f"{PP}/mat/used": 1.0}  # near, with all edges
    assert verdicts(world(**more))["C1"] == REPRODUCED


def test_chance_depends_on_what_a_row_may_point_to() -> None:
    """Of 15 rows 8 are needed with four columns (p = .017), 9 with three others (p = .03)."""
    rows = world(**{f"{PCP}/commformer/to_seeing": 1.6, f"{PCP}/commformer-others/blind": 3.0,
                    f"{PCP}/commformer-others/to_seeing": 1.6})  # fmt: skip
    assert claims.finds_the_seeing(rows, "commformer").verdict == REPRODUCED
    assert claims.finds_the_seeing(rows, "commformer-others").verdict == CONTRADICTED
    everything = {f"{PCP}/full/to_seeing": 3.0, f"{PCP}/full/blind": 3.0}  # has all edges
    assert claims.finds_the_seeing(world(**everything), "full").verdict == CONTRADICTED


def test_what_the_committed_rows_say() -> None:
    rows = kit.rows_of("commformer")
    judged = kit.judged("commformer", rows)
    said = {name: entry["verdict"] for name, entry in judged.items()}
    assert said["C1"] == said["C3a"] == said["C5"] == "inconclusive"
    assert said["C2"] == said["C3b"] == said["C4"] == "reproduced" and said["C6"] == "needs paper"
    # among five predators a random graph is as near to the full one
    steps = rows.of(task=PP, metric="steps")
    assert abs(steps.of(method="random").value() / steps.of(method="commformer").value() - 1) < 0.05
    # a team with all rows right is faster than every other
    of_seed = rows.of(task=PCP, method="commformer")
    right = of_seed.of(metric="to_seeing").values()
    drawn = of_seed.of(metric="drawn_steps").values()
    assert drawn[right == 3].max() < drawn[right < 3].min() - 3


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
    if job.scale == "paper" and job.task.startswith("smac-") and job.task != MAP:
        return None  # one map's stand-in
    flags = ["--n-envs", "2", "--horizon", "4", "--steps", "16", "--epochs", "5", "--width", "8"]
    return [*flags, "--episodes", "2", "--evaluate-every", "1", "--mini-batches", "1"]


@pytest.mark.parametrize("scale", ["default", "study", "tuning", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "starcraft", lambda name, n: task.make_env("pp-tiny", n))
    for name, (kind, options) in task.GRIDS.items():
        monkeypatch.setitem(task.GRIDS, name, (kind, {**options, "limit": 2}))
    found = kit.run_scale("commformer", scale, tmp_path, tiny, seeds=2 if scale == "default" else 1)
    drawn = {figure["name"] for figure in found["figures"]}
    assert drawn == (set() if scale == "tuning" else {"curves", "steps", "graphs"})
    if scale == "default":
        main = next(table for table in found["tables"] if table["main"])
        assert len(main["rows"]) <= 12 and len(main["columns"]) <= 8


def test_an_added_method_goes_through_everything(tmp_path: Path) -> None:
    flags = ["--n-envs", "2", "--horizon", "4", "--steps", "16", "--episodes", "2"]
    kit.check_added_method("commformer", tmp_path, flags=[*flags, "--mini-batches", "1"])


def test_figures_without_runs() -> None:
    assert report.figures(Rows([]), []) == {} and report.tables(Rows([])) == []


# -- use ------------------------------------------------------------------------------------------


def test_a_team_can_be_loaded(tmp_path: Path) -> None:
    small: dict[str, Any] = {"n_envs": 2, "horizon": 4, "steps": 16, "width": 8, "episodes": 2}
    cfg = Config(task="pp-tiny", seed=(3, 5), out=tmp_path / "run", **small)
    train(cfg)
    team, other = commformer.load(tmp_path / "run", seed=5), commformer.load(tmp_path / "run")
    assert team.graph.shape == (2, 2) and (team.graph.sum(1) == 1).all()
    env = task.make_env("pp-tiny", 50)
    obs = env.reset(1).obs
    assert np.array_equal(team.act(obs)[7], team.act(obs[7]))
    drawn = team.act(obs, seed=1)
    assert np.array_equal(drawn, team.act(obs, seed=1)) and len(np.unique(drawn)) == 5
    assert not np.array_equal(drawn, other.act(obs, seed=1))
    avail = np.zeros((50, 2, 5), bool)
    avail[..., 3] = True
    assert (team.act(obs, avail) == 3).all()
    with pytest.raises(UserError, match="observations are"):
        team.act(obs[0, 0])
    with pytest.raises(UserError, match="not 4"):
        commformer.load(tmp_path / "run", seed=4)
    train(Config(method="uniform", task="pp-tiny", out=tmp_path / "uniform"))
    with pytest.raises(UserError, match="nothing to load"):
        commformer.load(tmp_path / "uniform")
