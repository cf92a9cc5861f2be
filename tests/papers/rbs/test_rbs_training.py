"""The training code: it learns flows, resumes bit by bit, stacks seeds, and runs every task."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.gfn.sampling import sample, uniforms
from common.run import Run
from common.stacked import adam, seed_generators
from papers.rbs import task as tasks
from papers.rbs.config import Config
from papers.rbs.eval import EvalConfig, evaluate
from papers.rbs.method import GoalConditioned, goal_loss, retrospective_backward_synthesis
from papers.rbs.methods import METHODS
from papers.rbs.networks import outputs
from papers.rbs.success import measure, policies, source_log_flow
from papers.rbs.task import SPECS, Task
from papers.rbs.train import train

SMALL = {"trunk": (16, 16), "head": (16,)}


@pytest.fixture(autouse=True)
def no_user_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAPERS_DATA", raising=False)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Table(torch.nn.Module):
    """Heads P_F (3), P_B (2), log F at every pair of a cell and a goal of a small grid."""

    def __init__(self, n_cells: int) -> None:
        super().__init__()
        self.side = round(n_cells**0.5)
        self.table = torch.nn.Parameter(torch.zeros(n_cells**2, 6))

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        row = (states * self.side ** torch.arange(4)).sum(-1)
        out = self.table[row]
        return out[..., :3], out[..., 3:5], out[..., 5]

    def forward_logits(self, states: torch.Tensor) -> torch.Tensor:
        return self(states)[0]


def test_a_flow_is_learned_not_an_imitation() -> None:
    """Uniform P_B on a 3x3 grid: log F(s0|y) -> log C and P_F's paths are those of P_B: RRU 1/2,
    RUR 1/4, URR 1/4 for goal (2, 1). Successes alone do not determine the flow: the failures do."""
    task = Task("g6", (0,))
    task.env.__init__(2, 3)  # type: ignore[misc]
    task.n_values, task.listed = 3, task.env.all_states()
    task.train_goals, task.eval_goals = task.listed.unsqueeze(0), task.listed
    net = Table(9)
    optimizer = adam([{"params": list(net.parameters())}], lr=0.1)
    goals = task.listed.repeat(3, 1).unsqueeze(0)
    env = GoalConditioned(task.env, goals, log_C=2.0, log_epsilon=-5.0)
    rng = seed_generators((0,), 1)
    for step in range(300):
        u = uniforms(rng, (2, env.max_length, goals.shape[1]))
        back = retrospective_backward_synthesis(env, u[:, 0], None)
        ahead = sample(env, net.forward_logits, u[:, 1], epsilon=0.5)
        loss = torch.zeros(1)
        for traj in (back, ahead):
            loss = loss + goal_loss(env, outputs(net, traj, 3, backward="uniform"), traj)[0]
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        if step == 220:
            optimizer.param_groups[0]["lr"] = 0.01
    assert (source_log_flow(task, net) - 2.0).abs().max() < 0.1
    assert measure(task, net, backward="uniform").success.min() > 0.97
    chance = {}
    for word in ("RRU", "RUR", "URR"):
        state, p = torch.zeros(2, dtype=torch.long), 1.0
        for letter in word:
            row = torch.cat([state, torch.tensor([2, 1])]).unsqueeze(0)
            p *= float(policies(task, net, row).log_pf[0, 0, "RU".index(letter)].exp())
            state = task.env.step(state, torch.tensor("RU".index(letter)))
        chance[word] = p
    assert chance == pytest.approx({"RRU": 0.5, "RUR": 0.25, "URR": 0.25}, abs=0.03)


@pytest.mark.parametrize(
    "method,task,extra",
    [
        ("rbs-db", "g6", {}),
        ("rbs-subtb", "g6", {"capacity": 40}),
        ("her-db", "g16-unseen", {"replay": 8}),
        ("gc-db", "b12", {}),
        ("dqn-her", "g6", {}),
    ],
)
def test_resume_is_bit_identical(
    method: str,
    task: str,
    extra: dict,
    whole_and_cut: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "N_EVAL_GOALS", 16)
    config = Config(method=method, task=task, seed=(0, 1), steps=8, eval_every=4, **extra)
    whole, cut = whole_and_cut(train, config, 5)
    for name, value in whole["net"].items():
        assert torch.equal(value, cut["net"][name]), name
    assert torch.equal(whole["success"], cut["success"])


def test_stacked_seeds_are_single_seeds(tmp_path: Path, trained_alike: Callable[..., None]) -> None:
    config = Config(method="rbs-db", task="g6", steps=8, eval_every=8)
    train(replace(config, seed=(3, 5), out=tmp_path / "both"))
    both = lines(tmp_path / "both")[-1]
    for i, seed in enumerate((3, 5)):
        alone, first = tmp_path / str(seed), tmp_path / f"{seed}-first"
        train(replace(config, seed=(seed,), out=alone))
        train(replace(config, seed=(seed,), steps=1, out=first))
        one = lines(alone)[-1]
        for key in ("success", "rollout_success", "loss", "entropy", "divergence"):
            assert one[key][0] == pytest.approx(both[key][i], rel=1e-2), key
        stacked, single, start = (
            Run.load(folder).final()["net"] for folder in (tmp_path / "both", alone, first)
        )
        own = {k: v if k == "offsets" else v[i : i + 1] for k, v in stacked.items()}
        trained_alike(single, own, start)


def test_all_methods_use_the_same_number_of_trajectories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from papers.rbs import train as module

    sizes: dict[str, set[int]] = {}
    original = module.AgeReplay.get

    def get(self, items):
        batch = original(self, items)
        sizes.setdefault(name, set()).add(batch.actions.shape[1])
        return batch

    monkeypatch.setattr(module.AgeReplay, "get", get)
    for name in METHODS:
        train(Config(method=name, task="g6", steps=2, replay=8, out=tmp_path / name))
    assert set(map(tuple, sizes.values())) == {(16,)}


def test_methods_differ_where_they_should(tmp_path: Path) -> None:
    """Regulariser and P_B: a large weight keeps P_B near uniform; uniform P_B stays log 2."""
    entropies = {}
    for name, weight in (("rbs-db", 1000.0), ("rbs-noreg", 1000.0), ("rbs-uniform", 1000.0)):
        config = Config(method=name, task="g6", steps=40, weight=weight, eval_every=40, lr=5e-3)
        train(replace(config, out=tmp_path / name))
        entropies[name] = lines(tmp_path / name)[-1]["entropy"][0]
    assert entropies["rbs-uniform"] == pytest.approx(0.693147, abs=1e-5)
    assert entropies["rbs-noreg"] + 1e-3 < entropies["rbs-db"] < 0.693148


def test_held_out_goals_are_never_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from papers.rbs import train as module

    seeds = (0, 1)
    task = Task("g16-unseen", seeds)
    assert task.held_out is not None and task.held_out.sum(-1).tolist() == [51, 51]
    assert not torch.equal(task.held_out[0], task.held_out[1])
    trained: list[torch.Tensor] = []
    original = module.AgeReplay.get

    def get(self, items):
        batch = original(self, items)
        trained.append(task.env.index(batch.states[..., 2:]).flatten(1))
        return batch

    monkeypatch.setattr(module.AgeReplay, "get", get)
    for name in ("rbs-db", "her-db"):
        train(
            Config(
                method=name,
                task="g16-unseen",
                seed=seeds,
                steps=6,
                eval_every=6,
                out=tmp_path / name,
            )
        )
    assert not task.held_out.gather(1, torch.cat(trained, 1)).any()


def test_rbs_learns_where_forward_only_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 goals: a leak of successes would give forward only what RBS has."""
    monkeypatch.setitem(SPECS, "g6", tasks.grid(10))
    config = Config(task="g6", seed=(0, 1), steps=70, eval_every=70)
    final = {}
    for name in ("rbs-db", "gc-db"):
        train(replace(config, method=name, out=tmp_path / name))
        final[name] = lines(tmp_path / name)[-1]["success"]
    evaluate(EvalConfig(run=tmp_path / "rbs-db"))
    assert min(final["rbs-db"]) > 0.1 and max(final["gc-db"]) < 0.05
    rows = json.loads((tmp_path / "rbs-db" / "eval.json").read_text())
    metrics = {r["metric"] for r in rows["rows"]}
    assert metrics >= {"success", "final_success", "updates_to_half", "source_gap", "entropy"}
    assert len(rows["extras"][0]["data"]) == 10


# -- the paper's sizes, on stand-ins ---------------------------------------------------------------


def test_paper_specs() -> None:
    assert SPECS["g128-paper"].size == (2, 128)
    sizes = {"b40-paper": 4, "b60-paper": 8, "b100-paper": 32}
    for name, n_letters in sizes.items():
        task = Task(name, (0,))
        assert (task.env.length, task.env.n_letters) == (20, n_letters)  # type: ignore[attr-defined]
    assert SPECS["b100-paper"].log_C == pytest.approx(92.10340)  # 1e40, in log space
    assert SPECS["b100-paper"].trunk == (2048, 2048) and len(SPECS["b100-paper"].head) == 3


@pytest.mark.parametrize("name", ["g128-paper", "b40-paper", "b100-paper", "sets-paper"])
def test_paper_scale_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks, three updates, few goals: every path of the code at the real sizes."""
    monkeypatch.setitem(SPECS, name, replace(SPECS[name], **SMALL))
    monkeypatch.setattr(tasks, "N_EVAL_GOALS", 4)
    train(Config(task=name, steps=3, rollouts=4, replay=8, eval_every=3, out=tmp_path / "r"))
    evaluate(EvalConfig(run=tmp_path / "r"))
    line = lines(tmp_path / "r")[-1]
    assert all(map(torch.isfinite, map(torch.tensor, line["loss"])))
    assert 0 <= line["success"][0] <= 1


@pytest.mark.parametrize("name", ["tfbind8-paper", "amp-paper"])
def test_user_supplied_sequences(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = SPECS[name].kind
    monkeypatch.setitem(SPECS, name, replace(SPECS[name], **SMALL))
    with pytest.raises(UserError, match=f"{kind}.csv is missing"):
        Task(name, (0,))
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    (tmp_path / "rbs").mkdir()
    path = tmp_path / "rbs" / f"{kind}.csv"
    path.write_text("name,letters\nx,ACGT\n")
    with pytest.raises(UserError, match="column 'sequence'"):
        Task(name, (0,))
    words = ["ACGTACGT", "AAAAAAAA", "TTGCATGC"]
    path.write_text("sequence,score\n" + "".join(f"{w},0.5\n" for w in words))
    task = Task(name, (0,))
    assert task.eval_goals.shape == (3, task.env.length)  # type: ignore[attr-defined]
    if kind == "amp":  # shorter ones end by the stop action
        path.write_text("sequence\nGLFD\nKWKLFKKIEK\nGG\n")
    else:
        path.write_text("sequence\nACGTACGT\nAXGTACGT\n")
        with pytest.raises(UserError, match="AXGTACGT"):
            Task(name, (0,))
        path.write_text("sequence\n" + "\n".join(words))
    train(Config(task=name, steps=3, rollouts=4, replay=8, eval_every=3, out=tmp_path / "r"))
    evaluate(EvalConfig(run=tmp_path / "r"))
    assert lines(tmp_path / "r")[-1]["step"] == 3


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rbs-db"):
        train(Config(method="rbs-bd", out=tmp_path))
    with pytest.raises(UserError, match="g16"):
        train(Config(task="g17", out=tmp_path))
