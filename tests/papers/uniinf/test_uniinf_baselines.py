"""The baselines against their definitions, each written a second time in plain NumPy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
from scipy.optimize import brentq

from papers.uniinf import baselines, task
from papers.uniinf.methods import METHODS

CHECKED = ("htinf", "opttinf", "adatinf", "tsallis_inf", "robust_ucb", "ucb1")


def play(name: str, env: task.Bandit, known: task.Known, seed: int, n_rounds: int) -> tuple:
    """State and tally of a method after n rounds."""
    m = METHODS[name]
    state, tally = m.new_state(env.slope.shape[1]), np.zeros(len(task.TALLY))
    m.simulate(env, known, seed, 0, n_rounds, state, tally)
    return state, tally


def trace(env: task.Bandit, seed: int, n_rounds: int, choose: Callable, learn: Callable) -> list:
    """Play a plain-Python learner; returns its actions."""
    loss_key, action_key = task.stream_keys(seed, env.stream)
    actions = []
    for t in range(1, n_rounds + 1):
        arm = choose(t, task.action_uniform(action_key, t))
        phase = int(np.searchsorted(env.starts, t, side="right")) - 1
        learn(t, arm, task.draw_loss(env, loss_key, phase, t, arm))
        actions.append(arm)
    return actions


def tsallis_root(L: np.ndarray, inverse_rate: float, q: float) -> np.ndarray:
    """x_i = ((L_i - z)/inverse_rate)^-q by Brent's method on the bracket of z."""
    L = L - L.min()
    K = len(L)
    z = brentq(
        lambda z: (((L - z) / inverse_rate) ** -q).sum() - 1,
        -inverse_rate * K ** (1 / q) * (1 + 1e-12),
        -inverse_rate * (1 - 1e-12),
        xtol=1e-13 * inverse_rate,
    )
    x = ((L - z) / inverse_rate) ** -q
    return x / x.sum()


@pytest.mark.parametrize("alpha", [1.1, 1.3, 1.5, 1.8, 2.0])
def test_tsallis_ftrl_satisfies_kkt(alpha: float) -> None:
    rng = np.random.default_rng(int(10 * alpha))
    for _ in range(200):
        L, inverse_rate = rng.normal(size=5) * 10 ** rng.uniform(-1, 4), 10 ** rng.uniform(0, 3)
        x, warm = np.empty(5), np.empty(5)
        _, steps = baselines.tsallis_ftrl(L, inverse_rate, alpha, 0.0, x)
        assert steps <= 12
        assert x.sum() == pytest.approx(1, abs=1e-14)
        # stationarity of <L, x> + Psi(x) / eta: L_i - x_i^(1/alpha - 1) / eta is the same for all
        z = L - inverse_rate * x ** (1 / alpha - 1)
        assert np.ptp(z) < 1e-8 * (inverse_rate + np.ptp(L))
        baselines.tsallis_ftrl(L, inverse_rate, alpha, inverse_rate * 1e3, warm)
        np.testing.assert_allclose(warm, x, rtol=1e-9)
        if alpha == 2.0:
            baselines.tsallis_half_ftrl(L, inverse_rate, 0.0, warm)
            np.testing.assert_allclose(warm, x, rtol=1e-9)


def test_skipping_constant() -> None:
    assert baselines.skipping_constant(2.0) == pytest.approx(1 - 2 ** (-1 / 3))
    assert pytest.approx(1 - 2 ** (-1 / 3)) == baselines.THETA_2
    # alpha = 1.5: min{1 - 2^(-1/4), (2/3)^2}; alpha = 1.1: (2/11)^(10/9) = 0.1504 is the larger
    assert baselines.skipping_constant(1.5) == pytest.approx(1 - 2**-0.25)
    assert baselines.skipping_constant(1.1) == pytest.approx(
        min(1 - 2 ** (-0.1 / 1.2), (2 - 2 / 1.1) ** (1 / 0.9))
    )


@pytest.mark.parametrize("task_name", ["e1", "e2"])
@pytest.mark.parametrize("name", ["htinf", "opttinf", "tsallis_inf"])
def test_tsallis_family_against_its_definition(name: str, task_name: str) -> None:
    n_rounds, alpha = 400, 1.5
    env = task.make_env(task_name, alpha, 10_000)
    sigma = task.true_sigma(env, alpha)
    state, tally = play(name, env, task.Known(1e4, sigma, alpha), 3, n_rounds)
    if name != "htinf":
        sigma, alpha = 1.0, 2.0
    L, memory = np.zeros(4), {"skipped": 0}

    def choose(t: int, u: float) -> int:
        memory["x"] = tsallis_root(L, sigma * t ** (1 / alpha), alpha / (alpha - 1))
        return min(int(np.searchsorted(np.cumsum(memory["x"]), u)), 3)

    def learn(t: int, arm: int, loss: float) -> None:
        x = memory["x"][arm]
        theta = 1 - 2 ** (-(alpha - 1) / (2 * alpha - 1))
        if name != "tsallis_inf" and abs(loss) > theta * sigma * t ** (1 / alpha) * x ** (
            1 / alpha
        ):
            memory["skipped"] += 1
        else:
            L[arm] += loss / x

    actions = trace(env, 3, n_rounds, choose, learn)
    np.testing.assert_allclose(state[0], L, rtol=1e-5)
    assert tally[task.SKIPPED] == memory["skipped"]
    assert (memory["skipped"] > 0) == (name != "tsallis_inf")
    assert tally[task.BEST_PULLS] == np.sum(np.array(actions) == env.best)


def test_opttinf_is_htinf_with_alpha_2_and_sigma_1() -> None:
    env = task.make_env("e1", 1.5, 10_000)
    optimistic, a = play("opttinf", env, task.Known(1e4, 9.0, 1.2), 1, 1000)
    plain, b = play("htinf", env, task.Known(1e4, 1.0, 2.0), 1, 1000)
    np.testing.assert_allclose(optimistic[0], plain[0], rtol=1e-5)
    np.testing.assert_array_equal(a, b)


def test_adatinf_against_its_definition() -> None:
    n_rounds, horizon = 500, 500
    env = task.make_env("e3-s20", 1.3, horizon)
    state, tally = play("adatinf", env, task.Known(float(horizon), 1.0, 2.0), 2, n_rounds)
    L, memory, J, spent, skipped, jumps = np.zeros(4), {}, 0, 0.0, 0, []

    def choose(t: int, u: float) -> int:
        memory["x"] = tsallis_root(L, 2**J * math.sqrt(t), 2.0)
        return min(int(np.searchsorted(np.cumsum(memory["x"]), u)), 3)

    def learn(t: int, arm: int, loss: float) -> None:
        nonlocal J, spent, skipped
        x = memory["x"][arm]
        if abs(loss) <= 2**J * (1 - 2 ** (-1 / 3)) * math.sqrt(t) * math.sqrt(x):
            L[arm] += loss / x
            cost = 2 / (2**J * math.sqrt(t)) * x**-0.5 * loss**2
        else:
            skipped += 1
            cost = abs(loss)
        spent += cost
        if 2**J * math.sqrt(4 * (horizon + 1)) < spent:
            after = max(J + 1, math.ceil(math.log2(cost / math.sqrt(4 * (horizon + 1)))) + 1)
            jumps.append(after - J)
            J, spent = after, 0.0

    trace(env, 2, n_rounds, choose, learn)
    np.testing.assert_allclose(state[0], L, rtol=1e-5)
    np.testing.assert_allclose(state[1][1:], [J, spent], rtol=1e-5)
    assert tally[task.SKIPPED] == skipped > 0
    assert len(jumps) >= 2


def test_doubling_by_hand() -> None:
    assert baselines.doubling(2.0, 30.0, 9.0, 10.0) == (2.0, 39.0)  # 39 <= 4·10
    assert baselines.doubling(2.0, 30.0, 10.0, 10.0) == (2.0, 40.0)  # equality stays
    assert baselines.doubling(2.0, 30.0, 11.0, 10.0) == (3.0, 0.0)
    # a cost of 1000 jumps over several: ceil(log2(1000/10)) + 1 = 8
    assert baselines.doubling(0.0, 0.0, 1000.0, 10.0) == (8.0, 0.0)


@pytest.mark.parametrize(("task_name", "alpha"), [("e1", 1.3), ("e3-s100", 1.5)])
def test_robust_ucb_truncates_every_sample_anew_at_each_round(task_name: str, alpha: float) -> None:
    n_rounds = 1200
    env = task.make_env(task_name, alpha, n_rounds)
    # a third of the true scale: more truncations and departures than the true one would bring
    sigma = task.true_sigma(env, alpha) / 3
    state, tally = play("robust_ucb", env, task.Known(float(n_rounds), sigma, alpha), 4, n_rounds)
    seen: list[list[float]] = [[], [], [], []]
    left = {"late": 0}

    def mean(i: int, t: int) -> float:
        x, s = np.array(seen[i]), np.arange(1, len(seen[i]) + 1)
        with np.errstate(divide="ignore"):
            kept = np.abs(x) <= (sigma**alpha * s / np.log(float(t) ** 2)) ** (1 / alpha)
        return x[kept].sum() / len(x)

    def choose(t: int, u: float) -> int:
        index = [
            -math.inf
            if not seen[i]
            else mean(i, t) - 4 * sigma * (math.log(t**2) / len(seen[i])) ** ((alpha - 1) / alpha)
            for i in range(4)
        ]
        return int(np.argmin(index))

    def learn(t: int, arm: int, loss: float) -> None:
        seen[arm].append(loss)
        s = len(seen[arm])
        end = s * sigma**alpha / (2 * abs(loss) ** alpha)
        left["late"] += math.log(t) < end < math.log(n_rounds)

    actions = trace(env, 4, n_rounds, choose, learn)
    assert tally[task.BEST_PULLS] == actions.count(env.best)
    np.testing.assert_array_equal(state[0][1], [len(samples) for samples in seen])
    assert left["late"] > 3  # some samples were kept first and truncated later
    for i in range(4):
        _, ours = state[0][1][i], state[0][0][i]
        pending = state[1][i][: int(state[0][3][i])] < n_rounds  # left in the very last round
        ours -= state[2][i][: int(state[0][3][i])][pending].sum()
        assert ours / len(seen[i]) == pytest.approx(mean(i, n_rounds), abs=1e-9)


def test_robust_ucb_says_when_sigma_is_false() -> None:
    env = task.make_env("e1", 1.3, 1_000_000)
    with pytest.raises(RuntimeError, match="than sigma allows"):
        play("robust_ucb", env, task.Known(1e300, 0.05, 1.3), 0, 50_000)


def test_ucb1_against_its_definition() -> None:
    env = task.make_env("e4", 1.8, 1500)
    state, tally = play("ucb1", env, task.Known(1500.0, 1.0, 2.0), 0, 1500)
    sums, pulls = np.zeros(4), np.zeros(4)

    def choose(t: int, u: float) -> int:
        with np.errstate(all="ignore"):
            index = sums / pulls - np.sqrt(2 * np.log(t) / pulls)
        return int(np.argmin(np.where(pulls == 0, -np.inf, index)))

    def learn(t: int, arm: int, loss: float) -> None:
        sums[arm] += loss
        pulls[arm] += 1

    trace(env, 0, 1500, choose, learn)
    np.testing.assert_allclose(state[0], sums)
    np.testing.assert_array_equal(state[1], pulls)
    assert tally[task.SKIPPED] == 0


def test_tsallis_inf_against_smpybandits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rule, (eta (L - z))^-2 with eta = 1/sqrt(t), is 4/(eta' (L - z))^2 at eta' = 2 eta.

    Its FTRL step alone is compared: it weights losses by probabilities that its parent class has
    altered before, a fault of its own.
    """
    # a function that it imports and SciPy has dropped, under its new name
    monkeypatch.setattr(scipy.special, "btdtri", scipy.special.betaincinv, raising=False)
    policies = pytest.importorskip("SMPyBandits.Policies", exc_type=Exception)
    policy = policies.TsallisInf(4)
    policy.startGame()
    rng = np.random.default_rng(0)
    compared = 0
    for t in range(1, 200):
        policy.getReward(t % 4, rng.uniform())
        x = np.empty(4)
        baselines.tsallis_half_ftrl(policy.cumulative_losses, math.sqrt(policy.t), 0.0, x)
        z = policy.cumulative_losses - math.sqrt(policy.t) / np.sqrt(policy.weights)
        if np.ptp(z) < 1e-3:  # its general minimiser found a root at all
            compared += 1
            np.testing.assert_allclose(policy.weights, x, atol=2e-3)
    assert compared > 20


@pytest.mark.parametrize("name", CHECKED)
def test_what_blind_methods_are_told_does_not_matter(name: str) -> None:
    env = task.make_env("e1", 1.5, 2000)
    ends = [
        play(name, env, task.Known(2000.0, sigma, alpha), 1, 2000)[1]
        for sigma, alpha in ((1.4, 1.5), (0.7, 1.8))
    ]
    same = np.array_equal(*ends)
    assert same == (name not in ("htinf", "robust_ucb"))
    assert (METHODS[name].role == "reference") == (not same)
