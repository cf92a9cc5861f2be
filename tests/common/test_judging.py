"""Judges asked of every method: what is specific, what is missing, what a scale can decide."""

import numpy as np
import pytest

from common import power
from common.claims import (
    Claim,
    Judgement,
    NoResults,
    all_of,
    by_interval,
    compare,
    judge,
    judge_all,
    plan_of,
)
from common.methods import Method, Methods
from common.rows import Rows
from common.stats import Interval

METHODS = Methods(
    Method("mine", "Mine", "method"),
    Method("twin", "Twin", "variant"),
    Method("less", "Less", "ablation"),
    Method("base", "Base", "baseline"),
    Method("told", "Told", "reference"),
    Method("new", "New", "added"),
)
PLAN = {
    "smoke": [(None, "t")],
    "default": [(m, "t") for m in METHODS],
    "gpu": [("mine", "big"), ("base", "big")],
    "paper": [("mine", "big"), ("base", "big"), ("mine", "huge")],
}


def rows(task="t", **means):
    return Rows(
        [
            {"task": task, "method": m, "metric": "x", "seed": s, "value": mean + 0.01 * s}
            for m, mean in means.items()
            for s in range(5)
        ]
    )


def above_one(found, method):
    return by_interval(found.of(method=method, metric="x").ci(), 1.0)


def claim(judge=above_one, tasks=("t",), **options):
    return Claim("c", "s", "Thm 1", "p", judge, "mine", tasks, **options)


def asked(means, **options):
    return judge(claim(**options), METHODS, rows(**means), "default", PLAN)


def test_a_claim_that_only_the_method_meets_is_reproduced():
    entry = asked({"mine": 2, "less": 0, "base": 0.5})
    assert entry["verdict"] == "reproduced" and entry["also_met_by"] == []
    assert entry["tried"] == ["less", "base"]


@pytest.mark.parametrize("other", ["less", "base"])
def test_a_method_without_the_contribution_that_meets_it_shows_that_it_is_not_specific(other):
    entry = asked({"mine": 2, other: 3})
    assert entry["verdict"] == "reproduced, not specific"
    assert entry["also_met_by"] == [METHODS.label(other)]


def test_variants_references_and_added_methods_change_no_verdict():
    entry = asked({"mine": 2, "twin": 2, "told": 2, "new": 2, "base": 0})
    assert entry["verdict"] == "reproduced"
    assert entry["also_met_by"] == ["Twin", "Told†", "New"]


def test_what_others_are_expected_to_share_stays_reproduced():
    entry = asked({"mine": 2, "base": 2}, specific=False, shared="all are flows")
    assert entry["verdict"] == "reproduced" and entry["also_met_by"] == ["Base"]
    for wrong in ({"specific": False}, {"shared": "why"}):
        with pytest.raises(ValueError, match="shared"):
            claim(**wrong)


def test_the_rivals_are_not_put_in_the_methods_place():
    entry = asked({"mine": 2, "base": 2, "less": 0}, against=("base",))
    assert entry["verdict"] == "reproduced" and entry["tried"] == ["less"]


def test_a_contradicted_claim_stays_contradicted_whoever_meets_it():
    assert asked({"mine": 0, "base": 3})["verdict"] == "contradicted"
    assert asked({"mine": 0, "base": 3})["also_met_by"] == ["Base"]


def test_a_judge_without_rows_for_another_method_does_not_ask_it():
    found = Rows([*rows(mine=2).frame.to_dict("records"), *_other_metric()])
    entry = judge(claim(), METHODS, found, "default", PLAN)
    assert entry["tried"] == [] and entry["verdict"] == "reproduced"


def _other_metric():
    return [{"task": "t", "method": "base", "metric": "y", "seed": 0, "value": 1.0}]


def test_missing_rows_name_the_smallest_scale_that_has_them():
    empty = rows(mine=2)
    big, huge = claim(tasks=("big",)), claim(tasks=("huge",))
    against = claim(tasks=("huge",), against=("base",))

    def verdict(one, found, scale):
        return judge(one, METHODS, found, scale, PLAN)["verdict"]

    def nothing(found, method):
        raise NoResults("nothing")

    assert verdict(claim(nothing, ("big",)), empty, "default") == "needs gpu"
    assert verdict(claim(nothing, ("b*",)), empty, "default") == "needs gpu"
    assert verdict(claim(nothing, ("huge",)), empty, "gpu") == "needs paper"
    assert verdict(claim(nothing, ("t",)), empty, "gpu") == "needs default"
    assert verdict(claim(nothing, ("t",)), empty, "default") == "inconclusive"
    assert verdict(claim(above_one, ("t",), only=("paper",)), empty, "default") == "needs paper"
    assert verdict(claim(), empty, "smoke") == "not judged"
    assert big.possible("gpu", PLAN) and not huge.possible("gpu", PLAN)
    assert not against.possible("paper", PLAN)  # the rival does not run there


def test_a_tuning_judges_nothing():
    assert judge_all([claim()], METHODS, rows(mine=2), "tuning", PLAN) == []
    assert len(judge_all([claim()], METHODS, rows(mine=2), "default", PLAN)) == 1


def test_the_plan_is_read_from_a_manifest(tmp_path):
    (tmp_path / "paper.toml").write_text(
        '[[scales.default.stages]]\nmethods = ["a", "b"]\ntasks = ["t"]\n'
        "[[scales.default.stages]]\nargs = {}\n"
    )
    plan = plan_of(tmp_path / "paper.toml")
    assert plan == {"default": [("a", "t"), ("b", "t"), (None, None)]}


def test_parts_are_told_in_short_and_in_full():
    yes = Judgement("reproduced", "1", {"v": 1}, "one")
    no, maybe = Judgement("contradicted", "2"), Judgement("inconclusive", "3")
    three = all_of({"a": yes, "b": yes, "c": yes}, "note")
    assert three.ours == "all 3 parts hold; note" and three.verdict == "reproduced"
    assert three.details.startswith("a: one (reproduced); b")
    failing = all_of({"a": yes, "b": no, "c": maybe})
    assert failing.ours == "1 of 3 parts hold; not b: 2; c: 3"
    assert failing.verdict == "contradicted"
    assert all_of({"a": yes, "c": maybe}).verdict == "inconclusive"
    assert all_of({"a": yes, "c": maybe}).ours == "a: 1; c: 3"


def test_exact_numbers_are_compared_as_they_are():
    assert compare(1.0, 1.0).verdict == "reproduced"
    assert compare(0.9, 1.0).verdict == "contradicted"
    assert compare(0.9, 1.0, above=False).verdict == "reproduced"


# -- power --------------------------------------------------------------------------------------


def noisy(effect, n=6):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=n)
    noise -= noise.mean()
    return Rows(
        [
            {"task": "t", "method": "mine", "metric": "x", "seed": s, "value": effect + noise[s]}
            for s in range(n)
        ]
    )


def positive(found, method):
    return by_interval(found.of(method=method, metric="x").ci())


def test_a_small_effect_needs_more_seeds_than_a_large_one():
    one = claim(positive)
    large, small = power.power(one, noisy(0.6)), power.power(one, noisy(0.3))
    elsewhere = rows(task="other", mine=1).of(seed=0).frame.to_dict("records")
    with_other = Rows([*noisy(0.6).frame.to_dict("records"), *elsewhere])
    assert power.seeds_of(one, with_other) == 6  # the seeds of other tasks do not count
    assert large and small and large["seeds"] == 6
    assert 6 < large["needed"] < small["needed"]


def test_no_effect_is_decided_by_no_number_and_a_decided_claim_is_left_alone():
    assert power.power(claim(positive), noisy(5.0)) is None
    nothing = power.power(claim(positive), noisy(0.0))
    assert nothing is not None and nothing["needed"] is None
    missing = claim(tasks=("big",), judge=lambda found, m: positive(found.of(task="big"), m))
    assert power.power(missing, noisy(1.0)) is None


def test_pairs_stay_pairs_when_seeds_are_drawn_again():
    found = rows(mine=2, base=1)
    drawn = power.redrawn(found, 3, np.random.default_rng(0))
    gap = drawn.of(method="mine").values() - drawn.of(method="base").values()
    assert len(gap) == 15 and np.allclose(gap, 1.0)


def test_an_interval_that_touches_the_threshold_is_open():
    assert by_interval(Interval(0.0, 0.0, 0.0, 5)).verdict == "inconclusive"
