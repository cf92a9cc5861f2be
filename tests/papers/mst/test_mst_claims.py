"""Every claim can fail and be left open; every scale runs on stand-ins; the paper's data."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.claims import INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED, NoResults
from common.errors import UserError
from common.rows import Rows
from common.textlab import public
from papers.mst import claims, report, task, zero_shot
from papers.mst.methods import METHODS
from tests.papers import kit

BASE = {**dict.fromkeys(METHODS, 2.9), "mst": 2.80, "dense": 2.78}  # every claim holds
SEEDS = 5


def world(noise: float = 0.002, scale: str = "default", **changes: float) -> Rows:
    """Rows as eval.py writes them. ``changes``: loss by method, others as ``metric__method``.

    Noise is the seed's, and the same for all but MST.
    """
    places = {"default": [("gpt2-tiny", 1200)], "gpu": [("gpt2-mid", 8000)]}
    places["study"] = [("gpt2-tiny", 500), ("gpt2-tiny", 1000), ("bert-tiny", 1000)]
    rng, rows = np.random.default_rng(0), []
    shared = rng.standard_normal(SEEDS)
    for where, T in places[scale]:
        for method, base in BASE.items():
            cost = 2.3 if method == "dense" else 1.0
            values = {"nll": base, "flops": 1e12 * cost, "flops_ratio": 0.43 * cost}
            values |= {"small_ratio": 0.2424, "body_ratio": 0.256, "body_ratio_planned": 0.256}
            for name, value in changes.items():
                metric, _, of = name.partition("__")
                if of.replace("_", "-") == method:
                    values[metric] = value
                elif not of and metric.replace("_", "-") == method:
                    values["nll"] = value
            for seed in range(SEEDS):
                row = {"task": where, "T": T, "lr": 0.003, "method": method, "seed": seed}
                for metric, value in values.items():
                    own = rng.standard_normal() if method == "mst" else 0.0
                    spread = noise * (shared[seed] + own) if metric == "nll" else 0.0
                    rows.append({**row, "metric": metric, "value": value + spread})
    return Rows(rows)


def verdicts(rows: Rows, scale: str = "default") -> dict[str, str]:
    return {name: entry["verdict"] for name, entry in kit.judged("mst", rows, scale).items()}


STUDIED = {"mst-c8", "mst-c9", "mst-c10"}


def test_claims_hold_in_a_world_where_they_do() -> None:
    for scale in ("default", "gpu"):
        found = verdicts(world(scale=scale), scale)
        assert {found.pop(name) for name in STUDIED} == {"needs study"}
        assert set(found.values()) == {REPRODUCED}
    found = verdicts(world(scale="study"), "study")
    assert {found[name] for name in STUDIED} == {REPRODUCED}
    assert {v for name, v in found.items() if name not in STUDIED} == {"needs default"}


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    def study(noise: float = 0.002, **changes: float) -> Rows:
        return world(noise, "study", **changes)

    kit.check_judges(
        "mst",
        {
            "mst-c1": (
                [world(small_ratio__mst=0.3), world(body_ratio__mst=0.27)],
                None,
            ),
            "mst-c2": ([world(static=2.7), world(lottery=2.7)], world(0.1, static=2.81)),
            "mst-c3": ([world(rigl=2.7), world(set=2.7)], world(0.1, rigl=2.8)),
            "mst-c4": (
                [world(dense_small=2.7), world(dense_short=2.7)],
                world(0.1, dense_short=2.8),
            ),
            "mst-c5": (world(mst=2.9), world(0.05, mst=2.83)),
            "mst-c6": (world(mst_no_restore=2.7), world(0.1, mst_no_restore=2.8)),
            "mst-c7": (world(mg=2.7), world(0.1, mg=2.8)),
            "mst-c8": (
                [study(mst_gradient=2.7), study(mst_random=2.7)],
                study(0.1, mst_random=2.8),
            ),
            "mst-c9": (study(mst_no_hsa=2.7), study(0.1, mst_no_hsa=2.8)),
            "mst-c10": ([study(static=2.7), study(rigl=2.7)], study(0.1, rigl=2.8)),
        },
    )


@pytest.mark.parametrize("claim", ["mst-c2", "mst-c3", "mst-c4", "mst-c6", "mst-c7"])
def test_unequal_operations_judge_nothing(claim: str) -> None:
    judged = kit.judged("mst", world(flops__mst=1.1e12))[claim]
    assert judged["verdict"] == INCONCLUSIVE and "1.10 times the operations" in judged["ours"]
    within = verdicts(world(flops__mst=1.03e12))
    assert within["mst-c4"] == REPRODUCED and within["mst-c3"] == INCONCLUSIVE


def test_where_sparsity_costs_nothing_there_is_nothing_to_be_made_good() -> None:
    judged = kit.judged("mst", world(static=2.8))["mst-c5"]
    assert judged["verdict"] == INCONCLUSIVE and "nothing to be made good" in judged["ours"]


def test_a_rival_that_is_as_good_makes_the_claim_unspecific() -> None:
    assert verdicts(world(rigl=2.79))["mst-c5"] == NOT_SPECIFIC
    assert verdicts(world(mst_no_restore=2.79))["mst-c2"] == NOT_SPECIFIC
    assert kit.judged("mst", world(dense_small=2.79))["mst-c5"]["also_met_by"] == [
        "dense, narrower"
    ]
    assert verdicts(world())["mst-c1"] == REPRODUCED  # shared: the rivals are given it


@pytest.mark.parametrize("method", METHODS)
def test_judges_take_any_method_and_say_what_is_missing(method: str) -> None:
    for claim in claims.CLAIMS:
        assert len(claim.statement.split()) <= 25
        scale = "study" if "study" in claim.only else "default"
        for rows in (world(scale=scale), Rows([])):
            try:
                assert claim.judge(rows, method).ours
            except NoResults as missing:
                assert str(missing)


# -- scales ---------------------------------------------------------------------------------------


def tiny(job: Any) -> Sequence[str]:
    T = {"500": "21", "1000": "23", "2000": "25"}  # of the study's lengths
    asked = dict(zip(job.args[::2], job.args[1::2], strict=False)).get("--steps", "")
    flags = ["--steps", T.get(asked, "21"), "--every", "2", "--evaluations", "2", "--windows", "4"]
    return [*flags, "--text", "library"] if job.scale == "smoke" else flags


@pytest.mark.parametrize("scale", ["smoke", "default", "study", "tuning", "gpu", "paper"])
@pytest.mark.usefixtures("small", "stand_ins")
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STUDY_T", 23)
    seeds = 2 if scale == "study" else 1
    if scale == "smoke":  # wiring: judged nowhere
        monkeypatch.setattr(kit, "VERDICTS", ("not judged",))
    found = kit.run_scale("mst", scale, tmp_path, tiny, seeds=seeds)
    drawn = {figure["name"] for figure in found["figures"]}
    assert drawn == (set() if scale == "tuning" else {"curves", "losses"})
    titles = " ".join(table["title"] for table in found["tables"])
    if scale == "default":
        main = next(table for table in found["tables"] if table["main"])
        assert len(main["rows"]) <= 12 and len(main["columns"]) <= 8
    assert ("by length" in titles) == (scale == "study")
    assert ("Zero-shot" in titles) == (scale == "paper")


def test_tables_and_figures_without_runs() -> None:
    assert report.figures(Rows([]), []) == {} and report.tables(Rows([])) == []


# -- the paper's text -----------------------------------------------------------------------------


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_words: list[str]) -> Path:
    """Stand-ins of what the paper's scale reads: a tokenizer's folder, JSON Lines, the harness."""
    root = tmp_path / "data"
    make_tokenizer(root / task.GPT2, small_words)
    (root / task.OPENWEBTEXT).mkdir(parents=True)
    lines = [json.dumps({"text": text}) for text in small_words]
    (root / task.OPENWEBTEXT / "train.jsonl").write_text("\n".join(lines * 20))
    for name, part, split in zero_shot.TEXTS.values():
        folder = root / name / (part or "")
        folder.mkdir(parents=True)
        field = "sentence" if "ptb" in name else "text"  # as on the hub
        own = [json.dumps({field: text}) for text in [*small_words[:9], " "]]
        (folder / f"{split}.jsonl").write_text("\n".join(own))
    monkeypatch.setenv("PAPERS_DATA", str(root))
    harness(monkeypatch)
    return root


@pytest.fixture
def small_words() -> list[str]:
    from tests.papers.mst.conftest import words

    return [words(i, 60) for i in range(120)]


def make_tokenizer(folder: Path, texts: list[str]) -> None:
    """A byte-level tokenizer of the library's fast class, saved."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(
        texts, vocab_size=290, special_tokens=["<|endoftext|>"], show_progress=False
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)


def harness(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of lm-eval that asks the model something."""

    def simple_evaluate(model: Any, tasks: list[str], **options: Any) -> Any:
        assert options["num_fewshot"] in (0, 5)
        with torch.no_grad():
            assert model[0](input_ids=torch.tensor([[1, 2]])).logits.isfinite().all()
        return {"results": {name: {"acc,none": 0.5} for name in tasks}}

    package, inner = types.ModuleType("lm_eval"), types.ModuleType("lm_eval.models.huggingface")
    package.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    inner.HFLM = lambda pretrained, tokenizer: (pretrained, tokenizer)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", package)
    monkeypatch.setitem(sys.modules, "lm_eval.models", types.ModuleType("lm_eval.models"))
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", inner)


@pytest.mark.usefixtures("small", "stand_ins")
def test_openwebtext_is_divided_and_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = task.openwebtext(16)
    tokenizer = public.tokenizer(task.GPT2)
    end = tokenizer.eos_token_id
    assert (text.train == end).sum() + (text.validation == end).sum() == 2400
    assert (text.validation == end).sum() == 2  # 0.05 %, rounded up
    first = text.train[: int(np.flatnonzero(text.train == end)[0])]
    assert len(tokenizer.decode(first.tolist()).split()) == 60
    monkeypatch.setattr(public, "tokenizer", lambda _: pytest.fail("it is there"))
    again = task.openwebtext(16)
    assert np.array_equal(again.train, text.train) and again.train.dtype == np.uint16
    with pytest.raises(UserError, match="less than"):
        task.openwebtext(10**6)
