"""Tables and figures of DLSM's rows: errors of scores, samples, training, images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.plotting import Figure, panels
from common.report import (
    DASH,
    Column,
    Drawing,
    Extras,
    Panel,
    Table,
    by_method,
    curves,
    grid,
    report_cli,
    tuning,
)
from common.rows import Rows
from papers.dlsm.claims import MEAN, SETTINGS, at_the_tasks_settings
from papers.dlsm.methods import METHODS, TASKS
from papers.dlsm.moons import HALF_HEIGHT, HALF_WIDTH, SIDE

MOONS = "moons"
PUBLISHED = {  # D_P, D_L: means of both classes
    "d_p": {"base": "0.198", "scaling-10": "2.68", "posterior": "0.062", "total": "0.065"},
    "d_l": {"base": "0.186", "scaling-10": "2.67", "total": "0.052"},
}
IMAGE_METRICS = {
    **{"cas_cnn": "CAS", "cas_logistic": "CAS, logistic", "accuracy": "accuracy"},
    **{"cw_precision": "cw precision", "cw_recall": "cw recall", "cw_density": "cw density"},
    **{"cw_coverage": "cw coverage", "precision": "precision", "recall": "recall"},
    **{"mmd2": "MMD²", "fid": "FID", "inception_score": "IS"},
    **{f"relative_d_l@{s}": f"D_L, σ = {s}" for s in ("0.5", "1", "2")},
}
SMALL = {"mmd2", "fid"}  # the smaller the better
MARKED = ("cas_cnn", "accuracy", "cw_recall", "cw_coverage", "mmd2", "fid", "inception_score")


def tables(rows: Rows) -> list[Table]:
    """The paper's Table 1 on moons, samples, training, images; what a study and a tuning vary."""
    plain = at_the_tasks_settings(rows)
    found = [main_table(plain), samples_table(plain), training_table(plain)]
    error = Column("D_P of s(x; φ), on the grid", {"task": MOONS, "metric": "prior_error"})
    found.append(grid(plain, "Score model of stage 1, moons", by_method(METHODS), [error]))
    found += [images_table(rows, task) for task in TASKS if task != MOONS]
    if rows.unique("lr"):
        of = {"task": MOONS, "metric": "d_l", "label": MEAN}
        found.append(tuning(rows, METHODS, of, ["lr"], title="Moons: D_L by Adam's rate (median)"))
    return [table for table in found if table.rows]


def published(metric: str) -> Callable[[Rows], str]:
    """A cell with the paper's number."""

    def show(rows: Rows) -> str:
        return PUBLISHED[metric].get(*rows.unique("method"), DASH) if rows else DASH

    return show


def main_table(rows: Rows) -> Table:
    """Table 1: errors of scores beside the published ones."""
    columns = [
        Column("D_P", {"metric": "d_p"}, "min"),
        Column("paper", {"metric": "d_p"}, show=published("d_p")),
        Column("D_L", {"metric": "d_l"}, "min"),
        Column("paper", {"metric": "d_l"}, show=published("d_l")),
        Column("D_L, where data are", {"metric": "dense_d_l"}, "min"),
        Column("swapped", {"metric": "swap_rate"}),
        Column("cross-entropy", {"metric": "fresh_ce"}, "min"),
    ]
    title = (
        "Moons at σ = 7.5, means of both classes; 5 seeds. Cross-entropy on 20,000 fresh draws; "
        "the oracle's on the first 5,000"
    )
    lines = [line for line in by_method(METHODS) if line[1]["method"] != "score"]
    moons, exact = rows.of(task=MOONS), [METHODS.label("oracle")]
    return grid(moons, title, lines, columns, corner="method", main=True, unmarked=exact)


def samples_table(rows: Rows) -> Table:
    """Quality of Langevin samples on moons."""
    names = {"precision": "precision", "recall": "recall", "density": "density"}
    names |= {"coverage": "coverage", "swap_rate": "swapped"}
    columns = [Column(name, {"task": MOONS, "metric": metric}) for metric, name in names.items()]
    title = (
        "Moons: 2,000 Langevin samples per class against fresh noisy points (k = 5). The paper's "
        "sampler and reference are others: its precision and recall are not comparable"
    )
    return grid(rows, title, by_method(METHODS), columns, corner="method")


def training_table(rows: Rows) -> Table:
    """D_L and cross-entropy on the way."""
    chosen = rows.of(task=MOONS, metric=["d_l_curve", "fresh_ce_curve"])
    steps = [s for s in (0, 250, 500, 1000, 3000, 6000) if s in chosen.unique("step")]
    lines = [
        (f"{label}: {what}", {**of, "metric": f"{metric}_curve"})
        for label, of in by_method(METHODS)
        for metric, what in (("d_l", "D_L"), ("fresh_ce", "cross-entropy"))
    ]
    columns = [Column(f"step {s}", {"step": float(s)}) for s in steps]
    return grid(chosen, "Moons: D_L on the grid and cross-entropy in training", lines, columns)


def images_table(rows: Rows, task: str) -> Table:
    """Class-conditional samples of a task: a line per method and setting of its loss."""
    rows = rows.of(task=task, lr=None)
    lines: list[tuple[str, dict[str, Any]]] = []
    for label, of in by_method(METHODS):
        lines.append((label, {**of, "weight": None, "lambda_ce": None}))
        for value in rows.of(**of).unique("lambda_ce"):
            for w in rows.of(**of).unique("weight"):
                setting = {**of, "lambda_ce": value, "weight": w}
                lines.append((f"{label}, λ = {value:g}, w = {w:g}", setting))
    columns = [
        Column(
            name,
            {"metric": metric},
            ("min" if metric in SMALL else "max") if metric in MARKED else None,
        )
        for metric, name in IMAGE_METRICS.items()
        if rows.of(metric=metric)
    ]
    seeds = [s for m in METHODS.having("baseline") for s in rows.of(method=m).unique("seed")]
    title = f"Class-conditional samples: {task}, {len(set(seeds))} seeds"
    real = [METHODS.label("real")]
    return grid(rows, title, lines, columns, corner="method", unmarked=real)


# -- figures ------------------------------------------------------------------------------------

SCORES = (
    "Moons at σ = 7.5, seed 0, the paper's grid. Above: the likelihood score ∇log p(y|x̃) of the "
    "upper moon, exact, of a cross-entropy classifier, and of CE + DLSM. Below: distance to the "
    "exact score, one colour scale; α = 10 is beyond it wherever the score is not small."
)
CURVES = (
    "Moons, stage 2: errors on the grid at σ = 7.5, and cross-entropy over the range of σ; mean "
    "over seeds with its 95 % interval. D_L of base rises within the first 250 steps and falls "
    "after that; DLSM alone and ours run close together."
)
SAMPLES = "Langevin samples of the moons at σ = 7.5, seed 0: 250 of each class, a colour per class."
IMAGES = "Eight samples of the first ten classes per method, of the first seed, a class per row."


def figures(rows: Rows, extras: Extras) -> dict[str, Drawing]:
    """Likelihood-score fields, curves and samples on moons; images."""
    drawn: dict[str, Drawing] = {}
    arrays = {
        (e["task"], e["name"], e["method"]): np.array(e["data"], dtype=float)
        for e in extras
        if not set(SETTINGS) & set(e)
    }
    fields = {m: a for (t, name, m), a in arrays.items() if (t, name) == (MOONS, "likelihood")}
    if {"oracle", "base", "total"} <= set(fields):
        drawn["scores"] = Drawing(scores_figure(fields), SCORES, main=True)
    titles = {"d_l": "likelihood score error D_L", "d_p": "posterior score error D_P"}
    titles |= {"fresh_ce": "cross-entropy on fresh noise"}
    of = {"task": MOONS, "lr": None}
    shown = [Panel(name, {**of, "metric": f"{metric}_curve"}) for metric, name in titles.items()]
    if figure := curves(rows, METHODS, shown, ylim=(0, None)):
        drawn["curves"] = Drawing(figure, CURVES)
    for task in TASKS:
        kind = "samples" if task == MOONS else "images"
        found = {m: arrays[task, kind, m] for m in METHODS if (task, kind, m) in arrays}
        if found and task == MOONS:
            drawn["samples"] = Drawing(samples_figure(found), SAMPLES)
        elif found:
            drawn[f"images_{task}"] = Drawing(images_figure(found), IMAGES)
    return drawn


def scores_figure(fields: dict[str, np.ndarray]) -> Figure:
    """Three fields above, three distances to the exact one below."""
    at = {m: f.reshape(SIDE, SIDE, 2).swapaxes(0, 1) for m, f in fields.items()}
    x, y = np.meshgrid(
        np.linspace(-HALF_WIDTH, HALF_WIDTH, SIDE), np.linspace(-HALF_HEIGHT, HALF_HEIGHT, SIDE)
    )
    figure, axes = panels(2, 3, width=2.9, height=1.9)
    thin = (slice(1, None, 3), slice(1, None, 3))
    for axis, name in zip(axes[0], ("oracle", "base", "total"), strict=True):
        axis.quiver(x[thin], y[thin], at[name][..., 0][thin], at[name][..., 1][thin])
        axis.set_title("exact score" if name == "oracle" else METHODS.label(name), fontsize=8)
    image = None
    for axis, name in zip(axes[1], ("scaling-10", "base", "total"), strict=True):
        if name in at:
            error = np.linalg.norm(at[name] - at["oracle"], axis=-1)
            image = axis.pcolormesh(x, y, error, vmin=0, vmax=0.6, cmap="magma")
        axis.set_title(f"distance: {METHODS.label(name)}", fontsize=8)
    figure.colorbar(image, ax=axes[1, :].tolist(), label="distance", shrink=0.8, extend="max")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.grid(False)
    return figure


def samples_figure(clouds: dict[str, np.ndarray]) -> Figure:
    """A panel per method, a colour per class."""
    figure, axes = panels(2, -(-len(clouds) // 2), width=2.4, height=1.9)
    for axis, (method, cloud) in zip(axes.flat, clouds.items(), strict=False):
        for points, colour in zip(cloud, ("#0072B2", "#E69F00"), strict=True):
            axis.plot(*points.T, ".", color=colour, markersize=2, alpha=0.6)
        axis.set(xlim=(-60, 60), ylim=(-45, 45), xticks=[], yticks=[], aspect="equal")
        axis.set_title(METHODS.label(method), fontsize=8)
        axis.grid(False)
    for spare in axes.flat[len(clouds) :]:
        spare.remove()
    return figure


def images_figure(shown: dict[str, np.ndarray]) -> Figure:
    """Images side by side, a panel per method."""
    figure, axes = panels(1, len(shown), width=2.2, height=2.6)
    for axis, (method, images) in zip(axes[0], shown.items(), strict=True):
        colour = images.shape[-1] == 3 * 32 * 32
        shape = (3, 32, 32) if colour else (1, 8, 8)
        tiles = images.reshape(*images.shape[:2], *shape) / (255.0 if colour else 16.0)
        tiles = np.pad(tiles, [(0, 0)] * 3 + [(0, 1)] * 2).transpose(0, 3, 1, 4, 2)
        height, width = (n * (side + 1) for n, side in zip(images.shape, shape[1:], strict=False))
        picture = tiles.reshape(height, width, shape[0])
        axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_title(METHODS.label(method), fontsize=8)
        axis.grid(False)
    return figure


if __name__ == "__main__":
    report_cli(tables, figures)
