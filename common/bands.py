"""Whole curves with their bands, as evaluations keep them in extras: pooled over jobs, and drawn.

Rows hold a curve at a few steps for the judges; a figure wants all of it, and of many seeds only
their mean and band. Where the seeds of a cell were divided among jobs, each job has a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from common.plotting import Axes, Figure
from common.report import axes_for, legend_below


@dataclass(frozen=True)
class Band:
    """A mean curve over seeds with its 95 % band.

    Attributes:
        x: [T] abscissae.
        mean: [T].
        low: [T].
        high: [T].
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def exact(cls, x: ArrayLike, y: ArrayLike) -> Band:
        """A line without a band: a bound, a slope, a mean whose spread is not drawn."""
        y = np.asarray(y, dtype=float)
        return cls(np.asarray(x, dtype=float), y, y, y)

    @classmethod
    def pooled(cls, x: ArrayLike, parts: Sequence[Mapping[str, Any]]) -> Band:
        """The band of all seeds from those of the jobs among which they were divided.

        The mean of independent means, each with its share of the seeds; half-widths add like
        standard errors.

        Args:
            x: [T], the same in all parts.
            parts: ``mean``, ``low``, ``high`` [T] and the number ``n`` of seeds of each job.
        """
        n = np.array([[part["n"]] for part in parts], dtype=float)
        share = n / n.sum()
        means, low, high = (
            np.array([part[name] for part in parts], dtype=float)
            for name in ("mean", "low", "high")
        )
        centre = (share * means).sum(0)
        below, above = (np.sqrt(((share * x) ** 2).sum(0)) for x in (means - low, high - means))
        return cls(np.asarray(x, dtype=float), centre, centre - below, centre + above)

    def __truediv__(self, scale: ArrayLike) -> Band:
        """Over a rate or a bound, [T]."""
        return Band(
            self.x, *(part / np.asarray(scale) for part in (self.mean, self.low, self.high))
        )


@dataclass(frozen=True)
class Line:
    """A band and how it is drawn."""

    label: str
    band: Band
    colour: str
    dash: str = "-"
    width: float = 1.4


def draw(
    panels: Sequence[tuple[str, Sequence[Line]]],
    *,
    columns: int = 3,
    width: float = 3.2,
    height: float = 2.5,
    in_legend: int = 4,
    decorate: Callable[[int, Axes], None] | None = None,
    **settings: Any,
) -> Figure:
    """A figure with a panel per title, and one legend below.

    Args:
        panels: title and lines of each.
        columns: panels beside each other.
        width: of a panel, in inches.
        height: of a panel, in inches.
        in_legend: entries of the legend beside each other.
        decorate: called with each panel's number and axes, after everything else.
        settings: as in :func:`draw_on`.
    """
    figure, axes = axes_for(len(panels), columns, width, height)
    draw_on(figure, axes, panels, in_legend=in_legend, **settings)
    if decorate is not None:
        for i, ax in enumerate(axes):
            decorate(i, ax)
    return figure


def draw_on(
    figure: Any,
    axes: Sequence[Axes],
    panels: Sequence[tuple[str, Sequence[Line]]],
    *,
    in_legend: int = 4,
    xscale: str = "log",
    yscale: str = "log",
    **labels: Any,
) -> None:
    """:func:`draw` on axes that are there.

    Args:
        figure: they are in; or a part of it.
        axes: one per panel.
        panels: title and lines of each.
        in_legend: entries of the legend beside each other.
        xscale: of all panels.
        yscale: of all panels; "symlog" is linear below 1 and begins just below 0.
        labels: for ``Axes.set`` (xlabel, ylabel).
    """
    drawn: dict[str, Any] = {}
    for ax, (title, lines) in zip(axes, panels, strict=True):
        for line in lines:
            one = line.band
            (drawn[line.label],) = ax.plot(
                one.x, one.mean, color=line.colour, linestyle=line.dash, linewidth=line.width
            )
            ax.fill_between(one.x, one.low, one.high, color=line.colour, alpha=0.15, linewidth=0)
        ax.set(title=title, xscale=xscale, **labels)
        if yscale == "symlog":
            top = max(float(np.max(line.band.mean)) for line in lines)
            ax.set_yscale("symlog", linthresh=1.0)
            ax.set_ylim(-0.1, 2 * top)  # a line at 0 is seen
        else:
            ax.set_yscale(yscale)
    legend_below(figure, drawn, columns=in_legend)
