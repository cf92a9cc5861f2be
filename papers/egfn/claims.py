"""The paper's claims as functions of the results, its tables and its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from common import plotting
from common.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
    Claim,
    Judgement,
    Table,
    all_of,
    by_interval,
    claims_cli,
)
from common.plotting import Figure
from common.stats import Interval, mean_ci
from papers.egfn.task import GRIDS

NAMES = {
    "egfn-db": "EGFN-DB",
    "db": "DB",
    "db-prb": "DB + PRB",
    "db-2.25x": "DB, equal calls",
    "egfn-random": "random population",
    "egfn-no-mutation": "EGFN, no mutation",
    "egfn-tb": "EGFN-TB",
    "tb": "TB",
    "egfn-fm": "EGFN-FM",
    "fm": "FM",
    "tb-prb": "TB + PRB",
    "db-replay": "DB + plain replay",
    "egfn-no-crossover": "EGFN, no crossover",
    "egfn-plain": "EGFN, no PRB, no mutation",
    "egfn-ties": "EGFN, ties replace",
    "egfn-polluted": "EGFN, polluted fitness",
    "egfn-feedback": "EGFN, feedback",
    "egfn-proportional": "EGFN, draws by reward",
}
OURS = ("egfn-db", "egfn-tb", "egfn-fm")
TITLES = {
    "grid-s": "S: D=3, H=20, R0=1e-5",
    "grid-m": "M: D=4, H=20, R0=1e-5",
    "grid-l": "L: D=5, H=20, R0=1e-5",
    "grid-l4": "L with R0=1e-4",
    "grid-l3": "L with R0=1e-3",
    "objective": "D=5, H=16, R0=1e-4",
    "ablation": "D=3, H=16, R0=1e-5",
    "map": "D=2, H=20, R0=1e-5",
    "smoke": "D=2, H=12, R0=1e-5",
}
SCALES = ("default", "paper")
EARLY = 1000  # step at which the regions are also told


def by_seed(rows: pd.DataFrame, task: str, method: str, metric: str) -> pd.Series:
    """One number per seed (rows without a value left out)."""
    at = (rows.task == task) & (rows.method == method) & (rows.metric == metric)
    return rows[at].set_index("seed").value.dropna().astype(float).sort_index()


def values(rows: pd.DataFrame, task: str, method: str, metric: str) -> np.ndarray:
    """The same as an array."""
    return by_seed(rows, task, method, metric).to_numpy()


def gain(rows: pd.DataFrame, task: str, metric: str, a: str, b: str) -> pd.Series:
    """a - b of every seed that both have (they start from the same star)."""
    difference = by_seed(rows, task, a, metric) - by_seed(rows, task, b, metric)
    return difference.dropna()


def curves(rows: pd.DataFrame, task: str, method: str, metric: str) -> tuple[Any, Any]:
    """Steps [T] and values [n_seeds, T] of a logged curve."""
    if "step" not in rows:
        return np.zeros(0), np.zeros((0, 0))
    at = (rows.task == task) & (rows.method == method) & (rows.metric == metric)
    table = rows[at & rows.step.notna()].pivot(index="seed", columns="step", values="value")
    return table.columns.to_numpy(dtype=float), table.to_numpy(dtype=float)


def at_step(rows: pd.DataFrame, task: str, method: str, step: int) -> float:
    """Mean regions in the star's samples at a step (nan where it was not measured)."""
    steps, found = curves(rows, task, method, "regions_star")
    at = np.flatnonzero(steps == step)
    return float(found[:, at[0]].mean()) if len(at) else float("nan")


def more_regions_than(baseline: str) -> Callable[[pd.DataFrame], Judgement]:
    """e1, e2: regions in the star's own samples on L, EGFN-DB minus a baseline."""

    def judge(rows: pd.DataFrame) -> Judgement:
        ci = mean_ci(gain(rows, "grid-l", "found_star", "egfn-db", baseline))
        ours = values(rows, "grid-l", "egfn-db", "found_star").mean()
        theirs = values(rows, "grid-l", baseline, "found_star").mean()
        early = [at_step(rows, "grid-l", m, EARLY) for m in ("egfn-db", baseline)]
        text = (
            f"{ours:.1f} against {theirs:.1f} of 32; difference {ci} "
            f"(at step {EARLY}: {early[0]:.1f} against {early[1]:.1f})"
        )
        numbers = {"egfn": float(ours), "baseline": float(theirs)}
        return by_interval(ci, ours=text, **numbers, egfn_early=early[0], baseline_early=early[1])

    return judge


def larger_gain(rows: pd.DataFrame, metric: str, more: str, less: str, unit: float) -> Interval:
    """Interval of (EGFN-DB - DB on one task) - (the same on another), per seed."""
    a = gain(rows, more, metric, "egfn-db", "db")
    b = gain(rows, less, metric, "egfn-db", "db")
    return mean_ci((a / unit - b).dropna())


def e3(rows: pd.DataFrame) -> Judgement:
    """Sparsity: the gain in regions on L at R0 = 1e-5 minus that at 1e-3."""
    ci = larger_gain(rows, "found_star", "grid-l", "grid-l3", 1.0)
    sparse = gain(rows, "grid-l", "found_star", "egfn-db", "db").mean()
    dense = gain(rows, "grid-l3", "found_star", "egfn-db", "db").mean()
    text = f"gain {sparse:.1f} at 1e-5, {dense:.1f} at 1e-3; difference {ci}"
    result = by_interval(ci, ours=text, sparse=float(sparse), dense=float(dense))
    return _else_inconclusive(result)


def e4(rows: pd.DataFrame) -> Judgement:
    """Horizon: the gain in the share of regions on L minus that on S."""
    n_s, n_l = (2 ** GRIDS[t].ndim for t in ("grid-s", "grid-l"))
    complete = all(
        (values(rows, task, m, "found_star") == n).all()
        for task, n in (("grid-s", n_s), ("grid-l", n_l))
        for m in ("egfn-db", "db")
    )
    if complete:  # everything is found everywhere: how soon
        metric, what = "area_star", "area under the share of regions against steps"
        on_s = gain(rows, "grid-s", metric, "egfn-db", "db")
        on_l = gain(rows, "grid-l", metric, "egfn-db", "db")
    else:
        metric, what = "found_star", "share of regions"
        on_s = gain(rows, "grid-s", metric, "egfn-db", "db") / n_s
        on_l = gain(rows, "grid-l", metric, "egfn-db", "db") / n_l
    ci = mean_ci((on_l - on_s).dropna())
    text = f"{what}: gain {on_l.mean():.3f} on L, {on_s.mean():.3f} on S; difference {ci}"
    result = by_interval(ci, ours=text, L=float(on_l.mean()), S=float(on_s.mean()), metric=metric)
    return _else_inconclusive(result)


def _else_inconclusive(result: Judgement) -> Judgement:
    """e3 and e4 are called inconclusive unless the interval lies above 0."""
    if result.verdict == REPRODUCED:
        return result
    return Judgement(INCONCLUSIVE, result.ours, result.evidence)


def e5(rows: pd.DataFrame) -> Judgement:
    """Final exact L1 on S: EGFN at most the plain objective, for TB and DB."""
    parts = {}
    for name in ("tb", "db"):
        ci = mean_ci(gain(rows, "grid-s", "l1_final", name, f"egfn-{name}"))
        ours = values(rows, "grid-s", f"egfn-{name}", "l1_final").mean()
        plain = values(rows, "grid-s", name, "l1_final").mean()
        verdict = REPRODUCED if ci.low >= 0 else CONTRADICTED if ci.high < 0 else INCONCLUSIVE
        text = f"{ours:.3f} against {plain:.3f}; plain − EGFN = {ci}"
        evidence = {"egfn": float(ours), "plain": float(plain), "low": ci.low, "high": ci.high}
        parts[name.upper()] = Judgement(verdict, text, evidence)
    return all_of(parts)


def e6(rows: pd.DataFrame) -> Judgement:
    """Equal reward calls on L: area under regions found, EGFN-DB minus DB with 36 trajectories."""
    both = mean_ci(gain(rows, "grid-l", "area_all", "egfn-db", "db-2.25x"))
    star = mean_ci(gain(rows, "grid-l", "area_star", "egfn-db", "db-2.25x"))
    text = f"difference {both} counting every call; {star} counting the star's samples only"
    return by_interval(both, ours=text, star=star.value, star_low=star.low, star_high=star.high)


CLAIMS = [
    Claim(
        "e1",
        "On a long, sparse hypergrid (D=5, H=20, R0=1e-5) EGFN's star finds more reward regions "
        "than DB in its own samples",
        "Section 4, hypergrid (figures only)",
        "more, the clearer the longer and sparser",
        SCALES,
        more_regions_than("db"),
    ),
    Claim(
        "e2",
        "Evolution adds to replay: there, EGFN-DB's star also finds more regions than DB with the "
        "same prioritised replay",
        "Section 4, ablation",
        "more",
        SCALES,
        more_regions_than("db-prb"),
    ),
    Claim(
        "e3",
        "Sparsity: the gain over DB in regions on L is larger at R0=1e-5 than at R0=1e-3",
        "Section 4, sparsity study",
        "larger",
        SCALES,
        e3,
    ),
    Claim(
        "e4",
        "Horizon: the gain over DB in the share of regions is larger on L (D=5) than on S (D=3)",
        "Section 4, horizon study",
        "larger",
        SCALES,
        e4,
    ),
    Claim(
        "e5",
        "Whatever the objective: on S the final exact L1 of EGFN-TB is at most TB's and that of "
        "EGFN-DB at most DB's",
        "Section 4, objective study",
        "better with each",
        ("default",),
        e5,
    ),
    Claim(
        "e6",
        "At equal reward calls (DB with 36 trajectories per step) EGFN-DB still finds regions "
        "sooner on L: area under regions found",
        "not in the paper (asked by its reviewers)",
        "the paper compares per step only",
        ("default",),
        e6,
    ),
]


def interval(x: np.ndarray) -> str:
    """Mean with its interval, as far as there are samples."""
    if len(x) == 0:
        return "–"
    return str(mean_ci(x)) if len(x) > 1 else f"{x[0]:.3g}"


def tables(rows: pd.DataFrame) -> list[Table]:
    """Grids, and AB10."""
    result, grid = [], []
    for task in GRIDS:
        for m in NAMES:
            found = values(rows, task, m, "found_star")
            if not len(found):
                continue
            reached = values(rows, task, m, "steps_to_all_star")
            empirical = values(rows, task, m, "l1_mean_empirical")
            distinct = values(rows, task, m, "buffer_distinct_last")
            held = values(rows, task, m, "buffer_regions_last")
            grid.append(
                [
                    TITLES[task],
                    NAMES[m],
                    f"{values(rows, task, m, 'reward_calls').mean():.0f}",
                    interval(found) + f" of {2 ** GRIDS[task].ndim}",
                    f"{at_step(rows, task, m, EARLY):.1f}",
                    interval(values(rows, task, m, "found_all")),
                    f"{len(reached)}/{len(found)}"
                    + (f", {np.median(reached):.0f}" if len(reached) else ""),
                    interval(values(rows, task, m, "area_star")),
                    interval(values(rows, task, m, "l1_final")),
                    f"{empirical.mean():.2e}",
                    f"{distinct.mean():.0f}, {held.mean():.1f}" if len(distinct) else "–",
                ]
            )
    result.append(
        Table(
            "Hypergrids with forced stop; the paper shows curves only",
            [
                "grid",
                "method",
                "reward calls",
                "regions, star's samples",
                f"at step {EARLY}",
                "regions, all samples",
                "runs with all (star), median step",
                "area (star)",
                "exact L1 at the end, in [0, 2]",
                "mean empirical L1",
                "buffer: distinct objects, regions",
            ],
            grid,
        )
    )
    designs = [
        [
            NAMES[m],
            interval(values(rows, "ab10", m, "mean_reward_last")),
            interval(values(rows, "ab10", m, "top100_last")),
            interval(values(rows, "ab10", m, "stable_last")),
        ]
        for m in NAMES
        if len(values(rows, "ab10", m, "top100_last"))
    ]
    if designs:
        result.append(
            Table(
                "AB10: ten residues of an antibody chain, reward 2^((50 − instability index)/10)",
                ["method", "mean R", "mean R of the 100 best", "distinct designs with index < 35"],
                designs,
            )
        )
    return result


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Regions against steps and reward calls, exact L1, AB10, learned and target distribution."""
    drawn: dict[str, Figure] = {}
    known = [m for m in NAMES if m in set(rows.method)]
    colour, dash = plotting.colours(known, [m for m in OURS if m in known]), plotting.dashes(known)

    def panel(ax: Any, task: str, metric: str, methods: list[str], against: str = "step") -> None:
        for m in methods:
            steps, y = curves(rows, task, m, metric)
            if not len(y):
                continue
            x = steps
            if against == "calls":  # the same number of calls every step
                x = steps * values(rows, task, m, "reward_calls").mean() / steps[-1]
            plotting.curve(ax, x, y, label=NAMES[m], color=colour[m], linestyle=dash[m])

    grids = [t for t in GRIDS if t != "map" and (rows.task == t).any()]
    if grids:
        figure, axes = plotting.panels(2, len(grids), width=3.0)
        for column, task in enumerate(grids):
            panel(axes[0][column], task, "regions_star", known)
            panel(axes[1][column], task, "regions_all", known, against="calls")
            axes[0][column].set_title(TITLES[task])
            axes[0][column].set_xlabel("step")
            axes[1][column].set_xlabel("reward calls")
        axes[0][0].set_ylabel("regions, star's samples")
        axes[1][0].set_ylabel("regions, all samples")
        labelled = max(axes[0], key=lambda ax: len(ax.get_legend_handles_labels()[0]))
        figure.legend(
            *labelled.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
        )
        drawn["regions"] = figure

    exact = [t for t in grids if ((rows.task == t) & (rows.metric == "l1_sum_exact")).any()]
    designs = len(values(rows, "ab10", "egfn-db", "top100_last")) > 0
    if exact or designs:
        figure, axes = plotting.panels(1, len(exact) + 2 * designs, width=3.2)
        for ax, task in zip(axes[0], exact, strict=False):
            panel(ax, task, "l1_sum_exact", known)
            ax.set_title(TITLES[task])
            ax.set_xlabel("step")
            ax.set_ylabel("L1 to target (exact)")
            ax.legend(fontsize=6)
        if designs:
            for ax, metric, label in zip(
                axes[0][-2:],
                ("top100", "stable"),
                ("mean R of the 100 best", "distinct, index < 35"),
                strict=True,
            ):
                panel(ax, "ab10", metric, known)
                ax.set_title("AB10")
                ax.set_xlabel("step")
                ax.set_ylabel(label)
                ax.legend(fontsize=6)
        drawn["curves"] = figure

    maps = {e["method"]: e["data"] for e in extras if e["name"] == "p_terminal"}
    target = [e["data"] for e in extras if e["name"] == "target"]
    if maps and target:
        shown = [("target", target[0]), *((NAMES[m], maps[m]) for m in NAMES if m in maps)]
        figure, axes = plotting.panels(1, len(shown), width=2.0, height=2.2)
        for ax, (title, data) in zip(axes[0], shown, strict=True):
            top = float(np.sqrt(np.max(target[0])))
            ax.imshow(np.sqrt(data), origin="lower", vmin=0, vmax=top, cmap="viridis")
            ax.set_title(title)
            ax.grid(False)
            ax.set_xticks([])
            ax.set_yticks([])
        figure.suptitle("Terminating distribution, mean over seeds (square root)")
        drawn["distributions"] = figure
    return drawn


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
