"""Return laws, risk measures and planning against brute force and second definitions."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.optimize import minimize

from papers.rs_disrl import augmented, baselines, mixture, risk, task
from papers.rs_disrl.augmented import EXACT, HOEFFDING, KL

NAMES = tuple(risk.RISKS)


def random_q(rng: np.random.Generator, S: int, A: int, H: int, m: int = 1) -> np.ndarray:
    """Joint kernels that are no products."""
    return rng.dirichlet(np.ones(S * (m + 1)), (H, S, A)).reshape(H, S, A, S, m + 1)


def random_policy(rng: np.random.Generator, q: np.ndarray) -> np.ndarray:
    H, S, A, _, R = q.shape
    return rng.integers(A, size=(H, S, H * (R - 1) + 1))


def trajectories(q: np.ndarray, policy: np.ndarray) -> Iterator[tuple[float, int]]:
    """Probability and total reward of every trajectory from (0, 0)."""
    H, S, _, _, R = q.shape
    for path in itertools.product(itertools.product(range(S), range(R)), repeat=H):
        s, y, p = 0, 0, 1.0
        for h, (s2, r) in enumerate(path):
            p *= q[h, s, policy[h, s, y], s2, r]
            s, y = s2, y + r
        yield p, y


def all_policies(q: np.ndarray, markov: bool = False) -> Iterator[np.ndarray]:
    """Every deterministic policy of (s, y), or of s alone, that differs where it can be."""
    H, S, A, _, R = q.shape
    Y = H * (R - 1) + 1
    cells = [
        (h, s, y)
        for h in range(H)
        for s in (range(S) if h else [0])
        for y in ([0] if markov else range(h * (R - 1) + 1))
    ]
    for actions in itertools.product(range(A), repeat=len(cells)):
        policy = np.zeros((H, S, Y), np.int64)
        for (h, s, y), a in zip(cells, actions, strict=True):
            if markov:
                policy[h, s] = a
            else:
                policy[h, s, y] = a
        yield policy


def cvar_by_sorting(pmf: np.ndarray, y: np.ndarray, alpha: float) -> float:
    """Mean of the worst alpha of the mass."""
    left, total = alpha, 0.0
    for p, value in zip(pmf, y, strict=True):
        take = min(p, left)
        total += take * value
        left -= take
    return total / alpha


@pytest.mark.parametrize("seed", range(4))
def test_law_three_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = random_q(rng, 2, 2, 3, 1 + seed % 2)
    policy = random_policy(rng, q)
    pmf = augmented.law(q, policy, 0)
    by_hand = np.zeros_like(pmf)
    for p, y in trajectories(q, policy):
        by_hand[y] += p
    np.testing.assert_allclose(pmf, by_hand, atol=1e-13)
    H, S, Y = policy.shape
    F = np.zeros((H + 1, S, Y, Y))
    augmented.cdf_tables(q, policy, F)
    np.testing.assert_allclose(F[0, 0, 0], np.cumsum(pmf), atol=1e-12)


def test_cvar_three_ways_and_limits() -> None:
    rng = np.random.default_rng(0)
    y = risk.grid(4, 1)
    for _ in range(200):
        pmf = rng.dirichlet(np.full(5, 0.5))
        for alpha in (0.1, 0.25, 0.5, 0.9):
            variational = risk.rho(pmf, risk.cvar_mixture(((alpha, 1.0),), y))
            assert variational == pytest.approx(cvar_by_sorting(pmf, y, alpha), abs=1e-12)
            edges = np.unique(np.clip(np.append(0, np.cumsum(pmf)), 0, alpha))
            levels = (edges[1:] + edges[:-1]) / 2  # VaR is constant in between
            var = y[np.minimum(np.searchsorted(np.cumsum(pmf), levels), 4)]
            assert variational == pytest.approx(var @ np.diff(edges) / alpha, abs=1e-12)
        mean = pmf @ y
        nearly = risk.cvar_mixture(((1 - 1e-12, 1.0),), y)
        assert risk.rho(pmf, nearly) == pytest.approx(mean, abs=1e-9)
        assert risk.rho(pmf, risk.make_risk("mean", 4, 1)) == pytest.approx(mean, abs=1e-12)
        assert risk.rho(pmf, risk.entropic(1e-6, y)) == pytest.approx(mean, abs=1e-5)
        averse, seeking = (risk.make_risk(n, 4, 1) for n in ("entropic_m1", "entropic_p1"))
        assert risk.rho(pmf, averse) <= mean + 1e-12 <= risk.rho(pmf, seeking) + 2e-12
        parts = [cvar_by_sorting(pmf, y, a) for a in (1.0, 0.5, 0.25)]
        spectral = risk.rho(pmf, risk.make_risk("spectral", 4, 1))
        assert spectral == pytest.approx(np.mean(parts), abs=1e-12)


def test_spectral_is_a_distortion() -> None:
    """int_0^1 VaR_u phi(u) du with phi = sum_j w_j 1{u <= alpha_j} / alpha_j, bounded by L / H."""
    rng = np.random.default_rng(1)
    y = risk.grid(4, 1)
    u = (np.arange(4000) + 0.5) / 4000
    phi = sum((u <= a) / a / 3 for a in (1.0, 0.5, 0.25))
    assert phi.max() * 4 == pytest.approx(risk.lipschitz("spectral", 4))
    for _ in range(20):
        pmf = rng.dirichlet(np.ones(5))
        var = y[np.minimum(np.searchsorted(np.cumsum(pmf), u), 4)]
        spectral = risk.rho(pmf, risk.make_risk("spectral", 4, 1))
        assert spectral == pytest.approx(np.mean(var * phi), abs=3e-3)


@pytest.mark.parametrize("name", NAMES)
def test_lipschitz_constants(name: str) -> None:
    rng = np.random.default_rng(2)
    H = 4
    measure, L, y = risk.make_risk(name, H, 1), risk.lipschitz(name, H), risk.grid(H, 1)
    pmfs = rng.dirichlet(np.full(len(y), 0.4), (1700, 2))  # 6 measures: 10^4 pairs in all
    for a, b in pmfs:
        apart = np.abs(np.cumsum(a) - np.cumsum(b)).max()
        assert abs(risk.rho(a, measure) - risk.rho(b, measure)) <= L * apart + 1e-12
    # tight: a little mass moved between 0 and H, where the measure is most sensitive
    moved = 1e-3
    rest, other = (-1, 0) if name != "entropic_p1" else (0, -1)
    a, b = np.zeros(len(y)), np.zeros(len(y))
    a[rest], b[rest], b[other] = 1.0, 1 - moved, moved
    change = abs(risk.rho(a, measure) - risk.rho(b, measure))
    assert change >= (0.99 if "entropic" not in name else 0.97) * L * moved


def test_telescoping_identity() -> None:
    """F_hat - F = sum_h E_{pi,T} [ sum (T_hat_h - T_h)(s'|s, a) F_hat_{h+1}(x|s') ], every x."""
    rng = np.random.default_rng(3)
    for _ in range(10):
        q, q_hat = random_q(rng, 3, 2, 3), random_q(rng, 3, 2, 3)
        policy = random_policy(rng, q)
        H, S, Y = policy.shape
        F, F_hat = np.zeros((H + 1, S, Y, Y)), np.zeros((H + 1, S, Y, Y))
        augmented.cdf_tables(q, policy, F)
        augmented.cdf_tables(q_hat, policy, F_hat)
        mass = np.zeros((S, Y))
        mass[0, 0] = 1.0
        total = np.zeros(Y)
        for h in range(H):
            after = np.zeros((S, Y))
            for s, y in itertools.product(range(S), range(h + 1)):
                a = policy[h, s, y]
                for s2, r in itertools.product(range(S), range(2)):
                    change = q_hat[h, s, a, s2, r] - q[h, s, a, s2, r]
                    total += mass[s, y] * change * F_hat[h + 1, s2, y + r]
                    after[s2, y + r] += mass[s, y] * q[h, s, a, s2, r]
            mass = after
        np.testing.assert_allclose(F_hat[0, 0, 0] - F[0, 0, 0], total, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("S", "H", "m"), [(2, 2, 1), (1, 3, 1), (1, 2, 3)])
def test_planning_is_the_best_of_all_augmented_policies(name: str, S: int, H: int, m: int) -> None:
    rng = np.random.default_rng(4)
    measure = risk.make_risk(name, H, m)
    for _ in range(4):
        q = random_q(rng, S, 2, H, m)
        value, policy = augmented.optimum(q, measure, 0)
        brute = max(risk.rho(augmented.law(q, p, 0), measure) for p in all_policies(q))
        assert value == pytest.approx(brute, abs=1e-12)
        assert risk.rho(augmented.law(q, policy, 0), measure) == pytest.approx(brute, abs=1e-12)


def test_history_adds_nothing_to_the_augmented_state() -> None:
    """S = 1, H = 3: 128 policies of the reward history are no better than 64 of y."""
    rng = np.random.default_rng(5)
    histories = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]
    for name in ("cvar25", "entropic_m1"):
        measure = risk.make_risk(name, 3, 1)
        q = random_q(rng, 1, 2, 3)
        best = -math.inf
        for actions in itertools.product(range(2), repeat=len(histories)):
            act = dict(zip(histories, actions, strict=True))
            pmf = np.zeros(4)
            for path in itertools.product(range(2), repeat=3):
                p = math.prod(q[h, 0, act[path[:h]], 0, path[h]] for h in range(3))
                pmf[sum(path)] += p
            best = max(best, risk.rho(pmf, measure))
        assert augmented.optimum(q, measure, 0)[0] == pytest.approx(best, abs=1e-12)


def test_best_markov_policy_is_the_best_of_the_enumerated() -> None:
    rng = np.random.default_rng(6)
    for name in ("cvar25", "entropic_p1", "spectral"):
        measure = risk.make_risk(name, 3, 1)
        q = random_q(rng, 2, 2, 3)
        value, policy = baselines.markov_optimum(q, measure, 0)
        assert (policy == policy[:, :, :1]).all()
        policies = list(all_policies(q, markov=True))
        assert len(policies) == baselines.n_markov(q) == 32
        brute = max(risk.rho(augmented.law(q, p, 0), measure) for p in policies)
        assert value == pytest.approx(brute, abs=1e-12)
        assert risk.rho(augmented.law(q, policy, 0), measure) == pytest.approx(brute, abs=1e-12)


def test_two_step_example() -> None:
    """Static CVaR gambles after a bad first step: the numbers of the README."""
    q = task.two_step()
    laws = {}
    for bad, good in itertools.product(range(2), repeat=2):
        policy = np.zeros((2, 1, 7), np.int64)
        policy[1, 0, 0], policy[1, 0, 2] = bad, good
        laws[bad, good] = augmented.law(q, policy, 0)
    np.testing.assert_allclose(laws[0, 0], [0, 0.5, 0, 0.5, 0, 0, 0])
    np.testing.assert_allclose(laws[1, 1], [0.25, 0, 0.25, 0.25, 0, 0.25, 0])
    np.testing.assert_allclose(laws[0, 1], [0, 0.5, 0.25, 0, 0, 0.25, 0])
    np.testing.assert_allclose(laws[1, 0], [0.25, 0, 0, 0.75, 0, 0, 0])

    def cvar(which: tuple[int, int], alpha: float) -> float:
        return risk.rho(laws[which], risk.cvar_mixture(((alpha, 1.0),), risk.grid(2, 3)))

    by_hand = {  # safe always, risky always, safe-risky, risky-safe (after 0, after 2/3)
        0.25: (1 / 3, 0, 1 / 3, 0),
        0.5: (1 / 3, 1 / 3, 1 / 3, 1 / 2),
        0.75: (5 / 9, 5 / 9, 4 / 9, 2 / 3),
        1.0 - 1e-12: (2 / 3, 5 / 6, 3 / 4, 3 / 4),
    }
    for alpha, values in by_hand.items():
        for which, value in zip([(0, 0), (1, 1), (0, 1), (1, 0)], values, strict=True):
            assert cvar(which, alpha) == pytest.approx(value, abs=1e-9)
    for alpha in np.linspace(0.02, 0.99, 98):  # strictly best exactly on (3/8, 7/8)
        others = max(cvar(w, alpha) for w in laws if w != (1, 0))
        gain = cvar((1, 0), alpha) - others
        assert (gain > 1e-12) == (0.375 < alpha < 0.875), alpha
        best = augmented.optimum(q, risk.cvar_mixture(((alpha, 1.0),), risk.grid(2, 3)), 0)[0]
        assert best == pytest.approx(max(others, cvar((1, 0), alpha)), abs=1e-12)
    # not time-consistent: after the bad step, on its own, the gamble is the worse choice
    second = risk.cvar_mixture(((0.5, 1.0),), risk.grid(1, 3))
    assert risk.rho(np.array([0.5, 0, 0, 0.5]), second) < risk.rho(np.array([0, 1.0, 0, 0]), second)


# -- confidence sets of I2 and I3 -----------------------------------------------------------------


def test_kl_maximum_against_a_general_optimiser() -> None:
    rng = np.random.default_rng(7)
    for i in range(30):
        n = int(rng.integers(2, 6))
        p, v = rng.dirichlet(np.ones(n)), rng.normal(size=n)
        if i % 3 == 0:  # no mass on the best outcome
            p[np.argmax(v)] = 0.0
            p /= p.sum()
        kappa = 10 ** rng.uniform(-3, 0.5)
        found = augmented.kl_max(p, v, kappa)

        def divergence(x: np.ndarray, p: np.ndarray = p) -> float:
            on = p > 0
            return float(p[on] @ np.log(p[on] / np.maximum(x[on], 1e-300)))

        best = -math.inf
        for start in (p, np.full(n, 1 / n)):
            result = minimize(
                lambda x, v=v: -x @ v,
                0.9 * start + 0.1 / n,
                bounds=[(1e-12, 1)] * n,
                constraints=[
                    {"type": "eq", "fun": lambda x: x.sum() - 1},
                    {"type": "ineq", "fun": lambda x, k=kappa, d=divergence: k - d(x)},
                ],
                method="SLSQP",
                options={"ftol": 1e-13, "maxiter": 500},
            )
            if divergence(result.x) <= kappa + 1e-7:
                best = max(best, float(result.x @ v))
        assert found >= best - 1e-6
        assert found <= v.max() + 1e-12
        if math.isfinite(best):
            assert found == pytest.approx(best, abs=2e-4)


def test_kl_maximum_at_its_edges() -> None:
    p, v = np.array([0.0, 1.0, 0.0]), np.array([0.0, 2.0, 1.0])
    assert augmented.kl_max(p, v, 0.3) == 2.0  # all mass on the best already
    assert augmented.kl_max(np.array([0.5, 0.5]), np.ones(2), 0.1) == 1.0
    assert augmented.kl_max(np.array([0.5, 0.5]), np.array([0.0, 1.0]), 0.0) == 0.5
    # a point mass elsewhere: the unseen best gets 1 - exp(-kappa)
    seen = np.array([1.0, 0.0])
    assert augmented.kl_max(seen, np.array([0.0, 1.0]), 0.2) == pytest.approx(1 - math.exp(-0.2))
    for kappa in (1e-6, 1e-3, 0.1, 1.0, 10.0):  # two outcomes: a binary KL ball, by bisection
        low, high = 0.3, 1.0
        for _ in range(100):
            x = (low + high) / 2
            d = 0.3 * math.log(0.3 / x) + 0.7 * math.log(0.7 / (1 - x))
            low, high = (x, high) if d < kappa else (low, x)
        found = augmented.kl_max(np.array([0.7, 0.3]), np.array([0.0, 1.0]), kappa)
        assert found == pytest.approx(low, abs=1e-10)


@pytest.mark.parametrize("kind", [KL, HOEFFDING])
def test_optimistic_planning_contains_the_truth_and_shrinks_to_it(kind: int) -> None:
    rng = np.random.default_rng(8)
    for name in ("cvar25", "entropic_m1", "spectral"):
        q = random_q(rng, 3, 2, 3)
        measure = risk.make_risk(name, 3, 1)
        best, _ = augmented.optimum(q, measure, 0)
        V, policy = augmented.values_buffer(q, measure), np.zeros((3, 3, 4), np.int64)
        before = math.inf
        for n in (0.0, 10.0, 1e3, 1e5, 1e9):
            counts = np.full((3, 3, 2), n)
            value = augmented.plan(q, counts, 5.0, kind, measure, 0, V, policy)
            assert best - 1e-12 <= value <= before + 1e-12
            before = value
        assert value == pytest.approx(best, abs=2e-3)
        exact = augmented.plan(q, counts, 5.0, EXACT, measure, 0, V, policy)
        assert exact == best


def test_projection_and_nearest_mixture() -> None:
    rng = np.random.default_rng(9)
    for _ in range(50):
        v, out = rng.normal(size=5) * 2, np.empty(5)
        mixture.project_simplex(v, out)
        assert out.sum() == pytest.approx(1, abs=1e-12) and (out >= 0).all()
        for _ in range(20):  # variational inequality of a projection
            assert (v - out) @ (rng.dirichlet(np.ones(5)) - out) <= 1e-12
    for _ in range(10):
        root = rng.normal(size=(5, 5))
        Lam, theta_hat = root @ root.T + np.eye(5), rng.normal(size=5)
        theta = mixture.nearest_mixture(theta_hat, Lam)
        slope = Lam @ (theta - theta_hat)
        for corner in np.eye(5):
            assert slope @ (corner - theta) >= -1e-6
        inside = rng.dirichlet(np.ones(5))
        direction = rng.normal(size=5)
        direction -= direction.mean()
        low, high = mixture.chord(inside, direction, inside, Lam, 0.05)
        for t in (low, high):
            point = inside + t * direction
            assert point.min() > -1e-12
            assert mixture.distance(point, inside, Lam) <= 0.05 + 1e-9
            edge = abs(mixture.distance(point, inside, Lam) - 0.05) < 1e-9
            assert edge or point.min() < 1e-12
