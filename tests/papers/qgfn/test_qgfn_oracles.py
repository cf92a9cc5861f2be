"""The mixtures and the targets of Q against numbers worked out by hand and by enumeration."""

import math

import pytest
import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import exact_policies, terminating_distribution
from common.gfn.strings import StringEnv
from papers.qgfn.baselines import p_quantile_per_type
from papers.qgfn.method import (
    MIXTURES,
    double_estimate,
    n_step_targets,
    p_greedy,
    p_of_max,
    p_quantile,
    q_loss,
    ramp,
    update_lagged,
)

PF = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
Q = torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=torch.float64)
ALL = torch.ones(4, dtype=torch.bool)


@pytest.mark.parametrize(
    "name,p,expected",
    [
        ("p-greedy", 0.4, [0.06, 0.52, 0.18, 0.24]),
        ("p-of-max", 0.5, [0, 2 / 9, 3 / 9, 4 / 9]),
        ("p-of-max", 0.75, [0, 1 / 3, 0, 2 / 3]),
        ("p-of-max", 0.76, [0, 1, 0, 0]),
        ("p-quantile", 0.5, [0, 1 / 3, 0, 2 / 3]),
        ("p-quantile", 0.25, [0, 2 / 9, 3 / 9, 4 / 9]),
        ("p-quantile", 0.3, [0, 2 / 9, 3 / 9, 4 / 9]),
    ],
)
def test_mixtures_by_hand(name: str, p: float, expected: list[float]) -> None:
    mixture = MIXTURES[name]
    want = torch.tensor(expected, dtype=torch.float64)
    assert torch.allclose(mixture(PF.log(), Q, ALL, p).exp(), want, atol=1e-12)
    # the same among invalid actions, whatever their values
    order = torch.tensor([4, 0, 5, 1, 2, 3])
    mask = torch.tensor([True] * 4 + [False] * 2)[order]
    for odd in (1e6, -1e9, 0.0):
        logits = torch.cat([PF.log(), torch.full((2,), 3.0, dtype=torch.float64)])[order]
        values = torch.cat([Q, torch.full((2,), odd, dtype=torch.float64)])[order]
        mu = mixture(logits, values, mask, p).exp()
        assert torch.allclose(mu[mask], want, atol=1e-12)
        assert not mu[~mask].any()


@pytest.mark.parametrize("name", MIXTURES)
def test_ends_of_the_range(name: str) -> None:
    """p = 0 is P_F bit for bit; p = 1 keeps the maximisers only."""
    rng = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(200, 7, generator=rng)
    q = torch.randint(0, 5, (200, 7), generator=rng).float() + 0.5  # many ties
    mask = torch.rand(200, 7, generator=rng) < 0.7
    mask[:, 3] = True
    log_pf = torch.log_softmax(logits.masked_fill(~mask, -1e9), -1)
    assert torch.equal(MIXTURES[name](logits, q, mask, 0.0).exp(), log_pf.exp())
    mu = MIXTURES[name](logits, q, mask, 1.0).exp()
    highest = q.masked_fill(~mask, -1).amax(-1, keepdim=True)
    best = mask & (q == highest)
    assert not mu[~best].any()
    assert torch.allclose(mu.sum(-1), torch.ones(200))
    if name == "p-greedy":
        assert torch.allclose(mu[best], (best / best.sum(-1, keepdim=True))[best])
    else:
        weighted = torch.softmax(logits.masked_fill(~best, -torch.inf), -1)
        assert torch.allclose(mu, weighted)
    for p in (0.2, 0.5, 0.93):  # a distribution, and nothing but valid actions
        mu = MIXTURES[name](logits, q, mask, p).exp()
        assert torch.allclose(mu.sum(-1), torch.ones(200)) and not mu[~mask].any()


def test_p_of_max_needs_positive_values() -> None:
    """Values are clamped at 0, and p max q <= 1e-3 prunes nothing."""
    log_pf = PF.log()
    negative = torch.tensor([-4.0, -1.0, -2.0, -3.0], dtype=torch.float64)
    assert torch.allclose(p_of_max(log_pf, negative, ALL, 0.9).exp(), PF)
    unclamped = negative >= 0.9 * negative.max()  # the inequality flips: even the best would go
    assert not unclamped.any()
    small = torch.tensor([0.0, 1.1e-3, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(p_of_max(log_pf, small, ALL, 0.9).exp(), PF)
    assert p_of_max(log_pf, 2 * small, ALL, 0.9).exp().tolist() == [0, 1, 0, 0]
    mixed = torch.tensor([-1.0, 0.2, 0.1, 0.19], dtype=torch.float64)
    assert (p_of_max(log_pf, mixed, ALL, 0.9).exp() > 0).tolist() == [False, True, False, True]


def test_p_quantile_is_not_continuous_at_zero() -> None:
    """Any p > 0 removes the worst action, whatever P_F gives it; the others go over smoothly."""
    gaps = {
        name: float((mixture(PF.log(), Q, ALL, 1e-9).exp() - PF).abs().max())
        for name, mixture in MIXTURES.items()
    }
    assert gaps["p-quantile"] == pytest.approx(0.1)  # the worst action's share of P_F
    assert max(gaps["p-greedy"], gaps["p-of-max"]) < 1e-8


def test_two_actions_quantile_is_greedy() -> None:
    logits = torch.tensor([3.0, -3.0])
    for p in (0.01, 0.5, 1.0):
        mu = p_quantile(logits, torch.tensor([1.0, 1.001]), torch.ones(2, dtype=torch.bool), p)
        assert mu.exp().tolist() == [0, 1]


def test_restriction_survives_underflow() -> None:
    """P_F is exactly 0 in float32 on all that is kept."""
    logits = torch.tensor([0.0, -400.0, -401.0])
    assert torch.softmax(logits, -1)[1:].sum() == 0
    q = torch.tensor([0.0, 1.0, 1.0])
    for name in ("p-quantile", "p-of-max"):
        mu = MIXTURES[name](logits, q, torch.ones(3, dtype=torch.bool), 0.9).exp()
        assert mu[1] == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-5)


def test_authors_quantile_differs() -> None:
    """Theirs prunes inside each action type, and counts masked entries."""
    logits = torch.zeros(8)
    mask = torch.ones(8, dtype=torch.bool)
    q = torch.tensor([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])  # append is better than prepend
    ours = p_quantile(logits, q, mask, 0.7).exp() > 0
    theirs = p_quantile_per_type(logits, q, mask, 0.7, (4, 4)).exp() > 0
    assert ours.nonzero().flatten().tolist() == [0, 1, 2]
    assert theirs.nonzero().flatten().tolist() == [0, 4]  # the fifth best, not the second
    one = p_quantile_per_type(logits, -q, mask, 0.9, (1, 7)).exp()
    assert one[0] > 0  # a type with one entry (stop) is never pruned, though it is the worst
    assert p_quantile(logits, -q, mask, 0.9).exp()[0] == 0
    # masked entries move their quantile, not ours
    masked = torch.tensor([True, True, False, False])
    v = torch.tensor([1.0, 2.0, 9.0, 9.0])
    assert p_quantile(logits[:4], v, masked, 0.5).exp().tolist() == [0, 1, 0, 0]
    assert not torch.isfinite(p_quantile_per_type(logits[:4], v, masked, 0.5, (4,))).any()


# -- an exact pair on strings ---------------------------------------------------------------------


def binary_strings() -> tuple[EnumeratedDAG, Tensor]:
    """Prepend/append, 2 letters, L=4, R = 1 + integer value (first letter the lowest bit)."""
    weights = 2 ** torch.arange(4)
    env = StringEnv("prepend_append", 4, 2, lambda x: (1 + (x * weights).sum(-1)).double().log())
    dag = env.dag()
    return dag, dag.log_reward.exp()


def action_values(dag: EnumeratedDAG, log_policy: Tensor, reward: Tensor) -> Tensor:
    """Q of a policy by dynamic programming. [N, A]."""
    value = reward.clone()
    q = torch.zeros(dag.n_states, dag.n_actions, dtype=torch.float64)
    for src, act, dst in reversed(dag.levels()):
        q[src, act] = value[dst]
        inner = src.unique()
        value[inner] = (log_policy[inner].exp() * q[inner]).sum(-1)
    return q


@pytest.mark.parametrize(
    "name,p,expected",
    [
        *((name, 0.0, 11.0) for name in MIXTURES),
        ("p-greedy", 0.25, 12.555947),
        ("p-greedy", 0.5, 13.913889),
        ("p-greedy", 1.0, 16.0),
        ("p-of-max", 0.5, 11.995346),
        ("p-of-max", 0.8, 14.720833),
        ("p-of-max", 0.9, 15.680851),
        ("p-quantile", 0.25, 12.898926),
        ("p-quantile", 0.5, 16.0),
    ],
)
def test_exact_pair_on_strings(name: str, p: float, expected: float) -> None:
    dag, reward = binary_strings()
    log_pf = exact_policies(dag)[0]
    assert dag.log_Z == pytest.approx(math.log(136))
    q = action_values(dag, log_pf, reward)
    source = [9.513761, 11.993865, 9.513761, 11.993865]
    assert torch.allclose(q[dag.source], torch.tensor(source, dtype=torch.float64), atol=1e-6)
    log_mu = MIXTURES[name](log_pf, q, dag.forward_mask, p)
    mean = float((terminating_distribution(dag, log_mu) * reward).sum())
    assert mean == pytest.approx(expected, abs=1e-6)


def test_tabular_monte_carlo_q_converges() -> None:
    """n >= T regresses on the return of mu: Q^mu, and not Q*."""
    dag, reward = binary_strings()
    log_pf = exact_policies(dag)[0]
    log_mu = p_greedy(log_pf, action_values(dag, log_pf, reward), dag.forward_mask, 0.3)
    exact = action_values(dag, log_mu, reward)
    rng = torch.Generator().manual_seed(0)
    batch = 200_000
    state = torch.full((batch,), dag.source)
    states, actions = [], []
    for _ in range(4):
        action = torch.multinomial(log_mu[state].exp(), 1, generator=rng).squeeze(-1)
        states.append(state)
        actions.append(action)
        state = dag.children[state, action]
    visited, taken = torch.stack(states, -1), torch.stack(actions, -1)
    length = torch.full((batch,), 4)
    target = n_step_targets(reward[state], length, 4, 4, None)
    index = (visited * dag.n_actions + taken).flatten()
    total = torch.zeros(dag.n_states * dag.n_actions, dtype=torch.float64)
    count = torch.zeros_like(total).index_add_(0, index, torch.ones(len(index)).double())
    total.index_add_(0, index, target.double().flatten())
    often = count > 1000
    error = (total / count - exact.flatten())[often].abs()
    assert often.sum() > 20 and error.max() < 0.5
    best = action_values(dag, p_greedy(log_pf, exact, dag.forward_mask, 1.0), reward)
    assert (best.flatten() - exact.flatten())[often].max() > 1.0


# -- targets ---------------------------------------------------------------------------------


def test_n_step_targets() -> None:
    reward, length = torch.tensor([5.0]), torch.tensor([3])
    values = torch.tensor([[10.0, 11.0, 12.0]])  # of s_0, s_1, s_2
    assert n_step_targets(reward, length, 3, 2, values).tolist() == [[12, 5, 5]]
    assert n_step_targets(reward, length, 3, 1, values).tolist() == [[11, 12, 5]]
    for n in (3, 4, 30):
        assert n_step_targets(reward, length, 3, n, None).tolist() == [[5, 5, 5]]
    # a shorter trajectory in the same batch
    both = n_step_targets(
        torch.tensor([5.0, 7.0]), torch.tensor([3, 2]), 3, 1, values.expand(2, -1)
    )
    assert both[1, :2].tolist() == [11, 7]


def test_targets_have_no_gradient() -> None:
    values = torch.ones(1, 3, requires_grad=True)
    assert not n_step_targets(torch.ones(1), torch.tensor([3]), 3, 1, values).requires_grad


def test_double_estimator() -> None:
    online = torch.tensor([1.0, 5.0, 3.0, 9.0])
    lagged = torch.tensor([7.0, 2.0, 4.0, 0.0])
    mask = torch.tensor([True, True, True, False])
    assert double_estimate(online, lagged, mask) == 2.0  # lagged value of the online choice
    assert double_estimate(online, online, mask) == 5.0  # the maximum over valid actions


def test_huber_mean_over_steps() -> None:
    q = torch.tensor([[[0.0, 0.0], [3.0, 9.0]]])
    target = torch.tensor([[[0.5, 1.0], [0.0, 0.0]]])
    mask = torch.tensor([[[True, True], [True, False]]])
    assert q_loss(q, target, mask).item() == pytest.approx((0.125 + 0.5 + 2.5) / 3)


def test_tau_is_the_weight_of_the_old_copy() -> None:
    lagged, online = [torch.zeros(2)], [torch.ones(2)]
    update_lagged(lagged, online, 0.95)
    assert lagged[0].tolist() == pytest.approx([0.05, 0.05])


def test_ramp() -> None:
    assert ramp(0.9, 0) == 0
    assert ramp(0.9, 750) == pytest.approx(0.45)
    assert ramp(0.9, 1500) == ramp(0.9, 10**6) == 0.9
    assert ramp(0.9, 0, 0) == 0.9
    steps = [ramp(0.9, s) for s in range(0, 1501, 50)]
    assert steps == sorted(steps)
