"""Claims that can fail, every scale on stand-ins, an added method, a pair that is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.qgfn as qgfn
from common.claims import NoResults
from common.errors import UserError
from common.rows import Rows
from papers.qgfn import task
from papers.qgfn.methods import METHODS
from papers.qgfn.reading import matched
from papers.qgfn.train import Config, train
from tests import stand_ins
from tests.papers import kit

TASKS = ("bits", "rna", "qed")
P = [0.0, 0.4, 0.8, 0.9, 1.0]
SIGNS = (1.0, -1.0, 1.0, -1.0, 1.0, -1.0)


def numbers(metric: str, spread: float = 0.0, **means: float) -> list[dict[str, Any]]:
    """One number per seed on every task, around a mean per method (written p_of_max)."""
    return [
        row(metric, method, task, seed, mean + spread * sign * (-1) ** k + 1e-4 * seed)
        for k, (method, mean) in enumerate(means.items())
        for task in TASKS
        for seed, sign in enumerate(SIGNS)
    ]


def row(metric: str, method: str, task: str, seed: int, value: Any, **labels: Any) -> dict:
    name = method.replace("_", "-")
    key = {"method": name, "task": task, "seed": seed, "metric": metric}
    return {**key, "value": value, **labels}


def curve(metric: str, method: str, values: Any, spread: float = 0.0, **labels: Any) -> list[dict]:
    """The same curve on every task, higher and lower by ``spread`` from seed to seed."""
    return [
        row(metric, method, task, seed, [v + spread * sign for v in values], **labels)
        for task in TASKS
        for seed, sign in enumerate(SIGNS)
    ]


def swept(reward: Any, distance: Any, spread: float = 0.0) -> list[dict]:
    """The sweep of p-of-max with its own mixture."""
    labels = {"mixture": "p-of-max", "step": P}
    rewards = curve("sweep_reward", "p-of-max", reward, **labels)
    return rewards + curve("sweep_distance", "p-of-max", distance, spread, **labels)


def found(ours: list[float], rival: list[float], spread: float = 0.0) -> Rows:
    steps = {"step": [16, 32, 48]}
    mine = curve("modes", "p-greedy", ours, spread, **steps)
    return Rows(mine + curve("modes", "tb-4beta", rival, -spread, **steps))


def rank(good: int) -> Rows:
    """Rewards that rise with p on the first ``good`` of six seeds and fall on the others."""
    labels = {"mixture": "p-of-max", "step": P}
    return Rows(
        [
            row("sweep_reward", "p-of-max", task, seed, P if seed < good else P[::-1], **labels)
            for task in TASKS
            for seed in range(6)
        ]
    )


def rival(reward: float, distance: float) -> list[dict]:
    return numbers("final_reward", tb_4beta=reward) + numbers("final_distance", tb_4beta=distance)


RISING, FALLING = [1.0, 1.2, 1.4, 1.6, 1.8], [0.8, 0.6, 0.4, 0.2, 0.0]
LAST, MODES = "mean_reward_last", "modes_found"
CASES = {
    "q1": (
        Rows(numbers(LAST, p_of_max=1.0, tb=2.0)),
        Rows(numbers(LAST, 0.5, p_of_max=1.0, tb=1.0)),
    ),
    "q2a": (
        Rows(numbers(MODES, p_greedy=3, tb=5, dqn=2)),
        Rows(numbers(MODES, 2, p_greedy=5, tb=5, dqn=2)),
    ),
    "q2b": (found([1, 2, 3], [2, 4, 6]), found([1, 2, 3], [1, 2, 3], 1.0)),
    "q3a": (rank(0), rank(5)),
    "q3b": (
        Rows(swept(RISING, [0.8, 0.6, 0.4, 0.2, 0.0])),
        Rows(swept(RISING, [0.8, 0.7, 0.6, 0.56, 0.0], 0.2)),
    ),
    "q4a": (
        Rows(numbers("final_distance", p_of_max=0.2, dqn=0.5)),
        Rows(numbers("final_distance", 0.1, p_of_max=0.5, dqn=0.5)),
    ),
    "q4b": (
        [
            Rows(swept(RISING, FALLING) + rival(1.5, 0.5)),
            Rows(swept(RISING, FALLING) + rival(9.0, 0.5)),  # out of reach
        ],
        Rows(swept(RISING, FALLING, 0.2) + rival(1.5, 0.3)),
    ),
    "q5": (
        Rows(numbers(LAST, p_of_max=1.0, **{"p_of_max_n1": 2.0})),
        Rows(numbers(LAST, 0.5, p_of_max=1.0, **{"p_of_max_n1": 1.0})),
    ),
    "q6": (Rows(numbers("p0_gap", p_of_max=1e-6)), None),
}  # fmt: skip


def test_each_claim_can_come_out_either_way() -> None:
    kit.check_judges("qgfn", CASES)


def test_the_other_way_round_they_hold() -> None:
    """The rows that contradict them, with the roles changed, reproduce them."""
    held = {
        "q1": numbers(LAST, p_of_max=2.0, tb=1.0),
        "q3a": swept(RISING, FALLING),
        "q4b": swept(RISING, FALLING) + rival(1.5, 0.2),
        "q5": numbers(LAST, p_of_max=2.0, **{"p_of_max_n1": 1.0}),
    }
    for name, rows in held.items():
        assert kit.judged("qgfn", Rows(rows))[name]["verdict"] == "reproduced", name


def test_what_the_committed_rows_say() -> None:
    judged = kit.judged("qgfn", kit.rows_of("qgfn"))
    assert "TB(4β)" in judged["q1"]["also_met_by"]  # a larger exponent raises the reward as well
    assert "TB(4β)" in judged["q2a"]["also_met_by"]
    assert judged["q1"]["verdict"] == "reproduced, not specific"
    assert judged["q2b"]["verdict"] == "reproduced" and not judged["q2b"]["also_met_by"]
    assert judged["q4b"]["verdict"] == "contradicted" and not judged["q4b"]["also_met_by"]


def test_a_reward_is_matched_between_two_p() -> None:
    rows = Rows(swept(RISING, FALLING) + rival(1.5, 0.5)).of(task="bits")
    at = matched(rows, "p-of-max", "tb-4beta")
    target = 1.5 + 1e-4 * np.arange(6)  # between p = 0.8 and 0.9
    assert at.ours == pytest.approx(0.4 - (target - 1.4))
    assert at.before == pytest.approx(np.full(6, 0.4)) and at.reached.all()
    far = Rows(swept(RISING, FALLING) + rival(9.0, 0.5)).of(task="bits")
    assert not matched(far, "p-of-max", "tb-4beta").reached.any()
    with pytest.raises(NoResults):
        matched(rows, "tb", "tb-4beta")


def test_no_claim_needs_what_a_larger_scale_does_not_run() -> None:
    """Where the paper's tasks were run, q1, q3, q4 are judged on them, sEH included."""
    rows = kit.rows_of("qgfn").frame
    rows = rows[rows["task"].astype(str) != "rna"]
    names = {"bits": "bits", "qed": "seh"}
    frame = rows.assign(task=rows["task"].astype(str).map(names))
    judged = kit.judged("qgfn", Rows(frame), "paper")
    for name in ("q1", "q3a", "q3b", "q4a", "q4b"):
        assert "sEH" in judged[name]["ours"], name
    assert not [c["id"] for c in judged.values() if c["verdict"].startswith("needs")]


TINY = ["--steps", "3", "--eval-every", "2", "--batch", "4", "--hidden", "8"]
TINY += ["--sweep", "0", "0.9", "1"]
SMALL = {
    "bits": ["--n-bits", "8", "--n-modes", "3", "--delta", "2", "--net", "mlp"],
    "rna": ["--length", "3"],
    "qed": ["--length", "2"],
    "qm9str": ["--length", "2"],
    "seh": ["--width", "8", "--max-blocks", "3", "--samples", "3", "--steps", "2", "--n", "2"],
}


def tiny(job: Any) -> list[str] | None:
    """Every task; every method on bits, on sEH and on one task with a table of rewards.

    rna, qed and qm9str are tables to the same code, and a rate is a number to it: p-of-max alone
    runs on all tables and, in the tuning, with a second rate. On sEH, where each seed is a run of
    its own, the pair that q4b compares has two.
    """
    if job.task == "seh" and job.seeds != (0,) and job.method not in ("p-of-max", "tb-4beta"):
        return None
    again = job.task in ("qed", "qm9str") or (job.task == "rna" and job.scale == "tuning")
    other_rate = "lr=0.003" in job.grid
    if job.method != "p-of-max" and (again or other_rate):
        return None
    return [*TINY, *SMALL[job.task]]


@pytest.mark.parametrize("scale", ["default", "paper", "study", "tuning"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")
    stand_ins.seh(tmp_path / "data")
    (tmp_path / "data" / "qm9str").mkdir()
    np.save(tmp_path / "data" / "qm9str" / "gap.npy", np.linspace(0.1, 0.4, 11**2))
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    whole = task.molecular_distance  # of 1000 molecules; fifty are enough here
    monkeypatch.setattr(task, "molecular_distance", lambda objects: whole(objects[:50]))

    seeds = 2 if scale in ("default", "paper") else 1  # claims and figures with intervals: once
    made = kit.run_scale("qgfn", scale, tmp_path, tiny, seeds=seeds)
    tasks = {row["task"] for row in made["rows"]}
    assert tasks >= {"paper": {"seh", "qm9str"}, "study": {"qed"}}.get(scale, {"rna", "qed"})
    if scale == "paper":
        assert {"frontier", "curves", "cross_use"} <= {each["name"] for each in made["figures"]}
        assert any("sEH" in claim["ours"] for claim in made["claims"] if claim["id"] == "q4b")


def test_a_new_method_is_trained_shown_and_changes_no_verdict(tmp_path: Path) -> None:
    kit.check_added_method("qgfn", tmp_path, flags=["--steps", "20", "--hidden", "8"])


def test_a_pair_can_be_loaded_and_sampled_at_any_p(tmp_path: Path) -> None:
    small = {"task": "rna", "length": 3, "seed": (3, 5), "steps": 2, "eval_every": 1, "hidden": 8}
    train(Config(method="p-greedy", out=tmp_path / "pair", **small))
    pair = qgfn.load(tmp_path / "pair", seed=5)
    drawn = {p: pair.sample(200, p=p, mixture="p-of-max") for p in (0.0, 1.0)}
    assert drawn[0.0].shape == (200, 3) and pair.reward(drawn[0.0]).shape == (200,)
    assert len(drawn[1.0].unique(dim=0)) < len(drawn[0.0].unique(dim=0))
    assert not torch.equal(pair.sample(200), qgfn.load(tmp_path / "pair").sample(200))
    with pytest.raises(UserError, match="not 4"):
        qgfn.load(tmp_path / "pair", seed=4)
    with pytest.raises(UserError, match="from 0 to 1"):
        pair.sample(3, p=2.0)
    with pytest.raises(UserError, match="p-of-max"):
        pair.sample(3, mixture="p-of-mx")
    train(Config(method="tb", out=tmp_path / "tb", **small))
    alone = qgfn.load(tmp_path / "tb")
    assert alone.sample(5).shape == (5, 3)
    with pytest.raises(UserError, match="both"):
        alone.sample(5, p=0.5)


def test_the_table_says_what_is_compared() -> None:
    assert METHODS.having("method", "variant") == [
        *("p-of-max", "p-greedy", "p-quantile", "p-of-max-n1", "p-of-max-n3"),
    ]
    assert all(METHODS[name].sweeps for name in METHODS.having("method", "variant"))
    assert METHODS["dqn"].label == "Q alone (Monte Carlo)" and METHODS["dqn"].n is None
