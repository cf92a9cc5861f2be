"""The claims of QCSBM as functions of the rows of eval.py, and what its README shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from common.claims_v1 import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
    Claim,
    Judgement,
    NoResults,
    Table,
    all_of,
    by_interval,
    claims_cli,
    compare,
    curves,
    not_worse,
    values,
)
from common.plotting import Figure, colours, panels
from common.stats import mean_ci, paired_diff
from papers.qcsgm.rotation import EPSILONS
from papers.qcsgm.task import TOY

LAM = {**dict.fromkeys(TOY, 0.1), "digits": 1e-2, "cifar10": 1e-4}  # of the judged QC models
MARGIN_NATS, MARGIN_BITS = 0.03, 0.02  # Q4, fixed before the runs
JUDGED_QC = {**dict.fromkeys(TOY, "qc"), "digits": "qc_est", "cifar10": "qc_est"}
SETS = {"8gaussians": "8-Gaussians", "spirals": "spirals", "checkerboard": "checkerboard"}
NAMES = {
    "c": "C",
    "c_act": "C, output activation",
    "u": "U",
    "qc": "QC, exact",
    "qc_est": "QC, estimate (K=1)",
}
PUBLISHED_STEPS = {
    "radial": (1, 2, 3, 3, 4, 5, 16),
    "rotational": (1, 4, 5, 6, 57, 121, 238),
}
PUBLISHED: dict[tuple[str, str], tuple[str, str, str, str]] = {  # NLL, Asym, NAsym, score error
    ("8gaussians", "c_act"): ("5.24±0.03", "0", "0", "0.434"),
    ("8gaussians", "u"): ("5.02±0.03", "1.06e-2", "1.42e-3", "0.414"),
    ("8gaussians", "qc"): ("5.01±0.09", "9.49e-3", "1.38e-3", "0.420"),
    ("spirals", "c_act"): ("5.61±0.17", "0", "0", "1.59"),
    ("spirals", "u"): ("5.11±0.11", "7.35e-1", "8.19e-2", "1.50"),
    ("spirals", "qc"): ("5.04±0.04", "3.18e-1", "5.73e-2", "1.56"),
    ("checkerboard", "c_act"): ("5.19±0.08", "0", "0", "0.765"),
    ("checkerboard", "u"): ("5.09±0.02", "1.05e-1", "2.51e-2", "0.679"),
    ("checkerboard", "qc"): ("5.08±0.02", "7.06e-2", "1.70e-2", "0.679"),
}
SMALL, LARGE = 0.1, 0.5  # t below and above, Q6


# -- reading rows ---------------------------------------------------------------------------------


def of_model(rows: pd.DataFrame, method: str, task: str, **labels: Any) -> pd.DataFrame:
    """The rows with these labels; ``lam`` is the judged one unless given."""
    if method.startswith("qc") and task != "autoencoder":
        labels.setdefault("lam", LAM[task])
    for name, value in labels.items():
        rows = rows[rows[name] == value] if name in rows else rows[:0]
    return rows


def pick(rows: pd.DataFrame, method: str, task: str, metric: str, **labels: Any) -> np.ndarray:
    """Values in the order of seeds.

    Raises:
        NoResults: if there are none.
    """
    found = values(of_model(rows, method, task, **labels), task, method, metric)
    if not len(found):
        raise NoResults(f"no {metric} of {method} on {task}")
    return found


def curve_of(
    rows: pd.DataFrame, method: str, task: str, metric: str, **labels: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Abscissae [T] and values [n_seeds, T] of a curve.

    Raises:
        NoResults: if there is none.
    """
    steps, found = curves(of_model(rows, method, task, **labels), task, method, metric)
    if not len(found):
        raise NoResults(f"no {metric} of {method} on {task}")
    return steps, found


def reductions(rows: pd.DataFrame, tasks: tuple[str, ...], metric: str) -> np.ndarray:
    """1 - QC / U for each set and seed."""
    parts = [
        1 - pick(rows, JUDGED_QC[task], task, metric) / pick(rows, "u", task, metric)
        for task in tasks
    ]
    return np.concatenate(parts)


def at_times(rows: pd.DataFrame, method: str, task: str, low: float, high: float) -> np.ndarray:
    """Mean Asym over the noise levels with low < t < high, per seed."""
    t, found = curve_of(rows, method, task, "asym_at")
    return found[:, (t > low) & (t < high)].mean(axis=1)


# -- judges ---------------------------------------------------------------------------------------


def q1(rows: pd.DataFrame) -> Judgement:
    """Steps to the mode, the worst seed of each comparison; nothing else is random."""
    steps = {
        kind: {e: pick(rows, kind, "gaussian", "steps", epsilon=e) for e in EPSILONS}
        for kind in ("radial", "rotational")
    }
    excess = min((steps["rotational"][e] - steps["radial"][e]).min() for e in EPSILONS)
    parts = {"every ε": compare(excess, 0, ours=f"rotational − radial ≥ {excess:.0f}")}
    for e in (1.5e-3, 1.75e-3):
        ratio = float((steps["rotational"][e] / steps["radial"][e]).min())
        parts[f"ε = {e:g}"] = compare(ratio, 10, ours=f"{ratio:.1f} times")
    return all_of(parts)


def q2(rows: pd.DataFrame) -> Judgement:
    """Relative reductions of Asym and NAsym, over 2-D sets and seeds, and on digits."""
    parts = {}
    for where, tasks in (("2-D", TOY), ("digits", ("digits",))):
        for name, metric in (("Asym", "asym"), ("NAsym", "nasym")):
            ci = mean_ci(reductions(rows, tasks, metric))
            per_set = {task: float(reductions(rows, (task,), metric).mean()) for task in tasks}
            text = str(ci)
            if len(tasks) > 1:
                text += " (" + ", ".join(f"{SETS[t]} {x:.2f}" for t, x in per_set.items()) + ")"
            parts[f"{where} {name}"] = by_interval(ci, ours=text, **per_set)
    return all_of(parts)


def q3(rows: pd.DataFrame) -> Judgement:
    """NLL of C minus that of U, on at least two of three sets; the score error beside it."""
    verdicts, texts, evidence = [], [], {}
    for task in TOY:
        ci = paired_diff(pick(rows, "c", task, "nll"), pick(rows, "u", task, "nll"))
        error = paired_diff(
            pick(rows, "c", task, "score_error"), pick(rows, "u", task, "score_error")
        )
        part = by_interval(ci)
        verdicts.append(part.verdict)
        texts.append(f"{SETS[task]} {ci} ({part.verdict}; score error {error})")
        evidence[task] = {**part.evidence, "score_error": error.value}
    verdict = INCONCLUSIVE
    for decided in (REPRODUCED, CONTRADICTED):
        if verdicts.count(decided) >= 2:
            verdict = decided
    return Judgement(verdict, "; ".join(texts), evidence)


def q4(rows: pd.DataFrame) -> Judgement:
    """NLL of U minus that of QC, not below minus the margin."""
    nats = [
        (pick(rows, "u", task, "nll"), pick(rows, JUDGED_QC[task], task, "nll")) for task in TOY
    ]
    u, qc = (np.concatenate(x) for x in zip(*nats, strict=True))
    parts = {}
    for where, margin, ci, unit in (
        ("2-D", MARGIN_NATS, paired_diff(u, qc), "nats"),
        (
            "digits",
            MARGIN_BITS,
            paired_diff(
                pick(rows, "u", "digits", "bits"),
                pick(rows, JUDGED_QC["digits"], "digits", "bits"),
            ),
            "bits/dim",
        ),
    ):
        better = "better" if ci.low > 0 else "worse" if ci.high < 0 else "no difference seen"
        parts[where] = not_worse(ci, margin, ours=f"U − QC {ci} {unit}, {better}")
    return all_of(parts)


def q5(rows: pd.DataFrame) -> Judgement:
    """Seeds whose field became symmetric while R stayed away from W."""
    ends = {}
    for metric in ("loss", "gap", "untied", "nasym"):
        _, found = curve_of(rows, "qc", "autoencoder", metric)
        ends[metric] = (found[:, 0], found[:, -1])
    loss, gap = (ends[m][0] / np.maximum(ends[m][1], 1e-300) for m in ("loss", "gap"))
    untied = ends["untied"][1]
    passed = (loss >= 100) & (gap >= 10) & (untied > 0.3)
    text = (
        f"{passed.sum()} of {len(passed)} seeds: L_QC down {loss.min():.0f}× or more, "
        f"gap {gap.min():.0f}× or more, ‖W − R‖ ≥ {untied.min():.2f}, "
        f"NAsym {ends['nasym'][0].mean():.2g} → {ends['nasym'][1].mean():.2g}"
    )
    return compare(float(passed.mean()), 0.8, ours=text, passed=int(passed.sum()))


def q6(rows: pd.DataFrame) -> Judgement:
    """U's Asym at small t over that at large t (decades), and QC's reduction at small t."""
    parts = {}
    for where, tasks in (("2-D", TOY), ("digits", ("digits",))):
        decades = [
            np.log10(at_times(rows, "u", t, 0, SMALL) / at_times(rows, "u", t, LARGE, 1))
            for t in tasks
        ]
        ci = mean_ci(np.concatenate(decades))
        parts[f"{where}: decades between"] = by_interval(ci)
        less = [
            1 - at_times(rows, JUDGED_QC[t], t, 0, SMALL) / at_times(rows, "u", t, 0, SMALL)
            for t in tasks
        ]
        parts[f"{where}: QC's reduction"] = by_interval(mean_ci(np.concatenate(less)))
    return all_of(parts)


def q7(rows: pd.DataFrame) -> Judgement:
    """CIFAR-10, one pair of runs from the same weights."""
    u, qc = pick(rows, "u", "cifar10", "bits"), pick(rows, "qc_est", "cifar10", "bits")
    if len(u) > 1:
        return by_interval(paired_diff(u, qc), ours=f"{qc.mean():.3f} against {u.mean():.3f}")
    return compare(float(u[0] - qc[0]), 0, ours=f"{qc[0]:.3f} against {u[0]:.3f}")


CLAIMS = [
    Claim(
        "Q1",
        "A rotational error slows sampling more than a radial one of equal size: never fewer "
        "steps, and at least 10 times as many at ε = 1.5e-3 and 1.75e-3",
        "Example 1",
        "57 against 4, 121 against 5",
        ("default",),
        q1,
    ),
    Claim(
        "Q2",
        "The regulariser lowers Asym and NAsym (1 − QC/U > 0; λ = 0.1 in 2-D, 0.01 on digits)",
        "Tables 1 and 2",
        "0.10 to 0.57 and 0.03 to 0.32 in 2-D; 0.81 and 0.56 on CIFAR-10",
        ("default",),
        q2,
    ),
    Claim(
        "Q3",
        "Constrained models fit worse: C − U > 0 in NLL on at least two of the three 2-D sets",
        "Table 1",
        "0.22, 0.50, 0.10 nats",
        ("default",),
        q3,
    ),
    Claim(
        "Q4",
        "The regulariser costs no likelihood: QC ≤ U + 0.03 nats (2-D) and U + 0.02 bits/dim "
        "(digits)",
        "Tables 1 and 2",
        "better by 0.03 nats on average; by 0.08 bits/dim on CIFAR-10",
        ("default",),
        q4,
    ),
    Claim(
        "Q5",
        "An autoencoder becomes conservative without tied weights: L_QC down 100 times, "
        "‖WRᵀ − RWᵀ‖ 10 times, ‖W − R‖ > 0.3 at the end, on at least 4 of 5 seeds",
        "Appendix, one-layer autoencoder",
        "both near 0 by step 4000, ‖W − R‖ 1.04",
        ("default",),
        q5,
    ),
    Claim(
        "Q6",
        "U's asymmetry is concentrated at small t (t < 0.1 against t > 0.5), and QC's is lower "
        "there",
        "Figure of Asym over t",
        "no number",
        ("default",),
        q6,
    ),
    Claim(
        "Q7",
        "QC fine-tuning improves the likelihood of NCSN++ on CIFAR-10",
        "Table 2",
        "3.38 against 3.46 bits/dim",
        ("paper",),
        q7,
    ),
]


# -- tables ---------------------------------------------------------------------------------------


def show(rows: pd.DataFrame, method: str, task: str, metric: str, **labels: Any) -> str | None:
    """Mean and interval over seeds, the value of a single one, nothing without rows."""
    try:
        found = pick(rows, method, task, metric, **labels)
    except NoResults:
        return None
    return str(mean_ci(found)) if len(found) > 1 else f"{found[0]:.3g}"


def show_mean(
    rows: pd.DataFrame, method: str, task: str, metric: str, **labels: Any
) -> float | None:
    """Mean over seeds, nothing without rows."""
    try:
        return float(pick(rows, method, task, metric, **labels).mean())
    except NoResults:
        return None


def models(rows: pd.DataFrame, task: str) -> list[tuple[str, float]]:
    """(method, lambda) that were evaluated on a data set."""
    found = rows[(rows.task == task) & (rows.metric == "asym")]
    pairs = {(str(m), float(lam)) for m, lam in zip(found.method, found.lam, strict=True)}
    return sorted(pairs, key=lambda pair: (list(NAMES).index(pair[0]), pair[1]))


def model_name(method: str, lam: float) -> str:
    """Name of a table's row."""
    return NAMES[method] + (f", λ = {lam:g}" if method.startswith("qc") else "")


def steps_table(rows: pd.DataFrame) -> Table:
    """Example 1 beside the published counts."""
    body: list[list[Any]] = []
    for kind in ("radial", "rotational"):
        cells = []
        for e in EPSILONS:
            found = pick(rows, kind, "gaussian", "steps", epsilon=e)
            same = found.min() == found.max()
            cells.append(f"{found[0]:.0f}" if same else f"{found.min():.0f}–{found.max():.0f}")
        body.append([kind, *cells])
        body.append([f"{kind}, paper", *PUBLISHED_STEPS[kind]])
        for name, metric in (("E ½‖u‖²", "error"), ("Asym", "asym"), ("NAsym", "nasym")):
            found = [pick(rows, kind, "gaussian", metric, epsilon=e)[0] for e in EPSILONS]
            body.append([f"{kind}: {name}", *(f"{v:.2e}" if v > 1e-20 else "0" for v in found)])
    title = "Example 1: steps to the mode (range over seeds) for errors of equal size"
    return Table(title, ["ε", *(f"{e:g}" for e in EPSILONS)], body)


def toy_table(rows: pd.DataFrame, task: str) -> Table:
    """A 2-D set beside the paper's table."""
    body = []
    for method, lam in models(rows, task):
        paper = PUBLISHED.get((task, method), (None,) * 4)
        if method == "qc" and lam != LAM[task]:
            paper = (None,) * 4
        cells: list[Any] = []
        for metric, published in zip(("nll", "asym", "nasym", "score_error"), paper, strict=True):
            if method.startswith("c") and metric in ("asym", "nasym"):
                cells += ["0", published]  # rounding of a symmetric matrix
            else:
                cells += [show(rows, method, task, metric, lam=lam), published]
        for metric in ("precision", "recall"):
            chosen = {"sampler": "RK45", "rtol": 1e-3, "lam": lam}
            cells.append(show(rows, method, task, metric, **chosen))
        body.append([model_name(method, lam), *cells])
    columns = ["", "NLL (nats)", "paper", "Asym", "paper", "NAsym", "paper"]
    columns += ["score error", "paper", "precision", "recall"]
    return Table(f"{SETS[task]}", columns, body)


def samplers_table(rows: pd.DataFrame, tasks: list[str]) -> Table:
    """Score evaluations of each sampler, and the quality of its samples."""
    chosen = rows[rows.metric.isin(["nfe", "mmd2"]) & (rows.task.isin(tasks))]
    rtols = chosen.rtol.astype(float).fillna(0.0)  # PC has none
    samplers = list(dict.fromkeys(zip(chosen.sampler, rtols, strict=True)))
    body = []
    for task in tasks:
        for method, lam in models(rows, task):
            cells = []
            for sampler, rtol in samplers:
                label: dict[str, Any] = {"sampler": sampler, "lam": lam}
                if rtol:
                    label["rtol"] = rtol
                nfe = show_mean(rows, method, task, "nfe", **label)
                mmd = show_mean(rows, method, task, "mmd2", **label)
                counted = None if nfe is None else f"{nfe:.0f}"
                cells.append(counted if mmd is None else f"{counted} / {1e3 * mmd:.1f}")
            body.append([f"{SETS.get(task, task)}: {model_name(method, lam)}", *cells])
    names = [f"{s}, rtol {r:g}" if r else f"{s}, 100 levels" for s, r in samplers]
    title = "Score evaluations per sample / 1000 MMD² to held-out data (mean over seeds)"
    return Table(title, ["", *names], body)


def autoencoder_table(rows: pd.DataFrame) -> Table:
    """Start and end of each seed."""
    names = {
        "loss": "L_QC",
        "gap": "‖WRᵀ − RWᵀ‖",
        "untied": "‖W − R‖",
        "nasym": "NAsym",
        "jacobian": "E‖J‖²",
        "angle": "max sin∠(r, w)",
    }
    ends = {m: curve_of(rows, "qc", "autoencoder", m)[1] for m in names}
    body = [
        [f"seed {i}", *(f"{c[i, 0]:.3g} → {c[i, -1]:.2g}" for c in ends.values())]
        for i in range(len(ends["loss"]))
    ]
    return Table("Autoencoder, L_QC alone: start → end", ["", *names.values()], body)


def digits_table(rows: pd.DataFrame, task: str) -> Table:
    """Likelihood and asymmetry on images."""
    body = [
        [
            model_name(method, lam),
            *(show(rows, method, task, m, lam=lam) for m in ("bits", "asym", "nasym")),
        ]
        for method, lam in models(rows, task)
    ]
    return Table(task, ["", "NLL (bits/dim)", "Asym", "NAsym"], body)


def tables(rows: pd.DataFrame) -> list[Table]:
    """What the README shows."""
    there = set(rows.task)
    result = [steps_table(rows)] if "gaussian" in there else []
    result += [toy_table(rows, task) for task in TOY if task in there]
    result += [digits_table(rows, t) for t in sorted(there - {*TOY, "gaussian", "autoencoder"})]
    if sampled := [task for task in (*TOY, "digits") if task in there]:
        result.append(samplers_table(rows, sampled))
    if "autoencoder" in there:
        result.append(autoencoder_table(rows))
    return result


# -- figures --------------------------------------------------------------------------------------


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Examples, asymmetry over noise levels, samples and rotation maps."""
    there = set(rows.task)
    drawn: dict[str, Figure] = {}
    if {"gaussian", "autoencoder"} <= there:
        drawn["examples"] = examples_figure(rows)
    tasks = [task for task in (*TOY, "digits") if task in there]
    if tasks:
        drawn["asymmetry"] = asymmetry_figure(rows, tasks)
    for name, draw in (("samples", samples_figure), ("rotation", rotation_figure)):
        if chosen := [extra for extra in extras if extra["name"] == name]:
            drawn[name] = draw(chosen)
    if chosen := [extra for extra in extras if extra["name"] == "images"]:
        drawn["digits"] = images_figure(chosen)
    return drawn


def examples_figure(rows: pd.DataFrame) -> Figure:
    """Steps against epsilon; the autoencoder's three quantities over training."""
    figure, axes = panels(1, 4, width=3.0, height=2.6)
    colour = {"radial": "#0072B2", "rotational": "#D55E00"}
    for kind in ("radial", "rotational"):
        found = [pick(rows, kind, "gaussian", "steps", epsilon=e) for e in EPSILONS]
        x = 1e3 * np.array(EPSILONS)
        for seed in range(len(found[0])):
            axes[0, 0].plot(x, [v[seed] for v in found], color=colour[kind], alpha=0.5)
        axes[0, 0].plot(x, PUBLISHED_STEPS[kind], "k.", markersize=4)
        axes[0, 0].plot([], [], color=colour[kind], label=kind)
    axes[0, 0].plot([], [], "k.", label="paper")
    axes[0, 0].set(xlabel="1000 ε", ylabel="steps to the mode", yscale="log")
    axes[0, 0].legend()
    names = {"loss": "L_QC", "gap": "‖WRᵀ − RWᵀ‖", "untied": "‖W − R‖"}
    for axis, (metric, name) in zip(axes[0, 1:], names.items(), strict=True):
        step, found = curve_of(rows, "qc", "autoencoder", metric)
        axis.plot(step, found.T, color="#D55E00", alpha=0.6)
        axis.set(xlabel="step", ylabel=name)
        if metric != "untied":
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
    return figure


def asymmetry_figure(rows: pd.DataFrame, tasks: list[str]) -> Figure:
    """Asym and NAsym over noise levels, U and QC."""
    figure, axes = panels(2, len(tasks), width=2.8, height=2.3)
    for column, task in enumerate(tasks):
        shown = [(m, lam) for m, lam in models(rows, task) if not m.startswith("c")]
        names = [model_name(m, lam) for m, lam in shown]
        judged = model_name(JUDGED_QC[task], LAM[task])
        colour = colours(names, judged)
        for row, metric in enumerate(("asym_at", "nasym_at")):
            for (method, lam), name in zip(shown, names, strict=True):
                t, found = curve_of(rows, method, task, metric, lam=lam)
                axis = axes[row, column]
                axis.plot(t, found.T, color=colour[name], alpha=0.35, linewidth=0.8)
                axis.plot(t, found.mean(0), color=colour[name], label=name)
            axis.set(yscale="log", xlabel="t", ylabel="Asym" if row == 0 else "NAsym")
        axes[0, column].set_title(SETS.get(task, task))
        axes[0, column].legend(fontsize=6)
    return figure


def _grid_of(extras: list[dict[str, Any]], size: float) -> tuple[Figure, dict]:
    """A panel per (method, set)."""
    methods = [m for m in NAMES if any(e["method"] == m for e in extras)]
    tasks = [t for t in TOY if any(e["task"] == t for e in extras)]
    figure, axes = panels(len(tasks), len(methods), width=size, height=size)
    found = {}
    for extra in extras:
        axis = axes[tasks.index(extra["task"]), methods.index(extra["method"])]
        axis.set(xticks=[], yticks=[], title=f"{SETS[extra['task']]}: {NAMES[extra['method']]}")
        axis.grid(False)
        found[extra["task"], extra["method"]] = (axis, np.array(extra["data"], dtype=float))
    return figure, found


def samples_figure(extras: list[dict[str, Any]]) -> Figure:
    """Samples of the ODE, seed 0."""
    figure, found = _grid_of(extras, 2.3)
    for axis, x in found.values():
        axis.plot(*x.T, ".", markersize=2, color="#0072B2")
        axis.set(xlim=(-8.5, 8.5), ylim=(-8.5, 8.5), aspect="equal")
    return figure


def rotation_figure(extras: list[dict[str, Any]]) -> Figure:
    """Rotation of the fields, the same colours for the models of a set."""
    figure, found = _grid_of([e for e in extras if e["method"] != "c"], 2.6)
    for task in dict.fromkeys(task for task, _ in found):
        top = max(np.quantile(abs(x), 0.98) for (t, _), (_, x) in found.items() if t == task)
        for (t, _), (axis, x) in found.items():
            if t == task:
                image = axis.imshow(
                    x.T, origin="lower", cmap="RdBu_r", vmin=-top, vmax=top, extent=(-8, 8, -8, 8)
                )
                figure.colorbar(image, ax=axis, shrink=0.7)
    return figure


def images_figure(extras: list[dict[str, Any]]) -> Figure:
    """Digits drawn by the ODE, seed 0, from the same starts."""
    figure, axes = panels(len(extras), 1, width=8.0, height=1.1)
    for axis, extra in zip(axes[:, 0], extras, strict=True):
        strip = np.concatenate(
            [np.pad(np.reshape(x, (8, 8)), 1, constant_values=1) for x in extra["data"]], axis=1
        )
        axis.imshow(strip, cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[], ylabel=NAMES[extra["method"]].split(",")[0])
        axis.grid(False)
    return figure


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
