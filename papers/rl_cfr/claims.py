"""The claims of RL-CFR as functions of the rows, and what its README shows.

Every method is measured on the same held-out deals. Intervals come from a bootstrap of deals and of
seeds at once (Owen's pigeonhole bootstrap, which errs on the wide side), expanded for few seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.claims_v1 import (
    INCONCLUSIVE,
    Claim,
    Judgement,
    NoResults,
    Table,
    all_of,
    by_interval,
    claims_cli,
    not_worse,
)
from common.plotting import colours, curve, panels
from common.stats import Interval, expanded_level

Matrix = NDArray[np.float64]  # [seeds, deals]

LABELS = {
    "rl_cfr": "RL-CFR",
    "rl_cfr_t250": "RL-CFR, reward of T = 250 iterates",
    "rl_cfr_no_trust": "RL-CFR without trust",
    "rl_cfr_pbs": "RL-CFR with ranges as input, no trust",
    "rl_cfr_no_baseline": "RL-CFR without default baseline",
    "default": "default",
    "tuned_fixed": "TUNED-FIXED",
    "fine": "FINE (8 sizes)",
    "random": "random",
    "no_raise": "no raises",
    "grid_oracle": "GRID oracle (best single size)",
}
MARGIN = 0.5  # mbb, C4
RESAMPLES = 4_000
SEED = 24_03_04344


# -- reading the rows ----------------------------------------------------------------------------


def matrix(rows: pd.DataFrame, method: str, metric: str, task: str = "preflop43") -> Matrix:
    """Values [seeds, deals] of a metric, or [seeds, 1] of a scalar one."""
    cell = rows[(rows.method == method) & (rows.metric == metric) & (rows.task == task)]
    if cell.empty:
        raise NoResults(f"no {metric} of {LABELS.get(method, method)}")
    table = cell.assign(step=cell["step"].fillna(0) if "step" in cell else 0.0)
    return table.pivot(index="seed", columns="step", values="value").sort_index().to_numpy(float)


def two_way(statistic: Callable[..., Any], *cells: Matrix) -> Interval:
    """Interval of a statistic of the means of cells [seeds, deals] that share their deals.

    Deals are resampled jointly, the seeds of each cell on their own; a cell of one seed (a method
    without training) keeps it.

    Args:
        statistic: of as many means (numbers, or arrays of resampled means) as there are cells.
    """
    rng = np.random.default_rng(SEED)
    n_deals = cells[0].shape[1]
    deals = rng.multinomial(n_deals, np.full(n_deals, 1 / n_deals), RESAMPLES) / n_deals
    means = []
    for cell in cells:
        n = len(cell)
        seeds = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
        means.append(((seeds @ cell) * deals).sum(1))
    fewest = min((len(cell) for cell in cells if len(cell) > 1), default=n_deals)
    if n_deals > 1:
        fewest = min(fewest, n_deals)
    value = float(statistic(*(cell.mean() for cell in cells)))
    if fewest < 2:
        return Interval(value, value, value, fewest)
    tail = (1 - min(expanded_level(fewest), 1 - 1e-12)) / 2
    low, high = np.quantile(statistic(*means), [tail, 1 - tail])
    return Interval(value, float(low), float(high), fewest)


def first(x: Any) -> Any:
    return x


def difference(x: Any, y: Any) -> Any:
    return x - y


def ratio(x: Any, y: Any) -> Any:
    return x / y


# -- claims --------------------------------------------------------------------------------------


def c1(rows: pd.DataFrame) -> Judgement:
    """Root gain over the default abstraction, at convergence; solver error stands beside."""
    ci = two_way(first, matrix(rows, "rl_cfr", "gain"))
    gaps = ("exploitability", "exploitability_default")
    noise = float(sum(matrix(rows, "rl_cfr", name).mean() for name in gaps))
    judged = by_interval(ci, ours=f"{ci} mbb/hand (solver error {noise:.3f})", solver_error=noise)
    if abs(ci.value) < noise:
        return Judgement(INCONCLUSIVE, judged.ours, judged.evidence)
    return judged


def c2(rows: pd.DataFrame) -> Judgement:
    """Nodes and seconds of the trees of (i) against those of the default."""
    parts = {}
    for name in ("nodes", "seconds"):
        own, default = (matrix(rows, "rl_cfr", name + end) for end in ("", "_default"))
        parts[name] = by_interval(two_way(ratio, own, default), 1.1, above=False)
    return all_of(parts)


def c3(rows: pd.DataFrame) -> Judgement:
    """Root gain minus that of random abstractions."""
    own, drawn = matrix(rows, "rl_cfr", "gain"), matrix(rows, "random", "gain")
    ci = two_way(difference, own, drawn)
    return by_interval(ci, ours=f"{ci} mbb/hand (random itself {two_way(first, drawn)})")


def c4(rows: pd.DataFrame) -> Judgement:
    """Security loss at all own nodes, against FINE, minus the default's."""
    own = matrix(rows, "rl_cfr", "security_loss")
    default = matrix(rows, "default", "security_loss")
    less = two_way(difference, default, own)
    text = f"RL-CFR {own.mean():.2f}, default {default.mean():.2f}; default − RL-CFR {less} mbb"
    errors = (matrix(rows, method, "security_error").mean() for method in ("rl_cfr", "default"))
    return not_worse(less, MARGIN, ours=text, solver_error=float(sum(errors)))


def c5(rows: pd.DataFrame) -> Judgement:
    """Gain at least 0.3 of FINE's with at most 0.6 of its nodes."""
    own, fine = matrix(rows, "rl_cfr", "gain"), matrix(rows, "fine", "gain")
    over = two_way(lambda x, y: x - 0.3 * y, own, fine)
    nodes = matrix(rows, "rl_cfr", "nodes"), matrix(rows, "fine", "nodes")
    share = two_way(ratio, *nodes)
    text = f"{own.mean():.2f} of {fine.mean():.2f} mbb, gain − 0.3 gain(FINE) = {over}"
    return all_of(
        {
            "gain": by_interval(over, ours=text),
            "nodes": by_interval(share, 0.6, above=False, ours=f"{share} of FINE's nodes"),
        }
    )


def c6(rows: pd.DataFrame) -> Judgement:
    """HUNL is out of reach of this folder at any scale."""
    return Judgement("needs paper", "another game: value network and opponents are not published")


HERE = ("default", "paper")
CLAIMS = [
    Claim(
        "C1",
        "The learned abstraction beats the default one: root gain at convergence (T = 4000) above "
        "0 over seeds and held-out deals",
        "Main result, abstract",
        "HUNL, a different game: +64 ± 11 mbb/hand against its ReBeL replication",
        HERE,
        c1,
    ),
    Claim(
        "C2",
        "At no extra solving time: nodes and seconds at most 1.1 times those of the default",
        "Abstract",
        "no increase of CFR solving time",
        HERE,
        c2,
    ),
    Claim(
        "C3",
        "Choosing by state beats random abstractions of the same size: difference of gains above 0",
        "Motivation of the RL",
        "–",
        HERE,
        c3,
    ),
    Claim(
        "C4",
        "It is not more exploitable: security loss against FINE at most the default's + 0.5 mbb",
        "Exploitability table (10k river states)",
        "HUNL river: 17 against 20 mbb/hand",
        HERE,
        c4,
    ),
    Claim(
        "C5",
        "Competitive with a finer fixed abstraction at lower cost: at least 0.3 of FINE's gain "
        "with at most 0.6 of its nodes",
        "Comparison with FINE-GRAIN",
        "HUNL: +23 ± 28 mbb/hand with 4/7 of its time",
        HERE,
        c5,
    ),
    Claim(
        "C6",
        "In HUNL it wins 64 ± 11 mbb/hand from a ReBeL replication and 84 ± 17 from Slumbot",
        "Match tables",
        "+64 ± 11; +84 ± 17 (paper only)",
        ("paper",),
        c6,
    ),
]


# -- what the README shows -----------------------------------------------------------------------


def cell(compute: Callable[[], Any]) -> str:
    """A table's cell, or a dash where nothing was run."""
    try:
        return str(compute())
    except NoResults:
        return "–"


def interval(rows: pd.DataFrame, method: str, metric: str) -> str:
    """Mean with its interval."""

    def compute() -> str:
        values = matrix(rows, method, metric)
        if values.size < 2:
            return f"{values.mean():.2f}"
        ci = two_way(first, values)
        return f"{ci.value:+.2f} [{ci.low:+.2f}, {ci.high:+.2f}]"

    return cell(compute)


def mean(rows: pd.DataFrame, method: str, metric: str, digits: int, factor: float = 1.0) -> str:
    """Mean over seeds and deals."""
    return cell(lambda: f"{factor * matrix(rows, method, metric).mean():.{digits}f}")


def sizes_of(rows: pd.DataFrame, method: str) -> str:
    """The raises of a fixed abstraction."""
    return cell(lambda: ", ".join(f"{x:g}" for x in matrix(rows, method, "size")[0]))


def there(rows: pd.DataFrame, task: str) -> list[str]:
    """Methods of a task, in the order of the labels."""
    names = set(rows[rows.task == task].method)
    return [name for name in LABELS if name in names]


def main_table(rows: pd.DataFrame) -> Table:
    """Method × {gain, security loss, exploitability, nodes, ms/solve}."""
    body = [
        [
            LABELS[m],
            interval(rows, m, "gain"),
            interval(rows, m, "security_loss"),
            interval(rows, m, "head_to_head"),
            mean(rows, m, "exploitability", 3),
            mean(rows, m, "exploitability_default", 3),
            mean(rows, m, "nodes", 1),
            mean(rows, m, "seconds", 1, 1e3),
            sizes_of(rows, m),
        ]
        for m in there(rows, "preflop43")
    ]
    columns = ["", "root gain", "security loss", "head to head with default", "solver error"]
    columns += ["… of the default's tree", "nodes", "ms/solve", "raises, pots"]
    title = "PREFLOP43, mbb/hand on held-out deals (a gain below the two solver errors is noise)"
    return Table(title, columns, body)


def confound_table(rows: pd.DataFrame) -> Table:
    """The same abstractions judged by converged and by unconverged values."""
    body = [
        [
            LABELS[m],
            interval(rows, m, "gain"),
            interval(rows, m, "gain_t250"),
            interval(rows, m, "gain_iterates_t250"),
            interval(rows, m, "gain_deep"),
        ]
        for m in there(rows, "preflop43")
    ]
    columns = ["", "converged", "T = 250", "T = 250, iterates' values", "converged, deeper states"]
    return Table("Gain over the default by how the trees are solved, mbb/hand", columns, body)


def leduc_table(rows: pd.DataFrame, task: str) -> Table:
    """Exploitability in the full game of strategies whose own bets are restricted."""
    body = []
    for m in there(rows, task):

        def one(metric: str, digits: int, m: str = m) -> str:
            return cell(lambda: f"{matrix(rows, m, metric, task).mean():.{digits}f}")

        body.append(
            [LABELS[m] if m != "fine" else "all bets", one("exploitability", 3)]
            + [one("security_loss", 3), one("solver_exploitability", 3), one("nodes", 0)]
        )
    columns = ["own bets", "exploitability (OpenSpiel)", "security loss (our values)"]
    columns += ["solver error", "nodes"]
    stack = task.rsplit("-", maxsplit=1)[1]
    title = f"No-limit Leduc, stack {stack}: full game, thousandths of a chip per hand"
    return Table(title, columns, body)


def tables(rows: pd.DataFrame) -> list[Table]:
    """Main table, confound, Leduc."""
    shown = []
    if (rows.task == "preflop43").any():
        shown += [main_table(rows), confound_table(rows)]
    leduc = sorted({t for t in rows.task if t.startswith("leduc")})
    return shown + [leduc_table(rows, task) for task in leduc]


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Learning curves, gains against nodes, and sizes by stack depth."""
    drawn = {}
    learners = [m for m in there(rows, "preflop43") if m.startswith("rl_cfr")]
    if learners:
        drawn["learning"] = draw_learning(rows, learners)
    if (rows.metric == "gain").any():
        drawn["gain_and_nodes"] = draw_gains(rows)
    sizes = [e for e in extras if e["name"] == "sizes" and e["method"] == "rl_cfr"]
    if sizes:
        drawn["sizes_by_stack"] = draw_sizes([line for e in sizes for line in e["data"]])
    return drawn


def draw_learning(rows: pd.DataFrame, learners: list[str]) -> Figure:
    """Mean reward (with exploration) per round and nodes of the chosen trees, against samples."""
    figure, axes = panels(1, 2, width=4.2, height=2.8)
    for method in learners:
        for panel, metric in zip(axes[0], ("training_reward", "training_nodes"), strict=True):
            part = rows[(rows.method == method) & (rows.metric == metric)]
            table = part.pivot(index="seed", columns="step", values="value")
            color = colours(list(LABELS), "rl_cfr")[method]
            curve(panel, table.columns.to_numpy(float), table.to_numpy(float), color=color)
            panel.lines[-1].set_label(LABELS[method])
    axes[0, 0].axhline(0, color="0.6", linewidth=0.8)
    axes[0, 0].set(xlabel="samples", ylabel="reward, mbb/hand", title="Reward while exploring")
    axes[0, 1].set(xlabel="samples", ylabel="nodes", title="Size of the chosen trees")
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(max(low, -12.0), min(high, 6.0))
    axes[0, 1].legend(fontsize=6)
    return figure


def draw_gains(rows: pd.DataFrame) -> Figure:
    """Gain against nodes: up and to the left is better."""
    figure, axes = panels(1, 1, width=5.0, height=3.2)
    panel = axes[0, 0]
    names = [m for m in there(rows, "preflop43") if (rows[rows.method == m].metric == "gain").any()]
    for method in names:
        values = matrix(rows, method, "gain")
        ci = two_way(first, values)
        nodes = matrix(rows, method, "nodes").mean()
        error = [[ci.value - ci.low], [ci.high - ci.value]]
        color = colours(list(LABELS), "rl_cfr")[method]
        panel.errorbar(nodes, ci.value, yerr=error, fmt="o", color=color, label=LABELS[method])
    panel.axhline(0, color="0.6", linewidth=0.8)
    panel.set(xlabel="nodes of the tree", ylabel="root gain, mbb/hand")
    panel.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_sizes(lines: list[list[float]]) -> Figure:
    """Histogram of the learned raise sizes at the held-out roots, by stack depth."""
    edges = np.quantile([line[0] for line in lines], [0, 1 / 3, 2 / 3, 1])
    bins = np.array([0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5.01])
    figure, axes = panels(1, 3, width=2.9, height=2.5, sharey=True)
    for k, panel in enumerate(axes[0]):
        inside = [x for x in lines if edges[k] <= x[0] <= edges[k + 1]]
        sizes = [size for line in inside for size in line[1:]]
        share = np.histogram(sizes, bins)[0] / max(1, len(inside))
        none = np.mean([len(line) == 1 for line in inside]) if inside else 0.0
        labels = [
            "none",
            *(f"{low:g}–{high:.2g}" for low, high in zip(bins, bins[1:], strict=False)),
        ]
        panel.bar(range(len(labels)), [none, *share], color=colours(["rl_cfr"], "rl_cfr")["rl_cfr"])
        panel.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
        panel.set_title(f"stack {edges[k]:.1f}–{edges[k + 1]:.1f} BB")
        panel.set_xlabel("raise, pots")
    axes[0, 0].set_ylabel("per state")
    return figure


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
