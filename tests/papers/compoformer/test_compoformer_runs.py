"""Runs: limits that are other methods, resuming, rows, devices, data, what acts afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.compoformer as compoformer
from common.control.metaworld_goals import DATA_GOALS
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from papers.compoformer import bench, train
from papers.compoformer import eval as evaluation
from papers.compoformer import task as tasks
from papers.compoformer.bench import BenchConfig
from papers.compoformer.config import Config
from papers.compoformer.eval import EvalConfig, evaluate
from papers.compoformer.learning import make_net, make_world
from papers.compoformer.task import SENTENCES, STREAMS, Stream, demonstrations
from tests.fake_cuda import same_on_both
from tests.papers import kit

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("stand_in")
PRESS, FAUCET = "handle-press-side-v3", "faucet-close-v3"

SMALL: dict[str, Any] = {
    **{"task": "ocw3", "steps": 10, "first_steps": 12, "warm_up": 4, "batch": 4, "width": 8},
    **{"layers": 1, "window": 4, "pool": 30, "goals": 2, "lr": 1e-2, "text_width": 8},
    **{"samples": 4, "episodes": 4},
}


def config(folder: Path, **changes: Any) -> Config:
    return Config(**{**SMALL, "out": folder, **changes})


def trained(folder: Path, **changes: Any) -> dict[str, Any]:
    train.train(config(folder, **changes))
    return dict(Run.load(folder).final())


def rows_of(folder: Path) -> Rows:
    evaluate(EvalConfig(run=folder))
    return Rows(json.loads((folder / "eval.json").read_text(encoding="utf-8"))["rows"])


def same_net(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(v, other["net"][k]) for k, v in one["net"].items())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that several tests look at: one that has finished is not trained again."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``stream(tasks)`` is the name of a stream of these tasks."""

    def add(*names: str) -> str:
        monkeypatch.setitem(STREAMS, "ocw-made", Stream(names, episodes=4))
        return "ocw-made"

    return add


# -- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "every"),
    [("compo_prune", 9), ("compo_grow", 17), ("rwalk", 11), ("vcl", 13), ("rehearsal", 7)],
)
def test_a_killed_run_ends_with_the_same_numbers(
    method: str, every: int, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    """Also in a warm-up, and with what the sources say computed anew."""
    cfg = config(tmp_path, method=method, dropout=0.1 if method == "compo_grow" else 0.0)
    whole, cut = whole_and_cut(train.train, cfg, every)
    mine, theirs = kit.tensors(whole), kit.tensors(cut)
    assert len(mine) == len(theirs) > 20
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))
    np.testing.assert_array_equal(whole["scores"], cut["scores"])
    np.testing.assert_array_equal(whole["errors"], cut["errors"])


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["compo_grow", "compo_prune"])
def test_eta_decides_what_grows(method: str, tmp_path: Path, shared: Path) -> None:
    everything = trained(tmp_path / "0", method=method, eta=0.0)
    assert everything["net"]["grown"].tolist() == [True, False, False]
    nothing = trained(tmp_path / "2", method=method, eta=1.01)
    assert nothing["net"]["grown"].all() and not nothing["net"]["reused"].any()
    some = trained(shared / method, method=method)  # the stand-in: 1.0 on the repeat, 0.5 else
    assert some["net"]["grown"].tolist() == [True, True, False]
    assert np.asarray(some["tests"])[1:].tolist() == [0.5, 1.0]
    if method == "compo_prune":
        assert (nothing["net"]["owner"] >= 0).all()  # the last one grew, and took the rest
        assert (some["net"]["owner"] < 0).any()  # it was reused, and took nothing
        free = some["net"]["owner"] < 0
        net = make_net(config(tmp_path, method=method))
        net.load_state_dict(some["net"])
        theta = torch.cat([p.flatten() for p in net.maskable().values()])
        assert (theta[free] == 0).all()


def test_a_task_is_reused_by_its_success_and_not_by_its_name(
    tmp_path: Path, stream: Callable[..., str]
) -> None:
    """Goals of the test are not those of the evaluation; half of them fail here, so it grows."""
    final = trained(tmp_path, method="compo_grow", task=stream(FAUCET, FAUCET))
    assert final["net"]["grown"].all()


def test_a_single_task_is_a_plain_decision_transformer(
    tmp_path: Path, stream: Callable[..., str]
) -> None:
    name = stream(PRESS)
    plain = trained(tmp_path / "plain", method="finetune", task=name)
    grow = trained(tmp_path / "grow", method="compo_uniform", task=name)
    lora = trained(tmp_path / "lora", method="lora", task=name)
    assert grow["errors"][1, 0] == lora["errors"][1, 0]
    for key in ("heads.0.weight", "trunks.0.net.window.embed_state.weight"):
        assert torch.equal(grow["net"][key], lora["net"][key])
    own = make_net(config(tmp_path, method="finetune", task=name)).state_dict()
    assert not torch.equal(plain["net"]["heads.0.weight"], own["heads.0.weight"])
    joint = trained(tmp_path / "joint", method="multitask", task=name)
    assert same_net(joint, plain)


@pytest.mark.parametrize("method", ["ewc", "l2", "mas", "rwalk", "lwf"])
def test_a_penalty_of_no_weight_is_finetuning_bit_for_bit(
    method: str, tmp_path: Path, shared: Path
) -> None:
    free = trained(tmp_path / "free", method=method, strength=0.0)
    held = trained(tmp_path / "held", method=method, strength=1e4)
    plain = trained(shared / "finetune", method="finetune")
    assert same_net(free, plain) and not same_net(held, plain)
    if method != "lwf":
        name = "trunks.0.net.window.embed_state.weight"
        begun = make_net(config(tmp_path, method=method)).state_dict()[name]
        assert held["net"][name].shape == begun.shape
        assert np.nanmax(held["drift"]) < np.nanmax(plain["drift"])


@pytest.mark.parametrize("method", ["compo_grow", "compo_prune", "lora", "packnet", "single"])
def test_finished_tasks_stay_and_finetuning_drifts(
    method: str, tmp_path: Path, shared: Path
) -> None:
    final = trained(tmp_path / method, method=method, weight_decay=0.3)
    assert np.asarray(final["drift"]).tolist() == [0.0, 0.0, 0.0]
    own = np.diagonal(np.asarray(final["errors"])[1:])
    np.testing.assert_array_equal(own, np.asarray(final["errors"])[-1])
    drifted = trained(shared / "decay", method="finetune", weight_decay=0.3)["drift"]
    assert (np.asarray(drifted)[:2] > 1e-3).all() and drifted[2] == 0


def test_methods_of_a_seed_begin_alike_and_part_at_the_second_source(
    tmp_path: Path, stream: Callable[..., str]
) -> None:
    """With one source its weight is 1, however weights are made."""
    name = stream(FAUCET, "push-v3", "push-wall-v3")
    found = {
        m: trained(tmp_path / m, method=m, task=name)["errors"]
        for m in ("compo_grow", "compo_uniform", "compo_ones", "compo_own")
    }
    own = {m: np.diagonal(np.asarray(e)[1:]) for m, e in found.items()}
    assert own["compo_grow"][1] == own["compo_uniform"][1] == own["compo_ones"][1]
    assert own["compo_grow"][2] != own["compo_uniform"][2]
    assert own["compo_grow"][0] == own["compo_own"][0] != own["compo_own"][1]


def test_joint_training_has_one_head_per_task_and_all_data(tmp_path: Path, shared: Path) -> None:
    final = trained(shared / "multitask", method="multitask")
    begun = make_net(config(tmp_path, method="multitask")).state_dict()
    moved = [not torch.equal(final["net"][f"heads.{k}.weight"], begun[f"heads.{k}.weight"])
             for k in range(3)]  # fmt: skip
    assert moved == [True, True, False]
    scores = np.asarray(final["scores"])
    assert np.isfinite(scores[-1]).all() and scores[-1, 0] == scores[-1, 2]
    assert sum(config(tmp_path, method="multitask").budgets()) == sum(config(tmp_path).budgets())


def test_memories_change_what_is_learned(tmp_path: Path, shared: Path) -> None:
    nets = {m: trained(shared / m, method=m) for m in ("finetune", "rehearsal", "agem")}
    begun = make_net(config(tmp_path, method="rehearsal")).state_dict()
    assert not same_net(nets["rehearsal"], nets["finetune"])
    after = {m: n["net"]["heads.0.weight"] for m, n in nets.items()}
    assert torch.equal(after["agem"], after["finetune"])  # old heads stay
    assert not torch.equal(after["rehearsal"], after["finetune"])  # and are rehearsed
    assert not torch.equal(after["agem"], begun["heads.0.weight"])


def test_a_posterior_narrows_and_is_held(tmp_path: Path) -> None:
    final = trained(tmp_path, method="vcl", strength=10.0)
    loose = trained(tmp_path / "loose", method="vcl", strength=0.0)
    assert not same_net(final, loose)


# -- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["compo_prune", "finetune", "multitask", "untrained"])
def test_rows_of_a_run(method: str, shared: Path) -> None:
    train.train(config(shared / method, method=method))
    rows = rows_of(shared / method)
    success = [rows.of(metric="place_success", place=p).value() for p in (1, 2, 3)]
    assert success == [1.0, 0.5, 1.0]  # the stand-in's, whoever acts
    assert rows.of(metric="performance").value() == pytest.approx(np.mean(success))
    errors = [rows.of(metric="place_action_error", place=p).value() for p in (1, 2, 3)]
    assert rows.of(metric="action_error").value() == pytest.approx(np.mean(errors))
    assert bool(rows.of(metric="forgetting")) == (method in ("compo_prune", "finetune"))
    assert bool(rows.of(metric="grown")) == (method == "compo_prune")
    if method == "compo_prune":
        assert rows.of(metric="grown").value() == 2
        assert rows.of(metric="place_reused", place=3).value() == 1
        assert rows.of(metric="place_recognised").unique("place") == [3]
        assert rows.of(metric="drift").value() == 0
        assert rows.of(metric="place_test", place=2).value() == 0.5
        saved = json.loads((shared / method / "eval.json").read_text(encoding="utf-8"))
        [attention] = saved["extras"]
        assert np.array(attention["data"])[1].tolist() == [1.0, 0.0, 0.0]
        assert np.array(attention["data"])[2].sum() == pytest.approx(1.0)


def test_parameters_are_counted_once(shared: Path) -> None:
    """By hand, at width 8 with one block: embeddings, norms and the block; heads; pairs."""
    block = 2 * 16 + (8 * 24 + 24) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8) + 16
    steps = STREAMS["ocw3"].limit * 8
    base = (39 * 8 + 8) + (8 + 8) + (4 * 8 + 8) + steps + 16 + block
    head, fusion = 8 * 4 + 4, (16 * 8 + 8) + 16 + (8 * 4 + 4)
    pair = 8 * 8 + 8 * 24
    expected = {
        "finetune": base + 3 * head,
        "lora": base + 3 * head + 3 * pair,
        "single": 3 * (base + head),
        "multitask": base + 2 * head,
        "compo_grow": base + head + 2 * pair + fusion + 1 + 2,
    }
    for method, number in expected.items():
        train.train(config(shared / method, method=method))
        assert rows_of(shared / method).of(metric="parameters").value() == number, method
    train.train(config(shared / "packnet", method="packnet"))
    masks = rows_of(shared / "packnet").of(metric="parameters").value()
    assert masks == base + 3 * head  # the last task takes the rest


def test_the_expert_and_the_data_have_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("expert", "mean"):
        train.train(config(tmp_path / method, method=method))
        rows = rows_of(tmp_path / method)
        assert rows.of(metric="performance").value() == pytest.approx(2.5 / 3)
        assert rows.of(metric="place_behaviour", place=1).value() == 0.5
        assert not rows.of(metric="action_error")


def test_a_sweep_labels_its_rows(tmp_path: Path) -> None:
    cfg = config(tmp_path, method="packnet", lr=None, labels=("lr", "give_back"))
    train.train(cfg)
    rows = rows_of(tmp_path)
    assert rows.unique("lr") == [1e-3] and rows.unique("give_back") == [0.7]


def test_the_rate_stays_and_falls() -> None:
    shares = [train.rate(step, 100, 0.25) for step in range(100)]
    assert shares[:76] == [1.0] * 76
    assert shares[99] == pytest.approx(0.04) and shares[90] == pytest.approx(0.4)
    assert [train.rate(step, 100, 0.0) for step in (0, 99)] == [1.0, 1.0]


# -- data -----------------------------------------------------------------------------------------


def test_goals_of_data_tests_and_evaluation_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    made = tasks.goal_episodes

    def seen(data: Any, simulator: Any) -> Any:
        asked.append((data.first_goal, data.goals, data.stream))
        return made(data, simulator)

    monkeypatch.setattr(tasks, "goal_episodes", seen)
    demonstrations(STREAMS["ocw7"], PRESS, DATA_GOALS, 10, None)
    assert asked == [(0, 40, 0), (40, 10, 1)]
    assert Config().test_goal >= Config().first_goal + Config().goals


def test_streams_are_the_papers() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert set(SENTENCES) <= set(ALL_V3_ENVIRONMENTS) and len(SENTENCES) == 10
    assert STREAMS["ocw20"].tasks == STREAMS["ocw10"].tasks * 2
    assert STREAMS["ocw10"].tasks[0] == "hammer-v3"
    assert len(set(STREAMS["ocw7"].tasks)) == 5 and STREAMS["ocw7"].earlier(6) == 3
    assert STREAMS["ocw7"].earlier(4) is None
    orders = {STREAMS[f"ocw10-order{n}-sac-near"].tasks for n in (1, 2, 3)}
    assert len(orders) == 3 and all(set(o) == set(SENTENCES) for o in orders)
    assert STREAMS["ocw10-sac-sub"].episodes == 1_000 and STREAMS["ocw10-sac-sub"].published


def test_sentences_of_a_family_share_words() -> None:
    def words(task: str) -> set[str]:
        return set(SENTENCES[task].lower().split())

    push = words("push-v3")
    assert len(push & words("push-wall-v3")) > len(push & words("hammer-v3"))
    assert "Pull" in SENTENCES["push-back-v3"] and len(set(SENTENCES.values())) == 10


def test_published_data_are_read(published: Callable[..., Path]) -> None:
    published((PRESS,), 4)
    made = demonstrations(STREAMS["ocw10-sac-near"], PRESS, DATA_GOALS, 2, 4)
    assert (len(made.train), len(made.held_out)) == (2, 2)
    assert made.wanted[0] is made.held_out[0].actions and np.isnan(made.behaviour_success)
    with pytest.raises(UserError, match=r"4\.npz is missing"):
        demonstrations(STREAMS["ocw10-sac-near"], PRESS, DATA_GOALS, 2, 5)


def test_the_authors_encoder_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.textlab import encoder

    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    with pytest.raises(UserError, match="all-MiniLM-L12-v2"):
        tasks.sentence_vectors(STREAMS["ocw3"], "minilm-l12")
    folder = tmp_path / "sentence-transformers" / "all-MiniLM-L12-v2"
    folder.mkdir(parents=True)
    asked = []
    monkeypatch.setattr(encoder, "load", lambda where: (asked.append(where), None))
    monkeypatch.setattr(encoder, "embed", lambda m, t, texts: 2 * np.eye(3, 384))
    found = tasks.sentence_vectors(STREAMS["ocw3"], "minilm-l12")
    assert asked == [folder] and np.array_equal(found, np.eye(3, 384, dtype=np.float32))


# -- devices, use ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["compo_prune", "compo_grow", "rwalk", "vcl", "ewc"])
def test_a_gpu_computes_the_same(method: str, tmp_path: Path) -> None:
    few = {"steps": 3, "first_steps": 3, "warm_up": 2, "batch": 2, "window": 3, "samples": 2}
    same_on_both(train, evaluation, config(tmp_path, method=method, **few), tmp_path)


@pytest.mark.parametrize("method", ["compo_prune", "packnet"])
def test_a_policy_acts_as_in_the_evaluation(method: str, tmp_path: Path, shared: Path) -> None:
    train.train(config(shared / method, method=method))
    policy = compoformer.load(shared / method)
    assert policy.tasks == (PRESS, FAUCET, PRESS)
    assert policy.reused == (False, False, method == "compo_prune")
    assert policy.attention.shape == (3, 3)
    world = make_world(config(tmp_path), torch.device("cpu"))
    net = make_net(config(tmp_path, method=method))
    net.load_state_dict(Run.load(shared / method).final()["net"])
    for place in range(3):
        batch = tasks.goal_batch(policy.tasks[place], DATA_GOALS, 2)
        policy.begin(place, 2)
        rewards, total, active = np.zeros(2, np.float32), np.zeros(2), np.ones(2, bool)
        for _ in range(STREAMS["ocw3"].limit):
            action = policy.act(batch.observations, rewards)
            rewards, _ = batch.step(action, active)
            total += rewards
            active &= ~batch.success
            if not active.any():
                break
        from papers.compoformer.learning import outcomes

        own = outcomes(net, world, place, DATA_GOALS)
        np.testing.assert_allclose(total, own.returns, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "compo_grown"}, "did you mean"),
        ({"task": "ocw8"}, "did you mean"),
        ({"width": 9}, "no multiple of --heads"),
        ({"steps": 0}, "1 or more"),
        ({"cool_down": 1.5}, "--cool-down 1.5 is no share"),
        ({"give_back": -0.5}, "--give-back -0.5 is no share"),
        ({"strength": -1.0}, "below 0"),
        ({"first_goal": 10}, "those of the data"),
        ({"goals": 11}, "overlap"),
    ],
)
def test_bad_input_ends_in_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        train.train(config(tmp_path, **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "config.json").exists()


def test_a_policy_that_is_asked_wrongly_says_so(tmp_path: Path, shared: Path) -> None:
    train.train(config(shared / "finetune", method="finetune"))
    policy = compoformer.load(shared / "finetune")
    with pytest.raises(UserError, match="begin"):
        policy.act(np.zeros((2, 39)), np.zeros(2))
    with pytest.raises(UserError, match="no place 3"):
        policy.begin(3, 2)
    policy.begin(0, 2)
    with pytest.raises(UserError, match=r"\[2, 39\]"):
        policy.act(np.zeros((3, 39)), np.zeros(3))
    with pytest.raises(UserError, match="seeds"):
        compoformer.load(shared / "finetune", seed=7)
    train.train(config(tmp_path / "expert", method="expert"))
    with pytest.raises(UserError, match="scripted expert"):
        compoformer.load(tmp_path / "expert")


def test_reloading_the_whole_state_is_the_same(tmp_path: Path) -> None:
    """The authors' way to apply masks gives our features: what the bench compares is one thing."""
    cfg = BenchConfig(
        json=tmp_path / "bench.json", width=8, layers=1, batch=4, sources=2, repeats=1
    )
    net, windows = bench.prepared(cfg).eval(), bench.random_windows(cfg)
    ours, _ = net.of_sources(6, windows)
    assert torch.allclose(bench.reloading(net, windows), ours, atol=1e-6)
    bench.bench(cfg)
    assert len(json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))) == 4
