"""The learners against second implementations, and the properties of their confidence sets."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from papers.rs_disrl import augmented, baselines, method, method_v, mixture, risk, tabular, task
from papers.rs_disrl.baselines import DELTA, Setting, finite_class, known_truth, set_up
from papers.rs_disrl.bench import numpy_m_lsr, numpy_tabular, step_of
from papers.rs_disrl.method import INSIDE, LIVE, LSR, MLE, OPTIMISTIC, REGRET
from papers.rs_disrl.method_v import LSR_WIDTH
from papers.rs_disrl.methods import METHODS
from papers.rs_disrl.task import STEPS, make_problem, uniforms

SMALL = task.Size("finite", 2, 2, 3, 1, 6, True)


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(task.TASKS, "i1-n20", SMALL)


def small(episodes: int, seed: int = 3, name: str = "cvar25") -> Setting:
    return Setting(make_problem("i1-n20", name, seed), name, "i1-n20", seed, episodes, 1)


def wide(n: int, episodes: int, seed: int = 3) -> Setting:
    """A setting with a hand-made class of n models."""
    at = small(episodes, seed)
    models = at.problem.models[:n]
    problem = at.problem._replace(
        size=at.problem.size._replace(number=n), models=models, truth=models[0], index=0
    )
    return at._replace(problem=problem)


def test_m_lsr_is_the_numpy_loop() -> None:
    at = small(300)
    learner = set_up("m_lsr", at)
    learner.play(0, 300)
    beta = 0.5 * math.log(6 / DELTA)
    assert method.beta_m(LSR, 6, 3, DELTA, False) == pytest.approx(beta)
    losses, regret = numpy_m_lsr(at, beta, uniforms(3, "i1-n20", STEPS, 300))
    np.testing.assert_allclose(learner.state["losses"], losses, rtol=1e-10)
    np.testing.assert_allclose(learner.record[:, REGRET], regret, atol=1e-12)
    assert (learner.record[:, REGRET] >= -1e-12).all()


def test_m_mle_keeps_additive_log_likelihoods() -> None:
    at = small(200)
    learner = set_up("m_mle", at)
    learner.play(0, 80)
    learner.play(80, 200)
    cls = finite_class(at, at.risk, False)
    beta, losses, values = math.log(6 * 3 / DELTA), np.zeros(6), []
    for row in uniforms(3, "i1-n20", STEPS, 200):
        live = losses <= losses.min() + beta
        i = max((n for n in range(6) if live[n]), key=lambda n: cls.values[n])
        values.append(cls.values[i])
        s, y = 0, 0
        for h, u in enumerate(row):
            a = cls.policies[i, h, s, y]
            s2, r = step_of(at.problem.truth[h, s, a], u)
            losses -= np.log(at.problem.models[:, h, s, a, s2, r])
            s, y = s2, y + r
    np.testing.assert_allclose(learner.state["losses"], losses, rtol=1e-10)
    np.testing.assert_allclose(learner.record[:, OPTIMISTIC], values, atol=1e-12)


@pytest.mark.parametrize("name", ["v_lsr", "v_lsr_width", "v_mle"])
def test_v_is_its_definition(name: str) -> None:
    """RS-DisRL-V written as in the paper: a loop over candidates, data and comparison models."""
    K = 120
    at = small(K)
    learner = set_up(name, at)
    learner.play(0, 50)
    learner.play(50, K)
    marks = task.checkpoints(K)
    cls = finite_class(at, at.risk, False)
    models, N, H, Y = at.problem.models, 6, 3, 4
    F = np.zeros((N, N, H + 1, 2, Y, Y))
    values = np.zeros((N, N))
    for j in range(N):
        for b in range(N):
            augmented.cdf_tables(models[b], cls.policies[j], F[j, b])
            pmf = np.diff(F[j, b, 0, 0, 0], prepend=0)
            values[j, b] = risk.rho(pmf, at.risk)
    estimator = METHODS[name].estimator
    beta = math.log(N**2 * H / DELTA) * (1.0 if estimator == MLE else 0.5)
    losses = np.zeros((N, N, H, N))
    draws = uniforms(3, "i1-n20", task.DRAWS, K)
    for k, row in enumerate(uniforms(3, "i1-n20", STEPS, K)):
        best, alive = -math.inf, np.zeros((N, N), bool)
        for j in range(N):
            for b in range(N):
                own = losses[j, b, :, b] - losses[j, b].min(axis=1)
                alive[j, b] = (own <= beta).all()
                if alive[j, b] and values[j, b] > best + 1e-12:
                    best, chosen = values[j, b], j
        assert learner.record[k, OPTIMISTIC] == pytest.approx(best, abs=1e-12)
        assert learner.record[k, LIVE] == (alive.sum() if k + 1 in marks else 1)
        assert learner.record[k, INSIDE] == alive[:, at.problem.index].all()
        s, y = 0, 0
        for h, u in enumerate(row):
            act = cls.policies[chosen, h, s, y]
            s2, r = step_of(at.problem.truth[h, s, act], u)
            for j in range(N):
                for b in range(N):
                    after = F[j, b, h + 1]
                    pred = np.einsum("nir,irx->nx", models[:, h, s, act], after[:, y : y + 2])
                    target = after[s2, y + r]
                    if estimator == MLE:
                        z = int(np.searchsorted(target, draws[k, h], side="right"))
                        pmf = np.diff(pred, axis=1, prepend=0)[:, min(z, Y - 1)]
                        losses[j, b, h] -= np.log(np.maximum(pmf, 1e-12))
                    elif estimator == LSR:
                        losses[j, b, h] += ((pred - target) ** 2).mean(axis=1)
                    else:
                        spread = np.ptp(pred, axis=0)
                        x = int(np.argmax(spread >= spread.max() - 1e-15))
                        losses[j, b, h] += (pred[:, x] - target[x]) ** 2
            s, y = s2, y + r
    whole = method_v.value_class(models, cls.policies, 0, at.risk, estimator)
    memory, steps = method_v.Memory(**learner.state), uniforms(3, "i1-n20", task.DRAWS, K)
    assert memory.seen.min() < K  # some were never looked at again
    for j in range(N):
        for b in range(N):
            method_v.catch_up(whole, memory, estimator, steps, j, b, K)
    np.testing.assert_allclose(memory.losses, losses, rtol=1e-5, atol=1e-5)


def test_own_prediction_is_the_action_value_form() -> None:
    """Off the policy's action the prediction is not F_h: backups must use the action played."""
    at = small(1)
    cls = finite_class(at, at.risk, False)
    F = np.zeros((4, 2, 4, 4))
    augmented.cdf_tables(cls.models[0], cls.policies[0], F)
    out = np.empty(4)
    for act in range(2):
        augmented.bellman_cdf(cls.models[0, 0, 0, act], 0, F[1], out)
        assert np.allclose(out, F[0, 0, 0]) == (act == cls.policies[0, 0, 0, 0])


def test_set_of_one_model_and_of_a_duplicate() -> None:
    learner = set_up("m_mle", wide(1, 50))
    learner.play(0, 50)
    assert (learner.record[:, LIVE] == 1).all()
    assert np.abs(learner.record[:, REGRET]).max() < 1e-12
    # a duplicate at fixed beta changes neither the set nor what is played
    at = wide(4, 200)
    doubled = at.problem.models[[0, 1, 2, 3, 1]]
    both = []
    for models in (at.problem.models, doubled):
        problem = at.problem._replace(
            models=models, size=at.problem.size._replace(number=len(models))
        )
        here = at._replace(problem=problem)
        cls = finite_class(here, here.risk, False)
        truth = known_truth(here, cls.policies)
        losses, record = np.zeros(len(models)), np.zeros((200, 4))
        steps = uniforms(3, "i1-n20", STEPS, 200)
        method.play_m(cls, truth, MLE, 3.0, steps, 0, 200, losses, record)
        both.append((losses, record))
    np.testing.assert_array_equal(both[0][0], both[1][0][:4])
    np.testing.assert_array_equal(both[0][1][:, OPTIMISTIC], both[1][1][:, OPTIMISTIC])


def test_last_step_regresses_the_indicator() -> None:
    """At h = H - 1, F_H = 1{y <= x}: the target is an indicator, the predictor the CDF of y'."""
    at = small(1)
    q = at.problem.truth
    F = np.zeros((4, 2, 4, 4))
    augmented.cdf_tables(q, np.zeros((3, 2, 4), np.int64), F)
    out = np.empty(4)
    augmented.bellman_cdf(q[2, 1, 0], 1, F[3], out)
    reward = q[2, 1, 0].sum(0)
    np.testing.assert_allclose(out, [0, reward[0], 1, 1])
    assert set(np.unique(F[3])) == {0.0, 1.0}


def test_threshold_is_where_the_live_models_disagree_most() -> None:
    at = small(1)
    cls = finite_class(at, at.risk, False)
    F, pred = np.zeros((4, 2, 4, 4)), np.zeros((4, 6))
    augmented.cdf_tables(cls.models[0], cls.policies[0], F)
    for live in (np.ones(6, bool), np.array([1, 0, 0, 1, 0, 0], bool)):
        x = method.widest_threshold(cls.rows[1, 0, 1], live, 1, F[2], pred)
        spread = np.ptp(pred[:, live], axis=1)
        assert spread[x] == spread.max() > 0
        assert spread[-1] == pytest.approx(0)  # F(H) = 1 under every model


def deterministic(rewards: list[int]) -> np.ndarray:
    """One state, one action, H = len(rewards), rewards 0 or 1 for sure."""
    q = np.zeros((len(rewards), 1, 1, 1, 2))
    for h, r in enumerate(rewards):
        q[h, 0, 0, 0, r] = 1.0
    return q


def test_deterministic_mdp() -> None:
    """MLE refutes after one inconsistent step; LSR adds at most 1 per step, so it needs > beta."""
    truth_q, other = deterministic([1, 0]), deterministic([1, 1])
    models = np.array([truth_q, other])
    policies = np.zeros((2, 2, 1, 3), np.int64)
    values = np.array([1.0, 2.0])
    cls = method.FiniteClass(
        models, method.models_last(models), policies, values, np.array([1, 0]), 0
    )
    truth = method.Truth(truth_q, 0, 1.0, np.zeros(2))
    steps = np.full((10, 2), 0.5)
    losses, record = np.zeros(2), np.zeros((10, 4))
    method.play_m(cls, truth, MLE, 5.0, steps, 0, 10, losses, record)
    np.testing.assert_array_equal(record[:, OPTIMISTIC], [2.0] + [1.0] * 9)
    assert losses[1] - losses[0] == pytest.approx(-math.log(1e-12) * 10)
    losses, record = np.zeros(2), np.zeros((10, 4))
    method.play_m(cls, truth, LSR, 3.5, steps, 0, 10, losses, record)
    np.testing.assert_array_equal(record[:, OPTIMISTIC], [2.0] * 4 + [1.0] * 6)  # 4 > 3.5


def test_bandit_is_an_optimistic_cvar_bandit() -> None:
    """H = 1: the plan is the arm of largest upper bound on its CVaR."""
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(3), 4).reshape(1, 1, 4, 1, 3)  # four arms, rewards 0, 1/2, 1
    measure = risk.make_risk("cvar50", 1, 2)
    counts = np.full((1, 1, 4), 50.0)
    V, policy = augmented.values_buffer(q, measure), np.zeros((1, 1, 3), np.int64)
    value = augmented.plan(q, counts, 3.0, augmented.KL, measure, 0, V, policy)
    upper = [
        max(augmented.kl_max(q[0, 0, a, 0], u, 3.0 / 50) for u in measure.utilities)
        for a in range(4)
    ]
    assert value == pytest.approx(max(upper)) and policy[0, 0, 0] == np.argmax(upper)


@pytest.mark.parametrize("name", ["m_mle", "m_lsr", "v_mle", "v_lsr"])
def test_optimism_and_coverage_in_simulation(name: str) -> None:
    inside = 0
    for seed in range(10):
        at = small(300, seed, "spectral")
        learner = set_up(name, at)
        learner.play(0, 300)
        best, _ = augmented.optimum(at.problem.truth, at.risk, 0)
        covered = learner.record[:, INSIDE] > 0
        assert (learner.record[covered, OPTIMISTIC] >= best - 1e-9).all()
        inside += covered.all()
    assert inside >= 9


def test_tabular_is_the_numpy_loop_and_its_set_is_what_it_says() -> None:
    K = 40
    at = Setting(make_problem("i2", "cvar25", 5), "cvar25", "i2", 5, K, 1)
    learner = set_up("m_mle", at)
    learner.play(0, K)
    width = math.log(3 * 3 * 2 * K / DELTA)
    counts, values = numpy_tabular(at, width, uniforms(5, "i2", STEPS, K))
    np.testing.assert_array_equal(learner.state["counts"], counts)
    np.testing.assert_allclose(learner.record[:, OPTIMISTIC], values, atol=1e-9)
    truth, totals = at.problem.truth, counts.sum((-2, -1))
    p_hat = counts / np.maximum(totals, 1)[..., None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(p_hat > 0, p_hat * np.log(p_hat / truth), 0).sum((-2, -1))
    worst = (totals * kl).max()
    V = np.zeros((4, 4, 3, 4))
    for w, holds in ((worst * 1.001, True), (worst * 0.999, False)):
        assert tabular.covered(augmented.KL, truth, p_hat, totals, w, V, 0) == holds


def test_coverage_by_hoeffding_is_about_the_planned_values() -> None:
    at = Setting(make_problem("i2", "cvar25", 6), "cvar25", "i2", 6, 30, 1)
    learner = set_up("m_lsr", at)
    learner.play(0, 30)
    counts = learner.state["counts"]
    truth, totals = at.problem.truth, counts.sum((-2, -1))
    p_hat = np.divide(
        counts,
        totals[..., None, None],
        out=np.full_like(counts, 1 / 6),
        where=counts.sum((-2, -1), keepdims=True) > 0,
    )
    V, policy = augmented.values_buffer(truth, at.risk), np.zeros((3, 3, 4), np.int64)
    width = 3.0
    augmented.plan(p_hat, totals, width, augmented.HOEFFDING, at.risk, 0, V, policy)
    needed = 0.0
    for c in range(len(V)):
        for h in range(3):
            for y in range(h + 1):
                v = V[c, h + 1][:, y : y + 2]
                for s in range(3) if h else [0]:
                    for a in range(2):
                        if totals[h, s, a] and np.ptp(v) > 0:
                            z = ((truth - p_hat)[h, s, a] * v).sum() / np.ptp(v)
                            needed = max(needed, 2 * totals[h, s, a] * max(z, 0.0) ** 2)
    assert tabular.covered(augmented.HOEFFDING, truth, p_hat, totals, width, V, 0) == (
        needed <= width
    )


def test_the_hoeffding_set_is_one_sided() -> None:
    """It excludes a truth that is much better than the estimate, and none that is much worse."""
    truth, V = np.zeros((1, 1, 1, 1, 2)), np.zeros((1, 2, 1, 2))
    V[0, 1, 0] = [0.0, 1.0]  # the reward is worth itself
    counts = np.full((1, 1, 1), 50.0)
    for p_truth, p_hat, holds in ((0.9, 0.2, False), (0.2, 0.9, True), (0.5, 0.5, True)):
        truth[..., 0], truth[..., 1] = 1 - p_truth, p_truth
        estimate = np.zeros_like(truth)
        estimate[..., 0], estimate[..., 1] = 1 - p_hat, p_hat
        inside = tabular.covered(augmented.HOEFFDING, truth, estimate, counts, 3.0, V, 0)
        assert inside == holds


def test_greedy_gets_stuck_where_optimism_does_not() -> None:
    """The crisis is rare: one bad experience with the right action and greedy never tries again."""
    stuck = {"greedy": 0, "m_mle_tuned": 0}
    for seed in range(20):
        for name in stuck:
            problem = make_problem("i2-rare", "cvar25", seed)
            at = Setting(problem, "cvar25", "i2-rare", seed, 4000, 50)
            learner = set_up(name, at)
            learner.play(0, 4000)
            stuck[name] += learner.record[-100:, REGRET].mean() > 0.05
    assert stuck["greedy"] >= 2 and stuck["m_mle_tuned"] == 0


def test_mixture_remembers_its_regression() -> None:
    at = Setting(make_problem("i3", "cvar25", 1), "cvar25", "i3", 1, 60, 1)
    learner = set_up("m_lsr", at, 20)
    learner.play(0, 60)
    Lam = learner.state["Lam"]
    np.testing.assert_allclose(learner.state["inverse"] @ Lam, np.eye(5), atol=1e-10)
    assert learner.state["log_det"][0] == pytest.approx(np.linalg.slogdet(Lam)[1])
    np.testing.assert_allclose((Lam - np.eye(5)).sum(axis=0), 0, atol=1e-9)  # centred features
    width = mixture.confidence_width(learner.state["log_det"][0], DELTA)
    assert width > 1 and learner.record[:, INSIDE].all()
    np.testing.assert_allclose(
        np.tensordot(at.problem.theta, at.problem.models, 1), at.problem.truth
    )


def test_draws_are_accepted_by_their_gap() -> None:
    rejected = 0
    for name in ("i1", "i2", "i3"):
        problem = make_problem(name, "cvar25", 0)
        size = problem.size
        measure, mean = (risk.make_risk(n, size.H, size.m) for n in ("cvar25", "mean"))
        assert task.neutral_gap(problem.truth, measure, mean) >= 0.02
        rejected += problem.rejected
        np.testing.assert_allclose(problem.truth.sum((-2, -1)), 1)
        if name == "i1":
            np.testing.assert_array_equal(problem.models[problem.index], problem.truth)
            assert problem.models.shape == (100, 4, 4, 2, 4, 2)
        if name == "i3":
            np.testing.assert_allclose(problem.models.sum((-2, -1)), 1)
    assert rejected > 0


def test_random_policy_is_the_average_of_trajectories() -> None:
    at = small(1)
    pmf = baselines.uniformly_random(at.problem.truth, 0)
    one = at.problem.truth.mean(axis=2, keepdims=True)
    by_hand = np.zeros(4)
    mass = {(0, 0): 1.0}
    for h in range(3):
        after: dict[Any, float] = {}
        for (s, y), p in mass.items():
            for s2 in range(2):
                for r in range(2):
                    key = (s2, y + r)
                    after[key] = after.get(key, 0) + p * one[h, s, 0, s2, r]
        mass = after
    for (_, y), p in mass.items():
        by_hand[y] += p
    np.testing.assert_allclose(pmf, by_hand)


def test_estimators_have_different_numbers() -> None:
    assert len({MLE, LSR, LSR_WIDTH}) == 3
    assert method_v.beta_v(LSR, 6, 3, DELTA) == pytest.approx(0.5 * math.log(36 * 3 / DELTA))
    assert method.beta_m(LSR, 6, 3, DELTA, True) == pytest.approx(0.25 * math.log(18 / DELTA))


def test_kernels_are_listed_for_the_cache() -> None:
    folder = Path(risk.__file__).parent
    jitted = {p.stem for p in folder.glob("*.py") if "@jit\n" in p.read_text()}
    assert jitted == set(risk.KERNELS)
