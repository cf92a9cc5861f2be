"""The paper's claims as functions of the results, its tables and its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from common import plotting
from common.claims_v1 import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
    Claim,
    Judgement,
    Table,
    all_of,
    by_interval,
    claims_cli,
    curves,
    interval,
    values,
)
from common.plotting import Figure
from common.stats import mean_ci
from papers.egfn.task import GRIDS

NAMES = {
    "egfn-db": "EGFN-DB",
    "db": "DB",
    "db-prb": "DB + PRB",
    "db-2.25x": "DB, equal calls",
    "egfn-random": "random population",
    "egfn-noise": "random population, noise",
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
EARLY = 1000  # steps planned for two cores


def by_seed(rows: pd.DataFrame, task: str, method: str, metric: str) -> pd.Series:
    """One number per seed (rows without a value left out)."""
    at = (rows.task == task) & (rows.method == method) & (rows.metric == metric)
    return rows[at].set_index("seed").value.dropna().astype(float).sort_index()


def _curves(rows: pd.DataFrame, task: str, method: str, metric: str) -> pd.DataFrame:
    """A logged curve: a line per seed, a column per step."""
    if "step" not in rows:
        return pd.DataFrame()
    at = (rows.task == task) & (rows.method == method) & (rows.metric == metric)
    return rows[at & rows.step.notna()].pivot(index="seed", columns="step", values="value")


def found(rows: pd.DataFrame, task: str, method: str, until: int, who: str = "star") -> pd.Series:
    """Regions found by a step, per seed."""
    table = _curves(rows, task, method, f"regions_{who}")
    return table[float(until)].astype(float) if until in table else pd.Series(dtype=float)


def area(rows: pd.DataFrame, task: str, method: str, until: int, who: str = "star") -> pd.Series:
    """Mean share of the regions that were found over the steps up to one, per seed."""
    table = _curves(rows, task, method, f"regions_{who}")
    return table.loc[:, table.columns <= until].mean(axis=1) / 2 ** GRIDS[task].ndim


def late_l1(rows: pd.DataFrame, task: str, method: str, until: int) -> pd.Series:
    """Exact L1, mean of the last five evaluations up to a step, per seed."""
    table = _curves(rows, task, method, "l1_sum_exact")
    return table.loc[:, table.columns <= until].iloc[:, -5:].mean(axis=1)


def difference(a: pd.Series, b: pd.Series) -> pd.Series:
    """a - b of every seed that both have (they start from the same star)."""
    return (a - b).dropna()


Judge = Callable[[pd.DataFrame], Judgement]


def more_regions_than(baseline: str, until: int) -> Judge:
    """e1, e2: regions in the star's own samples on L, EGFN-DB minus a baseline."""

    def judge(rows: pd.DataFrame) -> Judgement:
        ours, theirs = (found(rows, "grid-l", m, until) for m in ("egfn-db", baseline))
        ci = mean_ci(difference(ours, theirs))
        text = f"{ours.mean():.1f} against {theirs.mean():.1f} of 32; difference {ci}"
        return by_interval(ci, ours=text, egfn=ours.mean(), baseline=theirs.mean())

    return judge


def region_gain(rows: pd.DataFrame, task: str, until: int) -> pd.Series:
    """EGFN-DB - DB in regions found by the star, per seed."""
    return difference(found(rows, task, "egfn-db", until), found(rows, task, "db", until))


def sparsity(until: int) -> Judge:
    """e3: the gain in regions on L at R0 = 1e-5 minus that at 1e-3."""

    def judge(rows: pd.DataFrame) -> Judgement:
        sparse, dense = (region_gain(rows, task, until) for task in ("grid-l", "grid-l3"))
        ci = mean_ci(difference(sparse, dense))
        text = f"gain {sparse.mean():.1f} at 1e-5, {dense.mean():.1f} at 1e-3; difference {ci}"
        return _else_inconclusive(
            by_interval(ci, ours=text, sparse=sparse.mean(), dense=dense.mean())
        )

    return judge


def horizon(until: int) -> Judge:
    """e4: the gain in the share of regions on L minus that on S."""

    def judge(rows: pd.DataFrame) -> Judgement:
        n = {task: 2 ** GRIDS[task].ndim for task in ("grid-s", "grid-l")}
        gains = {task: region_gain(rows, task, until) / n[task] for task in n}
        what = "share of regions"
        if all((found(rows, t, m, until) == n[t]).all() for t in n for m in ("egfn-db", "db")):
            what = "area under the share of regions (all found everywhere)"
            gains = {
                t: difference(area(rows, t, "egfn-db", until), area(rows, t, "db", until))
                for t in n
            }
        on_s, on_l = gains["grid-s"], gains["grid-l"]
        ci = mean_ci(difference(on_l, on_s))
        text = f"{what}: gain {on_l.mean():.3f} on L, {on_s.mean():.3f} on S; difference {ci}"
        return _else_inconclusive(
            by_interval(ci, ours=text, L=on_l.mean(), S=on_s.mean(), measure=what)
        )

    return judge


def _else_inconclusive(result: Judgement) -> Judgement:
    """e3 and e4 are called inconclusive unless the interval lies above 0."""
    if result.verdict == REPRODUCED:
        return result
    return Judgement(INCONCLUSIVE, result.ours, result.evidence)


def any_objective(until: int) -> Judge:
    """e5: late exact L1 on S, EGFN at most the plain objective, for TB and DB."""

    def judge(rows: pd.DataFrame) -> Judgement:
        parts = {}
        for name in ("tb", "db"):
            ours = late_l1(rows, "grid-s", f"egfn-{name}", until)
            plain = late_l1(rows, "grid-s", name, until)
            ci = mean_ci(difference(plain, ours))
            fails = CONTRADICTED if ci.high < 0 else INCONCLUSIVE
            parts[name.upper()] = Judgement(
                REPRODUCED if ci.low >= 0 else fails,
                f"{ours.mean():.3f} against {plain.mean():.3f}; plain − EGFN = {ci}",
                {"egfn": ours.mean(), "plain": plain.mean(), "low": ci.low, "high": ci.high},
            )
        return all_of(parts)

    return judge


def equal_calls(until: int) -> Judge:
    """e6: on L, area under regions found, EGFN-DB minus DB with 36 trajectories per step."""

    def judge(rows: pd.DataFrame) -> Judgement:
        ci = {
            who: mean_ci(
                difference(*(area(rows, "grid-l", m, until, who) for m in ("egfn-db", "db-2.25x")))
            )
            for who in ("all", "star")
        }
        text = f"difference {ci['all']} counting every call; {ci['star']} the star's samples only"
        star = ci["star"]
        evidence = {"star": star.value, "star_low": star.low, "star_high": star.high}
        return by_interval(ci["all"], ours=text, **evidence)

    return judge


#: Every claim is judged twice: after the 1 000 steps planned for two cores, and after the 2 500 of
#: the paper.
HORIZONS = {"a": EARLY, "b": 2500}
_STATEMENTS: list[tuple[str, str, str, str, tuple[str, ...], Callable[[int], Judge]]] = [
    (
        "e1",
        "On a long, sparse hypergrid (D=5, H=20, R0=1e-5) EGFN's star finds more reward regions "
        "than DB in its own samples",
        "Section 4, hypergrid (figures only)",
        "more, the clearer the longer and sparser",
        SCALES,
        lambda until: more_regions_than("db", until),
    ),
    (
        "e2",
        "Evolution adds to replay: there, EGFN-DB's star also finds more regions than DB with the "
        "same prioritised replay",
        "Section 4, ablation",
        "more",
        SCALES,
        lambda until: more_regions_than("db-prb", until),
    ),
    (
        "e3",
        "Sparsity: the gain over DB in regions on L is larger at R0=1e-5 than at R0=1e-3",
        "Section 4, sparsity study",
        "larger",
        SCALES,
        sparsity,
    ),
    (
        "e4",
        "Horizon: the gain over DB in the share of regions is larger on L (D=5) than on S (D=3)",
        "Section 4, horizon study",
        "larger",
        SCALES,
        horizon,
    ),
    (
        "e5",
        "Whatever the objective: on S the exact L1 of EGFN-TB is at most TB's and that of EGFN-DB "
        "at most DB's",
        "Section 4, objective study",
        "better with each",
        ("default",),
        any_objective,
    ),
    (
        "e6",
        "At equal reward calls (DB with 36 trajectories per step) EGFN-DB still finds regions "
        "sooner on L: area under regions found",
        "not in the paper (asked by its reviewers)",
        "the paper compares per step only",
        ("default",),
        equal_calls,
    ),
]
CLAIMS = [
    Claim(name + letter, f"{text}; {until} steps", source, paper, scales, judge(until))
    for name, text, source, paper, scales, judge in _STATEMENTS
    for letter, until in HORIZONS.items()
]


def tables(rows: pd.DataFrame) -> list[Table]:
    """Grids, and AB10."""
    result, grid = [], []
    for task in GRIDS:
        for m in NAMES:
            regions = values(rows, task, m, "found_star")
            if not len(regions):
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
                    interval(regions) + f" of {2 ** GRIDS[task].ndim}",
                    interval(found(rows, task, m, EARLY).to_numpy()),
                    interval(values(rows, task, m, "found_all")),
                    f"{len(reached)}/{len(regions)}"
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
        shown = {}
        for ax in axes[0]:
            handles, labels = ax.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        figure.legend(
            list(shown.values()), list(shown), loc="outside lower center", ncols=5, fontsize=8
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
