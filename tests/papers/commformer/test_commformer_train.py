"""Runs: resuming, seeds side by side, rows, devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.rows import Rows
from common.run import Run
from papers.commformer import eval as evaluation
from papers.commformer import task
from papers.commformer import train as training
from papers.commformer.config import Config
from papers.commformer.eval import EvalConfig, evaluate
from papers.commformer.train import train
from tests.fake_cuda import same_on_both
from tests.papers import kit

torch.set_num_threads(1)


def config(folder: Path, **changes: Any) -> Config:
    small: dict[str, Any] = {"n_envs": 4, "horizon": 8, "steps": 128, "epochs": 5, "width": 8}
    small |= {"task": "pcp-tiny", "seed": (0, 1), "episodes": 8, "warmup": 1, "mini_batches": 2}
    return Config(**{**small, "out": folder, **changes})


def rows_of(cfg: Config) -> Rows:
    evaluate(EvalConfig(run=cfg.out))
    return Rows(json.loads((cfg.out / "eval.json").read_text(encoding="utf-8"))["rows"])


@pytest.mark.parametrize("method", ["commformer-gate", "none"])
def test_a_killed_run_ends_with_the_same_numbers(
    method: str, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    whole, cut = whole_and_cut(train, config(tmp_path, method=method), 2)
    mine, theirs = kit.tensors(whole), kit.tensors(cut)
    assert len(mine) == len(theirs) > 50
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def test_a_seed_is_what_it_is_alone(tmp_path: Path, trained_alike: Callable[..., None]) -> None:
    nets = {}
    for name, seeds, steps in (("both", (3, 5), 128), ("alone", (5,), 128), ("start", (5,), 32)):
        cfg = config(tmp_path / name, method="commformer-gate", seed=seeds, steps=steps)
        train(replace(cfg, evaluate_every=10))
        agent = Run.load(cfg.out).final()["agent"]
        nets[name] = {k: v[-1] for k, v in {**agent["net"], "alpha": agent["alpha"]}.items()}
    moved = {k: v for k, v in nets["alone"].items() if not v.equal(nets["start"][k])}
    trained_alike(
        {k: nets["alone"][k] for k in moved},
        {k: nets["both"][k] for k in moved},
        {k: nets["start"][k] for k in moved},
    )


def test_rows_of_a_run(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run")
    train(cfg)
    rows = rows_of(cfg)
    final = rows.of(metric="steps").values()
    steps, curve = rows.of(metric="steps_curve").curve()
    assert steps.tolist() == [64, 128]
    np.testing.assert_allclose(final, curve.mean(1), rtol=1e-6)  # of the last three: both
    assert (rows.of(metric="row_error").values() == 0).all()
    assert (rows.of(metric="blind").values() == 2).all()
    heard = rows.of(metric="to_seeing").values()
    adjacency = [e["data"] for e in json.loads((cfg.out / "eval.json").read_text())["extras"]]
    assert heard.tolist() == [sum(row[2] for row in graph[:2]) for graph in adjacency]
    own = [np.trace(graph) / 3 for graph in adjacency]
    assert rows.of(metric="self_edges").values() == pytest.approx(own)
    used = [(np.sum(graph) - np.trace(graph)) / 6 for graph in adjacency]
    assert rows.of(metric="used_curve").curve()[1][:, -1] == pytest.approx(used)
    assert len(rows.of(metric="steps_cut").values()) == 2
    steps, switched = rows.of(metric="switched").curve()
    assert steps.tolist() == [32, 64, 96, 128]
    settled = [max([0, *steps[row > 0]]) for row in switched]
    assert rows.of(metric="settled").values().tolist() == settled


def test_cut_edges_are_the_silence_of_a_graph_without_any(tmp_path: Path) -> None:
    cfg = config(tmp_path / "shifted", method="shifted")
    train(cfg)
    rows = rows_of(cfg)
    last = rows.of(metric="steps_curve").curve()[1][:, -1]
    assert rows.of(metric="steps_cut").values() == pytest.approx(last)
    assert (rows.of(metric="used").values() == 0).all()


def test_bounds_need_no_training(tmp_path: Path) -> None:
    steps = {}
    for method in ("uniform", "oracle"):
        cfg = config(tmp_path / method, method=method, task="pp-tiny", episodes=200)
        train(cfg)
        steps[method] = rows_of(cfg).of(metric="steps").values()
    assert steps["oracle"][0] == steps["oracle"][1] < steps["uniform"].min()
    assert steps["uniform"][0] != steps["uniform"][1]


def test_graphs_and_networks_learn_an_easy_task(tmp_path: Path) -> None:
    """Two predators on nine cells that see nothing but where they are."""
    cfg = Config(
        **{"task": "pp-tiny", "method": "full", "width": 16, "n_envs": 16, "horizon": 20},
        **{"steps": 16 * 20 * 25, "mini_batches": 2, "clip": 0.2, "dropout": 0.0, "lr": 3e-3},
        **{"evaluate_every": 25, "episodes": 64, "out": tmp_path / "run"},
    )
    train(cfg)
    train(replace(cfg, method="uniform", out=tmp_path / "uniform"))
    learned = rows_of(cfg).of(metric="steps").value()
    assert (
        learned < 0.75 * rows_of(replace(cfg, out=tmp_path / "uniform")).of(metric="steps").value()
    )


@pytest.mark.parametrize("method", ["commformer-gate", "mat"])
def test_a_gpu_has_the_cpus_rows(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, options = task.GRIDS["pcp-tiny"]
    monkeypatch.setitem(task.GRIDS, "pcp-tiny", (kind, {**options, "limit": 3}))
    small: dict[str, Any] = {"n_envs": 2, "horizon": 4, "steps": 16, "episodes": 4}
    cfg = config(tmp_path, method=method, evaluate_every=2, **small)
    same_on_both(training, evaluation, cfg, tmp_path)


def test_another_seed_has_other_environments() -> None:
    seeds = [training.env_seed(s) for s in range(1_000)]
    assert len(set(seeds)) == 1_000 and evaluation.EVAL_SEED not in seeds
