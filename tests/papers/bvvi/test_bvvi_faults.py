"""What the authors' code does differently, and what each difference changes.

Read off the repository that accompanies the paper (BVVI.py of its last commit): lines 8 and 9 stand
outside the loop over histories; max(gamma, 0) and min(gamma, 0) are reductions that return gamma;
sigma_1 is mu for every o_1; J is estimated from 20 returns.
"""

import itertools
import math

import numpy as np
import pytest

from papers.bvvi import baselines, bench, method, report, task


@pytest.mark.parametrize("gamma", [-1.0, 1.0])
def test_beta_for_the_last_history_only_is_the_myopic_planner(gamma: float) -> None:
    """Policies differ at no history but prefixes of the last one; told the truth, it is safe."""
    env, (estimate, bonus) = task.gamble(), bench.an_estimate(200)
    for model, b in ((env, np.zeros(env.r.shape)), (estimate, bonus)):
        faulty, beta, _ = bench.plain_plan(model, gamma, b, last_history_only=True)
        myopic = method.solve(model, gamma, q_bonus=method.MYOPIC).policy.tolist()
        names = sorted(faulty, key=lambda f: (len(f), f))  # the order of the flat arrays
        last = names[-1]
        differing = [f for f, a in zip(names, myopic, strict=True) if faulty[f] != a]
        assert all(f == last[: len(f)] for f in differing)
        assert sum((v != 1).any() for v in beta.values()) <= len(model.T)
        if model is env:
            J = task.exact_J(env, gamma, np.array([faulty[f] for f in names], np.int8))
            assert 1.6 - 1e-9 < J < 1.7
            assert method.solve(env, gamma).value > J + 0.15


def test_myopia_costs_nothing_on_the_authors_environment_unless_gamma_is_very_negative() -> None:
    """Hence their experiment could not show the fault; a gamble does."""
    lost = {}
    for gamma in (-5.0, -3.0, -1.0, 0.01, 1.0, 3.0, 5.0):
        exact = baselines.exact_values(task.off(), gamma)
        lost[gamma] = exact["v_star"] - exact["j_myopic"]
    assert all(abs(lost[gamma]) < 1e-12 for gamma in lost if gamma >= -1)
    assert lost[-3.0] == pytest.approx(0.0092, abs=5e-5)
    assert lost[-5.0] == pytest.approx(0.0831, abs=5e-5)
    exact = baselines.exact_values(task.gamble(), 1.0)
    assert exact["j_myopic"] == pytest.approx(1.6, abs=1e-12)  # 1.01 below the optimum, for ever
    assert exact["v_star"] == pytest.approx(2.610564, abs=5e-7)


@pytest.mark.parametrize("gamma", [-2.0, 2.0])
def test_gamma_plus_and_minus_as_reductions_clip_beta_to_one_number(gamma: float) -> None:
    """With gamma^+ = gamma^- = gamma both ends of the range are e^(gamma (H-h))."""
    low = high = np.exp(gamma * 3)
    assert (np.clip(np.random.default_rng(0).uniform(0, 500, 9), low, high) == low).all()
    # a constant beta carries no state: the planner is myopic again, even where beta is written
    model, bonus = task.gamble(), np.full((4, 3, 2), 1e9)
    saturated = method.solve(model, gamma, bonus=bonus)
    myopic = method.solve(model, gamma, q_bonus=method.MYOPIC)
    np.testing.assert_array_equal(saturated.policy, myopic.policy)


def test_saturated_bonuses_make_the_paper_constants_myopic() -> None:
    """At c = 1 and K = 2000 every bonus fills its range: next plans myopically, self not at all."""
    env, gamma = task.gamble(), 1.0
    iota = method.iota(env, 2000)
    visits = 432 * iota  # t + o >= 1 for every pair visited less often
    assert 5_500 < visits < 6_500
    counts = tuple(2000.0 * kernel for kernel in env[:3])
    bonus = method.bonuses(env, counts, gamma, 1.0, iota)
    for h in range(4):
        np.testing.assert_allclose(bonus[h], math.exp(4 - h) - 1)
    by_next, by_self = (
        method.solve(env, gamma, bonus=bonus, q_bonus=q) for q in (method.NEXT, method.SELF)
    )
    myopic = method.solve(env, gamma, q_bonus=method.MYOPIC)
    np.testing.assert_array_equal(by_next.policy, myopic.policy)
    assert not by_self.policy.any()
    assert by_next.value == pytest.approx(4)
    assert by_self.value == pytest.approx(4)
    bonus = method.bonuses(env, counts, gamma, 0.02, iota)
    assert bonus[0].max() < 0.5 * (math.exp(4) - 1)


def test_q_as_gamma_times_log_has_the_same_argmax_and_another_value() -> None:
    x = np.random.default_rng(0).uniform(0.1, 5, (50, 2))
    for gamma in (-3.0, 0.5, 3.0):
        right, wrong = np.log(x) / gamma, gamma * np.log(x)
        np.testing.assert_array_equal(right.argmax(1), wrong.argmax(1))
        np.testing.assert_allclose(wrong, gamma**2 * right)


def test_assumed_optima_are_not_optima() -> None:
    """Subtracting returns from these is not regret."""
    for table in (report.ASSUMED_IN_REPORT, report.ASSUMED_IN_SCRIPT):
        errors = {g: v - method.solve(task.off(), g).value for g, v in table.items()}
        assert max(map(abs, errors.values())) > 0.6
    assert report.ASSUMED_IN_SCRIPT[5.0] > 4  # more than any policy can earn in four steps


def test_deterministic_policies_are_enough() -> None:
    """The authors' report suspects that optimal policies of a POMDP are stochastic: they are not.

    e^(gamma J) is affine in the action probabilities at any one history.
    """
    model, gamma = task.random_pomdp(0), -0.5
    best, number = baselines.best_policy_tree(model, gamma)
    n_nodes = baselines.tree_nodes(model)
    growth = task.growth_of(gamma, model.r)
    rng = np.random.default_rng(0)
    for _ in range(50):
        mixed = rng.integers(2**n_nodes, size=2)
        J = [baselines.enumerate_trees(model, growth, gamma, n, 1, n_nodes)[0] for n in mixed]
        p = rng.uniform()
        mixture = math.log(p * math.exp(gamma * J[0]) + (1 - p) * math.exp(gamma * J[1])) / gamma
        assert mixture <= best + 1e-12
    assert 0 <= number < 2**n_nodes


def test_twenty_returns_are_a_biased_estimate_of_J() -> None:
    """(1/gamma) log of a mean of 20 is off by far more than a tenth at gamma = -5 (E-off)."""
    env, gamma = task.off(), -5.0
    planned, starts = method.solve(env, gamma), task.level_starts(env)
    uniforms = np.random.default_rng(0).random((20_000, 5, 2))
    s, o, a = (np.empty((20_000, m), np.int64) for m in (5, 5, 4))
    for of_an_episode in zip(uniforms, s, o, a, strict=True):
        task.rollout(env, planned.policy, starts, *of_an_episode)
    returns = env.r[range(4), s[:, :4], a].sum(axis=1)
    estimates = np.log(np.exp(gamma * returns).reshape(-1, 20).mean(1)) / gamma
    assert estimates.mean() - planned.value > 0.3
    assert estimates.std() > 0.3


def test_sigma_one_that_ignores_the_observation_is_harmless_for_a_point_mass_only() -> None:
    lost = []
    for number, gamma in itertools.product(range(5), (-0.5, 0.5)):
        exact = baselines.exact_values(task.random_pomdp(number), gamma)
        lost.append(exact["v_star"] - exact["j_ignores_first"])
    assert min(lost) > -1e-12
    assert max(lost) > 0.03
    for gamma in (-5.0, 1.0):
        exact = baselines.exact_values(task.off(), gamma)
        assert exact["j_ignores_first"] == pytest.approx(exact["v_star"], abs=1e-12)
