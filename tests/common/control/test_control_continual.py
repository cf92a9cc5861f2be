"""The matrix of continual learning: summaries by hand, places of steps, nothing unknown read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.control.continual import (
    average_performance,
    backward_transfer,
    due,
    forgetting,
    forward_transfer,
    place,
    sequence,
    unknown,
)
from common.run import Run

# before learning; after the first, second, third task
SCORES = np.array([[0, 0, 0.1], [0.9, 0.1, 0], [0.5, 0.8, 0.2], [0.4, 0.8, 0.7]])


def test_summaries_of_a_matrix_worked_out_by_hand():
    assert average_performance(SCORES) == pytest.approx(1.9 / 3)
    assert forgetting(SCORES) == pytest.approx((0.5 + 0 + 0) / 3)
    assert backward_transfer(SCORES) == pytest.approx((-0.5 + 0) / 2)
    assert forward_transfer(SCORES) == pytest.approx(((0.1 - 0) + (0.2 - 0.1)) / 2)


def test_a_transposed_matrix_has_other_summaries():
    other = np.concatenate([SCORES[:1], SCORES[1:].T])
    for summary in (average_performance, forgetting, backward_transfer, forward_transfer):
        assert summary(other) != pytest.approx(summary(SCORES)), summary.__name__


def test_what_is_due_suffices_and_nothing_less_does():
    full, scores = SCORES, unknown(3)
    for task in range(-1, 3):
        for j in due(task, 3, following=True):
            scores[task + 1, j] = full[task + 1, j]
    assert forward_transfer(scores) == forward_transfer(full)
    assert forgetting(scores) == forgetting(full)
    assert np.isnan(scores).sum() == 3  # R[0, 1], R[1, 3], R[2, 1] are never read
    for i, j in zip(*np.nonzero(~np.isnan(scores)), strict=True):
        less = scores.copy()
        less[i, j] = np.nan
        needing = [average_performance, forgetting, backward_transfer, forward_transfer]
        refused = 0
        for summary in needing:
            try:
                summary(less)
            except ValueError:
                refused += 1
        assert refused, (i, j)


def test_without_transfer_only_the_own_task_and_the_end_are_due():
    assert [due(task, 3) for task in (-1, 0, 1, 2)] == [[], [0], [1], [0, 1, 2]]


def test_one_task_forgets_nothing_and_transfers_nothing():
    one = np.array([[0.1], [0.7]])
    assert average_performance(one) == 0.7 and forgetting(one) == 0.0
    for summary in (backward_transfer, forward_transfer):
        with pytest.raises(ValueError, match="two tasks"):
            summary(one)


def test_places_of_a_short_sequence():
    found = [(p.task, p.step, p.first, p.last) for p in sequence(range(4), [1, 0, 3])]
    assert found == [(0, 0, True, True), (2, 0, True, False), (2, 1, False, False)] + [
        (2, 2, False, True)
    ]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
def test_a_sequence_may_begin_anywhere(budgets, data):
    total = sum(budgets)
    start = data.draw(st.integers(0, total))
    whole = list(sequence(range(total), budgets))
    assert list(sequence(range(start, total), budgets)) == whole[start:]
    for task, budget in enumerate(budgets):
        own = [p for p in whole if p.task == task]
        assert [p.step for p in own] == list(range(budget))
        assert sum(p.first for p in own) == sum(p.last for p in own) == bool(budget)
    with pytest.raises(ValueError, match="no step"):
        place(total, budgets)


@dataclass
class Config:
    out: Path = Path("unused")


def learn(folder, stop=None):
    """Scores that tell everything learned so far; stops without a word, as a killed process."""
    budgets = [3, 4, 2]
    run = Run.open(folder, Config())
    kept = run.keep(learned=0.0, scores=unknown(3))
    for number, at in enumerate(sequence(run.steps(sum(budgets)), budgets)):
        if number == stop:
            run._release()
            return kept.scores
        kept.learned += (at.task + 1) * 10.0**at.step
        if at.last:
            for j in due(at.task, 3, following=True):
                kept.scores[at.task + 1, j] = kept.learned + j
    return kept.scores


@pytest.mark.parametrize("stop", [2, 3, 6, 8])
def test_a_sequence_that_was_stopped_goes_on_to_the_same_matrix(tmp_path, monkeypatch, stop):
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "2")
    wanted = learn(tmp_path / "whole")
    learn(tmp_path / "stopped", stop)
    found = learn(tmp_path / "stopped")
    np.testing.assert_array_equal(found, wanted)
    assert np.isfinite(wanted).sum() == 7 and backward_transfer(wanted) > 0
