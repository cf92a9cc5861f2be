"""Runs of the three stages: resumed, evaluated, loaded, refused; scales on stand-ins; a GPU."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.disf as disf
from common.errors import UserError
from common.rows import Rows
from common.textlab import public
from papers.disf import checks, features, geometry, pool, published, shards, source, train
from papers.disf import eval as evaluation
from papers.disf.config import CheckConfig, Config, GeometryConfig
from papers.disf.method import Ask, Files
from papers.disf.methods import METHODS
from papers.disf.task import TASKS, model_of
from tests.fake_cuda import fake_cuda, same_on_both
from tests.papers import kit
from tests.papers.disf import stand_in

WATCHED = {"evaluations": 3, "watched": 2}


def rows_of(run: Any, cfg: Any) -> Rows:
    run(cfg)
    evaluation.evaluate(evaluation.EvalConfig(run=cfg.out))
    return Rows(json.loads((cfg.out / "eval.json").read_text())["rows"])


# -- the pool --------------------------------------------------------------------------------------


def test_pieces_are_the_file() -> None:
    text = "".join(f"line {i} of a file\n" + "\n" * (i % 9 == 8) for i in range(200))
    parts = list(pool.pieces(text))
    assert "".join(parts) == text
    assert all(pool.SIZE <= len(part) <= pool.LONGEST for part in parts[:-1])
    assert list(pool.pieces("\n\n")) == []
    assert max(map(len, pool.pieces("x" * 5000))) <= pool.LONGEST


def test_the_pool_has_no_copies_and_nothing_of_the_evaluation(small: None) -> None:
    there = pool.pool(96, False)
    assert len(there.documents) == len(set(there.texts)) == 96
    paths = [d.path.split("#")[0] for d in there.documents]
    assert all(pool.corpus.part_of(path) == "train" for path in paths)
    assert set(there.held_out) == set(stand_in.DOMAINS) >= set(there.domains.tolist())
    copied = there.held_out["test"].split()[:40]
    again = [pool.Document("x", "test", " ".join(copied)), *there.documents[:3]]
    asked = [pool.Document("", "test", there.held_out["test"])]
    assert len(pool.corpus.without_copies(again, asked)) == 3
    with pytest.raises(UserError, match="ask for fewer --files"):
        pool.pool(10_000, False)


def test_domains_of_packages() -> None:
    assert pool.domain_of("standard library", "xml/dom.py", "markup") == "network"
    assert pool.domain_of("numpy", "linalg/tests/test_a.py", "numpy") == "test"
    assert pool.domain_of("numpy", "core/a.pyi", "numpy") == "stubs"
    assert pool.domain_of("torch", "nn/a.py", "torch") == "torch"


def test_packed_text_is_the_chosen_files(small: None) -> None:
    there = source.source_of(TASKS["library"], "cpu")
    assert isinstance(there, source.Library)
    chosen = np.array([3, 40, 77])
    ids = there.packed(chosen, 0, 10**6)
    texts = there.held_out.tokenizer.decode(ids)
    assert all(pool.pool(96, False).texts[i].split()[3] in texts for i in chosen)
    starts = np.append(0, there.ends)
    assert len(ids) == sum(starts[i + 1] - starts[i] for i in chosen)
    assert len(there.packed(np.arange(96), 0, 50)) < 50 + max(np.diff(starts))
    windows = there.windows(2)
    assert all(w.shape == (2, 17) for w in windows.values())
    assert 0 < there.bytes_of(windows["core"]) < 2 * 16 * 10


def test_every_epoch_reads_every_window_once() -> None:
    ids = np.arange(101, dtype=np.uint16)  # ten windows of 10
    found = train.window_at(ids, np.arange(25), 10, 0)
    firsts = found[:, 0].tolist()
    assert sorted(firsts[:10]) == sorted(firsts[10:20]) == list(range(0, 100, 10))
    assert firsts[:10] != firsts[10:20]
    assert (found[:, -1] == found[:, 0] + 10).all()
    assert torch.equal(train.window_at(ids, np.arange(7, 13), 10, 0), found[7:13])


def test_micro_batches_have_the_gradient_of_the_batch(small: None) -> None:
    task, model = TASKS["library"], model_of(TASKS["library"], 0)
    windows = torch.randint(0, 280, (4, 17), generator=torch.Generator().manual_seed(0))
    grads = []
    for micro in (1, 4):
        train.backward(model, windows, replace(task, micro=micro), torch.device("cpu"))
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_features_are_kept_and_shared(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pool.pool(96, False).texts
    first = features.of_texts("minilm", texts, 12, "cpu")
    assert first.shape == (96, 8) and np.ptp(np.linalg.norm(first, axis=1)) > 0  # not normalised
    alone = features.encoded("minilm", texts[40:41], 12, "cpu")
    np.testing.assert_allclose(first[40:41], alone, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(features, "encoded", None)
    np.testing.assert_array_equal(features.of_texts("minilm", texts, 12, "cpu"), first)
    hashed = features.of_texts("hashed", texts, 12, "cpu")
    assert hashed.shape == (96, features.HASHED)


# -- runs ------------------------------------------------------------------------------------------


def test_a_killed_run_ends_with_the_same_numbers(small: None, whole_and_cut: Any) -> None:
    whole, cut = whole_and_cut(train.train, Config(method="uniform", **WATCHED), 2)
    assert np.array_equal(whole["chosen"], cut["chosen"])
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, cut["model"][name]), name


def test_rows_of_training(small: None, tmp_path: Path) -> None:
    rows = {
        name: rows_of(train.train, Config(method=name, out=tmp_path / name, **WATCHED))
        for name in ("disf", "full", "untrained")
    }
    ours = rows["disf"]
    assert ours.of(metric="files").value() == 24 and rows["full"].of(metric="files").value() == 96
    by_domain = [ours.of(metric="nll", domain=d).value() for d in stand_in.DOMAINS]
    assert ours.of(metric="macro").value() == pytest.approx(np.mean(by_domain))
    assert ours.of(metric="on_target").value() == pytest.approx(by_domain[2])
    assert ours.of(metric="off_target").value() == pytest.approx(np.mean(by_domain[:2]))
    epochs = 6 * 4 * 16 / ours.of(metric="unique_tokens").value()
    assert ours.of(metric="epochs").value() == pytest.approx(epochs)
    steps, curve = ours.of(metric="curve").curve()
    assert steps.tolist() == [0, 128, 256, 384] and curve[0, -1] < curve[0, 0]
    # the same first weights for all
    starts = {name: found.of(metric="curve").curve()[1][0, 0] for name, found in rows.items()}
    assert starts["disf"] == starts["full"] == starts["untrained"]
    assert not rows["untrained"].of(metric="epochs")
    assert ours.of(metric="macro").value() < rows["untrained"].of(metric="macro").value()


def test_a_model_can_be_used(small: None, tmp_path: Path) -> None:
    cfg = Config(out=tmp_path / "run", **WATCHED)
    train.train(cfg)
    found = disf.load(cfg.out)
    texts = pool.pool(96, False).texts
    assert found.select(texts) == found.chosen.tolist()  # the same method on the same files
    assert len(found.select(texts[:30])) == 6 + 2
    assert 1 < found.perplexity(texts[0]) < 1e4
    with pytest.raises(UserError, match="two texts"):
        found.select(["one"])
    with pytest.raises(UserError, match="two tokens"):
        found.perplexity("")
    geometry.geometry(GeometryConfig(out=tmp_path / "g", sample=12))
    with pytest.raises(UserError, match="has no model"):
        disf.load(tmp_path / "g")


def test_rows_of_geometry(small: None, tmp_path: Path, whole_and_cut: Any) -> None:
    cfg = GeometryConfig(seed=(3, 4), sample=16)
    whole_and_cut(geometry.geometry, cfg, 1)
    evaluation.evaluate(evaluation.EvalConfig(run=tmp_path / "whole"))
    rows = Rows(json.loads((tmp_path / "whole" / "eval.json").read_text())["rows"])
    assert rows.unique("seed") == [3, 4]
    ranks, scores = rows.of(metric="dominance").curve()
    assert ranks.tolist() == list(range(10, 101, 10)) and (np.diff(scores) >= -1e-9).all()
    mean = rows.of(metric="mean_dominance").values()
    assert mean == pytest.approx(scores.mean(1), rel=1e-5)
    shares = [rows.of(metric="share", seed=3, domain=d).value() for d in stand_in.DOMAINS]
    assert sum(shares) == pytest.approx(1)


def test_near_copies() -> None:
    X = torch.tensor([[1.0, 0.0], [2.0, 0.01], [0.0, 1.0], [1.0, 1.0]])
    assert geometry.near_copies(X) == 0.5


@pytest.mark.parametrize("method", ["disf", "uniform"])
def test_rows_of_pools(tmp_path: Path, method: str) -> None:
    cfg = CheckConfig(method=method, out=tmp_path / "run", seed=(0, 1, 2), starts=8)
    rows = rows_of(checks.check, cfg)
    J = {k: rows.of(metric=f"J_{k}").values() for k in ("mean", "best", "random", "optimum")}
    assert (J["optimum"] - 1e-9 <= J["best"]).all() and (J["best"] <= J["mean"]).all()
    assert bool(J["mean"].mean() < 0.6 * J["random"].mean()) is (method == "disf")
    # single files may all be worse than none where several are better: no gamma above 0 holds
    assert rows.of(metric="ratio").values().min() < 0


def test_rows_of_time(tmp_path: Path) -> None:
    cfg = CheckConfig(task="timing", out=tmp_path / "run", batch=20, picks=4, width=6)
    rows = rows_of(checks.check, cfg)
    assert rows.of(metric="same").value() == 1
    assert rows.of(metric="seconds_ratio").value() > 0


# -- anywhere --------------------------------------------------------------------------------------


def fake_ray() -> types.ModuleType:
    """Ray's calls, in this process; tasks end in any order."""
    module = types.ModuleType("ray")
    calls: dict[str, Any] = {
        "is_initialized": lambda: False,
        "init": lambda **_: None,
        "remote": lambda **_: lambda task: types.SimpleNamespace(remote=lambda n: (task, n)),
        "get": lambda handles: [task(n) for task, n in handles],
    }
    module.__dict__.update(calls)
    return module


def fake_spark() -> types.ModuleType:
    """Spark's calls; partitions come back in another order."""

    class Data:
        def __init__(self, items: list[Any]) -> None:
            self.items = items

        def map(self, function: Any) -> Data:
            return Data([function(item) for item in self.items[::-1]])

        def collect(self) -> list[Any]:
            return self.items

    context = types.SimpleNamespace(parallelize=lambda items, n: Data(list(items)))
    module = types.ModuleType("pyspark")
    module.__dict__["SparkContext"] = types.SimpleNamespace(getOrCreate=lambda: context)
    return module


def test_the_selection_is_the_same_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", fake_ray())
    monkeypatch.setitem(sys.modules, "pyspark", fake_spark())
    X = np.random.default_rng(0).standard_normal((90, 5)).astype(np.float32)
    files = Files(X, [""] * 90, np.array(["a"] * 90), groups=(30, 42, 90))
    ask = Ask(10, 3, 1)
    for name in ("disf", "uniform", "kcenter"):
        how = METHODS[name].select
        whole = how(files, ask)
        for engine, workers in (("here", 1), ("threads", 2), ("threads", 7), ("ray", 2),
                                ("pyspark", 3)):  # fmt: skip
            found = shards.select(files, how, ask, engine=engine, workers=workers)
            assert found.tobytes() == whole.tobytes(), engine
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(UserError, match="pip install pyspark"):
        shards.select(files, METHODS["disf"].select, ask, engine="pyspark")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (Config, {"method": "dsif"}, "did you mean dsir or disf"),
        (Config, {"task": "libary"}, "did you mean library"),
        (Config, {"order": "crawled"}, "did you mean crawl"),
        (Config, {"features": "mini"}, "did you mean minilm"),
        (Config, {"engine": "rai"}, "did you mean ray"),
        (Config, {"batch": 0}, "--batch is 1 or more"),
        (Config, {"picks": 30}, "more than --batch"),
        (Config, {"evaluations": 0}, "--evaluations is 1 to"),
        (Config, {"lr": -1.0, "evaluations": 2}, "above 0"),
        (Config, {"task": "normals"}, "belongs to papers.disf.checks"),
        (
            Config,
            {"method": "dsir", "target": "tests", "evaluations": 2},
            "choose --target among: core, network",
        ),
        (GeometryConfig, {"sample": 2}, "--sample is 3 or more"),
        (CheckConfig, {"task": "library"}, "belongs to papers.disf.geometry"),
        (CheckConfig, {"batch": 40}, "16 at most"),
    ],
)
def test_bad_configurations_are_refused(
    small: None, tmp_path: Path, kind: Any, changes: dict[str, Any], words: str
) -> None:
    run = {Config: train.train, GeometryConfig: geometry.geometry, CheckConfig: checks.check}[kind]
    with pytest.raises(UserError, match=words) as found:
        run(kind(out=tmp_path / "run", **changes))
    assert "\n" not in str(found.value)


# -- the paper's files -----------------------------------------------------------------------------


@pytest.fixture
def paper(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny SlimPajama, Contriever and tokenizer where they are looked for."""
    root = tmp_path / "data"
    stand_in.slimpajama(root)
    stand_in.encoder(root / features.CONTRIEVER)
    stand_in.tokenizer(root / published.TOKENIZER)
    monkeypatch.setenv("PAPERS_DATA", str(root))
    features.loaded.cache_clear()
    changes = {**stand_in.TASK, "files": 50, "target": "core", "batch": 8, "picks": 2}
    for name in ("tinyllama-120m", "tinyllama-560m", "tinyllama-1.1b"):
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], **changes))
    monkeypatch.setattr(
        "common.textlab.evaluate.harness", lambda model, tokenizer, tasks: dict.fromkeys(tasks, 0.5)
    )
    return root


def read_lines(name: str) -> Any:
    """What ``published.rows`` gives, without the library."""
    return (json.loads(line) for line in Path(name).read_text().splitlines())


def test_slimpajama_by_datasets(paper: Path) -> None:
    name = public.parts(published.NAME, "train/**/*.jsonl*")[1]
    assert list(published.rows(name)) == list(read_lines(name))


def test_slimpajama_is_selected_from(paper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "rows", read_lines)
    there = published.source(TASKS["tinyllama-120m"], "cpu")
    files = there.files
    assert files.groups == (20, 40, 60) and len(files) == 60
    assert files.features[20:40].shape == (20, 8)
    some = np.array([3, 19, 20, 59])
    whole = np.concatenate([files.features[a:b] for a, b in files.spans])
    np.testing.assert_array_equal(files.features[some], whole[some])
    texts = list(files.texts)
    alone = features.encoded("contriever", texts[20:40], 12, "cpu")
    np.testing.assert_allclose(files.features[20:40], alone, rtol=1e-5)
    ask = Ask(8, 2, 0, target="core")
    for name in ("disf", "uniform", "dsir"):
        assert len(METHODS[name].select(files, ask)) == 15, name  # 2 + 2 + 1 of each group
    with pytest.raises(UserError, match="all files at once"):
        METHODS["d4"].select(files, ask)
    ids = there.packed(np.array([1, 25, 59]), 0, 10**6)
    said = there.tokenizer.decode(ids)
    assert all(texts[i].split()[4] in said for i in (1, 25, 59)) and said.count("</s>") == 3
    assert np.array_equal(there.packed(np.array([1, 25, 59]), 0, 10**6), ids)
    assert set(there.windows(2)) == set(stand_in.DOMAINS)
    small = published.source(replace(TASKS["tinyllama-120m"], files=15), "cpu")
    assert len(small.files) == 20


def test_what_cannot_be_had(paper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the tokenizer has 21 tokens"):
        published.source(replace(TASKS["tinyllama-120m"], vocabulary=20), "cpu")
    for path in (paper / published.NAME / "train").rglob("*.jsonl"):
        path.unlink()
    with pytest.raises(UserError, match=r"holds no file train/"):
        published.source(TASKS["tinyllama-120m"], "cpu")


# -- scales ----------------------------------------------------------------------------------------


def tiny(job: Any) -> list[str] | None:
    if job.module == "checks":
        small = {"starts": 3} if job.task == "normals" else {"width": 5}
        return stand_in.flags(small)
    if job.module == "geometry":
        own = {"sample": 12}
        if any(word.startswith("batch") for word in job.grid):
            own |= {"batch": 8 if "64" in job.grid[0] else 48, "picks": 4}
        if any(word.startswith("picks") for word in job.grid):
            own["picks"] = 3 if "8" in job.grid[0] else 9
        if "--target" in job.args and job.args[job.args.index("--target") + 1] == "core":
            return stand_in.flags(own)
        return None if "--target" in job.args else stand_in.flags(own)  # domains of the library
    return [*stand_in.flags(WATCHED), *(["--steps", "4"] if "--steps" in job.args else [])]


@pytest.mark.parametrize("scale", ["default", "study", "tuning", "gpu", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, paper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "rows", read_lines)
    found = kit.run_scale("disf", scale, tmp_path, tiny, seeds=2 if scale == "default" else 1)
    names = {figure["name"] for figure in found["figures"]}
    if scale == "default":
        assert {
            f"{f}_library" for f in ("selections", "dominance", "training", "collapse")
        } <= names
        main = found["tables"][0]
        assert main["main"] and len(main["rows"]) <= 12 and len(main["columns"]) <= 8
        assert len(found["tables"]) == 6
    if scale == "study":
        rows = Rows(found["rows"])
        assert rows.of(method="disf", metric="effective_rank").unique("order") == ["crawl"]
        assert rows.unique("features") == ["hashed"] and rows.unique("target") == ["core"]
    if scale == "tuning":
        assert len(found["tables"]) == 1 and len(found["tables"][0]["rows"]) == 6
    if scale == "paper":
        assert {c["id"] for c in found["claims"] if c["verdict"] != "needs default"} >= {"C7", "C8"}


# -- a GPU -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["disf", "full"])
def test_a_gpu_has_the_cpus_rows(small: None, tmp_path: Path, method: str) -> None:
    same_on_both(train, evaluation, Config(method=method, **WATCHED), tmp_path)


@pytest.mark.parametrize("method", ["disf", "disf-once", "facility", "kcenter", "dsir", "d4"])
def test_a_gpu_has_the_cpus_selections(small: None, tmp_path: Path, method: str) -> None:
    stage = types.SimpleNamespace(train=geometry.geometry)
    cfg = GeometryConfig(method=method, sample=12)
    same_on_both(stage, evaluation, cfg, tmp_path)  # type: ignore[arg-type]


def test_a_gpu_has_the_cpus_checks(tmp_path: Path) -> None:
    stage = types.SimpleNamespace(train=checks.check)
    for task, own in (
        ("normals", {"starts": 3}),
        ("timing", {"batch": 12, "picks": 4, "width": 5}),
    ):
        cfg = CheckConfig(task=task, **own)
        same_on_both(stage, evaluation, cfg, tmp_path / task)  # type: ignore[arg-type]


def test_a_gpu_has_the_cpus_features(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake device's tensors wrap others, which inference mode does not allow: no gradients."""
    texts = ["read write open", "node task value name", "queue"]
    expected = features.encoded("minilm", texts, 12, "cpu")
    mode, before = torch.autograd.grad_mode.inference_mode, list[bool]()

    def enter(self: Any) -> None:
        before.append(torch.is_grad_enabled())
        torch.set_grad_enabled(False)

    monkeypatch.setattr(mode, "__enter__", enter)
    monkeypatch.setattr(mode, "__exit__", lambda *_: torch.set_grad_enabled(before.pop()))
    features.loaded.cache_clear()
    with fake_cuda():
        found = features.encoded("minilm", texts, 12, "cuda")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
