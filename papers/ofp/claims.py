"""The claims of One-Step Flow Policy as functions of the rows of eval.py and bench.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.claims_v1 import (
    Claim,
    Judgement,
    Table,
    all_of,
    by_interval,
    claims_cli,
    compare,
    not_worse,
)
from common.plotting import Figure, colours, panels
from common.stats import mean_ci, paired_diff
from papers.ofp.point_mass import DISC, GOAL, JUDGED_RADIUS, RADII
from papers.ofp.train import STUDY

A, B, C = "point-mass", "metaworld", "pointcloud"
T_W = 0.15  # OFP with its warm start is the published method; t_w = 0: without
MARGIN = 0.05  # of non-inferiority, fixed before the runs

NAMES = {
    "ofp": "OFP",
    "fm": "flow matching",
    "fm-half": "flow matching, half the steps",
    "bc": "BC (MSE)",
    "ddpm": "diffusion",
    "meanflow": "MeanFlow",
    "shortcut": "shortcut model",
    "ofp-no-sc": "OFP without self-consistency",
    "ofp-no-sg": "OFP without self-guidance",
    "ofp-rho1": "OFP, rho = 1 throughout",
}


# -- reading rows -----------------------------------------------------------------------------


def pick(
    rows: pd.DataFrame, method: str, nfe: int, metric: str, task: str = A, **labels: Any
) -> np.ndarray:
    """Values in the order of seed (and sub-task).

    `success` on A is that of the judged radius; closed-loop metrics are with the method's own
    start (warm for OFP) unless t_w is given.
    """
    if "t_w" not in labels:
        first_chunk = metric in ("on_mode", "side_entropy", "lateral_std", "w1", "latency_ms")
        full = method == "ofp" or method.startswith("ofp-")
        labels["t_w"] = T_W if full and not first_chunk else 0.0
    if task == A and metric in ("success", "collision"):
        labels.setdefault("radius", JUDGED_RADIUS)
    chosen = rows[
        (rows.method == method) & (rows.nfe == nfe) & (rows.metric == metric) & (rows.task == task)
    ]
    for name, value in labels.items():
        chosen = chosen[chosen[name] == value]
    keys = ["seed", "subtask"] if "subtask" in chosen else ["seed"]
    return chosen.sort_values(keys)["value"].to_numpy(dtype=float)


def each_subtask(task: str) -> str:
    """Metric of which one value per seed (A) or per seed and sub-task (B) is a sample."""
    return "task_success" if task == B else "success"


# -- judges -----------------------------------------------------------------------------------


def one_step_not_worse(task: str) -> Any:
    """OFP-1: success(OFP@1) - success(FM@100), non-inferior by MARGIN; "beats" above 0."""

    def judge(rows: pd.DataFrame) -> Judgement:
        metric = each_subtask(task)
        ours, theirs = pick(rows, "ofp", 1, metric, task), pick(rows, "fm", 100, metric, task)
        ci = paired_diff(ours, theirs)
        text = f"{ours.mean():.3f} against {theirs.mean():.3f}: {ci}"
        if ci.low > 0:
            text += " (beats it)"
        return not_worse(ci, MARGIN, ours=text, ofp_1=ours.mean(), fm_100=theirs.mean())

    return judge


def beats_one_step_flow(rows: pd.DataFrame) -> Judgement:
    """OFP-2: success and on-mode share of OFP@1 above FM@1's on A."""
    parts = {}
    for name, metric in (("(a) success", "success"), ("(b) on-mode share", "on_mode")):
        ours, theirs = pick(rows, "ofp", 1, metric), pick(rows, "fm", 1, metric)
        ci = paired_diff(ours, theirs)
        parts[name] = by_interval(
            ci, ours=f"{ours.mean():.3f} against {theirs.mean():.3f}: {ci}", ofp_1=ours.mean()
        )
    return all_of(parts)


def faster(rows: pd.DataFrame) -> Judgement:
    """OFP-3: latency of FM@100 over OFP@1, the smaller of the two networks' ratios."""
    ratios = {
        task: float(
            pick(rows, "fm", 100, "latency_ms", task)[0]
            / pick(rows, "ofp", 1, "latency_ms", task)[0]
        )
        for task in (A, B)
    }
    text = ", ".join(f"{value:.0f}x ({task})" for task, value in ratios.items())
    return compare(min(ratios.values()), 70.0, ours=text, **ratios)


def flexible(rows: pd.DataFrame) -> Judgement:
    """OFP-4: four jumps improve on one, and reach 100 Euler steps."""
    w1 = paired_diff(pick(rows, "ofp", 1, "w1"), pick(rows, "ofp", 4, "w1"))
    four, one = pick(rows, "ofp", 4, "success"), pick(rows, "ofp", 1, "success")
    hundred = pick(rows, "fm", 100, "success")
    return all_of(
        {
            "W1(OFP@1) - W1(OFP@4) > 0": by_interval(w1),
            "success(OFP@4) - success(OFP@1) > 0": by_interval(paired_diff(four, one)),
            f"success(OFP@4) - success(FM@100) > -{MARGIN}": not_worse(
                paired_diff(four, hundred), MARGIN
            ),
        }
    )


def each_part(rows: pd.DataFrame) -> Judgement:
    """OFP-5: on-mode share at one call, full minus ablated; self-consistency is required."""
    full = pick(rows, "ofp", 1, "on_mode")
    no_sc = paired_diff(full, pick(rows, "ofp-no-sc", 1, "on_mode"))
    no_sg = paired_diff(full, pick(rows, "ofp-no-sg", 1, "on_mode"))
    success = paired_diff(pick(rows, "ofp", 1, "success"), pick(rows, "ofp-no-sg", 1, "success"))
    return by_interval(
        no_sc,
        ours=f"self-consistency: {no_sc}; self-guidance (reported): on-mode {no_sg}, "
        f"success {success}",
        no_sg_on_mode=no_sg.value,
        no_sg_on_mode_low=no_sg.low,
        no_sg_on_mode_high=no_sg.high,
        no_sg_success=success.value,
    )


def warm_start_helps(task: str) -> Any:
    """OFP-6: the gap between chunks shrinks with t_w = .15, success does not fall by > .05."""

    def judge(rows: pd.DataFrame) -> Judgement:
        gap = paired_diff(
            pick(rows, "ofp", 1, "gap", task, t_w=T_W), pick(rows, "ofp", 1, "gap", task, t_w=0.0)
        )
        change = float(
            pick(rows, "ofp", 1, "success", task, t_w=T_W).mean()
            - pick(rows, "ofp", 1, "success", task, t_w=0.0).mean()
        )
        return all_of(
            {
                "gap, warm - cold": by_interval(gap, above=False),
                "success, warm - cold": compare(change, -MARGIN, ours=f"{change:+.3f}"),
            }
        )

    return judge


CLAIMS = [
    Claim(
        "OFP-1-A",
        "One-step OFP is at least as good as the 100-step flow policy (point mass).",
        "abstract; Table 1",
        "71.6 % against 59.8 % over 56 tasks",
        ("default",),
        one_step_not_worse(A),
    ),
    Claim(
        "OFP-1-B",
        "One-step OFP is at least as good as the 100-step flow policy (Meta-World).",
        "abstract; Table 1",
        "71.6 % against 59.8 % over 56 tasks",
        ("default", "paper"),
        one_step_not_worse(B),
    ),
    Claim(
        "OFP-2",
        "One-step OFP beats one Euler step of flow matching where the expert is multimodal.",
        "introduction",
        "one call without loss of quality",
        ("default",),
        beats_one_step_flow,
    ),
    Claim(
        "OFP-3",
        "A chunk costs less than 1/70 of 100-step flow matching's time.",
        "abstract",
        "106x (flow), 183x (DP3)",
        ("default",),
        faster,
    ),
    Claim(
        "OFP-4",
        "More calls help and few suffice: four jumps reach 100 Euler steps.",
        "few-step table",
        "OFP@1 64.5 %, OFP@4 66.2 %",
        ("default",),
        flexible,
    ),
    Claim(
        "OFP-5",
        "Each part matters: without self-consistency one-step quality falls.",
        "ablations",
        "qualitative",
        ("default",),
        each_part,
    ),
    Claim(
        "OFP-6-A",
        "The warm start makes successive chunks consistent at no cost in success (point mass).",
        "ablations",
        "helps at every number of calls",
        ("default",),
        warm_start_helps(A),
    ),
    Claim(
        "OFP-6-B",
        "The warm start makes successive chunks consistent at no cost in success (Meta-World).",
        "ablations",
        "helps at every number of calls",
        ("default",),
        warm_start_helps(B),
    ),
]


# -- tables -----------------------------------------------------------------------------------


def show(values: np.ndarray) -> str | None:
    """Mean and interval, or the value itself when there is one seed."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None
    return str(mean_ci(values)) if len(values) > 1 else f"{values[0]:.3f}"


def evaluated(rows: pd.DataFrame, task: str) -> list[tuple[str, int, float]]:
    """(method, NFE, t_w) that have closed-loop numbers on a task, in the order of NAMES."""
    chosen = rows[(rows.task == task) & (rows.metric == "success")]
    found = chosen[["method", "nfe", "t_w"]].drop_duplicates().itertuples(index=False)
    order = {name: i for i, name in enumerate(dict.fromkeys([*NAMES, *STUDY]))}
    return sorted(((m, int(n), w) for m, n, w in found), key=lambda x: (order[x[0]], x[1], x[2]))


def label(method: str, nfe: int, t_w: float) -> str:
    """Name of a table's row."""
    name = NAMES.get(method, method)
    if method == "ddpm":
        name = "DDPM" if nfe == 100 else "DDIM"
    return f"{name} @{nfe}" + (", warm start" if t_w else "")


def tables(rows: pd.DataFrame) -> list[Table]:
    """Success and chunk metrics per experiment, latency; at scale study the study's table."""
    if rows.method.str.startswith("study-").any():
        return [study_table(rows)]
    result = []
    for task, title in ((A, "A: two-route point mass"), (C, "C: Meta-World from point clouds")):
        found = evaluated(rows, task)
        if not found:
            continue
        columns = ["method @calls", "success"]
        if task == A:
            columns = ["method @calls", *(f"success, r = {r:.2f}" for r in RADII)]
            columns += ["on-mode share", "W1 to expert", "gap between chunks"]
        body = []
        for method, nfe, t_w in found:
            key: dict[str, Any] = {"task": task, "t_w": t_w}
            if task == A:
                cells = [show(pick(rows, method, nfe, "success", radius=r, **key)) for r in RADII]
                cells += [show(pick(rows, method, nfe, m, **key)) for m in ("on_mode", "w1", "gap")]
            else:
                cells = [show(pick(rows, method, nfe, "success", **key))]
            body.append([label(method, nfe, t_w), *cells])
        result.append(Table(title, columns, body))
    if found := evaluated(rows, B):
        subtasks = sorted(
            rows[(rows.metric == "task_success") & (rows.task == B)].subtask.dropna().unique()
        )
        body = []
        for method, nfe, t_w in found:
            per_task = [
                pick(rows, method, nfe, "task_success", B, t_w=t_w, subtask=s) for s in subtasks
            ]
            body.append(
                [
                    label(method, nfe, t_w),
                    show(pick(rows, method, nfe, "success", B, t_w=t_w)),
                    *(f"{x.mean():.2f}" if len(x) else None for x in per_task),
                    show(pick(rows, method, nfe, "gap", B, t_w=t_w)),
                ]
            )
        result.insert(
            1,
            Table(
                "B: five Meta-World tasks, one policy",
                ["method @calls", "success", *subtasks, "gap between chunks"],
                body,
            ),
        )
    latency = rows[rows.metric == "latency_ms"]
    if len(latency):
        wide = latency.pivot_table(index=["method", "nfe"], columns="task", values="value")
        body = [
            [label(method, int(nfe), 0.0), *(f"{row[task]:.3f}" for task in (A, B))]
            for (method, nfe), row in wide.iterrows()
        ]
        title = "Milliseconds per chunk, B = 1, one thread"
        result.append(Table(title, ["method @calls", "network of A", "network of B"], body))
    return result


def study_table(rows: pd.DataFrame) -> Table:
    """One change at a time from the default, with the difference of one-step success."""
    default = pick(rows, "ofp", 1, "success", t_w=0.0)
    body = []
    for name, (change, _, _) in STUDY.items():
        if not len(rows[rows.method == name]):
            continue
        success = pick(rows, name, 1, "success", t_w=0.0)
        difference = None if name == "ofp" else str(paired_diff(success, default))
        cells = [show(pick(rows, name, 1, m, t_w=0.0)) for m in ("on_mode", "w1")]
        cells += [show(pick(rows, name, n, "success", t_w=0.0)) for n in (2, 4, 100)]
        body.append([change, show(success), difference, *cells])
    return Table(
        "Study on A, seeds not used for the claims, no warm start",
        [
            "change",
            "success @1",
            "minus default",
            "on-mode @1",
            "W1 @1",
            "success @2",
            "@4",
            "@100",
        ],
        body,
    )


# -- figures ----------------------------------------------------------------------------------


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Success against calls; the study; routes over the map and first-chunk histograms."""
    if rows.method.str.startswith("study-").any():
        return {"study": study_figure(rows)}
    drawn = {"curves": calls_figure(rows)}
    for name, draw in (("routes", routes_figure), ("first_chunks", histograms_figure)):
        kind = {"routes": "paths", "first_chunks": "lateral"}[name]
        chosen = [extra for extra in extras if extra["name"] == kind]
        if chosen:
            drawn[name] = draw(chosen)
    return drawn


def calls_figure(rows: pd.DataFrame) -> Figure:
    """Mean success with intervals against the number of network calls, A and B."""
    tasks = [task for task in (A, B) if evaluated(rows, task)]
    figure, axes = panels(1, max(len(tasks), 1), width=4.2, height=3.2)
    methods = [name for name in NAMES if (rows.method == name).any()]
    colour = colours(methods, "ofp")
    for axis, task in zip(axes[0], tasks, strict=False):
        found = evaluated(rows, task)
        for method in methods:
            warm = method.startswith("ofp")
            counts = [n for m, n, w in found if m == method and bool(w) == warm]
            if not counts:
                continue
            values = [pick(rows, method, n, "success", task) for n in counts]
            means = np.array([v.mean() for v in values])
            ends = [mean_ci(v) if len(v) > 1 else None for v in values]
            low = [m - (e.low if e else m) for m, e in zip(means, ends, strict=True)]
            high = [(e.high if e else m) - m for m, e in zip(means, ends, strict=True)]
            axis.errorbar(
                counts,
                means,
                yerr=np.abs([low, high]),
                label=NAMES[method],
                color=colour[method],
                marker="o" if len(counts) == 1 or method in ("ofp", "fm") else "s",
                markersize=4,
                capsize=2,
            )
        axis.set_xscale("log")
        axis.set_xticks([1, 2, 4, 10, 100], ["1", "2", "4", "10", "100"])
        axis.minorticks_off()
        axis.set(xlabel="network calls per chunk", ylabel="success", ylim=(-0.02, 1.02))
        axis.set_title({A: f"A: point mass, r = {JUDGED_RADIUS}", B: "B: Meta-World"}[task])
    axes[0, 0].legend(fontsize=6)
    return figure


def routes_figure(extras: Sequence[dict[str, Any]]) -> Figure:
    """Paths of one seed over the map, one panel per variant: mode collapse can be seen."""
    columns = 4
    figure, axes = panels(-(-len(extras) // columns), columns, width=2.5, height=1.7)
    for axis in axes.flat[len(extras) :]:
        axis.set_visible(False)
    for axis, extra in zip(axes.flat, extras, strict=False):
        paths = np.array(extra["data"], dtype=float)
        axis.add_patch(_disc())
        for path in paths:
            hit = (np.linalg.norm(path - DISC, axis=1) < JUDGED_RADIUS).any()
            axis.plot(*path.T, color="#D55E00" if hit else "#0072B2", linewidth=0.5, alpha=0.6)
        axis.plot(*GOAL, marker="*", color="black", markersize=6)
        axis.set(xlim=(-0.15, 1.15), ylim=(-0.5, 0.5), xticks=[], yticks=[])
        axis.set_aspect("equal")
        axis.set_title(label(extra["method"], extra["nfe"], 0.0), fontsize=7)
    return figure


def _disc() -> Any:
    from matplotlib.patches import Circle

    return Circle((float(DISC[0]), float(DISC[1])), JUDGED_RADIUS, color="#BBBBBB")


def histograms_figure(extras: Sequence[dict[str, Any]]) -> Figure:
    """Lateral displacement of first chunks at the ambiguous start; the expert's modes shaded."""
    columns = 4
    figure, axes = panels(-(-len(extras) // columns), columns, width=2.5, height=1.6)
    edges = np.linspace(-0.45, 0.45, 61)
    for axis in axes.flat[len(extras) :]:
        axis.set_visible(False)
    for axis, extra in zip(axes.flat, extras, strict=False):
        counts = np.array(extra["data"], dtype=float)
        for side in (-1, 1):
            axis.axvspan(side * 0.27 - 0.09, side * 0.27 + 0.09, color="#DDDDDD", zorder=0)
        axis.stairs(counts / counts.sum(), edges, fill=True, color="#0072B2")
        axis.set(yticks=[], xlabel="lateral displacement")
        axis.set_title(label(extra["method"], extra["nfe"], 0.0), fontsize=7)
    return figure


def study_figure(rows: pd.DataFrame) -> Figure:
    """One-step success and on-mode share of each change, with intervals."""
    names = [name for name in STUDY if (rows.method == name).any()]
    figure, axes = panels(1, 2, width=4.4, height=0.24 * len(names) + 1)
    y = np.arange(len(names))[::-1]
    for axis, metric in zip(axes[0], ("success", "on_mode"), strict=True):
        values = [pick(rows, name, 1, metric, t_w=0.0) for name in names]
        for at, name, value in zip(y, names, values, strict=True):
            colour = "#D55E00" if name == "ofp" else "#0072B2"
            axis.plot(value, np.full(len(value), at), "o", color=colour, markersize=3, alpha=0.5)
            axis.plot(value.mean(), at, "|", color=colour, markersize=11)
        axis.axvline(values[0].mean(), color="#D55E00", linewidth=0.8)
        axis.set(xlabel=f"{metric.replace('_', '-')} at one call")
    axes[0, 0].set_yticks(y, [STUDY[name][0] for name in names], fontsize=7)
    axes[0, 1].set_yticks(y, [""] * len(y))
    return figure


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
