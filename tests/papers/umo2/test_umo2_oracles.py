"""Learners and simulator against their definitions: O1-O8 of the notes, and honesty."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from papers.umo2 import baselines, bench, method, methods, olo, references, simulate, task
from papers.umo2.methods import CURRENT, METHODS, OLO
from papers.umo2.task import Network

BLIND = sorted(  # not told of capacities, those of the slot or their means
    name
    for name, policy in METHODS.items()
    if not policy.plays(OLO) and policy.links != CURRENT and policy.fixed != "lp"
)


def play(
    net: Network, name: str, seed: int = 0, slots: int | None = None, V: float = 10.0
) -> tuple[np.ndarray, simulate.State, np.ndarray]:
    """Log [slots, …], last state and measurements of a policy."""
    slots = slots or net.horizon
    policy = METHODS[name]
    plan, state = simulate.make_plan(policy, net, V=V), simulate.new_state(policy, net)
    log = np.zeros((slots, 2 * len(state.Q) + 2 * len(net.source) + 1))
    measured = simulate.new_measurements()
    simulate.simulate(net, plan, seed, 0, slots, state, measured, log)
    return log, state, measured


def parts(net: Network, log: np.ndarray) -> list[np.ndarray]:
    """Q, lambda by queue, mu, a, gamma of a log."""
    n, e = len(net.delivered), len(net.source)
    return np.split(log, np.cumsum([n, n, e, e]), axis=1)


def slope(net: Network, measured: np.ndarray) -> float:
    quarters = measured.reshape(4, -1, 4).sum(axis=1)
    means = quarters[:, 1] / quarters[:, 0]
    return (means[3] - means[2]) / (net.horizon / 4)


def one_queue(horizon: int) -> Network:
    """A single queue with a server that always works."""
    return task.network(
        entries=[(0, 0, 1, 0, 0)],
        destinations=[1],
        n_nodes=2,
        arrivals=[(0, 0)],
        rate=0.5,
        level=np.ones((1, 1)),
        horizon=horizon,
        n_phases=1,
    )


# -- O1, O2, O3: queues -------------------------------------------------------------------------


POLICIES = ("nso", "nso_activated", "current", "window", "uniform")


@pytest.mark.parametrize(
    ("name", "which"),
    [
        *((name, which) for name in POLICIES for which in "ab"),
        ("umo2", "a"),
    ],  # its task is on Net-A
)
def test_conservation_drift_and_reindexing(name: str, which: str) -> None:
    net = task.net_a(0.42, 0.4, 2000) if which == "a" else task.net_b(0.5, 0.4, 600)
    log, state, _ = play(net, name)
    Q, arrivals, mu, _, _ = parts(net, log)
    after = np.vstack([Q[1:], state.Q])
    n = Q.shape[1]
    into, out = np.zeros_like(Q), np.zeros_like(Q)
    for e in range(len(net.source)):
        into[:, net.sink[e]] += mu[:, e]
        out[:, net.source[e]] += mu[:, e]
    moved = arrivals + into - out
    alive = ~net.delivered
    assert (Q[:, net.delivered] == 0).all() and Q[:, alive].max() > 0
    # O1: what changes is what came, less what was delivered, plus dummy packets
    dummy = np.maximum(-(Q + moved), 0.0)[:, alive].sum(axis=1)
    delivered = into[:, net.delivered].sum(axis=1)
    change = (after - Q).sum(axis=1)
    np.testing.assert_allclose(change, arrivals.sum(axis=1) - delivered + dummy, atol=1e-9)
    assert dummy.sum() > 0 or name in ("current", "window")  # these serve whole packets only
    # O2: the drift of half the squared norm is bounded, with equality when nothing is clipped
    drift = 0.5 * (after**2 - Q**2).sum(axis=1)
    bound = (Q * moved + 0.5 * moved**2)[:, alive].sum(axis=1)
    assert (drift <= bound + 1e-9 * (1 + np.abs(bound))).all()
    exact = ((Q + moved)[:, alive] >= 0).all(axis=1)
    np.testing.assert_allclose(drift[exact], bound[exact], rtol=1e-9, atol=1e-9)
    assert exact.any()
    # O3: sums over queues are sums over links
    left = (Q * (into - out)).sum(axis=1)
    right = -(mu * (Q[:, net.source] - Q[:, net.sink])).sum(axis=1)
    np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)
    assert n == len(net.delivered)


def test_dummy_packets_flood_relays() -> None:
    """A sender without packets still fills the relay."""
    net = task.net_a(0.0, None, 200)
    _, state, _ = play(net, "uniform")
    assert state.Q[net.source[:4]].sum() == 0 < state.Q[net.source[4:]].sum()


# -- O4: AdaPFOL --------------------------------------------------------------------------------


@pytest.mark.parametrize("magnitude", olo.MAGNITUDES)
@pytest.mark.parametrize("switches", olo.SWITCHES)
def test_olo_ratio(magnitude: str, switches: int) -> None:
    losses, best = olo.synthetic_losses(7, switches, magnitude, 4000)
    assert np.count_nonzero(np.diff(best)) == switches  # the favourable coordinate always changes
    assert olo.ratios(losses, best, 8)[0] <= 1.5


@pytest.mark.parametrize("magnitude", olo.MAGNITUDES)
def test_olo_is_scale_free(magnitude: str) -> None:
    losses, _ = olo.synthetic_losses(8, 10, magnitude, 4000)
    plain, _ = olo.decide(losses, 8)
    larger, _ = olo.decide(1000.0 * losses, 8)
    np.testing.assert_allclose(larger, plain, atol=1e-9)


def test_olo_single_steps_fail_somewhere_and_a_fixed_rate_is_not_scale_free() -> None:
    """The smallest step cannot follow, the largest cannot settle; AdaPFOL does both."""
    still = olo.ratios(*olo.synthetic_losses(9, 0, "constant", 4000), 8)
    moving = olo.ratios(*olo.synthetic_losses(9, 10, "constant", 4000), 8)
    assert moving[1] > 2 * moving[0] and still[8] > 10 * still[0]
    net, large = task.net_a(0.42, 0.4, 1000), task.net_a(0.42, 0.4, 1000, scale=4.0)
    a, b = (parts(n, play(n, "ogd")[0])[3] for n in (net, large))
    assert np.abs(a - b).max() > 0.01


def plain_adapfol(losses: np.ndarray, J: int) -> np.ndarray:
    """AdaPFOL as written down, with a projection by sorting."""
    d = losses.shape[1]
    x = np.full((J, d), 1 / (d + 1))
    cumulative, squares, ranges, decisions = np.zeros(J), 0.0, 0.0, []
    for loss in losses:
        alpha = math.sqrt(math.log(J) / ranges) if ranges else 0.0
        w = np.exp(-alpha * (cumulative - cumulative.min()))
        decisions.append(w @ x / w.sum())
        squares += loss @ loss
        charged = x @ loss
        cumulative += charged
        ranges += np.ptp(charged) ** 2
        x = bench.project(x - 0.7 * 2.0 ** np.arange(J)[:, None] / math.sqrt(squares) * loss)
    return np.array(decisions)


def test_olo_against_a_plain_implementation() -> None:
    for d, seed in ((1, 0), (2, 1), (4, 2)):
        losses = np.random.default_rng(seed).normal(size=(300, d)) - 0.3
        np.testing.assert_allclose(olo.decide(losses, 5)[0], plain_adapfol(losses, 5), atol=1e-9)


def test_nothing_moves_before_the_first_loss() -> None:
    decisions, cumulative = olo.decide(np.zeros((5, 3)), 4)
    assert (decisions == 0.25).all() and (cumulative == 0).all()


# -- O5: projection -----------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 4, 9])
def test_projection_satisfies_kkt(d: int) -> None:
    rng = np.random.default_rng(d)
    for _ in range(300):
        x = rng.normal(size=d) * 10.0 ** rng.uniform(-2, 3)
        a = x.copy()
        method.project(a)
        assert (a >= 0).all() and a.sum() <= 1 + 1e-12 * d * max(1, np.abs(x).max())
        tau = max(0.0, (x - a)[a > 0].mean()) if (a > 0).any() else 0.0
        scale = 1e-11 * (1 + np.abs(x).max())
        np.testing.assert_allclose((x - a)[a > 0], tau, atol=scale)  # stationarity
        assert (x[a == 0] <= tau + scale).all()
        assert tau < scale or abs(a.sum() - 1) < scale  # complementary slackness


def test_projection_ends_at_a_tie() -> None:
    """The third coordinate counts or not by rounding; x is from a run on 50 nodes."""
    a = np.array([0.024713015760799376, 0.01235650788039969, 0.0, 1.0])
    method.project(a)
    np.testing.assert_allclose(a, [0.01235650788039969, 0.0, 0.0, 0.9876434921196003], atol=1e-15)


def test_projection_against_a_quadratic_program() -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        x = rng.normal(size=4)
        a = x.copy()
        method.project(a)
        found = minimize(
            lambda z, x=x: ((z - x) ** 2).sum(),
            np.full(4, 0.2),
            jac=lambda z, x=x: 2 * (z - x),
            bounds=[(0, None)] * 4,
            constraints={
                "type": "ineq",
                "fun": lambda z: 1 - z.sum(),
                "jac": lambda z: -np.ones(4),
            },
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(a, found.x, atol=1e-6)


# -- O6: AdaBGD ---------------------------------------------------------------------------------


def estimates_on_circle(g, y: np.ndarray, delta: float, n: int = 64) -> np.ndarray:
    """Mean of the estimate over n directions: exact for polynomials of degree below n - 1."""
    total = np.zeros(2)
    for angle in 2 * np.pi * np.arange(n) / n:
        u, gradient = np.array([math.cos(angle), math.sin(angle)]), np.empty(2)
        method.one_point_gradient(np.zeros(2), 1.0, g(y + delta * u), u, delta, gradient)
        total -= gradient / n  # of -V g
    return total


def test_one_point_gradient_is_unbiased_for_the_smoothed_function() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        A, b, y = rng.normal(size=(2, 2)), rng.normal(size=2), rng.uniform(size=2)
        delta = rng.uniform(0.01, 0.25)
        linear = estimates_on_circle(lambda x, b=b: b @ x + 3.0, y, delta)
        np.testing.assert_allclose(linear, b, atol=1e-9)
        # a quadratic smoothed over a ball differs by a constant: the gradient is the plain one
        quadratic = estimates_on_circle(lambda x, A=A, b=b: x @ A @ x + b @ x, y, delta)
        np.testing.assert_allclose(quadratic, (A + A.T) @ y + b, atol=1e-9)

    # a cubic: smoothing x^3 over a disc of radius delta adds 3 x delta^2 / 4
    y, delta = np.array([0.4, 0.7]), 0.2
    cubic = estimates_on_circle(lambda x: x[0] ** 3, y, delta)
    np.testing.assert_allclose(cubic, [3 * 0.4**2 + 3 * 0.2**2 / 4, 0.0], atol=1e-9)


def test_the_known_linear_part_is_not_estimated() -> None:
    Q, gradient = np.array([5.0, 7.0]), np.empty(2)
    method.one_point_gradient(Q, 0.0, 1.2, np.array([1.0, 0.0]), 0.1, gradient)
    assert (gradient == Q).all()


def test_directions_are_uniform_on_the_circle_and_new_in_every_slot() -> None:
    key = task.stream_key(0, 0, 2)
    u = np.empty((20_000, 2))
    for t in range(len(u)):
        task.sphere(key, t + 1, u[t])
    np.testing.assert_allclose((u**2).sum(axis=1), 1.0)
    np.testing.assert_allclose(u.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(2) / 2, atol=0.02)
    assert abs((u[1:] * u[:-1]).sum(axis=1).mean()) < 0.02


@pytest.mark.parametrize("name", ["umo2", "umo2_dynamic", "bgd"])
def test_arrivals_stay_in_the_box_and_use_the_radius(name: str) -> None:
    net = task.net_a(0.0, 0.4, 3000)
    log, _, _ = play(net, name, V=11.0)
    Q, arrivals, _, _, gamma = parts(net, log)
    lam = np.ascontiguousarray(arrivals[:, net.arrival])
    assert (lam >= -1e-12).all() and (lam <= 1 + 1e-12).all()
    assert (gamma >= 0).all() and (gamma <= task.UTILITY_BOUND).all()
    values = [task.utility(t + 1, 3000, row) for t, row in enumerate(lam)]
    np.testing.assert_allclose(gamma[:, 0], values)
    if name == "umo2":
        delta = [
            method.radius(t + 1, norm, 11.0, 2, task.UTILITY_BOUND, task.UTILITY_LIPSCHITZ)
            for t, norm in enumerate(np.linalg.norm(Q, axis=1))
        ]
        u = np.empty(2)
        for t in (0, 100, 2999):
            task.sphere(task.stream_key(0, 0, 2), t + 1, u)
            centre = lam[t] - delta[t] * u
            assert (centre >= delta[t] - 1e-12).all() and (centre <= 1 - delta[t] + 1e-12).all()
    by_hand = math.sqrt(11 * 2 * math.log(4) / (10 * (50 + 11 * 3)))
    assert method.radius(100, 50.0, 11.0, 2, math.log(4), 3.0) == pytest.approx(min(0.25, by_hand))
    assert method.radius(100, 5e4, 11.0, 2, math.log(4), 3.0) < 0.02  # long queues shrink it


def test_adabgd_by_hand_and_its_copies() -> None:
    y, cumulative, sums = np.full((3, 2), 0.5), np.zeros(3), np.zeros(2)
    gradient = np.array([1.0, -2.0])
    method.adabgd_update(gradient, 3200.0, 0.1, y, cumulative, sums)
    step = math.sqrt(2 / 3200)
    for j in range(3):
        np.testing.assert_allclose(y[j], [0.5 - 2**j * step, 0.5 + 2 ** (j + 1) * step])
    np.testing.assert_allclose(cumulative, -0.5)
    method.adabgd_update(100 * gradient, 1.0, 0.1, y, cumulative, sums)
    assert (y >= 0.1).all() and (y <= 0.9).all()


# -- O7: static networks; linear programs -------------------------------------------------------


def test_capacity_regions_by_linear_programs() -> None:
    net = task.net_a(0.4, 0.4, 1000)
    assert references.largest_rate(net, adaptive=True) == pytest.approx(0.5)
    assert references.largest_rate(net, adaptive=False) == pytest.approx(0.2875)
    frozen = task.net_a(0.4, None, 1000)
    assert references.largest_rate(frozen, adaptive=True) == pytest.approx(0.35445, abs=1e-5)
    assert references.largest_rate(frozen, adaptive=False) == pytest.approx(0.35445, abs=1e-5)
    b = task.net_b(0.5, 0.4, 1000)
    assert references.largest_rate(b, adaptive=False) < 0.45 < 0.5
    assert references.largest_rate(b, adaptive=True) > 0.55
    b = task.net_b(0.5, 0.4, 1000, n_nodes=50)
    assert references.largest_rate(b, adaptive=False) < 0.65
    assert references.largest_rate(b, adaptive=True) > 0.75


def test_fixed_allocations() -> None:
    net = task.net_a(0.42, 0.4, 1000)
    uniform, best = (references.fixed_allocation(net, kind) for kind in ("uniform", "lp"))
    assert uniform.tolist() == [0.25] * 4 + [0.5] * 4
    for a in (uniform, best):
        assert (a >= 0).all()
        assert all(a[i:j].sum() <= 1 + 1e-9 for i, j in itertools.pairwise(net.starts))
    # below its limit the program leaves no queue growing
    f = references.flows(task.net_a(0.28, 0.4, 1000), adaptive=False)
    below = references.fixed_allocation(task.net_a(0.28, 0.4, 1000), "lp")
    assert (f.inflow @ below + 0.28 * f.arrivals).max() < 1e-9


def test_static_region_of_nso() -> None:
    below, above = (task.net_a(rho, None, 100_000) for rho in (0.32, 0.37))
    assert abs(slope(below, play_fast(below, "nso"))) <= 0.002
    assert slope(above, play_fast(above, "nso")) >= 0.02
    opportunist = task.net_a(0.45, None, 20_000)
    assert abs(slope(opportunist, play_fast(opportunist, "current"))) <= 0.002


def play_fast(net: Network, name: str, seed: int = 100) -> np.ndarray:
    plan, state = simulate.make_plan(METHODS[name], net), simulate.new_state(METHODS[name], net)
    measured = simulate.new_measurements()
    simulate.simulate(net, plan, seed, 0, net.horizon, state, measured, simulate.NO_LOG)
    return measured


def test_one_queue_is_served() -> None:
    net = one_queue(20_000)
    log, _, measured = play(net, "nso")
    assert parts(net, log)[3][10_000:].mean() >= 0.98
    assert measured[:, 0].sum() == 20_000
    np.testing.assert_allclose(measured[:, 1].sum(), log[:, 0].sum())


def test_reference_utilities() -> None:
    """Over windows of any length the first radio binds, within a phase the relays do."""
    assert references.reference_utility() == pytest.approx(1.0845, abs=1e-4)
    assert references.phase_utility() == pytest.approx(0.9050, abs=2e-4)
    frozen = task.net_a(0.0, None, 1000)
    first, second = references.frontier(frozen)
    equal = np.interp(0.0, first - second, first)  # where both rates are the same
    assert equal == pytest.approx(references.largest_rate(frozen, adaptive=True), abs=1e-3)
    assert (np.diff(second) <= 1e-9).all()
    # a line from (0, 1) to (1, 0) at equal weights is best at its middle
    swinging = references.best_utility(np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    assert swinging == pytest.approx(math.log(2.5))
    half = np.array([0.5, 0.5])
    assert task.utility(17, 1000, half) == pytest.approx(math.log(2.5))
    assert task.utility(17, 1000, np.array([0.3, 0.3])) == pytest.approx(math.log(1.9))


# -- O8: units, streams, and who sees what ------------------------------------------------------


@pytest.mark.parametrize("name", ["nso", "nso_activated", "current", "last", "mean", "uniform"])
def test_units(name: str) -> None:
    small, large = task.net_a(0.42, 0.4, 2000), task.net_a(0.42, 0.4, 2000, scale=4.0)
    (Q1, _, _, a1, _), (Q4, _, _, a4, _) = (parts(n, play(n, name)[0]) for n in (small, large))
    assert (a1 == a4).all() and (4 * Q1 == Q4).all()


@pytest.mark.parametrize("name", BLIND)
def test_no_policy_sees_the_slot_before_it_acts(name: str) -> None:
    """Networks that part at slot 1501: decisions in that slot are the same, later ones differ."""
    net = task.net_a(0.42, 0.0, 2000)._replace(n_phases=4)
    other = net._replace(level=np.vstack([net.level[:3], np.zeros((1, 6))]))
    logs = [parts(n, play(n, name)[0]) for n in (net, other)]
    for index in (0, 1, 3):  # queues, arrivals, allocations
        np.testing.assert_array_equal(logs[0][index][:1501], logs[1][index][:1501])
    if name != "last":  # which has believed for long that everything is 0, and idles
        assert not np.array_equal(logs[0][2][1500:], logs[1][2][1500:])


def test_the_oracle_does_see_it() -> None:
    net = task.net_a(0.42, 0.0, 2000)._replace(n_phases=4)
    other = net._replace(level=np.vstack([net.level[:3], np.zeros((1, 6))]))
    a = [parts(n, play(n, "current")[0])[3][1500] for n in (net, other)]
    assert not np.array_equal(*a)


def test_policies_meet_the_same_network() -> None:
    """Capacities, seen where two policies both serve, and arrivals are the same for all."""
    net = task.net_a(0.42, 0.4, 1000)
    logs = {name: parts(net, play(net, name)[0]) for name in ("nso", "uniform", "nso_activated")}
    np.testing.assert_array_equal(logs["nso"][1], logs["uniform"][1])
    C = [logs[name][2] / logs[name][3] for name in ("nso", "uniform")]
    np.testing.assert_allclose(*C, atol=1e-12)
    served = logs["nso_activated"][2]
    assert set(np.unique(served)) <= {0.0, 1.0} and (served <= C[0] + 1e-12).all()
    assert all((served[:, i:j].sum(axis=1) <= 1).all() for i, j in itertools.pairwise(net.starts))
    other = parts(net, play(net, "nso", seed=1)[0])
    assert not np.array_equal(logs["nso"][1], other[1])


def test_phases_and_capacities_of_net_a() -> None:
    horizon = 100_000
    net = task.net_a(0.42, 0.4, horizon)
    assert net.n_phases == 100

    def mean(t: int, c: int) -> float:
        return task.mean_capacity(net.level[task.phase_kind(net, t), c], net.wave[c], 0.0)

    means = np.array([[mean(t, c) for c in range(6)] for t in (1, 1000, 1001)])
    assert means[0].tolist() == means[1].tolist() == [1.0, 0.15, 0.9, 0.5, 0.9, 0.5]
    assert means[2].tolist() == [0.15, 1.0, 0.9, 0.5, 0.9, 0.5]
    assert mean(2001, 2) == 0.5
    link, C, total = np.empty(6), np.empty(8), np.zeros(8)
    for t in range(1, 1001):
        task.draw_capacities(net, task.stream_key(0, 0, 0), t, link, C)
        assert C[0] == C[1] and C[2] == C[3]  # commodities share a link's draw
        total += C
    np.testing.assert_allclose(total / 1000, means[0][net.draw], atol=0.05)


def test_capacities_of_net_b_stay_below_one() -> None:
    net = task.net_b(0.5, 0.4, 1000)
    assert ((net.level * (1 + net.wave)) <= 1).all()
    assert len(net.starts) > 10
    fed = set(net.sink) - set(np.flatnonzero(net.delivered))
    assert fed <= set(net.source)  # every queue that is fed can send on


# -- baselines ----------------------------------------------------------------------------------


def test_max_weight_rule() -> None:
    a = np.empty(3)
    chosen = baselines.max_weight(np.array([1.0, 0.5, 9.0]), np.array([2.0, 5.0, -1.0]), a)
    assert chosen == 1 and a.tolist() == [0, 1, 0]
    assert baselines.max_weight(np.ones(3), np.array([0.0, -1.0, -2.0]), a) == -1
    assert a.tolist() == [0, 0, 0]
    assert baselines.max_weight(np.array([1.0, math.inf, 1.0]), np.array([9.0, 1, 9]), a) == 1


def test_estimates_of_capacities() -> None:
    rng = np.random.default_rng(0)
    seen = rng.uniform(size=30)
    W = 7
    for rule in (methods.LAST, methods.MEAN, methods.UCB, methods.WINDOW):
        tried, total, last, window = np.zeros(1), np.zeros(1), np.zeros(1), np.zeros((1, W))

        def now(rule=rule, tried=tried, total=total, last=last, window=window) -> float:
            return baselines.estimate_capacity(
                rule, 100, tried[0], total[0], last[0], window[0], 1.0
            )

        assert now() == (1.0 if rule in (methods.LAST, methods.MEAN) else math.inf)
        for n, C in enumerate(seen, start=1):
            baselines.remember(rule, C, 0, tried, total, last, window)
            recent = seen[max(0, n - W) : n]
            want = {
                methods.LAST: C,
                methods.MEAN: seen[:n].mean(),
                methods.UCB: seen[:n].mean() + math.sqrt(0.5 * math.log(100) / n),
                methods.WINDOW: recent.mean() + math.sqrt(0.5 * math.log(100) / len(recent)),
            }
            assert now() == pytest.approx(want[rule], abs=1e-12)


def test_drift_plus_penalty_maximises() -> None:
    grid = np.linspace(0, 1, 100_001)
    for V, w, Q in ((10.0, 0.7, 9.0), (10.0, 0.3, 40.0), (10.0, 0.9, 1.0), (5.0, 0.5, 0.0)):
        best = grid[np.argmax(V * w * np.log(1 + 3 * grid) - Q * grid)]
        assert baselines.drift_plus_penalty(V, w, Q) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("name", ["static30", "dpp", "dpp_nso", "bgd", "umo2_activated"])
def test_utility_baselines_run(name: str) -> None:
    net = task.net_a(0.0, 0.4, 2000)
    log, _, measured = play(net, name)
    _, arrivals, _, _, gamma = parts(net, log)
    np.testing.assert_allclose(measured[:, 2].sum(), gamma.sum())
    if name == "static30":
        assert (arrivals[:, net.arrival] == 0.3).all()
