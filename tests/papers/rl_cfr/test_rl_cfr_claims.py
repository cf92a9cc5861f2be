"""Claims that can fail, every scale on stand-ins, an added method, a policy that is loaded."""

from typing import Any

import numpy as np
import pytest

import papers.rl_cfr as rl_cfr
from common.claims import NoResults
from common.errors import UserError
from common.rows import Rows
from papers.rl_cfr import claims
from papers.rl_cfr.config import Config
from papers.rl_cfr.train import train
from tests.papers import kit

DEALS = 40
TINY = [
    *("--samples", "20", "--samples-per-round", "5", "--learning-steps", "3", "--batch", "8"),
    *("--wide-samples", "5", "--iterations", "20", "--tolerance", "40", "--stacks", "5", "6"),
    *("--eval-deals", "3", "--eval-security-deals", "2", "--eval-deep", "2"),
    *("--eval-iterations", "20", "--eval-tolerance", "0", "--tuning-deals", "1"),
    *("--tuning-iterations", "10", "--oracle-iterations", "10"),
]


def rows_of(overrides: dict[tuple[str, str], Any] | None = None) -> Rows:
    """Rows of an ideal run; ``overrides`` replaces mean (or mean, spread over seeds)."""
    values: dict[tuple[str, str], Any] = {("rl_cfr", "gain"): 4.0, ("random", "gain"): -1.0}
    values |= {("fine", "gain"): 3.0, ("tuned_fixed", "gain"): 2.0}
    values |= {("rl_cfr", "nodes"): 40.0, ("rl_cfr", "nodes_default"): 41.0}
    values |= {("fine", "nodes"): 100.0, ("rl_cfr", "exploitability"): 0.02}
    values |= {("rl_cfr", "exploitability_default"): 0.02}
    values |= {("rl_cfr", "security_loss"): 3.0, ("default", "security_loss"): 4.0}
    values |= {("rl_cfr", "security_error"): 0.1, ("default", "security_error"): 0.1}
    values |= overrides or {}
    rng, rows = np.random.default_rng(0), []
    for (name, metric), given in values.items():
        mean, spread = given if isinstance(given, tuple) else (given, 0.02)
        for seed in range(5 if name in ("rl_cfr", "random") else 1):
            curve = mean + spread * (rng.normal() + 0.2 * rng.normal(size=DEALS))
            row = {"method": name, "task": "preflop43", "seed": seed, "metric": metric}
            rows.append(row | {"step": list(range(DEALS)), "value": curve.tolist()})
    return Rows(rows)


def gain(mean: float, spread: float = 0.02) -> Rows:
    return rows_of({("rl_cfr", "gain"): (mean, spread)})


def test_claims_hold_on_an_ideal_run() -> None:
    judged = {name: entry["verdict"] for name, entry in kit.judged("rl_cfr", rows_of()).items()}
    expected = dict.fromkeys(("C1", "C2", "C4", "C5"), "reproduced") | {"C6": "needs paper"}
    # FINE and the tuned pair gain more than random ones, and FINE more than the pair
    assert judged == expected | dict.fromkeys(("C3", "C3b"), "reproduced, not specific")


CASES = {
    "C1": (gain(-1.0), gain(0.1, 1.0)),
    "C2": (
        rows_of({("rl_cfr", "nodes"): 60.0}),
        rows_of({("rl_cfr", "nodes"): (45.1, 10.0)}),
    ),
    "C3": (rows_of({("random", "gain"): 5.0}), gain(-1.0, 2.0)),
    "C3b": (gain(1.0), gain(2.0, 2.0)),
    "C4": (
        rows_of({("rl_cfr", "security_loss"): 6.0}),
        rows_of({("rl_cfr", "security_loss"): (4.4, 2.0)}),
    ),
    "C5": ([gain(0.5), rows_of({("fine", "nodes"): 50.0})], gain(0.9, 1.0)),
}


def test_each_claim_can_come_out_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = [claim for claim in claims.CLAIMS if claim.id != "C6"]  # nothing can decide it here
    monkeypatch.setattr(claims, "CLAIMS", judged)
    kit.check_judges("rl_cfr", CASES)


def test_a_gain_below_the_solver_error_is_noise_and_missing_rows_are_named() -> None:
    noisy = kit.judged("rl_cfr", rows_of({("rl_cfr", "exploitability"): 9.0}))
    assert noisy["C1"]["verdict"] == "inconclusive"
    rows = rows_of()
    without = Rows(rows.frame[rows.frame.method != "random"])
    judged = kit.judged("rl_cfr", without)["C3"]
    assert judged["verdict"] == "inconclusive" and "random" in judged["ours"]


def test_a_fixed_pair_meets_the_headline_on_the_committed_rows() -> None:
    judged = kit.judged("rl_cfr", kit.rows_of("rl_cfr"))
    assert "TUNED-FIXED" in judged["C1"]["also_met_by"] and "random" in judged["C1"]["tried"]
    assert judged["C1"]["verdict"] == "reproduced, not specific"
    assert judged["C3b"]["verdict"] == "contradicted"


def test_two_way_intervals_see_deals_and_seeds() -> None:
    rng = np.random.default_rng(0)
    deals = rng.normal(size=(1, 400)) + np.zeros((5, 1))
    seeds = np.zeros((1, 400)) + rng.normal(size=(5, 1))

    def width(values: np.ndarray) -> float:
        ci = claims.two_way(lambda x: x, values)
        assert ci.low <= ci.value <= ci.high
        return ci.high - ci.low

    assert width(deals[:1]) == pytest.approx(4 / np.sqrt(400), rel=0.15)  # one seed: over deals
    assert width(seeds) > 1.5  # five seeds that differ by 1
    assert width(deals + seeds) > width(deals)
    paired = claims.two_way(lambda x, y: x - y, deals + 1, deals)
    assert paired.low == pytest.approx(1) and paired.high == pytest.approx(1)


@pytest.mark.parametrize("scale", ["default", "study", "paper"])
def test_every_stage_of_every_scale_on_stand_ins(scale: str, tmp_path) -> None:
    def tiny(job):
        # leduc-8's tree takes minutes to solve; leduc-4 and -6 take its path
        return None if job.task in ("leduc-8", "leduc-6") else TINY

    found = kit.run_scale("rl_cfr", scale, tmp_path, tiny, seeds=1)
    rows = Rows(found["rows"])
    if scale == "default":
        default = claims.matrix(rows.of(method="default", metric="gain", task="preflop43"))
        np.testing.assert_allclose(default, 0, atol=1e-9)
        assert {"leduc-4", "preflop43"} == set(rows.unique("task"))
    sizes = {line[0]: line[-1] for line in found["tables"][0]["rows"]}
    if scale != "study":
        assert sizes["default"] == ("1, 2" if scale == "default" else "0.5, 1, 2, 4, 8")
    assert sizes["RL-CFR"] == "–"


def test_a_new_method_is_trained_shown_and_changes_no_verdict(tmp_path) -> None:
    kit.check_added_method("rl_cfr", tmp_path, flags=TINY)


def test_an_abstraction_can_be_loaded(tmp_path) -> None:
    small = {"samples": 20, "samples_per_round": 10, "learning_steps": 2, "batch": 8}
    train(Config(out=tmp_path / "a", stacks=(5.0, 6.0), iterations=25, **small))
    train(Config(method="default", out=tmp_path / "b"))
    live = [0, 5, 10, 15, 20, 25, 30, 35, 40]
    assert rl_cfr.load(tmp_path / "b").choose(live, 12.0) == [1.0, 2.0]
    assert all(0.1 <= x <= 5 for x in rl_cfr.load(tmp_path / "a").choose(live, 5.5))
    with pytest.raises(UserError, match="seed 0, not 3"):
        rl_cfr.load(tmp_path / "a", seed=3)
    for cards, stack in ((live[:8], 5.0), ([*live[:8], 99], 5.0), (live, 0.5)):
        with pytest.raises(UserError, match="nine different cards"):
            rl_cfr.load(tmp_path / "b").choose(cards, stack)


def test_a_claim_without_its_rows_says_so() -> None:
    with pytest.raises(NoResults):
        claims.beats_default(Rows([]), "rl_cfr")
