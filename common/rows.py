"""Rows of results, narrowed by their labels: what judges, tables and figures read.

rows.of(task="grid-tb", metric="area", method="linex1").ci()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.stats import Interval, diff, mean_ci, paired_diff, ratio_of_means

KEYS = ("method", "task", "metric")


class NoResults(LookupError):
    """The rows lack what a claim or a cell needs (a part of the runs was made); says which."""


def long_form(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame with one line per value: curves are spread over their steps."""
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        return pd.DataFrame(columns=[*KEYS, "seed", "value"])
    if "step" in frame:
        curves = frame["value"].map(lambda value: isinstance(value, list))
        spread = frame[curves].explode(["step", "value"])
        frame = pd.concat([frame[~curves], spread]).sort_index(kind="stable")
        frame = frame.reset_index(drop=True)
        if pd.api.types.is_object_dtype(frame["step"]):
            frame["step"] = pd.to_numeric(frame["step"])
    frame["value"] = pd.to_numeric(frame["value"])
    return frame.astype({key: "category" for key in KEYS if key in frame})


class Rows:
    """A selection of rows, one value each, with the labels that were asked for.

    Args:
        rows: a data frame with "method", "task", "seed", "metric", "value" and further labels, or
            the rows of ``results.json``.
    """

    def __init__(
        self,
        rows: pd.DataFrame | Sequence[Mapping[str, Any]],
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        self._all = _All(rows if isinstance(rows, pd.DataFrame) else long_form(rows))
        self._at = np.arange(len(self._all.frame))
        self._asked = dict(asked or {})

    def of(self, **labels: Any) -> Rows:
        """The rows with these labels. A list or tuple: any of its values; floats match closely.

        ``None`` asks for rows without that label.
        """
        at = self._at
        for key, wanted in labels.items():
            at = at[self._all.mask(key, wanted)[at]]
        part = object.__new__(type(self))
        part._all, part._at, part._asked = self._all, at, {**self._asked, **labels}
        return part

    @property
    def frame(self) -> pd.DataFrame:
        """These rows as a data frame."""
        return self._all.frame.iloc[self._at]

    def _column(self, label: str) -> np.ndarray:
        return self._all.column(label)[self._at]

    def __len__(self) -> int:
        return len(self._at)

    def __bool__(self) -> bool:
        return len(self._at) > 0

    def __str__(self) -> str:
        named = [str(self._asked[k]) for k in ("metric", "method", "task") if k in self._asked]
        others = [f"{k}={v}" for k, v in self._asked.items() if k not in KEYS]
        return " of ".join(named) + (f" with {', '.join(others)}" if others else "")

    def unique(self, label: str) -> list[Any]:
        """The values that a label takes here, sorted; none if no row has it."""
        if label not in self._all.frame:
            return []
        return sorted(self._all.frame[label].iloc[self._at].dropna().unique().tolist())

    def _by_seed(self) -> tuple[np.ndarray, np.ndarray]:
        """Seeds in order and their values; empty ones left out.

        Raises:
            ValueError: if a seed has several values: the labels do not name one quantity.
        """
        if not len(self._at):
            return np.zeros(0), np.zeros(0)
        values = self._column("value").astype(float)
        seeds, there = self._column("seed"), ~np.isnan(values)
        seeds, values = seeds[there], values[there]
        order = np.argsort(seeds, kind="stable")
        seeds, values = seeds[order], values[order]
        if (seeds[1:] == seeds[:-1]).any():
            frame = self.frame
            varying = [
                k
                for k in frame
                if k not in ("value", "seed") and frame[k].nunique(dropna=False) > 1
            ]
            raise ValueError(f"{self or 'rows'}: several values per seed, by {varying}")
        return seeds, values

    def values(self, least: int = 2) -> np.ndarray:
        """One number per seed [n_seeds], in the order of the seeds, empty ones left out.

        Raises:
            NoResults: if there are fewer than ``least`` (two are what an interval takes).
            ValueError: if a seed has several values.
        """
        found = self._by_seed()[1]
        if len(found) < least:
            raise NoResults(f"{len(found)} values of {self}")
        return found

    def value(self) -> float:
        """The only number here; the mean over seeds where there are several.

        Raises:
            NoResults: if there is none.
        """
        return float(self.values(least=1).mean())

    def ci(self) -> Interval:
        """Mean over seeds with its 95 % interval.

        Raises:
            NoResults: if there are fewer than two seeds.
        """
        return mean_ci(self.values())

    def paired(self, other: Rows, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """The values of both on the seeds that both have.

        Raises:
            NoResults: if they share fewer than ``least`` seeds.
        """
        (seeds, ours), (others, theirs) = self._by_seed(), other._by_seed()
        shared, i, j = np.intersect1d(seeds, others, assume_unique=True, return_indices=True)
        if len(shared) < least:
            raise NoResults(f"{len(shared)} seeds that {self} and {other} share")
        return ours[i], theirs[j]

    def minus(self, other: Rows, *, paired: bool = True) -> Interval:
        """Interval of the difference of means, paired by seed where seeds are shared.

        Args:
            other: what is taken away.
            paired: the seed means the same in both (the same start, data, environment).

        Raises:
            NoResults: if one of them has fewer than two seeds.
        """
        ours, theirs = self.values(), other.values()
        if paired and self._same_seeds(other):
            return paired_diff(ours, theirs)
        return diff(ours, theirs)

    def over(self, other: Rows, *, paired: bool = True) -> Interval:
        """Interval of the ratio of means, paired by seed where seeds are shared."""
        ours, theirs = self.values(), other.values()
        return ratio_of_means(ours, theirs, paired=paired and self._same_seeds(other))

    def _same_seeds(self, other: Rows) -> bool:
        return np.array_equal(self._by_seed()[0], other._by_seed()[0])

    def curve(self, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """A logged curve: steps [T] and values [n_seeds, T].

        Raises:
            NoResults: if fewer than ``least`` seeds have one.
        """
        if "step" not in self._all.frame:
            raise NoResults(f"no curve of {self}")
        steps = self._column("step").astype(float)
        there = ~np.isnan(steps)
        if not there.any():
            raise NoResults(f"no curve of {self}")
        seeds, i = np.unique(self._column("seed")[there], return_inverse=True)
        steps, j = np.unique(steps[there], return_inverse=True)
        if len(np.unique(i * len(steps) + j)) < len(i):
            raise ValueError(f"{self}: several curves per seed")
        table = np.full((len(seeds), len(steps)), np.nan)
        table[i, j] = self._column("value")[there]
        if len(table) < least:
            raise NoResults(f"{len(table)} curves of {self}")
        return steps, table


class _All:
    """All rows that parts are taken of, and where each label has which value, found once."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self._columns: dict[str, np.ndarray] = {}
        self._masks: dict[Any, np.ndarray] = {}

    def column(self, label: str) -> np.ndarray:
        if label not in self._columns:
            self._columns[label] = self.frame[label].to_numpy()
        return self._columns[label]

    def mask(self, key: str, wanted: Any) -> np.ndarray:
        """Which rows have the label."""
        several = isinstance(wanted, (list, tuple, set, frozenset))
        name = (key, type(wanted), tuple(wanted) if several else wanted)
        if name not in self._masks:
            self._masks[name] = self._found(key, list(wanted) if several else wanted)
        return self._masks[name]

    def _found(self, key: str, wanted: Any) -> np.ndarray:
        if key not in self.frame:
            return np.full(len(self.frame), wanted is None)
        column = self.frame[key]
        if wanted is None:
            return column.isna().to_numpy()
        if isinstance(wanted, list):
            return column.isin(wanted).to_numpy()
        if isinstance(wanted, float) and pd.api.types.is_numeric_dtype(column):
            return np.isclose(column.astype(float), wanted)
        return (column == wanted).to_numpy(dtype=bool)


__all__ = ["KEYS", "NoResults", "Rows", "long_form"]
