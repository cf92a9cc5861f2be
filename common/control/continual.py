"""Tasks one after another: which one a step belongs to, the matrix of scores, its summaries.

``scores`` is [K + 1, K] for a sequence of K tasks: row 0 holds the scores before the first task is
learned, row i those after the i-th; column j - 1 is the j-th task. NaN stands where nothing was
evaluated. A task that comes twice has two columns, since a policy may treat the two differently.

In a loop that can be killed and goes on::

    kept = run.keep(net=net, optimizer=optimizer, scores=unknown(len(tasks)))
    for at in sequence(run.steps(sum(budgets)), budgets):
        if at.first:
            ...  # reset in place what a task begins with: it is kept, and may be resumed mid-task
        ...  # one step on tasks[at.task]
        if at.last:
            for j in due(at.task, len(tasks)):
                kept.scores[at.task + 1, j] = evaluate(tasks[j])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A step of the whole sequence, seen from its task. Everything counts from 0."""

    task: int  # which task of the sequence
    step: int  # step within the task
    first: bool  # the first step of the task
    last: bool  # the last step of the task


def place(step: int, budgets: Sequence[int]) -> Place:
    """Where step ``step`` of the whole sequence is.

    Args:
        step: from 0 to sum(budgets) - 1.
        budgets: steps of each task; a task may have none.

    Raises:
        ValueError: if the sequence has no such step.
    """
    before = 0
    for task, (budget, end) in enumerate(zip(budgets, accumulate(budgets), strict=True)):
        if before <= step < end:
            within = step - before
            return Place(task, within, within == 0, within == budget - 1)
        before = end
    raise ValueError(f"a sequence of {before} steps has no step {step}")


def sequence(steps: Iterable[int], budgets: Sequence[int]) -> Iterator[Place]:
    """The places of ``steps`` (of ``Run.steps``, which may begin in the middle)."""
    for step in steps:
        yield place(step, budgets)


def unknown(n_tasks: int) -> Scores:
    """A matrix in which nothing was evaluated yet. [K + 1, K], NaN."""
    return np.full((n_tasks + 1, n_tasks), np.nan)


def due(task: int, n_tasks: int, *, following: bool = False) -> list[int]:
    """The tasks to be evaluated once ``task`` was learned, for the summaries below.

    All after the last one, else the task itself; with ``following`` the next one too, which
    :func:`forward_transfer` needs. ``task`` -1 stands for the time before the first: then it is,
    with ``following``, every task but the first.
    """
    if task == n_tasks - 1:
        return list(range(n_tasks))
    if task == -1:
        return list(range(1, n_tasks)) if following else []
    return [task, task + 1] if following else [task]


def average_performance(scores: Scores) -> float:
    """P = mean over j of R[K, j]: the score after the last task."""
    return float(_known(scores[-1]).mean())


def forgetting(scores: Scores) -> float:
    """F = mean over j of R[j, j] - R[K, j]; the last task counts, with 0 (Wolczyk et al. 2021)."""
    own = _known(np.diagonal(scores[1:]))
    return float((own - _known(scores[-1])).mean())


def backward_transfer(scores: Scores) -> float:
    """BWT = mean over j < K of R[K, j] - R[j, j] (Lopez-Paz and Ranzato 2017).

    Raises:
        ValueError: of a single task.
    """
    _several(scores)
    own = _known(np.diagonal(scores[1:]))
    return float((_known(scores[-1]) - own)[:-1].mean())


def forward_transfer(scores: Scores) -> float:
    """FWT = mean over j > 1 of R[j - 1, j] - R[0, j]: zero-shot on the next task.

    Lopez-Paz and Ranzato 2017. Continual World's forward transfer is another thing, the area
    between learning curves with and without the tasks before.

    Raises:
        ValueError: of a single task.
    """
    _several(scores)
    zero_shot = _known(np.diagonal(scores[1:], offset=1))  # [K - 1], before task j, on task j
    return float((zero_shot - _known(scores[0, 1:])).mean())


def _known(values: Scores) -> Scores:
    if np.isnan(values).any():
        raise ValueError(f"not every score that this needs was evaluated: {values.tolist()}")
    return values


def _several(scores: Scores) -> None:
    if scores.shape[1] < 2:
        raise ValueError("transfer needs two tasks or more")
