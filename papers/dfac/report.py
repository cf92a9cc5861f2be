"""Tables and figures of DFAC: laws of matrix games, random networks, battles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from common import report
from common.marl.matrix_games import GAMES as TABLES
from common.plotting import Figure, curve
from common.report import Column, Drawing, Panel, Table, by_method, grid, mean
from common.rows import Rows
from papers.dfac.claims import GAME, HARD, MAP, NOISE, RANDOM, RELEASED
from papers.dfac.games import exact_quantiles, joint_actions
from papers.dfac.methods import METHODS
from papers.dfac.task import BATTLES, game_task

MAIN = (*list(METHODS)[:10], "true-means", "untrained")  # of the README's table
NAMES = {GAME: "two-step game", HARD: "harder game"}
DRAWN = ("dmix", "qmix", "ddn", "naive")  # laws in the figure


@report.shown
def percent(part: Rows) -> str:
    """Cell: a share in per cent."""
    return f"{100 * part.value():.1f} %"


@report.shown
def largest(part: Rows) -> str:
    """Cell: the largest value."""
    return f"{part.values(least=1).max():.0e}"


def share_of(title: str, task: str, metric: str) -> Column:
    """A column of shares."""
    return Column(title, {"task": task, "metric": metric}, show=percent)


def error(title: str, task: str, metric: str) -> Column:
    """A column of errors, the least marked."""
    return Column(title, {"task": task, "metric": metric}, "min")


def tables(rows: Rows) -> list[Table]:
    """Main table; random networks; each game; risk; battles; the law of the return; tuning."""
    if is_tuning(rows):
        return tuning(rows)
    unmarked = [METHODS.label(name) for name in METHODS.having("reference")]
    columns = [
        share_of("DIGM violated", RANDOM, "violations"),
        share_of("two-step game: optimal", GAME, "optimal"),
        error("worst mean", GAME, "worst_mean_error"),
        error("W1 of laws", GAME, "w1_mean"),
        share_of("harder game: optimal", HARD, "optimal"),
        error("its W1", HARD, "w1_mean"),
        Column("SMAX-3m: area", {"task": MAP, "metric": "auc"}, "max"),
    ]
    title = (
        "Random networks, seeds that play optimally, errors of means and laws (mean of the last "
        "five evaluations); area under the win-rate curve"
    )
    lines = by_method(METHODS, MAIN)
    made = [grid(rows, title, lines, columns, corner="method", main=True, unmarked=unmarked)]
    columns = [share_of("best actions are not jointly best", RANDOM, "violations")]
    columns.append(share_of("the same for CVaR .25", RANDOM, "cvar_violations"))
    columns.append(Column("largest |E[Z_jt] − Ψ(Q)|", {"metric": "mean_gap"}, show=largest))
    title = "Random networks of 3 agents with 4 actions, all 64 joint actions enumerated"
    made.append(grid(rows.of(task=RANDOM), title, by_method(METHODS), columns, corner="method"))
    for task in (GAME, HARD):
        made += game_tables(rows.of(task=task), task)
    made += [battle_table(rows, task) for task in BATTLES]
    heads = {"W1 of the law": "w1_return", "of its means": "w1_point"}
    heads |= {"W1 of the shape": "w1_shape", "of the means' shape": "w1_shape_point"}
    heads |= {"learnt mean": "law_mean", "played mean": "return_mean"}
    heads |= {"learnt std": "law_std", "played std": "return_std"}
    columns = [Column(head, {"metric": metric}) for head, metric in heads.items()]
    title = "SMAX-3m with noise at the end: Z_jt of the first states against 512 greedy returns"
    made.append(grid(rows.of(task=NOISE), title, by_method(METHODS), columns, corner="method"))
    return [table for table in made if table.rows]


def is_tuning(rows: Rows) -> bool:
    """Whether a task was learnt at several rates."""
    return any(len(rows.of(task=task).unique("lr")) > 1 for task in (GAME, MAP))


def game_tables(rows: Rows, task: str) -> list[Table]:
    """Errors and choices; mean, standard deviation and W1 of every cell; what CVaRs choose."""
    name, methods = NAMES[task], by_method(METHODS)
    columns = [
        share_of("plays optimally", task, "optimal"),
        Column("value of the play", {"metric": "value_of_play", "cvar": 1.0}),
        *(error(t, task, m) for t, m in (("worst mean", "worst_mean_error"), ("W1", "w1_mean"))),
        error("mean of the best cell", task, "best_cell_error"),
        share_of("crossing", task, "crossing"),
    ]
    title = f"The {name}: choices, errors, neighbouring quantiles that cross (last evaluations)"
    made = [grid(rows, title, methods, columns, corner="method")]
    columns = [
        Column(f"{head} {cell}", {"metric": metric, "cell": cell}, show=mean())
        for head, metric in (("mean", "mean"), ("std", "std"), ("W1", "w1"))
        for cell in rows.of(metric="mean").unique("cell")
        if task == GAME or metric == "mean"
    ]
    title = f"The {name}: learnt laws of the joint actions in the state that is judged"
    made.append(grid(rows, title, methods, columns, corner="method"))
    columns = [
        Column(f"CVaR {c:g}", {"metric": "chooses_b", "cvar": c}, show=percent)
        for c in rows.of(metric="chooses_b").unique("cvar")
    ]
    title = (
        f"The {name}: seeds whose agents enter the risky game (best return N(8, 2²), else N(7, 1)) "
        "when they maximise a CVaR; exact laws: yes at 1, no at .25 and .1"
    )
    return [*made, grid(rows, title, methods, columns, corner="method")] if columns else made


def battle_table(rows: Rows, task: str) -> Table:
    """Win rates on a map, and what was spent."""
    columns = [
        Column("area", {"metric": "auc"}, "max"),
        Column("win rate at the end", {"metric": "final_win_rate"}, "max"),
        Column("fixed fractions", {"metric": "won_fixed"}),
        Column("drawn fractions", {"metric": "won_drawn"}),
        Column("updates", {"metric": "updates"}, show=mean(0)),
        Column("environment steps", {"metric": "env_steps"}, show=mean(0)),
        Column("seconds", {"metric": "seconds"}, show=mean(0)),
    ]
    title = f"{task}: win rates of greedy episodes"
    return grid(rows.of(task=task), title, by_method(METHODS), columns, corner="method")


def tuning(rows: Rows) -> list[Table]:
    """The grids of Adam's rate."""
    made = []
    for task, metric, best in ((MAP, "auc", "max"), (GAME, "worst_mean_error", "min")):
        title = f"{task}: {metric.replace('_', ' ')}, median over seeds"
        of = {"task": task, "metric": metric}
        made.append(report.tuning(rows, METHODS, of, ["lr"], title=title, best=best))  # type: ignore[arg-type]
    return made


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Laws and curves (main); the errors in the games; curves of the battles."""
    drawn: dict[str, Drawing] = {}
    if is_tuning(rows):
        return drawn
    found = {e["method"]: e["data"] for e in reversed(extras) if e["task"] == GAME}
    if found:
        text = (
            "Two-step game: learnt quantile functions of its cells (first seed; black: exact), W1 "
            "to the exact laws; greedy win rate. Means, 95 % bands; a scalar's law is a point."
        )
        drawn["laws"] = Drawing(law_figure(rows, found), text, main=True)
    of_game = {"w1_mean": "W1", "worst_mean_error": "worst mean", "optimal": "optimal play"}
    of_battle = {"win_rate": "win rate", "value": "value of batches", "spread": "std of laws"}
    kinds = {GAME: (of_game, "updates"), HARD: (of_game, "updates")}
    kinds |= dict.fromkeys(BATTLES, (of_battle, "environment steps"))
    for task, (metrics, xlabel) in kinds.items():
        shown = [Panel(t, {"task": task, "metric": f"{m}_curve"}) for m, t in metrics.items()]
        if figure := report.curves(rows, METHODS, shown, xlabel=xlabel):
            text = "share of seeds that play optimally" if task in NAMES else "of training batches"
            text += "; DDN's one sample as released has none" if task == RELEASED else ""
            text = f"{NAMES.get(task, task)}: {', '.join(metrics.values())} ({text})"
            drawn[task.replace("-", "_")] = Drawing(figure, f"{text}; mean, 95 % band over seeds.")
    return drawn


def law_figure(rows: Rows, found: Mapping[str, Any]) -> Figure:
    """Quantile functions of the two cells with the least and the largest spread, two curves."""
    colour, dash = METHODS.colours(), METHODS.dashes()
    panels = [(GAME, "w1_mean", "two-step game: W1"), (MAP, "win_rate", "SMAX-3m: win rate")]
    panels = [panel for panel in panels if rows.of(task=panel[0], metric=f"{panel[1]}_curve")]
    figure, axes = report.axes_for(2 + len(panels), 4, 2.9, 2.7)
    task = game_task(GAME)
    game = TABLES[task.game]()
    lines: dict[str, Any] = {}
    for ax, cell in zip(axes[:2], (0, len(joint_actions(game)) - 1), strict=True):
        for name in (n for n in METHODS if n in found and n in (*DRAWN, *METHODS.having("added"))):
            law = np.array(found[name][cell])
            levels = (np.arange(len(law)) + 0.5) / len(law)
            (line,) = ax.plot(levels, law, color=colour[name], linestyle=dash[name])
            lines.setdefault(METHODS.label(name), line)
        exact = exact_quantiles(game, task.state)[cell]
        levels = (np.arange(len(exact)) + 0.5) / len(exact)
        (line,) = ax.plot(levels, exact, color="black", linewidth=0.9)
        lines["exact"] = line
        actions = ", ".join(map(str, joint_actions(game)[cell]))
        ax.set(title=f"law of ({actions})", xlabel="level", ylabel="return")
    for ax, (where, metric, title) in zip(axes[2:], panels, strict=True):
        of = rows.of(task=where, metric=f"{metric}_curve")
        for name in METHODS:
            mine = of.of(method=name)
            if mine and name in (*MAIN, *METHODS.having("added")):
                steps, values = mine.curve()
                curve(ax, steps / 1_000, values, color=colour[name], linestyle=dash[name])
                lines.setdefault(METHODS.label(name), ax.lines[-1])
        ax.set(title=title, xlabel="thousand updates" if where == GAME else "thousand steps")
    report.legend_below(figure, lines)
    return figure


if __name__ == "__main__":
    report.report_cli(tables, figures)
