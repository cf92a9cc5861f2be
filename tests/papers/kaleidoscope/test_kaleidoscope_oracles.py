"""The method against what is known exactly."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from papers.kaleidoscope.method import (
    ACTOR,
    CRITIC,
    Coefficient,
    MaskedLinear,
    Start,
    diversity,
    due,
    ensemble_target,
    ensemble_value,
    hard,
    kept,
    mask_distances,
    overlap,
    reset,
    reset_mask,
    soft,
    sparsity,
    step,
)

torch.set_num_threads(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(weight: list[list[float]], thresholds: list[list[list[float]]]) -> MaskedLinear:
    """A layer of given weight [in, out] and thresholds [M, in, out]."""
    made = MaskedLinear(len(weight), len(weight[0]), len(thresholds), generator=generator())
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weight))
        made.thresholds.copy_(torch.tensor(thresholds))
    return made


# -- masks ----------------------------------------------------------------------------------------


def test_soft_thresholds_and_their_gradients() -> None:
    W = torch.tensor([[0.3, -0.3, 0.2, -0.05]], requires_grad=True)
    S = torch.tensor([[[-1.0, -1.0, -1.0, -4.0]]], requires_grad=True)
    made = soft(W, S)
    assert made[0, 0].tolist() == pytest.approx([0.0310586, -0.0310586, 0.0, -0.0320138], abs=1e-7)
    made.sum().backward()
    assert W.grad is not None and S.grad is not None
    assert W.grad[0].tolist() == [1.0, 1.0, 0.0, 1.0]
    expected = [-0.1966119, 0.1966119, 0.0, 0.0176627]
    assert S.grad[0, 0].tolist() == pytest.approx(expected, abs=1e-7)
    assert kept(W, S)[0, 0].tolist() == [True, True, False, True]


def test_hard_masks_leave_what_they_keep_and_reach_the_thresholds_they_cut() -> None:
    W = torch.tensor([[0.3, -0.3, 0.2, -0.05]], requires_grad=True)
    S = torch.tensor([[[-1.0, -1.0, -1.0, -4.0]]], requires_grad=True)
    made = hard(W, S)
    torch.testing.assert_close(made[0, 0], torch.tensor([0.3, -0.3, 0.0, -0.05]))
    made.sum().backward()
    assert W.grad is not None and S.grad is not None
    assert W.grad[0].tolist() == [1.0, 1.0, 0.0, 1.0]
    slope = torch.sigmoid(S) * (1 - torch.sigmoid(S))
    torch.testing.assert_close(S.grad, (-torch.tanh(W) * slope).detach())


def test_step_function_is_straight_through() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    out = step(x)
    assert out.tolist() == [0.0, 0.0, 1.0]
    incoming = torch.tensor([3.0, -3.0, 0.1])
    out.backward(incoming)
    assert x.grad is not None and x.grad[0].item() == pytest.approx(0.995055, abs=1e-6)
    torch.testing.assert_close(x.grad, incoming.tanh())
    assert incoming[0] == 3.0  # the buffer it came in is left alone


def test_without_thresholds_it_is_a_linear_layer() -> None:
    made = MaskedLinear(5, 3, 2, start=Start(0.0, 40.0), generator=generator())
    linear = nn.Linear(5, 3)
    with torch.no_grad():
        linear.weight.copy_(made.weight.T)
        linear.bias.copy_(made.bias[0, 0])
    x = torch.randn(7, 5, generator=generator(1))
    weights, bias = made.effective()
    out = x @ weights + bias
    for m in range(2):
        torch.testing.assert_close(out[m], linear(x), atol=1e-6, rtol=1e-6)
    out[0].square().sum().backward()
    linear(x).square().sum().backward()
    assert made.weight.grad is not None and linear.weight.grad is not None
    torch.testing.assert_close(made.weight.grad, linear.weight.grad.T)
    torch.testing.assert_close(made.bias.grad[0, 0], linear.bias.grad)


def test_sparsity_at_first() -> None:
    expected = math.sqrt(64) * (math.log1p(math.exp(-5)) - math.log1p(math.exp(-10))) / 5
    assert expected == pytest.approx(0.010672, abs=1e-6)
    actor = MaskedLinear(64, 8000, 4, start=ACTOR, generator=generator())
    assert sparsity([actor]) == pytest.approx(expected, rel=0.04)
    critic = MaskedLinear(256, 300, 5, start=CRITIC, generator=generator())
    assert sparsity([critic]) == pytest.approx(0.1870, rel=0.02)
    S = actor.thresholds
    assert S.min() >= -10 and S.max() <= -5
    assert critic.thresholds.min() >= -20 and critic.thresholds.max() <= 0


def test_masks_and_agents_change_places_together() -> None:
    made = MaskedLinear(6, 5, 3, start=Start(8.0, 0.0), generator=generator())
    order = torch.tensor([2, 0, 1])
    x = torch.randn(3, 4, 6, generator=generator(1))
    before = x @ made.effective()[0]
    with torch.no_grad():
        made.thresholds.copy_(made.thresholds[order].clone())
    torch.testing.assert_close(x[order] @ made.effective()[0], before[order])
    with torch.no_grad():
        made.thresholds.copy_(made.thresholds[:1].expand(3, -1, -1).clone())
    same = x[0] @ made.effective()[0]
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])


# -- diversity ------------------------------------------------------------------------------------


def test_diversity_of_two_masks() -> None:
    made = layer([[0.5, -0.2]], [[[-3.0, -3.0]], [[1.0, -3.0]]])
    assert made.masks()[:, 0].tolist() == [[True, True], [False, True]]
    loss = diversity([made], [1.0])
    assert loss.item() == pytest.approx(-0.25)
    loss.backward()
    assert made.weight.grad is None and made.bias.grad is None
    # only the first weight tells the masks apart: the one that keeps it is to keep it (threshold
    # down), the other to cut it (threshold up); descent, so gradients of the other sign
    slope = torch.sigmoid(made.thresholds) * (1 - torch.sigmoid(made.thresholds))
    g = math.tanh(2 * 0.5 / (2 * 1 * 2))
    expected = torch.zeros(2, 1, 2)
    expected[0, 0, 0], expected[1, 0, 0] = g * slope[0, 0, 0], -g * slope[1, 0, 0]
    torch.testing.assert_close(made.thresholds.grad, expected.detach())


def test_the_step_function_squashes_the_scaled_gradient() -> None:
    """beta multiplies the loss before it is differentiated: tanh acts on beta times g."""
    made = layer([[0.5, -0.2]], [[[-3.0, -3.0]], [[1.0, -3.0]]])
    (10.0 * diversity([made], [1.0])).backward()
    slope = torch.sigmoid(torch.tensor(1.0)) * (1 - torch.sigmoid(torch.tensor(1.0)))
    assert made.thresholds.grad is not None
    found = made.thresholds.grad[1, 0, 0].item()
    assert found == pytest.approx(-math.tanh(2.5) * slope.item(), rel=1e-5)


@given(st.integers(2, 5), st.integers(0, 50))
def test_diversity_counts_pairs(M: int, seed: int) -> None:
    """Per weight, the ordered pairs sum to 2 k (M - k) |W|, k masks keeping it."""
    layers = [
        MaskedLinear(n_in, n_out, M, start=Start(6.0, -1.0), generator=generator(seed))
        for n_in, n_out in ((3, 4), (4, 2))
    ]
    total, P = 0.0, 3 * 4 + 4 * 2
    for made, weight in zip(layers, (1.0, 2.0), strict=True):
        k = made.masks().sum(0)
        total += weight * float((2 * k * (M - k) * made.weight.detach().abs()).sum())
    expected = -total / (M * (M - 1) * P)
    assert diversity(layers, [1.0, 2.0]).item() == pytest.approx(expected, abs=1e-6)
    distance = sum(mask_distances(layers))
    assert -distance == pytest.approx(diversity(layers, [1.0, 1.0]).item(), abs=1e-6)


def test_a_single_mask_has_no_diversity() -> None:
    made = MaskedLinear(3, 4, 1, generator=generator())
    assert diversity([made], [1.0]).item() == 0.0
    assert mask_distances([made]) == [0.0]


def test_adaptive_coefficient() -> None:
    beta = Coefficient(0.5, memory=2)
    J = torch.tensor(-0.5, requires_grad=True)
    assert beta(torch.tensor(2.0), J) == pytest.approx(2.0)
    value = beta(torch.tensor(4.0), J)
    assert value == pytest.approx(3.0) and isinstance(value, float)
    other = Coefficient(0.5, memory=2)
    other.load(copy.deepcopy(beta.state()))
    assert other(torch.tensor(6.0), J) == pytest.approx(5.0)  # the first has gone
    assert Coefficient(0.7)(torch.tensor(9.0), torch.tensor(0.0)) == 0.7


# -- resets ---------------------------------------------------------------------------------------


def cut_layer() -> MaskedLinear:
    """Some weights cut by all masks, some by one, some by none."""
    made = MaskedLinear(8, 6, 3, generator=generator())
    with torch.no_grad():
        made.thresholds[:] = -20.0
        made.thresholds[:, :3] = 20.0  # rows 0 to 2: cut by all
        made.thresholds[0, 3:5] = 20.0  # rows 3 and 4: by the first alone
        made.weight[3:] = made.weight[3:].sign().clamp(min=-1) * 0.3
    return made


def test_reset_draws_what_all_masks_cut_and_nothing_else() -> None:
    made = cut_layer()
    before = copy.deepcopy(made.state_dict())
    assert reset([made], 1.0, generator(5)) == 18
    assert (made.weight[:3] != before["weight"][:3]).all()
    assert (made.weight[:3].abs() <= 8**-0.5).all()
    S = made.thresholds
    assert (S[:, :3] <= -5).all() and (S[:, :3] >= -10).all() and made.masks()[:, :3].any()
    assert torch.equal(made.weight[3:], before["weight"][3:])
    assert torch.equal(S[:, 3:], before["thresholds"][:, 3:])
    assert torch.equal(made.bias, before["bias"])


def test_reset_with_a_probability() -> None:
    made = cut_layer()
    before = copy.deepcopy(made.state_dict())
    assert reset([made], 0.0, generator(5)) == 0
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    counts = [reset([cut_layer()], 0.25, generator(seed)) for seed in range(200)]
    assert sum(counts) / 200 == pytest.approx(4.5, abs=0.6)


def test_resets_keep_clear_of_the_last_interval() -> None:
    when = []
    last = 0
    for now in range(0, 101, 5):
        if due(now, last, 20, 100):
            when.append(now)
            last = now
    assert when == [25, 50, 75]
    assert not due(80, 0, 20, 100) and due(79, 0, 20, 100)


def test_reset_of_one_critics_mask() -> None:
    made = MaskedLinear(8, 6, 3, start=CRITIC, generator=generator())
    before = copy.deepcopy(made.state_dict())
    reset_mask([made], 1, generator(3))
    assert (made.thresholds[1] != before["thresholds"][1]).any()
    assert (made.thresholds[1] <= 0).all()
    for m in (0, 2):
        assert torch.equal(made.thresholds[m], before["thresholds"][m])
    assert torch.equal(made.weight, before["weight"])


# -- critics and measures -------------------------------------------------------------------------


def test_target_is_the_least_critics_and_actors_climb_the_mean() -> None:
    q = torch.arange(1.0, 6.0)[:, None].expand(5, 4)
    assert ensemble_target(q).tolist() == [1.0] * 4
    assert ensemble_value(q).tolist() == [3.0] * 4


def test_overlap_of_masks() -> None:
    made = layer([[0.5, 0.5, 0.5]], [[[-9.0, -9.0, 9.0]], [[-9.0, 9.0, -9.0]], [[9.0, 9.0, 9.0]]])
    expected = torch.tensor([[1.0, 1 / 3, 0.0], [1 / 3, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(overlap(made), expected)
