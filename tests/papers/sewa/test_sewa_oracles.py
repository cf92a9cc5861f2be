"""What is known exactly: brute force, closed forms, PyTorch's own averages."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from papers.sewa import baselines
from papers.sewa.examples import Plain, Work, classification, constant
from papers.sewa.method import (
    Problem,
    Selection,
    Window,
    first_logits,
    gap_of,
    mask_of,
    mean_of,
    noise,
    sewa,
    top,
    weighted,
)
from papers.sewa.methods import METHODS
from papers.sewa.networks import resnet
from papers.sewa.weights import called_with, flat, put, views

torch.set_num_threads(1)
CPU = torch.device("cpu")
# TWA's coefficients are free, so that it scales even equal snapshots; M = 16 takes long
SAME = [name for name in METHODS if name not in ("twa", "sewa-m16")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(
    theta: Tensor, K: int, loss: Callable[[Tensor], Tensor], seed: int = 0, **changes: Any
) -> Problem:
    how = Selection(**changes)
    score = lambda w: float(loss(w))  # noqa: E731
    return Problem(theta, K, lambda: loss, score, how, generator(seed))


# -- snapshots are copies -------------------------------------------------------------------------


def test_snapshots_are_copies_and_differ_along_the_way() -> None:
    """References to a module's tensors, as the public code keeps, are k times the last weights."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    window, references, copies = Window(4, 8), [], []
    for step in range(6):
        optimizer.zero_grad()
        model(torch.randn(5, 3, generator=generator(step))).square().sum().backward()
        optimizer.step()
        window.push(flat(model))
        references.append(model.state_dict())
        copies.append(flat(model))
    rows = window.ordered()
    assert rows.equal(torch.stack(copies[-4:]))
    assert len({row.data_ptr() for row in window.rows}) == 4
    assert all(p.data_ptr() != window.rows.data_ptr() for p in model.parameters())
    assert (rows[1:] - rows[:-1]).abs().amax(1).min() > 0
    assert all(r["weight"].equal(model.weight) for r in references)  # the fault
    state = window.state()
    other = Window(4, 8)
    other.load(state)  # type: ignore[arg-type]
    assert other.ordered().equal(rows) and other.full
    other.clear()
    with pytest.raises(ValueError, match="0 snapshots of 4"):
        other.ordered()


def test_with_references_every_method_returns_the_same_model() -> None:
    theta, _ = baselines.damaged(torch.randn(8, 5, generator=generator()), "aliased", generator())
    for name in SAME:
        method = METHODS[name]
        asked = replace(problem(theta, 3, lambda w: w.square().sum(-1), iterations=5),
                        smooth=theta[-1])  # fmt: skip
        torch.testing.assert_close(method.way(asked).weights, theta[-1], msg=name)


# -- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
def test_a_snapshot_is_drawn_with_its_probability_at_every_temperature(
    a: float, tau: float
) -> None:
    n, p = 40_000, 1 / (1 + np.exp(-a))
    drawn = mask_of(torch.full((n,), a), noise((n,), "logistic", generator()), tau)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert abs(float(drawn.mean()) - p) < 3 * np.sqrt(p * (1 - p) / n)


def test_one_gumbel_number_is_the_wrong_noise() -> None:
    """The public code's: P(m = 1 | a = 0) = 1 - 1/e, so that 31.6 of 50 are drawn at its start."""
    n = 40_000
    drawn = mask_of(torch.zeros(n), noise((n,), "gumbel", generator()), 1.0)
    assert float(drawn.mean()) == pytest.approx(1 - np.exp(-1), abs=0.01)
    assert first_logits(50, 10, "comb").count_nonzero() == 10
    assert float(first_logits(50, 10).sigmoid().sum()) == pytest.approx(10)
    assert 50 * float(drawn.mean()) == pytest.approx(31.6, abs=0.5)


def test_the_published_settings_choose_the_comb_they_begin_with() -> None:
    """A hundred steps of .01 that the expected loss hardly differs by."""
    theta = torch.randn(50, 4, generator=generator()) * 1e-3 + 1
    found = METHODS["published"].way(problem(theta, 10, lambda w: 1e-6 * w.square().sum(-1)))
    assert found.probabilities is not None
    assert float((found.probabilities - 0.5).abs().max()) < 0.25
    own = sewa(problem(theta, 10, lambda w: (w - 1).square().sum(-1)))
    assert own.probabilities is not None
    assert float(own.probabilities.sum()) == pytest.approx(10, rel=0.35)


def test_gradient_of_the_logits_in_closed_form_is_autograds() -> None:
    """(1/K) <dF(w), w_i> dy_i/da_i; the network itself has no gradient and does not change."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    before = flat(model)
    x, y = torch.randn(2, 6, 3, generator=generator(), dtype=torch.double)[0], torch.ones(6, 1)
    theta = torch.randn(5, len(before), generator=generator(1), dtype=torch.double)
    a = torch.randn(5, generator=generator(2), dtype=torch.double).requires_grad_()
    g = noise((5,), "logistic", generator(3)).double()
    loss = lambda w: (called_with(model, w)(x) - y.double()).square().mean()  # noqa: E731
    tau, K = 0.7, 2
    m = mask_of(a, g, tau)
    loss(weighted(m, theta, K)).backward()
    w = weighted(m, theta, K).detach().requires_grad_()
    (dF,) = torch.autograd.grad(loss(w), w)
    s = ((a.detach() + g) / tau).sigmoid()
    torch.testing.assert_close(a.grad, theta @ dF / K * s * (1 - s) / tau)
    assert all(p.grad is None for p in model.parameters()) and flat(model).equal(before)


def test_the_divisor_is_K_whatever_is_drawn() -> None:
    theta, m = torch.eye(4), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert weighted(m, theta, 2).tolist() == [0.5, 0.5, 0.5, 0.0]
    assert weighted(m, theta, 2, "count").sum() == pytest.approx(1)
    assert weighted(torch.zeros(4), theta, 2).eq(0).all()
    assert weighted(torch.zeros(4), theta, 2, "count").eq(0).all()


def test_the_expected_loss_of_quadratics() -> None:
    """E F(w(m)) = F(E w) + sum s (1 - s) w_i' H w_i / (2 K^2)."""
    theta = torch.randn(6, 3, generator=generator()).double()
    root = torch.randn(3, 3, generator=generator(1)).double()
    H, c, K = root @ root.T, torch.tensor([0.3, -1.0, 0.5]).double(), 2
    F = lambda w: 0.5 * ((w - c) @ H * (w - c)).sum(-1)  # noqa: E731
    a = torch.randn(6, generator=generator(2))
    s = a.sigmoid().double()
    masks = mask_of(a, noise((100_000, 6), "logistic", generator(3)), 1.0).double()
    losses = F(masks @ theta / K)
    exact = F(s @ theta / K) + (s * (1 - s) * (theta @ H * theta).sum(1)).sum() / (2 * K**2)
    assert float(losses.mean() - exact) == pytest.approx(
        0, abs=4 * float(losses.std()) / np.sqrt(len(losses))
    )


# -- what is chosen -------------------------------------------------------------------------------


def brute(theta: Tensor, K: int, loss: Callable[[Tensor], Tensor]) -> list[float]:
    """Losses of all subsets."""
    sets = itertools.combinations(range(len(theta)), K)
    return [float(loss(mean_of(theta, chosen))) for chosen in sets]


def toy(seed: int, **changes: Any) -> tuple[int, ...]:
    theta = torch.tensor([-3.0, -1.0, 0.5, 2.0, 4.0, 9.0])[:, None]
    return sewa(
        problem(theta, 2, lambda w: 0.5 * (w - 1.25).square().sum(-1), seed, **changes)
    ).chosen


def test_the_right_two_of_six_numbers() -> None:
    """Brute force: {.5, 2}. One Gumbel number or 1/sum m finds them less often."""
    tried: dict[str, dict[str, Any]] = {"noise": {"noise": "gumbel"}, "norm": {"norm": "count"}}
    assert sum(toy(seed) == (2, 3) for seed in range(20)) >= 14
    for changes in tried.values():
        assert sum(toy(seed, **changes) == (2, 3) for seed in range(8)) <= 4


@pytest.mark.parametrize("distance", [1.0, 3.0])
def test_quadratics_against_every_subset(distance: float) -> None:
    k, K, d, found, ranks = 10, 3, 6, [], []
    for number in range(8):
        rng = generator(number)
        c = torch.randn(d, generator=rng)
        c = c / c.norm() * distance * d**0.5
        theta = c + torch.randn(k, d, generator=rng)
        loss = lambda w, c=c: (w - c).square().sum(-1)  # noqa: E731
        every = brute(theta, K, loss)
        own = float(loss(sewa(problem(theta, K, loss, number)).weights))
        assert own >= min(every) - 1e-6
        found.append(own / np.mean(every))
        ranks.append(own < np.median(every))
    assert np.mean(ranks) >= 0.7 and np.mean(found) <= 0.75


def test_between_the_relaxed_optimum_and_a_random_subset() -> None:
    """Linear regression: QP over probabilities <= brute force <= SeWA <= random in the mean."""
    own, by_chance = [], []
    for number in range(3):
        rng = np.random.default_rng(number)
        x, truth = rng.standard_normal((30, 4)), rng.standard_normal(4)
        y = x @ truth + 0.5 * rng.standard_normal(30)
        theta = truth + 0.7 * rng.standard_normal((9, 4))
        F = lambda w, x=x, y=y: float(np.mean((x @ w - y) ** 2))  # noqa: E731
        qp = scipy.optimize.minimize(
            lambda s, theta=theta, F=F: F(s @ theta / 3), np.full(9, 1 / 3), method="SLSQP",
            bounds=[(0, 1)] * 9, constraints={"type": "eq", "fun": lambda s: s.sum() - 3},
        )  # fmt: skip
        X, Y, T = (torch.from_numpy(a).float() for a in (x, y, theta))
        loss = lambda w, X=X, Y=Y: (w @ X.T - Y).square().mean(-1)  # noqa: E731
        every = brute(T, 3, loss)
        value = float(loss(sewa(problem(T, 3, loss, number)).weights))
        assert qp.fun <= min(every) + 1e-4 and min(every) <= value + 1e-6
        own.append(value)
        by_chance.append(np.mean(every))
    assert np.mean(own) < np.mean(by_chance)


def test_negated_snapshots_are_not_chosen() -> None:
    for seed in range(3):
        centre = torch.randn(30, generator=generator(seed))
        theta = centre + 0.1 * torch.randn(16, 30, generator=generator(50 + seed))
        theta, hit = baselines.damaged(theta, "negated", generator(seed))
        loss = lambda w, c=centre: (w - c).square().mean(-1)  # noqa: E731
        found = sewa(problem(theta, 5, loss, seed))
        assert len(hit) == 4 and not {*found.chosen} & {*hit}
        assert sum(i >= 8 for i in hit) >= 3
        assert float(loss(baselines.lawa(problem(theta, 5, loss)).weights)) > 10 * float(
            loss(found.weights)
        )


def test_all_snapshots_or_one_leave_no_choice() -> None:
    theta = torch.randn(5, 7, generator=generator())
    loss = lambda w: w.square().sum(-1)  # noqa: E731
    whole = sewa(problem(theta, 5, loss))
    model, averaged = nn.Linear(7, 1, bias=False), None
    for w in theta:
        put(model, w)
        averaged = AveragedModel(model) if averaged is None else averaged
        averaged.update_parameters(model)
    assert averaged is not None
    torch.testing.assert_close(whole.weights, flat(averaged.module))
    torch.testing.assert_close(baselines.all_of_them(problem(theta, 2, loss)).weights,
                               whole.weights)  # fmt: skip
    assert sewa(problem(theta[-1:], 1, loss)).weights.equal(
        baselines.last(problem(theta, 1, loss)).weights
    )
    for K in (0, 6):
        with pytest.raises(ValueError, match="K is 1 to k = 5"):
            sewa(problem(theta, K, loss))


@pytest.mark.parametrize("method", SAME)
def test_of_equal_snapshots_every_method_returns_that_one(method: str) -> None:
    theta = torch.ones(6, 4)
    asked = replace(problem(theta, 2, lambda w: w.square().sum(-1), iterations=3), smooth=theta[0])
    torch.testing.assert_close(METHODS[method].way(asked).weights, theta[0])


def test_rules_are_pytorchs() -> None:
    theta = torch.randn(12, 6, generator=generator())
    asked = problem(theta, 4, lambda w: w.square().sum(-1))
    model = nn.Linear(6, 1, bias=False)
    put(model, theta[0])
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=False)
    lawa = AveragedModel(model)
    for i, w in enumerate(theta):
        put(model, w)
        ema.update_parameters(model)
        if i >= 8:
            lawa.update_parameters(model)
    torch.testing.assert_close(baselines.ema(asked).weights, flat(ema.module))
    torch.testing.assert_close(baselines.lawa(asked).weights, flat(lawa.module))
    assert baselines.swa(asked).chosen == (2, 5, 8, 11)
    chosen = [baselines.random(asked).chosen for _ in range(400)]
    counts = np.bincount(np.array(chosen).ravel(), minlength=12)
    assert all(len({*c}) == 4 for c in chosen) and counts.min() > 90


def test_those_that_look_find_what_is_better() -> None:
    theta = torch.randn(10, 5, generator=generator())
    loss = lambda w: (w - theta[3]).square().sum(-1)  # noqa: E731
    asked = problem(theta, 1, loss)
    assert baselines.search(asked).chosen == (3,) == baselines.greedy(asked).chosen
    centre = theta.mean(0)
    free = problem(theta, 3, lambda w: (w - centre - 0.3).square().sum(-1), lr=0.3, iterations=50)
    assert float(free.objective()(baselines.twa(free).weights)) < float(free.objective()(centre))
    assert baselines.twa(free).calls == 3 * 200
    few = problem(theta, 3, loss, iterations=10, samples=2)
    costly = replace(few, examples=6.0)
    assert baselines.search(costly).iterations == 10 == baselines.search(costly).calls / 6
    with pytest.raises(ValueError, match="no moving average"):
        baselines.ema_of_steps(few)


def test_learning_ends_early_when_it_is_decided() -> None:
    centre = torch.ones(20)
    theta = torch.cat([centre + 0.1 * torch.randn(3, 20, generator=generator()),
                       -20 * torch.ones(5, 20)])  # fmt: skip
    found = sewa(problem(theta, 3, lambda w: (w - centre).square().mean(-1), iterations=400))
    assert found.chosen == (0, 1, 2) and 50 <= found.iterations < 400
    assert found.probabilities is not None and gap_of(found.probabilities, found.chosen) > 0.3
    assert found.calls == 3 * 4 * found.iterations
    assert top(torch.tensor([1.0, 2.0, 2.0, 0.0]), 2) == (1, 2)


def test_what_is_returned_is_a_plain_mean() -> None:
    theta = torch.randn(8, 5, generator=generator())
    loss = lambda w: w.square().sum(-1)  # noqa: E731
    found = sewa(problem(theta, 3, loss))
    torch.testing.assert_close(found.weights, theta[list(found.chosen)].mean(0))
    mixed = METHODS["sewa-mixed"].way(problem(theta, 3, loss))
    torch.testing.assert_close(mixed.weights, 0.9 * found.weights + 0.1 * theta[-1])


# -- networks -------------------------------------------------------------------------------------


def small_work() -> Work:
    torch.manual_seed(0)
    model = resnet(1, (4, 4, 8), 3, (1,))
    x = torch.randn(40, 1, 8, 8, generator=generator())
    data = Plain((x, torch.randint(3, (40,), generator=generator(1))))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Work(model, data, data, data, classification, lambda m: {}, optimizer,
                constant(0.1), 16, CPU)  # fmt: skip


def test_a_vector_is_a_networks_weights() -> None:
    work = small_work()
    before, x = flat(work.model), work.train.take(torch.arange(4))[0]
    other = torch.randn_like(before)
    work.model.eval()
    plain = work.model(x)
    torch.testing.assert_close(called_with(work.model, before)(x), plain)
    found = called_with(work.model, other)(x)
    assert flat(work.model).equal(before)
    put(work.model, other)
    torch.testing.assert_close(work.model(x), found)
    assert sum(v.numel() for v in views(work.model, other).values()) == len(other)


def test_choosing_changes_neither_weights_nor_statistics() -> None:
    work = small_work()
    before = {name: value.clone() for name, value in work.model.state_dict().items()}
    theta = flat(work.model) + 0.1 * torch.randn(6, len(flat(work.model)), generator=generator())
    draw = generator(3)
    score = lambda w: work.score(work.train, w)  # noqa: E731
    objective = lambda: work.objective(work.train, draw)  # noqa: E731
    asked = Problem(theta, 2, objective, score, Selection(iterations=3), generator())
    found = sewa(asked)
    assert found.weights.isfinite().all()
    assert all(value.equal(before[name]) for name, value in work.model.state_dict().items())
    assert all(p.grad is None for p in work.model.parameters())


def test_statistics_are_taken_anew() -> None:
    work = small_work()
    put(work.model, 3 * flat(work.model))
    work.settle(work.train)
    norm = work.model[1]
    seen = work.model[0](work.train.take(torch.arange(40))[0])
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not work.model.training and norm.momentum == 0.1
    one = next(iter(work.batches(work.train, 40)))
    work.model(one[0])
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
