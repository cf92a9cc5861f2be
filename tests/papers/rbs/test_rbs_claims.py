"""Claims that can fail, every scale on stand-ins, an added method, a sampler that is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import papers.rbs as rbs
from common.errors import UserError
from common.rows import Rows
from papers.rbs import task as tasks
from papers.rbs.config import Config
from papers.rbs.environments import MergedStrings
from papers.rbs.methods import METHODS
from papers.rbs.task import SPECS
from papers.rbs.train import train
from tests.papers import kit

LOW, HIGH, MIXED = [0.1, 0.12, 0.14], [0.9, 0.93, 0.96], [0.1, 0.9, 0.5]
LEVEL = [0.5, 0.5, 0.5]


def rows_of(metric: str, task: str, **values: list[float]) -> Rows:
    """Rows of one metric: method="…" written with underscores."""
    table = {(task, m.replace("_", "-")): v for m, v in values.items()}
    return kit.made(**{metric: table})


def halves(ours: list[float], theirs: list[float], reached: list[float]) -> Rows:
    """Updates to a half; whether RBS reached it."""
    pair = {("g16", "rbs-db"): ours, ("g16", "her-db"): theirs}
    got = {("g16", "rbs-db"): reached, ("g16", "her-db"): [1.0] * 3}
    return kit.made(updates_to_half=pair, reached_half=got)


def regularised(entropy: list[float], success: list[float]) -> Rows:
    """RBS against RBS without the regulariser, which has 0.5 of both."""
    return kit.made(
        final_entropy={("g16", "rbs-db"): entropy, ("g16", "rbs-noreg"): LEVEL},
        final_success={("g16", "rbs-db"): success, ("g16", "rbs-noreg"): LEVEL},
    )


def pair(task: str, method: str, rival: str, metric: str = "final_success") -> tuple[Rows, Rows]:
    """Rows in which the method is below the rival, and rows that leave it open."""
    below = rows_of(metric, task, **{method: LOW, rival: HIGH})
    return below, rows_of(metric, task, **{method: MIXED, rival: LEVEL})


def three(task: str, ours: list[float], her: list[float], forward: list[float]) -> Rows:
    return rows_of("final_success", task, rbs_db=ours, her_db=her, gc_db=forward)


YES, NO = [1.0] * 3, [0.0, 1.0, 1.0]
CASES = {
    "r1": (
        [
            halves([900.0, 950, 1000], [500.0, 520, 540], YES),
            halves([100.0, 100, 100], [500.0, 520, 540], NO),
        ],
        halves([300.0, 400, 350], [500.0, 500, 500], YES),
    ),
    "r2": (
        [three("g32", LOW, HIGH, [0.0] * 3), three("g32", HIGH, LOW, LEVEL)],
        three("g32", MIXED, LEVEL, LOW),
    ),
    "r3": (
        rows_of("final_success", "g16", rbs_db=[0.8, 0.85, 0.89]),
        rows_of("final_success", "g16", rbs_db=[0.8, 0.95, 0.94]),
    ),
    "r4": pair("g16-unseen", "rbs_db", "her_db", "final_unseen"),
    "r5": (
        [regularised(LOW, HIGH), regularised(HIGH, LOW)],
        regularised(HIGH, [0.4, 0.5, 0.45]),
    ),
    "r6": pair("g16", "rbs_subtb", "her_db"),
    "r6s": pair("g16", "rbs_subtb", "her_subtb"),
    "r7": (
        [three("b20", LOW, HIGH, LOW), three("b20", LOW, [0.0] * 3, HIGH)],
        three("b20", MIXED, LEVEL, [0.0] * 3),
    ),
    "r7p": pair("b20", "rbs_db", "rbs_uniform"),
    "r8": pair("b20", "rbs_db", "rbs_plain"),
    "r9": pair("b20", "rbs_db", "rbs_noage"),
}


def test_each_claim_can_come_out_either_way() -> None:
    kit.check_judges("rbs", CASES)


def test_what_the_committed_rows_say() -> None:
    judged = kit.judged("rbs", kit.rows_of("rbs"))
    assert "HER-DB" in judged["r3"]["also_met_by"]
    assert {judged[c]["verdict"] for c in ("r3", "r5", "r6")} == {"reproduced, not specific"}
    assert {judged[c]["verdict"] for c in ("r1", "r2", "r4")} == {"inconclusive"}
    assert "RBS, uniform P_B" in judged["r5"]["also_met_by"]
    assert judged["r7"]["verdict"] == "reproduced"
    study = kit.judged("rbs", kit.rows_of("rbs", "study"), "study")
    assert study["r7p"]["verdict"] == "reproduced"
    assert "RBS, no regulariser" in study["r7p"]["also_met_by"]


SMALL = {"trunk": (8, 8), "head": (8,)}


@pytest.mark.parametrize("scale", ["default", "study", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, spec in SPECS.items():
        monkeypatch.setitem(SPECS, name, replace(spec, **SMALL))
    monkeypatch.setattr(tasks, "N_EVAL_GOALS", 3)
    data = tmp_path / "data" / "rbs"
    data.mkdir(parents=True)
    monkeypatch.setenv("PAPERS_DATA", str(data.parent))
    (data / "tfbind8.csv").write_text("sequence\nACGTACGT\nAAAAAAAA\nTTGCATGC\n")
    (data / "amp.csv").write_text("sequence\nGLFD\nKWKLFKKIEK\nGG\n")
    monkeypatch.setattr(tasks, "N_ALL_GOALS", 10 if scale == "paper" else 300)

    def tiny(job):
        everywhere = job.method == "rbs-db" or job.task in ("g32-paper", "amp-paper")
        if scale == "paper" and not everywhere:
            return None  # each method on cells and on words that end by stop, RBS on every task
        return ["--steps", "2", "--eval-every", "2", "--rollouts", "3", "--replay", "4"]

    seeds = 1 if scale == "paper" else 2  # two have intervals, in the same tables and figures
    found = kit.run_scale("rbs", scale, tmp_path, tiny, seeds=seeds)
    seen = {row["task"] for row in found["rows"]}
    wanted = {"default": {"g32", "g16-unseen", "b20"}, "study": {"b20", "g16"}}
    assert seen >= wanted.get(scale, {"g128-paper", "b100-paper", "sets-paper", "amp-paper"})
    assert {figure["name"] for figure in found["figures"]} & {"success", "others"}


def test_a_new_method_is_trained_shown_and_changes_no_verdict(tmp_path: Path) -> None:
    kit.check_added_method("rbs", tmp_path, flags=["--steps", "10"])


def test_each_method_has_a_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of the table trains on words; the fixed P_B has one order for all goals."""
    monkeypatch.setattr(tasks, "N_EVAL_GOALS", 8)
    for name in METHODS:
        config = Config(method=name, task="b12", steps=2, eval_every=2, rollouts=3, replay=4)
        train(replace(config, seed=(0, 1), out=tmp_path / name))
    fixed, uniform = (rbs.load(tmp_path / f"rbs-{kind}") for kind in ("fixed", "uniform"))
    env = fixed.task.env
    assert isinstance(env, MergedStrings)
    goal = torch.tensor([0, 1, 2, 3, 0, 1])
    kinds = {}
    for name, sampler in (("fixed", fixed), ("uniform", uniform)):
        states = sampler.synthesise(goal, 200)
        assert torch.equal(states[:, -1], goal.expand(200, -1))
        kinds[name] = len(torch.unique(states.flatten(1), dim=0))
    assert kinds["fixed"] < 10 < kinds["uniform"]


@pytest.mark.parametrize(("task", "goal"), [("g6", [3, 4]), ("b12", [0, 1, 2, 3, 3, 0])])
def test_a_sampler_can_be_loaded(task: str, goal: list[int], tmp_path: Path) -> None:
    train(Config(task=task, seed=(3, 5), steps=4, eval_every=4, out=tmp_path))
    sampler = rbs.load(tmp_path, seed=5)
    built = sampler.sample(goal, 20)
    assert built.shape == (20, len(goal)) and int(built.max()) < sampler.task.n_values
    assert (sampler.synthesise(goal, 7)[:, -1] == torch.tensor(goal)).all()
    assert not torch.equal(built, rbs.load(tmp_path).sample(goal, 20))
    with pytest.raises(UserError, match="not 4"):
        rbs.load(tmp_path, seed=4)
    with pytest.raises(UserError, match="entries"):
        sampler.sample([1], 3)
