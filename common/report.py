"""Tables and figures of the rows: what papers' ``report.py`` declare and this module builds.

Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from common import files, plotting
from common.claims import plain
from common.cli import run_cli
from common.methods import Methods
from common.plotting import Axes, Figure
from common.rows import NoResults, Rows
from common.stats import Interval, loglog_slope, mean_ci

DASH = "–"


@dataclass(frozen=True)
class Table:
    """Strings and numbers, row by row.

    Attributes:
        title: what is shown, of which seeds, in which unit.
        columns: heads.
        rows: cells; numbers get four digits, None a dash.
        main: the one of the README (at most 12 rows and 8 columns).
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    main: bool = False


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption.

    Attributes:
        figure: at most six panels where it is ``main``.
        caption: what is drawn, of which seeds, what colours and marks mean, and which methods lie
            on each other.
        main: the one of the README.
    """

    figure: Figure
    caption: str
    main: bool = False


# -- tables -------------------------------------------------------------------------------------


def cell(rows: Rows) -> str:
    """Mean with its interval, one value as it is, a dash for none."""
    try:
        sample = rows.values(least=1)
    except NoResults:
        return DASH
    return str(mean_ci(sample)) if len(sample) > 1 else f"{sample[0]:.3g}"


def shown(compute: Callable[[Rows], Any]) -> Callable[[Rows], str]:
    """A cell with what is computed of its rows; a dash where they are missing."""

    @wraps(compute)
    def show(rows: Rows) -> str:
        try:
            return str(compute(rows))
        except NoResults:
            return DASH

    return show


def mean(digits: int = 2) -> Callable[[Rows], str]:
    """A cell with the mean alone."""
    return shown(lambda rows: f"{rows.value():,.{digits}f}")


def last(rows: Rows) -> str:
    """Mean of a curve's last values with its interval, a dash for none."""
    try:
        ends = rows.curve()[1][:, -1]
    except NoResults:
        return DASH
    return str(mean_ci(ends)) if len(ends) > 1 else f"{ends[0]:.3g}"


@dataclass(frozen=True)
class Column:
    """A column of :func:`grid`.

    Attributes:
        title: its head.
        of: labels that its rows have (``{"metric": "area", "task": "grid-tb"}``).
        best: mark the line with the largest or smallest mean.
        show: rows -> text of a cell.
        value: rows -> the number that "best" compares; default: the mean over seeds.
    """

    title: str
    of: Mapping[str, Any] = field(default_factory=dict)
    best: Literal["max", "min"] | None = None
    show: Callable[[Rows], str] = cell
    value: Callable[[Rows], float] = Rows.value


def grid(
    rows: Rows,
    title: str,
    lines: Sequence[tuple[str, Mapping[str, Any]]],
    columns: Sequence[Column],
    *,
    corner: str = "",
    main: bool = False,
    unmarked: Sequence[str] = (),
) -> Table:
    """A table of lines x columns; a line without any result is left out.

    Args:
        rows: all rows.
        title: of the table.
        lines: label of a line and the labels of its rows, e.g. ``("DB", {"method": "db"})``.
        columns: see :class:`Column`.
        corner: head of the first column.
        main: the table of the README.
        unmarked: labels of lines that are no candidates for the best (oracles, bounds).
    """
    body, means = [], []
    for label, of in lines:
        parts = [rows.of(**of, **column.of) for column in columns]
        if any(parts):
            body.append([label, *(c.show(p) for c, p in zip(columns, parts, strict=True))])
            pairs = zip(columns, parts, strict=True)
            means.append([np.nan if label in unmarked else _number(c, p) for c, p in pairs])
    for j, column in enumerate(columns):
        found = np.array([line[j] for line in means], dtype=float)
        if column.best and np.isfinite(found).sum() > 1:
            best = int(np.nanargmax(found) if column.best == "max" else np.nanargmin(found))
            body[best][j + 1] = f"**{body[best][j + 1]}**"
    return Table(title, [corner, *(column.title for column in columns)], body, main)


def _number(column: Column, rows: Rows) -> float:
    """What decides the best of a column, NaN where there is no such number."""
    try:
        return column.value(rows)
    except (NoResults, ValueError):
        return float("nan")


def by_method(methods: Methods[Any], names: Sequence[str] | None = None) -> list[tuple[str, dict]]:
    """Lines of :func:`grid`, one per method of the table, added ones included."""
    return [(methods.label(n), {"method": n}) for n in (names or list(methods))]


def tuning(
    rows: Rows,
    methods: Methods[Any],
    of: Mapping[str, Any],
    along: Sequence[str],
    *,
    title: str,
    best: Literal["max", "min"] = "min",
) -> Table:
    """The grid of a tuning: median over seeds per method and combination, each one's best marked.

    Args:
        rows: of the scale ``tuning``.
        methods: the paper's table.
        of: labels of the quantity that decides (task, metric).
        along: labels that the grid varies ("lr", "clip", …).
        title: of the table; says what the quantity is.
        best: what is chosen.
    """
    chosen = rows.of(**of)
    there = chosen.frame[list(along)].drop_duplicates().sort_values(list(along))
    settings = [dict(zip(along, line, strict=True)) for line in there.itertuples(index=False)]
    body = []
    for label, mine in by_method(methods):
        cells = [chosen.of(**mine, **s) for s in settings]
        if not any(cells):
            continue
        medians = [float(np.median(c.values(least=1))) if c else np.nan for c in cells]
        pick = int(np.nanargmax(medians) if best == "max" else np.nanargmin(medians))
        texts = [DASH if np.isnan(m) else f"{m:.3g}" for m in medians]
        texts[pick] = f"**{texts[pick]}**"
        body.append([label, *texts])
    heads = [", ".join(f"{k}={v:g}" for k, v in s.items()) for s in settings]
    return Table(title, ["method", *heads], body)


def power_law(base: str, exponent: Interval) -> str:
    """base^exponent with the exponent's interval; two decimals say what a rate is."""
    return f"{base}^{exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]"


# -- figures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A panel of a figure.

    Attributes:
        title: above it.
        of: labels of its rows.
        ylabel: name of the quantity.
        against: metric that is spent evenly over the steps (reward calls, FLOPs): the abscissa
            instead of the step, in its own unit.
        log: "x", "y" or "xy": logarithmic axes of this panel.
    """

    title: str
    of: Mapping[str, Any]
    ylabel: str = ""
    against: str = ""
    log: str = ""


def curves(
    rows: Rows,
    methods: Methods[Any],
    panels: Sequence[Panel],
    *,
    names: Sequence[str] | None = None,
    xlabel: str = "step",
    log: str = "",
    width: float = 3.2,
    columns: int = 3,
    **limits: Any,
) -> Figure | None:
    """Curves with bands (mean over seeds, 95 % interval), a panel each; None without any curve.

    Args:
        rows: all rows.
        methods: the paper's table: labels, colours, line styles.
        panels: at most six in the README's figure.
        names: methods to draw; default: all that have rows.
        xlabel: of all panels.
        log: "x", "y" or "xy": logarithmic axes.
        width: of a panel, in inches.
        columns: panels beside each other.
        limits: for ``Axes.set`` (ylim, xlim, …).
    """
    colour, dash = methods.colours(), methods.dashes()
    there = [panel for panel in panels if rows.of(**panel.of)]
    if not there:
        return None
    figure, axes = axes_for(len(there), columns, width)
    drawn: dict[str, Any] = {}
    for ax, panel in zip(axes, there, strict=True):
        for name in names or list(methods):
            try:
                x, values = _abscissa(rows.of(method=name), panel)
            except NoResults:
                continue
            plotting.curve(
                ax,
                x,
                values,
                label=methods.label(name),
                color=colour[name],
                linestyle=dash[name],
            )
            drawn.setdefault(methods.label(name), ax.lines[-1])
        label = panel.against.replace("_", " ") or xlabel
        ax.set(title=panel.title, xlabel=label, ylabel=panel.ylabel, **limits)
        _logarithmic(ax, panel.log or log)
    legend_below(figure, drawn)
    return figure


def _abscissa(rows: Rows, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """A panel's curve of one method, over steps or over what they spend."""
    steps, values = _aligned(*rows.of(**panel.of).curve())
    if not panel.against:
        return steps, values
    spent = rows.of(**{**panel.of, "metric": panel.against}).value()
    return steps * spent / steps[-1], values


def _aligned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seeds that were logged at different steps (whole episodes), interpolated where all have begun
    and none has ended.

    Args:
        steps: [T].
        values: NaN where a seed was not logged. [n_seeds, T]
    """
    missing = np.isnan(values)
    if not missing.any() or missing.all(1).any():
        return steps, values
    first = max(steps[~none][0] for none in missing)
    last = min(steps[~none][-1] for none in missing)
    common = steps[(first <= steps) & (steps <= last)]
    pairs = zip(values, missing, strict=True)
    return common, np.array([np.interp(common, steps[~m], seed[~m]) for seed, m in pairs])


def intervals(
    rows: Rows,
    methods: Methods[Any],
    panels: Sequence[Panel],
    *,
    names: Sequence[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    log: str = "",
    width: float = 3.4,
    columns: int = 3,
) -> Figure | None:
    """Means with intervals side by side, a line per method, a panel per quantity; seeds as dots.

    Args:
        thresholds: by the panel's title: a dashed line at the claim's threshold or a bound.
    """
    colour = methods.colours()
    there = [panel for panel in panels if rows.of(**panel.of)]
    if not there:
        return None
    known = [
        n for n in (names or list(methods)) if any(rows.of(method=n, **panel.of) for panel in there)
    ]
    height = 0.6 + 0.28 * len(known)
    figure, axes = axes_for(len(there), columns, width, height, sharey=True)
    for ax, panel in zip(axes, there, strict=True):
        for i, name in enumerate(known):
            try:
                sample = rows.of(method=name, **panel.of).values(least=1)
            except NoResults:
                continue
            ax.plot(sample, np.full(len(sample), i), ".", color=colour[name], alpha=0.35, ms=5)
            interval_mark(ax, sample, i, colour[name])
        if thresholds and panel.title in thresholds:
            ax.axvline(thresholds[panel.title], color="0.4", linestyle="--", linewidth=1)
        ax.set(title=panel.title, xlabel=panel.ylabel)
        _logarithmic(ax, log)
        ax.set_ylim(len(known) - 0.5, -0.5)
    for ax in axes:
        ax.set_yticks(range(len(known)), [methods.label(n) for n in known])
    return figure


def interval_mark(ax: Axes, sample: np.ndarray, at: float, colour: str) -> None:
    """A mean with its 95 % interval as a horizontal bar at height ``at``."""
    ci = mean_ci(sample) if len(sample) > 1 else Interval(sample[0], sample[0], sample[0], 1)
    ax.plot([ci.low, ci.high], [at, at], color=colour, linewidth=2.2, solid_capstyle="butt")
    ax.plot([ci.value], [at], "o", color=colour, markersize=5)


def heatmaps(
    maps: Sequence[tuple[str, ArrayLike]],
    *,
    root: bool = False,
    width: float = 1.9,
    columns: int = 6,
    shared: bool = True,
    bar: str = "",
) -> Figure | None:
    """Distributions or matrices as heat maps; None without any.

    Args:
        maps: title and [rows, columns] each.
        root: colours by the square root (densities whose peaks hide the rest).
        shared: one colour scale, that of the first map.
        bar: label of a colour bar; none without.
    """
    if not maps:
        return None
    data = [(title, np.asarray(values, dtype=float)) for title, values in maps]
    shown = [(title, np.sqrt(values) if root else values) for title, values in data]
    top = float(np.nanmax(shown[0][1])) if shared else None
    low = min(0.0, float(np.nanmin(shown[0][1]))) if shared else None
    figure, axes = axes_for(len(shown), columns, width, width + 0.25)
    image = None
    for ax, (title, values) in zip(axes, shown, strict=True):
        image = ax.imshow(values, origin="lower", vmin=low, vmax=top, cmap="viridis")
        ax.set_title(title, fontsize=8)
        ax.grid(False)
        ax.set_xticks([])
        ax.set_yticks([])
    if bar and image is not None:
        figure.colorbar(image, ax=axes, shrink=0.8, label=bar)
    return figure


def frontier(
    rows: Rows,
    methods: Methods[Any],
    panels: Sequence[tuple[Panel, Panel]],
    *,
    names: Sequence[str] | None = None,
    along: str | None = None,
    log: str = "",
    width: float = 3.6,
    columns: int = 3,
) -> Figure | None:
    """One quantity against another with intervals in both, a line per method along a label.

    Args:
        panels: (x, y) each; the title is that of x, the axes' names the two ``ylabel``.
        along: label whose values make a method's line (a temperature, a number of calls).
    """
    colour = methods.colours()
    there = [pair for pair in panels if all(rows.of(**panel.of) for panel in pair)]
    if not there:
        return None
    figure, axes = axes_for(len(there), columns, width)
    drawn: dict[str, Any] = {}
    for ax, (x, y) in zip(axes, there, strict=True):
        for name in names or list(methods):
            mine = [rows.of(method=name, **panel.of) for panel in (x, y)]
            steps = mine[0].unique(along) if along else [None]
            points = [
                [cell_interval(part.of(**{along: s}) if along else part) for part in mine]
                for s in steps
            ]
            kept = [(a, b) for a, b in points if a is not None and b is not None]
            if not kept:
                continue
            for a, b in kept:
                ax.plot([a.low, a.high], [b.value] * 2, color=colour[name], linewidth=1, alpha=0.6)
                ax.plot([a.value] * 2, [b.low, b.high], color=colour[name], linewidth=1, alpha=0.6)
            (line,) = ax.plot(
                [a.value for a, _ in kept],
                [b.value for _, b in kept],
                "o-",
                color=colour[name],
                markersize=4,
                linewidth=1,
                label=methods.label(name),
            )
            drawn.setdefault(methods.label(name), line)
        ax.set(title=x.title, xlabel=x.ylabel, ylabel=y.ylabel)
        _logarithmic(ax, log)
    legend_below(figure, drawn)
    return figure


def cell_interval(rows: Rows) -> Interval | None:
    """Interval of the mean; a single value as its own interval; None without values."""
    try:
        sample = rows.values(least=1)
    except NoResults:
        return None
    if len(sample) > 1:
        return mean_ci(sample)
    return Interval(sample[0], sample[0], sample[0], 1)


def growth(ax: Axes, x: ArrayLike, curves: ArrayLike, label: str, colour: str, of: str) -> str:
    """Draw a quantity against its size on log-log axes with its fitted power law.

    Args:
        ax: where to draw.
        x: [T] sizes.
        curves: [n_seeds, T] positive values.
        label: of the line.
        colour: of the line.
        of: name of the size, in the law.

    Returns:
        The law, e.g. ``T^0.52 [0.50, 0.55]``.
    """
    law = power_law(of, loglog_slope(x, curves, t_min=0))
    plotting.curve(ax, x, curves, color=colour, label=f"{label}: {law}", marker="o", markersize=3)
    ax.set(xscale="log", yscale="log")
    return law


def axes_for(
    n: int, columns: int, width: float, height: float = 2.5, **kwargs: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with ``n`` axes, at most ``columns`` in a row, each so wide and high (inches)."""
    wide = min(n, columns)
    figure, axes = plotting.panels(-(-n // wide), wide, width=width, height=height, **kwargs)
    flat = list(axes.flat)
    for spare in flat[n:]:
        spare.remove()
    return figure, flat[:n]


def _logarithmic(ax: Axes, log: str) -> None:
    """Logarithmic axes; a linear abscissa gets few enough ticks that their labels keep apart."""
    if "x" in log:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    if "y" in log:
        ax.set_yscale("log")


def legend_below(figure: Figure, drawn: Mapping[str, Any], columns: int = 4) -> None:
    """One legend for all panels, below them: never over the data, never wider than the figure."""
    for ncols in range(min(columns, len(drawn)), 0, -1):  # none drawn, no legend
        legend = figure.legend(
            drawn.values(), drawn.keys(), loc="outside lower center", ncols=ncols, fontsize=8
        )
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


# -- command line -------------------------------------------------------------------------------

Extras = list[dict[str, Any]]


@dataclass
class ReportConfig:
    """Make a paper's tables and figures from its rows."""

    results: Path  # results.json with the rows
    scale: str = "default"  # scale the rows come from
    out: Path = Path("judged")  # folder for report.json and the figures


def report_cli(
    tables: Callable[[Rows], Sequence[Table]],
    figures: Callable[[Rows, Extras], Mapping[str, Drawing]],
) -> None:
    """Command line of a paper's ``report.py``: rows in; ``report.json`` and figures out."""

    def run(cfg: ReportConfig) -> None:
        results = files.read_json(cfg.results)
        rows = Rows(results["rows"])
        drawn = figures(rows, results.get("extras", []))
        files.write_json(cfg.out / "report.json", report(tables(rows), drawn))
        for name, drawing in drawn.items():
            drawing.figure.savefig(cfg.out / f"{name}.png", metadata={"Software": None})

    run_cli(run, ReportConfig)


def report(tables: Sequence[Table], drawn: Mapping[str, Drawing]) -> dict[str, Any]:
    """Tables and captions as JSON values."""
    return {
        "tables": [
            plain(
                {
                    "title": table.title,
                    "columns": list(table.columns),
                    "rows": [list(row) for row in table.rows],
                    "main": table.main,
                }
            )
            for table in tables
        ],
        "figures": [
            {"name": name, "caption": drawing.caption, "main": drawing.main}
            for name, drawing in drawn.items()
        ],
    }
