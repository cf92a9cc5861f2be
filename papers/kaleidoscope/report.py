"""Tables and figures of Kaleidoscope: returns, masks, and who hunts which prey."""

from __future__ import annotations

from typing import Any

import numpy as np

from common import report
from common.plotting import Axes, Figure, curve, panels
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import NoResults, Rows
from papers.kaleidoscope.claims import HUNT, PROBE, RACES, UNITS
from papers.kaleidoscope.methods import METHODS
from papers.kaleidoscope.task import TASKS

HUNTS = (HUNT, "distinct-long", "distinct-fleeing", "mpe")
SCRIPTS = [m for m in METHODS if METHODS[m].sharing == "script"]
RIVALS = ["kaleidoscope", "kaleidoscope-noid", "no-diversity", "fups", "fups-id", "nops"]
LEFT_OUT = ("kaleidoscope-hard", "seps", "nearest")  # of the main table of 12 lines
LAYER = 3  # whose masks the main figure shows: the second after the GRU


def tables(rows: Rows) -> list[Table]:
    """The hunt (main), what tells agents apart, other hunts, the probe, battles and the robot."""
    if tuned(rows):
        chosen = {"task": HUNT, "metric": "auc_return"}
        title = f"{HUNT}: mean return over training, median of the seeds, by learning rate"
        return [report.tuning(rows, METHODS, chosen, ["lr"], title=title, best="max")]
    methods, made = by_method(METHODS), []
    shown = [m for m in METHODS if m not in LEFT_OUT]
    unmarked = [METHODS.label(m) for m in SCRIPTS]
    hunted = [
        Column("return", {"metric": "final_return"}, "max"),
        Column("over training", {"metric": "auc_return"}, "max"),
        Column("both preys covered", {"metric": "final_covered"}, "max"),
        Column("one fixed prey each", {"metric": "fixed_prey"}, show=report.mean()),
        Column("disagreement", {"metric": "disagreement"}, show=report.mean()),
        Column("of networks alone", {"metric": "network_disagreement"}, show=report.mean()),
        Column("masked", {"metric": "final_sparsity"}, show=percent),
    ]
    for task in HUNTS:
        title = (
            f"{task}: greedy episodes, mean of the last three evaluations; share of steps with a "
            "predator within .3 of each prey; disagreement on the same observations"
        )
        part, form = rows.of(task=task), {"corner": "method", "unmarked": unmarked}
        if task == HUNT:
            made.append(grid(part, title, by_method(METHODS, shown), hunted, main=True, **form))
        made.append(grid(part, f"{title}; all methods", methods, hunted, **form))
    masks = [
        Column(f"{name}, {when}", {"metric": metric}, show=short)
        for name, key in (
            ("distance of masks", "mask_distance"),
            ("distance of weights", "weight_distance"),
            ("disagreement of networks", "network_disagreement"),
        )
        for when, metric in (("at first", f"{key}_at_first"), ("at the end", end_of(key)))
    ]
    for i in range(1, 5):
        masks.append(Column(f"layer {i}", {"metric": "layer_distance", "layer": i}, show=short))
    masks.append(Column("by number alone", {"metric": "number_disagreement"}, show=report.mean()))
    masks.append(Column("weights drawn anew", {"metric": "redrawn"}, show=report.mean(0)))
    for task in (HUNT, UNITS):
        title = f"{task}: what tells agents apart (layers: distances of masks at the end)"
        made.append(grid(rows.of(task=task), title, methods, masks, corner="method"))
    solved = [
        Column("greedy return", {"metric": "last_return"}, show=report.mean()),
        Column("solved since episode", {"metric": "solved_at"}, "min"),
        Column("distance of masks", {"metric": "final_mask_distance"}, show=short),
        Column("distance of weights", {"metric": "weight_distance"}, show=short),
    ]
    title = "probe: four agents, one constant observation, paid if all four actions differ"
    made.append(grid(rows.of(task=PROBE), title, methods, solved, corner="method"))
    won = [
        Column("win rate", {"metric": "final_win_rate"}, "max"),
        Column("return", {"metric": "final_return"}, "max"),
        Column("over training", {"metric": "auc_return"}, "max"),
        Column("of networks alone", {"metric": "network_disagreement"}, show=report.mean()),
        Column("masked", {"metric": "final_sparsity"}, show=percent),
    ]
    for task in (UNITS, *RACES):
        title = f"{task}: greedy battles, mean of the last three evaluations"
        made.append(grid(rows.of(task=task), title, methods, won, corner="method"))
    robots = set(rows.unique("task")) - {PROBE, *TASKS}
    made += [robot(rows, task) for task in sorted(robots)]
    return [table for table in made if table.rows]


def tuned(rows: Rows) -> bool:
    """Whether these are a tuning's rows: a method with two rates on the hunt."""
    rates = [rows.of(task=HUNT, method=name).unique("lr") for name in rows.unique("method")]
    return any(len(found) > 1 for found in rates)


def robot(rows: Rows, task: str) -> Table:
    """MATD3: returns, and masks of actors and critics."""
    columns = [
        Column("return", {"metric": "final_return"}, "max"),
        Column("over training", {"metric": "auc_return"}, "max"),
        Column("masks of actors", {"metric": "final_mask_distance"}, show=short),
        Column("masks of critics", {"metric": "final_critic_mask_distance"}, show=short),
        Column("critics apart", {"metric": "final_critic_spread"}, show=report.mean()),
    ]
    title = f"{task}, MATD3: episodes without noise, mean of the last three evaluations"
    return grid(rows.of(task=task), title, by_method(METHODS), columns, corner="method")


def end_of(key: str) -> str:
    """Name of a quantity's last value."""
    return "final_mask_distance" if key == "mask_distance" else key


@report.shown
def percent(part: Rows) -> str:
    """Cell: a share."""
    return f"{part.value():.1%}"


@report.shown
def short(part: Rows) -> str:
    """Cell: two significant digits."""
    return f"{part.value():.2g}"


# -- figures --------------------------------------------------------------------------------------


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """The hunt (main), masks layer by layer, who hunts which prey, curves of the other tasks."""
    drawn: dict[str, Drawing] = {}
    if tuned(rows):
        return drawn
    there = [m for m in RIVALS if rows.of(task=HUNT, method=m, metric="return")]
    if there:
        text = (
            "Hunt for two distinct preys: above, greedy return, share of steps with both preys "
            "covered, and distance of the masks (sum over layers) in training, mean over seeds "
            "with 95 % band. Below, first seed: how much of what two agents' masks keep they "
            f"share (layer {LAYER}), and which prey each predator is nearest to, share of steps."
        )
        drawn["hunt"] = Drawing(hunt_figure(rows, extras, there), text, main=True)
    masks, hunts = first_of(extras, "overlap_", HUNT), first_of(extras, "chased", HUNT)
    if masks:
        text = "Masks of the agents by layer: what both keep of what either keeps; first seed."
        named = [(f"{short_name(e['method'])}, {e['name'][-1]}", e) for e in masks]
        drawn["masks"] = Drawing(matrices(named, 4, "agent", "agent"), text)
    if hunts:
        text = "Which prey (column) each predator (row) is nearest to, share of steps; first seed."
        named = [(METHODS.label(e["method"]), e) for e in hunts]
        drawn["chased"] = Drawing(matrices(named, 6, "prey", "predator"), text)
    for task in sorted(set(rows.unique("task")) - {HUNT, PROBE}):
        shown = [
            Panel(f"{task}: return", {"task": task, "metric": "return"}),
            Panel("win rate", {"task": task, "metric": "win_rate"}),
            Panel("distance of masks", {"task": task, "metric": "mask_distance"}),
            Panel("critics' masks", {"task": task, "metric": "critic_mask_distance"}),
        ]
        names = [m for m in METHODS if m not in SCRIPTS]
        if figure := report.curves(rows, METHODS, shown, names=names, xlabel="environment steps"):
            name = task.replace("-", "_").lower()
            drawn[name] = Drawing(figure, f"{task}: mean over seeds with 95 % band.")
    return drawn


def short_name(method: str) -> str:
    """A label that fits above a small panel."""
    return METHODS.label(method).replace("Kaleidoscope, ", "")


def first_of(extras: list[dict[str, Any]], name: str, task: str) -> list[dict[str, Any]]:
    """The arrays of that name of each method's first seed, in the order of the methods."""
    mine = [e for e in extras if e["name"].startswith(name) and e["task"] == task]
    found = []
    for method in METHODS:
        seeds = [e["seed"] for e in mine if e["method"] == method]
        found += [e for e in mine if e["method"] == method and e["seed"] == min(seeds)]
    return found


def hunt_figure(rows: Rows, extras: list[dict[str, Any]], there: list[str]) -> Figure:
    """Three curves above, three matrices below."""
    figure, axes = panels(2, 3, width=3.1, height=2.5)
    colour, dash, lines = METHODS.colours(), METHODS.dashes(), {}
    shown = {"return": "return", "covered": "both preys covered", "mask_distance": "mask distance"}
    for ax, (metric, title) in zip(axes[0], shown.items(), strict=True):
        for name in there:
            try:
                x, values = rows.of(task=HUNT, method=name, metric=metric).curve()
            except NoResults:
                continue
            curve(ax, x / 1000, values, color=colour[name], linestyle=dash[name])
            lines.setdefault(METHODS.label(name), ax.lines[-1])
        ax.set(title=title, xlabel="thousand steps")
    masks = {e["method"]: e for e in first_of(extras, f"overlap_{LAYER}", HUNT)}
    hunts = {e["method"]: e for e in first_of(extras, "chased", HUNT)}
    below = [("masks", masks.get("kaleidoscope"), "agent", "agent")]
    rival = next((name for name in ("fups-id", "fups") if name in hunts), "fups")
    for name in (rival, "kaleidoscope"):
        below.append((METHODS.label(name), hunts.get(name), "prey", "predator"))
    for ax, (title, extra, x, y) in zip(axes[1], below, strict=True):
        matrix(ax, title, extra, x, y)
    report.legend_below(figure, lines)
    return figure


def matrices(named: list[tuple[str, dict[str, Any]]], columns: int, x: str, y: str) -> Figure:
    """Small matrices side by side."""
    figure, axes = report.axes_for(len(named), columns, 1.9, 1.9)
    for ax, (title, extra) in zip(axes, named, strict=True):
        matrix(ax, title, extra, x, y)
    return figure


def matrix(ax: Axes, title: str, extra: dict[str, Any] | None, x: str, y: str) -> None:
    """A small matrix with its numbers; an empty panel where there is none."""
    ax.grid(False)
    ax.set(title=title, xlabel=x, ylabel=y, xticks=[], yticks=[])
    if extra is None:
        return
    data = np.array(extra["data"])
    ax.imshow(data, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(data):
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="w" if value < 0.6 else "k")


if __name__ == "__main__":
    report.report_cli(tables, figures)
