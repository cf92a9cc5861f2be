"""Training: the loops, resuming, the probe, equal budgets, a team that is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.kaleidoscope as kaleidoscope
from common import files
from common.errors import UserError
from common.run import Run
from papers.kaleidoscope import probe, train, train_matd3
from papers.kaleidoscope.config import Config, MATD3Config, resolved
from papers.kaleidoscope.eval import EvalConfig, evaluate
from papers.kaleidoscope.methods import METHODS
from papers.kaleidoscope.probe import ProbeConfig
from papers.kaleidoscope.task import TASKS, chased, heading, make, script
from tests.papers.kaleidoscope.stand_ins import stand_in

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"steps": 240, "envs": 4, "updates": 2, "batch": 4, "hidden": 8}
SMALL |= {
    "embed": 4,
    "hypernet": 4,
    "evaluations": 3,
    "episodes": 4,
    "anneal": 100,
    "describing": 5,
}
ROBOT: dict[str, Any] = {"steps": 120, "envs": 4, "warm_up": 40, "batch": 8, "hidden": 8}
ROBOT |= {"evaluations": 2, "episodes": 2}
PROBE: dict[str, Any] = {"episodes": 60, "evaluations": 3, "hidden": 8}


def rows_of(folder: Path) -> dict[str, Any]:
    """Rows of a run without labels: metric -> value."""
    evaluate(EvalConfig(run=folder))
    return {row["metric"]: row["value"] for row in files.read_json(folder / "eval.json")["rows"]}


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, x in tree.items() for k, v in flat(x, f"{name}/{key}").items()}
    if isinstance(tree, (list, tuple)):
        return flat(dict(enumerate(tree)), name)
    return {name: tree}


def assert_same(one: Any, other: Any) -> None:
    ours, theirs = flat(one), flat(other)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, value in ours.items():
        same = torch.equal if isinstance(value, torch.Tensor) else np.array_equal
        assert same(value, theirs[name]), name


# -- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "task", "steps"),
    [("kaleidoscope", "distinct", 240), ("kaleidoscope", "units", 240), ("seps", "mpe", 400)],
)
def test_qmix_resumes_bit_for_bit(method, task, steps, whole_and_cut, stand_ins) -> None:
    cfg = Config(method, task, **{**SMALL, "steps": steps})
    assert_same(*whole_and_cut(train.train, cfg, every=7))


@pytest.mark.parametrize("method", ["kaleidoscope", "nops"])
def test_matd3_resumes_bit_for_bit(method: str, whole_and_cut, stand_ins) -> None:
    assert_same(*whole_and_cut(train_matd3.train, MATD3Config(method, **ROBOT), every=21))


def test_the_probe_resumes_bit_for_bit(whole_and_cut) -> None:
    assert_same(*whole_and_cut(probe.train, ProbeConfig(**PROBE), every=25))


@pytest.mark.parametrize("task", ["distinct", "units"])
def test_every_method_has_the_same_budget(task: str, tmp_path: Path, stand_ins) -> None:
    spent = {}
    for name in ("kaleidoscope", "fups-id", "nops", "seps"):
        cfg = Config(name, task, out=tmp_path / name, **SMALL)
        train.train(cfg)
        final, last = Run.load(cfg.out).final(), Run.load(cfg.out).metrics()[-1]
        assert final["env_steps"] == last["step"] and final["buffer"] is None
        spent[name] = final["env_steps"], final["updates"]
    steps = {value for value, _ in spent.values()}
    if task == "distinct":  # episodes of 5 steps; SePS's random play counts as such
        assert steps == {240} and spent["kaleidoscope"] == spent["fups-id"] == spent["nops"]
        assert spent["kaleidoscope"][1] == 240 // 20 * 2
        assert spent["seps"][1] == 2 * (240 - 10 * 20) // 20
    else:
        assert all(240 <= value < 240 + 4 * 8 for value in steps)


def test_resets_happen_and_spare_the_first_layer(tmp_path, monkeypatch, stand_ins) -> None:
    seen = []
    monkeypatch.setattr(
        train, "reset", lambda layers, rho, g: (seen.append((layers, rho)), len(seen))[1]
    )
    cfg = Config(out=tmp_path / "run", resets=4, **SMALL)
    train.train(cfg)
    assert len(seen) == 2  # after 60 and 140 of 240 steps; not in the last 60
    assert all(rho == 0.1 and len(layers) == 3 for layers, rho in seen)
    seen.clear()
    train.train(replace(cfg, method="no-reset", out=tmp_path / "none"))
    assert not seen


def test_diversity_reaches_the_thresholds_alone(tmp_path, stand_ins) -> None:
    """With no task loss to speak of, the diversity term alone moves masks and nothing else."""
    finals = {}
    for beta_0 in (0.0, 1e3):
        cfg = Config(out=tmp_path / f"{beta_0}", beta_0=beta_0, clip=1e9, **{**SMALL, "steps": 40})
        train.train(cfg)
        finals[beta_0] = Run.load(cfg.out).final()["team"]
    without = Config("no-diversity", out=tmp_path / "none", clip=1e9, **{**SMALL, "steps": 40})
    train.train(without)
    for name, value in Run.load(without.out).final()["team"].items():
        assert torch.equal(value, finals[0.0][name]), name
    moved = [k for k, v in finals[0.0].items() if not torch.equal(v, finals[1e3][k])]
    assert moved and any("thresholds" in k for k in moved)


def test_critics_masks_are_redrawn_in_turn(tmp_path, monkeypatch, stand_ins) -> None:
    seen = []
    monkeypatch.setattr(train_matd3, "reset_mask", lambda layers, i, g: seen.append(i))
    train_matd3.train(MATD3Config(out=tmp_path / "run", critic_reset=0.1, **ROBOT))
    assert seen == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    seen.clear()
    train_matd3.train(MATD3Config("no-critic-masks", out=tmp_path / "two", **ROBOT))
    assert not seen


def test_evaluation_says_what_tells_agents_apart(tmp_path, stand_ins) -> None:
    train.train(Config(out=tmp_path / "ours", **SMALL))
    ours = rows_of(tmp_path / "ours")
    assert ours["final_return"] == pytest.approx(np.mean(ours["return"][-3:]), rel=1e-5)
    assert ours["auc_return"] == pytest.approx(np.mean(ours["return"][1:]), rel=1e-5)
    assert ours["macs"] == pytest.approx(
        (1 - ours["final_sparsity"]) * ours["macs_without_masks"], rel=1e-6
    )
    assert ours["macs_without_masks"] == (20 + 4) * 8 + 2 * 8 * 8 + 8 * 5
    assert ours["macs_gru"] == 2 * 8 * 24
    assert 0 <= ours["fixed_prey"] <= 1 and ours["network_disagreement"] >= 0
    extras = {e["name"]: np.array(e["data"]) for e in files.read_json(
        tmp_path / "ours" / "eval.json")["extras"]}  # fmt: skip
    assert extras["chased"].shape == (4, 2) and extras["overlap_4"].shape == (4, 4)
    np.testing.assert_allclose(extras["chased"].sum(1), 1, atol=2e-3)
    train.train(Config("fups", out=tmp_path / "fups", **SMALL))
    shared = rows_of(tmp_path / "fups")
    assert shared["disagreement"] == shared["network_disagreement"] == 0
    assert "macs" not in shared and "weight_distance" not in shared


# -- the probe ------------------------------------------------------------------------------------


def test_the_probe_pays_four_different_actions() -> None:
    assert probe.reward(np.array([2, 0, 3, 1])) == 1 and probe.reward(np.array([2, 0, 3, 2])) == 0


@pytest.mark.parametrize("method", ["fups", "frozen"])
def test_the_same_network_never_solves_the_probe(method: str, tmp_path: Path) -> None:
    probe.train(ProbeConfig(method, out=tmp_path / "run", episodes=200))
    found = rows_of(tmp_path / "run")
    assert found["last_return"] == 0 and max(found["return"]) == 0
    assert found["weight_distance"] == 0 and "solved_at" not in found


def test_who_is_told_a_number_in_the_probe() -> None:
    def net(name: str) -> probe.Net:
        return probe.Net(METHODS[name], ProbeConfig(), torch.Generator().manual_seed(0))

    for name in ("kaleidoscope", "fups", "nops", "snp", "frozen"):
        assert net(name).get_buffer("x").std(0).max() == 0
    assert net("fups-id").get_buffer("x").std(0).max() > 0
    q = net("equal-start")()
    torch.testing.assert_close(q, q[:1].expand(4, -1))
    assert net("equal-start").masked[0].thresholds.requires_grad
    assert not net("frozen").masked[0].thresholds.requires_grad
    assert net("kaleidoscope")().std(0).max() > 0


def test_solved_is_counted_from_where_it_stays_solved(tmp_path: Path, monkeypatch) -> None:
    probe.train(ProbeConfig(out=tmp_path / "run", **PROBE))
    lines = [{"step": s, "return": r} for s, r in ((0, 1.0), (20, 0.0), (40, 1.0), (60, 1.0))]
    monkeypatch.setattr(Run, "metrics", lambda self: lines)
    assert rows_of(tmp_path / "run")["solved_at"] == 40


# -- tasks ----------------------------------------------------------------------------------------


def test_tasks_have_the_authors_settings() -> None:
    hunt, battle = TASKS["distinct"], TASKS["zerg"]
    assert (hunt.beta_0, hunt.rho, hunt.standardise, hunt.last) == (0.5, 0.1, True, False)
    assert (battle.beta_0, battle.rho, battle.lam, battle.loss_scale) == (5.0, 0.2, 0.6, 0.5)
    assert battle.last and not battle.standardise and not battle.finite
    cfg, _ = resolved(Config(task="units", steps=7))
    assert (cfg.steps, cfg.beta_0, cfg.rho) == (7, 5.0, 0.2)
    assert resolved(Config())[0].layer_weights == (1, 2, 4, 8)


def test_scripts_share_out_the_preys(stand_ins) -> None:
    env = make(TASKS["distinct"], 8)
    seen = env.reset(0)
    assert heading(np.array([[2.0, 1], [-2, 1], [0, 3], [1, -3]])).tolist() == [2, 1, 4, 3]
    state = seen.state.copy()
    state[:, :8] = 0.0  # all predators in the middle
    state[:, 8:12] = [1.0, 0, 0, 3]  # preys right and, farther, up
    crowd = replace(seen, state=state)
    assert (script("one-prey", 0)(crowd, 0) == 2).all()
    assert (script("nearest", 0)(crowd, 0) == 2).all()
    shared = script("assigned", 0)(crowd, 0)
    assert all(sorted(row) == [2, 2, 2, 4] for row in shared.tolist())
    assert len(set(script("random", 0)(seen, 0).ravel().tolist())) == 5


def test_who_chases_whom() -> None:
    state = np.zeros((3, 28), np.float32)
    state[:, 8:12] = [1.0, 0, -1, 0]
    state[:, 0], state[:2, 2], state[2:, 2] = (
        0.9,
        -0.9,
        0.9,
    )  # the first right, the second mostly left
    shares = chased([{"state": state}])  # the first moment is no step
    assert shares[0].tolist() == [1, 0] and shares[1].tolist() == [0.5, 0.5]


# -- bad input, use -------------------------------------------------------------------------------


def test_bad_input_is_one_line(tmp_path: Path, stand_ins) -> None:
    out = tmp_path / "run"
    for call, cfg, match in (
        (train.train, Config("kaleidoscop", out=out), "did you mean"),
        (train.train, Config("no-critic-masks", out=out), "method of qmix"),
        (train.train, Config(task="distinkt", out=out), "did you mean"),
        (train.train, Config("seps", out=out, clusters=9, **SMALL), "1 to 4"),
        (train_matd3.train, MATD3Config(out=out, steps=10), "must exceed"),
        (train_matd3.train, MATD3Config("snp", out=out), "method of matd3"),
        (probe.train, ProbeConfig(out=out, task="probes"), "task is 'probe'"),
    ):
        with pytest.raises(UserError, match=match):
            call(cfg)  # type: ignore[operator]


def test_a_team_can_be_loaded(tmp_path: Path, stand_ins) -> None:
    train.train(Config(out=tmp_path / "hunt", **SMALL))
    team: Any = kaleidoscope.load(tmp_path / "hunt")
    seen = stand_in("mpe:x", 3).reset(0)
    first = team.act(seen.obs)
    assert first.shape == (3, 4)
    allowed = np.zeros((3, 4, 5), bool)
    allowed[..., 2] = True
    assert (team.act(seen.obs, avail=allowed) == 2).all()
    with pytest.raises(UserError, match="3 episodes"):
        team.act(seen.obs[0])
    team.reset()
    assert np.array_equal(team.act(seen.obs[1]), first[1])
    with pytest.raises(UserError, match="4, 20"):
        team.act(np.zeros((4, 19)))
    train_matd3.train(MATD3Config(out=tmp_path / "robot", **ROBOT))
    actors: Any = kaleidoscope.load(tmp_path / "robot")
    out = actors.act(np.zeros((2, 11)))
    assert out.shape == (2, 3) and np.abs(out).max() <= 1
    probe.train(ProbeConfig(out=tmp_path / "probe", **PROBE))
    with pytest.raises(UserError, match="no team"):
        kaleidoscope.load(tmp_path / "probe")
