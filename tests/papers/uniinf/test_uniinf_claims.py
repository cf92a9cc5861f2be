"""Claims that can fail and can stay open; who else meets them."""

import itertools
from typing import Any

import numpy as np
import pytest

from common.claims import NoResults
from common.rows import Rows, long_form
from papers.uniinf import claims, regret
from tests.papers import kit

STEPS = np.geomspace(1e5, 1e6, 7)


def rows_of(
    overrides: dict[tuple[str, str], tuple[float, float]] | None = None, noise: float = 0.05
) -> Rows:
    """Rows of an ideal run; ``overrides`` replaces (regret at T, exponent) of (method, task)."""
    values: dict[tuple[str, str], tuple[float, float]] = {}
    for name in ("e1", "e1-k10", "e2", "e3-s1"):
        values["uniinf", name] = (100.0, 0.1)
        values["htinf", name] = (200.0, 0.5)
        values["opttinf", name] = (150.0, 0.2)
        values["tsallis_inf", name] = (5000.0, 1.0)
    values |= {("uniinf", "e3-s20"): (20e3, 0.1), ("uniinf", "e3-s100"): (140e3, 0.1)}
    values |= {("opttinf", "e3-s20"): (20e3, 0.1), ("opttinf", "e3-s100"): (9e6, 0.1)}
    values |= {("htinf_low", "e1"): (90.0, 0.2), ("htinf_high", "e1"): (900.0, 0.9)}
    values |= {("htinf_alpha2", "e1"): (100.0, 0.2)} | (overrides or {})
    rng, rows = np.random.default_rng(0), []
    for (name, where), (final, power) in values.items():
        spread = noise if (name, where) in (overrides or {}) else 0.05
        for alpha, seed in itertools.product((1.3, 1.5, 1.8), range(10)):
            curve = final * (STEPS / 1e6) ** (power + spread * rng.normal())
            row: dict[str, Any] = {"method": name, "task": where, "seed": seed, "alpha": alpha}
            curve *= 1 + spread * rng.uniform(-1, 1)
            rows.append(row | {"metric": "regret", "step": STEPS.tolist(), "value": curve.tolist()})
    return Rows(long_form(rows))


def test_claims_on_an_ideal_run() -> None:
    judged = kit.judged("uniinf", rows_of())
    verdicts = {name: claim["verdict"] for name, claim in judged.items()}
    shared = {"C1", "C2", "C3"}  # OptTINF is as good here
    assert {name for name, v in verdicts.items() if v == "reproduced, not specific"} == shared
    assert verdicts["C4a"] == verdicts["C4b"] == "needs study"
    assert {verdicts[name] for name in ("C0", "C5", "C6", "C7")} == {"reproduced"}
    many = kit.judged("uniinf", rows_of(), "study")
    assert many["C4a"]["verdict"] == many["C4b"]["verdict"] == "reproduced"


def test_each_claim_can_fail_and_can_stay_open() -> None:
    u, wide = "uniinf", 0.6
    cases = {
        "C0": (
            [rows_of({(u, "e1"): (100.0, 0.6)}), rows_of({(u, "e3-s100"): (9e5, 0.1)})],
            rows_of({(u, "e1"): (100.0, 0.35)}, wide),
        ),
        "C1": (
            [rows_of({(u, t): (100.0, 0.6)}) for t in claims.STOCHASTIC],
            rows_of({(u, "e1"): (100.0, 0.35)}, wide),
        ),
        "C2": (rows_of({(u, "e2"): (100.0, 1.1)}), rows_of({(u, "e2"): (100.0, 0.7)}, wide)),
        "C3": (
            [rows_of({(u, "e1"): (700.0, 0.1)}), rows_of({(u, "e2"): (700.0, 0.1)})],
            rows_of({(u, "e1"): (600.0, 0.1)}, wide),
        ),
        "C4a": (
            rows_of({("tsallis_inf", "e3-s1"): (800.0, 1.0)}),
            rows_of({("tsallis_inf", "e3-s1"): (1000.0, 1.0)}, wide),
        ),
        "C4b": (
            rows_of({("tsallis_inf", "e3-s1"): (5000.0, 0.3)}),
            rows_of({("tsallis_inf", "e3-s1"): (5000.0, 0.85)}, wide),
        ),
        "C5": (
            rows_of({("opttinf", "e3-s100"): (1e5, 0.1)}),
            rows_of({("opttinf", "e3-s100"): (140e3, 0.1)}, wide),
        ),
        "C6": (
            rows_of({("htinf_high", "e1"): (150.0, 0.9)}),
            rows_of({("htinf_high", "e1"): (200.0, 0.9)}, wide),
        ),
        "C7": (
            rows_of({(u, "e3-s100"): (9e5, 0.1)}),
            rows_of({(u, "e3-s100"): (153e3, 0.1)}, wide),
        ),
    }
    kit.check_judges("uniinf", cases)


def test_what_the_committed_rows_say() -> None:
    """Each bound alone is met by a simpler method, all at once by none of them."""
    judged = kit.judged("uniinf", kit.rows_of("uniinf"))
    assert judged["C0"]["verdict"] == "reproduced" and judged["C0"]["headline"]
    assert judged["C0"]["also_met_by"] == []
    assert judged["C1"]["also_met_by"] == ["OptTINF"]
    assert "AdaTINF" in judged["C7"]["also_met_by"]


def test_a_judge_takes_any_method_or_says_what_it_lacks() -> None:
    rows = rows_of()
    for claim, name in itertools.product(claims.CLAIMS, claims.METHODS):
        try:
            claim.judge(rows, name)
        except NoResults as missing:
            assert str(missing)
    without = Rows(rows.frame[rows.frame.method != "tsallis_inf"])
    assert kit.judged("uniinf", without, "study")["C4a"]["verdict"] == "inconclusive"


def test_c4a_shows_the_ratio_of_medians() -> None:
    """One seed in ten carries the mean: 1000 times by means, no difference by medians."""
    rows = rows_of({("tsallis_inf", "e3-s1"): (100.0, 1.0)})
    frame = rows.frame.copy()
    frame.loc[(frame.method == "tsallis_inf") & (frame.seed == 0), "value"] *= 10_000
    judged = claims.c4a(Rows(frame), "uniinf")
    assert judged.evidence["α=1.3"]["value"] > 500
    assert judged.verdict == "inconclusive"  # one seed is no evidence
    medians = [float(x) for x in judged.ours.split("medians ")[1].split(" / ")]
    assert medians == pytest.approx([1.0] * 3, abs=0.1)


def test_what_is_closest_is_named() -> None:
    assert claims.c3(rows_of(), "uniinf").ours.startswith("all 9 hold; closest")
    failing = claims.c3(rows_of({("uniinf", "e2"): (700.0, 0.1)}), "uniinf")
    assert failing.ours.startswith("6 of 9 parts hold; not E2")


def test_growth_against_log() -> None:
    logarithm = np.log(STEPS) * np.array([[1.0], [2.0], [3.0]])
    assert regret.growth_against_log(STEPS, logarithm).value == pytest.approx(1.0)
    linear = STEPS * np.array([[1.0], [2.0], [3.0]])
    assert regret.growth_against_log(STEPS, linear).value == pytest.approx(10 * 5 / 6)
