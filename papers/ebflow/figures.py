"""Figures of EBFlow: cost of a step against dimension, likelihood in training, densities."""

from __future__ import annotations

import numpy as np

from common import plotting
from common.plotting import Figure
from common.report import Drawing, Extras, Panel, curves, heatmaps, legend_below
from common.rows import Rows
from papers.ebflow.claims import ALIASED, timed
from papers.ebflow.methods import METHODS
from papers.ebflow.methods import timed as timed_losses

MODELS = {"fc": "FC", "cnn": "CNN"}

COST = (
    "Median milliseconds of a training step against the dimension D, log-log, for both models and"
    " batch sizes. Colours are losses; dashed: those that compute determinants (ML) or invert"
    " (SML); dotted: slopes 3 (above) and 2 (below). DSM and FDSSM lie nearly on each other."
    " D = 1024, where powers of two collide in the cache, is in the tables only."
)
LIKELIHOOD = (
    "Validation bits per dimension of the averaged weights along training: mean over the seeds with"
    " its 95 % interval. Colours are losses; ML and SML lie on each other."
)
DENSITIES = (
    "Exact smoothed densities and what each loss learnt (first seed), one scale of brightness for"
    " all; at 3000 steps much of SSM's mass on the sine lies outside of the frame."
)


def figures(rows: Rows, extras: Extras) -> dict[str, Drawing]:
    """Cost against dimension; validation curves; densities."""
    rows, drawn = rows.of(lr=None), {}
    if rows.of(metric="ms"):
        drawn["cost"] = Drawing(cost_figure(rows), COST, main=True)
    curve = {"metric": "valid_bits_per_dim"}
    panels = [
        Panel(t, {**curve, "task": t}, "bits per dimension")
        for t in rows.of(**curve).unique("task")
    ]
    if figure := curves(rows, METHODS, panels, log="y", width=5.0):
        drawn["likelihood"] = Drawing(figure, LIKELIHOOD)
    order = list(METHODS)
    maps = sorted(
        (e for e in extras if e["name"] in ("exact", "learnt") and "lr" not in e),
        key=lambda e: (e["task"], e["name"] != "exact", order.index(e["method"])),
    )
    titles = ["exact" if e["name"] == "exact" else METHODS.label(e["method"]) for e in maps]
    shown = [
        (f"{e['task']}: {title}", np.array(e["data"])[::-1])
        for e, title in zip(maps, titles, strict=True)
    ]
    if figure := heatmaps(shown, width=1.6):
        drawn["densities"] = Drawing(figure, DENSITIES)
    return drawn


def cost_figure(rows: Rows) -> Figure:
    """Milliseconds per step against D; dotted: slopes 2 and 3."""
    places = [(m, int(b)) for m in MODELS for b in rows.of(metric="ms", task=m).unique("batch")]
    figure, axes = plotting.panels(1, len(places), width=2.7, height=3.0)
    colour, drawn = METHODS.colours(), {}
    for axis, (model, batch) in zip(axes.flat, places, strict=True):
        ends, dims = [], []
        for name in timed_losses():
            if not (found := timed(rows, name, model, batch)):
                continue
            ms = found.frame.groupby("dim")["value"].median()
            ms = ms[ms.index % ALIASED > 0]
            style = "o-" if METHODS[name].matches else "o--"
            line = axis.loglog(ms.index, ms, style, color=colour[name], markersize=3)[0]
            drawn.setdefault(METHODS.label(name), line)
            ends.append(ms.iloc[-1])
            dims = list(ms.index)
        near = dims[-1] * np.array([0.4, 1.0])
        for power, end in ((3, 1.5 * max(ends)), (2, min(ends) / 1.6)):
            axis.loglog(near, end * (near / near[1]) ** power, ":", color="0.5", linewidth=1)
        shown = dims if len(dims) < 5 else dims[::2]
        axis.set_xticks(shown, [f"{d:.0f}" for d in shown], fontsize=7)
        axis.minorticks_off()
        axis.set(xlabel="dimension D", title=f"{MODELS[model]}, batch {batch}")
    axes[0, 0].set(ylabel="ms per step")
    legend_below(figure, drawn, columns=5)
    return figure
