"""Figures of QCSBM: models side by side, asymmetry over noise levels, the autoencoder, samples."""

from __future__ import annotations

import numpy as np

from common import plotting
from common.plotting import Figure
from common.report import Drawing, Extras, Panel, curves, intervals
from common.rows import Rows
from papers.qcsgm.claims import LAM, SETS
from papers.qcsgm.methods import METHODS

MODELS = (
    "Corrected score error (above) and NLL under the prior N(0, 3²) (below) of the 2-D sets: mean"
    " with its 95 % interval, and the 3 seeds as dots. QC (λ = 0.1) and U lie on each other; C has"
    " the smaller score error everywhere and the larger NLL."
)
ASYMMETRY = (
    "Asym (above) and NAsym (below) over the noise level t, mean over 3 seeds with its 95 %"
    " interval; QC at the judged λ (on the spirals trace and estimate lie on each other). In 2-D"
    " Asym at a point goes as 1/σ² by construction. On digits Asym falls with t and the scale-free"
    " NAsym rises."
)
AUTOENCODER = "The autoencoder under L_QC alone: mean over 5 seeds with its 95 % interval."
SAMPLES = (
    "600 samples of the probability-flow ODE (RK45, rtol 1e-3, prior N(0, 3²)), seed 0, QC with"
    " λ = 0.1."
)


def figures(rows: Rows, extras: Extras) -> dict[str, Drawing]:
    """Models side by side, asymmetry over noise levels, the autoencoder, samples."""
    rows = at_judged_weights(rows.of(lr=None))
    drawn: dict[str, Drawing] = {}
    panels = [
        Panel(f"{name}: {what}", {"task": task, "metric": metric}, unit)
        for metric, what, unit in (("score_error", "score error", ""), ("nll", "NLL", "nats"))
        for task, name in SETS.items()
    ]
    several = len(compared(rows)) > 1
    if several and (figure := intervals(rows, METHODS, panels, names=compared(rows), width=3.0)):
        drawn["models"] = Drawing(figure, MODELS, main=True)
    tasks = {**SETS, "digits": "digits"}
    panels = [
        Panel(name, {"task": task, "metric": metric}, label)
        for metric, label in (("asym_at", "Asym"), ("nasym_at", "NAsym"))
        for task, name in tasks.items()
    ]
    names = [name for name in METHODS if not METHODS[name].constrained and not METHODS[name].exact]
    if rows.of(method=names, metric="asym_at") and (
        figure := curves(
            rows, METHODS, panels, names=names, xlabel="t", log="y", width=2.6, columns=4
        )
    ):
        drawn["asymmetry"] = Drawing(figure, ASYMMETRY)
    panels = [
        Panel(name, {"task": "autoencoder", "metric": metric})
        for metric, name in (("loss", "L_QC"), ("gap", "‖WRᵀ − RWᵀ‖"), ("untied", "‖W − R‖"))
    ]
    if figure := curves(rows, METHODS, panels, log="y", width=3.0):
        drawn["autoencoder"] = Drawing(figure, AUTOENCODER)
    if clouds := [e for e in extras if e["name"] == "samples" and "lr" not in e]:
        drawn["samples"] = Drawing(samples_figure(clouds), SAMPLES)
    return drawn


def at_judged_weights(rows: Rows) -> Rows:
    """Rows without those of further weights of the regulariser."""
    frame = rows.frame
    if "lam" not in frame:
        return rows
    judged = frame["task"].astype(str).map(LAM)
    return Rows(frame[frame["lam"].isna() | (frame["lam"] == 0) | np.isclose(frame["lam"], judged)])


def compared(rows: Rows) -> list[str]:
    """The models that were run on every 2-D set."""
    there = {task: rows.of(task=task, metric="nll").unique("method") for task in SETS}
    return [name for name in METHODS if all(name in found for found in there.values() if found)]


def samples_figure(extras: Extras) -> Figure:
    """A panel per set and model."""
    names = [m for m in METHODS if any(e["method"] == m for e in extras)]
    tasks = [t for t in SETS if any(e["task"] == t for e in extras)]
    figure, axes = plotting.panels(len(tasks), len(names), width=2.1, height=2.2)
    for extra in extras:
        axis = axes[tasks.index(extra["task"]), names.index(extra["method"])]
        axis.plot(*np.array(extra["data"], dtype=float).T, ".", markersize=2, color="#0072B2")
        axis.set(xticks=[], yticks=[], xlim=(-8.5, 8.5), ylim=(-8.5, 8.5), aspect="equal")
        axis.set_title(f"{SETS[extra['task']]}: {METHODS.label(extra['method'])}", fontsize=8)
        axis.grid(False)
    return figure
