"""The claims: what is said, and how rows of a method decide it."""

from __future__ import annotations

from common.claims import Claim, Judgement, Rows, by_interval, claims_cli, not_worse
from papers.ne.methods import METHODS

MARGIN = 0.01  # C2: of the mean squared error; fixed before the runs


def smaller_error(rows: Rows, method: str) -> Judgement:
    """C1: the squared loss's error minus that of the judged one, heavy tails; paired by seed."""
    error = rows.of(task="student", metric="error")
    return by_interval(error.of(method="squared").minus(error.of(method=method)))


def as_good(rows: Rows, method: str) -> Judgement:
    """C2: the same with normal noise, within the margin."""
    error = rows.of(task="normal", metric="error")
    return not_worse(error.of(method="squared").minus(error.of(method=method)), MARGIN)


CLAIMS = [
    Claim(
        id="C1",
        statement="With heavy-tailed noise Huber's loss fits the curve better than least squares.",
        source="Section 1",
        paper="smaller error",
        judge=smaller_error,
        method="huber",
        tasks=("student",),
        against=("squared",),
        headline=True,
    ),
    Claim(
        id="C2",
        statement="With normal noise it fits the curve no worse (margin 0.01).",
        source="Section 1",
        paper="equal",
        judge=as_good,
        method="huber",
        tasks=("normal",),
        against=("squared",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
