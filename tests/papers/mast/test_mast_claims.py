"""Every claim can fail and be left open; every scale runs on stand-ins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from common.claims import CONTRADICTED, INCONCLUSIVE, NOT_SPECIFIC, REPRODUCED, NoResults
from common.marl.environments import make_env
from common.rows import Rows
from common.stats import diff
from papers.mast import claims, task
from papers.mast.methods import METHODS
from tests.papers import kit
from tools import manifest

torch.set_num_threads(1)

WIN = {
    **{"mast": 0.76, "dense": 0.6, "dense-lambda": 0.77, "rlx2": 0.4, "tiny": 0.4, "set": 0.4},
    **{"mast-td": 0.4, "mast-sm": 0.4, "mast-dual": 0.4, "rigl": 0.4, "ss": 0.4},
}
SPARSE = ("mast", "mast-td", "mast-sm", "mast-dual", "rigl", "set", "ss", "rlx2")


def world(noise: float = 0.02, **means: float) -> Rows:
    """Rows as eval.py writes them; every claim holds unless ``means`` says otherwise.

    ``means``: win rates by method, and others by "method/metric".
    """
    base = {f"{m}/{claims.FINAL}": v for m, v in WIN.items()}
    base |= {f"{m}/absolute_bias": 0.02 if m == "mast" else 0.2 for m in WIN}
    base |= {f"{m}/bias": 0.1 for m in WIN}
    for m in WIN:
        share = 0.05 if m in SPARSE else 1.0
        base |= {f"{m}/{name}_ratio": share for name in ("act", "train")}
        base |= {f"{m}/size_ratio": share + 0.015 * (m in SPARSE), f"{m}/layers_changed": 0.0}
    base |= {k if "/" in k else f"{k}/{claims.FINAL}": v for k, v in means.items()}
    rng, rows = np.random.default_rng(0), []
    exact = ("ratio", "layers_changed")
    for key, mean in base.items():
        method, metric = key.split("/")
        for seed in range(5):
            moved = 0.0 if metric.endswith(exact) else noise * rng.standard_normal()
            row = {"task": claims.MAP, "method": method, "seed": seed, "metric": metric}
            rows.append({**row, "value": mean + moved})
    return Rows(rows)


def test_claims_hold_in_a_world_where_they_do() -> None:
    judged = {name: entry["verdict"] for name, entry in kit.judged("mast", world()).items()}
    assert judged == dict.fromkeys(judged, REPRODUCED)


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    loose = world(0.5)
    kit.check_judges(
        "mast",
        {
            "C1": (
                [
                    world(**{"mast/train_ratio": 0.2}),
                    world(**{"mast/size_ratio": 0.2}),
                    world(**{"mast/layers_changed": 1.0}),
                ],
                None,
            ),
            "C2": (world(mast=0.5), loose),
            "C3": (world(mast=0.3), loose),
            "C3b": (world(mast=0.1), loose),
            "C4": (world(mast=0.3), loose),
            "C5": (world(**{"mast/absolute_bias": 0.5}), loose),
            "C6": (world(mast=0.3), loose),
        },
    )


def test_the_better_dense_network_is_the_measure() -> None:
    one_step = world(**{"dense": 0.9, "dense-lambda": 0.7})
    assert claims.better_dense(one_step) == "dense"
    assert claims.near_dense(one_step, "mast").verdict != REPRODUCED
    assert claims.better_dense(world()) == "dense-lambda"
    poor = world(**{"dense": 0.3, "dense-lambda": 0.3})
    judged = claims.near_dense(poor, "mast")
    assert judged.verdict == INCONCLUSIVE and "not learned" in judged.ours


def test_a_baseline_that_does_as_well_is_named() -> None:
    entry = kit.judged("mast", world(rigl=0.76))["C2"]
    assert entry["verdict"] == NOT_SPECIFIC and entry["also_met_by"] == ["RigL"]


@pytest.mark.parametrize("method", METHODS)
def test_judges_take_any_method_and_say_what_is_missing(method: str) -> None:
    for claim in claims.CLAIMS:
        for rows in (world(), Rows([])):
            try:
                assert claim.judge(rows, method).ours
            except NoResults as missing:
                assert str(missing)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two-step game in the place of battles."""
    monkeypatch.setattr(task, "make", lambda name, n: make_env("matrix:two_step", n))


def tiny(job: Any) -> Sequence[str]:
    if job.module == "probe":
        return ["--episodes", "32", "--batch", "8", "--updates", "4", "--envs", "16"]
    flags = ["--steps", "48", "--envs", "4", "--batch", "4", "--evaluations", "3", "--hidden", "8"]
    return [*flags, "--episodes", "4", "--rewire-every", "3", "--sparsity", "0.5", "--updates", "2"]


@pytest.mark.parametrize("scale", ["default", "study", "hosts", "tuning", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(scale: str, tmp_path, stand_ins) -> None:
    found = kit.run_scale("mast", scale, tmp_path, tiny, seeds=1 if scale == "paper" else 2)
    assert Rows(found["rows"]).unique("metric")


def test_what_the_committed_rows_say() -> None:
    rows = kit.rows_of("mast")
    judged = kit.judged("mast", rows)
    said = {name: entry["verdict"] for name, entry in judged.items()}
    assert said["C1"] == REPRODUCED and said["C2"] == said["C5"] == CONTRADICTED
    assert all(said[name] == INCONCLUSIVE for name in ("C3", "C3b", "C4", "C6"))
    mean = rows.of(task="smax-3m", metric="mean_win_rate")
    for slower in ("mast-td", "rigl", "set", "ss"):  # the multi-step target is what speeds it up
        assert diff(mean.of(method="mast").values(), mean.of(method=slower).values()).low > 0


def test_an_added_method_goes_through_everything(tmp_path, stand_ins) -> None:
    job = next(j for j in manifest.load("mast").scale("smoke", 1).jobs if j.method == "mast")
    kit.check_added_method("mast", tmp_path, like="mast", flags=tiny(job))
