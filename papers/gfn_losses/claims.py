"""The paper's claims as functions of the results, its tables and its figures."""

from __future__ import annotations

from collections.abc import Sequence
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
from common.stats import Interval, diff, mean_ci

LOSSES = ("quadratic", "linex1", "linex05", "shifted-cosh")
NEW = LOSSES[1:]
NAMES = {
    "quadratic": "Quadratic",
    "linex1": "Linex(1)",
    "linex05": "Linex(1/2)",
    "shifted-cosh": "Shifted-Cosh",
}
OBJECTIVES = ("tb", "db", "stb", "fm")
SCALES = ("default",)


def at_least(difference: Interval, **evidence: Any) -> Judgement:
    """Judge "A >= B" from the interval of A - B."""
    if difference.low >= 0:
        verdict = REPRODUCED
    else:
        verdict = CONTRADICTED if difference.high < 0 else INCONCLUSIVE
    kept = {"difference": difference.value, "low": difference.low, "high": difference.high}
    return Judgement(verdict, str(difference), {**kept, **evidence})


def gl1(rows: pd.DataFrame) -> Judgement:
    """Area under the L1 curve: Quadratic minus the best new loss, for TB and DB."""
    parts = {}
    for name in ("tb", "db"):
        areas = {m: values(rows, f"grid-{name}", m, "area") for m in LOSSES}
        means = {m: float(a.mean()) for m, a in areas.items()}
        best = min(NEW, key=lambda m: means[m])
        ahead = sum(means[m] < means["quadratic"] for m in NEW)
        ci = diff(areas["quadratic"], areas[best])
        text = f"Quadratic − {NAMES[best]} = {ci}; {ahead} of 3 new losses ahead"
        parts[name.upper()] = by_interval(
            ci, ours=text, means=means, best=best, new_losses_ahead=ahead
        )
    return all_of(parts)


def regions_judge(method: str) -> Any:
    """gl2: regions found by step 2000 with TB, against Quadratic."""

    def judge(rows: pd.DataFrame) -> Judgement:
        ours = values(rows, "grid-tb", method, "regions_found")
        base = values(rows, "grid-tb", "quadratic", "regions_found")
        result = at_least(diff(ours, base), mean=float(ours.mean()), quadratic=float(base.mean()))
        mark = "pass" if ours.mean() >= base.mean() else "fail"
        text = (
            f"{ours.mean():.2f} against {base.mean():.2f} (means: {mark}); difference {result.ours}"
        )
        return Judgement(result.verdict, text, {**result.evidence, "mark": mark})

    return judge


def gl3(rows: pd.DataFrame) -> Judgement:
    """Final L1 on the control grid: every loss within max(1.5 best, best + 0.1)."""
    final = {m: mean_ci(values(rows, "control-tb", m, "l1_final")) for m in LOSSES}
    best = min(ci.value for ci in final.values())
    bound = max(1.5 * best, best + 0.1)
    if all(ci.high <= bound for ci in final.values()):
        verdict = REPRODUCED
    else:
        beyond = any(ci.low > bound for ci in final.values())
        verdict = CONTRADICTED if beyond else INCONCLUSIVE
    text = "; ".join(f"{NAMES[m]} {ci}" for m, ci in final.items()) + f"; bound {bound:.3f}"
    evidence = {m: ci.value for m, ci in final.items()}
    return Judgement(verdict, text, {**evidence, "best": best, "bound": bound})


def gl4(rows: pd.DataFrame) -> Judgement:
    """Bit modes found with TB: Linex(1) minus Quadratic, interval not entirely below 0."""
    ours = values(rows, "bits-tb", "linex1", "modes_found")
    base = values(rows, "bits-tb", "quadratic", "modes_found")
    ci = diff(ours, base)
    text = f"{ours.mean():.1f} against {base.mean():.1f} of 20; difference {ci}"
    evidence = {"difference": ci.value, "low": ci.low, "high": ci.high}
    return Judgement(CONTRADICTED if ci.high < 0 else REPRODUCED, text, evidence)


def healthy(rows: pd.DataFrame, task: str, methods: Sequence[str]) -> tuple[np.ndarray, int]:
    """Spearman of the runs that did not collapse, and the number removed."""
    kept: list[float] = []
    removed = 0
    for method in methods:
        at = (rows.task == task) & (rows.method == method)
        collapsed = rows[at & (rows.metric == "collapsed")].set_index("seed").value
        spearman = rows[at & (rows.metric == "spearman")].set_index("seed").value
        for seed, flag in collapsed.items():
            value = spearman.get(seed)
            if flag or value is None or not np.isfinite(value):
                removed += 1
            else:
                kept.append(float(value))
    return np.array(kept), removed


def gl5(rows: pd.DataFrame) -> Judgement:
    """Spearman: (Quadratic, Shifted-Cosh) against (Linex(1), Linex(1/2)), for TB and DB."""
    parts = {}
    for name in ("tb", "db"):
        forcing, lost_f = healthy(rows, f"bits-{name}", ("quadratic", "shifted-cosh"))
        linex, lost_l = healthy(rows, f"bits-{name}", ("linex1", "linex05"))
        if min(len(forcing), len(linex)) < 2:
            text = f"too few runs left ({lost_f} and {lost_l} collapsed)"
            parts[name.upper()] = Judgement(INCONCLUSIVE, text, {})
            continue
        result = at_least(diff(forcing, linex), removed_zero_forcing=lost_f, removed_linex=lost_l)
        text = (
            f"{forcing.mean():.3f} against {linex.mean():.3f}, difference {result.ours}; "
            f"{lost_f + lost_l} runs removed"
        )
        parts[name.upper()] = Judgement(result.verdict, text, result.evidence)
    return all_of(parts)


def gl6(rows: pd.DataFrame) -> Judgement:
    """Theorem 1: the worst relative gradient error over losses, DAGs and parts."""
    errors = rows[rows.metric == "gradient_error"]
    worst = float(errors.value.max())
    return compare(worst, 1e-6, above=False, ours=f"worst {worst:.1e} over {len(errors)} checks")


CLAIMS = [
    Claim(
        "gl1",
        "On the hyper-grid the squared loss converges slowest: area under the L1 curve, Quadratic "
        "above the best new loss (TB and DB)",
        "Figure 2, Section 5.1",
        "Quadratic slowest of four",
        SCALES,
        gl1,
    ),
    Claim(
        "gl2a",
        "Linex(1) finds at least as many reward regions as Quadratic (TB, 2000 steps)",
        "Sections 4.2, 5.1",
        "zero-avoiding losses explore more",
        SCALES,
        regions_judge("linex1"),
    ),
    Claim(
        "gl2b",
        "Linex(1/2) finds at least as many reward regions as Quadratic (TB, 2000 steps)",
        "Sections 4.2, 5.1",
        "explores more",
        SCALES,
        regions_judge("linex05"),
    ),
    Claim(
        "gl3",
        "All losses reach the same final error: L1 at the end at most max(1.5 × best, best + 0.1) "
        "on an easy grid (D=3, H=8, R0=0.1)",
        "Figure 2",
        "about equal",
        SCALES,
        gl3,
    ),
    Claim(
        "gl4",
        "Bit sequences, TB: Linex(1) finds at least as many modes as Quadratic",
        "Table 3",
        "5/5 against 1/5 runs find all",
        SCALES,
        gl4,
    ),
    Claim(
        "gl5",
        "Bit sequences: the zero-forcing losses rank the test set at least as well as the Linex "
        "losses",
        "Table 4",
        "TB 0.810 against 0.744; DB 0.806 against 0.752",
        SCALES,
        gl5,
    ),
    Claim(
        "gl6",
        "On-policy, the gradient of g is that of an f-divergence (four parts), error at most 1e-6",
        "Theorem 1",
        "exact",
        ("default", "paper"),
        gl6,
    ),
]

#: Paper: (runs of 5 that find all 60 modes, median step) and Spearman, n = 120.
PAPER_MODES = {
    "tb": ("1/5", "5/5, 98.0k", "5/5, 111.2k", "4/5, 92.2k"),
    "db": ("5/5, 13.4k", "5/5, 10.8k", "5/5, 11.7k", "0/5"),
    "stb": ("4/5, 50.6k", "5/5, 20.3k", "5/5, 55.9k", "5/5, 90.0k"),
}
PAPER_SPEARMAN = {
    "tb": ("0.808 ± 0.016", "0.742 ± 0.022", "0.745 ± 0.002", "0.812 ± 0.015"),
    "db": ("0.791 ± 0.018", "0.746 ± 0.011", "0.758 ± 0.013", "0.821 ± 0.009"),
    "stb": ("0.809 ± 0.017", "0.752 ± 0.025", "0.771 ± 0.019", "0.813 ± 0.015"),
}


def level(rows: pd.DataFrame, task: str, method: str, step: int) -> str:
    """Mean L1 at a step."""
    steps, l1 = curves(rows, task, method, "l1_sum_exact")
    at = np.flatnonzero(steps == step)
    return f"{l1[:, at[0]].mean():.2f}" if len(at) else "–"


def tables(rows: pd.DataFrame) -> list[Table]:
    """Grid, control, bit sequences (paper's numbers beside), theorem."""
    result = []
    grid = []
    for task in [f"{g}-{o}" for g in ("grid", "control") for o in OBJECTIVES]:
        for m in LOSSES:
            if not len(area := values(rows, task, m, "area")):
                continue
            fast = values(rows, task, m, "steps_to_l1_0.2")
            last = int(rows[(rows.task == task) & (rows.metric == "l1_sum_exact")].step.max())
            reached = f"{len(fast)}/{len(area)}"
            if len(fast):
                reached += f", {np.median(fast):.0f}"
            empirical = values(rows, task, m, "l1_mean_empirical")
            grid.append(
                [
                    task.replace("-", " ", 1)
                    .upper()
                    .replace("GRID", "hard")
                    .replace("CONTROL", "control"),
                    NAMES[m],
                    interval(area),
                    level(rows, task, m, 800),
                    f"{level(rows, task, m, last)} ({last})",
                    interval(values(rows, task, m, "regions_found")),
                    reached,
                    f"{empirical.mean():.1e}",
                ]
            )
    floor = values(rows, "grid-tb", "quadratic", "uniform_policy_l1")
    note = f" (an untrained uniform policy: {floor[0]:.3f})" if len(floor) else ""
    result.append(
        Table(
            f"HyperGrid: exact L1 in [0, 2]{note}; the paper shows curves only",
            [
                "grid, objective",
                "loss",
                "area",
                "L1 at 800",
                "L1 at end (step)",
                "regions",
                "runs < 0.2, median step",
                "mean empirical L1",
            ],
            grid,
        )
    )
    bits = []
    for name in ("tb", "db", "stb"):
        task = f"bits-{name}"
        for i, m in enumerate(LOSSES):
            if not len(found := values(rows, task, m, "modes_found")):
                continue
            every = values(rows, task, m, "steps_to_all_modes")
            runs = f"{len(every)}/{len(found)}"
            if len(every):
                runs += f", {np.median(every):.0f}"
            spearman, removed = healthy(rows, task, [m])
            bits.append(
                [
                    name.upper(),
                    NAMES[m],
                    interval(found),
                    runs,
                    PAPER_MODES[name][i],
                    interval(spearman),
                    PAPER_SPEARMAN[name][i],
                    removed,
                ]
            )
    if bits:
        result.append(
            Table(
                "Bit sequences (ours n = 40, 20 modes; the paper n = 120, 60 modes)",
                [
                    "objective",
                    "loss",
                    "modes found",
                    "runs with all modes, median step",
                    "paper",
                    "Spearman",
                    "paper's Spearman",
                    "collapsed",
                ],
                bits,
            )
        )
    errors = rows[rows.metric == "gradient_error"]
    if len(errors):
        table = errors.pivot_table(index=["dag", "part"], columns="method", values="value")
        known = [m for m in LOSSES if m in table]
        body = [[*key, *(f"{table.loc[key, m]:.0e}" for m in known)] for key in table.index]
        result.append(
            Table(
                "Theorem 1: relative error between the gradients of loss and divergence (float64)",
                ["DAG", "part", *(NAMES[m] for m in known)],
                body,
            )
        )
    return result


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """L1 curves, regions found, learned distributions, bit modes."""
    drawn: dict[str, Figure] = {}
    colour = plotting.colours(LOSSES, "linex1")
    dash = plotting.dashes(LOSSES)
    tasks = [
        t
        for t in [f"grid-{o}" for o in OBJECTIVES] + ["control-tb"]
        if len(values(rows, t, "quadratic", "area"))
    ]
    if tasks:
        figure, axes = plotting.panels(1, len(tasks), width=2.6)
        for ax, task in zip(axes[0], tasks, strict=True):
            for m in LOSSES:
                steps, l1 = curves(rows, task, m, "l1_sum_exact")
                if len(l1):
                    plotting.curve(
                        ax, steps, l1, label=NAMES[m], color=colour[m], linestyle=dash[m]
                    )
            ax.set_title(task)
            ax.set_xlabel("step")
            ax.set_ylim(0, 2.05)
        axes[0][0].set_ylabel("L1 to target (exact)")
        axes[0][0].legend(fontsize=7)
        drawn["curves"] = figure

        figure, axes = plotting.panels(1, len(tasks), width=2.2)
        for ax, task in zip(axes[0], tasks, strict=True):
            for i, m in enumerate(LOSSES):
                found = values(rows, task, m, "regions_found")
                if not len(found):
                    continue
                ax.bar(i, found.mean(), color=colour[m], alpha=0.4, width=0.7)
                spread = np.linspace(-0.25, 0.25, len(found)) if len(found) > 1 else np.zeros(1)
                ax.plot(i + spread, found, "o", color=colour[m], markersize=3)
            ax.set_title(task)
            ax.set_xticks(range(len(LOSSES)), [NAMES[m] for m in LOSSES], rotation=60)
        axes[0][0].set_ylabel("regions found")
        drawn["regions"] = figure

    maps = {e["method"]: e["data"] for e in extras if e["name"] == "p_terminal"}
    target = [e["data"] for e in extras if e["name"] == "target"]
    if maps and target:
        shown = [("target", target[0]), *((NAMES[m], maps[m]) for m in LOSSES if m in maps)]
        figure, axes = plotting.panels(1, len(shown), width=2.0, height=2.2)
        top = np.max(target[0])
        for ax, (title, data) in zip(axes[0], shown, strict=True):
            ax.imshow(np.sqrt(data), origin="lower", vmin=0, vmax=np.sqrt(top), cmap="viridis")
            ax.set_title(title)
            ax.grid(False)
            ax.set_xticks([])
            ax.set_yticks([])
        figure.suptitle("Terminating distribution, TB, mean of 3 seeds (square root)")
        drawn["distributions"] = figure

    bits = [
        t
        for t in ("bits-tb", "bits-db", "bits-stb")
        if len(values(rows, t, "linex1", "modes_found"))
    ]
    if bits:
        figure, axes = plotting.panels(1, len(bits))
        for ax, task in zip(axes[0], bits, strict=True):
            for m in LOSSES:
                steps, found = curves(rows, task, m, "modes")
                if len(found):
                    plotting.curve(
                        ax, steps, found, label=NAMES[m], color=colour[m], linestyle=dash[m]
                    )
            ax.set_title(task)
            ax.set_xlabel("step")
        axes[0][0].set_ylabel("modes found (cumulative)")
        axes[0][0].legend(fontsize=7)
        drawn["bit_modes"] = figure
    return drawn


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
