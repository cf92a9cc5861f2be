"""One style for all figures: colour-blind safe, the method always in the same colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import ArrayLike

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.methods import METHOD_COLOUR as METHOD
from common.methods import OTHER_COLOURS as OTHERS
from common.stats import band

_DASHES = ("-", "--", ":", "-.")

plt.rcParams.update(
    {
        "figure.dpi": 110,
        "savefig.dpi": 110,
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "svg.hashsalt": "papers",
    }
)


def colours(names: Sequence[str], method: str | Sequence[str] = ()) -> dict[str, str]:
    """A colour per name (Okabe and Ito's palette); ``method`` gets the method's colour."""
    mine = [method] if isinstance(method, str) else list(method)
    rest = [name for name in names if name not in mine]
    chosen = {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(rest)}
    return {name: chosen.get(name, METHOD) for name in names}


def dashes(names: Sequence[str]) -> dict[str, str]:
    """A line style per name, so that curves can be told apart without colour."""
    return {name: _DASHES[(i // len(OTHERS) + i) % len(_DASHES)] for i, name in enumerate(names)}


def panels(rows: int, columns: int, width: float = 3.4, height: float = 2.6, **kwargs: Any) -> Any:
    """A figure with a grid of axes (always a 2-D array), sized per panel in inches."""
    return plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, **kwargs
    )


def curve(axes: Axes, x: ArrayLike, curves: ArrayLike, **kwargs: Any) -> None:
    """Mean curve with its 95 % bootstrap band.

    Args:
        axes: where to draw.
        x: [T].
        curves: [n_seeds, T].
        kwargs: for ``Axes.plot`` (label, color, …).
    """
    mean, low, high = band(curves)
    (line,) = axes.plot(np.asarray(x), mean, **kwargs)
    axes.fill_between(np.asarray(x), low, high, color=line.get_color(), alpha=0.18, linewidth=0)


__all__ = ["METHOD", "OTHERS", "Axes", "Figure", "colours", "curve", "dashes", "panels", "plt"]
