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
        self.frame = rows if isinstance(rows, pd.DataFrame) else long_form(rows)
        self._asked = dict(asked or {})

    def of(self, **labels: Any) -> Rows:
        """The rows with these labels. A list or tuple: any of its values; floats match closely.

        ``None`` asks for rows without that label.
        """
        frame = self.frame
        for key, wanted in labels.items():
            if key not in frame:
                frame = frame if wanted is None else frame.iloc[:0]
                continue
            column = frame[key]
            if wanted is None:
                at = column.isna()
            elif isinstance(wanted, (list, tuple, set, frozenset)):
                at = column.isin(list(wanted))
            elif isinstance(wanted, float) and pd.api.types.is_numeric_dtype(column):
                at = pd.Series(np.isclose(column.astype(float), wanted), index=column.index)
            else:
                at = column == wanted
            frame = frame[at]
        return Rows(frame, {**self._asked, **labels})

    def __len__(self) -> int:
        return len(self.frame)

    def __bool__(self) -> bool:
        return len(self.frame) > 0

    def __str__(self) -> str:
        named = [str(self._asked[k]) for k in ("metric", "method", "task") if k in self._asked]
        others = [f"{k}={v}" for k, v in self._asked.items() if k not in KEYS]
        return " of ".join(named) + (f" with {', '.join(others)}" if others else "")

    def unique(self, label: str) -> list[Any]:
        """The values that a label takes here, sorted; none if no row has it."""
        if label not in self.frame:
            return []
        return sorted(self.frame[label].dropna().unique().tolist())

    def _by_seed(self) -> pd.Series:
        """Value by seed.

        Raises:
            ValueError: if a seed has several values: the labels do not name one quantity.
        """
        frame = self.frame[self.frame["value"].notna()]
        if frame["seed"].duplicated().any():
            varying = [
                k
                for k in frame
                if k not in ("value", "seed") and frame[k].nunique(dropna=False) > 1
            ]
            raise ValueError(f"{self or 'rows'}: several values per seed, by {varying}")
        return frame.set_index("seed")["value"].sort_index()

    def values(self, least: int = 2) -> np.ndarray:
        """One number per seed [n_seeds], in the order of the seeds, empty ones left out.

        Raises:
            NoResults: if there are fewer than ``least`` (two are what an interval takes).
            ValueError: if a seed has several values.
        """
        found = self._by_seed().to_numpy(dtype=float)
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
        both = pd.concat([self._by_seed(), other._by_seed()], axis=1, join="inner").to_numpy(float)
        if len(both) < least:
            raise NoResults(f"{len(both)} seeds that {self} and {other} share")
        return both[:, 0], both[:, 1]

    def minus(self, other: Rows, *, paired: bool = True) -> Interval:
        """Interval of the difference of means, paired by seed where seeds are shared.

        Args:
            other: what is taken away.
            paired: the seed means the same in both (the same start, data, environment).

        Raises:
            NoResults: if one of them has fewer than two seeds.
        """
        ours, theirs = self.values(), other.values()
        if paired and set(self._by_seed().index) == set(other._by_seed().index):
            return paired_diff(ours, theirs)
        return diff(ours, theirs)

    def over(self, other: Rows, *, paired: bool = True) -> Interval:
        """Interval of the ratio of means, paired by seed where seeds are shared."""
        ours, theirs = self.values(), other.values()
        together = paired and set(self._by_seed().index) == set(other._by_seed().index)
        return ratio_of_means(ours, theirs, paired=together)

    def curve(self, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """A logged curve: steps [T] and values [n_seeds, T].

        Raises:
            NoResults: if fewer than ``least`` seeds have one.
        """
        frame = self.frame
        if "step" not in frame or not (frame := frame[frame["step"].notna()]).shape[0]:
            raise NoResults(f"no curve of {self}")
        if frame.duplicated(["seed", "step"]).any():
            raise ValueError(f"{self}: several curves per seed")
        table = frame.pivot(index="seed", columns="step", values="value")
        if len(table) < least:
            raise NoResults(f"{len(table)} curves of {self}")
        return table.columns.to_numpy(dtype=float), table.to_numpy(dtype=float)


__all__ = ["KEYS", "NoResults", "Rows", "long_form"]
