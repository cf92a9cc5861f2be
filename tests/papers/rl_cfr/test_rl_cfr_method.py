"""Networks, rewards, transitions and the bandit that they make."""

import numpy as np
import pytest
import torch

from papers.rl_cfr import abstraction, baselines, mdp, method, task
from papers.rl_cfr.mdp import Belief, Solving
from papers.rl_cfr.method import Learner

DEFAULT = abstraction.fixed(abstraction.DEFAULT_SIZES)
BELOW = (DEFAULT, DEFAULT)


def belief_of(index: int = 0, stack: float | None = None) -> tuple[Belief, object]:
    nine, drawn = task.held_out(index + 1)[index]
    state = task.first_state(nine, stack or drawn)
    return Belief(state, mdp.uniform_ranges()), task.make_deal(nine)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_networks_are_the_repositorys() -> None:
    assert count(method.Actor(5)) == 18_026
    assert count(method.Critic(5)) == 18_433


@pytest.mark.parametrize("n_features", [32, 104])
def test_compiled_actor_is_the_actor(n_features: int) -> None:
    actor = method.Actor(3, n_features)
    for p in actor.parameters():  # LayerNorm's weights too
        torch.nn.init.normal_(p, std=0.5)
    policy = abstraction.learned(actor.state_dict())
    assert policy.n_pairs == 3
    x = torch.randn(20, n_features)
    with torch.no_grad():
        expected = actor(x).numpy()
    found = [abstraction.act(policy.weights, row) for row in x.numpy().astype(float)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_actors_step_leaves_the_critic_alone_and_the_target_follows() -> None:
    learner = Learner(2)
    s, a, r = torch.randn(64, 32), torch.rand(64, 4) * 2 - 1, torch.randn(64)
    for group in learner.critic_optimiser.param_groups:
        group["lr"] = 0.0
    before = {k: v.clone() for k, v in learner.critic.state_dict().items()}
    actor = {k: v.clone() for k, v in learner.actor.state_dict().items()}
    target = {k: v.clone() for k, v in learner.target.state_dict().items()}
    learner.learn(s, a, r, tau=0.1)
    for k, v in learner.critic.state_dict().items():
        torch.testing.assert_close(v, before[k], rtol=0, atol=0)
    now = learner.actor.state_dict()
    assert any(not torch.equal(now[k], actor[k]) for k in actor)
    for k, v in learner.target.state_dict().items():
        torch.testing.assert_close(v, target[k] + 0.1 * (now[k] - target[k]))


def test_critic_regresses_the_reward_itself() -> None:
    """A contextual bandit: no next state and no discount enter."""
    learner = Learner(1, lr=1e-3)
    s, a = torch.randn(64, 32), torch.rand(64, 2) * 2 - 1
    r = a[:, 0] + 3.0
    for _ in range(250):
        learner.learn(s, a, r)
    with torch.no_grad():
        assert (learner.critic(s, a) - r).abs().mean() < 0.1


def test_actor_converges_on_a_synthetic_reward() -> None:
    """r = -|a - g(s)|^2 with g(s) = tanh of two features."""
    learner = Learner(1, 4, lr=2e-3)
    rng = np.random.default_rng(0)

    def g(s: torch.Tensor) -> torch.Tensor:
        return 0.8 * torch.tanh(s[:, :2])

    for _ in range(700):
        s = torch.from_numpy(rng.standard_normal((128, 4))).float()
        with torch.no_grad():
            a = (learner.target(s) + 0.4 * torch.randn(128, 2)).clamp(-1, 1)
        learner.learn(s, a, -((a - g(s)) ** 2).sum(1), tau=0.02)
    s = torch.randn(500, 4)
    with torch.no_grad():
        assert ((learner.target(s) - g(s)) ** 2).mean() < 0.03  # 0.4 at the start


# -- rewards and transitions ---------------------------------------------------------------------


def test_the_default_abstraction_itself_gains_nothing() -> None:
    belief, deal = belief_of()
    same = abstraction.fixed(abstraction.chosen_sizes(np.array([-0.6, 1, -0.2, 1]), False, 9.0))
    how = Solving(300, None)
    solved = [mdp.solve_with(belief, deal, one, BELOW, how) for one in (same, DEFAULT)]
    assert mdp.reward(*solved) == pytest.approx(0, abs=1e-9)


def test_a_reward_is_the_acting_players_gain_per_hand() -> None:
    """Positive for a set that contains the default, for whoever acts; in mbb per hand."""
    belief, deal = belief_of(1, 9.0)
    more = abstraction.fixed((0.25, 1.0, 2.0))
    how = Solving(2000, None)
    chosen, base = (mdp.solve_with(belief, deal, x, BELOW, how) for x in (more, DEFAULT))
    errors = 2000 * (chosen.solution.exploitability + base.solution.exploitability)
    assert mdp.reward(chosen, base) > -errors
    assert chosen.value == pytest.approx(1000 * chosen.solution.values[1])
    limp = task.child_state(belief.state, base.grown, 2)
    assert limp.player == 0
    at_limp = Belief(limp, belief.ranges)
    chosen, base = (mdp.solve_with(at_limp, deal, x, BELOW, how) for x in (more, DEFAULT))
    errors = 2000 * (chosen.solution.exploitability + base.solution.exploitability)
    assert mdp.reward(chosen, base) > -errors
    assert chosen.value == pytest.approx(1000 * chosen.solution.values[0])


def test_rewards_do_not_shrink_with_reach() -> None:
    belief, deal = belief_of(2)
    how = Solving(300, None)
    thin = belief._replace(ranges=belief.ranges * 1e-3)
    none = abstraction.fixed(())
    gains = [
        mdp.reward(*(mdp.solve_with(b, deal, x, BELOW, how) for x in (none, DEFAULT)))
        for b in (belief, thin)
    ]
    assert gains[0] == pytest.approx(gains[1], abs=1e-6) and abs(gains[0]) > 0.1


def test_iterates_values_differ_from_the_averages() -> None:
    belief, deal = belief_of(3)
    both = [
        mdp.solve_with(belief, deal, DEFAULT, BELOW, Solving(250, None, value))
        for value in ("average", "iterates")
    ]
    np.testing.assert_array_equal(both[0].solution.policy, both[1].solution.policy)
    assert 1e-3 < abs(both[0].value - both[1].value) < 50


def test_transition_is_bayes_rule() -> None:
    belief, deal = belief_of(4)
    how = Solving(200, None)
    solved = mdp.solve_with(belief, deal, DEFAULT, BELOW, how)
    tree = solved.grown.tree
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(200):
        after = mdp.transition(belief, deal, solved, solved, rng)
        if after is None:
            continue
        seen += 1
        np.testing.assert_allclose(after.ranges.sum(1), 1)
        np.testing.assert_array_equal(after.ranges[0], belief.ranges[0])  # only the actor's moves
        child = next(
            c
            for c in range(tree.first[0], tree.last[0])
            if (solved.grown.events[c] == after.state.events).all()
        )
        expected = belief.ranges[1] * solved.solution.policy[child]
        np.testing.assert_allclose(after.ranges[1], expected / expected.sum())
        assert after.state.player == 0 and after.state.n_events == 1
    assert seen > 50


def test_a_range_without_mass_is_kept_and_uniform_children_are_a_quarter() -> None:
    belief, deal = belief_of(5)
    solved = mdp.solve_with(belief, deal, DEFAULT, BELOW, Solving(50, None))
    policy = np.zeros_like(solved.solution.policy)
    policy[1] = 1.0  # always fold
    folding = solved._replace(solution=solved.solution._replace(policy=policy))
    rng = np.random.default_rng(0)
    ended, n, actions = 0, 4000, int(solved.grown.tree.last[0] - 1)
    for _ in range(n):
        after = mdp.transition(belief, deal, folding, folding, rng)
        if after is None:
            ended += 1
        else:  # a child that is never played
            np.testing.assert_array_equal(after.ranges, belief.ranges)
    assert ended / n == pytest.approx(0.75 + 0.25 / actions, abs=0.03)
    along = [
        mdp.transition(belief, deal, folding, solved, rng, p_uniform=0.0) is not None
        for _ in range(n)
    ]
    mass = solved.solution.policy[1] @ belief.ranges[1]
    assert np.mean(along) == pytest.approx((1 - mass) / 3, abs=0.03)  # a third from the default


def test_ranges_never_exclude_each_other() -> None:
    """A child that is never played may leave each player a hand with the same card."""
    belief, deal = belief_of(5)
    solved = mdp.solve_with(belief, deal, DEFAULT, BELOW, Solving(50, None))
    one_hand = belief.ranges.copy()
    one_hand[0] = np.eye(36)[0]
    blocked = np.flatnonzero((deal.compatible[0] == 0) & (np.arange(36) > 0))[0]
    policy = np.zeros_like(solved.solution.policy)
    policy[1:6, blocked] = 0.2  # only a hand that the other's excludes goes on
    policy[1] = 1 - policy[2:6].sum(0)
    forced = solved._replace(solution=solved.solution._replace(policy=policy))
    rng = np.random.default_rng(0)
    followed = 0
    for _ in range(200):
        start = belief._replace(ranges=one_hand)
        after = mdp.transition(start, deal, forced, forced, rng, p_uniform=1.0)
        if after is not None:
            followed += 1
            assert after.ranges[0] @ deal.compatible @ after.ranges[1] > 1e-6
            np.testing.assert_array_equal(after.ranges[1], one_hand[1])
    assert followed > 50


def test_noise_reaches_every_coordinate_and_is_not_reseeded() -> None:
    """The repository draws noise of size 3 in one place and reseeds its generator by the clock."""
    rng = np.random.default_rng(0)
    draws = np.array([mdp.explore(np.zeros(10), 0.15, rng) for _ in range(2000)])
    np.testing.assert_allclose(draws.std(0), 0.15, atol=0.01)
    assert len(np.unique(draws[:, 0])) == 2000
    assert np.abs(mdp.explore(np.full(10, 0.99), 5.0, rng)).max() <= 1


def test_ranges_are_seen_in_the_ablation_alone() -> None:
    belief, _ = belief_of()
    other = belief._replace(ranges=np.random.default_rng(0).dirichlet(np.ones(36), 2))
    np.testing.assert_array_equal(mdp.inputs(belief, False), mdp.inputs(other, False))
    assert mdp.inputs(other, True).shape == (32 + 72,)
    assert not np.array_equal(mdp.inputs(belief, True), mdp.inputs(other, True))


# -- baselines -----------------------------------------------------------------------------------


def test_the_oracle_is_best_of_its_grid_and_tuning_of_its_mean() -> None:
    belief, deal = belief_of(6)
    how = Solving(300, None)
    best = baselines.best_single_size(belief, deal, DEFAULT, how)
    gains = baselines.root_gains(
        belief, deal, [best.sizes, *((x,) for x in baselines.ORACLE_GRID)], DEFAULT, how
    )
    assert gains[0] == pytest.approx(gains.max())
    deals = task.tuning_deals(2)
    sizes, table = baselines.tune_fixed(deals, 1, DEFAULT, Solving(100, None))
    assert len(table) == 1 + len(baselines.TUNING_GRID) and table[0][0] == sizes
    mean = np.mean(
        [
            baselines.root_gains(
                Belief(task.first_state(nine, stack), mdp.uniform_ranges()),
                task.make_deal(nine), [sizes], DEFAULT, Solving(100, None),
            )
            for nine, stack in deals
        ]
    )  # fmt: skip
    assert table[0][1] == pytest.approx(mean)


def test_the_two_trees_differ_at_the_root_alone() -> None:
    """The opponent keeps its options: a gain cannot come from taking them away."""
    belief, _ = belief_of(7)
    grown = task.grow(belief.state, abstraction.fixed((1.0,)), DEFAULT, DEFAULT)
    base = task.grow(belief.state, DEFAULT, DEFAULT, DEFAULT)

    def below(tree: task.Grown, child: int) -> np.ndarray:
        nodes = [child]
        for i in nodes:
            nodes += range(tree.tree.first[i], tree.tree.last[i])
        return tree.chips[nodes]

    for child in range(1, int(grown.tree.last[0])):
        twin = next(
            c
            for c in range(1, int(base.tree.last[0]))
            if (base.chips[c] == grown.chips[child]).all()
            and base.tree.kind[c] == grown.tree.kind[child]
        )
        np.testing.assert_array_equal(below(grown, child), below(base, twin))
