"""Figures of uniINF: regret against rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.plotting import Figure, panels
from common.report import Drawing, Extras, legend_below
from common.rows import Rows
from papers.uniinf.methods import METHODS
from papers.uniinf.regret import TASK_LABELS, name_of

MAIN_ALPHA = 1.5
MAIN_PANELS = ("e1", "e2", "e3-s1", "e3-s100")


def marked(name: str) -> str:
    """A label; † is told the true sigma and alpha."""
    return METHODS.label(name) + ("†" if METHODS[name].role == "reference" else "")


Curves = dict[tuple[str, str, float], dict[str, Any]]


def pooled(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One mean curve and band of the jobs among which the seeds of a cell were divided."""
    if len(several) == 1:
        return several[0]
    n = np.array([[curve["n"]] for curve in several], float)
    centres, low, high = (np.array([c[k] for c in several]) for k in ("mean", "low", "high"))
    centre = (n * centres).sum(0) / n.sum()
    below, above = (
        np.sqrt(((n * half) ** 2).sum(0)) / n.sum() for half in (centres - low, high - centres)
    )
    return {**several[0], "n": int(n.sum())} | {
        "mean": centre.tolist(),
        "low": (centre - below).tolist(),
        "high": (centre + above).tolist(),
    }


def curves_of(extras: Extras) -> Curves:
    """Whole regret curves by (method, task, alpha)."""
    parts: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for extra in extras:
        for curve in extra["data"] if not METHODS[extra["method"]].mistold else ():
            parts.setdefault((extra["method"], extra["task"], curve["alpha"]), []).append(curve)
    return {key: pooled(several) for key, several in parts.items()}


def draw(found: Curves, cells: Sequence[tuple[str, float]], *, normalised: bool = False) -> Figure:
    """Regret against rounds, log-log, a panel per (task, alpha); over the rate if normalised."""
    wide = min(4, len(cells))
    figure, axes = panels(-(-len(cells) // wide), wide, width=2.7, height=2.5)
    colour, dash = METHODS.colours(), METHODS.dashes()
    drawn: dict[str, Any] = {}
    for spare in axes.flat[len(cells) :]:
        spare.remove()
    for ax, (task, alpha) in zip(axes.flat, cells, strict=False):
        for name in METHODS:
            if (one := found.get((name, task, alpha))) is None:
                continue
            t = np.array(one["t"], float)
            power = 1 / alpha
            rate = one["sigma"] * one["n_arms"] ** (1 - power) * t**power if normalised else 1.0
            middle, low, high = (np.array(one[k]) / rate for k in ("mean", "low", "high"))
            width = 2.2 if name == "uniinf" else 1.2
            (line,) = ax.plot(t, middle, dash[name], color=colour[name], linewidth=width)
            ax.fill_between(t, low, high, color=colour[name], alpha=0.15, lw=0)
            drawn.setdefault(marked(name), line)
        signed = "linear" if task == "e4" else "log"  # negative against the arm best in the end
        ax.set(xscale="log", yscale=signed, title=name_of(task, alpha), xlabel="round")
    ylabel = "regret / rate" if normalised else "pseudo-regret"
    for row in axes:
        row[0].set_ylabel(ylabel)
    legend_below(figure, drawn, columns=5)
    return figure


def figures(rows: Rows, extras: Extras) -> dict[str, Drawing]:
    """The main figure at alpha = 1.5, all environments for each alpha, E2 over its rate."""
    found = curves_of(extras)
    there = sorted(
        {(key[1], key[2]) for key in found}, key=lambda c: (c[1], [*TASK_LABELS].index(c[0]))
    )
    note = (
        "Mean over seeds with 95 % band. † is given the true σ and α. "
        "Lines that cannot be told apart lie on each other."
    )
    drawn = {}
    main = [(task, MAIN_ALPHA) for task in MAIN_PANELS if (task, MAIN_ALPHA) in there]
    if len(main) == len(MAIN_PANELS):
        text = (
            "Pseudo-regret against rounds at α = 1.5, 20 seeds: stochastic (E1), adversarial "
            "(E2), heavy negative outliers at scale 1 and 100 (E3). "
        )
        drawn["regret"] = Drawing(draw(found, main), text + note, main=True)
    for alpha in sorted({a for _, a in there}):
        cells = [c for c in there if c[1] == alpha]
        text = f"Pseudo-regret against rounds in all environments, α = {alpha:g}. "
        name = f"alpha_{alpha:g}".replace(".", "_")
        drawn[name] = Drawing(draw(found, cells), text + note)
    if adversarial := [c for c in there if c[0] == "e2"]:
        text = "E2: regret over the adversarial rate σ K^(1−1/α) t^(1/α), which must not grow. "
        drawn["rate"] = Drawing(draw(found, adversarial, normalised=True), text + note)
    return drawn
