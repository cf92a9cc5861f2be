"""Verdicts: each comes out where it should."""

import numpy as np
import pandas as pd
import pytest

from common import claims_v1 as claims
from common.claims_v1 import Claim, Judgement
from common.stats import Interval, mean_ci, paired_diff


def interval(low, high):
    return Interval((low + high) / 2, low, high, 5)


@pytest.mark.parametrize(
    ("low", "high", "above", "verdict"),
    [
        (0.1, 0.3, True, "reproduced"),
        (-0.3, -0.1, True, "contradicted"),
        (-0.1, 0.1, True, "inconclusive"),
        (-0.3, -0.1, False, "reproduced"),
        (0.1, 0.3, False, "contradicted"),
        (-0.1, 0.1, False, "inconclusive"),
        (0.0, 0.0, True, "inconclusive"),
    ],
)
def test_by_interval(low, high, above, verdict):
    assert claims.by_interval(interval(low, high), above=above).verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.04, 0.1, "reproduced"),
        (-0.2, -0.06, "contradicted"),
        (-0.1, 0.1, "inconclusive"),
    ],
)
def test_not_worse(low, high, verdict):
    judgement = claims.not_worse(interval(low, high), margin=0.05)
    assert judgement.verdict == verdict
    assert judgement.evidence["threshold"] == -0.05


def test_pure_noise_is_inconclusive_about_as_often_as_it_should_be():
    rng = np.random.default_rng(3)
    verdicts = [
        claims.by_interval(paired_diff(rng.normal(size=5), rng.normal(size=5))).verdict
        for _ in range(300)
    ]
    share = verdicts.count("inconclusive") / 300
    assert 0.90 <= share <= 0.99
    # What is left falls to either side alike.
    assert verdicts.count("reproduced") > 0 and verdicts.count("contradicted") > 0


def test_all_of():
    yes, no = Judgement("reproduced", "1"), Judgement("contradicted", "2")
    maybe = Judgement("inconclusive", "3")
    assert claims.all_of({"a": yes, "b": yes}).verdict == "reproduced"
    assert claims.all_of({"a": yes, "b": maybe}).verdict == "inconclusive"
    half = claims.all_of({"a": yes, "b": no})
    assert half.verdict == "contradicted" and half.ours.startswith("partly (1 of 2 hold)")


def test_a_scale_that_cannot_decide_says_what_it_needs():
    def judge(rows):
        raise AssertionError("must not be asked")

    claim = Claim("C", "s", "Thm 1", "p", ("gpu", "paper"), judge)
    assert claims.judge_all([claim], pd.DataFrame(), "default")[0]["verdict"] == "needs gpu"
    assert claims.judge_all([claim], pd.DataFrame(), "smoke")[0]["verdict"] == "not judged"


def test_evidence_becomes_strict_json():
    value = claims.plain({"a": np.float32(1.5), "b": [np.int64(2), float("inf")], 3: np.ones(2)})
    assert value == {"a": 1.5, "b": [2, "inf"], "3": [1.0, 1.0]}


def test_curves_are_spread_over_their_steps():
    base = {"method": "m", "task": "t", "seed": 0}
    frame = claims.long_form(
        [
            {**base, "metric": "regret", "step": [1, 2], "value": [10.0, 20.0]},
            {**base, "metric": "final", "value": 5.0},
        ]
    )
    assert frame["value"].tolist() == [10.0, 20.0, 5.0]
    assert frame["step"].tolist()[:2] == [1.0, 2.0] and np.isnan(frame["step"].iloc[2])


def test_what_a_claim_needs_is_there_or_the_claim_says_so():
    rows = pd.DataFrame(
        [
            {"task": "t", "method": "m", "metric": "x", "seed": seed, "value": value}
            for seed, value in ((1, 2.0), (0, 1.0))
        ]
    )
    assert claims.needed(rows, "t", "m", "x").tolist() == [1.0, 2.0]
    assert claims.needed(rows, "t", "m", "x", least=1).tolist() == [1.0, 2.0]
    with pytest.raises(claims.NoResults, match="1 values of x of m on t"):
        claims.needed(rows[:1], "t", "m", "x")
    with pytest.raises(claims.NoResults, match="0 values of y of m on t"):
        claims.needed(rows, "t", "m", "y", least=1)


def test_a_cell_is_an_interval_a_value_or_a_dash():
    assert claims.interval(np.zeros(0)) == "–" and claims.interval(np.array([0.12345])) == "0.123"
    assert claims.interval(np.array([1.0, 2.0, 3.0])) == str(mean_ci([1.0, 2.0, 3.0]))
