"""TDIL's parts against numbers that can be worked out: losses, optima, rewards, mazes, agents."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common import sac
from common.stacked import adam, seed_generators
from papers.tdil import mazes
from papers.tdil.agents import ContinuousAgent, DiscreteAgent, StackedAdam
from papers.tdil.baselines import ImitationDiscriminator, imitation_loss
from papers.tdil.method import (
    TransitionDiscriminator,
    bc_loss,
    bc_loss_discrete,
    below_threshold,
    discriminator_loss,
    expert_subset,
    masked_mean,
    relative_reward,
    surrogate_reward,
    total_reward,
    transition_pairs,
)

torch.set_num_threads(1)


def cell(row, column):
    return row * mazes.SIDE + column


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Table(torch.nn.Module):
    """A free log-odds for every ordered pair of n states; states are [..., 1] indices."""

    def __init__(self, n):
        super().__init__()
        self.odds = torch.nn.Parameter(torch.zeros(n, n, dtype=torch.float64))

    def forward(self, s, s_next):
        return self.odds[s[..., 0].long(), s_next[..., 0].long()]

    @property
    def D(self):
        return torch.sigmoid(self.odds).detach()


def each_pair_once(k):
    """A cyclic sequence of k symbols in which every ordered pair is adjacent once (de Bruijn)."""
    return [x for i in range(k) for x in [i, *(y for j in range(i + 1, k) for y in (i, j))]]


def fitted(n, pairs, kappa, hard):
    """The table at the minimum of the loss over equally likely transitions, exactly.

    The batch is ordered so that rolling it by one gives the whole product of the marginals.
    """
    rows = torch.as_tensor(np.asarray(pairs))[each_pair_once(len(pairs))]
    s, s_next = rows[None, :, :1], rows[None, :, 1:]
    table = Table(n)
    optimiser = torch.optim.LBFGS(
        table.parameters(), lr=1, max_iter=150, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = n * discriminator_loss(table, s, s_next, kappa=kappa, hard_negatives=hard).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return table.D


# ------------------------------------------------------------------ discriminator's loss


def test_loss_by_hand():
    given = torch.tensor([0.9, 0.8, 0.7, 0.3, 0.2, 0.1, 0.4, 0.5, 0.6]).double().logit()[None]
    s = torch.zeros(1, 3, 2)
    full = discriminator_loss(lambda a, b: given, s, s, kappa=0.99)
    without = discriminator_loss(lambda a, b: given[:, :6], s, s, kappa=0.99, hard_negatives=False)
    assert full.item() == pytest.approx(0.311716, abs=1e-6)
    assert without.item() == pytest.approx(0.114197, abs=1e-6)


def test_pairs_are_consecutive_rolled_and_reversed():
    s, s_next = torch.arange(3.0).view(1, 3, 1), 10 + torch.arange(3.0).view(1, 3, 1)
    first, second = transition_pairs(s, s_next, hard_negatives=True)
    assert first.flatten().tolist() == [0, 1, 2, 0, 1, 2, 10, 11, 12]
    assert second.flatten().tolist() == [10, 11, 12, 12, 10, 11, 0, 1, 2]
    first, second = transition_pairs(s, s_next, hard_negatives=False)
    assert first.shape == second.shape == (1, 6, 1)


@pytest.mark.parametrize(("kappa", "expected"), [(0.99, 0.99899), (0.1, 0.52632)])
def test_optimum_on_a_chain(kappa, expected):
    """N forward transitions, uniform: kappa / (kappa + (1-kappa)/N) forwards, 0 backwards."""
    N = 10
    D = fitted(N + 1, [(i, i + 1) for i in range(N)], kappa, hard=True)
    forwards, backwards = D[range(N), range(1, N + 1)], D[range(1, N + 1), range(N)]
    torch.testing.assert_close(forwards, torch.full_like(forwards, expected), atol=2e-4, rtol=0)
    assert backwards.max() < 1e-3


def test_a_rolled_permutation_or_enumeration_is_no_product_of_marginals():
    """Why the batch must be drawn with replacement: its random pairs never hold the true pair."""
    N = 10
    s = torch.randperm(N, generator=torch.Generator().manual_seed(0)).view(1, -1, 1)
    first, second = transition_pairs(s, s + 1, hard_negatives=False)
    assert (second - first)[0, N:].ne(1).all()
    s = torch.arange(N).view(1, -1, 1)
    first, second = transition_pairs(s, s + 1, hard_negatives=False)
    assert (second - first)[0, N + 1 :].eq(0).all()  # in order: (s_i, s_i)


@pytest.mark.parametrize(("hard", "expected"), [(True, 0.497), (False, 0.99)])
def test_optimum_where_time_is_reversible(hard, expected):
    """A random walk on a ring: with hard negatives a valid pair is worth kappa / (kappa + 1)."""
    n = 60
    pairs = [(i, (i + step) % n) for i in range(n) for step in (-1, 1)]
    D = fitted(n, pairs, 0.99, hard)
    assert D[tuple(np.transpose(pairs))].mean() == pytest.approx(expected, abs=0.01)


# ------------------------------------------------------------------ the maze's exact tables


def test_maze_is_the_authors():
    pairs = mazes.one_step_pairs()
    assert (pairs.sum(), np.trace(pairs)) == (389, 59)
    assert (mazes.neighbours(True).sum(), mazes.neighbours(False).sum()) == (30, 330)
    for (a, b), free in (
        (((3, 3), (3, 4)), False),
        (((2, 3), (2, 4)), True),
        (((8, 6), (8, 7)), False),
        (((9, 6), (9, 7)), True),
        (((3, 6), (3, 7)), True),
        (((8, 7), (9, 7)), False),
        (((8, 6), (9, 6)), True),
    ):
        assert pairs[cell(*a), cell(*b)] == pairs[cell(*b), cell(*a)] == free, (a, b)
    demonstration = mazes.grid_demonstration()
    assert len(demonstration) == 15
    names = "".join("URDL"[a] for a in demonstration.actions)
    assert names == "RRRDDDRRDDDDRRR"


def test_exact_tables():
    D, R = mazes.exact_discriminator(0.1), mazes.exact_reward(0.1)
    assert D[cell(5, 5), cell(5, 6)] == pytest.approx(0.7353, abs=5e-5)
    for at, value in (((5, 5), 1.471), ((9, 9), 1.628), ((5, 3), 0.0), ((4, 4), 2.206)):
        assert R[cell(*at)] == pytest.approx(value, abs=5e-4)
    assert (R > 0).sum() == 30
    assert R[mazes.PATH_CELLS[1:]].mean() == pytest.approx(1.937, abs=5e-4)
    paid = R[mazes.SUCCESSORS]
    assert (paid > 0.1 * paid.max()).mean() == pytest.approx(0.3)
    odds = mazes.exact_discriminator(0.99, hard_negatives=True)
    assert odds[cell(5, 5), cell(5, 6)] == pytest.approx(0.497, abs=1e-3)


def test_free_table_is_the_exact_discriminator():
    pairs = np.stack([np.repeat(np.arange(100), 4), mazes.SUCCESSORS.ravel()], axis=1)
    learned = fitted(100, pairs, 0.1, hard=False).numpy()
    assert np.abs(learned - mazes.exact_discriminator(0.1)).max() < 0.02
    reward = learned[:, mazes.PATH_CELLS[1:]].sum(axis=1)
    assert np.abs(reward - mazes.exact_reward(0.1)).max() < 0.1


def test_the_rewards_own_optimum_lingers_on_the_path():
    """Greedy in the exact R_TDIL alone at gamma = .8: no start goes to the goal and is done."""
    R, nxt = mazes.exact_reward(0.1), mazes.SUCCESSORS
    V = np.zeros(100)
    for _ in range(300):
        V = (R[nxt] + 0.8 * V[nxt]).max(axis=1)
    Q = R[nxt] + 0.8 * V[nxt]
    best = (Q >= Q.max(axis=1, keepdims=True) - 1e-9).argmax(axis=1)  # ties: the first action
    at = np.arange(100)
    for _ in range(200):
        at = nxt[at, best[at]]
    corner = {cell(3, 4), cell(4, 4), cell(5, 4)}
    end = {cell(9, 7), cell(9, 8)}
    assert sum(int(c) in corner for c in at) == 64 and sum(int(c) in end for c in at) == 36
    assert V.max() == pytest.approx(2.318 / (1 - 0.8), rel=0.01)


# ------------------------------------------------------------------ surrogate reward


def network(S=2, d=3, hidden=16):
    return TransitionDiscriminator(seed_generators(range(S), 2), d, (hidden,) * 3)


def test_reward_is_the_double_loop():
    D, s, e = network(), draw(2, 5, 3), draw(2, 4, 3, seed=1)
    slow = torch.zeros(2, 5)
    for b in range(5):
        for t in range(4):
            slow[:, b] += D(s[:, b : b + 1], e[:, t : t + 1])[:, 0]  # (s', s*), in this order
    torch.testing.assert_close(surrogate_reward(D, s, e), slow)
    torch.testing.assert_close(surrogate_reward(D, s, e, rows=8), slow)  # in parts
    swapped = sum(D(e[:, t : t + 1].expand(2, 5, 3), s) for t in range(4))
    assert not torch.allclose(swapped, slow, atol=1e-3)


def test_reward_is_a_sum_over_the_expert():
    D, s, e = network(), draw(2, 5, 3), draw(2, 40, 3, seed=1)
    r = surrogate_reward(D, s, e)
    assert r.min() > 1  # not a mean, not a maximum
    torch.testing.assert_close(surrogate_reward(D, s, e.flip(1)), r)
    torch.testing.assert_close(surrogate_reward(D, s, torch.cat((e, e), 1)), 2 * r)


def test_a_subset_of_the_expert_is_unbiased():
    D, s, e = network(), draw(2, 5, 3), draw(2, 12, 3, seed=1)
    g = seed_generators((0, 1), 9)
    draws = []
    for _ in range(3_000):
        states, scale = expert_subset(e, g, 4)
        assert states.shape == (2, 4, 3) and scale == 3.0
        draws.append(surrogate_reward(D, s, states, scale=scale))
    error = (torch.stack(draws).mean(0) - surrogate_reward(D, s, e)).abs().max()
    spread = torch.stack(draws).std(0).max() / math.sqrt(3_000)
    assert error < 5 * spread
    states, _ = expert_subset(e, g, 12)
    assert states is e
    chosen = expert_subset(torch.arange(12.0).view(1, 12, 1).expand(2, -1, -1), g, 11)[0]
    assert len(set(chosen[0].flatten().tolist())) == 11  # without replacement


def test_total_reward_mixes():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])
    assert torch.equal(total_reward(a, None, 0.0), a)
    assert torch.equal(total_reward(None, b, 1.0), b)
    torch.testing.assert_close(total_reward(a, b, 0.9), torch.tensor([[9.1, 18.2]]))


def test_relative_reward():
    agent = torch.tensor([[[1.0, 1.0], [3.0, 3.0]]])
    assert relative_reward(agent, torch.tensor([[2.0, 2.0]])).tolist() == [1.0]
    # no normalisation by length: 50 steps between the best cells beat the demonstration
    R = torch.from_numpy(mazes.exact_reward(0.1))
    lingering = R[cell(4, 4)].expand(1, 1, 50)
    path = R[torch.from_numpy(mazes.PATH_CELLS[1:])][None]
    assert relative_reward(lingering, path).item() == pytest.approx(3.80, abs=0.005)


# ------------------------------------------------------------------ filter and optimiser


def test_filter_is_strict():
    r, r_expert = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 2.0]])
    assert below_threshold(r, r_expert, 0.5).tolist() == [[True, False, False]]
    assert not below_threshold(r, r_expert, 0.0).any()
    zero = torch.zeros(1, 3)
    assert not below_threshold(zero, zero, 10.0).any()  # 0 < 0
    assert masked_mean(r, r < 2).item() == 0.5
    assert masked_mean(r, r < 0).item() == 0.0


def test_adam_is_adam_and_a_seed_can_sit_out():
    p = torch.nn.Parameter(draw(2, 3, 4))
    ours, alone = StackedAdam([p], 1e-2), torch.nn.Parameter(p.detach().clone())
    theirs = torch.optim.Adam([alone], lr=1e-2)
    for i in range(20):
        p.grad, alone.grad = draw(2, 3, 4, seed=i), draw(2, 3, 4, seed=i)
        ours.step()
        theirs.step()
        assert p.grad is None
    torch.testing.assert_close(p, alone)
    # seed 1 sits out: it is where it was, and then what it would be without that step
    kept, second = p.detach().clone(), torch.nn.Parameter(p.detach()[1:].clone())
    reference = torch.optim.Adam([second], lr=1e-2)
    state = theirs.state_dict()["state"][0]
    reference.state[second] = {
        "step": state["step"].clone(),
        "exp_avg": state["exp_avg"][1:].clone(),
        "exp_avg_sq": state["exp_avg_sq"][1:].clone(),
    }
    p.grad = draw(2, 3, 4, seed=50)
    ours.step(torch.tensor([True, False]))
    assert torch.equal(p[1], kept[1]) and not torch.equal(p[0], kept[0])
    p.grad, second.grad = draw(2, 3, 4, seed=51), draw(2, 3, 4, seed=51)[1:]
    ours.step()
    reference.step()
    torch.testing.assert_close(p[1:], second)


def test_cloning_losses():
    a, b = draw(2, 4, 3), draw(2, 4, 3, seed=1)
    torch.testing.assert_close(bc_loss(a, b)[1], F.mse_loss(a[1], b[1]))
    labels = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    torch.testing.assert_close(bc_loss_discrete(a, labels)[1], F.cross_entropy(a[1], labels[1]))


def test_imitation_loss_is_the_sum_of_two_cross_entropies():
    net = ImitationDiscriminator(seed_generators((0, 1), 3), 3, 2, (8,) * 3)
    s, a, s_e, a_e = draw(2, 6, 3), draw(2, 6, 2), draw(2, 5, 3, seed=1), draw(2, 5, 2, seed=1)
    D_agent, D_expert = net(s, a), net(s_e, a_e)
    expected = F.binary_cross_entropy(D_agent[0], torch.zeros(6))
    expected = expected + F.binary_cross_entropy(D_expert[0], torch.ones(5))
    torch.testing.assert_close(imitation_loss(net, s, a, s_e, a_e)[0], expected)
    assert ((D_agent > 0) & (D_agent < 1)).all()  # the reward itself, no logarithm


# ------------------------------------------------------------------ agents


def continuous(S=2, **kwargs):
    return ContinuousAgent(seed_generators(range(S), 1), 3, 2, 16, **kwargs)


def discrete(S=2):
    return DiscreteAgent(seed_generators(range(S), 1), 3, 4, 16)


def test_continuous_agent_is_sac_without_terminal_states():
    """Filter off, no cloning, no expert step: targets and losses are SAC's with d = 0."""
    agent = continuous(log_alpha=-1.0)
    s, s_next, r, noise = draw(2, 5, 3), draw(2, 5, 3, seed=1), draw(2, 5), draw(2, 5, 2, seed=2)
    a = torch.tanh(draw(2, 5, 2, seed=3))
    alpha = math.exp(-1.0)
    next_a, next_log_prob = agent.actor.sample(s_next, noise)
    y = r + 0.9 * (agent.target(s_next, next_a).amin(1) - alpha * next_log_prob)
    expected = 0.5 * sum((agent.critic(s, a)[:, i] - y.detach()).square().mean(1) for i in (0, 1))
    torch.testing.assert_close(agent.critic_loss(s, a, r, s_next, noise, 0.9), expected)

    terms, log_prob = agent.actor_terms(s, noise)
    new_a, new_log_prob = agent.actor.sample(s, noise)
    expected = sac.actor_loss(agent.critic(s, new_a), new_log_prob, alpha)
    everywhere = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(masked_mean(terms, everywhere), expected)
    torch.testing.assert_close(log_prob, new_log_prob.detach())
    assert agent.alpha_gradient(log_prob.mean(1)) is None


def test_actor_step_leaves_the_critic_alone():
    for agent in (continuous(), discrete()):
        s = draw(2, 5, 3)
        terms, _ = agent.actor_terms(s, agent.noise(seed_generators((0, 1), 4), 5))
        terms.sum().backward()
        assert all(p.grad is None for p in agent.critic.parameters())
        assert all(p.grad is not None for p in agent.actor.parameters())
        agent.actor.zero_grad()


def test_temperature_gradient_is_that_of_the_usual_loss():
    agent, log_prob = continuous(), draw(2, 5)
    loss = sac.temperature_loss(agent.log_alpha, log_prob, -2.0)
    loss.sum().backward()
    torch.testing.assert_close(agent.alpha_gradient(log_prob.mean(1)), agent.log_alpha.grad)


def test_discrete_agent_by_enumeration():
    agent = discrete()
    s, s_next, r = draw(2, 5, 3), draw(2, 5, 3, seed=1), draw(2, 5)
    a = torch.tensor([[0, 1, 2, 3, 0], [3, 3, 2, 1, 0]])
    pi = agent.actor(s_next).softmax(-1)
    q = agent.q(agent.target, s_next).amin(1)
    y = r + 0.8 * (pi * (q - pi.log())).sum(-1)  # alpha = 1
    now = agent.q(agent.critic, s)
    expected = torch.zeros(2)
    for seed in range(2):
        for net in range(2):
            taken = now[seed, net, range(5), a[seed]]
            expected[seed] += 0.5 * (taken - y[seed]).square().mean()
    loss = agent.critic_loss(s, a, r, s_next, torch.zeros(0), 0.8)
    torch.testing.assert_close(loss, expected)

    terms, minus_entropy = agent.actor_terms(s, torch.zeros(0))
    pi = torch.distributions.Categorical(logits=agent.actor(s))
    torch.testing.assert_close(minus_entropy, -pi.entropy())
    expected = -pi.entropy() - (pi.probs * now.amin(1)).sum(-1)
    torch.testing.assert_close(terms, expected)


def test_discrete_actions_follow_the_policy():
    agent, n = discrete(), 40_000
    s = draw(2, 1, 3).expand(2, n, 3)
    a = agent.act(s, agent.noise(seed_generators((0, 1), 4), n))
    share = F.one_hot(a, 4).double().mean(1)
    torch.testing.assert_close(
        share, agent.actor(s[:, 0:1]).softmax(-1)[:, 0].double(), atol=0.01, rtol=0
    )
    assert agent.action_features(a).sum() == 2 * n


def test_discrete_temperature_decays_whatever_the_entropy():
    """The authors' gradient is positive up to the maximum entropy; ours is its sign."""
    entropy = torch.linspace(0.0, math.log(4), 50)
    assert ((0.98 * math.log(4) - entropy).exp() > 0).all()
    agent = discrete()
    optimiser = StackedAdam([agent.log_alpha], 3e-4)
    for _ in range(100):
        agent.log_alpha.grad = agent.alpha_gradient(-entropy[:2])
        optimiser.step()
    torch.testing.assert_close(agent.log_alpha.detach(), torch.full((2,), -0.03))


def test_critic_gradients_are_clipped_in_the_maze_only():
    for agent, clipped in ((discrete(), True), (continuous(), False)):
        for p in agent.critic.parameters():
            p.grad = torch.full_like(p, 10.0)
        agent.clip_critic()
        norm = sum(p.grad[0].square().sum() for p in agent.critic.parameters()).sqrt()
        assert (norm <= 1.001) == clipped


# ------------------------------------------------------------------ learned discriminator


def test_network_learns_the_maze():
    """Mean errors after some training; single cells leak through walls by far more."""
    rng = np.random.default_rng(0)
    cells = rng.integers(100, size=20_000)
    after = mazes.SUCCESSORS[cells, rng.integers(4, size=20_000)]
    states = torch.from_numpy(mazes.scaled(mazes.CELLS))
    D = TransitionDiscriminator(seed_generators((0,), 2), 2, (64,) * 3)
    optimiser = adam([{"params": list(D.parameters())}], lr=1e-3)
    g = torch.Generator().manual_seed(0)
    for _ in range(1_500):
        i = torch.randint(len(cells), (128,), generator=g)
        s, s_next = states[cells[i]][None], states[after[i]][None]
        optimiser.zero_grad()
        discriminator_loss(D.logit, s, s_next, kappa=0.1, hard_negatives=False).sum().backward()
        optimiser.step()
    with torch.no_grad():
        first = states.repeat_interleave(100, 0)[None]
        learned = D(first, states.repeat(100, 1)[None]).view(100, 100).numpy()
    error = np.abs(learned - mazes.exact_discriminator(0.1))
    assert error[mazes.one_step_pairs()].mean() < 0.10
    assert error.mean() < 0.02


# ------------------------------------------------------------------ continuous maze


def test_moves_stop_in_front_of_walls():
    start = np.array([[5.0, 3.5], [2.0, 3.5], [9.5, 9.5], [0.2, 5.0], [9.2, 8.0], [5.5, 5.5]])
    step = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.5], [0.3, -0.4]])
    end = mazes.move(start, step)
    np.testing.assert_allclose(end[0], [5.0, 4.0 - mazes.MARGIN])
    np.testing.assert_allclose(end[1], [2.0, 4.5])  # above the wall's end
    np.testing.assert_allclose(end[2], [9.5, 10.0 - mazes.MARGIN])
    np.testing.assert_allclose(end[3], [mazes.MARGIN, 5.0])
    np.testing.assert_allclose(end[4], [9.0 + mazes.MARGIN, 8.0 + 0.5 * (0.2 - mazes.MARGIN)])
    np.testing.assert_allclose(end[5], start[5] + step[5])
    long = mazes.move(start[5:], np.array([[3.0, 0.0]]))
    np.testing.assert_allclose(long, [[6.5, 5.5]])  # a move is at most 1 along each axis


def test_no_walk_ever_crosses_a_wall():
    rng = np.random.default_rng(0)
    at = rng.uniform(0, 10, (400, 2))
    for _ in range(200):
        to = mazes.move(at, rng.uniform(-1, 1, at.shape))
        assert (to > 0).all() and (to < 10).all()
        for axis, where, low, high in mazes.WALLS:
            sides = (at[:, axis] - where) * (to[:, axis] - where)
            t = (where - at[:, axis]) / np.where(sides < 0, to[:, axis] - at[:, axis], 1.0)
            other = at[:, 1 - axis] + t * (to - at)[:, 1 - axis]
            assert not ((sides < 0) & (other >= low) & (other <= high)).any()
        at = to


def test_continuous_demonstration_can_be_walked():
    d = mazes.continuous_demonstration()
    assert len(d) == 20 and np.abs(d.actions).max() < 1
    here, there = (10.0 * x.astype(np.float64) + 5 for x in (d.observations, d.next_observations))
    np.testing.assert_allclose(mazes.move(here, d.actions.astype(np.float64)), there, atol=1e-4)
    np.testing.assert_allclose(here[1:], there[:-1])
    assert np.linalg.norm(there[-1] - [9.5, 9.5]) < 1


# ------------------------------------------------------------------ rollouts' scores


def test_follow_scores():
    path = mazes.PATH_CELLS

    def padded(cells):
        return np.array([*cells, *[cells[-1]] * (30 - len(cells))])

    def one(cells):
        return {k: v[0] for k, v in mazes.follow_scores(padded(cells)[None]).items()}

    assert one(path) == {"reach": 1, "steps": 0, "follow": 1, "success": 1}
    joined = one([cell(1, 4), cell(2, 4), *path[4:]])
    assert joined == {"reach": 1, "steps": 1, "follow": 1, "success": 1}
    stuck = one([*path[:6], *[path[4], path[5]] * 5])
    assert (stuck["reach"], stuck["success"]) == (1, 0) and stuck["follow"] == pytest.approx(5 / 15)
    away = one([cell(0, 0), cell(0, 1)])
    assert (away["reach"], away["follow"], away["success"]) == (0, 0, 0) and np.isnan(away["steps"])
    assert one([cell(9, 9)]) == {"reach": 1, "steps": 0, "follow": 1, "success": 1}
    # a detour off the path and back to where it was left is still in order
    detour = one([path[0], path[1], cell(1, 2), path[1], *path[2:]])
    assert detour["success"] == 1
