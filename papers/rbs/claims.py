"""The paper's claims as functions of the results, its tables and its figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from common import plotting
from common.claims_v1 import (
    CONTRADICTED,
    Claim,
    Judgement,
    Table,
    all_of,
    by_interval,
    claims_cli,
    curves,
    interval,
    not_worse,
    values,
)
from common.plotting import Figure
from common.stats import LEVEL, RESAMPLES, Interval, mean_ci, paired_diff, ratio_of_means

METHODS = (
    "rbs-db",
    "her-db",
    "gc-db",
    "dqn-her",
    "rbs-subtb",
    "rbs-noreg",
    "rbs-uniform",
)
NAMES = {
    "rbs-db": "RBS-DB",
    "her-db": "HER-DB",
    "gc-db": "GC-DB (forward only)",
    "dqn-her": "DQN + HER",
    "rbs-subtb": "RBS-SubTB(0.9)",
    "rbs-noreg": "RBS, no regulariser",
    "rbs-uniform": "RBS, uniform P_B",
}
TASKS = {
    "g6": "grid 6x6",
    "g16": "grid 16x16",
    "g32": "grid 32x32",
    "g16-unseen": "grid 16x16, 80 % of goals",
    "b12": "bits n=12, k=2",
    "b20": "bits n=20, k=2",
}
SCALES = ("default",)


def r1(rows: pd.DataFrame) -> Judgement:
    """Updates to 50 % success on G16, RBS over HER, at most 0.7."""
    ours = values(rows, "g16", "rbs-db", "updates_to_half")
    base = values(rows, "g16", "her-db", "updates_to_half")
    capped = {
        m: int((values(rows, "g16", m, "reached_half") == 0).sum()) for m in ("rbs-db", "her-db")
    }
    ci = ratio_of_means(ours, base, paired=True)
    text = f"{ours.mean():.0f} against {base.mean():.0f} updates; ratio {ci}"
    if capped["her-db"]:
        text += f" (HER: {capped['her-db']} seeds not within the run)"
    result = by_interval(ci, 0.7, above=False, ours=text, capped=capped)
    if capped["rbs-db"]:
        return Judgement(CONTRADICTED, f"RBS does not reach it; {text}", result.evidence)
    return result


def r2(rows: pd.DataFrame) -> Judgement:
    """Final success on G32: RBS > HER > forward only."""
    final = {m: values(rows, "g32", m, "final_success") for m in ("rbs-db", "her-db", "gc-db")}
    means = {m: float(x.mean()) for m, x in final.items()}
    pairs = {
        "RBS > HER": ("rbs-db", "her-db"),
        "HER > forward only": ("her-db", "gc-db"),
    }
    return all_of(
        {
            name: by_interval(
                ci := paired_diff(final[a], final[b]),
                ours=f"{means[a]:.3f} − {means[b]:.3f} = {ci}",
                means=means,
            )
            for name, (a, b) in pairs.items()
        }
    )


def r3(rows: pd.DataFrame) -> Judgement:
    """Final success of RBS on G16 is at least 0.9."""
    return by_interval(mean_ci(values(rows, "g16", "rbs-db", "final_success")), 0.9)


def r4(rows: pd.DataFrame) -> Judgement:
    """Success on held-out goals: RBS minus HER above 0."""
    ours = values(rows, "g16-unseen", "rbs-db", "final_unseen")
    base = values(rows, "g16-unseen", "her-db", "final_unseen")
    ci = paired_diff(ours, base)
    seen = float(values(rows, "g16-unseen", "rbs-db", "final_success").mean())
    text = f"{ours.mean():.3f} against {base.mean():.3f}; difference {ci}"
    return by_interval(ci, ours=text, all_goals=seen)


def r5(rows: pd.DataFrame) -> Judgement:
    """Regulariser: entropy of P_B not lower, success not lower by more than 0.05 (G16)."""
    parts = {}
    for name, metric, margin in (("entropy", "entropy", 0.0), ("success", "success", 0.05)):
        ours = values(rows, "g16", "rbs-db", f"final_{metric}")
        base = values(rows, "g16", "rbs-noreg", f"final_{metric}")
        ci = paired_diff(ours, base)
        text = f"{ours.mean():.3f} against {base.mean():.3f}; difference {ci}"
        parts[name] = not_worse(ci, margin, ours=text)
    return all_of(parts)


def r6(rows: pd.DataFrame) -> Judgement:
    """Objective-agnostic: RBS with SubTB at least HER-DB (G16)."""
    ours = values(rows, "g16", "rbs-subtb", "final_success")
    base = values(rows, "g16", "her-db", "final_success")
    ci = paired_diff(ours, base)
    return not_worse(ci, 0.0, ours=f"{ours.mean():.3f} against {base.mean():.3f}; difference {ci}")


def two_way(difference: np.ndarray) -> Interval:
    """Mean with its bootstrap interval over seeds and goals at once. [n_seeds, n_goals]."""
    rng = np.random.default_rng(0)
    n_seeds, n_goals = difference.shape
    draws = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        seeds = difference[rng.integers(0, n_seeds, n_seeds)].mean(0)
        draws[i] = seeds[rng.integers(0, n_goals, n_goals)].mean()
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high), n_seeds)


def r7(rows: pd.DataFrame) -> Judgement:
    """Success on 512 words of 20 bits: RBS above HER and above forward only."""
    goals = {m: curves(rows, "b20", m, "goal_success")[1] for m in ("rbs-db", "her-db", "gc-db")}
    parts = {}
    for name, base in (("above HER", "her-db"), ("above forward only", "gc-db")):
        ci = two_way(goals["rbs-db"] - goals[base])
        text = f"{goals['rbs-db'].mean():.3g} against {goals[base].mean():.3g}; difference {ci}"
        parts[name] = by_interval(ci, ours=text)
    return all_of(parts)


CLAIMS = [
    Claim(
        "r1",
        "RBS reaches 50 % success in at most 0.7 of the updates that HER needs (G16)",
        "Section 5, success curves",
        "large gain in sample efficiency",
        SCALES,
        r1,
    ),
    Claim(
        "r2",
        "On the larger grid (G32, 1200 updates) RBS > HER > forward only",
        "Section 5, success curves",
        "near 100 % where the others fail",
        SCALES,
        r2,
    ),
    Claim(
        "r3",
        "RBS reaches a success rate of at least 0.9 (G16, 1000 updates)",
        "Section 5",
        "near 100 %",
        SCALES,
        r3,
    ),
    Claim(
        "r4",
        "RBS generalises better than HER to goals it was not trained on (G16, 20 % held out)",
        "Section 5, unseen goals",
        "better",
        SCALES,
        r4,
    ),
    Claim(
        "r5",
        "Regularisation keeps P_B's entropy and costs at most 0.05 of success (G16)",
        "Section 4, ablation",
        "needed",
        SCALES,
        r5,
    ),
    Claim(
        "r6",
        "RBS works with SubTB too: final success at least HER-DB's (G16)",
        "Section 5, SubTB version",
        "holds",
        SCALES,
        r6,
    ),
    Claim(
        "r7",
        "Words of 20 bits: success of RBS above HER and above forward only",
        "Section 5, bit sequences",
        "near 100 % on long words where the others fail",
        SCALES,
        r7,
    ),
]


def tables(rows: pd.DataFrame) -> list[Table]:
    """Every task and method; the ablations and what they are compared with at equal updates."""
    body = []
    present = [t for t in rows.task.unique() if t not in TASKS]
    for task in (*TASKS, *present):
        for m in METHODS:
            if not len(final := values(rows, task, m, "final_success")):
                continue
            last = int(
                rows[
                    (rows.task == task) & (rows.method == m) & (rows.metric == "success")
                ].step.max()
            )
            half = values(rows, task, m, "updates_to_half")
            n_half = int(values(rows, task, m, "reached_half").sum())
            body.append(
                [
                    TASKS.get(task, task),
                    NAMES[m],
                    last,
                    interval(final),
                    f"{half.mean():.0f} ({n_half}/{len(half)})" if n_half else "–",
                    interval(values(rows, task, m, "final_unseen")),
                    interval(values(rows, task, m, "final_entropy")),
                    interval(values(rows, task, m, "distinct_paths")) if task[0] == "g" else "–",
                    interval(values(rows, task, m, "source_gap")),
                ]
            )
    columns = [
        "task",
        "method",
        "updates",
        "success",
        "updates to 50 % (seeds)",
        "held-out goals",
        "mean H(P_B), nats",
        "distinct paths of 64 to the far corner",
        "mean of abs(log F(s0) − log C)",
    ]
    return [Table("Success rate (exact; the paper shows curves only)", columns, body)]


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Success curves and success over goals as a map."""
    drawn: dict[str, Figure] = {}
    colour = plotting.colours(METHODS, "rbs-db")
    dash = plotting.dashes(METHODS)
    panels = [(t, "success") for t in TASKS if t in set(rows.task)]
    panels += [("g16-unseen", "unseen")] if "g16-unseen" in set(rows.task) else []
    if panels:
        figure, axes = plotting.panels(1, len(panels), width=2.8)
        shown: dict[str, Any] = {}
        for ax, (task, metric) in zip(axes[0], panels, strict=True):
            for m in METHODS:
                steps, curve = curves(rows, task, m, metric)
                if len(curve):
                    plotting.curve(
                        ax, steps, curve, label=NAMES[m], color=colour[m], linestyle=dash[m]
                    )
            for line, label in zip(*ax.get_legend_handles_labels(), strict=True):
                shown.setdefault(label, line)
            held_out = ", held-out goals" if metric == "unseen" else ""
            ax.set_title(TASKS[task] + held_out, fontsize=8)
            ax.set_xlabel("update")
            ax.set_ylim(-0.02, 1.02)
        axes[0][0].set_ylabel("success rate (exact)")
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncol=4, fontsize=7)
        drawn["success"] = figure
    for task in TASKS:
        maps = {
            e["method"]: e["data"]
            for e in extras
            if e["name"] == "success_map" and e["task"] == task
        }
        kept = [m for m in METHODS if m in maps]
        if len(kept) < 2:
            continue
        figure, axes = plotting.panels(1, len(kept), width=1.9, height=2.2)
        for ax, m in zip(axes[0], kept, strict=True):
            picture = ax.imshow(np.array(maps[m]).T, origin="lower", vmin=0, vmax=1, cmap="viridis")
            ax.set_title(NAMES[m], fontsize=8)
            ax.grid(False)
            ax.set_xticks([])
            ax.set_yticks([])
        figure.colorbar(picture, ax=axes[0].tolist(), shrink=0.7)
        figure.suptitle(f"Success by goal, {TASKS[task]}", fontsize=9)
        drawn[f"map_{task}"] = figure
    entropy = [m for m in METHODS if len(curves(rows, "g16", m, "entropy")[1])]
    if entropy:
        figure, axes = plotting.panels(1, 1)
        for m in entropy:
            steps, curve = curves(rows, "g16", m, "entropy")
            plotting.curve(
                axes[0][0], steps, curve, label=NAMES[m], color=colour[m], linestyle=dash[m]
            )
        axes[0][0].set_xlabel("update")
        axes[0][0].set_ylabel("mean H(P_B), nats")
        axes[0][0].set_title(TASKS["g16"])
        axes[0][0].legend(fontsize=7)
        drawn["entropy"] = figure
    return drawn


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
