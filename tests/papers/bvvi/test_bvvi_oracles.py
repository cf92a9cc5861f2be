"""Planning and evaluation against everything that can be enumerated or is known in closed form."""

import itertools
import math

import numpy as np
import pytest

from papers.bvvi import baselines, bench, method, task
from papers.bvvi.task import POMDP

GAMMAS = (-2.0, -0.5, 0.5, 2.0)
BOTH = (method.NEXT, method.SELF)


def histories(model: POMDP, h: int) -> list[tuple[int, ...]]:
    """Histories of level h (from 0) in the order of their numbers."""
    H, A, _, _ = model.T.shape
    n_obs = model.O.shape[2]
    return list(itertools.product(*([range(n_obs)] + [range(A), range(n_obs)] * h)))


def policy_of(model: POMDP, flat: np.ndarray) -> dict[tuple[int, ...], int]:
    """A flat policy by history."""
    names = [f for h in range(len(model.T)) for f in histories(model, h)]
    return dict(zip(names, flat.tolist(), strict=True))


def J_by_trajectories(model: POMDP, gamma: float, policy: dict[tuple[int, ...], int]) -> float:
    """(1/gamma) log of the sum over all state and observation sequences."""
    H, _, S, _ = model.T.shape
    n_obs, total = model.O.shape[2], 0.0
    for states in itertools.product(range(S), repeat=H):
        for seen in itertools.product(range(n_obs), repeat=H):
            f, p, reward = (seen[0],), model.mu[states[0]] * model.O[0, states[0], seen[0]], 0.0
            for h in range(H):
                a = policy[f]
                reward += model.r[h, states[h], a]
                if h < H - 1:
                    p *= model.T[h, a, states[h], states[h + 1]]
                    p *= model.O[h + 1, states[h + 1], seen[h + 1]]
                    f = (*f, a, seen[h + 1])
            total += p * math.exp(gamma * reward)
    return math.log(total) / gamma


def some_policy(model: POMDP, seed: int) -> np.ndarray:
    """A random deterministic policy [F]."""
    rng = np.random.default_rng(seed)
    F = task.level_starts(model)[-1]
    return rng.integers(model.T.shape[1], size=F).astype(np.int8)


# -- known numbers --------------------------------------------------------------------------------


def test_exact_optima() -> None:
    """Values worked out twice by independent programs."""
    off, gamble = task.off(), task.gamble()
    for gamma, value in {
        -5.0: 2.657712,
        -3.0: 3.173605,
        -1.0: 3.729236,
        0.01: 3.847896,
        1.0: 3.905052,
        3.0: 3.953620,
        5.0: 3.971163,
    }.items():
        assert method.solve(off, gamma).value == pytest.approx(value, abs=5e-7)
        assert method.solve(task.fully_observed(off), gamma).value == pytest.approx(4, abs=1e-12)
    for gamma, value, blind in (
        (-3.0, 1.6, 1.6),
        (-1.0, 1.789941, 1.6),
        (1.0, 2.610564, 2.602470),
        (3.0, 2.962932, 2.962932),
    ):
        assert method.solve(gamble, gamma).value == pytest.approx(value, abs=5e-7)
        uniform = task.with_emission(gamble, np.full((3, 3), 1 / 3))
        assert method.solve(uniform, gamma).value == pytest.approx(blind, abs=5e-7)
        assert method.solve(task.blind(gamble), gamma).value == pytest.approx(blind, abs=5e-7)
    exact = baselines.exact_values(gamble, -3.0)
    assert exact["j_risk_neutral"] == pytest.approx(1.2191, abs=5e-5)
    assert baselines.exact_values(gamble, 1.0)["j_risk_neutral"] == pytest.approx(2.5448, abs=5e-5)


# -- 1, 2: evaluation -----------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
def test_J_is_the_sum_over_trajectories(gamma: float) -> None:
    for seed, sizes in enumerate([(2, 2, 2, 2), (2, 2, 2, 2), (3, 2, 2, 3), (2, 3, 3, 2)]):
        model = task.random_pomdp(seed, *sizes)
        flat = some_policy(model, seed)
        by_hand = J_by_trajectories(model, gamma, policy_of(model, flat))
        assert task.exact_J(model, gamma, flat) == pytest.approx(by_hand, abs=1e-12)
        planned = method.solve(model, gamma)
        by_hand = J_by_trajectories(model, gamma, policy_of(model, planned.policy))
        assert planned.value == pytest.approx(by_hand, abs=1e-12)


def test_J_is_what_rollouts_average_to() -> None:
    model = task.random_pomdp(0)
    flat, starts, n = some_policy(model, 3), task.level_starts(model), 200_000
    H, rng = len(model.T), np.random.default_rng(0)
    uniforms = rng.random((n, H + 1, 2))
    s, o, a = (np.empty((n, m), np.int64) for m in (H + 1, H + 1, H))
    for of_an_episode in zip(uniforms, s, o, a, strict=True):
        task.rollout(model, flat, starts, *of_an_episode)
    returns = model.r[range(H), s[:, :H], a].sum(axis=1)
    for gamma in (-1.0, 1.0):
        J = math.log(np.exp(gamma * returns).mean()) / gamma
        assert task.exact_J(model, gamma, flat) == pytest.approx(J, abs=5e-3)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_inner_products_of_sigma_and_beta_are_a_martingale(gamma: float) -> None:
    """(1/O^h) times the sum over reachable f_h of <sigma, beta> is e^(gamma J) at every level."""
    model = task.random_pomdp(2)
    H, n_obs = len(model.T), model.O.shape[2]
    planned, starts = method.solve(model, gamma), task.level_starts(model)
    policy = policy_of(model, planned.policy)
    products = (planned.sigma * planned.beta).sum(1)
    for h in range(H):
        reached = [
            i
            for i, f in enumerate(histories(model, h))
            if all(policy[f[: j - 1]] == f[j - 1] for j in range(2, len(f), 2))
        ]
        assert len(reached) == n_obs ** (h + 1)
        total = products[starts[h] + np.array(reached)].sum() / n_obs ** (h + 1)
        assert math.log(total) / gamma == pytest.approx(planned.value, abs=1e-13)
        if h == H - 1:  # the level behind the last: the sum of sigma_(H+1), averaged over o
            last = planned.sigma[starts[h] + np.array(reached)]
            actions = planned.policy[starts[h] + np.array(reached)]
            moved = (np.exp(gamma * model.r[h][:, actions]).T * last).sum() / n_obs**H
            assert math.log(moved) / gamma == pytest.approx(planned.value, abs=1e-13)


def test_sigma_is_a_change_of_measure() -> None:
    """sigma_h(f)[s] is O^h times the joint weight of observations, state and e^(gamma reward)."""
    model, gamma = task.random_pomdp(4), 0.7
    planned = method.solve(model, gamma)
    starts, n_obs = task.level_starts(model), model.O.shape[2]
    f = (1, 0, 0, 1, 1)  # o_1, a_1, o_2, a_2, o_3
    weight = np.zeros(3)
    for s in itertools.product(range(3), repeat=3):
        p = model.mu[s[0]] * model.O[0, s[0], f[0]]
        p *= model.T[0, f[1], s[0], s[1]] * model.O[1, s[1], f[2]]
        p *= model.T[1, f[3], s[1], s[2]] * model.O[2, s[2], f[4]]
        weight[s[2]] += p * math.exp(gamma * (model.r[0, s[0], f[1]] + model.r[1, s[1], f[3]]))
    i = starts[2] + histories(model, 2).index(f)
    np.testing.assert_allclose(planned.sigma[i], n_obs**3 * weight, rtol=1e-13)


# -- planning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
def test_planning_is_the_best_of_all_policy_trees(gamma: float) -> None:
    for number in range(task.N_RANDOM):
        model = task.random_pomdp(number)
        J, _ = baselines.best_policy_tree(model, gamma)
        assert method.solve(model, gamma).value == pytest.approx(J, abs=1e-12)


def test_policy_trees_are_all_policies() -> None:
    """The enumeration itself, against evaluating every map from observations to actions."""
    model, gamma = task.random_pomdp(0, 2, 2, 2, 2), -1.5
    nodes = [f for h in (1, 2) for f in itertools.product(range(2), repeat=h)]
    assert baselines.tree_nodes(model) == len(nodes)
    best = -math.inf
    for actions in itertools.product(range(2), repeat=len(nodes)):
        tree = dict(zip(nodes, actions, strict=True))
        policy = {f: tree[f[::2]] for h in range(2) for f in histories(model, h)}
        best = max(best, J_by_trajectories(model, gamma, policy))
    assert baselines.best_policy_tree(model, gamma)[0] == pytest.approx(best, abs=1e-13)
    with pytest.raises(ValueError, match="too many"):
        baselines.best_policy_tree(task.off(), 1.0)


@pytest.mark.parametrize("gamma", [-3.0, 1.0])
def test_plan_is_the_algorithm_line_by_line(gamma: float) -> None:
    """With bonus and clip, the terminal level and all: lines 3 to 9 in plain Python."""
    model, bonus = bench.an_estimate(120)
    policy, beta, value = bench.plain_plan(model, gamma, bonus)
    ours = method.solve(model, gamma, bonus=bonus)
    assert ours.value == pytest.approx(value, abs=1e-12)
    names = [f for h in range(4) for f in histories(model, h)]
    assert [policy[f] for f in names] == ours.policy.tolist()
    np.testing.assert_allclose([beta[f] for f in names], ours.beta, rtol=1e-11)
    by_level, level_value = bench.level_plan(model, gamma, bonus)
    assert np.concatenate(by_level).tolist() == ours.policy.tolist()
    assert level_value == pytest.approx(value, abs=1e-12)


def neutral_optimum(model: POMDP, h: int, belief: np.ndarray) -> float:
    """Risk-neutral value by recursion over normalised beliefs."""
    H, A, _, _ = model.T.shape
    best = -math.inf
    for a in range(A):
        value = belief @ model.r[h, :, a]
        if h < H - 1:
            ahead = belief @ model.T[h, a]
            for o in range(model.O.shape[2]):
                joint = ahead * model.O[h + 1][:, o]
                value += joint.sum() * neutral_optimum(model, h + 1, joint / joint.sum())
        best = max(best, value)
    return best


@pytest.mark.parametrize("sign", [-1, 1])
def test_small_gamma_is_the_ordinary_pomdp(sign: int) -> None:
    gamma = sign * 1e-6
    for model in (*map(task.random_pomdp, range(task.N_RANDOM)), task.gamble(), task.off()):
        first = [model.mu * model.O[0][:, o] for o in range(model.O.shape[2])]
        optimum = sum(
            p.sum() * neutral_optimum(model, 0, p / p.sum()) for p in first if p.sum() > 0
        )
        planned = method.solve(model, gamma)
        assert planned.value == pytest.approx(optimum, abs=1e-5)
        # (beta - 1) / gamma tends to the alpha vectors: at the last step, the rewards
        last = task.level_starts(model)[-2]
        alpha = model.r[-1][:, planned.policy[last:]].T
        np.testing.assert_allclose((planned.beta[last:] - 1) / gamma, alpha, atol=1e-5)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_observed_states_are_an_mdp(gamma: float) -> None:
    for number in range(3):
        model = task.fully_observed(task.random_pomdp(number))
        ahead = np.ones(3)
        for h in reversed(range(len(model.T))):
            Q = np.exp(gamma * model.r[h]) * np.einsum("ast,t->sa", model.T[h], ahead)
            ahead = Q.max(1) if gamma > 0 else Q.min(1)
        value = math.log(model.mu @ ahead) / gamma
        assert method.solve(model, gamma).value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_blind_planning_is_the_best_sequence_of_actions(gamma: float) -> None:
    model = task.blind(task.random_pomdp(1, horizon=4))
    values = []
    for actions in itertools.product(range(2), repeat=4):
        w = model.mu
        for h, a in enumerate(actions):
            w = (np.exp(gamma * model.r[h, :, a]) * w) @ model.T[h, a]
        values.append(math.log(w.sum()) / gamma)
    assert method.solve(model, gamma).value == pytest.approx(max(values), abs=1e-12)


def test_without_chance_risk_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    eye = np.eye(3)
    model = task.pomdp(
        eye[1],
        eye[rng.integers(3, size=(3, 2, 3))],
        np.eye(2)[rng.integers(2, size=(4, 3))],
        rng.uniform(size=(3, 3, 2)),
    )
    flat = some_policy(model, 1)
    J = [task.exact_J(model, gamma, flat) for gamma in (-4.0, -0.1, 0.1, 4.0)]
    np.testing.assert_allclose(J, J[0], atol=1e-12)
    spread = task.pomdp(np.full(3, 1 / 3), model.T, model.O, model.r)  # chance in the first state
    assert task.exact_J(spread, 4.0, flat) > task.exact_J(spread, -4.0, flat) + 1e-3


def test_random_actions() -> None:
    """The closed recursion is the average over all histories' actions."""
    model, gamma = task.random_pomdp(0, 2, 2, 2, 2), 1.5
    total = 0.0
    for actions in itertools.product(range(2), repeat=2):  # blind sequences, all as likely
        w = model.mu
        for h, a in enumerate(actions):
            w = (np.exp(gamma * model.r[h, :, a]) * w) @ model.T[h, a]
        total += w.sum() / 4
    assert baselines.random_value(model, gamma) == pytest.approx(math.log(total) / gamma)


def test_ignoring_the_first_observation() -> None:
    """It is the best policy that does not depend on o_1, worse unless mu is a point mass."""
    for number, worse in ((0, True), (1, False)):
        model = task.random_pomdp(number)
        planned = method.solve(model, 0.5, exact_first=False)
        blinded = task.pomdp(
            model.mu, model.T, np.concatenate([np.full((1, 3, 2), 0.5), model.O[1:]]), model.r
        )
        J = task.exact_J(model, 0.5, planned.policy)
        assert J == pytest.approx(baselines.best_policy_tree(blinded, 0.5)[0], abs=1e-12)
        assert planned.value == pytest.approx(J, abs=1e-12)
        assert (method.solve(model, 0.5).value > J + 1e-3) == worse
    point = task.gamble()
    for gamma in (-1.0, 1.0):
        same = method.solve(point, gamma, exact_first=False)
        J = task.exact_J(point, gamma, same.policy)
        assert J == pytest.approx(method.solve(point, gamma).value, abs=1e-12)


# -- bonus, range, optimism -----------------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
def test_beta_stays_in_its_range_without_clipping(gamma: float) -> None:
    """With no bonus the clip does nothing: beta is the plain recursion, and that is in range."""
    model = task.random_pomdp(3)
    planned, (_, beta, _) = method.solve(model, gamma), bench.plain_plan(model, gamma, 0 * model.r)
    starts = task.level_starts(model)
    for h in range(3):
        low, high = sorted((1.0, math.exp(gamma * (3 - h))))
        level = planned.beta[starts[h] : starts[h + 1]]
        assert (level > low - 1e-12).all()
        assert (level < high + 1e-12).all()
        for f, b in zip(histories(model, h), level, strict=True):
            a = policy_of(model, planned.policy)[f]
            ahead = np.ones(3)
            if h < 2:
                ahead = sum(model.O[h + 1][:, o] * beta[(*f, a, o)] for o in range(2))
            plain = np.exp(gamma * model.r[h, :, a]) * (model.T[h, a] @ ahead)
            np.testing.assert_allclose(b, plain, rtol=1e-12)


def synthetic(model: POMDP, n: int, seed: int) -> tuple[POMDP, tuple]:
    """Counts of n visits of every pair, and the estimate."""
    rng = np.random.default_rng(seed)
    counts = tuple(rng.multinomial(n, kernel).astype(float) for kernel in model[:3])
    estimate = POMDP(*(np.empty_like(x) for x in model[:3]), model.r)
    method.estimate(estimate, counts)
    return estimate, counts


def test_bonus_by_hand() -> None:
    model, counts = task.off(), method.new_counts(task.off())
    iota, gamma, c = method.iota(model, 2000), -1.5, 0.1
    assert iota == pytest.approx(math.log(2000 * 4 * 3 * 3 * 2 / 0.2))
    counts[1][1, 0, 2] = [3, 4, 0]
    counts[2][2, 0], counts[2][2, 1] = [100, 20, 1], [400, 0, 0]
    estimate = POMDP(*(np.empty_like(x) for x in model[:3]), model.r)
    method.estimate(estimate, counts)
    t = min(1, 3 * c * math.sqrt(3 * 4 * iota / 7))
    o = [min(1, 3 * c * math.sqrt(3 * 4 * iota / n)) for n in (121, 400, 1)]
    size = abs(math.exp(gamma * 3) - 1)  # H - h + 1 = 3 steps are left at h = 2
    b = method.bonuses(estimate, counts, gamma, c, iota)
    assert b[1, 2, 0] == pytest.approx(size * min(1, t + 3 / 7 * o[0] + 4 / 7 * o[1]))
    assert b[0, 0, 0] == pytest.approx(abs(math.exp(gamma * 4) - 1))  # never visited


@pytest.mark.parametrize("gamma", [-2.0, 2.0])
def test_bonus_falls_with_the_counts_and_stays_in_its_range(gamma: float) -> None:
    model = task.random_pomdp(0)
    estimate, counts = synthetic(model, 100, 0)
    last = np.full(model.r.shape, np.inf)
    for factor in (0.01, 1, 10, 1e3, 1e6):
        b = method.bonuses(estimate, tuple(factor * n for n in counts), gamma, 1.0, 12.0)
        assert (b <= last).all()
        assert (b >= 0).all()
        assert all((b[h] <= abs(math.exp(gamma * (3 - h)) - 1) + 1e-12).all() for h in range(3))
        last = b
    assert last.max() < 0.05 * math.exp(6)


@pytest.mark.parametrize("q_bonus", BOTH)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_infinite_data_mean_no_regret(gamma: float, q_bonus: int) -> None:
    for number in range(3):
        model = task.random_pomdp(number)
        n = 1e30
        counts = (n * model.mu, n * model.T, n * model.O)
        estimate = POMDP(*(np.empty_like(x) for x in model[:3]), model.r)
        method.estimate(estimate, counts)
        bonus = method.bonuses(estimate, counts, gamma, 1.0, 12.0)
        planned = method.solve(estimate, gamma, bonus=bonus, q_bonus=q_bonus)
        best = method.solve(model, gamma).value
        assert task.exact_J(model, gamma, planned.policy) == pytest.approx(best, abs=1e-10)
        assert planned.value == pytest.approx(best, abs=1e-9)
        no_bonus = method.solve(estimate, gamma, q_bonus=q_bonus)
        assert task.exact_J(model, gamma, no_bonus.policy) == pytest.approx(best, abs=1e-10)


@pytest.mark.parametrize("c", [1.0, 0.02])
@pytest.mark.parametrize("n", [10**4, 10**6])
def test_optimism_on_synthetic_counts(n: int, c: float) -> None:
    """V_1 >= V* is proved for c = 1 with probability 1 - 4 delta = 0.2: here it always holds."""
    iota, gaps = math.log(2000 * 3 * 3 * 2 * 2 / 0.2), []
    for number, gamma, seed in itertools.product(range(5), (-2.0, -0.5, 0.5, 2.0), range(3)):
        model = task.random_pomdp(number)
        estimate, counts = synthetic(model, n, seed)
        bonus = method.bonuses(estimate, counts, gamma, c, iota)
        value = method.solve(estimate, gamma, bonus=bonus, q_bonus=method.SELF).value
        gaps.append(value - method.solve(model, gamma).value)
    assert min(gaps) >= 0
    if n == 10**6:
        assert np.mean(gaps) < (0.9 if c == 1.0 else 0.05)  # not vacuous: H = 3 minus V* is about 1


def test_ties_go_to_the_first_action_whatever_rounding_does() -> None:
    """Two actions that differ by rounding only."""
    model = task.random_pomdp(0)
    T = np.repeat(model.T[:, :1], 2, axis=1)
    r = np.repeat(model.r[:, :, :1], 2, axis=2)
    r[:, :, 1] *= 1 + 1e-15
    twins = POMDP(model.mu, T, model.O, r)
    for gamma in GAMMAS:
        assert not method.solve(twins, gamma).policy.any()


def test_gamma_flips_optimism() -> None:
    """More bonus: a larger V_1 for either sign, through larger beta (gamma > 0) or smaller."""
    model = task.random_pomdp(2)
    for gamma in (-1.0, 1.0):
        plain = method.solve(model, gamma)
        bonus = np.full(model.r.shape, 0.05)
        hopeful = method.solve(model, gamma, bonus=bonus)
        assert hopeful.value > plain.value
        assert np.sign(hopeful.beta - plain.beta).sum() * gamma > 0
