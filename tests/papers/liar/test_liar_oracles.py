"""Reconstructions against closed forms, gradient descent and each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from papers.liar.baselines import bias_compensation, mask_tuning, none, obs
from papers.liar.method import (
    Linear,
    Moments,
    Problem,
    Ridge,
    adaptive,
    interpolation,
    liar,
    liar_q,
    liar_weights,
    shares,
    squared_error,
)
from papers.liar.sparse import Pattern, liar_within, pattern_of, reconstructed

ZERO = Ridge(0.0)
Solver = Callable[[Problem, Ridge], Linear]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(
    x: Tensor, y: Tensor, W: Tensor, b: Tensor, *, unit: int = 1, affine: bool = True
) -> Problem:
    moments = Moments.zeros(x.shape[1], y.shape[1])
    moments.add(x, y)
    return Problem(moments, W, b, unit, affine)


def local(
    n: int = 60, d_in: int = 9, d: int = 4, kept: tuple[int, ...] = (0, 2, 3, 5, 8), seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Problem]:
    """X, Y, W, b and the problem of the kept inputs; inputs have means and are correlated."""
    x = random(n, d_in, seed=seed) @ random(d_in, d_in, seed=seed + 1) + 0.7
    W, b = random(d_in, d, seed=seed + 2), random(d, seed=seed + 3)
    y = x @ W + b
    K = torch.tensor(kept)
    return x, y, W, b, problem(x[:, K], y, W[K], b)


def error(x: Tensor, y: Tensor, found: Linear) -> float:
    return float((y - x @ found.weight - found.bias).square().sum())


# -- the hand case ---------------------------------------------------------------------------------

HAND_X = torch.tensor([[1, 0, 2], [0, 1, 1], [1, 1, 0], [2, 0, 1]], dtype=torch.float64)
HAND_W = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("solve", "affine", "wanted"),
    [
        (none, True, 12.0),
        (bias_compensation, True, 4.0),
        (mask_tuning, True, 8.833333333),
        (liar_weights, True, 6.545454545),
        (liar, False, 6.545454545),
        (liar_q, False, 6.545454545),
        (liar, True, 0.0),
        (liar_q, True, 0.0),
    ],
)
def test_the_hand_case(solve: Solver, affine: bool, wanted: float) -> None:
    b = torch.zeros(2, dtype=torch.float64)
    x, y = HAND_X[:, :2], HAND_X @ HAND_W
    own = problem(x, y, HAND_W[:2], b, affine=affine)
    found = solve(own, ZERO)
    assert error(x, y, found) == pytest.approx(wanted, abs=1e-8)
    assert squared_error(own.moments, found) == pytest.approx(wanted, abs=1e-8)


def test_the_hand_case_in_numbers() -> None:
    b = torch.zeros(2, dtype=torch.float64)
    own = problem(HAND_X[:, :2], HAND_X @ HAND_W, HAND_W[:2], b)
    assert bias_compensation(own, ZERO).bias.tolist() == [1.0, 1.0]
    scales = mask_tuning(own, ZERO).weight.diagonal()
    np.testing.assert_allclose(scales, [5 / 3, 1.5], rtol=1e-9)
    found = liar(own, ZERO)
    np.testing.assert_allclose(found.weight, [[0, -1], [-2, -1]], atol=1e-10)
    np.testing.assert_allclose(found.bias, [3, 3], atol=1e-10)


# -- the method ------------------------------------------------------------------------------------


def test_nothing_removed_changes_nothing() -> None:
    x, y, W, b, _ = local()
    own = problem(x, y, W, b)
    for solve in (liar, liar_q):
        for ridge in (ZERO, Ridge(1e-2), Ridge(1e-6)):
            found = solve(own, ridge)
            torch.testing.assert_close(found.weight, W, rtol=0, atol=1e-8)
            torch.testing.assert_close(found.bias, b, rtol=0, atol=1e-8)


def test_few_tokens_fall_back_to_the_old_weights_or_to_nothing() -> None:
    """Three tokens for five inputs: textbook ridge keeps only what the tokens span."""
    _, _, _, _, own = local(n=3)
    _, _, _, _, many = local(n=4000)
    old = liar(own, Ridge(1e-2))
    zero = liar(own, Ridge(1e-2, "zero"))
    lost = [float((f.weight - own.weight).norm()) for f in (old, zero)]
    assert lost[0] < lost[1]
    assert torch.linalg.matrix_rank(zero.weight, atol=1e-6) <= 2 < 4
    huge = liar(own, Ridge(1e9)).weight
    torch.testing.assert_close(huge, own.weight, rtol=0, atol=1e-5)
    assert liar(many, Ridge(1e9, "zero")).weight.abs().max() < 1e-5
    both = [liar(many, Ridge(1e-12, to)).weight for to in ("old", "zero")]  # type: ignore[arg-type]
    torch.testing.assert_close(*both, rtol=1e-6, atol=1e-6)


def test_a_dependent_input_is_distributed_over_the_others() -> None:
    """x_3 = x_1 + x_2: its row of W is added to theirs, and nothing is lost."""
    x = random(40, 2)
    x = torch.stack([x[:, 0], x[:, 1], x.sum(1)], 1)
    W, b = random(3, 4, seed=5), random(4, seed=6)
    y, K = x @ W + b, torch.tensor([0, 1])
    own = problem(x[:, K], y, W[K], b)
    found = liar(own, ZERO)
    torch.testing.assert_close(found.weight, W[:2] + W[2], rtol=0, atol=1e-9)
    torch.testing.assert_close(found.bias, b, rtol=0, atol=1e-9)
    assert error(x[:, K], y, found) < 1e-18
    moments = Moments.zeros(3, 4)
    moments.add(x, y)
    wanted = torch.tensor([[1.0, 0, 1], [0, 1, 1]], dtype=torch.float64)
    torch.testing.assert_close(shares(moments, K), wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(shares(moments, K) @ W, found.weight, rtol=0, atol=1e-8)


@pytest.mark.parametrize("to", ["old", "zero"])
def test_normal_equations(to: str) -> None:
    x, y, W, b, own = local()
    K = torch.tensor([0, 2, 3, 5, 8])
    found = liar(own, Ridge(0.03, to))  # type: ignore[arg-type]
    xc, yc = x[:, K] - x[:, K].mean(0), y - y.mean(0)
    lam = 0.03 * (xc.T @ xc).diagonal().mean()
    left = xc.T @ (yc - xc @ found.weight)
    right = lam * (found.weight - (W[K] if to == "old" else 0))
    torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.bias, y.mean(0) - x[:, K].mean(0) @ found.weight)


@given(st.integers(0, 300), st.integers(1, 6), st.integers(1, 6))
def test_errors_are_ordered(seed: int, k: int, d: int) -> None:
    kept = tuple(range(k))
    x, y, W, b, own = local(d=d, kept=kept, seed=seed)
    fixed = Problem(own.moments, own.weight, own.bias, affine=False)

    def of(solve: Solver, which: Problem) -> float:
        return squared_error(own.moments, solve(which, ZERO))

    slack = 1e-7 * float(own.moments.syy)
    chain = [of(liar, fixed), of(liar_q, fixed), of(mask_tuning, fixed), of(none, fixed)]
    assert all(a <= b + slack for a, b in zip(chain, chain[1:], strict=False))
    chain = [of(liar, own), of(liar_q, own), of(bias_compensation, own), of(none, own)]
    assert all(a <= b + slack for a, b in zip(chain, chain[1:], strict=False))
    assert of(liar, own) <= of(liar, fixed) + slack
    assert of(liar_weights, own) == pytest.approx(of(liar, fixed))


def test_interpolation_is_exact_where_the_kept_rows_span_the_outputs() -> None:
    _, _, _, _, wide = local(d=4)  # k = 5 >= 4
    for ridge in (ZERO, Ridge(0.1)):
        torch.testing.assert_close(liar_q(wide, ridge), liar(wide, ridge), rtol=1e-8, atol=1e-8)
    _, _, _, _, narrow = local(d=8)  # k = 5 < 8
    found, free = liar_q(narrow, ZERO), liar(narrow, ZERO)
    W = narrow.weight
    torch.testing.assert_close(found.weight, found.weight @ torch.linalg.pinv(W) @ W)
    assert squared_error(narrow.moments, free) < 0.99 * squared_error(narrow.moments, found)
    Q, P = interpolation(narrow, found)
    torch.testing.assert_close(Q @ W, found.weight, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(P @ narrow.bias, found.bias, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("lam", [0.0, 0.05])
def test_interpolation_is_what_descent_on_q_finds(lam: float) -> None:
    """The least of |Y - X Q W|^2 + lambda |Q W - W|^2 over Q, by Newton steps of L-BFGS."""
    x, y, _, _, own = local(d=8)
    K = torch.tensor([0, 2, 3, 5, 8])
    W = own.weight
    xc, yc = x[:, K] - x[:, K].mean(0), y - y.mean(0)
    size = lam * (xc.T @ xc).diagonal().mean()
    Q = torch.eye(5, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([Q], max_iter=500, tolerance_grad=1e-11, tolerance_change=0,
                                line_search_fn="strong_wolfe")  # fmt: skip

    def loss() -> Tensor:
        descent.zero_grad()
        value = (yc - xc @ Q @ W).square().sum() + size * (Q @ W - W).square().sum()
        value.backward()
        return value

    descent.step(loss)  # type: ignore[arg-type]
    found = liar_q(own, Ridge(lam)).weight
    torch.testing.assert_close((Q @ W).detach(), found, rtol=1e-5, atol=1e-5)


def test_a_constant_input_goes_into_the_bias() -> None:
    x, _, W, b, _ = local()
    x[:, 1] = 2.5
    y, K = x @ W + b, torch.tensor([0, 2, 3, 4, 5, 6, 7, 8])
    own = problem(x[:, K], y, W[K], b)
    for solve in (bias_compensation, liar, liar_q):
        found = solve(own, ZERO)
        torch.testing.assert_close(found.weight, W[K], rtol=0, atol=1e-8)
        torch.testing.assert_close(found.bias, b + 2.5 * W[1], rtol=0, atol=1e-8)


def test_bias_compensation_is_the_mean_of_what_was_removed() -> None:
    x, y, W, b, own = local()
    R = torch.tensor([1, 4, 6, 7])
    found = bias_compensation(own, ZERO)
    torch.testing.assert_close(found.bias, b + x[:, R].mean(0) @ W[R])
    assert found.weight is own.weight


def test_one_scale_for_all_inputs_of_a_unit() -> None:
    """Against a search by least squares over explicit outputs of units."""
    x, y, W, b, _ = local(d_in=8, kept=(0, 1))
    K = torch.tensor([0, 1, 4, 5])
    own = problem(x[:, K], y, W[K], b, unit=2)
    found = mask_tuning(own, ZERO)
    outputs = [(x[:, K[i : i + 2]] @ W[K[i : i + 2]]).flatten() for i in (0, 2)]
    design = torch.stack(outputs, 1)
    scale = torch.linalg.lstsq(design, (y - b).flatten()[:, None]).solution[:, 0]
    wanted = scale.repeat_interleave(2)[:, None] * W[K]
    torch.testing.assert_close(found.weight, wanted, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(mask_tuning(own, Ridge(1e9)).weight, W[K], rtol=1e-5, atol=1e-5)


def test_scales_of_inputs_do_not_matter() -> None:
    x, y, W, b, own = local(d=8)
    c = torch.tensor([0.1, 3.0, 1.0, 20.0, 0.5], dtype=torch.float64)
    K = torch.tensor([0, 2, 3, 5, 8])
    other = problem(x[:, K] * c, y, W[K] / c[:, None], b)
    for solve in (liar, liar_q, mask_tuning, bias_compensation, liar_weights):
        one, two = solve(own, ZERO), solve(other, ZERO)
        outputs = (x[:, K] @ one.weight + one.bias, (x[:, K] * c) @ two.weight + two.bias)
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)


def test_moments_of_batches_are_those_of_all_tokens() -> None:
    x, y, _, _, own = local()
    K = torch.tensor([0, 2, 3, 5, 8])
    parts = []
    for rows in (slice(0, 7), slice(7, 60)):
        parts.append(Moments.zeros(5, 4))
        parts[-1].add(x[rows][:, K], y[rows])
    both = parts[0] + parts[1]
    assert both.n == own.moments.n == 60
    for a, b in zip(both.tensors, own.moments.tensors, strict=True):
        torch.testing.assert_close(a, b)
    whole = Moments.zeros(9, 4)
    whole.add(x, y)
    for a, b in zip(whole.of(K).tensors, own.moments.tensors, strict=True):
        torch.testing.assert_close(a, b)


def test_singular_moments_are_solved() -> None:
    """Two equal inputs: some solution with the least error, finite."""
    x, _, W, b, _ = local()
    x[:, 2] = x[:, 0]
    y, K = x @ W + b, torch.tensor([0, 2, 3])
    own = problem(x[:, K], y, W[K], b)
    found = liar(own, ZERO)
    once = liar(problem(x[:, [0, 3]], y, W[[0, 3]], b), ZERO)
    assert error(x[:, K], y, found) == pytest.approx(error(x[:, [0, 3]], y, once), rel=1e-6)


def test_held_out_tokens_choose_the_ridge() -> None:
    """With few noisy tokens a larger one than with many."""
    x, _, W, b, _ = local(n=4000)
    y = x @ W + b + 30 * random(4000, 4, seed=9)
    K = torch.tensor([0, 2, 3, 5, 8])
    held = problem(x[2000:, K], y[2000:], W[K], b).moments
    sizes = [adaptive(liar, problem(x[:n, K], y[:n], W[K], b), held, "old").size for n in (8, 2000)]
    assert sizes[0] > sizes[1]


# -- single weights (ours) -------------------------------------------------------------------------


def test_patterns() -> None:
    scores = torch.tensor([[4.0, 1], [3, 2], [2, 3], [1, 4], [9, 9], [8, 8], [0, 0], [1, 1]])
    two = pattern_of("2to4", 8, 0.5).kept(scores)
    assert two[:, 0].tolist() == [True, True, False, False, True, True, False, False]
    assert two[:, 1].tolist() == [False, False, True, True, True, True, False, False]
    free = pattern_of("weights", 8, 0.75).kept(scores)
    assert free[:, 0].nonzero().flatten().tolist() == [4, 5]


def test_reconstruction_within_a_mask_is_the_least_squares_of_each_output() -> None:
    x, y, W, b, _ = local()
    own = problem(x, y, W, b)
    keep = Pattern(9, 0.5).kept(W.abs())
    found = liar_within(own, keep, ZERO)
    assert ((found.weight != 0) == keep).all()
    xc, yc = x - x.mean(0), y - y.mean(0)
    for i in range(4):
        S = keep[:, i]
        wanted = torch.linalg.lstsq(xc[:, S], yc[:, i : i + 1]).solution[:, 0]
        torch.testing.assert_close(found.weight[S, i], wanted, rtol=1e-8, atol=1e-8)


def test_updates_by_curvature_are_obs_and_never_better_than_least_squares() -> None:
    x, y, W, b, _ = local()
    own = problem(x, y, W, b)
    for seed in range(5):
        keep = Pattern(9, 0.5).kept(random(9, 4, seed=seed))
        errors = [
            squared_error(own.moments, found)
            for found in (
                liar_within(own, keep, ZERO),
                obs(own, keep, ZERO, Pattern(9, 0.5)),
                bias_compensation(Problem(own.moments, W * keep, b), ZERO),
            )
        ]
        assert errors[0] <= errors[1] * (1 + 1e-9)
    # only the first input of one output goes: everything after it may change, so OBS is optimal
    keep = torch.ones(9, 4, dtype=torch.bool)
    keep[0, 1] = False
    found, best = obs(own, keep, ZERO, Pattern(9, 1.0)), liar_within_one(own, keep)
    torch.testing.assert_close(found.weight[:, 1], best, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.weight[:, 0], W[:, 0])


def liar_within_one(own: Problem, keep: Tensor) -> Tensor:
    """Least squares of output 1 alone."""
    moments = own.moments
    one = Moments(moments.n, moments.sx, moments.sy[1:2], moments.G, moments.C[:, 1:2], moments.syy)
    alone = Problem(one, own.weight[:, 1:2], own.bias[1:2])
    return liar_within(alone, keep[:, 1:2], ZERO).weight[:, 0]


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "obs"])
@pytest.mark.parametrize("parts", ["weights", "2to4"])
def test_every_way_keeps_the_pattern(criterion: str, parts: str) -> None:
    x, y, W, b, _ = local(d_in=8, kept=(0,))
    own = problem(x, y, W, b)
    pattern = pattern_of(parts, 8, 0.5)
    errors = {}
    for way in ("none", "bias", "liar", "sparsegpt"):
        found = reconstructed(way, criterion, own, pattern, Ridge(1e-9))  # type: ignore[arg-type]
        assert ((found.weight != 0).sum(0) == 4).all()
        if parts == "2to4":
            assert ((found.weight != 0).reshape(2, 4, 4).sum(1) == 2).all()
        errors[way] = squared_error(own.moments, found)
    assert errors["liar"] <= min(errors["bias"], errors["none"]) + 1e-9
    if criterion != "obs":  # the same mask
        assert errors["liar"] <= errors["sparsegpt"] * (1 + 1e-9)
