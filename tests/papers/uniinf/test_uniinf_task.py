"""The environments: tails, moments, phases, the assumption on i*, streams, regret, resumption."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad

from papers.uniinf import task
from papers.uniinf.methods import METHODS

ALPHAS = (1.3, 1.5, 1.8)


def pareto_integral(f, tail: float, points: tuple[float, ...] = ()) -> float:
    """E f(P) of the unit-mean Pareto variable, by quadrature over y = log(P / its minimum)."""
    least = (tail - 1) / tail
    cuts = sorted({0.0, *(math.log(p / least) for p in points if p > least), 380.0})
    decades = sorted({*cuts, *(c for c in np.linspace(0, 380, 77) if c not in cuts)})
    return sum(
        quad(lambda y: f(least * math.exp(y)) * tail * math.exp(-tail * y), a, b, limit=200)[0]
        for a, b in itertools.pairwise(decades)
    )


@pytest.mark.parametrize("alpha", ALPHAS)
def test_moments_of_the_loss_generator(alpha: float) -> None:
    tail = alpha + 0.05
    assert pareto_integral(lambda p: p, tail) == pytest.approx(1.0, rel=1e-8)
    closed = ((tail - 1) / tail) ** alpha * tail / (tail - alpha)
    assert task.absolute_moment(0.0, 1.0, alpha, tail) == pytest.approx(closed, rel=1e-10)
    assert task.absolute_moment(0.0, -2.0, alpha, tail) == pytest.approx(2**alpha * closed)
    by_quad = pareto_integral(lambda p: abs(0.7 - 0.3 * p) ** alpha, tail, (0.7 / 0.3,))
    assert task.absolute_moment(0.7, -0.3, alpha, tail) == pytest.approx(by_quad, rel=1e-6)


@pytest.mark.parametrize(
    ("alpha", "e1", "e2", "e3"),
    [
        (1.3, 1.3087, 3.2718, 1.1843),
        (1.5, 1.4007, 3.5016, 1.1652),
        (1.8, 1.3663, 3.4156, 1.0793),
    ],
)
def test_true_sigma(alpha: float, e1: float, e2: float, e3: float) -> None:
    for name, sigma in (("e1", e1), ("e2", e2), ("e3-s1", e3), ("e3-s20", 20 * e3)):
        env = task.make_env(name, alpha, 10_000)
        assert task.true_sigma(env, alpha) == pytest.approx(sigma, rel=5e-5)


@pytest.mark.parametrize("name", ["e1", "e2", "e3-s20", "e4"])
def test_losses_have_the_distribution_of_the_tables(name: str) -> None:
    alpha, n = 1.5, 20_000
    env = task.make_env(name, alpha, 10_000)
    loss_key, _ = task.stream_keys(7, env.stream)
    for phase in range(min(2, len(env.starts))):
        for arm in range(4):
            losses = np.array([task.draw_loss(env, loss_key, phase, t, arm) for t in range(1, n)])
            for q in (0.1, 0.5, 0.9, 0.99):  # medians and tails: the sample mean says nothing here
                p = (1 - q) ** (-1 / env.tail) * (env.tail - 1) / env.tail
                value = env.offset[phase, arm] + env.slope[phase, arm] * p
                if env.slope[phase, arm] == 0:
                    assert (losses == value).all()
                    continue
                below = np.mean((losses - value) * np.sign(env.slope[phase, arm]) < 0)
                assert abs(below - q) < 4.5 * math.sqrt(q * (1 - q) / n)


def test_means_of_the_environments() -> None:
    def means(name: str, horizon: int = 10_000) -> np.ndarray:
        env = task.make_env(name, 1.5, horizon)
        return env.slope + env.offset

    np.testing.assert_allclose(means("e1"), [[0.2, 0.4, 0.4, 0.4]])
    np.testing.assert_allclose(means("e1-k10"), [[0.2] + [0.4] * 9])
    np.testing.assert_allclose(means("e3-s1"), [[0.2, 0.4, 0.4, 0.4]])
    np.testing.assert_allclose(means("e3-s100"), [[20, 40, 40, 40]])
    np.testing.assert_allclose(means("e4"), [[0.2, 0.4, 0.6, 0.6], [0.6, 0.2, 0.6, 0.6]])
    np.testing.assert_allclose(means("e2")[:2], [[0.8, 1, 1, 1], [0, 0.2, 0.2, 0.2]])


def test_phases_of_e2() -> None:
    env = task.make_env("e2", 1.5, 3000)
    for t in range(1, 3001):
        n = 0
        while 1.6 ** (n + 1) <= t + 1:
            n += 1
        base = 0.0 if n % 2 == 0 else 0.8
        phase = task.phase_at(env.starts, t)
        np.testing.assert_allclose(
            (env.slope + env.offset)[phase], [base, base + 0.2, base + 0.2, base + 0.2]
        )
    np.testing.assert_allclose(env.gaps, np.tile([0, 0.2, 0.2, 0.2], (len(env.starts), 1)))
    assert len(env.starts) > 10


def test_best_fixed_arm_and_gaps_of_the_switch() -> None:
    env = task.make_env("e4", 1.5, 1000)
    assert env.best == 1
    np.testing.assert_array_equal(env.starts, [1, 501])  # t <= T/2, then after
    np.testing.assert_allclose(env.gaps, [[-0.2, 0, 0.2, 0.2], [0.4, 0, 0.4, 0.4]])
    assert [task.phase_at(env.starts, t) for t in (1, 500, 501, 1000)] == [0, 0, 1, 1]


@pytest.mark.parametrize("name", task.TASKS)
def test_truncated_non_negativity_of_the_best_arm(name: str) -> None:
    alpha = 1.5
    env = task.make_env(name, alpha, 10_000)

    def truncated(offset: float, slope: float, M: float) -> float:
        edges = [(sign * M - offset) / slope for sign in (-1, 1)] if slope else []
        return pareto_integral(
            lambda p: (offset + slope * p) * (abs(offset + slope * p) > M),
            env.tail,
            tuple(edge for edge in edges if edge > 0),
        )

    worst = {"best": math.inf, "other": math.inf}
    for phase in range(min(2, len(env.starts))):
        for arm in (env.best, (env.best + 1) % 4):
            for M in (0.0, 1.0, 50.0, 5000.0):
                value = truncated(env.offset[phase, arm], env.slope[phase, arm], M)
                who = "best" if arm == env.best else "other"
                worst[who] = min(worst[who], value)
    assert worst["best"] >= 0
    assert (worst["other"] < 0) == name.startswith("e3")  # there the assumption is used to the full


def test_uniforms() -> None:
    loss_key, action_key = task.stream_keys(0, 1)
    n = 20_000
    losses = np.array([[task.loss_uniform(loss_key, t, a) for a in (0, 1)] for t in range(n)])
    actions = np.array([task.action_uniform(action_key, t) for t in range(n)])
    other_seed = np.array([task.action_uniform(task.stream_keys(1, 1)[1], t) for t in range(n)])
    other_env = np.array([task.action_uniform(task.stream_keys(0, 2)[1], t) for t in range(n)])
    columns = np.column_stack([losses, actions, other_seed, other_env])
    assert ((columns > 0) & (columns < 1)).all()
    grid = np.arange(1, n + 1) / n
    for column in columns.T:  # Kolmogorov–Smirnov; 1.95/sqrt(n) is exceeded once in a thousand
        assert np.abs(np.sort(column) - grid).max() < 1.95 / math.sqrt(n)
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 4 / math.sqrt(n)
    correlations = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 4 / math.sqrt(n)


def recorded(name: str, env: task.Bandit, n_rounds: int) -> list[tuple[int, float]]:
    """(arm, loss) of each round of a method, read off its tables one round at a time."""
    K = env.slope.shape[1]
    m, known = METHODS[name], task.Known(float(n_rounds), 1.3, 1.5)
    state, tally = m.new_state(K), np.zeros(3)
    played = []
    loss_key, _ = task.stream_keys(0, env.stream)
    for t in range(1, n_rounds + 1):
        before = state[0].copy() if name != "robust_ucb" else state[0][1].copy()
        m.simulate(env, known, 0, t - 1, t, state, tally)
        after = state[0] if name != "robust_ucb" else state[0][1]
        moved = np.flatnonzero(after != before)
        if len(moved):
            arm = int(moved[0])
            played.append((arm, t, after[arm] - before[arm]))
    return [(arm, t, gain, task.draw_loss(env, loss_key, 0, t, arm)) for arm, t, gain in played]


def test_methods_meet_the_same_losses() -> None:
    """What UCB1 adds to an arm's sum is the loss that the table holds there, for any actions."""
    env = task.make_env("e1", 1.5, 200)
    ucb = recorded("ucb1", env, 200)
    assert len(ucb) == 200
    for _, _, gain, loss in ucb:
        assert gain == pytest.approx(loss, rel=1e-9, abs=1e-9)
    tsallis = recorded("tsallis_inf", env, 200)
    assert [arm for arm, *_ in tsallis] != [arm for arm, *_ in ucb]
    for _, _, gain, loss in tsallis:  # importance weighted: at least the loss, of its sign
        assert gain >= loss > 0
    # first round, uniform play: weighted by exactly K
    assert tsallis[0][2] == pytest.approx(4 * tsallis[0][3])


@pytest.mark.parametrize("name", list(METHODS))
def test_chunks_change_nothing(name: str) -> None:
    env = task.make_env("e2", 1.3, 6000)
    m = METHODS[name]
    known = task.Known(6000.0, task.true_sigma(env, 1.3), 1.3)
    whole, tally = m.new_state(4), np.zeros(3)
    m.simulate(env, known, 3, 0, 6000, whole, tally)
    parts, tally_parts, t = m.new_state(4), np.zeros(3), 0
    for until in (1, 2, 777, 778, 4000, 6000):
        parts = tuple(np.array(a.tolist()) for a in parts)  # through numbers, as a checkpoint does
        m.simulate(env, known, 3, t, until, parts, tally_parts)
        t = until
    np.testing.assert_array_equal(tally, tally_parts)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)
    other, tally_other = m.new_state(4), np.zeros(3)
    m.simulate(env, known, 4, 0, 6000, other, tally_other)
    assert not np.array_equal(whole[0], other[0])  # another seed, other numbers


def test_regret_is_counted_from_means() -> None:
    """All losses are huge and random, all means differ by 0.2: regret is 0.2 per wrong pull."""
    env = task.make_env("e1", 1.3, 5000)
    for name in ("uniinf", "ucb1"):
        m = METHODS[name]
        state, tally = m.new_state(4), np.zeros(3)
        m.simulate(env, task.Known(5000.0, 1.3, 1.3), 0, 0, 5000, state, tally)
        wrong = 5000 - tally[task.BEST_PULLS]
        assert 0 < wrong < 5000
        assert tally[task.REGRET] == pytest.approx(0.2 * wrong, rel=1e-9)


def test_checkpoints() -> None:
    rounds = task.checkpoints(1_000_000)
    assert len(rounds) == 25
    assert rounds[0] == 100
    assert rounds[-1] == 1_000_000
    assert 100_000 in rounds
    assert np.ptp(np.diff(np.log(rounds))) < 0.01
    for horizon in (1, 50, 1000, 12345, 10_000_000):
        rounds = task.checkpoints(horizon)
        assert rounds[-1] == horizon
        assert rounds[0] >= 1
        assert rounds == sorted(set(rounds))


def test_bad_environments_are_refused_in_one_line() -> None:
    from common.errors import UserError

    with pytest.raises(UserError, match="e3-s20"):
        task.make_env("e3-s2", 1.5, 100)
    with pytest.raises(UserError, match="alpha"):
        task.make_env("e1", 2.5, 100)
