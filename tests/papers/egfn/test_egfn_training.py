"""The loop: what it reduces to, what it leaves alone, that it resumes, and the paper's data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.gfn.fragments import SEHProxy
from common.run import Run
from papers.egfn import train as training
from papers.egfn.config import Config
from papers.egfn.eval import EvalConfig, evaluate
from papers.egfn.method import Plan
from papers.egfn.task import qm9_table
from papers.egfn.train import train

SMALL = Config(task="smoke", steps=12, eval_every=4)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rows_of(folder: Path) -> list[dict]:
    evaluate(EvalConfig(run=folder))
    return json.loads((folder / "eval.json").read_text())["rows"]


def test_without_evolution_and_replay_it_is_db(tmp_path: Path) -> None:
    egfn = replace(SMALL, method="egfn-db", n_agents=0, replay=0, seed=(0, 1), out=tmp_path / "e")
    train(egfn)
    train(replace(SMALL, method="db", seed=(0, 1), out=tmp_path / "d"))
    one, other = (Run.load(tmp_path / k).final() for k in "ed")
    for name, value in one["net"].items():
        assert torch.equal(value, other["net"][name]), name
    assert torch.equal(one["codes"], other["codes"])


@pytest.mark.parametrize("method", ["egfn-db", "egfn-tb", "egfn-feedback"])
def test_evolution_and_training_leave_each_other_alone(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The star never changes in evolve; the population never changes in train."""
    nets: list[torch.nn.Module] = []
    make, original = training.network, training.evolve

    def network(*args: Any) -> torch.nn.Module:
        nets.append(make(*args))
        return nets[-1]

    def weights(net: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    left: list[torch.Tensor] = []
    calls = 0

    def evolve(*args: Any, **kwargs: Any) -> list[Plan]:
        nonlocal calls
        calls += 1
        star, population = nets
        if left:
            assert torch.equal(weights(population), left[-1])
        before = weights(star)
        plans = original(*args, **kwargs)
        assert torch.equal(weights(star), before)
        assert not left or not torch.equal(weights(population), left[-1])
        left.append(weights(population))
        assert all(p.grad is None for p in population.parameters())
        return plans

    monkeypatch.setattr(training, "network", network)
    monkeypatch.setattr(training, "evolve", evolve)
    train(replace(SMALL, method=method, steps=4, out=tmp_path / "r"))
    assert calls == 4


def test_stacked_seeds_equal_single_ones(
    tmp_path: Path, trained_alike: Callable[..., None]
) -> None:
    config = replace(SMALL, method="egfn-db", steps=4)
    train(replace(config, seed=(0, 3), out=tmp_path / "both"))
    train(replace(config, seed=(3,), out=tmp_path / "one"))
    train(replace(config, seed=(3,), steps=1, out=tmp_path / "first"))
    both, one, first = (Run.load(tmp_path / k).final() for k in ("both", "one", "first"))
    assert torch.equal(both["codes"][1], one["codes"][0])
    stacked = {name: value[1:] for name, value in both["net"].items()}
    trained_alike(one["net"], stacked, first["net"])
    for name, value in one["population"].items():
        assert torch.equal(value, both["population"][name][5:]), name
    assert np.array_equal(one["buffer"]["states"][0], both["buffer"]["states"][1])


@pytest.mark.parametrize(
    ("method", "task"),
    [
        ("egfn-db", "smoke"),
        ("egfn-tb", "smoke"),
        ("egfn-fm", "smoke"),
        ("egfn-random", "smoke"),
        ("egfn-polluted", "smoke"),
        ("db-replay", "smoke"),
        ("egfn-db", "ab10"),
    ],
)
def test_resume_is_bit_identical(method: str, task: str, whole_and_cut: Callable) -> None:
    config = replace(SMALL, method=method, task=task, seed=(0, 1))
    whole, cut = whole_and_cut(train, config, 5)
    for name, value in whole["net"].items():
        assert torch.equal(value, cut["net"][name]), name
    assert whole["rngs"] == cut["rngs"]


def test_counts_regions_of_star_and_population_apart(tmp_path: Path) -> None:
    train(replace(SMALL, method="egfn-db", seed=(0, 1, 2), steps=40, out=tmp_path / "r"))
    rows = rows_of(tmp_path / "r")
    found = {
        who: [r["value"] for r in rows if r["metric"] == f"found_{who}"] for who in ("star", "all")
    }
    assert all(s <= a for s, a in zip(found["star"], found["all"], strict=True))
    assert {r["value"] for r in rows if r["metric"] == "reward_calls"} == {40 * 36}
    metrics = {r["metric"] for r in rows}
    assert metrics >= {"regions_star", "area_all", "l1_final", "buffer_distinct_last"}


def test_same_reward_calls(tmp_path: Path) -> None:
    train(replace(SMALL, method="db-2.25x", steps=3, out=tmp_path / "r"))
    assert lines(tmp_path / "r")[-1]["reward_calls"] == 3 * 36


def test_training_learns_the_small_grid(tmp_path: Path) -> None:
    train(
        replace(SMALL, method="egfn-tb", steps=300, eval_every=50, seed=(0, 1), out=tmp_path / "r")
    )
    l1 = [line["l1_sum_exact"] for line in lines(tmp_path / "r")]
    assert max(l1[-1]) < min(l1[0]) - 0.3


# -- paper scale, on stand-ins ---------------------------------------------------------------------


def test_qm9_strings_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data" / "qm9"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / "qm9str.npy", rng.uniform(0.01, 1.0, 11**5))
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    train(Config(method="egfn-tb", task="qm9str", steps=6, eval_every=3, out=tmp_path / "r"))
    values = {r["metric"]: r["value"] for r in rows_of(tmp_path / "r")}
    assert values["relative_mean_error"][-1] == pytest.approx(0.25, abs=0.1)  # E[R^2]/E[R] = 2/3
    assert 0 <= values["modes_last"] <= 6 * 16
    np.save(folder / "qm9str.npy", np.zeros(11**5))
    with pytest.raises(UserError, match="positive"):
        qm9_table()
    (folder / "qm9str.npy").unlink()
    with pytest.raises(UserError, match="missing"):
        qm9_table()
    monkeypatch.delenv("PAPERS_DATA")
    with pytest.raises(UserError, match="PAPERS_DATA"):
        qm9_table()


BLOCKS = {  # same keys and nesting as the published list
    "block_smi": {"0": "c1ccccc1", "1": "CO", "2": "CO", "3": "O"},
    "block_r": {"0": [0, 1, 2, 3, 4, 5], "1": [0, 1], "2": [1, 0, 0, 0], "3": [0]},
}


@pytest.fixture
def seh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")
    folder = tmp_path / "data" / "seh"
    folder.mkdir(parents=True)
    (folder / "blocks_PDB_105.json").write_text(json.dumps(BLOCKS))
    torch.manual_seed(0)
    proxy = SEHProxy()
    arrays = {f"p{i:02d}": proxy.get_parameter(n).detach().numpy() for i, n in proxy.ORDER.items()}
    arrays["p21"] = np.array([4.0], np.float32)
    np.savez(folder / "seh_proxy.npz", **arrays)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    return folder


@pytest.mark.parametrize("method", ["egfn-db", "db-prb", "db"])
def test_molecules(method: str, seh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(
        method=method,
        task="seh",
        batch=3,
        replay=3,
        steps=4,
        eval_every=2,
        width=8,
        max_blocks=4,
        n_agents=4,
        episodes=2,
    )
    train(replace(config, out=tmp_path / "r"))
    values = {r["metric"]: r["value"] for r in rows_of(tmp_path / "r")}
    assert np.isfinite(values["mean_score"]).all() and values["reward_calls"] > 0
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "2")
    original = Run.save

    def save_and_die(self: Run, step: int, tree: object) -> None:
        original(self, step, tree)
        raise InterruptedError

    monkeypatch.setattr(Run, "save", save_and_die)
    with pytest.raises(InterruptedError):
        train(replace(config, out=tmp_path / "cut"))
    monkeypatch.setattr(Run, "save", original)
    train(replace(config, out=tmp_path / "cut"))
    one, other = (Run.load(tmp_path / k).final()["star"] for k in ("r", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="egfn-db"):
        train(replace(SMALL, method="egfn-bd", out=tmp_path))
    with pytest.raises(UserError, match="grid-l"):
        train(replace(SMALL, task="grid-ll", out=tmp_path))
    with pytest.raises(UserError, match="FM"):
        train(replace(SMALL, method="egfn-fm", task="ab10", out=tmp_path))
    monkeypatch.delenv("PAPERS_DATA", raising=False)
    with pytest.raises(UserError, match="PAPERS_DATA"):
        train(replace(SMALL, task="seh", out=tmp_path))
