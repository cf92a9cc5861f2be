"""Runs: stages that build on each other, resuming, rows, devices, public mixtures, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.hc_smoe as hc_smoe
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from common.textlab import evaluate as judging
from papers.hc_smoe import eval as evaluation
from papers.hc_smoe import pretrain, subjects, task, train
from papers.hc_smoe.config import Config, TrainingConfig
from papers.hc_smoe.diagnosis import block_outputs, foretold, layer_error, pair_damage
from papers.hc_smoe.layers import Reduced, blocks_of, install, routing_of
from papers.hc_smoe.method import merge
from papers.hc_smoe.methods import METHODS
from papers.hc_smoe.pretrain import balance_loss, balance_of
from papers.hc_smoe.reduction import reduced
from papers.hc_smoe.subjects import Subject, subject_of
from papers.hc_smoe.upcycle import upcycle
from tests.fake_cuda import same_on_both
from tests.papers.hc_smoe import stand_in

torch.set_num_threads(1)
MERGED = [name for name in METHODS if METHODS[name].kind != "training"]


def config(scale: Path, method: str = "hc-avg", kind: str = "qwen", **changes: Any) -> Config:
    out = scale / "train" / kind / method / "seed-0"
    return Config(**{"method": method, "task": kind, "out": out, **stand_in.MERGING, **changes})


def rows_of(out: Path) -> Rows:
    evaluation.evaluate(evaluation.EvalConfig(run=out))
    return Rows(json.loads((out / "eval.json").read_text(encoding="utf-8"))["rows"])


def subject(scale: Path, kind: str = "qwen", **changes: Any) -> Subject:
    return subject_of(config(scale, kind=kind, **changes), 0, torch.device("cpu"))


# -- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "qwen", "mixtral-scratch"])
def test_training_goes_on_where_it_was(kind: str, earlier: Path, whole_and_cut: Any) -> None:
    method = "dense" if kind == "dense" else "moe"
    dense = earlier / "dense" / "dense" / "dense" / "seed-0"
    cfg = TrainingConfig(method=method, task=kind, dense=dense, **stand_in.TRAINING)
    whole, cut = whole_and_cut(pretrain.train, cfg, 2)
    assert whole["model"] and "optimizer" not in whole
    assert all(torch.equal(t, cut["model"][name]) for name, t in whole["model"].items())


def test_from_scratch_takes_both_stages_steps(earlier: Path) -> None:
    steps = {
        kind: rows_of(earlier / "moe" / kind / "moe" / "seed-0").of(metric="loss_curve").curve()[0]
        for kind in task.FAMILIES
    }
    assert {kind: int(s[-1]) for kind, s in steps.items()} == {
        **{"mixtral": 4, "qwen": 4},
        "mixtral-scratch": 8,
    }


def test_upcycling() -> None:
    """Mixtral's experts are the dense network with noise; Qwen's share its first neurons."""
    sizes: dict[str, Any] = {**stand_in.TRAINING, "experts": 5}
    dense = task.network(TrainingConfig(method="dense", task="dense", **sizes))
    inputs = torch.randint(300, (2, 10), generator=torch.Generator().manual_seed(0))
    made = task.network(TrainingConfig(task="mixtral", **sizes))
    upcycle(dense, made, noise=0.0, redraw=0.5, seed=0)
    wanted = dense(input_ids=inputs).logits
    torch.testing.assert_close(made(input_ids=inputs).logits, wanted, rtol=1e-4, atol=1e-5)
    upcycle(dense, made, noise=0.02, redraw=0.5, seed=0)
    ffn, experts = dense.model.layers[0].mlp, blocks_of(made)[0].experts
    off = (experts.down_proj - ffn.down_proj.weight).detach()
    assert float(off.std() / ffn.down_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert (off[0] - off[1]).abs().max() > 0

    made = task.network(TrainingConfig(task="qwen", **sizes))
    upcycle(dense, made, noise=0.02, redraw=0.25, seed=0)
    block = blocks_of(made)[1]
    ffn = dense.model.layers[1].mlp
    assert torch.equal(block.shared_expert.up_proj.weight, ffn.up_proj.weight)
    up = block.experts.gate_up_proj[:, 16:]  # [n, ff, D]
    same = (up == ffn.up_proj.weight[:16]).all(-1)
    assert same.sum(1).tolist() == [12] * 5 and same.float().mean(0).max() < 1.01
    assert len({tuple(row) for row in same.tolist()}) > 1
    down = block.experts.down_proj
    assert torch.equal((down == ffn.down_proj.weight[:, :16]).all(1), same)


def test_balance_is_of_each_layer() -> None:
    """Two layers that overuse different experts: pooled, as in the library, nothing is seen."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    first, second = torch.zeros(40, 4), torch.zeros(40, 4)
    first[:, :2], second[:, 2:] = 5.0, 5.0
    config = type("Config", (), {"num_experts_per_tok": 2})
    model: Any = type("Model", (), {"config": config})
    assert float(balance_loss(first, 2)) == pytest.approx(2.0, abs=0.05)
    assert float(balance_of(model, (first, second))) == pytest.approx(2.0, abs=0.05)
    pooled = load_balancing_loss_func((first, second), 4, 2)
    assert float(pooled) == pytest.approx(2.0, abs=0.01)  # the library's even value: k
    even = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert float(balance_loss(even, 2)) == pytest.approx(1.0, abs=1e-3)


# -- merging --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hc-avg", "kmeans", "oprune"])
def test_merging_goes_on_where_it_was(method: str, earlier: Path, whole_and_cut: Any) -> None:
    cfg = config(earlier, method, trained=earlier / "moe" / "qwen" / "moe", items=5)
    whole, cut = whole_and_cut(train.train, cfg, 1)
    assert whole == cut and set(whole["groups"]) == {"0/0.75", "0/0.5"}


@pytest.mark.parametrize("kind", ["qwen", "mixtral"])
def test_every_method_is_treated_alike(earlier: Path, kind: str) -> None:
    found = {}
    for method in MERGED:
        cfg = config(earlier, method, kind, items=5)
        train.train(cfg)
        found[method] = rows_of(cfg.out)
    whole = found.pop("original").of(metric="nll", kept=1.0).value()
    for method, rows in found.items():
        for kept in (0.75, 0.5):
            of = rows.of(kept=kept)
            assert abs(of.of(metric="nll").value() - whole) < 0.5, method
            assert of.of(metric="left").value() == pytest.approx(kept), method
            assert of.of(metric="evaluations").value() <= 4, method
            assert of.of(metric="error").value() > 0, method
            assert bool(of.of(metric="accuracy")) is (kept == 0.75), method
    labels = Run.load(config(earlier, "hc-avg", kind).out).final()["groups"]
    assert [max(own) + 1 for own in labels["0/0.75"]] == [3, 3]
    kept = Run.load(config(earlier, "oprune", kind).out).final()["groups"]
    assert [len(own) for own in kept["0/0.5"]] == [2, 2]
    losses = {m: round(r.of(metric="nll", kept=0.5).value(), 9) for m, r in found.items()}
    assert losses["hc-avg"] != losses["random"] != losses["fprune"]


def test_the_whole_mixture_has_its_own_loss(earlier: Path) -> None:
    """As the library's model gives it, and no error; experts were trained apart."""
    cfg = config(earlier, "original")
    train.train(cfg)
    rows = rows_of(cfg.out)
    own = subject(earlier)
    windows = judging.window_losses(own.model, _windows(own, cfg))
    assert rows.of(metric="nll").value() == pytest.approx(float(windows.mean()))
    assert rows.of(metric="error").value() == 0 and rows.of(metric="dispersion").value() > 0
    assert rows.unique("kept") == [1.0]
    assert rows.of(metric="least_used").value() <= 1 <= rows.of(metric="most_used").value()


def _windows(own: Subject, cfg: Config) -> torch.Tensor:
    from common.textlab.tokens import fixed_windows

    return fixed_windows(task.text((), 300)["validation"].ids, 24, cfg.windows)


def test_texts_are_apart(earlier: Path) -> None:
    """Calibration is neither training nor validation text."""
    own = subject(earlier)
    parts = task.text((), 300)
    strings = {name: " ".join(map(str, of.ids.tolist())) for name, of in parts.items()}
    for row in own.calibration:
        words = " ".join(map(str, row.tolist()))
        assert [name for name, text in strings.items() if words in text] == ["test"]
    assert own.held_out.shape == (3, 24)


def test_statistics_are_computed_once(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = subject(earlier).statistics

    def never(*args: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(subjects, "visit_inputs", never)
    again = subject(earlier).statistics
    assert all(torch.equal(a.output, b.output) for a, b in zip(first, again, strict=True))
    with pytest.raises(AssertionError, match="again"):  # another text, other statistics
        _ = subject(earlier, calibration=5).statistics


def test_damage_of_a_pair_is_the_layers_error(earlier: Path) -> None:
    """Against the layer itself with the two merged."""
    own = subject(earlier, "mixtral")
    block, held, experts = blocks_of(own.model)[0], own.held[0], own.experts[0]
    usage = own.statistics[0].usage
    damage = pair_damage(experts, usage, held, *routing_of(block))
    whole = block_outputs(own.model, own.held)
    for pair, labels in (((0, 1), [0, 0, 1, 2]), ((1, 3), [0, 1, 2, 1])):
        layers = [Reduced(merge(e, labels, usage), labels) for e in own.experts]
        with install(own.model, layers):
            parts = zip(block_outputs(own.model, own.held), whole, strict=True)
            errors = [float((a - b).square().sum()) for a, b in parts]
            shares = [e / float(y.square().sum()) for e, y in zip(errors, whole, strict=True)]
            assert layer_error(own.model, own.held, whole) == pytest.approx(np.mean(shares))
        assert damage[pair] == pytest.approx(errors[0], rel=1e-3)
    assert np.array_equal(damage, damage.T)
    found = foretold(experts, own.statistics[0], held, *routing_of(block))
    assert set(found) >= {"foretells_output", "foretells_usage", "agrees_tokens"}
    assert all(-1 <= value <= 1 for value in found.values())


# -- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "mixtral"])
def test_a_gpu_trains_as_the_cpu(kind: str, earlier: Path, tmp_path: Path) -> None:
    method = "dense" if kind == "dense" else "moe"
    dense = earlier / "dense" / "dense" / "dense" / "seed-0"
    cfg = TrainingConfig(method=method, task=kind, dense=dense, **stand_in.TRAINING)
    same_on_both(pretrain, evaluation, cfg, tmp_path)


@pytest.mark.parametrize("method", ["hc-avg", "hc-fixdom", "hc-zip", "msmoe", "oprune", "original"])
def test_a_gpu_has_the_cpus_rows(method: str, earlier: Path, tmp_path: Path) -> None:
    cfg = config(earlier, method, trained=earlier / "moe" / "qwen" / "moe", items=3)
    same_on_both(train, evaluation, cfg, tmp_path)


# -- public mixtures ------------------------------------------------------------------------------


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins of the public mixtures, C4 and the harness."""
    monkeypatch.setenv("PAPERS_DATA", str(stand_in.c4(tmp_path / "data")))
    monkeypatch.setattr(judging, "harness", stand_in.harness)
    return tmp_path


@pytest.mark.parametrize(("name", "kind"), [("mixtral-8x7b", "mixtral"), ("qwen1.5-moe", "qwen")])
def test_a_public_mixture(public: Path, name: str, kind: str) -> None:
    folder = stand_in.public_mixture(public / "model", kind)
    losses = {}
    for method in ("original", "hc-avg", "fprune"):
        cfg = config(public, method, name, model=str(folder))
        train.train(cfg)
        rows = rows_of(cfg.out)
        losses[method] = rows.of(metric="accuracy", kept=1.0 if method == "original" else 0.5)
        assert len([m for m in rows.unique("metric") if m.startswith("accuracy_")]) == 8
    values = {m: r.value() for m, r in losses.items()}
    assert len(set(values.values())) == 3


def test_weights_in_half_precision(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: every method takes bfloat16 and gives it back."""
    read = subjects.public.model
    half = {"dtype": torch.bfloat16}
    monkeypatch.setattr(subjects.public, "model", lambda kind, name, **_: read(kind, name, **half))
    folder = stand_in.public_mixture(public / "model", "qwen")
    cfg = config(public, kind="qwen1.5-moe", model=str(folder))
    own = subject_of(cfg, 0, torch.device("cpu"))
    for method in MERGED:
        layers = reduced(METHODS[method], own, 0.5, 5, np.random.default_rng(0))
        with install(own.model, layers):
            assert own.model(input_ids=own.calibration).logits.dtype == torch.bfloat16
            assert all(
                block.experts.down_proj.dtype == torch.bfloat16 for block in blocks_of(own.model)
            )


def test_what_a_public_mixture_needs(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nor to be had.*hf download"):
        train.train(config(public, task="qwen1.5-moe", model=str(public / "nowhere")))
    folder = stand_in.public_mixture(public / "model", "qwen")
    cfg = config(public, "hc-avg", "qwen1.5-moe", model=str(folder), calibration=100_000)
    with pytest.raises(UserError, match="calibration text has .* tokens"):
        train.train(cfg)


# -- use, and what is refused ---------------------------------------------------------------------


def test_a_mixture_can_be_loaded(earlier: Path) -> None:
    for method in ("hc-avg", "fprune", "original"):
        train.train(config(earlier, method))
    one = hc_smoe.load(config(earlier).out, seed=0, kept=0.5)
    assert [max(labels) + 1 for labels in one.groups] == [2, 2]
    text = "w1 w2 w3 w1"
    value = one.score(text)
    assert value < 0 and value == one.score(text)  # it stays merged
    others = [hc_smoe.load(config(earlier, m).out).score(text) for m in ("fprune", "original")]
    assert len({value, *others}) == 3
    for wrong in ("w", "w1 " * 100):
        with pytest.raises(UserError, match="a text has 2 to 25 tokens"):
            one.score(wrong[:1] if wrong == "w" else wrong)
    with pytest.raises(UserError, match="keeps .* not 0.3"):
        hc_smoe.load(config(earlier).out, kept=0.3)
    with pytest.raises(UserError, match="has the seeds"):
        hc_smoe.load(config(earlier).out, seed=9)
    with pytest.raises(UserError, match="nothing is merged"):
        hc_smoe.load(earlier / "moe" / "qwen" / "moe" / "seed-0")


def test_what_is_refused(earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean"):
        train.train(config(earlier, "hc-avgg"))
    with pytest.raises(UserError, match="task 'mixtrall'"):
        train.train(config(earlier, kind="mixtrall"))
    with pytest.raises(UserError, match="no way to merge"):
        train.train(config(earlier, "dense"))
    with pytest.raises(UserError, match=r"--kept is a share .* not 1.5"):
        train.train(config(earlier, kept=(1.5,)))
    with pytest.raises(UserError, match="no trained mixture.*--task qwen --seed 3"):
        train.train(config(earlier, seed=(3,)))
    with pytest.raises(UserError, match="holds qwen, seed 0; not mixtral"):
        train.train(config(earlier, kind="mixtral", trained=earlier / "moe" / "qwen" / "moe"))
    cfg = TrainingConfig(out=tmp_path / "x", **stand_in.TRAINING)
    with pytest.raises(UserError, match="goes with --task dense"):
        pretrain.train(replace(cfg, method="dense"))
    with pytest.raises(UserError, match="is not trained"):
        pretrain.train(replace(cfg, method="hc-avg"))
    with pytest.raises(UserError, match="no dense model in .*--seed 0"):
        pretrain.train(cfg)
    dense = earlier / "dense" / "dense" / "dense" / "seed-0"
    with pytest.raises(UserError, match="has width 16, this run 32"):
        pretrain.train(replace(cfg, out=tmp_path / "y", dense=dense, width=32))
    with pytest.raises(UserError, match="no fused experts"):
        blocks_of(task.network(replace(cfg, method="dense", task="dense")))


def test_places_with_and_without_a_grid(tmp_path: Path) -> None:
    scale = tmp_path / "scale"
    (scale / "moe" / "qwen" / "moe").mkdir(parents=True)
    for out in ("train/qwen/hc-avg/seed-0-4", "train/qwen/hc-avg/calibration=8/seed-0-4"):
        cfg = Config(task="qwen", out=scale / out)
        assert task.trained_folder(cfg, 3) == scale / "moe/qwen/moe/seed-3"
