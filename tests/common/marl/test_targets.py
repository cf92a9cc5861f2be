"""Targets against worked numbers and the forward view; selection among what is available."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.marl import targets
from common.marl.weighted import (
    central_weights,
    deviations,
    optimistic_weights,
    softmax_value,
)

REWARD = torch.tensor([[1.0, 0.0, 2.0]])
FOLLOWING = torch.tensor([[4.0, 3.0, 7.0]])
FILLED = torch.ones(1, 3)
ENDED, CUT = torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, 3)


def padded(x: torch.Tensor, value: float) -> torch.Tensor:
    """Two steps of padding with something in them that must not count."""
    return torch.cat([x, torch.full((1, 2), value)], 1)


@pytest.mark.parametrize(
    ("end", "lam", "wanted"),
    [
        (ENDED, 0.6, [3.6064, 2.16, 2.0]),
        (CUT, 0.6, [5.44348, 5.562, 8.3]),
        (ENDED, 0.0, [4.6, 2.7, 2.0]),
        (ENDED, 1.0, [2.62, 1.8, 2.0]),
    ],
)
def test_td_lambda_worked_numbers_with_and_without_padding(
    end: torch.Tensor, lam: float, wanted: list[float]
) -> None:
    expected = torch.tensor([wanted])
    torch.testing.assert_close(
        targets.td_lambda(REWARD, end, FILLED, FOLLOWING, 0.9, lam), expected
    )
    longer = targets.td_lambda(
        padded(REWARD, 0.0), padded(end, 0.0), padded(FILLED, 0.0), padded(FOLLOWING, 9.0), 0.9, lam
    )
    torch.testing.assert_close(longer[:, :3], expected)
    assert longer[:, 3:].abs().max() == 0


def test_td_lambda_is_the_mean_of_the_n_step_returns() -> None:
    rng = torch.Generator().manual_seed(0)
    reward, following = torch.randn(2, 6, generator=rng), torch.randn(2, 6, generator=rng)
    filled = torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2])
    end = torch.zeros(2, 6)
    end[0, 5] = 1
    lam, gamma = 0.7, 0.95
    for b, L in ((0, 6), (1, 4)):
        for t in range(L):
            returns = [
                float(targets.n_step(reward, end, filled, following, gamma, n)[b, t])
                for n in range(1, L - t + 1)
            ]
            weights = [(1 - lam) * lam**k for k in range(len(returns) - 1)]
            weights.append(1 - sum(weights))  # the last takes what remains
            whole = targets.td_lambda(reward, end, filled, following, gamma, lam)[b, t]
            assert float(whole) == pytest.approx(np.dot(weights, returns), abs=1e-5)


def test_n_step_by_hand() -> None:
    two = targets.n_step(REWARD, CUT, FILLED, FOLLOWING, 0.5, 2)
    torch.testing.assert_close(two, torch.tensor([[1 + 0 + 0.25 * 3, 0 + 0.5 * 2 + 0.25 * 7, 5.5]]))
    one = targets.n_step(REWARD, ENDED, FILLED, FOLLOWING, 0.5, 1)
    torch.testing.assert_close(one, targets.one_step(REWARD, ENDED, FOLLOWING, 0.5))
    with pytest.raises(ValueError, match="n must be"):
        targets.n_step(REWARD, CUT, FILLED, FOLLOWING, 0.5, 0)


def test_returns_and_means_leave_padding_out() -> None:
    torch.testing.assert_close(
        targets.discounted_returns(REWARD, 0.5), torch.tensor([[1.5, 1.0, 2.0]])
    )
    mean = targets.masked_mean(padded(REWARD, 100.0), padded(FILLED, 0.0))
    assert float(mean) == pytest.approx(1.0)


def test_greedy_takes_available_actions_only() -> None:
    q = torch.tensor([[3.0, 2.0, 1.0]])
    avail = torch.tensor([[False, True, True]])
    assert targets.greedy(q, avail).item() == 1
    assert targets.greedy(-q - 1e3, avail).item() == 2
    values, rng = q.numpy()[None].repeat(4000, 0), np.random.default_rng(0)
    choices = targets.epsilon_greedy(values, avail.numpy()[None].repeat(4000, 0), 0.5, rng)
    share = np.bincount(choices.ravel(), minlength=3) / 4000
    assert share[0] == 0 and share[1] == pytest.approx(0.75, abs=0.03)
    still = targets.epsilon_greedy(values, avail.numpy()[None].repeat(4000, 0), 0.0, rng)
    assert (still == 1).all()


def test_linear_schedule() -> None:
    assert targets.linear(1.0, 0.05, 100, 0) == 1.0
    assert targets.linear(1.0, 0.05, 100, 50) == pytest.approx(0.525)
    assert targets.linear(1.0, 0.05, 100, 1e9) == pytest.approx(0.05)
    assert targets.linear(1.0, 0.05, 0, 0) == 0.05


def test_weights_of_weighted_qmix() -> None:
    q, y = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 1.5])
    assert optimistic_weights(q, y, 0.1).tolist() == pytest.approx([1.0, 0.1])
    greedy = torch.tensor([True, False])
    assert central_weights(greedy, y, torch.tensor([9.0, 9.0]), 0.1).tolist() == pytest.approx(
        [1.0, 0.1]
    )
    assert central_weights(~greedy, y, torch.tensor([1.0, 9.0]), 0.1).tolist() == pytest.approx(
        [1.0, 1.0]
    )


def test_deviations_change_one_agent_each() -> None:
    q = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    each = deviations(q, torch.tensor([0, 2]))
    assert each.shape == (2, 3, 2)
    assert each[0].tolist() == [[1.0, 30.0], [2.0, 30.0], [3.0, 30.0]]
    assert each[1].tolist() == [[1.0, 10.0], [1.0, 20.0], [1.0, 30.0]]


def test_softmax_value_over_neighbours() -> None:
    avail = torch.tensor([[[True, True], [True, False]]])
    q, q_target = torch.tensor([[0.0, 1.0, 2.0, 9.0]]), torch.tensor([[1.0, 2.0, 3.0, 99.0]])
    weights = np.exp([0.0, 0.5, 1.0])
    wanted = (weights / weights.sum()) @ [1.0, 2.0, 3.0]
    assert float(softmax_value(avail, q, q_target, 0.5)) == pytest.approx(wanted, rel=1e-5)
