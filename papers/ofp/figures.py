"""The figures that are drawn by hand: quality against calls, routes, first chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.plotting import Axes, Figure, panels
from common.report import Panel, cell_interval, intervals, legend_below
from common.rows import Rows
from papers.ofp.methods import METHODS
from papers.ofp.point_mass import DISC, GOAL, JUDGED_RADIUS, REACHED
from papers.ofp.reading import A, B

CALLS = (
    "Means over seeds (A: 5, B: 3) with 95 % intervals against network calls per chunk, the "
    "methods beside each other; OFP's rollouts with its warm start. Success, on-mode share: up is "
    "better; W1, gap: down. On A OFP and MeanFlow lie close together in success and on-mode share, "
    "as do FM and diffusion at 100 calls, and BC and one Euler step in on-mode share, near 0."
)
ROUTES = (
    "60 episodes of one seed, from the left to the star. Blue: reaches it clear of the disc "
    f"(r = {JUDGED_RADIUS}). Orange: hits the disc. Black, dashed: neither, it never arrives "
    "(counted in the panel; paths may leave the frame)."
)
CHUNKS = (
    "Sideways displacement of 500 first chunks of each seed at the start where both routes are "
    "right; shaded: the expert's modes. What lies between them is undecided. Chunks that leave "
    "the range are not drawn."
)
STUDY = (
    "OFP, two other methods, then one change of OFP's defaults a line (the first: five at once; "
    "the last: another loss): mean over 3 seeds that no claim uses with its 95 % interval, seeds "
    "as dots; dashed: OFP's defaults."
)


def calls_figure(rows: Rows) -> Figure | None:
    """Quality against the number of network calls, of the methods with a line in the main table."""
    names = [n for n in METHODS if METHODS[n].shown and METHODS[n].role != "ablation"]
    wanted = [
        *(
            Panel(f"A: success, r = {r:.2f}", {"task": A, "metric": "success", "radius": r})
            for r in (0.15, 0.20)
        ),
        Panel("B: success", {"task": B, "metric": "success"}),
        Panel("A: on-mode share", {"task": A, "metric": "on_mode"}),
        Panel("A: W1 to expert", {"task": A, "metric": "w1"}),
        Panel("A: gap between chunks", {"task": A, "metric": "gap"}),
    ]
    there = [panel for panel in wanted if rows.of(**panel.of)]
    if not there:
        return None
    figure, axes = panels(-(-len(there) // 3), min(3, len(there)), width=3.1, height=2.4)
    colour, drawn = METHODS.colours(), {}
    for spare in list(axes.flat)[len(there) :]:
        spare.remove()
    for axis, panel in zip(axes.flat, there, strict=False):
        for i, name in enumerate(names):
            mine = rows.of(method=name, **panel.of)
            found = {n: cell_interval(mine.of(nfe=n)) for n in mine.unique("nfe")}
            points = [(n, ci) for n, ci in found.items() if ci is not None]
            if not points:
                continue
            x = [n * 1.05 ** (i - len(names) / 2) for n, _ in points]  # beside each other
            axis.vlines(x, [c.low for _, c in points], [c.high for _, c in points], colour[name])
            (line,) = axis.plot(x, [c.value for _, c in points], "o-", color=colour[name], ms=4)
            drawn.setdefault(METHODS.label(name), line)
        axis.set_xscale("log")
        axis.set_xticks([1, 2, 4, 10, 100], ["1", "2", "4", "10", "100"])
        axis.minorticks_off()
        axis.set(title=panel.title, xlabel="network calls")
    legend_below(figure, drawn)
    return figure


def small_panels(
    extras: Sequence[Mapping[str, Any]], draw: Callable[[Axes, np.ndarray], None]
) -> Figure:
    """A small panel for each method and number of calls."""
    figure, axes = panels(-(-len(extras) // 4), 4, width=2.5, height=1.7)
    for axis in axes.flat[len(extras) :]:
        axis.set_visible(False)
    for axis, extra in zip(axes.flat, extras, strict=False):
        draw(axis, np.array(extra["data"], dtype=float))
        axis.set_title(f"{METHODS.label(extra['method'])} @{extra['nfe']}", fontsize=7)
        axis.grid(False)
    return figure


def ending(path: np.ndarray) -> str:
    """How a path [T, 2] ends: arrives, hits, or neither; positions are rounded to 0.01."""
    hit = np.linalg.norm(path - DISC, axis=1) < JUDGED_RADIUS
    arrived = np.linalg.norm(path - GOAL, axis=1) < REACHED + 0.01
    end = int(arrived.argmax()) if arrived.any() else len(path)
    return "hits" if hit[:end].any() else "arrives" if arrived.any() else "neither"


def route(axis: Axes, paths: np.ndarray) -> None:
    """Paths [episodes, T, 2] over the map."""
    from matplotlib.patches import Circle

    style = {"arrives": ("#0072B2", "-"), "hits": ("#D55E00", "-"), "neither": ("black", "--")}
    ends = [ending(path) for path in paths]
    axis.add_patch(Circle((float(DISC[0]), float(DISC[1])), JUDGED_RADIUS, color="#BBBBBB"))
    for path, end in zip(paths, ends, strict=True):
        colour, dash = style[end]
        axis.plot(*path.T, color=colour, linestyle=dash, linewidth=0.5, alpha=0.6)
    axis.plot(*GOAL, marker="*", color="black", markersize=6)
    axis.set(xlim=(-0.15, 1.15), ylim=(-0.5, 0.5), xticks=[], yticks=[], aspect="equal")
    if lost := ends.count("neither"):
        axis.text(0.5, -0.45, f"{lost} of {len(paths)} never arrive", fontsize=6, ha="center")


def chunks(axis: Axes, counts: np.ndarray) -> None:
    """Histogram [60] of sideways displacements between −.45 and .45."""
    for side in (-1, 1):
        axis.axvspan(side * 0.27 - 0.09, side * 0.27 + 0.09, color="#DDDDDD", zorder=0)
    share = counts / max(counts.sum(), 1.0)
    axis.stairs(share, np.linspace(-0.45, 0.45, 61), fill=True, color="#0072B2")
    axis.set(yticks=[], xlabel="sideways displacement")


def study_figure(rows: Rows) -> Figure | None:
    """One-step success and on-mode share of each change."""
    own = {"task": A, "metric": "success", "radius": JUDGED_RADIUS}
    wanted = [
        Panel("success @1, r = 0.15", {**own, "nfe": 1, "t_w": 0.0}),
        Panel("on-mode share @1", {"task": A, "metric": "on_mode", "nfe": 1, "t_w": 0.0}),
    ]
    found = {panel.title: cell_interval(rows.of(method="ofp", **panel.of)) for panel in wanted}
    levels = {title: ci.value for title, ci in found.items() if ci}
    return intervals(rows, METHODS, wanted, thresholds=levels)
