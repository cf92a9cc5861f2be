"""Judges of LIAR's claims: what holds, what fails, what stays open, who else meets it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED
from common.rows import NoResults, Rows
from papers.liar import claims
from papers.liar.methods import METHODS
from tests.papers import kit

ENCODER = (*claims.CRITERIA, claims.HEADS, claims.FFN, "flap-all-25", "flap-all-75")
# accuracy over the unpruned model's, MRR, error of a module, seconds
WORLD: dict[str, tuple[float, float, float, float]] = {
    "liar": (0.99, 0.70, 0.10, 20.0),
    "liar-q": (0.95, 0.68, 0.12, 20.0),
    "none": (0.60, 0.50, 0.40, 5.0),
    "mask": (0.65, 0.53, 0.30, 20.0),
    "bias": (0.70, 0.55, 0.20, 20.0),
}
NLL = {"liar": 3.3, "liar-q": 3.35, "mask": 3.45, "bias": 3.5, "none": 3.7}
KEYS = ("accuracy", "mrr", "error", "seconds")


def world(noise: float = 0.002, **changes: dict[str, Any]) -> Rows:
    """Rows as eval.py writes them; every claim holds unless ``changes`` (by method) say otherwise.

    Keys of a change: ``KEYS``, "nll", "inference", "tokens".
    """
    rng, rows = np.random.default_rng(0), []

    def add(task: str, setting: str, metric: str, value: float, **labels: Any) -> None:
        found = {**label, "task": task, "setting": setting, "metric": metric, **labels}
        rows.append({**found, "value": value})

    for seed in range(5):
        for method, values in WORLD.items():
            change = changes.get(method.replace("-", "_"), {})
            own = {**dict(zip(KEYS, values, strict=True)), "nll": NLL[method], **change}
            label = {"method": method, "seed": seed}
            for task in ("minilm", "glue-sst2", "glue-mrpc"):
                for setting in ENCODER:
                    for metric, value in (("kept_accuracy", "accuracy"), ("mrr", "mrr")):
                        found = own[value] + noise * rng.standard_normal()
                        add(task, setting, metric, found)
                    add(task, setting, "kept_mrr", own["mrr"] / 0.75)
                    for module in range(12):
                        error = own["error"] + noise * rng.standard_normal()
                        add(task, setting, "alone", error, module=module)
                    add(task, setting, "tokens", own.get("tokens", 7000))
                    add(task, setting, "seconds", own["seconds"])
                    add(task, setting, "inference", own.get("inference", 1.0))
            for task, setting in (("llama", claims.FFN), ("llama-7b", claims.HALF)):
                found = own["nll"] + noise * rng.standard_normal()
                add(task, setting, "nll", found)
                add(task, setting, "lost_nll", found - 3.25)
                add(task, setting, "seconds", 5 * own["seconds"])
                add(task, setting, "inference", own.get("inference", 1.0))
    return Rows(rows)


def test_claims_hold_in_a_world_where_they_do() -> None:
    for claim in claims.CLAIMS:
        found = claim.judge(world(), claim.method)
        assert found.verdict == REPRODUCED, f"{claim.id}: {found.details or found.ours}"


def test_statements_are_short() -> None:
    assert all(len(claim.statement.split()) <= 25 for claim in claims.CLAIMS)
    assert [claim.id for claim in claims.CLAIMS if claim.headline] == ["C1"]


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    loose = world(0.5)
    whole = {"accuracy": 1.01, "mrr": 0.76, "nll": 3.2}
    kit.check_judges(
        "liar",
        {
            # nothing is lost: there is nothing to keep
            "C1": (world(liar={"accuracy": 0.9}), world(none=whole)),
            "C1p": (world(liar={"accuracy": 0.9}), loose),
            "C2": ([world(**{name: {"mrr": 0.72}}) for name in claims.RIVALS], loose),
            "C3": ([world(**{name: {"mrr": 0.72}}) for name in claims.RIVALS], world(none=whole)),
            "C4": (
                [world(bias={"error": 0.05}), world(mask={"error": 0.05})],
                world(liar={"tokens": 300}),
            ),
            "C5": (
                [world(liar={"nll": 3.6}), world(bias={"nll": 3.1})],
                world(none=whole),
            ),
            "C6": ([world(liar={"seconds": 200.0}), world(liar={"inference": 0.0})], None),
            "C7": ([world(liar={"nll": 3.6}), world(bias={"nll": 3.1})], loose),
        },
    )


def test_who_else_meets_it() -> None:
    rows = world(bias={"accuracy": 0.99}, liar_q={"mrr": 0.7})
    judged = kit.judged("liar", rows)
    assert judged["C1"]["verdict"] == NOT_SPECIFIC
    assert METHODS.label("bias") in judged["C1"]["also_met_by"]
    assert METHODS.label("liar-q") in judged["C2"]["also_met_by"]
    assert judged["C2"]["verdict"] == REPRODUCED  # a variant has the contribution
    assert judged["C6"]["verdict"] == REPRODUCED
    assert METHODS.label("none") in judged["C6"]["also_met_by"]
    assert judged["C1p"]["verdict"] == judged["C7"]["verdict"] == "needs paper"


def test_the_largest_share_in_reach() -> None:
    rows = kit.edited(
        world(liar={"accuracy": 0.9}), lambda v: v + 0.09,
        method="liar", metric="kept_accuracy", setting="flap-all-25",
    )  # fmt: skip
    assert claims.retains(rows, "liar").details.endswith(": 25 %")
    assert claims.retains(world(), "liar").details.endswith(": 75 %")
    assert claims.retains(world(), "none").details.endswith(": none")


def test_changed_settings_are_not_judged() -> None:
    frame = world().frame
    other = frame.assign(ridge="0.01", value=frame["value"] - 0.3)
    rows = Rows([*frame.to_dict("records"), *other.to_dict("records")])
    assert claims.retains(rows, "liar").ours == claims.retains(world(), "liar").ours


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
