"""Figures of UMO²: queues over time, the utility gap against T, mean queues against T."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.bands import Band, Line, draw_on
from common.claims import marked
from common.plotting import Axes, Figure, curve, panels, plt
from common.report import Drawing, Extras, Panel, axes_for, frontier, growth, legend_below
from common.rows import NoResults, Rows
from papers.umo2.methods import METHODS, UTILITY, policies
from papers.umo2.rates import by_horizon, exponent, gaps
from papers.umo2.references import phase_utility

NETWORKS = {
    "net-a": "Net-A",
    "net-a-static": "Net-A frozen in phase 0 (limit 0.3545)",
    "net-b": "Net-B (limits: fixed 0.433, adaptive 0.588)",
    "net-b-50": "Net-B, 50 nodes (limits: fixed 0.638, adaptive 0.800)",
}
SHOWN = ("nso", "nso_activated", "ogd", "window", "ucb", "current")  # in the main figure
Setting = dict[str, float]


def settings(rows: Rows, task: str, *labels: str) -> list[Setting]:
    """The settings in which a task was run, in order."""
    frame = rows.of(task=task).frame
    if frame.empty:
        return []
    there = frame[list(labels)].drop_duplicates().sort_values(list(labels))
    return [{k: float(v) for k, v in row.items()} for row in there.to_dict("records")]


def heading(setting: Mapping[str, float]) -> str:
    """A load and a speed of switching; a frozen network has none."""
    return f"ρ={setting['rho']:g}" + (f", κ={setting['kappa']:g}" if setting["kappa"] else "")


def swept(rows: Rows, task: str) -> bool:
    """Whether a network was run at several horizons."""
    return len(rows.of(task=task).unique("horizon")) > 1


Curves = dict[tuple, dict[str, Band]]


def queue_curves(extras: Extras) -> Curves:
    """Queues over time by (task, T, rho, kappa) and policy; those of several jobs pooled."""
    parts: dict[tuple, dict[str, list[dict]]] = {}
    for extra in extras:
        for data in extra["data"] if extra["task"] in NETWORKS else ():
            key = (extra["task"], *(data[k] for k in ("horizon", "rho", "kappa")))
            parts.setdefault(key, {}).setdefault(extra["method"], []).append(data)
    return {
        key: {name: of_a_run(jobs, horizon=key[1]) for name, jobs in by_policy.items()}
        for key, by_policy in sorted(parts.items())
    }


def of_a_run(jobs: list[dict], horizon: int) -> Band:
    """Mean queue in the middle of each piece of a run; an empty one is drawn as 0.1 packets."""
    pieces = len(jobs[0]["mean"])
    band = Band.pooled((np.arange(pieces) + 0.5) * horizon / pieces, jobs)
    return Band(band.x, *(np.maximum(y, 0.1) for y in (band.mean, band.low, band.high)))


def draw_queues(figure: Any, axes: Sequence[Axes], curves: Curves) -> None:
    """Queue lengths over the slots, a panel per setting, one legend below."""
    drawn = []
    for (task, _, rho, kappa), by_policy in curves.items():
        known = policies(task)
        colour, dash = known.colours(), known.dashes()
        lines = [
            Line(marked(known, name), by_policy[name], colour[name], dash[name], width=1.2)
            for name in known
            if name in by_policy
        ]
        where = NETWORKS[task].split(" (")[0].replace(" in phase 0", "")
        drawn.append((f"{where}: {heading({'rho': rho, 'kappa': kappa})}", lines))
    labels = {"xlabel": "slot", "ylabel": "packets queued"}
    draw_on(figure, axes, drawn, in_legend=3, xscale="linear", **labels)
    for ax in axes:
        ax.xaxis.set_major_locator(plt.MaxNLocator(3))


def draw_gap(figure: Any, ax: Axes, rows: Rows) -> None:
    """Gap to the reference stable within phases against T, and the slope of 1 / log T."""
    known = policies(UTILITY)
    colour, dash = known.colours(), known.dashes()
    for name in known:
        try:
            T, gap = gaps(rows.of(method=name, v=0.3), phase_utility())
            exponent(T, gap)
        except NoResults:
            continue
        curve(
            ax,
            T,
            gap,
            color=colour[name],
            label=marked(METHODS, name),
            marker="o",
            ms=3,
            ls=dash[name],
        )
        if name == "umo2":
            slow = gap.mean(axis=0)[0] * np.log(T[0]) / np.log(T)
            ax.plot(T, slow, color="0.5", lw=3, alpha=0.5, zorder=0, label="falls as 1/log T")
    ax.set(xscale="log", yscale="log", title="Utility task, V = T^0.3", xlabel="horizon T")
    ax.set_ylabel("utility gap (within phases)")
    at = rows.unique("horizon")
    ax.set_xticks(at, [f"{h:,.0f}" for h in at])
    ax.minorticks_off()
    ax.yaxis.set_minor_formatter(plt.NullFormatter())
    ax.set_yticks([0.1, 0.15, 0.2, 0.3], ["0.1", "0.15", "0.2", "0.3"])
    legend_below(figure, {line.get_label(): line for line in ax.lines}, columns=2)


def main_figure(rows: Rows, curves: Curves) -> Figure:
    """Queues on Net-A at the largest load, and the utility gap against T."""
    load = max(key[2] for key in curves if key[0] == "net-a")
    chosen = {
        key: {n: c for n, c in found.items() if n in SHOWN or METHODS[n].role == "added"}
        for key, found in curves.items()
        if key[0] == "net-a" and key[2] == load
    }
    figure = plt.figure(figsize=(3.2 * (1 + len(chosen)), 3.6))
    left, right = figure.subfigures(1, 2, width_ratios=[len(chosen), 1.25])
    draw_queues(left, list(left.subplots(1, len(chosen), squeeze=False)[0]), chosen)
    draw_gap(right, right.subplots(), rows.of(task=UTILITY))
    return figure


def all_queues(curves: Curves) -> Figure:
    """A panel per network and setting."""
    figure, axes = axes_for(len(curves), 3, width=3.2, height=2.3)
    draw_queues(figure, axes, curves)
    return figure


def across_horizons(rows: Rows) -> Figure:
    """Mean queue of Net-A against the horizon, a panel per load, with fitted powers."""
    there = settings(rows, "net-a", "rho", "kappa")
    figure, axes = panels(1, len(there), width=3.3, height=3.2)
    colour = policies("net-a").colours()
    for ax, at in zip(axes[0], there, strict=True):
        for name in policies("net-a"):
            try:
                T, queue = by_horizon(rows.of(task="net-a", method=name, **at), "mean_queue")
            except NoResults:
                continue
            growth(ax, T, queue, marked(METHODS, name), colour[name], "T")
        side = "inside" if at["rho"] < 0.3545 else "outside"
        ax.set(title=f"{heading(at)} ({side})", xlabel="horizon T")
        ax.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    axes[0, 0].set_ylabel("mean queue (packets)")
    return figure


def figures(rows: Rows, extras: Extras) -> dict[str, Drawing]:
    """Queues and the gap; all queues; the frontier; horizons: what has rows."""
    drawn = {}
    queues = queue_curves(extras)
    if swept(rows, "net-a"):
        drawn["horizons"] = Drawing(
            across_horizons(rows),
            "Mean queue of whole runs against their horizon, mean over seeds with 95 % band, and "
            "powers fitted to all horizons. Inside and outside of the theorem's condition on "
            "windows: ρ = 0.3545 is the largest load that can be carried within a phase.",
        )
    elif rows.of(task=UTILITY) and any(key[0] == "net-a" for key in queues):
        drawn["story"] = Drawing(
            main_figure(rows, queues),
            "Left: packets queued over a run of Net-A at ρ = 0.42, mean of 20 seeds with 95 % "
            "band; OGD lies on NSO at κ = 0.4; window UCB, UCB and NSO with one entry seen lie on "
            "each other at κ = 0.75. Right: utility gap to the best reference stable within "
            "phases (0.905) against T, with 95 % bands. † is told what it cannot know.",
            main=True,
        )
    if queues and not swept(rows, "net-a"):
        drawn["queues"] = Drawing(
            all_queues(queues),
            "Packets queued over the slots, mean of all seeds with 95 % band, a panel per network "
            "and setting; lines that cannot be told apart lie on each other. † is told what it "
            "cannot know.",
        )
    axes = [
        (Panel(f"T = {h:,.0f}", {**of, "metric": "mean_queue"}, "mean queue (packets)"),)
        + (Panel("", {**of, "metric": "utility"}, "utility"),)
        for h in rows.of(task=UTILITY).unique("horizon")
        for of in ({"task": UTILITY, "horizon": h},)
    ]
    if axes and (figure := frontier(rows, policies(UTILITY), axes, along="v", log="x")):
        drawn["frontier"] = Drawing(
            figure,
            "Average utility against mean queue, mean over seeds with 95 % intervals; a line "
            "joins V = T^0.2, T^0.3, T^0.4. UMO² and its 4 copies lie on each other.",
        )
    return drawn
