"""The claims of EBFlow as functions of the rows and of the loss that is judged."""

from __future__ import annotations

from dataclasses import replace

from common.claims import (
    CONTRADICTED,
    REPRODUCED,
    Claim,
    Judge,
    Judgement,
    NoResults,
    Rows,
    all_of,
    by_interval,
    claims_cli,
)
from common.stats import Interval, loglog_slope, mean_ci, paired_diff
from papers.ebflow.methods import METHODS, without_map

DIGITS = "digits-fc"
KL_MARGIN = 0.15  # nats, of C6
CLOSE = 0.03  # bits per dimension, of C7
GROWTH_FROM = 500  # D from which C8's exponents are fitted: below, overheads hide the products
ALIASED = 512  # its multiples are left out: rows that far apart share their places in the cache
BATCHES = (20, 100)


def scored(
    rows: Rows, method: str, metric: str, task: str = DIGITS, weights: str | None = "ema"
) -> Rows:
    """A metric of a loss at the task's learning rate, of the averaged weights by default."""
    return rows.of(method=method, metric=metric, task=task, weights=weights, lr=None)


def diverged(rows: Rows) -> int:
    """Number of seeds without a finite value."""
    return int(rows.frame["value"].isna().sum())


def timed(rows: Rows, method: str, model: str, batch: int, dim: int | None = None) -> Rows:
    """Milliseconds of a step of one dimension, or of all; the repeats stand in the seeds' place.

    The losses take turns in every repeat, so that repeats pair them.
    """
    labels = {"metric": "ms", "method": method, "task": model, "batch": batch}
    labels |= {} if dim is None else {"dim": dim}
    frame = rows.of(**labels).frame
    return Rows(frame.assign(seed=frame["repeat"]) if len(frame) else frame, labels)


def exponent(rows: Rows, method: str, batch: int) -> Interval:
    """Growth exponent of a step's time in D, FC model, from D = 500, no multiples of 512.

    Raises:
        NoResults: if fewer than two such dimensions were timed.
    """
    found = timed(rows, method, "fc", batch)
    dims = [d for d in found.unique("dim") if d >= GROWTH_FROM and d % ALIASED]
    if len(dims) < 2:
        raise NoResults(f"no growth of {method} without two D from {GROWTH_FROM}")
    table = found.of(dim=dims).frame.pivot(index="seed", columns="dim", values="value")
    return loglog_slope(dims, table.to_numpy(), GROWTH_FROM)


def smaller(theirs: Rows, ours: Rows, threshold: float, *, constant: bool = False) -> Judgement:
    """Judge theirs - ours > threshold, paired by seed, where smaller values are better.

    A diverged run of ours fails the claim; of theirs it is left out and counted in the text. With
    ``constant`` ours is a closed form: one number without seeds.
    """
    if lost := diverged(ours):
        return Judgement(CONTRADICTED, f"{lost} of {len(ours)} seeds diverged", {"diverged": lost})
    if constant:
        mine, others = ours.values(least=1)[:1], theirs.values()
        ci = mean_ci(others - mine[0])
    else:
        others, mine = theirs.paired(ours)
        ci = paired_diff(others, mine)
    left = diverged(theirs)
    note = f" ({left} of {len(theirs)} others diverged)" if left else ""
    text = f"{mine.mean():.3f} against {others.mean():.3f}, difference {ci}{note}"
    return by_interval(ci, threshold, ours=text, diverged_others=left)


def reaches_ml(margin: float) -> Judge:
    """C1: ML - method > -margin, test bits per dimension."""

    def judge(rows: Rows, method: str) -> Judgement:
        ml, ours = (scored(rows, m, "bits_per_dim") for m in ("ml", method))
        return smaller(ml, ours, -margin, constant=METHODS[method].objective is None)

    return judge


def both(rows: Rows, method: str, metric: str, weights: str | None = "ema") -> tuple[Rows, Rows]:
    """A metric of a loss without MaP and with it."""
    twin = without_map(method)
    if twin is None:
        raise NoResults(f"there is no {METHODS.label(method)} without MaP")
    return scored(rows, twin, metric, weights=weights), scored(
        rows, method, metric, weights=weights
    )


def map_is_necessary(rows: Rows, method: str) -> Judgement:
    """C2: bits per dimension without MaP minus with it."""
    return smaller(*both(rows, method, "bits_per_dim"), 0.0)


def map_tames_gradients(rows: Rows, method: str) -> Judgement:
    """C3: median gradient norm over the first 1000 steps, ratio at least 5."""
    without, ours = both(rows, method, "gradient_norm", None)
    ratio = without.over(ours)
    text = f"{without.value():.3g} against {ours.value():.3g}, ratio {ratio}"
    return by_interval(ratio, 5.0, ours=text)


def faster_than_ml(factor: float, *, grows: bool) -> Judge:
    """C4: CNN, 28 x 28, batch 100: ML/method >= factor; with ``grows`` also more than at 8 x 8."""

    def judge(rows: Rows, method: str) -> Judgement:
        def ratio(side: int, batch: int = 100) -> Interval:
            ml, ours = (timed(rows, m, "cnn", batch, side**2) for m in ("ml", method))
            return ml.over(ours)

        large = ratio(28)
        parts = {f"at least {factor:g}": by_interval(large, factor)}
        if grows:
            small = ratio(8)
            parts["8 x 8"] = by_interval(large, small.high, ours=f"{small}")
        return all_of(parts, f"batch 20: {ratio(28, 20)}")

    return judge


def order_of_cost(batch: int) -> Judge:
    """C5: FC, D = 1000 and 1024: method < SSM < ML, by intervals over the repeats."""

    def judge(rows: Rows, method: str) -> Judgement:
        parts, shown = {}, []
        for dim in (1000, 1024):
            ours, ssm, ml = (timed(rows, m, "fc", batch, dim) for m in (method, "ssm", "ml"))
            parts[f"{METHODS.label(method)} < SSM, D = {dim}"] = by_interval(ssm.minus(ours))
            parts[f"SSM < ML, D = {dim}"] = by_interval(ml.minus(ssm))
            ms = " < ".join(f"{part.value():.0f}" for part in (ours, ssm, ml))
            shown.append(f"D = {dim}: {ms} ms")
        judged = all_of(parts)
        return replace(judged, ours="; ".join(shown)) if judged.verdict == REPRODUCED else judged

    return judge


def points_on_par(rows: Rows, method: str) -> Judgement:
    """C6: KL(p_sigma | q) at most 0.15 nats above ML's, on sine and on swirl."""
    return all_of(
        {
            task.removeprefix("paper-"): smaller(
                *(scored(rows, m, "kl", task) for m in ("ml", method)), -KL_MARGIN
            )
            for task in ("paper-sine", "paper-swirl")
        }
    )


def mnist_bits(rows: Rows, method: str) -> Judgement:
    """C7: MNIST, FC, within 0.03 bits per dimension of the paper's number for this loss."""
    paper = METHODS[method].paper_bits
    if paper is None:
        raise NoResults(f"the paper has no number of {METHODS.label(method)}")
    ci = scored(rows, method, "bits_per_dim", "mnist-fc", "best").ci()
    low, high = by_interval(ci, paper - CLOSE), by_interval(ci, paper + CLOSE, above=False)
    return all_of({"not below": low, "not above": high})


def growth(above: bool) -> Judge:
    """C8: the exponents of the time per step lie below (above) 2.5 at both batch sizes."""

    def judge(rows: Rows, method: str) -> Judgement:
        found = {f"batch {batch}": exponent(rows, method, batch) for batch in BATCHES}
        return all_of({name: by_interval(ci, 2.5, above) for name, ci in found.items()})

    return judge


CLAIMS = [
    *(
        Claim(
            id=f"C1-{METHODS.label(method)}",
            statement=f"{METHODS.label(method)} reaches the likelihood of maximum likelihood within"
            f" {margin:.2f} bits per dimension (digits, FC model, 4000 steps, 5 seeds).",
            source="Table 1",
            paper=f"MNIST: {METHODS[method].paper_bits} against 2.01",
            judge=reaches_ml(margin),
            method=method,
            tasks=(DIGITS,),
            against=("ml",),
            headline=method == "ssm",
        )
        for method, margin in (("ssm", 0.15), ("dsm", 0.40))
    ),
    Claim(
        id="C2",
        statement="MaP is necessary: without it the test likelihood of SSM is worse (digits, FC"
        " model, 5 seeds).",
        source="MaP/EMA ablation",
        paper="MNIST: 1720.5 to 1092.8 nats",
        judge=map_is_necessary,
        method="ssm",
        tasks=(DIGITS,),
        against=("ssm-nomap",),
    ),
    Claim(
        id="C3",
        statement="MaP tames SSM's gradients: their median norm over the first 1000 steps falls at"
        " least five-fold (digits).",
        source="figure of gradient norms",
        paper="60-100 to about 0",
        judge=map_tames_gradients,
        method="ssm",
        tasks=(DIGITS,),
        against=("ssm-nomap",),
    ),
    *(
        Claim(
            id=f"C4-{METHODS.label(method)}",
            statement="CNN, 28 x 28, batch 100: a step of ML takes at least"
            f" {factor:g} times {METHODS.label(method)}'s time{more}.",
            source="Table 1",
            paper=f"{paper} (GPU)",
            judge=faster_than_ml(factor, grows=bool(more)),
            method=method,
            tasks=("cnn",),
            against=("ml",),
        )
        for method, factor, paper, more in (
            ("dsm", 3.0, 87, ", and more than at 8 x 8"),
            ("ssm", 1.5, 34, ""),
        )
    ),
    *(
        Claim(
            id=f"C5-{batch}",
            statement=f"FC, batch {batch}, D = 1000 and 1024: a step of DSM is faster than SSM's,"
            " and SSM's faster than ML's.",
            source="Table 1",
            paper="67, 33 and 8 batches/s (GPU)",
            judge=order_of_cost(batch),
            method="dsm",
            tasks=("fc",),
            against=("ssm", "ml"),
        )
        for batch in BATCHES[::-1]
    ),
    Claim(
        id="C6",
        statement="Sine and swirl at the authors' 50 000 steps: KL of SSM at most 0.15 nats above"
        " ML's.",
        source="toy experiments",
        paper="on par",
        judge=points_on_par,
        method="ssm",
        tasks=("paper-sine", "paper-swirl"),
        against=("ml",),
    ),
    Claim(
        id="C7",
        statement="MNIST, FC model, best validation: SSM within 0.03 bits per dimension of the"
        " paper's number (other losses: of theirs).",
        source="Table 1",
        paper="2.01",
        judge=mnist_bits,
        method="ssm",
        tasks=("mnist-fc",),
        specific=False,
        shared="each loss is held to its own number of the paper's table, the baseline as well",
    ),
    *(
        Claim(
            id=f"C8-{METHODS.label(method)}",
            statement=f"{METHODS.label(method)}'s time per step grows with D by an exponent {what}"
            " 2.5 (FC, D = 500 to 2000, batch 20 and 100).",
            source="complexity analysis",
            paper=paper,
            judge=growth(above=what == "above"),
            method=method,
            tasks=("fc",),
            specific=not shared,
            shared=shared,
        )
        for method, what, paper, shared in (
            ("ssm", "below", "2", ""),
            ("ml", "above", "3", "it is about the baseline's determinants"),
        )
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
