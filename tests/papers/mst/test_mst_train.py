"""Runs: resuming, rows, devices, what makes no sense, what comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.mst as mst
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from common.textlab.tokens import random_windows
from common.textlab.training import descend
from papers.mst import eval as evaluation
from papers.mst import task as tasks
from papers.mst import train as training
from papers.mst.config import Config, task_of
from papers.mst.eval import EvalConfig, evaluate
from papers.mst.learning import IGNORED, adamw, batch_of, gradient
from papers.mst.method import Masks
from papers.mst.methods import METHODS
from papers.mst.plan import plan_of
from papers.mst.task import TASKS, model_of, text_of
from papers.mst.train import generators, train
from tests.fake_cuda import same_on_both
from tests.papers import kit

pytestmark = pytest.mark.usefixtures("small")


def config(folder: Path, **changes: Any) -> Config:
    return Config(**{"out": folder, "evaluations": 3, "windows": 4, **changes})


def rows_of(cfg: Config) -> Rows:
    evaluate(EvalConfig(run=cfg.out))
    return Rows(json.loads((cfg.out / "eval.json").read_text(encoding="utf-8"))["rows"])


@pytest.mark.parametrize(
    ("method", "task", "every"),
    [("mst", "gpt2-tiny", 9), ("lottery", "gpt2-tiny", 2), ("mst-random", "bert-tiny", 18)],
)
def test_a_killed_run_ends_with_the_same_numbers(
    method: str, task: str, every: int, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    """The cuts: between two updates, at the ticket's rewinding, in the restoration."""
    whole, cut = whole_and_cut(train, config(tmp_path, method=method, task=task), every)
    mine, theirs = kit.tensors(whole), kit.tensors(cut)
    assert len(mine) == len(theirs) > 20 and whole["counter"] == cut["counter"]
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("method", ["dense", "mst"])
def test_without_sparsity_it_is_the_plain_training_bit_for_bit(method: str, tmp_path: Path) -> None:
    """Sparsity 0, attention not cut, no updates before the end: a loop of four lines."""
    nothing = {"start": 0.0, "peak": 0.0, "end": 0.0, "zeta": 0.0, "reset_moments": False}
    wide = {"pattern": "local", "stride": 100}  # looks at everything
    cfg = config(tmp_path / "run", method=method, **nothing, **wide, every=20, evaluations=1)
    if method == "mst":
        cfg = replace(cfg, every=20, steps=24, restored=0.81)  # one update, at 20
    train(cfg)
    plan = plan_of(cfg)
    task, text, draw = plan.task, text_of(plan.task), generators(0)
    model = model_of(task, 16, 2, 0)
    masks = Masks(evaluation.prunable(model, head=False), 0.0, torch.Generator())
    optimizer = adamw(model, masks, task.lr, 0.1)
    mean = 0.0
    for t in range(plan.steps):
        windows = random_windows(text.train, task.batch, task.length, draw["windows"])
        inputs, targets = batch_of(task, windows, draw["corruption"])
        loss = gradient(model, task, inputs, targets, None)
        if not plan.course.update[t]:
            descend(model, optimizer, plan.lr(t))
        mean = float(loss) if t == 0 else 0.95 * mean + 0.05 * float(loss)
    line = Run.load(cfg.out).metrics()[-1]
    if method == "dense":
        assert line["loss"] == mean
        final = Run.load(cfg.out).final()["model"]
        assert all(final[name].equal(value) for name, value in model.state_dict().items())
    else:  # masks in another kernel of attention
        assert line["loss"] == pytest.approx(mean, rel=1e-4)


def test_rows_of_a_run(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run")
    train(cfg)
    rows, plan = rows_of(cfg), plan_of(cfg)
    value = lambda metric, **of: rows.of(metric=metric, **of).value()  # noqa: E731
    assert value("flops_of_mst") == pytest.approx(1, abs=0.01)
    assert value("body_ratio") == pytest.approx(value("body_ratio_planned"), abs=0.01)
    phases = rows.of(metric="flops_phase")
    assert len(phases) == 4 and phases.frame["value"].sum() == pytest.approx(value("flops_ratio"))
    steps, curve = rows.of(metric="nll_curve").curve()
    assert len(steps) == 3 and steps[-1] == pytest.approx(100 * value("flops_ratio"))
    assert value("density") == value("explored") == 1  # restored
    assert value("perplexity") == pytest.approx(np.exp(value("nll")))
    windows = text_of(plan.task)
    assert windows.n_bytes is not None
    assert value("bits_per_byte") == pytest.approx(
        value("nll") / np.log(2) / windows.n_bytes[windows.validation[:129]].sum() * 128, rel=0.2
    )
    assert value("nll_unrestored") != value("nll") != value("nll_sparse_attention")
    assert value("tokens_per_weight") == 21 * 64 / (12 * 16**2)
    assert len(rows.of(metric="changed")) == plan.course.update.sum() > 5
    own = rows_of(config(tmp_path / "run")).of(metric="nll").values(1)
    assert own == rows.of(metric="nll").values(1)  # an evaluation repeats


def test_the_same_batches_and_first_weights_for_all(tmp_path: Path) -> None:
    first = {}
    for method in ("mst", "static", "lottery", "dense", "rigl"):
        cfg = config(tmp_path / method, method=method, seed=3, lr=1e-12, decay=0.0)
        train(cfg)
        final = Run.load(cfg.out).final()
        first[method] = final["model"]["transformer.wte.weight"]
    for method, weight in first.items():
        torch.testing.assert_close(weight, first["dense"], rtol=0, atol=1e-9, msg=method)
    a, b = generators(3), generators(4)
    draws = {tuple(torch.rand(3, generator=g).tolist()) for g in (*a.values(), *b.values())}
    assert len(draws) == 6


def test_a_ticket_is_rewound_and_kept(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run", method="lottery", lr=1e-12, decay=0.0)
    train(cfg)
    plan, final = plan_of(cfg), Run.load(cfg.out).final()
    assert plan.search == 2 and plan.course.sparsity[2] > plan.course.sparsity[1] == 0
    weights = evaluation.prunable(model_of(plan.task, 16, 2, 0), head=False)
    for name, bits in final["masks"]["bits"].items():
        assert weights[name].abs()[bits].min() >= weights[name].abs()[~bits].max() - 1e-8
        torch.testing.assert_close(
            final["model"][name], weights[name] * bits, rtol=0, atol=1e-9, msg=name
        )
    assert rows_of(cfg).of(metric="density").value() == rows_of(cfg).of(metric="explored").value()


@pytest.mark.parametrize("method", ["rigl", "set", "mg", "mst-no-restore", "static"])
def test_a_method_ends_with_its_sparsity(method: str, tmp_path: Path) -> None:
    cfg = config(tmp_path / "run", method=method)
    train(cfg)
    rows, plan = rows_of(cfg), plan_of(cfg)
    assert rows.of(metric="density").value() == pytest.approx(1 - plan.variation.end, abs=0.01)
    assert rows.of(metric="flops_of_mst").value() == pytest.approx(1, abs=0.01)
    explored = rows.of(metric="explored").value()
    assert explored > 1 - plan.variation.end + 0.02 if METHODS[method].evolve else True
    model = mst.load(cfg.out)
    assert model.density <= rows.of(metric="density").value() + 1e-9


def test_a_neuron_without_connections_never_comes_back(tmp_path: Path) -> None:
    """Restored connections begin at 0: in and out of a dead neuron both have gradient 0."""
    cfg = config(tmp_path / "run", method="dense")
    plan = plan_of(cfg)
    model, text = model_of(plan.task, 16, 2, 0), text_of(plan.task)
    into, out = (getattr(model.transformer.h[0].mlp, n).weight for n in ("c_fc", "c_proj"))
    with torch.no_grad():
        into[:, 5], out[5], out[6] = 0, 0, 0  # 6 has lost what goes out alone
    windows = torch.from_numpy(text.train[: 17 * 4].astype(np.int64)).view(4, 17)
    gradient(model, plan.task, windows[:, :-1], windows[:, 1:], None)
    assert (into.grad[:, 5] == 0).all() and (out.grad[5] == 0).all()
    assert (out.grad[6] != 0).any() and (into.grad[:, 7] != 0).any()


def test_a_model_learns_an_easy_text(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run", steps=150, every=9, batch=8, lr=1e-2, evaluations=2)
    train(cfg)
    rows = rows_of(cfg)
    assert rows.of(metric="nll").value() < 0.7 * np.log(300)


def test_bert_hides_a_share_of_its_tokens() -> None:
    task = replace(TASKS["bert-tiny"], length=64)
    windows = torch.randint(300, (2000, 65), generator=torch.Generator().manual_seed(0))
    inputs, targets = batch_of(task, windows, torch.Generator().manual_seed(1))
    hidden = targets != IGNORED
    assert hidden.float().mean() == pytest.approx(0.15, abs=0.005)
    assert targets[hidden].equal(windows[:, :-1][hidden])
    assert inputs[~hidden].equal(windows[:, :-1][~hidden])
    masked = inputs[hidden] == task.mask_id
    assert masked.float().mean() == pytest.approx(0.8, abs=0.01)
    left = inputs[hidden] == targets[hidden]
    assert left.float().mean() == pytest.approx(0.1, abs=0.01)
    again, _ = batch_of(task, windows, torch.Generator().manual_seed(1))
    assert again.equal(inputs)


def test_micro_batches_sum_to_the_batch() -> None:
    for name in ("gpt2-tiny", "bert-tiny"):
        task = TASKS[name]
        windows = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(0))
        inputs, targets = batch_of(task, windows, torch.Generator().manual_seed(1))
        found = []
        for micro in (1, 4):
            model = model_of(task, 16, 2, 0).double()
            loss = gradient(model, replace(task, micro=micro), inputs, targets, None)
            found.append((loss, [p.grad for p in model.parameters() if p.grad is not None]))
        torch.testing.assert_close(*found)


@pytest.mark.parametrize(("method", "task"), [("mst", "gpt2-tiny"), ("lottery", "bert-tiny")])
def test_a_gpu_has_the_cpus_rows(method: str, task: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, method=method, task=task, lr=1e-4)
    same_on_both(training, evaluation, cfg, tmp_path)


def test_half_precision_is_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        monkeypatch.setitem(TASKS, "gpt2-tiny", replace(TASKS["gpt2-tiny"], precision=precision))
        cfg = config(tmp_path / precision, method="rigl")
        train(cfg)
        found.append(rows_of(cfg).of(metric="nll").value())
    assert found[0] == pytest.approx(found[1], rel=0.02) and found[0] != found[1]


# -- use and misuse -------------------------------------------------------------------------------


def test_a_model_can_be_loaded(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run", steps=60, every=3, lr=1e-2)
    train(cfg)
    model = mst.load(cfg.out)
    dead = rows_of(cfg).of(metric="dead").value()
    assert model.density == pytest.approx(1 - dead, abs=1e-6) and 0 < dead < 0.3
    text = tasks.CORPORA["library"]().documents[0].text
    assert model.score(text[:200]) < 0.8 * np.log(300)
    assert model.score(text[:200]) + 1 < model.score("@@##$$ \x00 ÿ zz")
    assert model.score(text[:12]) > 0
    more = model.complete(text[:20], 5)
    assert more.startswith(text[:20]) and more == model.complete(text[:20], 5)
    assert model.complete(text[:20], 9, seed=1) != model.complete(text[:20], 9, seed=2)
    for bad, words in (("", "two tokens"), ("a", "two tokens")):
        with pytest.raises(UserError, match=words):
            model.score(bad)
    with pytest.raises(UserError, match="one token"):
        model.complete("")
    with pytest.raises(UserError, match="no run directory"):
        mst.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "riggl"}, "did you mean rigl"),
        ({"task": "gpt3"}, "unknown task"),
        ({"peak": 1.0}, "a sparsity in"),
        ({"restore": 0.05}, "the phases want"),
        ({"zeta": 1.5}, "share of the connections"),
        ({"steps": 0}, "1 or more"),
        ({"batch": 6}, "no multiple"),
        ({"evaluations": 50}, "--evaluations"),
        ({"windows": 0}, "--windows"),
        ({"every": 25}, "none would end the restoration"),
        (
            {"method": "lottery", "every": 20, **dict.fromkeys(("start", "peak", "end"), 0.9999)},
            "no sparsity of",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        plan_of(config(tmp_path, **changes))


def test_numbers_of_the_public_code_are_the_papers_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real sizes
    task = task_of(Config(task="gpt2-small"))
    assert (task.layers, task.width, task.heads, task.length) == (12, 768, 12, 1024)
    assert task.vocabulary == 50304 and task.batch * task.length == 491_520
    assert (task.steps, task.every, task.stride, task.lr) == (600_000, 100, 128, 6e-4)
    assert task.mask_head and task.warm_up * task.steps == pytest.approx(2000)
