"""Memory, sequential exploration and the offline learners against numbers that are known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.marl.episodes import Batch, Episode, batch_of
from common.marl.targets import epsilon_greedy, taken
from papers.ovmse import baselines, learning, tabular
from papers.ovmse.config import Config
from papers.ovmse.learning import Q_OFF, Conservative, adam, loss_of, td_target, update
from papers.ovmse.method import (
    frozen,
    independent,
    memory,
    memory_target,
    memory_weight,
    one_explorer,
    sequential,
)
from papers.ovmse.networks import Values
from papers.ovmse.tabular import RIGHT, Setting

torch.set_num_threads(1)
CFG = Config(hidden=16, embed=8, hypernet=8)


class Sizes:
    n_agents, obs_dim, state_dim, n_actions = 3, 7, 11, 5


class One(Sizes):
    n_agents = 1


class Two(Sizes):
    n_agents, n_actions = 2, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def values(env: Any = Sizes, seed: int = 0) -> Values:
    return Values(env, CFG, generator(seed))


def episodes(
    lengths: tuple[int, ...] = (4, 6, 2), env: Any = Sizes, seed: int = 0
) -> list[Episode]:
    """Random episodes; the first is cut, the others terminated."""
    rng, made = np.random.default_rng(seed), []
    for i, length in enumerate(lengths):
        moments = (length + 1, env.n_agents)
        avail = rng.random((*moments, env.n_actions)) < 0.7
        avail[..., 0] = True
        scores = np.where(avail, rng.random(avail.shape), -1)
        made.append(
            {
                "obs": rng.standard_normal((*moments, env.obs_dim), dtype=np.float32),
                "state": rng.standard_normal((length + 1, env.state_dim), dtype=np.float32),
                "avail": avail,
                "alive": np.ones(moments, bool),
                "agent_type": np.zeros(moments, np.int64),
                "actions": scores.argmax(-1)[:-1],
                "reward": rng.standard_normal(length, dtype=np.float32),
                "terminated": np.eye(length, dtype=np.float32)[-1] * (i > 0),
                "won": np.array(False),
            }
        )
    return made


def batch(*args: Any, **kwargs: Any) -> Batch:
    return batch_of(episodes(*args, **kwargs))


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q_off", "y_td", "weight", "wanted"),
    [(5, 3, 1, 5), (5, 3, 0.5, 4), (5, 3, 0, 3), (2, 3, 1, 3), (2, 3, 0.5, 3), (2, 3, 0, 3)],
)
def test_memory_target(q_off: float, y_td: float, weight: float, wanted: float) -> None:
    found = memory_target(torch.tensor([float(y_td)]), torch.tensor([float(q_off)]), weight)
    assert found.item() == wanted
    assert memory_target(np.array([y_td]), np.array([q_off]), weight)[0] == wanted


def test_the_maximum_is_taken_of_each_sample_before_it_is_mixed() -> None:
    y, off = torch.tensor([0.0, 4.0]), torch.tensor([2.0, 2.0])
    mixed_first = torch.maximum(off, 0.5 * y + 0.5 * off)
    found = memory_target(y, off, 0.5)
    torch.testing.assert_close(found, 0.5 * y + 0.5 * torch.maximum(y, off))
    assert not torch.allclose(found, mixed_first)


def test_without_weight_or_memory_it_is_the_plain_target_bit_for_bit() -> None:
    y, off = torch.randn(100, generator=generator()), torch.randn(100, generator=generator(1))
    assert torch.equal(memory_target(y, 1e6 * off, 0.0), y)
    for weight in (0.3, 1.0):
        assert torch.equal(memory_target(y, torch.full_like(y, -torch.inf), weight), y)


def test_two_losses_have_the_gradient_of_the_mixed_target() -> None:
    q = torch.randn(50, generator=generator(), dtype=torch.double, requires_grad=True)
    y, off = (torch.randn(50, generator=generator(s), dtype=torch.double) for s in (1, 2))
    lam = 0.37
    two = (1 - lam) * (q - y).square().mean()
    two = two + lam * (q - torch.maximum(off, y)).square().mean()
    mixed = (q - memory_target(y, off, lam)).square().mean()
    one, other = (torch.autograd.grad(loss, q)[0] for loss in (two, mixed))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert abs(float((two - mixed).detach())) > 1e-3  # the values differ by a constant


def test_the_weight_falls_in_a_straight_line() -> None:
    assert [memory_weight(t, 50, 0.9, 0.1) for t in (0, 25, 50, 80)] == pytest.approx(
        [0.9, 0.5, 0.1, 0.1]
    )


def test_memory_is_of_the_step_itself_with_a_memory_of_its_own() -> None:
    """Step by step, each episode by itself; and after the online networks have changed."""
    online = values()
    offline, played = frozen(online), episodes()
    q_off = memory(offline, batch_of(played))
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(1.0)  # nothing is shared
    for b, episode in enumerate(played):
        h, last = offline.agents.initial(1), torch.zeros(1, 3, 5)
        for t in range(len(episode["reward"])):
            obs = torch.from_numpy(episode["obs"][t])[None]
            inputs = torch.cat([obs, last, torch.eye(3)[None]], -1)
            q, h = offline.agents.step(inputs, h)
            action = torch.from_numpy(episode["actions"][t])[None]
            last = torch.nn.functional.one_hot(action, 5).float()
            state = torch.from_numpy(episode["state"][t])[None]
            wanted = offline.mix(taken(q, action), state)
            torch.testing.assert_close(q_off[b, t], wanted[0], atol=1e-5, rtol=0)


def with_memory(played: list[Episode], offline: Values) -> Batch:
    q_off = memory(offline, batch_of(played)).numpy()
    return batch_of(
        [{**e, Q_OFF: q[: len(e["reward"])]} for e, q in zip(played, q_off, strict=True)]
    )


def test_at_the_start_nothing_moves_where_memory_is_above_the_target() -> None:
    online = values()
    offline = frozen(online)
    given = with_memory(episodes((5, 7, 3, 6)), offline)
    found = loss_of(online, offline, given, CFG, 10.0, memory=1.0)
    found.q_tot.retain_grad()
    found.loss.backward()
    assert found.q_tot.grad is not None
    below = (found.y_td <= given.extra[Q_OFF]) & (given.filled > 0)
    above = (found.y_td > given.extra[Q_OFF]) & (given.filled > 0)
    assert below.any() and above.any()
    # the memory is the online value itself but for rounding of another pass
    assert found.q_tot.grad[below].abs().max() < 1e-6
    assert (found.q_tot.grad[above] < 0).all()  # pulled up


def test_training_leaves_the_offline_networks_alone() -> None:
    online = values()
    offline = frozen(online)
    before = {name: tensor.clone() for name, tensor in offline.state_dict().items()}
    played = episodes((5, 7, 3, 6))
    given, optimizer = with_memory(played, offline), adam(online, 1e-2)
    q_off = given.extra[Q_OFF].clone()
    for _ in range(3):
        update(online, frozen(online), optimizer, given, CFG, 1.0, memory=0.5)
    assert all(torch.equal(before[n], t) for n, t in offline.state_dict().items())
    assert not any(p.requires_grad for p in offline.parameters())
    again = memory(offline, batch_of(played)) * given.filled
    torch.testing.assert_close(again, q_off)
    assert not torch.allclose(memory(online, batch_of(played)), q_off, atol=1e-2)


def test_an_update_is_qmixs_with_memory_where_asked() -> None:
    """The whole loss term by term."""
    online, target, offline = values(seed=0), values(seed=1), values(seed=2)
    given = with_memory(episodes(), offline)
    found = loss_of(online, target, given, CFG, 10.0, memory=0.4)
    wanted = 0.0
    with torch.no_grad():
        q, q_next = online.utilities(given), target.utilities(given)
        for b, length in enumerate((4, 6, 2)):
            after = 0.0
            for t in range(length - 1, -1, -1):
                best = q[b, t + 1].masked_fill(~given.avail[b, t + 1], -1e9).argmax(-1)
                v = target.mix(taken(q_next[b, t + 1], best), given.state[b, t + 1])
                follows = v if t == length - 1 else 0.4 * v + 0.6 * after
                after = 10 * given.reward[b, t] + 0.99 * (1 - given.terminated[b, t]) * follows
                y = 0.6 * after + 0.4 * max(float(given.extra[Q_OFF][b, t]), float(after))
                q_tot = online.mix(taken(q[b, t], given.actions[b, t]), given.state[b, t])
                wanted = wanted + 0.5 * (q_tot - y) ** 2 / 12
    torch.testing.assert_close(found.loss.detach(), wanted, rtol=1e-4, atol=1e-5)


# -- sequential exploration -----------------------------------------------------------------------

DRAWS = 100_000


@pytest.mark.parametrize(
    ("n", "none", "one", "several", "several_independent"),
    [(5, 0.90392, 0.09224, 0.00384, 0.08146), (3, 0.9033, 0.09344, 0.00326, 0.028)],
)
def test_how_many_explore(
    n: int, none: float, one: float, several: float, several_independent: float
) -> None:
    rng, utilities = np.random.default_rng(0), np.zeros((DRAWS, n, 4), np.float32)
    avail = np.ones(utilities.shape, bool)

    def shares(choose: Any) -> list[float]:
        count = choose(utilities, avail, 0.1, rng).explores.sum(-1)
        return [(count == 0).mean(), (count == 1).mean(), (count >= 2).mean()]

    assert shares(sequential) == pytest.approx([none, one, several], abs=3e-3)
    assert shares(independent)[2] == pytest.approx(several_independent, abs=3e-3)
    assert shares(one_explorer) == pytest.approx([0.9, 0.1, 0.0], abs=3e-3)
    assert shares(one_explorer)[2] == 0.0


@pytest.mark.parametrize("choose", [sequential, one_explorer, independent])
def test_who_explores_and_what_they_do(choose: Any) -> None:
    rng = np.random.default_rng(1)
    utilities = rng.standard_normal((60_000, 3, 5)).astype(np.float32)
    avail = np.tile(np.array([1, 0, 1, 1, 0], bool), (60_000, 3, 1))
    utilities[..., 1] = 50.0  # the best, were it available
    actions, explores = choose(utilities, avail, 0.9, rng)
    assert not np.isin(actions, (1, 4)).any()
    greedy = np.where(avail, utilities, -np.inf).argmax(-1)
    assert (actions == greedy)[~explores].all()
    who = explores.mean(0)
    assert who == pytest.approx(who.mean(), abs=0.01)  # no agent more than others
    for a in (0, 2, 3):
        assert (actions[explores] == a).mean() == pytest.approx(1 / 3, abs=0.01)


def test_with_the_same_share_it_is_epsilon_greedy_bit_for_bit() -> None:
    draw = np.random.default_rng(2)
    utilities = draw.standard_normal((40, 3, 5)).astype(np.float32)
    avail = draw.random((40, 3, 5)) < 0.6
    avail[..., 0] = True
    for epsilon in (0.0, 0.3, 1.0):
        wanted = epsilon_greedy(utilities, avail, epsilon, np.random.default_rng(3))
        for found in (
            independent(utilities, avail, epsilon, np.random.default_rng(3)),
            sequential(utilities, avail, 3 * epsilon, np.random.default_rng(3)),
        ):
            assert np.array_equal(found.actions, wanted)


# -- offline learners -----------------------------------------------------------------------------


def penalty(env: Any, weights: Tensor | None = None) -> tuple[Tensor, Batch, Values]:
    net, given = values(env), batch(env=env)
    q = net.utilities(given)[:, :-1]
    others = baselines.counterfactual(net, q, given.actions, given.state[:, :-1])
    q_tot = net.mix(taken(q, given.actions), given.state[:, :-1])
    return baselines.cfcql_penalty(others, given.avail[:, :-1], q_tot, weights), given, net


def test_the_conservative_term_by_enumeration() -> None:
    found, given, net = penalty(Two)
    with torch.no_grad():
        q = net.utilities(given)
        for b, t in itertools.product(range(3), range(2)):
            own, state = given.actions[b, t], given.state[b, t]
            terms = []
            for i in range(2):
                total = 0.0
                for a in range(3):
                    if not given.avail[b, t, i, a]:
                        continue
                    joint = own.clone()
                    joint[i] = a
                    total += float(net.mix(taken(q[b, t], joint), state).exp())
                terms.append(np.log(total))
            wanted = np.mean(terms) - float(net.mix(taken(q[b, t], own), state))
            assert float(found[b, t]) == pytest.approx(wanted, abs=1e-5)


def test_with_one_agent_it_is_cql() -> None:
    found, given, net = penalty(One)
    q = net.utilities(given)[:, :-1]
    each = torch.stack(
        [
            net.mix(taken(q, torch.full_like(given.actions, a)), given.state[:, :-1])
            for a in range(5)
        ],
        -1,
    ).masked_fill(~given.avail[:, :-1, 0], -torch.inf)
    q_tot = net.mix(taken(q, given.actions), given.state[:, :-1])
    torch.testing.assert_close(found, each.logsumexp(-1) - q_tot)


def test_the_conservative_term_is_not_negative() -> None:
    for env in (One, Two, Sizes):
        found, given, _ = penalty(env)
        assert (found[given.filled > 0] >= -1e-6).all()


def test_weights_add_up_and_follow_the_divergence() -> None:
    net, given = values(), batch()
    q, avail = net.utilities(given)[:, :-1], given.avail[:, :-1]
    others = baselines.counterfactual(net, 5 * q, given.actions, given.state[:, :-1])
    logits = torch.randn(*q.shape, generator=generator(3))
    flat = baselines.moderate_weights(others, avail, logits, 0.0)
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / 3))
    steep = baselines.moderate_weights(others, avail, logits, 2.0)
    torch.testing.assert_close(steep.sum(-1), torch.ones(3, 6))
    # by hand for one step
    kl = []
    for i in range(3):
        a = avail[0, 0, i]
        mu, beta = others[0, 0, i][a].softmax(-1), logits[0, 0, i][a].softmax(-1)
        kl.append(float((mu * (mu / beta).log()).sum().detach()))
    wanted = torch.softmax(2 * torch.tensor(kl), -1)
    torch.testing.assert_close(steep[0, 0], wanted, atol=1e-4, rtol=1e-4)
    # agents that do what the data do get 1 / n
    same = baselines.moderate_weights(others, avail, others, 5.0)
    torch.testing.assert_close(same, torch.full_like(same, 1 / 3))


def test_macql_comes_near_the_sum_over_all_joint_actions() -> None:
    """A mean over samples stands for the mean over all: log(K / M) apart, up to noise."""
    net, given = values(Two), batch((3,), Two)
    with torch.no_grad():
        q, avail, state = net.utilities(given)[:, :-1], given.avail[:, :-1], given.state[:, :-1]
        q_tot = net.mix(taken(q, given.actions), state)
        found = baselines.macql_penalty(net, q, avail, state, q_tot, 5_000, generator())
        for t in range(3):
            allowed = [
                net.mix(taken(q[0, t], torch.tensor(joint)), state[0, t])
                for joint in itertools.product(range(3), repeat=2)
                if all(avail[0, t, i, a] for i, a in enumerate(joint))
            ]
            mean = torch.stack(allowed).exp().mean().log()
            wanted = float(mean + np.log(5_000) - q_tot[0, t])
            assert float(found[0, t]) == pytest.approx(wanted, abs=0.02)


def test_cloning_is_the_likelihood_over_available_actions() -> None:
    given = batch()
    logits = torch.randn(3, 6, 3, 5, generator=generator())
    found = baselines.cloning_loss(logits, given.avail[:, :-1], given.actions, given.filled)
    total = 0.0
    for b, length in enumerate((4, 6, 2)):
        for t, i in itertools.product(range(length), range(3)):
            a = given.avail[b, t, i]
            own = int(given.actions[b, t, i])
            p = logits[b, t, i].masked_fill(~a, -torch.inf).softmax(-1)[own]
            total -= float(p.log()) / 36
    assert float(found) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("kind", ["cfcql", "moderate", "macql"])
def test_a_conservative_update_closes_the_gap(kind: Any) -> None:
    net, given = values(), batch((6, 6, 6, 6))
    term = Conservative(kind, 5.0, 50, 0.5, values(seed=7), generator())
    optimizer = adam(net, 3e-3)
    found = [
        update(net, frozen(net), optimizer, given, CFG, 1.0, term=term)["gap"] for _ in range(60)
    ]
    assert found[-1] < found[0] - 0.2


def test_rewards_are_scaled_and_the_rest_is_not() -> None:
    net, given = values(), batch()
    utilities, off = net.utilities(given), given.reward.clone()
    one, ten = (td_target(utilities, net, given, CFG, scale) for scale in (1.0, 10.0))
    zero = td_target(utilities, net, given, CFG, 0.0)
    torch.testing.assert_close(ten - zero, 10 * (one - zero), atol=1e-4, rtol=1e-4)
    assert torch.equal(given.reward, off)
    assert learning.Q_OFF not in given.extra


# -- the chain ------------------------------------------------------------------------------------


def greedy_chain(weight: float) -> np.ndarray:
    return tabular.learn(Setting(memory=weight, anneal=0, epsilon=0.0), [0])[0]


def test_the_best_values_of_the_chain() -> None:
    np.testing.assert_allclose(tabular.optimal()[:, RIGHT], [0.857375, 0.9025, 0.95, 1.0])
    assert tabular.optimal()[0, 0] == pytest.approx(-0.1 + 0.95 * 0.857375)


def test_greedy_q_learning_unlearns_and_memory_does_not() -> None:
    plain = greedy_chain(0.0)
    assert plain[1:7].round(4).tolist() == [0.8574, 0.8574, 0.6537, 0.4501, 0.3483, 0.3483]
    assert plain.min() == pytest.approx(0.34831, abs=1e-5)
    wanted = {0.9: 0.85687, 0.5: 0.79374, 1.0: 0.857375}
    for weight, worst in wanted.items():
        found = greedy_chain(weight)
        assert found.min() == pytest.approx(worst, abs=1e-5)
        assert found[40] == pytest.approx(0.857375, abs=1e-6)
    assert plain[40] == pytest.approx(0.857375, abs=1e-6)


def test_the_right_values_are_a_fixed_point_for_every_weight() -> None:
    star = tabular.optimal()
    for weight in (0.0, 0.5, 1.0):
        setting = Setting(memory=weight, anneal=0, epsilon=0.5, episodes=5)
        np.testing.assert_allclose(tabular.learn(setting, range(3), star), star[0, RIGHT])


def test_worthless_memory_is_plain_q_learning() -> None:
    worthless = np.full((4, 9), -1e9)
    begun = {"epsilon": 0.3, "episodes": 5, "anneal": 0}
    one = tabular.learn(Setting(memory=0.9, **begun), range(3), worthless)
    other = tabular.learn(Setting(memory=0.0, **begun), range(3), worthless)
    np.testing.assert_array_equal(one, other)


def test_exploring_seeds_unlearn_without_memory_only() -> None:
    worst = {
        (weight, together): tabular.summary(Setting(weight, sequential=together), range(40))[
            "worst"
        ].mean()
        for weight in (0.0, 0.9)
        for together in (True, False)
    }
    assert worst[0.0, True] < 0.4 and worst[0.0, False] < worst[0.0, True]
    assert worst[0.9, True] > 0.95 and worst[0.9, False] > 0.95


def test_memory_that_stays_is_too_high_under_noise() -> None:
    noisy = {"noise": 0.3, "epsilon": 0.0, "anneal": 0}
    kept = tabular.summary(Setting(memory=0.9, **noisy), range(40))["mean"].mean()
    plain = tabular.summary(Setting(memory=0.0, **noisy), range(40))["mean"].mean()
    assert kept > 0.857375 + 0.1 and plain < 0.9


def test_a_seed_is_what_it_would_be_alone() -> None:
    setting = Setting(memory=0.9, sequential=True, noise=0.1, episodes=6)
    together = tabular.learn(setting, [3, 7, 9])
    np.testing.assert_array_equal(together[1:2], tabular.learn(setting, [7]))
