"""The claims of denoising likelihood score matching as functions of the rows of eval.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from common.claims_v1 import (
    Claim,
    Judgement,
    NoResults,
    Table,
    all_of,
    by_interval,
    claims_cli,
    compare,
    curves,
    needed,
    not_worse,
    values,
)
from common.plotting import Figure, colours, curve, panels
from common.stats import mean_ci, paired_diff, ratio_of_means
from papers.dlsm.moons import HALF_HEIGHT, HALF_WIDTH, SIDE

CAS_MARGIN = 0.01  # of "not below" in D7, fixed before the runs
NAMES = {
    "base": "base (CE)",
    "scaling-3": "scaling, α = 3",
    "scaling-10": "scaling, α = 10",
    "dlsm": "DLSM alone",
    "posterior": "posterior SM",
    "total": "ours (CE + DLSM)",
    "oracle": "oracle",
    "real": "real training images",
}
PAPER_MOONS = {  # E[D_P], E[D_L], precision, recall; means of both classes
    "base": ("0.198", "0.186", "0.94", "1.00"),
    "scaling-10": ("2.68", "2.67", "0.95", "0.97"),
    "posterior": ("0.062", None, "0.97", "1.00"),
    "total": ("0.065", "0.052", "0.96", "1.00"),
    "oracle": ("0", "0", "1", "1"),
}
PAPER_CIFAR10 = {  # CAS, class-wise precision, recall, coverage
    "base": ("0.38", "0.51", "0.59", "0.60"),
    "scaling-10": ("0.46", "0.70", "0.42", "0.66"),
    "total": ("0.58", "0.56", "0.61", "0.71"),
}


def pick(rows: pd.DataFrame, method: str, metric: str, task: str = "moons") -> np.ndarray:
    """One value per seed, in the order of seeds; on moons the mean of both classes.

    Raises:
        NoResults: if there are none, or one where an interval is needed (all but CIFAR).
    """
    return needed(rows, task, method, metric, least=1 if task.startswith("cifar") else 2)


# -- judges -----------------------------------------------------------------------------------


def smaller_and_ratio(rows: pd.DataFrame, metric: str, at_least: float | None) -> Judgement:
    """base - total > 0, and the ratio of their means at least `at_least`."""
    base, total = pick(rows, "base", metric), pick(rows, "total", metric)
    ci, ratio = paired_diff(base, total), ratio_of_means(base, total, paired=True)
    text = f"{base.mean():.3f} against {total.mean():.3f}: {ci}"
    parts = {"base − ours": by_interval(ci, ours=text, base=base.mean(), total=total.mean())}
    if at_least is not None:
        parts[f"ratio ≥ {at_least}"] = by_interval(ratio, at_least)
    return all_of(parts)


def likelihood_mismatch(rows: pd.DataFrame) -> Judgement:
    """D1: D_L of CE above that of CE + DLSM, by 1.5 times at least."""
    return smaller_and_ratio(rows, "d_l", 1.5)


def posterior_mismatch(rows: pd.DataFrame) -> Judgement:
    """D2: D_P likewise."""
    return smaller_and_ratio(rows, "d_p", 1.5)


def scaling_worsens(rows: pd.DataFrame) -> Judgement:
    """D3: D_L of scaled guidance at least 5 times that of the same classifier unscaled."""
    scaled, base = pick(rows, "scaling-10", "d_l"), pick(rows, "base", "d_l")
    ratio = ratio_of_means(scaled, base, paired=True)
    return by_interval(ratio, 5.0, ours=f"{scaled.mean():.2f} / {base.mean():.3f} = {ratio}")


def close_to_posterior(rows: pd.DataFrame) -> Judgement:
    """D4: D_P at most twice that of score models trained per class."""
    ours, theirs = pick(rows, "total", "d_p"), pick(rows, "posterior", "d_p")
    ratio = ratio_of_means(ours, theirs, paired=True)
    text = f"{ours.mean():.3f} / {theirs.mean():.3f} = {ratio}"
    return by_interval(ratio, 2.0, above=False, ours=text)


def error_grows(rows: pd.DataFrame) -> Judgement:
    """D5: over the training of CE, D_L rises while cross-entropy falls."""
    parts = {}
    for name, metric, sign in (("D_L", "d_l", 1), ("cross-entropy", "fresh_ce", -1)):
        _, table = curves(rows, "moons", "base", f"{metric}_curve")
        if len(table) < 2:
            raise NoResults(f"{len(table)} curves of {metric}")
        first, last = table[:, 0], table[:, -1]
        text = f"{first.mean():.3f} to {last.mean():.3f}"
        parts[f"{name} {'rises' if sign > 0 else 'falls'}"] = by_interval(
            paired_diff(sign * last, sign * first), ours=text
        )
    return all_of(parts)


def cross_entropy_helps(rows: pd.DataFrame) -> Judgement:
    """D6: cross-entropy at the end, DLSM alone minus CE + DLSM."""
    alone, total = pick(rows, "dlsm", "fresh_ce"), pick(rows, "total", "fresh_ce")
    ci = paired_diff(alone, total)
    return by_interval(ci, ours=f"{alone.mean():.3f} against {total.mean():.3f}: {ci}")


def images_carry_the_class(task: str) -> Any:
    """D7: CAS not below base's, class-wise recall above scaled guidance's."""

    def judge(rows: pd.DataFrame) -> Judgement:
        cas = [pick(rows, method, "cas_cnn", task) for method in ("total", "base")]
        recall = [pick(rows, method, "cw_recall", task) for method in ("total", "scaling-10")]
        texts = [f"{a.mean():.3f} against {b.mean():.3f}" for a, b in (cas, recall)]
        if len(cas[0]) < 2:  # gpu: one seed
            return all_of(
                {
                    "(a) CAS": compare(float(cas[0][0] - cas[1][0]), 0.0, ours=texts[0]),
                    "(b) recall": compare(float(recall[0][0] - recall[1][0]), 0.0, ours=texts[1]),
                }
            )
        differences = [paired_diff(*cas), paired_diff(*recall)]
        return all_of(
            {
                f"(a) CAS − base > −{CAS_MARGIN}": not_worse(
                    differences[0], CAS_MARGIN, ours=f"{texts[0]}: {differences[0]}"
                ),
                "(b) class-wise recall − scaling > 0": by_interval(
                    differences[1], ours=f"{texts[1]}: {differences[1]}"
                ),
            }
        )

    return judge


def cifar_numbers(rows: pd.DataFrame) -> Judgement:
    """D8: FID and CAS of CE + DLSM within 10 % of the published ones."""
    parts = {}
    for metric, name, published in (("fid", "FID", 2.25), ("cas_cnn", "CAS", 0.58)):
        value = float(pick(rows, "total", metric, "cifar10").mean())
        off = abs(value / published - 1)
        parts[name] = compare(off, 0.1, above=False, ours=f"{value:.3g}", value_itself=value)
    return all_of(parts)


CLAIMS = [
    Claim(
        "D1",
        "Cross-entropy classifiers have wrong likelihood scores; with DLSM the error D_L falls by "
        "1.5 times at least.",
        "Table 1",
        "0.186 / 0.052 = 3.6",
        ("default",),
        likelihood_mismatch,
    ),
    Claim(
        "D2",
        "The posterior score follows: its error D_P falls by 1.5 times at least.",
        "Table 1",
        "0.198 / 0.065 = 3.0",
        ("default",),
        posterior_mismatch,
    ),
    Claim(
        "D3",
        "Scaling the guidance worsens the mismatch: D_L at α = 10 is at least 5 times that of the "
        "same classifier at α = 1.",
        "Table 1",
        "2.67 / 0.186 = 14",
        ("default",),
        scaling_worsens,
    ),
    Claim(
        "D4",
        "CE + DLSM comes close to score models trained for each class: D_P at most twice theirs.",
        "Table 1",
        "0.065 / 0.062 = 1.06",
        ("default",),
        close_to_posterior,
    ),
    Claim(
        "D5",
        "Training by cross-entropy alone makes the score error D_L grow while its own loss falls.",
        "training curves",
        "D_L 0.15 to 0.19",
        ("default",),
        error_grows,
    ),
    Claim(
        "D6",
        "Adding cross-entropy to DLSM stabilises it: cross-entropy at the end is lower than with "
        "DLSM alone.",
        "training curves",
        "0.135 against 0.4 to 0.5",
        ("default",),
        cross_entropy_helps,
    ),
    Claim(
        "D7",
        "Images of CE + DLSM carry their class without losing diversity: CAS not below base's (by "
        "more than 0.01), class-wise recall above scaled guidance's (α = 10), on digits.",
        "Tables 2 and 3, on CIFAR",
        "CAS 0.58 against 0.38; recall 0.61 against 0.42",
        ("default",),
        images_carry_the_class("digits"),
    ),
    Claim(
        "D7-CIFAR",
        "The same on CIFAR-10, shortened: CAS at least base's, class-wise recall at least scaled "
        "guidance's.",
        "Tables 2 and 3",
        "CAS 0.58 against 0.38; recall 0.61 against 0.42",
        ("gpu", "paper"),
        images_carry_the_class("cifar10"),
    ),
    Claim(
        "D8",
        "CIFAR-10: FID 2.25 and CAS 0.58, within 10 %.",
        "Table 2",
        "2.25; 0.58",
        ("paper",),
        cifar_numbers,
    ),
]


# -- tables -----------------------------------------------------------------------------------


def show(rows: pd.DataFrame, method: str, metric: str, task: str = "moons") -> str | None:
    """Mean and interval, or the value itself when there is one seed."""
    found = values(rows, task, method, metric)
    if len(found) == 0:
        return None
    return str(mean_ci(found)) if len(found) > 1 else f"{found[0]:.3f}"


def tables(rows: pd.DataFrame) -> list[Table]:
    """The paper's Table 1 on moons, and sample quality on digits and CIFAR."""
    result = []
    found = [name for name in NAMES if ((rows.method == name) & (rows.task == "moons")).any()]
    if found:
        metrics = ("d_p", "d_l", "dense_d_l", "precision", "recall", "swap_rate", "fresh_ce")
        body = []
        for method in found:
            paper = PAPER_MOONS.get(method, (None, None, None, None))
            ours = {metric: show(rows, method, metric) for metric in metrics}
            cells = [ours["d_p"], paper[0], ours["d_l"], paper[1], ours["dense_d_l"]]
            cells += [ours["precision"], paper[2], ours["recall"], paper[3]]
            body.append([NAMES[method], *cells, ours["swap_rate"], ours["fresh_ce"]])
        columns = ["method", "D_P", "paper", "D_L", "paper", "D_L where data are"]
        columns += ["precision", "paper", "recall", "paper", "swapped", "cross-entropy"]
        result.append(Table("Moons at σ = 7.5, means of both classes", columns, body))
        error = show(rows, "score", "prior_error")
        result.append(Table("Score model", ["", "error on the grid"], [["prior score", error]]))
    for task in ("digits", "cifar10", "cifar100"):
        found = [name for name in NAMES if ((rows.method == name) & (rows.task == task)).any()]
        if not found:
            continue
        metrics = {"cas_cnn": "CAS", "cas_logistic": "CAS, logistic", "accuracy": "accuracy"}
        metrics |= {"cw_precision": "cw precision", "cw_recall": "cw recall"}
        metrics |= {"cw_density": "cw density", "cw_coverage": "cw coverage"}
        metrics |= {"precision": "precision", "recall": "recall", "mmd2": "MMD²"}
        metrics |= {f"relative_d_l@{s}": f"D_L, σ = {s}" for s in ("0.5", "1", "2")}
        metrics |= {"fid": "FID", "inception_score": "IS"}
        metrics = {m: n for m, n in metrics.items() if (rows.metric == m).any()}
        body = [[NAMES[m], *(show(rows, m, x, task) for x in metrics)] for m in found]
        result.append(
            Table(f"Class-conditional samples: {task}", ["method", *metrics.values()], body)
        )
    return result


# -- figures ----------------------------------------------------------------------------------


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Curves, likelihood-score fields and samples on moons; images."""
    drawn = {}
    if (rows.metric == "d_l_curve").any():
        drawn["curves"] = curves_figure(rows)
    arrays = {(e["task"], e["name"], e["method"]): np.array(e["data"], dtype=float) for e in extras}
    if ("moons", "likelihood", "oracle") in arrays:
        drawn["scores"] = scores_figure(arrays)
        drawn["samples"] = samples_figure(arrays)
    for task in ("digits", "cifar10", "cifar100"):
        shown = {m: a for (t, name, m), a in arrays.items() if (t, name) == (task, "images")}
        if shown:
            drawn[f"images_{task}"] = images_figure(shown)
    return drawn


def curves_figure(rows: pd.DataFrame) -> Figure:
    """D_L, D_P and cross-entropy against training steps."""
    figure, axes = panels(1, 3, width=3.3)
    methods = [m for m in ("base", "dlsm", "total") if (rows.method == m).any()]
    colour = colours(methods, "total")
    titles = {"d_l": "likelihood score error D_L", "d_p": "posterior score error D_P"}
    titles |= {"fresh_ce": "cross-entropy on fresh noise"}
    for axis, (metric, title) in zip(axes[0], titles.items(), strict=True):
        for method in methods:
            steps, table = curves(rows, "moons", method, f"{metric}_curve")
            curve(axis, steps, table, label=NAMES[method], color=colour[method])
        axis.set(xlabel="steps", title=title, ylim=(0, None))
    axes[0, 0].legend()
    return figure


def ordered(arrays: dict[tuple[str, str, str], np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The moons' arrays of a kind by method, the oracle first."""
    order = ["oracle", *NAMES]
    found = {m: a for (task, kind, m), a in arrays.items() if (task, kind) == ("moons", name)}
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def scores_figure(arrays: dict[tuple[str, str, str], np.ndarray]) -> Figure:
    """The likelihood score of the upper moon (above) and its distance to the oracle (below)."""
    fields = ordered(arrays, "likelihood")
    fields = {m: f.reshape(SIDE, SIDE, 2).swapaxes(0, 1) for m, f in fields.items()}
    figure, axes = panels(2, len(fields), width=2.3, height=1.6)
    x, y = np.meshgrid(
        np.linspace(-HALF_WIDTH, HALF_WIDTH, SIDE), np.linspace(-HALF_HEIGHT, HALF_HEIGHT, SIDE)
    )
    truth = fields["oracle"]
    for column, (method, field) in enumerate(fields.items()):
        thin = (slice(1, None, 3), slice(1, None, 3))
        axes[0, column].quiver(x[thin], y[thin], field[..., 0][thin], field[..., 1][thin])
        error = np.linalg.norm(field - truth, axis=-1)
        image = axes[1, column].pcolormesh(x, y, error, vmin=0, vmax=0.6, cmap="magma")
        axes[0, column].set_title(NAMES[method], fontsize=8)
    figure.colorbar(image, ax=axes[1, :].tolist(), label="distance", shrink=0.8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_aspect("equal")
    return figure


def samples_figure(arrays: dict[tuple[str, str, str], np.ndarray]) -> Figure:
    """Langevin samples at sigma = 7.5, a colour per class."""
    clouds = ordered(arrays, "samples")
    figure, axes = panels(1, len(clouds), width=2.0, height=1.7)
    for axis, (method, cloud) in zip(axes[0], clouds.items(), strict=True):
        for points, colour in zip(cloud, ("#0072B2", "#E69F00"), strict=True):
            axis.plot(*points.T, ".", color=colour, markersize=2, alpha=0.6)
        axis.set(xlim=(-60, 60), ylim=(-45, 45), xticks=[], yticks=[])
        axis.set_title(NAMES[method], fontsize=8)
        axis.set_aspect("equal")
    return figure


def images_figure(shown: dict[str, np.ndarray]) -> Figure:
    """Eight samples of each of the first ten classes, a panel per method."""
    order = list(NAMES)
    shown = dict(sorted(shown.items(), key=lambda item: order.index(item[0])))
    figure, axes = panels(1, len(shown), width=2.3, height=3.0)
    for axis, (method, images) in zip(axes[0], shown.items(), strict=True):
        n_classes, n, dim = images.shape
        colour = dim == 3072
        side = 32 if colour else 8
        tiles = images.reshape(n_classes, n, *((3, side, side) if colour else (1, side, side)))
        board = np.pad(tiles, [(0, 0)] * 3 + [(0, 1)] * 2, constant_values=0)
        board = board.transpose(0, 3, 1, 4, 2).reshape(n_classes * (side + 1), n * (side + 1), -1)
        scale = 255.0 if colour else 16.0
        axis.imshow(board / scale if colour else board[..., 0] / scale, cmap="gray")
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.set_title(NAMES[method], fontsize=8)
    return figure


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
