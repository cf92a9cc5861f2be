"""Runs: resuming, rows, devices, and what a team does afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.mast as mast
from common.errors import UserError
from common.marl.episodes import EpisodeBuffer, collect, play
from common.rows import Rows
from papers.mast import baselines, task
from papers.mast import eval as evaluation
from papers.mast import train as training
from papers.mast.config import Config
from papers.mast.eval import EvalConfig, evaluate
from papers.mast.networks import make_values
from papers.mast.probe import ProbeConfig
from papers.mast.probe import train as fit
from papers.mast.train import behaviour, train
from tests.fake_cuda import same_on_both
from tests.papers import kit

torch.set_num_threads(1)


def config(folder: Path, **changes: Any) -> Config:
    small: dict[str, Any] = {"task": "matrix-two_step", "steps": 160, "envs": 4, "batch": 4}
    small |= {"evaluations": 4, "episodes": 8, "rewire_every": 4, "hidden": 8, "sparsity": 0.5}
    return Config(**{**small, "out": folder, **changes})


def rows_of(cfg: Config) -> Rows:
    evaluate(EvalConfig(run=cfg.out))
    return Rows(json.loads((cfg.out / "eval.json").read_text(encoding="utf-8"))["rows"])


@pytest.mark.parametrize("method", ["mast", "rlx2"])
def test_a_killed_run_ends_with_the_same_numbers(
    method: str, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    whole, cut = whole_and_cut(train, config(tmp_path, method=method, evaluations=10), 7)
    mine, theirs = kit.tensors(whole), kit.tensors(cut)
    assert len(mine) == len(theirs) > 30
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def test_rows_of_a_run(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run")
    train(cfg)
    rows = rows_of(cfg)
    steps, curve = rows.of(metric="return").curve()
    assert steps.tolist() == [40.0, 80.0, 120.0, 160.0]
    np.testing.assert_allclose(rows.of(metric="final_return").values(1), curve[:, -3:].mean(1))
    assert rows.of(metric="layers_changed").values(1)[0] == 0
    assert rows.of(metric="connections_changed").values(1)[0] == 0
    assert 0.4 < rows.of(metric="act_ratio").values(1)[0] < 0.65
    assert rows.of(metric="env_steps").values(1)[0] >= 160


def test_dense_rows_have_ratios_of_one(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run", method="dense")
    train(cfg)
    rows = rows_of(cfg)
    for name in ("act", "train", "size"):
        assert rows.of(metric=f"{name}_ratio").values(1)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["mast", "rlx2"])
def test_a_gpu_has_the_cpus_rows(method: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, method=method, steps=48, evaluations=2, episodes=4, host="cw-qmix")
    same_on_both(training, evaluation, cfg, tmp_path)


def test_a_team_acts_as_it_was_evaluated(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run", method="dense", steps=400)
    train(cfg)
    team = mast.load(cfg.out)
    env = team.environment(6)

    def actor() -> Any:
        team.begin(6)
        return lambda seen, t: team.act(seen)

    ours = play(env, actor, 6, 3)
    rng = np.random.default_rng(0)
    theirs = play(env, lambda: behaviour(team._values, env, 0.0, rng), 6, 3)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one["actions"], other["actions"])
    with pytest.raises(UserError, match="not 4"):
        mast.load(cfg.out, seed=4)


def test_the_dynamic_buffer_forgets_what_the_policy_would_not_play() -> None:
    env = task.make("matrix-two_step", 4)
    cfg = Config(hidden=8)
    values = make_values(cfg, env, "dense", torch.Generator().manual_seed(0))[0]
    rng = np.random.default_rng(0)
    greedy, random = EpisodeBuffer(40), EpisodeBuffer(40)
    for seed in range(8):
        greedy.add(collect(env, behaviour(values, env, 0.0, rng), seed))
        random.add(collect(env, behaviour(values, env, 1.0, rng), seed))
    assert baselines.policy_distance(values, greedy) == 0.0
    assert baselines.policy_distance(values, random) == pytest.approx(0.5, abs=0.2)
    assert baselines.forget(values, greedy) == 0.0 and len(greedy) == 32
    baselines.forget(values, random)
    assert len(random) == 8  # a fifth of the capacity stays


def test_values_fit_better_by_returns_than_at_first(tmp_path: Path) -> None:
    cfg = ProbeConfig(task="fit-two_step", out=tmp_path / "probe", episodes=64, densities=(0.5,))
    fit(cfg)
    rows = rows_of(cfg)  # type: ignore[arg-type]
    assert set(rows.unique("target")) == {"one-step", "lambda", "returns"}
    errors = rows.of(metric="fit_error", target="returns").values(1)
    fit(ProbeConfig(**{**vars(cfg), "out": tmp_path / "none", "updates": 1}))
    before = rows_of(ProbeConfig(**{**vars(cfg), "out": tmp_path / "none"}))  # type: ignore[arg-type]
    assert errors[0] < 0.7 * before.of(metric="fit_error", target="returns").values(1)[0]


def test_unknown_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3m"):
        train(config(tmp_path / "run", task="smax-3mm"))
