"""Whole curves with bands: pooled over jobs, drawn."""

import numpy as np
import pytest

from common import bands
from common.bands import Band, Line
from common.stats import mean_ci


def test_the_band_of_all_seeds_from_those_of_two_jobs():
    a = {"n": 10, "mean": [1.0], "low": [0.0], "high": [2.0]}
    b = {"n": 30, "mean": [3.0], "low": [2.0], "high": [4.0]}
    both = Band.pooled([7], [a, b])
    half = np.hypot(10, 30) / 40
    assert (both.x, both.mean) == ([7], [2.5])
    assert (both.low, both.high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))


def test_one_job_keeps_its_band():
    one = Band.pooled([1, 2], [{"n": 3, "mean": [1, 2], "low": [0, 1], "high": [4, 5]}])
    np.testing.assert_allclose([one.mean, one.low, one.high], [[1, 2], [0, 1], [4, 5]])


def test_halves_of_many_seeds_give_about_the_whole_band():
    x = np.random.default_rng(0).normal(size=4000)

    def part(sample):
        ci = mean_ci(sample)
        return {"n": len(sample), "mean": [ci.value], "low": [ci.low], "high": [ci.high]}

    whole, halves = part(x), Band.pooled([0], [part(x[:1000]), part(x[1000:])])
    assert halves.mean[0] == pytest.approx(whole["mean"][0])
    width = whole["high"][0] - whole["low"][0]
    assert halves.high[0] - halves.low[0] == pytest.approx(width, rel=0.1)


def test_a_band_over_a_rate():
    band = Band(np.array([1.0, 4.0]), *(np.array([1.0, 4.0]) * k for k in (2, 1, 3)))
    over = band / np.array([1.0, 2.0])
    np.testing.assert_allclose([over.mean, over.low, over.high], [[2, 4], [1, 2], [3, 6]])


def test_panels_share_one_legend():
    line = Line("a", Band.exact([1, 10], [1, 100]), "C0")
    other = Line("b", Band.exact([1, 10], [2, 5]), "C1", ":")
    seen = []
    figure = bands.draw(
        [("left", [line, other]), ("right", [line])],
        decorate=lambda i, ax: seen.append((i, ax.get_title())),
        yscale="symlog",
        xlabel="step",
    )
    assert seen == [(0, "left"), (1, "right")]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    left, right = figure.axes
    assert left.get_ylim() == (-0.1, 200) and left.get_xscale() == "log" == right.get_xscale()
    assert left.lines[1].get_linestyle() == ":"
