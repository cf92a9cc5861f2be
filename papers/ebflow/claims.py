"""The claims of EBFlow as functions of the rows of eval.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.claims_v1 import (
    CONTRADICTED,
    Claim,
    Judgement,
    NoResults,
    Table,
    all_of,
    by_interval,
    claims_cli,
    compare,
)
from common.plotting import METHOD, OTHERS, Figure, panels
from common.stats import Interval, loglog_slope, mean_ci, paired_diff, ratio_of_means
from papers.ebflow.settings import LOSSES, METHODS

NAMES = {
    "ml": "ML",
    "sml": "SML",
    "ssm": "SSM",
    "dsm": "DSM",
    "fdssm": "FDSSM",
    "ssm-nomap": "SSM without MaP",
    "dsm-nomap": "DSM without MaP",
    "fdssm-nomap": "FDSSM without MaP",
    "gaussian": "Gaussian",
    "mean-fill": "training mean",
    "uniform": "uniform",
    "update": "optimiser and EMA",
}
COLOURS = {"ml": OTHERS[5], "sml": OTHERS[7], "ssm": METHOD, "dsm": OTHERS[0], "fdssm": OTHERS[1]}
DIGITS, POINTS = "digits-fc", ("sine", "swirl")
MARGIN = {"ssm": 0.15, "dsm": 0.40}  # bits per dimension, of C1
KL_MARGIN = 0.15  # nats, of C6
GROWTH_FROM = 500  # D from which C8's exponents are fitted: below, overheads hide the products
ALIASED = 512  # its multiples are left out: rows that far apart share their places in the cache
PAPER_BITS = {"ml": 2.01, "sml": 2.01, "ssm": 2.01, "dsm": 2.02, "fdssm": 2.03}  # MNIST, FC
PAPER_RATE = {  # batches per second on MNIST (their GPU): FC, CNN
    "ml": (8.00, 0.21),
    "sml": (12.27, 0.29),
    "ssm": (33.11, 7.09),
    "dsm": (66.67, 18.32),
    "fdssm": (130.21, 38.76),
}


# -- reading rows -----------------------------------------------------------------------------


def pick(
    rows: pd.DataFrame, method: str, metric: str, task: str = DIGITS, weights: str = "ema"
) -> np.ndarray:
    """Values in the order of seed; of diverged runs (None) NaN."""
    chosen = rows[(rows.method == method) & (rows.metric == metric) & (rows.task == task)]
    if "weights" in chosen and chosen["weights"].notna().any():
        chosen = chosen[chosen["weights"] == weights]
    return chosen.sort_values("seed")["value"].to_numpy(dtype=float)


def timings(rows: pd.DataFrame, method: str, model: str, batch: int) -> pd.DataFrame:
    """Milliseconds [repeats x dimensions] of a loss."""
    chosen = rows[(rows.metric == "ms") & (rows.method == method) & (rows.task == model)]
    if len(chosen):
        chosen = chosen[chosen["batch"] == batch]
    if not len(chosen):
        return pd.DataFrame()
    return chosen.pivot_table(index="repeat", columns="dim", values="value")


def milliseconds(rows: pd.DataFrame, method: str, model: str, batch: int, dim: int) -> float:
    """Median over the repeats."""
    table = timings(rows, method, model, batch)
    if dim not in table:
        raise NoResults(f"no timing of {NAMES[method]} at D = {dim}, batch {batch}")
    return float(table[dim].median())


def needed(rows: pd.DataFrame, method: str, metric: str, *where: str) -> np.ndarray:
    """``pick``, of two seeds or more."""
    values = pick(rows, method, metric, *where)
    if len(values) < 2:
        raise NoResults(f"{NAMES[method]}: {metric} of fewer than two seeds")
    return values


# -- judges -----------------------------------------------------------------------------------


def better_than(theirs: np.ndarray, ours: np.ndarray, threshold: float) -> Judgement:
    """Judge theirs - ours > threshold, paired by seed, where smaller values are better.

    A diverged run of ours fails the claim; of theirs it is left out and counted in the text.
    """
    lost, left = int(np.isnan(ours).sum()), int(np.isnan(theirs).sum())
    if lost:
        return Judgement(CONTRADICTED, f"{lost} of {len(ours)} seeds diverged", {"diverged": lost})
    there = np.isfinite(theirs)
    ci = paired_diff(theirs[there], ours[there])
    text = f"{ours.mean():.3f} against {theirs[there].mean():.3f}, difference {ci}"
    if left:
        text += f" ({left} of {len(theirs)} others diverged)"
    return by_interval(ci, threshold, ours=text, diverged_others=left)


def on_par(rows: pd.DataFrame) -> Judgement:
    """C1: ML - SSM > -0.15 and ML - DSM > -0.40 bits per dimension."""
    ml = needed(rows, "ml", "bits_per_dim")
    return all_of(
        {
            f"{NAMES[name]}, margin {margin}": better_than(
                ml, needed(rows, name, "bits_per_dim"), -margin
            )
            for name, margin in MARGIN.items()
        }
    )


def map_is_necessary(rows: pd.DataFrame) -> Judgement:
    """C2: bits per dimension without MaP minus with it, SSM and DSM."""
    return all_of(
        {
            NAMES[name]: better_than(
                needed(rows, f"{name}-nomap", "bits_per_dim"),
                needed(rows, name, "bits_per_dim"),
                0.0,
            )
            for name in ("ssm", "dsm")
        }
    )


def map_tames_gradients(rows: pd.DataFrame) -> Judgement:
    """C3: median gradient norm of the SSM loss over the first 1000 steps, ratio at least 5."""
    without, ours = (needed(rows, m, "gradient_norm") for m in ("ssm-nomap", "ssm"))
    ratio = ratio_of_means(without, ours, paired=True)
    text = f"{without.mean():.3g} against {ours.mean():.3g}, ratio {ratio}"
    return by_interval(ratio, 5.0, ours=text)


def bypasses_the_cubic_cost(rows: pd.DataFrame) -> Judgement:
    """C4: CNN, n = 28, batch 100: ML/DSM >= 3, ML/SSM >= 1.5, ML/DSM larger than at n = 8.

    By intervals over the repeats, in which the losses take turns.
    """

    def ratio(name: str, n: int, batch: int = 100) -> Interval:
        ml, other = (timings(rows, m, "cnn", batch) for m in ("ml", name))
        if n * n not in ml or n * n not in other:
            raise NoResults(f"no timing of {NAMES[name]} and ML at D = {n * n}, batch {batch}")
        return ratio_of_means(ml[n * n].to_numpy(), other[n * n].to_numpy(), paired=True)

    dsm, ssm, small = ratio("dsm", 28), ratio("ssm", 28), ratio("dsm", 8)
    at_20 = f"batch 20: {ratio('dsm', 28, 20)} and {ratio('ssm', 28, 20)}"
    judged = all_of(
        {
            "ML/DSM >= 3": by_interval(dsm, 3.0),
            "ML/SSM >= 1.5": by_interval(ssm, 1.5),
            "ML/DSM above that at n = 8": by_interval(dsm, small.high, ours=f"{small} to {dsm}"),
        }
    )
    return Judgement(judged.verdict, f"{judged.ours}; {at_20}", judged.evidence)


def order_of_cost(batch: int) -> Callable[[pd.DataFrame], Judgement]:
    """C5: FC, D = 1024: max(DSM, FDSSM) < SSM < ML on medians."""

    def judge(rows: pd.DataFrame) -> Judgement:
        ms = {m: milliseconds(rows, m, "fc", batch, 1024) for m in LOSSES}
        cheap = max(ms["dsm"], ms["fdssm"])
        text = ", ".join(f"{NAMES[m]} {value:.1f}" for m, value in ms.items())
        judged = all_of(
            {
                "max(DSM, FDSSM) < SSM": compare(
                    ms["ssm"] - cheap, 0.0, ours=f"{cheap:.1f} and {ms['ssm']:.1f} ms"
                ),
                "SSM < ML": compare(
                    ms["ml"] - ms["ssm"], 0.0, ours=f"{ms['ssm']:.1f} and {ms['ml']:.1f} ms"
                ),
            }
        )
        return Judgement(judged.verdict, f"{judged.ours} (all: {text} ms)", judged.evidence)

    return judge


def toy_on_par(rows: pd.DataFrame) -> Judgement:
    """C6: KL(p_sigma | q) of SSM and DSM at most 0.15 nats above ML's, on sine and on swirl."""
    return all_of(
        {
            f"{NAMES[name]} on {task}": better_than(
                needed(rows, "ml", "kl", task), needed(rows, name, "kl", task), -KL_MARGIN
            )
            for task in POINTS
            for name in ("ssm", "dsm")
        }
    )


def mnist_bits(rows: pd.DataFrame) -> Judgement:
    """C7: MNIST, FC, within 0.03 bits per dimension of the paper; best validation epoch."""
    parts = {}
    for name in ("ssm", "dsm", "fdssm"):
        ours = needed(rows, name, "bits_per_dim", "mnist-fc", "best")
        away = float(abs(ours.mean() - PAPER_BITS[name]))
        parts[NAMES[name]] = compare(away, 0.03, above=False, ours=f"{ours.mean():.3f}")
    return all_of(parts)


def exponent(rows: pd.DataFrame, method: str, batch: int) -> Interval:
    """Growth exponent of a step's time in D, FC model, from D = 500, no multiples of 512."""
    table = timings(rows, method, "fc", batch)
    table = table[[dim for dim in table if dim >= GROWTH_FROM and dim % ALIASED]]
    if len(table.columns) < 2:
        raise NoResults(f"no growth of {NAMES[method]} without two dimensions from {GROWTH_FROM}")
    return loglog_slope(table.columns.to_numpy(), table.to_numpy(), GROWTH_FROM)


def growth_exponents(rows: pd.DataFrame) -> Judgement:
    """C8: at batch 20 the exponents of SSM, DSM and FDSSM are nearer 2 than 3, ML's nearer 3."""
    found = {m: exponent(rows, m, 20) for m in ("ml", "ssm", "dsm", "fdssm")}
    return all_of({NAMES[m]: by_interval(ci, 2.5, above=m == "ml") for m, ci in found.items()})


CLAIMS = [
    Claim(
        "C1",
        "Score matching reaches the likelihood of maximum likelihood (digits, FC model): SSM within"
        " 0.15, DSM within 0.40 bits per dimension.",
        "Table 1",
        "MNIST: ML 2.01, SSM 2.01, DSM 2.02",
        ("default",),
        on_par,
    ),
    Claim(
        "C2",
        "MaP is necessary: without it the likelihood is worse, for SSM and for DSM.",
        "MaP/EMA ablation",
        "MNIST, nats: SSM 1720.5 to 1092.8, DSM 4455.0 to 1099.2",
        ("default",),
        map_is_necessary,
    ),
    Claim(
        "C3",
        "MaP tames the gradients: the median norm over the first 1000 steps of SSM falls at least"
        " five-fold.",
        "figure of gradient norms",
        "60-100 to about 0",
        ("default",),
        map_tames_gradients,
    ),
    Claim(
        "C4",
        "Score matching bypasses the cubic cost: CNN, 28 x 28, batch 100, ML takes at least 3 times"
        " DSM's and 1.5 times SSM's time per step, and its handicap grows with the image.",
        "Table 1",
        "MNIST CNN: ML/DSM 87, ML/SSM 34 (GPU)",
        ("default", "gpu"),
        bypasses_the_cubic_cost,
    ),
    *(
        Claim(
            f"C5-{batch}",
            f"Order of cost, FC, D = 1024, batch {batch}: FDSSM and DSM < SSM < ML.",
            "Table 1",
            "MNIST FC, batches/s: FDSSM 130, DSM 67, SSM 33, ML 8 (GPU)",
            ("default", "gpu"),
            order_of_cost(batch),
        )
        for batch in (100, 20)
    ),
    Claim(
        "C6",
        "Densities in the plane: KL of SSM and of DSM at most 0.15 nats above ML's, on sine and"
        " swirl.",
        "toy experiments",
        "on par",
        ("default",),
        toy_on_par,
    ),
    Claim(
        "C7",
        "MNIST, FC model: SSM, DSM and FDSSM reach 2.01, 2.02 and 2.03 bits per dimension"
        " (within 0.03).",
        "Table 1",
        "2.01, 2.02, 2.03",
        ("gpu", "paper"),
        mnist_bits,
    ),
    Claim(
        "C8",
        "A step costs O(D^2) with score matching and O(D^3) with ML: from D = 500 on (FC, batch 20)"
        " the exponents of SSM, DSM and FDSSM lie below 2.5, that of ML above.",
        "complexity analysis",
        "2 and 3",
        ("default",),
        growth_exponents,
    ),
]


# -- tables -----------------------------------------------------------------------------------


def show(values: np.ndarray) -> str | None:
    """Mean and interval; how many runs diverged, if some did."""
    if len(values) == 0:
        return None
    finite = values[np.isfinite(values)]
    lost = f" ({len(values) - len(finite)} diverged)" if len(finite) < len(values) else ""
    if len(finite) == 0:
        return "diverged"
    return (str(mean_ci(finite)) if len(finite) > 1 else f"{finite[0]:.3f}") + lost


def tables(rows: pd.DataFrame) -> list[Table]:
    """Cost against dimension, likelihoods, densities in the plane, imputation."""
    result = []
    if (rows.metric == "ms").any():
        for model, title in (("fc", "FC"), ("cnn", "CNN")):
            result += [cost_table(rows, model, title, batch) for batch in batches(rows, model)]
    for task in rows.loc[rows.metric == "bits_per_dim", "task"].unique():
        result.append(likelihood_table(rows, task))
    found = rows[rows.metric == "kl"].task.unique()
    if len(found):
        columns = [f"{metric}, {task}" for task in found for metric in ("KL (nats)", "FD")]
        body = [
            [NAMES[m], *(show(pick(rows, m, k, t)) for t in found for k in ("kl", "fisher"))]
            for m in LOSSES
            if ((rows.metric == "kl") & (rows.method == m)).any()
        ]
        result.append(Table("Points: divergence from the exact density", ["loss", *columns], body))
    if (rows.metric == "rmse_mean").any():
        names = [m for m in NAMES if len(pick(rows, m, "rmse_mean"))]
        body = [
            [
                NAMES[m],
                *(show(pick(rows, m, k)) for k in ("rmse_mean", "rmse_sample")),
                *(show(pick(rows, m, k)) for k in ("log_Z_error", "effective_samples")),
            ]
            for m in names
        ]
        columns = ["RMSE, mean of chain", "RMSE, one sample"]
        columns += ["importance estimate - log Z (nats)", "effective samples of 10,000"]
        title = "Digits: right half imputed by Langevin (grey levels), log Z by importance sampling"
        result.append(Table(title, ["model", *columns], body))
    return result


def batches(rows: pd.DataFrame, model: str) -> list[int]:
    """Batch sizes that were timed."""
    chosen = rows[(rows.metric == "ms") & (rows.task == model)]
    return sorted((int(b) for b in chosen["batch"].unique()), reverse=True)


def cost_table(rows: pd.DataFrame, model: str, title: str, batch: int) -> Table:
    """Median milliseconds by loss and dimension, the exponent, the paper's rate on its GPU."""
    dims = [int(d) for d in timings(rows, "ml", model, batch).columns]
    body = []
    for m in (*LOSSES, "update"):
        table = timings(rows, m, model, batch)
        if not len(table):
            continue
        medians = table.median()
        cells = [f"{medians[d]:.2f}" for d in dims]
        slope = None
        if model == "fc" and sum(d >= GROWTH_FROM and d % ALIASED > 0 for d in dims) > 1:
            slope = str(exponent(rows, m, batch))
        rate = f"{PAPER_RATE[m][model == 'cnn']:g}" if m in PAPER_RATE and batch == 100 else None
        body.append([NAMES[m], *cells, slope, rate])
    columns = [f"D = {d}" for d in dims]
    columns += [f"exponent, D >= {GROWTH_FROM}", "paper's batches/s, MNIST"]
    return Table(f"{title} model, batch {batch}: ms per step", ["loss", *columns], body)


def likelihood_table(rows: pd.DataFrame, task: str) -> Table:
    """Test likelihoods with and without the moving average."""
    body = []
    for m in (*METHODS, "gaussian", "uniform"):
        bits = pick(rows, m, "bits_per_dim", task)
        if not len(bits):
            continue
        paper = PAPER_BITS.get(m)
        body.append(
            [
                NAMES[m],
                f"{paper:.2f}" if paper else None,
                show(bits),
                show(pick(rows, m, "bits_per_dim", task, "raw")) if m in METHODS else None,
                show(pick(rows, m, "bits_per_dim", task, "best")) if m in METHODS else None,
                show(pick(rows, m, "nll", task)),
                show(pick(rows, m, "gradient_norm", task)),
            ]
        )
    columns = ["paper, MNIST FC (bits/dim)", "test bits/dim", "without EMA", "best validation"]
    columns += ["NLL (nats)", "gradient norm, first 1000 steps"]
    return Table(f"{task}: test likelihood", ["loss", *columns], body)


# -- figures ----------------------------------------------------------------------------------


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Cost against dimension; validation curves; densities; imputed digits."""
    drawn = {}
    if (rows.metric == "ms").any():
        drawn["cost"] = cost_figure(rows)
    if (rows.metric == "valid_bits_per_dim").any():
        drawn["likelihood"] = likelihood_figure(rows)
    densities = [e for e in extras if e["name"] in ("exact", "learnt")]
    if densities:
        drawn["densities"] = densities_figure(densities)
    imputed = [e for e in extras if e["name"] == "imputed"]
    if imputed:
        drawn["imputed"] = imputed_figure(imputed)
    return drawn


def cost_figure(rows: pd.DataFrame) -> Figure:
    """Milliseconds per step against D; dotted: slopes 2 and 3."""
    sizes = batches(rows, "fc")
    figure, axes = panels(1, 2 * len(sizes), width=2.7, height=2.9)
    places = [(model, batch) for model in ("fc", "cnn") for batch in sizes]
    for axis, (model, batch) in zip(axes.flat, places, strict=True):
        ends = {}
        for m in LOSSES:
            table = timings(rows, m, model, batch)
            dims, medians = table.columns.to_numpy(float), table.median().to_numpy()
            style = "--" if m in ("ml", "sml") else "-"
            axis.loglog(dims, medians, style, color=COLOURS[m], marker="o", ms=3, label=NAMES[m])
            ends[m] = medians[-1]
        near = dims[-1] * np.array([0.4, 1.0])
        for power, end in ((3, 1.5 * max(ends.values())), (2, min(ends.values()) / 1.6)):
            guide = end * (near / near[1]) ** power
            axis.loglog(near, guide, ":", color="#888888", lw=1)
            axis.annotate(
                f"$D^{power}$", (near[0], guide[0]), fontsize=7, color="#666666", ha="right"
            )
        shown = dims if len(dims) < 5 else dims[::2]
        axis.set_xticks(shown, [f"{d:.0f}" for d in shown], fontsize=7)
        axis.minorticks_off()
        axis.set(xlabel="dimension D", title=f"{model.upper()}, batch {batch}")
    axes[0, 0].set(ylabel="ms per step")
    axes[0, 0].legend(fontsize=7)
    return figure


def likelihood_figure(rows: pd.DataFrame) -> Figure:
    """Validation bits per dimension along training, with MaP and without."""
    chosen = rows[rows.metric == "valid_bits_per_dim"]
    tasks = chosen.task.unique()
    figure, axes = panels(1, 2 * len(tasks), width=3.4, height=2.8)
    for number, task in enumerate(tasks):
        for side, wanted in enumerate((LOSSES, tuple(m for m in METHODS if m not in LOSSES))):
            axis = axes[0, 2 * number + side]
            for m in wanted:
                table = chosen[(chosen.method == m) & (chosen.task == task)]
                if not len(table):
                    continue
                wide = table.pivot_table(index="step", columns="seed", values="value")
                colour = COLOURS[m.split("-")[0]]
                style = "--" if m in ("ml", "sml") else "-"
                for seed in wide:
                    axis.plot(wide.index, wide[seed], color=colour, lw=0.5, alpha=0.4)
                axis.plot(wide.index, wide.mean(axis=1), style, color=colour, label=NAMES[m])
            axis.set(xlabel="step", title=f"{task}{', without MaP' if side else ''}")
            if axis.lines:
                axis.legend(fontsize=7)
    axes[0, 0].set(ylabel="validation bits/dim (EMA)")
    return figure


def densities_figure(extras: Sequence[dict[str, Any]]) -> Figure:
    """Exact smoothed densities and what each loss learnt, one grey scale per row."""
    tasks = list(dict.fromkeys(e["task"] for e in extras))
    figure, axes = panels(len(tasks), 1 + len(LOSSES), width=1.6, height=1.65)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    for extra in extras:
        row = tasks.index(extra["task"])
        exact = extra["name"] == "exact"
        column = 0 if exact else 1 + LOSSES.index(extra["method"])
        axes[row, column].imshow(np.array(extra["data"]), cmap="magma", vmin=0, vmax=255)
        axes[row, column].set_title("exact" if exact else NAMES[extra["method"]], fontsize=8)
    for row, task in enumerate(tasks):
        axes[row, 0].set_ylabel(task)
    return figure


def imputed_figure(extras: Sequence[dict[str, Any]]) -> Figure:
    """Test digits with the right half by Langevin: one sample, and the mean of the chain."""
    shown = [e for e in extras if e["method"] in LOSSES]
    shown.sort(key=lambda e: LOSSES.index(e["method"]))
    lines = [("truth", shown[0]["data"][0])]
    for extra in shown:
        lines.append((f"{NAMES[extra['method']]}\nsample", extra["data"][1]))
        lines.append((f"{NAMES[extra['method']]}\nmean", extra["data"][2]))
    n = len(lines[0][1])
    figure, axes = panels(len(lines), 1, width=0.62 * n, height=0.66)
    for axis, (name, data) in zip(axes[:, 0], lines, strict=True):
        images = np.array(data).reshape(n, 8, 8)
        axis.imshow(np.hstack([np.pad(x, 1) for x in images]), cmap="gray", vmin=0, vmax=16)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    return figure


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
