"""Statistics on data with known answers."""

import numpy as np
import pytest
import scipy.stats

from common import stats


def test_expanded_level_gives_students_width():
    for n in (5, 10, 20):
        x = np.random.default_rng(n).normal(size=n)
        level = stats.expanded_level(n)
        z = scipy.stats.norm.ppf(0.5 + level / 2)
        # A bootstrap mean has standard error std(ddof=0)/sqrt(n): the widened percentiles give t's.
        student = scipy.stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / np.sqrt(n)
        assert z * x.std(ddof=0) / np.sqrt(n) == pytest.approx(student, rel=1e-9)


@pytest.mark.parametrize(("n", "at_least"), [(5, 0.90), (10, 0.90), (20, 0.91)])
def test_interval_of_pure_noise_covers_zero_about_as_often_as_it_should(n, at_least):
    rng = np.random.default_rng(7)
    inside = sum(
        (ci := stats.paired_diff(rng.normal(size=n), rng.normal(size=n))).low <= 0 <= ci.high
        for _ in range(300)
    )
    # 95 % nominal; 300 draws have a standard error of 1.3 %.
    assert at_least <= inside / 300 <= 0.99


def test_plain_percentile_interval_would_be_too_narrow_for_five_seeds():
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(300):
        x = rng.normal(size=5)
        means = x[rng.integers(0, 5, (2000, 5))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        inside += low <= 0 <= high
    assert inside / 300 < 0.90


def test_intervals_find_a_true_difference_and_are_repeatable():
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=8) * 10
    a, b = seeds + 1 + 0.1 * rng.normal(size=8), seeds
    paired, unpaired = stats.paired_diff(a, b), stats.diff(a, b)
    assert 0.8 < paired.low < paired.value < paired.high < 1.2
    assert unpaired.low < 0 < unpaired.high  # without pairing the seeds' spread hides it
    assert stats.paired_diff(a, b) == paired
    assert paired.value == pytest.approx(unpaired.value)


def test_equal_samples_give_a_point():
    assert stats.mean_ci([2.0, 2.0, 2.0]) == stats.Interval(2.0, 2.0, 2.0, 3)


@pytest.mark.parametrize("bad", [[1.0], [1.0, float("nan")]])
def test_what_cannot_be_judged_is_an_error(bad):
    with pytest.raises(ValueError):
        stats.mean_ci(bad)
    with pytest.raises(ValueError):
        stats.paired_diff([1.0, 2.0], [1.0, 2.0, 3.0])


def test_ratio_of_means():
    a, b = np.array([2.0, 4.0, 6.0, 8.0]), np.array([1.0, 2.0, 3.0, 4.0])
    paired = stats.ratio_of_means(a, b, paired=True)
    assert (paired.value, paired.low, paired.high) == pytest.approx((2.0, 2.0, 2.0))
    free = stats.ratio_of_means(a, b)
    assert free.low < 2.0 < free.high


def test_iqm_drops_the_outer_quarters():
    assert stats.iqm([0.0, 1.0, 2.0, 1000.0]) == 1.5


def test_loglog_slope_recovers_the_exponent():
    t = np.logspace(2, 6, 25)
    rng = np.random.default_rng(1)
    curves = 3.0 * t**0.62 * rng.lognormal(0, 0.05, size=(20, 1))
    slope = stats.loglog_slope(t, curves)
    assert slope.value == pytest.approx(0.62, abs=1e-9)
    inside = 0
    for _ in range(40):
        noisy = stats.loglog_slope(t, curves * rng.lognormal(0, 0.1, size=curves.shape))
        inside += noisy.low < 0.62 < noisy.high
        assert noisy.high - noisy.low < 0.1
    assert inside >= 34
    logarithm = stats.loglog_slope(t, np.log(t)[None].repeat(3, 0))
    assert 0.05 < logarithm.value < 0.1  # about 1/ln t
    with pytest.raises(ValueError):
        stats.loglog_slope(t, -curves)


def test_loglog_slope_fits_the_last_decade_only():
    t = np.logspace(2, 6, 41)
    curve = np.where(t < 1e5, t, 1e5 * (t / 1e5) ** 0.3)[None]
    assert stats.loglog_slope(t, curve).value == pytest.approx(0.3, abs=1e-9)


def test_band_is_around_the_mean():
    curves = np.random.default_rng(0).normal(size=(10, 7))
    mean, low, high = stats.band(curves)
    assert np.allclose(mean, curves.mean(0)) and (low < mean).all() and (mean < high).all()


def test_intervals_read_well():
    assert str(stats.Interval(0.12345, -0.5, 1234.0, 5)) == "0.123 [-0.500, 1234]"
    assert str(stats.Interval(0.0, 1e-5, 2e6, 5)) == "0 [1.00e-05, 2.00e+06]"
