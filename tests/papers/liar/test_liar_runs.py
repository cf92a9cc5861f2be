"""Runs of both stages: resumed, evaluated, loaded, refused; scales on stand-ins; a GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.liar as liar
from common.errors import UserError
from common.rows import Rows
from papers.liar import eval as evaluation
from papers.liar import pretrain, texts, train, work
from papers.liar.config import Config, DecoderConfig, recipe_of, settings_of
from papers.liar.methods import METHODS
from papers.liar.task import TASKS, setting_of
from tests.fake_cuda import same_on_both
from tests.papers import kit
from tests.papers.liar import stand_in

TWO = ("flap-all-50", "magnitude-ffn-50")


def config(out: Path, **changes: Any) -> Config:
    base = {**stand_in.ENCODER, "task": "minilm", "settings": TWO}
    return Config(out=out, **{**base, **changes})


def rows_of(cfg: Config) -> Rows:
    train.train(cfg)
    evaluation.evaluate(evaluation.EvalConfig(run=cfg.out))
    return Rows(json.loads((cfg.out / "eval.json").read_text())["rows"])


# -- runs ------------------------------------------------------------------------------------------


def test_a_killed_run_ends_with_the_same_numbers(small: None, whole_and_cut: Any) -> None:
    whole, cut = whole_and_cut(train.train, config(Path("unused")), 1)
    assert whole["weights"].keys() == cut["weights"].keys() and whole["weights"]
    for name, tensor in whole["weights"].items():
        assert torch.equal(tensor, cut["weights"][name]), name


def test_a_killed_decoder_ends_with_the_same_weights(small: None, whole_and_cut: Any) -> None:
    whole, cut = whole_and_cut(pretrain.train, DecoderConfig(**stand_in.DECODER), 2)
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, cut["model"][name]), name


@pytest.mark.parametrize("method", ["liar", "mask", "retrain", "dense", "untrained"])
def test_rows_of_the_encoder(small: None, tmp_path: Path, method: str) -> None:
    rows = rows_of(config(tmp_path / "run", method=method))
    first = rows.of(setting="flap-all-50")
    assert first.of(metric="tokens").value() > 0
    share = first.of(metric="parameters_share").value()
    if METHODS[method].kind in ("dense", "untrained"):
        assert share == 1 and not rows.of(metric="seconds")
        assert (first.of(metric="cosine").value() > 0.9999) is (method == "dense")
        return
    assert 0.45 < share < 0.55
    assert rows.of(setting="magnitude-ffn-50", metric="parameters_share").value() > share
    assert first.of(metric="inference").value() == 1  # its closed form, also before retraining
    if method == "liar":
        assert len(first.of(metric="alone").unique("module")) == 4
        assert len(first.of(metric="stream_errors").curve()[0]) == 4
        line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
        kept = first.of(metric="kept_accuracy").value()
        assert kept == pytest.approx(line["accuracy"] / line["dense_accuracy"])
    if method == "retrain":
        assert len(first.of(metric="retrain_loss").curve()[0]) == stand_in.ENCODER["steps"]


def test_rows_of_the_decoder(decoder: Path, tmp_path: Path) -> None:
    cfg = config(
        tmp_path / "run", task="llama", settings=("flap-ffn-50",), decoder=decoder, questions=4
    )
    rows = rows_of(cfg)
    assert rows.of(metric="lost_nll").value() > -0.1
    assert rows.of(metric="nll").value() > 0
    assert rows.of(metric="choices")


def test_every_method_prunes_the_same_and_is_asked_the_same(small: None, tmp_path: Path) -> None:
    found = {}
    for name in ("liar", "none", "bias"):
        rows = rows_of(config(tmp_path / name, method=name))
        first = rows.of(setting="flap-all-50")
        found[name] = [
            first.of(metric=m).value() for m in ("parameters", "tokens", "parameters_before")
        ]
        lines = [json.loads(x) for x in (tmp_path / name / "metrics.jsonl").open()]
        found[name] += [lines[0]["dense_mrr"], lines[0]["dense_accuracy"]]
    assert found["liar"] == found["none"] == found["bias"]


def test_labels_of_stated_settings(small: None, tmp_path: Path) -> None:
    changed = {"target": "dense", "ridge": "0.1", "texts": 8, "settings": TWO[:1]}
    rows = rows_of(config(tmp_path / "run", **changed))
    assert rows.unique("target") == ["dense"] and rows.unique("ridge") == ["0.1"]
    assert rows.unique("texts") == [8]
    own = rows_of(config(tmp_path / "own", target="local", settings=TWO[:1]))
    assert own.unique("target") == ["local"] and own.unique("ridge") == []


def test_load_embeds(small: None, tmp_path: Path) -> None:
    cfg = config(tmp_path / "run", keep="magnitude-ffn-50")
    rows = rows_of(cfg)
    model = liar.load(tmp_path / "run")
    vectors = model.embed(["read line", "close file node"])  # type: ignore[union-attr]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    parameters = rows.of(setting="magnitude-ffn-50", metric="parameters").value()
    assert model.parameters == parameters
    # the same model as the one that was measured
    unseen = texts.drawn(False, cfg.pairs, cfg.seed)
    sides = [model.embed([getattr(p, s) for p in unseen], 12) for s in ("docstring", "body")]  # type: ignore[union-attr]
    mrr = rows.of(setting="magnitude-ffn-50", metric="mrr").value()
    assert work.retrieval(*sides)["mrr"] == pytest.approx(mrr, abs=1e-6)
    with pytest.raises(UserError, match="a list of one text"):
        model.embed([])  # type: ignore[union-attr]


def test_load_of_a_decoder(decoder: Path, tmp_path: Path) -> None:
    rows_of(config(tmp_path / "run", task="llama", settings=("flap-all-50",), decoder=decoder))
    model = liar.load(tmp_path / "run")
    assert 1 < model.perplexity("read = write(1, 2)\n") < 1e6  # type: ignore[union-attr]
    with pytest.raises(UserError, match="two tokens"):
        model.perplexity("")  # type: ignore[union-attr]


def test_nothing_to_load(small: None, tmp_path: Path) -> None:
    rows_of(config(tmp_path / "run", method="dense", settings=TWO[:1]))
    with pytest.raises(UserError, match="unpruned has nothing to load"):
        liar.load(tmp_path / "run")


# -- what a run works on ---------------------------------------------------------------------------


def test_pairs_of_functions() -> None:
    text = '''
def short():
    """Too short."""
    return 1

def long(a, b):
    """Add two numbers and give the sum of them back."""
    total = a + b
    if total > 10: print(total, "is", "more", "than", 10)
    return total
'''
    (found,) = texts.functions("package/file.py", text)
    assert found.docstring.startswith("Add two") and "Add" not in found.body
    assert found.package == "package"
    assert list(texts.functions("old.py", "print 1")) == []


def test_calibration_and_evaluation_share_no_file(small: None) -> None:
    seen = {text for text, _ in texts.calibration(20, 0)}
    unseen = {t for p in texts.drawn(False, 20, 0) for t in (p.docstring, p.body)}
    by_file = {p.path: p.seen for p in stand_in.pairs()}
    assert all(by_file[p.path] is False for p in texts.drawn(False, 20, 3))
    assert len(seen) > 10 and len(unseen) > 10
    assert texts.calibration(20, 0) == texts.calibration(20, 0) != texts.calibration(20, 1)
    with pytest.raises(UserError, match="ask for fewer"):
        texts.drawn(False, 100, 0)


def test_ranks() -> None:
    queries = np.eye(3, dtype=np.float32)
    assert work.retrieval(queries, queries) == {"mrr": 1.0, "recall": 1.0}
    moved = work.retrieval(queries, queries[[1, 0, 2]] + 0.1 * queries)
    assert moved["recall"] == pytest.approx(1 / 3)
    assert moved["mrr"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    same = work.retrieval(queries, np.ones_like(queries))
    assert same == {"mrr": 0.5, "recall": 0.0}  # all equal: rank 2 of 3


def test_the_probe_is_frozen(small: None, tmp_path: Path) -> None:
    """It is learnt on seen files and on the unpruned encoder, once for all seeds."""
    from common.textlab import encoder

    model, tokenizer = encoder.load()
    first = work.frozen_probe(model, tokenizer, 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "learnt_probe", None)  # from the store
        again = work.frozen_probe(model, tokenizer, 12)
    np.testing.assert_array_equal(first.weight, again.weight)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "lair"}, "did you mean liar"),
        ({"task": "minlm"}, "did you mean minilm"),
        ({"settings": ("flap-all",)}, "CRITERION-PARTS-PERCENT"),
        ({"settings": ("flop-all-50",)}, "did you mean flap"),
        ({"settings": ("flap-al-50",)}, "did you mean all"),
        ({"settings": ("wanda-2to4-25",)}, "write wanda-2to4-50"),
        ({"settings": ("flap-weights-50",)}, "unknown criterion 'flap'"),
        ({"settings": ()}, "names none"),
        ({"settings": ("wanda-weights-50",), "method": "mask"}, "prunes no single weights"),
        ({"method": "sparsegpt"}, "prunes single weights"),
        ({"keep": "flap-heads-50"}, "none of the settings"),
        ({"texts": 0}, "--texts is 1 or more"),
        ({"target": "densed"}, "did you mean dense"),
        ({"ridge": "-1"}, "a number, 0 or more, or 'adaptive'"),
        ({"ridge": "some"}, "a number, 0 or more, or 'adaptive'"),
        ({"bias": "ad"}, "did you mean add"),
    ],
)
def test_bad_configurations_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        settings_of(config(Path("x"), **changes))


def test_a_missing_decoder_is_refused(small: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train first"):
        train.train(config(tmp_path / "s" / "train" / "llama" / "liar" / "seed-0", task="llama",
                           settings=("flap-ffn-50",)))  # fmt: skip
    with pytest.raises(UserError, match="unknown method of the decoder's stage"):
        pretrain.train(DecoderConfig(method="liar", out=tmp_path / "d"))


def test_names_of_settings() -> None:
    for task in TASKS.values():
        assert [setting_of(name).name for name in task.settings] == list(task.settings)
    assert setting_of("flap-all-50-global").everywhere
    assert recipe_of(Config(ridge="adaptive")).ridge is None


# -- scales ----------------------------------------------------------------------------------------


def tiny(job: Any) -> list[str] | None:
    if job.module == "pretrain":
        return stand_in.flags(stand_in.DECODER)
    if "texts=512" in job.grid:
        return None  # the stand-in has no more than 46
    values = {**stand_in.ENCODER}
    if "--questions" in job.args:
        values["questions"] = 4
    few = [] if "--settings" in job.args else ["--settings", "flap-all-50", "flap-ffn-50"]
    return [*stand_in.flags(values), *few]


@pytest.mark.parametrize("scale", ["default", "study", "tuning", "gpu"])
def test_every_stage_of_every_scale_on_stand_ins(scale: str, tmp_path: Path, small: None) -> None:
    found = kit.run_scale("liar", scale, tmp_path, tiny, seeds=2 if scale == "default" else 1)
    names = {figure["name"] for figure in found["figures"]}
    if scale == "default":
        assert {"kept_minilm", "errors_minilm", "kept_llama"} <= names
        assert found["tables"][0]["main"] and len(found["tables"][0]["rows"]) == 8
        assert len(found["tables"][0]["columns"]) <= 8
    if scale == "study":
        rows = Rows(found["rows"])
        assert rows.of(method="liar", metric="kept_mrr").unique("texts") == [8, 32]
        assert rows.of(method="sparsegpt", metric="nonzero_share")
    if scale == "tuning":
        assert len(found["tables"]) == 2


# -- a GPU -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def without_inference_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake device's tensors wrap others, which inference mode does not allow: no gradients."""
    if "a_gpu" not in request.node.name:
        return
    before: list[bool] = []

    def enter(self: Any) -> None:
        before.append(torch.is_grad_enabled())
        torch.set_grad_enabled(False)

    def leave(self: Any, *_: Any) -> None:
        torch.set_grad_enabled(before.pop())

    mode = torch.autograd.grad_mode.inference_mode
    monkeypatch.setattr(mode, "__enter__", enter)
    monkeypatch.setattr(mode, "__exit__", leave)


@pytest.mark.parametrize("method", ["liar", "mask", "retrain"])
def test_a_gpu_has_the_cpus_rows(small: None, tmp_path: Path, method: str) -> None:
    cfg = config(Path("x"), method=method, settings=("flap-all-50", "fisher-ffn-50"))
    same_on_both(train, evaluation, cfg, tmp_path)


@pytest.mark.parametrize("method", ["liar", "sparsegpt"])
def test_a_gpu_has_the_cpus_single_weights(small: None, tmp_path: Path, method: str) -> None:
    cfg = config(Path("x"), method=method, settings=("wanda-weights-50", "obs-2to4-50"))
    same_on_both(train, evaluation, cfg, tmp_path)


def test_a_gpu_has_the_cpus_decoder(decoder: Path, tmp_path: Path) -> None:
    cfg = config(
        Path("x"), method="liar-q", task="llama", settings=("flap-all-50",), decoder=decoder,
        questions=4,
    )  # fmt: skip
    same_on_both(train, evaluation, cfg, tmp_path)
    losses = {}
    from tests.fake_cuda import fake_cuda

    for device in ("cpu", "cuda"):
        out = replace(DecoderConfig(**stand_in.DECODER), out=tmp_path / f"d-{device}")
        if device == "cuda":
            with fake_cuda():
                pretrain.train(replace(out, device=device))
        else:
            pretrain.train(out)
        lines = (out.out / "metrics.jsonl").read_text().splitlines()
        losses[device] = [json.loads(line)["loss"] for line in lines]
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-4)
