"""Judges of DiSF's claims: what holds, what fails, what stays open, who else meets it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED
from common.rows import NoResults, Rows
from papers.disf import claims
from papers.disf.methods import METHODS
from tests.papers import kit

# mean dominance, loss on the target, elsewhere
WORLD: dict[str, tuple[float, float, float]] = {
    "disf": (0.60, 3.40, 3.30),
    "disf-once": (0.70, 3.40, 3.45),
    "uniform": (0.66, 3.40, 3.50),
    "dsir": (0.75, 3.20, 3.80),
    "d4": (0.65, 3.40, 3.45),
    "facility": (0.65, 3.40, 3.45),
    "kcenter": (0.64, 3.40, 3.45),
    "full": (0.66, 3.35, 3.45),
}
KEYS = ("dominance", "on", "off")
POOLS = {"mean": 1.1, "best": 0.65, "random": 3.0, "optimum": 0.54}
TIMES = {"ratio": 40.0, "same": 1.0}


def world(noise: float = 0.002, **changes: dict[str, Any]) -> Rows:
    """Rows as eval.py writes them; every claim holds unless ``changes`` (by method) say otherwise.

    Keys of a change: ``KEYS``, those of ``POOLS`` and ``TIMES``, "start", "files", "harness",
    "fast" (how soon the loss of all files is reached; one for each seed, or one for all).
    """
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()

    def add(metric: str, value: Any, **labels: Any) -> None:
        rows.append({**label, "metric": metric, "value": value, **labels})

    for seed in range(5):
        for method, values in WORLD.items():
            own: dict[str, Any] = {
                **dict(zip(KEYS, values, strict=True)), **POOLS, **TIMES,
                "start": 6.9, "files": 1024, "harness": 0.4, "fast": 1.0,
                **({"harness": 0.5, "fast": 0.5} if method == "disf" else {}),
                **({"files": 16_384} if method == "full" else {}),
                **changes.get(method.replace("-", "_"), {}),
            }  # fmt: skip
            label: dict[str, Any] = {"method": method, "seed": seed, "task": "library"}
            add("mean_dominance", own["dominance"] + noise * rng.standard_normal())
            on, off = (own[k] + noise * rng.standard_normal() for k in ("on", "off"))
            macro = (on + 7 * off) / 8
            add("on_target", on)
            add("off_target", off)
            add("macro", macro)
            add("files", own["files"])
            add("curve", [own["start"], 4.0, macro], step=[0, 300, 600])
            label["task"] = "normals"
            for which in POOLS:
                add(f"J_{which}", own[which] + 10 * noise * rng.standard_normal())
            label["task"] = "timing"
            add("seconds_ratio", own["ratio"] + 1000 * noise * rng.standard_normal())
            add("same", own["same"])
            label["task"] = "tinyllama-120m"
            add("harness", own["harness"] + noise * rng.standard_normal())
            end = 2.0 + noise * rng.standard_normal()
            fast = own["fast"][seed] if isinstance(own["fast"], tuple) else own["fast"]
            add("curve", [10.0, 10 - 4.2 / fast, end], step=[0, 500, 1000])
    return Rows(rows)


def test_claims_hold_in_a_world_where_they_do() -> None:
    rows = world()
    for claim in claims.CLAIMS:
        found = claim.judge(rows, claim.method)
        assert found.verdict == REPRODUCED, f"{claim.id}: {found.details or found.ours}"


def test_statements_are_short() -> None:
    assert all(len(claim.statement.split()) <= 25 for claim in claims.CLAIMS)
    assert [claim.id for claim in claims.CLAIMS if claim.headline] == ["C1"]


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    loose = world(0.5)
    dull = world(uniform={"start": 4.0})  # nothing is learnt
    kit.check_judges(
        "disf",
        {
            "C1": ([world(disf={"dominance": 0.7}), world(dsir={"dominance": 0.6})], loose),
            "C1b": ([world(**{m: {"dominance": 0.5}}) for m in claims.RIVALS], loose),
            "C2": ([world(dsir={"off": 3.1}), world(dsir={"on": 3.6})], dull),
            "C3": (world(disf={"off": 3.6}), dull),
            "C4": (world(disf={"off": 3.6}), dull),
            "C5": ([world(disf={"mean": 2.5}), world(disf={"best": 1.1})], world(0.2)),
            "C6": ([world(disf={"ratio": 4.0}), world(disf={"same": 0.0})], world(0.05)),
            "C7": ([world(**{m: {"harness": 0.6}}) for m in ("full", "uniform", "dsir")], loose),
            "C8": (world(disf={"fast": 0.9}), world(disf={"fast": (0.5, 0.5, 0.5, 0.95, 0.95)})),
        },
    )


def test_who_else_meets_it() -> None:
    judged = kit.judged("disf", world(kcenter={"dominance": 0.5}, facility={"off": 3.2}))
    assert judged["C1"]["verdict"] == NOT_SPECIFIC
    assert METHODS.label("kcenter") in judged["C1"]["also_met_by"]
    assert judged["C1b"]["verdict"] == CONTRADICTED
    assert METHODS.label("facility") in judged["C3"]["also_met_by"]
    assert judged["C4"]["verdict"] == NOT_SPECIFIC
    assert judged["C2"]["verdict"] == judged["C6"]["verdict"] == REPRODUCED
    assert judged["C7"]["verdict"] == judged["C8"]["verdict"] == "needs paper"


def test_all_files_are_no_small_share() -> None:
    """C4 of a method that takes everything is no claim about data."""
    with pytest.raises(NoResults, match="takes 100%"):
        claims.enough(world(), "full")
    assert "6.2% of the files" in claims.enough(world(), "disf").ours


def test_margins() -> None:
    near = {"on": 3.35, "off": 3.46}  # .009 nats above all files
    assert claims.enough(world(disf=near), "disf").verdict == REPRODUCED
    assert claims.better(world(disf=near), "disf").verdict == REPRODUCED
    assert claims.better(world(uniform=near, disf=near), "disf").verdict == INCONCLUSIVE


def test_tokens_saved() -> None:
    rows = world(0.0)
    assert claims.tokens_saved(rows, "disf") == pytest.approx([2.1] * 5)  # 8 of 8.4 of 500
    assert claims.tokens_saved(rows, "full") == pytest.approx([1.0] * 5)
    never = kit.edited(rows, lambda v: v + 3, task="tinyllama-120m", method="disf", metric="curve")
    assert claims.tokens_saved(never, "disf") == [0.0] * 5


def test_changed_settings_are_not_judged() -> None:
    frame = world().frame
    other = frame[frame["step"].isna()].assign(batch=64, value=0.1)
    rows = Rows([*frame.to_dict("records"), *other.to_dict("records")])
    assert claims.flattens(rows, "disf").ours == claims.flattens(world(), "disf").ours


@pytest.mark.parametrize("method", METHODS)
def test_judges_take_any_method_and_say_what_is_missing(method: str) -> None:
    for claim in claims.CLAIMS:
        for rows in (world(), Rows([])):
            try:
                found = claim.judge(rows, method)
            except NoResults as missing:
                assert str(missing)
            else:
                assert found.ours and found.verdict in (REPRODUCED, CONTRADICTED, INCONCLUSIVE)
