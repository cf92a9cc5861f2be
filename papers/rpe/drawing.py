"""The figure of what rectification does, by hand: bars by length, words against their target."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np

from common import plotting
from common.plotting import Figure
from common.report import legend_below
from papers.rpe.methods import METHODS
from papers.rpe.task import SHORT


def found(extras: list[dict[str, Any]], task: str, method: str, name: str) -> np.ndarray | None:
    """The data of an extra, or None."""
    for e in extras:
        if (e["task"], e["method"], e["name"]) == (task, method, name):
            return np.array(e["data"])
    return None


def rectification(extras: list[dict[str, Any]]) -> Figure | None:
    """T3: mass by length; T4: probability of every word against its target."""
    pairs = (("rpe", "l1_rectified"), ("rpe-unrectified", "l1_unrectified"))
    by_length = found(extras, "rna1-var", "exact", "target")
    words = found(extras, "words", "exact", "target")
    if by_length is None or words is None:
        return None
    figure, ((left, *right),) = plotting.panels(1, 3, width=2.9)
    colour, drawn = METHODS.colours(), {}
    bars: list[tuple[str, np.ndarray | None, str, float]] = [("target", by_length, "0.4", 1.0)]
    for m, name in pairs:
        label, shade = METHODS.label(m), colour[m]
        trained = found(extras, "rna1-var", m, "p_objects")
        bars.append((f"{label}, tables", found(extras, "rna1-var", "exact", name), shade, 0.45))
        bars.append((label, None if trained is None else trained.mean(0), shade, 1.0))
    lengths, width = np.arange(len(by_length)), 0.8 / len(bars)
    for i, (label, height, shade, alpha) in enumerate(bars):
        if height is not None:
            at_ = lengths + (i + 0.5) * width - 0.4
            drawn[label] = left.bar(at_, height, width, color=shade, alpha=alpha)
    names = found(extras, "rna1-var", "exact", "lengths")
    left.set_xticks(lengths, [str(k) for k in (lengths if names is None else names)])
    left.set(xlabel="length of the string", ylabel="probability", title=SHORT["rna1-var"])
    for ax, kind in zip(right, ("tables", "learned"), strict=True):
        for m, name in reversed(pairs):  # RPE in front: it may lie on the line
            of = ("exact", name) if kind == "tables" else (m, "p_objects")
            p = found(extras, "words", *of)
            if p is not None:
                ax.loglog(words, p, ".", markersize=3, color=colour[m], zorder=3)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_formatter(mpl.ticker.NullFormatter())
        line = [words.min(), words.max()]
        ax.plot(line, line, color="0.4", linewidth=1)
        ax.set(title=f"{SHORT['words']}, {kind}", xlabel="target probability")
    legend_below(figure, drawn, columns=5)
    return figure
