"""Rows: what is selected, what is refused."""

import numpy as np
import pytest

from common.rows import NoResults, Rows
from common.stats import mean_ci, paired_diff


def row(method="a", task="t", metric="x", seed=0, value=1.0, **labels):
    values = {"method": method, "task": task, "metric": metric, "seed": seed, "value": value}
    return {**values, **labels}


ROWS = Rows(
    [
        *(row("a", seed=s, value=v) for s, v in ((2, 3.0), (0, 1.0), (1, 2.0))),
        *(row("b", seed=s, value=v) for s, v in ((0, 0.5), (1, 1.0), (2, 2.0))),
        *(row("c", seed=s, value=v) for s, v in ((5, 0.5), (6, 1.0))),
        *(row("a", metric="y", seed=s, value=s, rho=0.1 * 3) for s in range(2)),
        *(row("a", metric="y", seed=s, value=-s, rho=0.4) for s in range(2)),
        row("a", metric="curve", seed=0, value=[1.0, 2.0], step=[10, 20]),
        row("a", metric="curve", seed=1, value=[3.0, 4.0], step=[10, 20]),
        row("a", metric="none", seed=0, value=None),
    ]
)


def test_values_come_in_the_order_of_the_seeds():
    assert ROWS.of(method="a", metric="x").values().tolist() == [1.0, 2.0, 3.0]
    assert ROWS.of(method=["a", "b"], metric="x", seed=1).unique("value") == [1.0, 2.0]
    assert len(ROWS.of(metric="x", method=("b", "c"))) == 5


def test_floats_match_closely_and_unknown_labels_select_nothing():
    assert ROWS.of(metric="y", rho=0.3).values().tolist() == [0.0, 1.0]
    assert not ROWS.of(metric="y", colour="red") and ROWS.of(metric="y", colour=None)
    assert len(ROWS.of(metric="x", rho=None)) == 8


def test_what_is_missing_is_named():
    with pytest.raises(NoResults, match="0 values of x of z with rho=1"):
        ROWS.of(metric="x", method="z", rho=1).values()
    with pytest.raises(NoResults):
        ROWS.of(metric="none").values(least=1)
    with pytest.raises(NoResults, match="no curve"):
        ROWS.of(metric="x").curve()


def test_labels_that_do_not_name_one_quantity_are_refused():
    with pytest.raises(ValueError, match="several values per seed, by .*rho"):
        ROWS.of(method="a", metric="y").values()
    with pytest.raises(ValueError, match="several values per seed"):
        ROWS.of(metric="curve").values()


def test_differences_are_paired_where_seeds_are_shared():
    a, b, c = (ROWS.of(method=m, metric="x") for m in "abc")
    assert a.minus(b) == paired_diff([1, 2, 3], [0.5, 1, 2])
    assert a.minus(b, paired=False) != a.minus(b)
    assert a.minus(c).value == pytest.approx(1.25)
    assert a.over(b).value == pytest.approx(6 / 3.5)
    assert a.ci() == mean_ci([1, 2, 3])
    with pytest.raises(NoResults, match="share"):
        a.paired(c)


def test_curves():
    steps, values = ROWS.of(metric="curve").curve()
    assert steps.tolist() == [10, 20] and np.array_equal(values, [[1, 2], [3, 4]])
    with pytest.raises(NoResults, match="2 curves"):
        ROWS.of(metric="curve").curve(least=3)


def test_no_rows_at_all():
    assert not Rows([]) and Rows([]).unique("task") == []
    with pytest.raises(NoResults):
        Rows([]).of(method="a").values()
