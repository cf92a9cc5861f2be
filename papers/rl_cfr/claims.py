"""The claims of RL-CFR: what is said, and how rows of an abstraction decide it.

Every method is measured on the same held-out deals. Intervals come from a bootstrap of deals and of
seeds at once (Owen's pigeonhole bootstrap, which errs on the wide side), expanded for few seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.claims import (
    INCONCLUSIVE,
    Claim,
    Judgement,
    NoResults,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    not_worse,
)
from common.stats import Interval, expanded_level
from papers.rl_cfr.methods import METHODS

Matrix = NDArray[np.float64]  # [seeds, deals]

GAME = "preflop43"
MARGIN = 0.5  # mbb, C4
RESAMPLES = 4_000
SEED = 24_03_04344


def matrix(rows: Rows) -> Matrix:
    """Values [seeds, deals] of a metric by deal, or [seeds, 1] of one without deals."""
    if rows.unique("step"):
        return rows.curve()[1]
    return rows.values(least=1)[:, None]


@functools.lru_cache(maxsize=16)
def shares(*counts: int) -> list[Matrix]:
    """Shares of the units in each resample, [RESAMPLES, n] for each count of units."""
    rng = np.random.default_rng(SEED)
    return [rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in counts]


def two_way(statistic: Callable[..., Any], *cells: Matrix) -> Interval:
    """Interval of a statistic of the means of cells [seeds, deals] that share their deals.

    Deals are resampled jointly, the seeds of each cell on their own; a cell of one seed (a method
    without training) keeps it.

    Args:
        statistic: of as many means (numbers, or arrays of resampled means) as there are cells.
    """
    n_deals = cells[0].shape[1]
    deals, *seeds = shares(n_deals, *map(len, cells))
    means = [((of @ cell) * deals).sum(1) for of, cell in zip(seeds, cells, strict=True)]
    fewest = min((len(cell) for cell in cells if len(cell) > 1), default=n_deals)
    if n_deals > 1:
        fewest = min(fewest, n_deals)
    value = float(statistic(*(cell.mean() for cell in cells)))
    if fewest < 2:
        return Interval(value, value, value, fewest)
    tail = (1 - min(expanded_level(fewest), 1 - 1e-12)) / 2
    low, high = np.quantile(statistic(*means), [tail, 1 - tail])
    return Interval(value, float(low), float(high), fewest)


def mean_of(rows: Rows) -> Interval:
    """Mean over seeds and deals."""
    return two_way(lambda x: x, matrix(rows))


def difference(ours: Rows, theirs: Rows) -> Interval:
    """Difference of the means, on the same deals."""
    return two_way(lambda x, y: x - y, matrix(ours), matrix(theirs))


def ratio(ours: Rows, theirs: Rows) -> Interval:
    """Ratio of the means, on the same deals."""
    return two_way(lambda x, y: x / y, matrix(ours), matrix(theirs))


def beats_default(rows: Rows, method: str) -> Judgement:
    """C1: root gain over the default abstraction, at convergence; solver error stands beside."""
    own = rows.of(task=GAME, method=method)
    ci = mean_of(own.of(metric="gain"))
    gaps = ("exploitability", "exploitability_default")
    noise = float(sum(matrix(own.of(metric=name)).mean() for name in gaps))
    text = f"{ci} mbb/hand (solver error {noise:.3f})"
    judged = by_interval(ci, ours=text, solver_error=noise)
    if abs(ci.value) < noise:
        return Judgement(INCONCLUSIVE, judged.ours, judged.evidence)
    return judged


def as_small(rows: Rows, method: str) -> Judgement:
    """C2: nodes of the trees of C1 against those of the default."""
    own = rows.of(task=GAME, method=method)
    return by_interval(ratio(own.of(metric="nodes"), own.of(metric="nodes_default")), 1.1, False)


def beats_random(rows: Rows, method: str) -> Judgement:
    """C3: root gain minus that of random abstractions."""
    gain = rows.of(task=GAME, metric="gain")
    ci = difference(gain.of(method=method), gain.of(method="random"))
    return by_interval(ci, ours=f"{ci} mbb/hand")


def beats_tuned(rows: Rows, method: str) -> Judgement:
    """C3b: root gain minus that of the best fixed pair."""
    gain = rows.of(task=GAME, metric="gain")
    ci = difference(gain.of(method=method), gain.of(method="tuned_fixed"))
    return by_interval(ci, ours=f"{ci} mbb/hand")


def as_secure(rows: Rows, method: str) -> Judgement:
    """C4: security loss at all own nodes, against FINE, minus the default's."""
    loss = rows.of(task=GAME, metric="security_loss")
    own, default = loss.of(method=method), loss.of(method="default")
    less = difference(default, own)
    text = f"{matrix(own).mean():.2f}, default {matrix(default).mean():.2f}; less by {less} mbb"
    error = rows.of(task=GAME, metric="security_error")
    errors = (matrix(error.of(method=name)).mean() for name in (method, "default"))
    return not_worse(less, MARGIN, ours=text, solver_error=float(sum(errors)))


def cheaper_than_fine(rows: Rows, method: str) -> Judgement:
    """C5: gain at least 0.3 of FINE's with at most 0.6 of its nodes."""
    own, fine = (rows.of(task=GAME, method=name) for name in (method, "fine"))
    gains = matrix(own.of(metric="gain")), matrix(fine.of(metric="gain"))
    over = two_way(lambda x, y: x - 0.3 * y, *gains)
    share = ratio(own.of(metric="nodes"), fine.of(metric="nodes"))
    text = f"{gains[0].mean():.2f} of {gains[1].mean():.2f}, over 0.3 by {over} mbb"
    gain = by_interval(over, ours=text)
    return all_of({"gain": gain, "nodes": by_interval(share, 0.6, above=False)})


def matches(rows: Rows, method: str) -> Judgement:
    """C6: HUNL is out of reach of this folder at any scale."""
    raise NoResults("the value network and the opponents are not published")


CLAIMS = [
    Claim(
        "C1",
        "The learned abstraction beats the default one: root gain at convergence (T = 4000, stacks "
        "5–15 BB) above 0",
        "Main result, abstract",
        "HUNL, another game: +64 ± 11 mbb/hand",
        beats_default,
        "rl_cfr",
        (GAME,),
        against=("default",),
        headline=True,
    ),
    Claim(
        "C2",
        "At no extra solving cost: its trees have at most 1.1 times the default's nodes",
        "Abstract",
        "no increase of solving time",
        as_small,
        "rl_cfr",
        (GAME,),
        against=("default",),
    ),
    Claim(
        "C3",
        "Learning finds more than chance: gain above that of random abstractions of the same size",
        "Motivation of the RL",
        "–",
        beats_random,
        "rl_cfr",
        (GAME,),
        against=("random",),
    ),
    Claim(
        "C3b",
        "Choosing by state is worth something: gain above that of the best fixed pair (our "
        "addition)",
        "Motivation of the RL",
        "–",
        beats_tuned,
        "rl_cfr",
        (GAME,),
        against=("tuned_fixed",),
    ),
    Claim(
        "C4",
        "It is not more exploitable: security loss against FINE at most the default's + 0.5 mbb "
        "(50 deals)",
        "Exploitability table (10k river states)",
        "HUNL river: 17 against 20 mbb/hand",
        as_secure,
        "rl_cfr",
        (GAME,),
        against=("default",),
    ),
    Claim(
        "C5",
        "Competitive with a finer abstraction at lower cost: 0.3 of FINE's gain with 0.6 of its "
        "nodes",
        "Comparison with FINE-GRAIN",
        "HUNL: +23 ± 28 mbb/hand with 4/7 of its time",
        cheaper_than_fine,
        "rl_cfr",
        (GAME,),
        against=("fine",),
    ),
    Claim(
        "C6",
        "In HUNL it wins from a ReBeL replication and from Slumbot",
        "Match tables",
        "+64 ± 11; +84 ± 17 mbb/hand",
        matches,
        "rl_cfr",
        ("hunl",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
