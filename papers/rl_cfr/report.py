"""Tables and figures of RL-CFR: gains and their cost, the confound of T, Leduc, learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.plotting import Figure, panels
from common.report import (
    Column,
    Drawing,
    Panel,
    Table,
    by_method,
    curves,
    grid,
    report_cli,
    shown,
)
from common.rows import Rows
from papers.rl_cfr.claims import GAME, matrix, mean_of
from papers.rl_cfr.methods import METHODS


@shown
def signed(rows: Rows) -> str:
    """Cell: mean over seeds and deals with its interval."""
    ci = mean_of(rows)
    return f"{ci.value:+.2f} [{ci.low:+.2f}, {ci.high:+.2f}]"


def average(digits: int, factor: float = 1.0) -> Callable[[Rows], str]:
    """Cell: mean over seeds and deals."""
    return shown(lambda rows: f"{factor * matrix(rows).mean():.{digits}f}")


@shown
def raises(rows: Rows) -> str:
    """Cell: the raises of a fixed abstraction, in pots."""
    return ", ".join(f"{x:g}" for x in matrix(rows)[0])


def value(rows: Rows) -> float:
    """What the best of a column is compared by."""
    return float(matrix(rows).mean())


def main_table(rows: Rows) -> Table:
    """Method × gains, security loss, head to head, nodes, raises."""
    names = [name for name in METHODS if rows.of(task=GAME, method=name)]
    columns = [
        Column("root gain", {"metric": "gain"}, "max", signed, value),
        Column("gain, deeper states", {"metric": "gain_deep"}, "max", signed, value),
        Column("security loss", {"metric": "security_loss"}, "min", signed, value),
        Column("head to head with default", {"metric": "head_to_head"}, "max", signed, value),
        Column("nodes", {"metric": "nodes"}, show=average(1)),
        Column("raises, pots", {"metric": "size"}, show=raises),
    ]
    title = (
        "PREFLOP43, mbb/hand on the same held-out deals, solved to convergence; GRID oracle: best "
        "single size for this very state, by search"
    )
    return grid(
        rows.of(task=GAME),
        title,
        by_method(METHODS, names),
        columns,
        corner="abstraction",
        main=True,
        unmarked=["GRID oracle"],
    )


def tables(rows: Rows) -> list[Table]:
    """Main table, confound of T, solver errors and cost, Leduc."""
    result = [main_table(rows)]
    how = {
        "converged": "gain",
        "T = 250": "gain_t250",
        "T = 250, iterates' values": "gain_iterates_t250",
    }
    result.append(
        grid(
            rows.of(task=GAME),
            "Gain over the default by how the trees are solved, mbb/hand",
            by_method(METHODS),
            [Column(head, {"metric": metric}, show=signed) for head, metric in how.items()],
            corner="abstraction",
        )
    )
    cost = [
        Column("solver error", {"metric": "exploitability"}, show=average(3)),
        Column("… of the default's tree", {"metric": "exploitability_default"}, show=average(3)),
        Column("largest", {"metric": "worst_exploitability"}, show=average(3)),
        Column("ms/solve", {"metric": "seconds"}, show=average(1, 1e3)),
        Column("… of the default's", {"metric": "seconds_default"}, show=average(1, 1e3)),
    ]
    title = (
        "What a tree costs and how exact it is (a gain below the two errors is noise; the seconds "
        "hold the machine's other load)"
    )
    result.append(grid(rows.of(task=GAME), title, by_method(METHODS), cost, corner="abstraction"))
    result += [leduc_table(rows, task) for task in rows.unique("task") if task != GAME]
    return [table for table in result if table.rows]


def leduc_table(rows: Rows, task: str) -> Table:
    """Exploitability of own bets in the full game of no-limit Leduc."""
    lines = [
        ("all bets" if name == "fine" else label, {"method": name})
        for name, label in ((n, METHODS.label(n)) for n in METHODS)
    ]
    columns = [
        Column("exploitability (OpenSpiel)", {"metric": "exploitability"}, show=average(3)),
        Column("security loss (our values)", {"metric": "security_loss"}, show=average(3)),
        Column("solver error", {"metric": "solver_exploitability"}, show=average(3)),
        Column("nodes", {"metric": "nodes"}, show=average(0)),
    ]
    stack = task.rsplit("-", maxsplit=1)[1]
    title = f"No-limit Leduc, stack {stack}: full game, thousandths of a chip per hand"
    return grid(rows.of(task=task), title, lines, columns, corner="own bets")


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Gains against nodes (main), learning, sizes by stack depth."""
    drawn: dict[str, Drawing] = {}
    if rows.of(task=GAME, metric="gain"):
        text = (
            "Root gain over the default abstraction (converged, mean over held-out deals, 95 % "
            "interval over deals and seeds) against the nodes of the tree: up and to the left is "
            "better. TUNED-FIXED is one pair of raises for all states, the GRID oracle searches "
            "the best single raise for each."
        )
        drawn["gain_and_nodes"] = Drawing(draw_gains(rows.of(task=GAME)), text, main=True)
    learning = [
        Panel("while exploring", {"task": GAME, "metric": "training_reward"}, "reward, mbb/hand"),
        Panel("chosen trees", {"task": GAME, "metric": "training_nodes"}, "nodes"),
    ]
    if figure := curves(rows, METHODS, learning, xlabel="samples", width=3.8):
        text = (
            "Mean reward of the explored actions (noise and all, so below the gain of the policy "
            "itself) and nodes of their trees, against samples; band over the seeds. The dip at "
            "about 1,900 samples is where the nodes below the root begin to use the policy."
        )
        drawn["learning"] = Drawing(figure, text)
    sizes = [e for e in extras if e["name"] == "sizes" and e["method"] == "rl_cfr"]
    if sizes:
        text = (
            "Raises that the learned policy adds at the held-out roots, per state, by depth of the "
            "stack, all seeds pooled: a little larger where the stack is deep."
        )
        figure = draw_sizes([line for e in sizes for line in e["data"]])
        drawn["sizes_by_stack"] = Drawing(figure, text)
    return drawn


def draw_gains(rows: Rows) -> Figure:
    """Gain against nodes."""
    figure, axes = panels(1, 1, width=6.0, height=3.4)
    ax, colour = axes[0, 0], METHODS.colours()
    for name in METHODS:
        own = rows.of(method=name)
        if not own.of(metric="gain"):
            continue
        ci, nodes = mean_of(own.of(metric="gain")), matrix(own.of(metric="nodes")).mean()
        error = [[ci.value - ci.low], [ci.high - ci.value]]
        label = METHODS.label(name)
        ax.errorbar(nodes, ci.value, yerr=error, fmt="o", color=colour[name], label=label)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set(xlabel="nodes of the tree", ylabel="root gain, mbb/hand")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_sizes(lines: list[list[float]]) -> Figure:
    """Histogram of the learned raise sizes at the held-out roots, by stack depth."""
    edges = np.quantile([line[0] for line in lines], [0, 1 / 3, 2 / 3, 1])
    bins = np.array([0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5.01])
    labels = ["none", *(f"{low:g}–{high:.2g}" for low, high in zip(bins, bins[1:], strict=False))]
    figure, axes = panels(1, 3, width=2.9, height=2.5, sharey=True)
    for k, ax in enumerate(axes[0]):
        inside = [x for x in lines if edges[k] <= x[0] <= edges[k + 1]]
        sizes = [size for line in inside for size in line[1:]]
        share = np.histogram(sizes, bins)[0] / max(1, len(inside))
        none = np.mean([len(line) == 1 for line in inside]) if inside else 0.0
        ax.bar(range(len(labels)), [none, *share], color=METHODS.colours()["rl_cfr"])
        ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
        ax.set_title(f"stack {edges[k]:.1f}–{edges[k + 1]:.1f} BB")
        ax.set_xlabel("raise, pots")
    axes[0, 0].set_ylabel("per state")
    return figure


if __name__ == "__main__":
    report_cli(tables, figures)
