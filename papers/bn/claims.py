"""The paper's claims as functions of the results, its tables and its figures."""

from __future__ import annotations

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
    compare,
    curves,
    interval,
    values,
)
from common.plotting import Figure
from common.stats import diff, ratio_of_means

METHODS = ("bn", "bn-flat", "fm", "db", "tb", "stb", "uniform")
TRAINED = METHODS[:-1]
NAMES = {
    "bn": "BN",
    "bn-flat": "BN-flat",
    "fm": "FM",
    "db": "DB",
    "tb": "TB",
    "stb": "SubTB(0.9)",
    "uniform": "uniform",
}
TASKS = {
    "g1": "G1: grid 16²",
    "g2": "G2: grid 8³",
    "g3": "G3: grid 8⁴",
    "g4": "G4: sets 5 of 16",
    "rna": "R: RNA1, L=8",
    "qed": "M: QED strings",
}
GRIDS_AND_SETS = ("g1", "g2", "g3", "g4")
SCALES = ("default",)
NO_NUMBER = "figure only / not available"


def bn1(rows: pd.DataFrame) -> Judgement:
    """Tabular BN at zero loss: exact L1 and log Z, the worst seed of each."""
    parts = {}
    for key, name in (("l1_end", "L1"), ("log_Z_error_end", "|log F(s0) − log Z|")):
        worst = float(values(rows, "tabular", "bn", key).max())
        parts[name] = compare(worst, 1e-3, above=False, ours=f"worst seed {worst:.1e}")
    return all_of(parts)


def bn2(rows: pd.DataFrame) -> Judgement:
    """Area under the L1 curve, DB (TB) minus BN: all four means above 0, three intervals too."""
    parts = {}
    for other in ("db", "tb"):
        gaps = {
            task: diff(values(rows, task, other, "area"), values(rows, task, "bn", "area"))
            for task in GRIDS_AND_SETS
        }
        ahead = sum(gap.value > 0 for gap in gaps.values())
        clearly = sum(gap.low > 0 for gap in gaps.values())
        if ahead == 4 and clearly >= 3:
            verdict = REPRODUCED
        else:
            behind = any(gap.high < 0 for gap in gaps.values())
            verdict = CONTRADICTED if behind else INCONCLUSIVE
        text = ", ".join(f"{task.upper()} {gap}" for task, gap in gaps.items())
        evidence = {t: {"gap": g.value, "low": g.low, "high": g.high} for t, g in gaps.items()}
        parts[f"{NAMES[other]} − BN"] = Judgement(
            verdict, text, {**evidence, "means_ahead": ahead, "intervals_above_0": clearly}
        )
    return all_of(parts)


def bn3a(rows: pd.DataFrame) -> Judgement:
    """Area of BN at most 1.1 times FM's, on G3 and on G4."""
    parts = {}
    for task in ("g3", "g4"):
        ratio = ratio_of_means(values(rows, task, "bn", "area"), values(rows, task, "fm", "area"))
        parts[task.upper()] = by_interval(ratio, 1.1, above=False, ours=f"BN/FM = {ratio}")
    return all_of(parts)


def bn3b(rows: pd.DataFrame) -> Judgement:
    """The stronger statement: the area of FM minus BN's above 0, on G3 and on G4."""
    parts = {}
    for task in ("g3", "g4"):
        gap = diff(values(rows, task, "fm", "area"), values(rows, task, "bn", "area"))
        parts[task.upper()] = by_interval(gap, ours=f"FM − BN = {gap}")
    return all_of(parts)


def bn4(rows: pd.DataFrame) -> Judgement:
    """Final L1 of BN within 1.25 times that of the best method, on every task."""
    parts = {}
    for task in TASKS:
        final = {m: values(rows, task, m, "l1_final") for m in TRAINED}
        best = min(TRAINED, key=lambda m: final[m].mean())
        if best == "bn":
            parts[task.upper()] = Judgement(REPRODUCED, "BN is the best", {"best": "bn"})
            continue
        ratio = ratio_of_means(final["bn"], final[best])
        text = f"BN/{NAMES[best]} = {ratio}"
        parts[task.upper()] = by_interval(ratio, 1.25, above=False, ours=text, best=best)
    return all_of(parts)


def bn5(rows: pd.DataFrame) -> Judgement:
    """Modes found on R at equal reward calls, against the best baseline."""
    found = {m: values(rows, "rna", m, "modes_found") for m in METHODS}
    baselines = [m for m in METHODS if not m.startswith("bn")]
    best = max(baselines, key=lambda m: found[m].mean())
    ratio = ratio_of_means(found["bn"], found[best])
    text = f"BN {found['bn'].mean():.1f}, {NAMES[best]} {found[best].mean():.1f}; ratio {ratio}"
    means = {m: float(x.mean()) for m, x in found.items()}
    return by_interval(ratio, 0.95, ours=text, best=best, means=means)


CLAIMS = [
    Claim(
        "bn1",
        "Zero loss samples in proportion to the reward: tabular BN ends at exact L1 < 1e-3 and "
        "|log F(s0) − log Z| < 1e-3 (D=2, H=8, R0=0.1)",
        "abstract; guarantee kept",
        "exact",
        ("default", "paper"),
        bn1,
    ),
    Claim(
        "bn2",
        "Converges faster than methods with a backward policy: area under the L1 curve below DB's "
        "and TB's on G1–G4, the interval of the difference above 0 on at least three",
        "abstract, figures",
        NO_NUMBER,
        SCALES,
        bn2,
    ),
    Claim(
        "bn3a",
        "Not slower than edge flows: area at most 1.1 × FM's on G3 and G4",
        "abstract, figures",
        NO_NUMBER,
        SCALES,
        bn3a,
    ),
    Claim(
        "bn3b",
        "Faster than edge flows: area below FM's on G3 and G4",
        "abstract, figures",
        NO_NUMBER,
        SCALES,
        bn3b,
    ),
    Claim(
        "bn4",
        "Fits the target at least as well in the end: final L1 within 1.25 × the best method's on "
        "every task",
        "abstract, figures",
        NO_NUMBER,
        SCALES,
        bn4,
    ),
    Claim(
        "bn5",
        "Finds the high-reward objects: RNA modes at equal reward calls at least 0.95 × those of "
        "the best baseline",
        "abstract, figures",
        NO_NUMBER,
        SCALES,
        bn5,
    ),
]


def single(x: np.ndarray, form: str) -> str:
    """Mean, or a dash."""
    return f"{x.mean():{form}}" if len(x) else "–"


def tables(rows: pd.DataFrame) -> list[Table]:
    """Enumerated tasks, diversity, the tabular solution, and (scale tuning) the learning rates."""
    if "lr" in rows and rows.groupby(["task", "method"]).lr.nunique().max() > 1:
        return [tuning_table(rows)]
    result, body, found = [], [], []
    for task, title in TASKS.items():
        for m in METHODS:
            if not len(area := values(rows, task, m, "area")):
                continue
            at = (rows.task == task) & (rows.method == m)
            modes = values(rows, task, m, "modes_found")
            body.append(
                [
                    title,
                    NAMES[m],
                    interval(area),
                    interval(values(rows, task, m, "l1_final")),
                    single(values(rows, task, m, "log_Z_error"), ".3f"),
                    f"{rows[at].lr.dropna().iloc[0]:g}" if m != "uniform" else "–",
                    f"{values(rows, task, m, 'parameters')[0]:.0f}",
                ]
            )
            found.append(
                [
                    title,
                    NAMES[m],
                    f"{interval(modes)} of {values(rows, task, m, 'n_modes')[0]:.0f}",
                    single(values(rows, task, m, "modes_area"), ".1f"),
                    f"{values(rows, task, m, 'reward_calls')[0]:.0f}",
                    single(values(rows, task, m, "distinct_objects"), ".0f"),
                    single(values(rows, task, m, "top_reward"), ".3g"),
                    interval(values(rows, task, m, "top_distance")),
                ]
            )
    if body:
        columns = ["task", "method", "area under L1", "final L1", "error of log Z", "Adam rate"]
        result.append(
            Table(
                f"Exact L1 in [0, 2] (the paper: {NO_NUMBER})",
                [*columns, "parameters per seed"],
                body,
            )
        )
        columns = ["task", "method", "modes found", "their mean over training"]
        columns += ["objects sampled", "distinct (reward calls)", "reward of the best 100"]
        result.append(
            Table("Modes and diversity", [*columns, "Tanimoto distance of the best 100"], found)
        )
    if len(values(rows, "tabular", "bn", "l1_end")):
        errors = [values(rows, "tabular", "bn", k).max() for k in ("l1_end", "log_Z_error_end")]
        result.append(
            Table(
                "Eq. 2 solved in tables (float64; worst seed)",
                ["exact L1", "error of log Z"],
                [[f"{e:.1e}" for e in errors]],
            )
        )
    streams = [
        [TASKS[task], NAMES[m], interval(gap)]
        for task in TASKS
        for m in ("bn", "bn-flat")
        if len(gap := values(rows, task, m, "saliency_gap"))
    ]
    if streams:
        result.append(
            Table(
                "Do the two outputs look at different places of the input? (distance of their "
                "saliency shares, in [0, 1])",
                ["task", "method", "total variation"],
                streams,
            )
        )
    return result


def tuning_table(rows: pd.DataFrame) -> Table:
    """Area by learning rate, on the seeds of the tuning."""
    area = rows[(rows.metric == "area") & (rows.method != "uniform")]
    table = area.pivot_table(index=["task", "method"], columns="lr", values="value")
    body = []
    for task in TASKS:
        for m in TRAINED:
            if (task, m) in table.index:
                line = table.loc[(task, m)]
                cells = [f"**{v:.3f}**" if v == line.min() else f"{v:.3f}" for v in line]
                body.append([TASKS[task], NAMES[m], *cells])
    rates = [f"{rate:g}" for rate in table.columns]
    return Table("Area under L1 by learning rate (seeds from 100 on)", ["task", "", *rates], body)


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """L1 against steps and reward calls, modes, learned against target maps, saliency."""
    drawn: dict[str, Figure] = {}
    colour = plotting.colours(METHODS, "bn")
    dash = plotting.dashes(METHODS)
    tasks = [t for t in TASKS if len(values(rows, t, "bn", "area"))]
    if "lr" in rows and len(tasks) and rows.groupby(["task", "method"]).lr.nunique().max() > 1:
        return drawn

    def panels() -> Any:
        columns = min(3, len(tasks))
        return plotting.panels(-(-len(tasks) // columns), columns, sharex=False)

    def plot(name: str, metric: str, label: str, by_calls: bool = False) -> None:
        figure, axes = panels()
        for ax, task in zip(axes.flat, tasks, strict=False):
            for m in METHODS:
                x, y = curves(rows, task, m, metric)
                if not len(y):
                    continue
                if by_calls:
                    x = curves(rows, task, m, "distinct")[1].mean(0)
                plotting.curve(ax, x, y, label=NAMES[m], color=colour[m], linestyle=dash[m])
            ax.set_title(TASKS[task])
            ax.set_xlabel("distinct objects rewarded" if by_calls else "step")
            ax.set_ylim(bottom=0)
        for row in axes:
            row[0].set_ylabel(label)
        axes[0][0].legend(fontsize=6.5, ncols=2)
        drawn[name] = figure

    if tasks:
        plot("curves", "l1_sum_exact", "L1 to target (exact)")
        plot("reward_calls", "l1_sum_exact", "L1 to target (exact)", by_calls=True)
        plot("modes", "modes", "modes found (cumulative)")

    maps = {e["method"]: e["data"] for e in extras if e["name"] == "p_terminal"}
    target = [e["data"] for e in extras if e["name"] == "target"]
    if maps and target:
        shown = [("target", target[0]), *((NAMES[m], maps[m]) for m in METHODS if m in maps)]
        columns = min(4, len(shown))
        figure, axes = plotting.panels(-(-len(shown) // columns), columns, width=1.9, height=2.1)
        for ax in axes.flat:
            ax.axis("off")
        for ax, (title, data) in zip(axes.flat, shown, strict=False):
            top = np.sqrt(np.max(target[0]))
            ax.imshow(np.sqrt(data), origin="lower", vmin=0, vmax=top, cmap="viridis")
            ax.set_title(title)
        figure.suptitle("G1: terminating distribution, mean over seeds (square root)")
        drawn["distributions"] = figure

    saliency = {(e["task"], e["method"]): e["data"] for e in extras if e["name"] == "saliency"}
    shown_tasks = [t for t in TASKS if (t, "bn") in saliency and (t, "bn-flat") in saliency]
    if shown_tasks:
        figure, axes = plotting.panels(1, len(shown_tasks), height=2.3)
        for ax, task in zip(axes[0], shown_tasks, strict=True):
            for m in ("bn", "bn-flat"):
                for line, stream, style in zip(
                    saliency[task, m], ("flow", "allocation"), ("-", "--"), strict=True
                ):
                    place = np.arange(1, len(line) + 1)
                    label = f"{NAMES[m]}: {stream}"
                    ax.plot(place, line, style, marker="o", color=colour[m], label=label)
            ax.set_title(TASKS[task])
            ax.set_xlabel("coordinate" if task == "g1" else "place in the string")
            ax.set_ylim(bottom=0)
            ax.set_xticks(place)
        axes[0][0].set_ylabel("share of the saliency")
        axes[0][0].legend(fontsize=7)
        drawn["saliency"] = figure
    return drawn


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
