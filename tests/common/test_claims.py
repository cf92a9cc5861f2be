"""Verdicts: each comes out where it should."""

import numpy as np
import pytest

from common import claims
from common.claims import Judgement
from common.stats import Interval, paired_diff


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
    assert half.verdict == "contradicted" and half.ours == "a: 1; b: 2"


def test_evidence_becomes_strict_json():
    value = claims.plain({"a": np.float32(1.5), "b": [np.int64(2), float("inf")], 3: np.ones(2)})
    assert value == {"a": 1.5, "b": [2, "inf"], "3": [1.0, 1.0]}
