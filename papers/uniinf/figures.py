"""Figures of uniINF: regret against rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common import bands
from common.bands import Band, Line
from common.claims import marked
from common.plotting import Figure
from common.report import Drawing, Extras
from common.rows import Rows
from papers.uniinf.methods import METHODS
from papers.uniinf.regret import TASK_LABELS, name_of

MAIN_ALPHA = 1.5
MAIN_PANELS = ("e1", "e2", "e3-s1", "e3-s100")
NOTE = (
    "Mean over seeds with 95 % band. † is given the true σ and α. "
    "Lines that cannot be told apart lie on each other."
)

Parts = dict[tuple[str, str, float], list[dict[str, Any]]]


def curves_of(extras: Extras) -> Parts:
    """Whole regret curves by (method, task, alpha), one per job."""
    parts: Parts = {}
    for extra in extras:
        for curve in extra["data"] if not METHODS[extra["method"]].mistold else ():
            parts.setdefault((extra["method"], extra["task"], curve["alpha"]), []).append(curve)
    return parts


def line(name: str, jobs: Sequence[dict[str, Any]], *, normalised: bool) -> Line:
    """Regret of a method; over the adversarial rate if normalised."""
    of, t = jobs[0], np.array(jobs[0]["t"], float)
    rate = of["sigma"] * of["n_arms"] ** (1 - 1 / of["alpha"]) * t ** (1 / of["alpha"])
    band = Band.pooled(t, jobs)
    colour, dash = METHODS.colours()[name], METHODS.dashes()[name]
    width = 2.2 if name == "uniinf" else 1.2
    return Line(marked(METHODS, name), band / rate if normalised else band, colour, dash, width)


def draw(found: Parts, cells: Sequence[tuple[str, float]], *, normalised: bool = False) -> Figure:
    """Regret against rounds, log-log, a panel per (task, alpha)."""
    wide = 4

    def decorate(i: int, ax: Any) -> None:
        if cells[i][0] == "e4":  # negative against the arm that is best in the end
            ax.set_yscale("linear")
        if i % wide == 0:
            ax.set_ylabel("regret / rate" if normalised else "pseudo-regret")

    panels = [
        (
            name_of(task, alpha),
            [
                line(name, found[name, task, alpha], normalised=normalised)
                for name in METHODS
                if (name, task, alpha) in found
            ],
        )
        for task, alpha in cells
    ]
    return bands.draw(
        panels, columns=wide, width=2.7, in_legend=5, decorate=decorate, xlabel="round"
    )


def figures(rows: Rows, extras: Extras) -> dict[str, Drawing]:
    """The main figure at alpha = 1.5, all environments for each alpha, E2 over its rate."""
    found = curves_of(extras)
    there = sorted(
        {(key[1], key[2]) for key in found}, key=lambda c: (c[1], [*TASK_LABELS].index(c[0]))
    )
    drawn = {}
    main = [(task, MAIN_ALPHA) for task in MAIN_PANELS if (task, MAIN_ALPHA) in there]
    if len(main) == len(MAIN_PANELS):
        text = (
            "Pseudo-regret against rounds at α = 1.5, 20 seeds: stochastic (E1), adversarial "
            "(E2), heavy negative outliers at scale 1 and 100 (E3). "
        )
        drawn["regret"] = Drawing(draw(found, main), text + NOTE, main=True)
    for alpha in sorted({a for _, a in there}):
        cells = [c for c in there if c[1] == alpha]
        text = f"Pseudo-regret against rounds in all environments, α = {alpha:g}. "
        name = f"alpha_{alpha:g}".replace(".", "_")
        drawn[name] = Drawing(draw(found, cells), text + NOTE)
    if adversarial := [c for c in there if c[0] == "e2"]:
        text = "E2: regret over the adversarial rate σ K^(1−1/α) t^(1/α), which must not grow. "
        drawn["rate"] = Drawing(draw(found, adversarial, normalised=True), text + NOTE)
    return drawn
