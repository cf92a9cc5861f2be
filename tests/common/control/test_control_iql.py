"""Implicit Q-learning: expectiles against SciPy's, the fixed point of a small MDP, bootstraps."""

import numpy as np
import pytest
import torch
from scipy.stats import expectile

from common.control.episodes import Episode
from common.control.iql import (
    GaussianPolicy,
    Value,
    advantage_weights,
    critic_target,
    expectile_loss,
    locomotion_scale,
    policy_loss,
    transitions,
    value_loss,
)
from common.control.trajectories import joined
from common.control.windows import Standardizer
from common.sac import TwinCritic, critic_loss
from common.stacked import adam, seed_generators
from tests.fake_cuda import fake_cuda


def test_the_loss_by_hand():
    error = torch.tensor([-2.0, 0.0, 3.0])
    assert expectile_loss(error, 0.9).tolist() == pytest.approx([0.4, 0.0, 8.1])
    assert torch.equal(expectile_loss(error, 0.5), 0.5 * error.square())


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.7, 0.9])
def test_the_loss_is_least_at_the_expectile(tau):
    sample = np.random.default_rng(0).gumbel(size=40)
    for values, wanted in (([0.0, 1.0], tau), (sample, expectile(sample, tau))):
        v = torch.tensor([[wanted]], dtype=torch.float64, requires_grad=True)
        # the smaller one of the twins counts
        q = torch.tensor(np.array([[values, np.array(values) + 1]]))
        loss = value_loss(v.expand(1, q.shape[-1]), q, tau)
        (gradient,) = torch.autograd.grad(loss.sum(), v)
        assert gradient.item() == pytest.approx(0, abs=1e-8)
        moved = [value_loss((v + d).expand(1, q.shape[-1]), q, tau).item() for d in (-0.1, 0.1)]
        assert min(moved) > loss.item()


def test_targets_stop_at_terminations_alone():
    reward, next_v = torch.tensor([[1.0, 1.0]]), torch.tensor([[10.0, 10.0]], requires_grad=True)
    y = critic_target(reward, torch.tensor([[0.0, 1.0]]), next_v, 0.9)
    assert y.tolist() == [[10.0, 1.0]] and not y.requires_grad


# three states, two actions: action 0 goes on and 1 returns; what follows and whether it is the end
NEXT = np.array([[1, 0], [2, 0], [2, 1]])
REWARD = np.array([[0.0, 0.3], [0.5, -0.2], [1.0, 0.1]])
END = np.array([[0, 0], [0, 0], [1, 0]])
TIMES = np.array([[3, 1], [1, 2], [1, 4]])  # how often the data hold each
GAMMA = 0.9


def fixed_point(tau):
    v = np.zeros(3)
    for _ in range(400):
        q = REWARD + GAMMA * (1 - END) * v[NEXT]
        v = np.array([expectile(np.repeat(q[s], TIMES[s]), tau) for s in range(3)])
    return q, v


@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_tables_are_trained_to_the_fixed_point_of_a_small_mdp(tau):
    q_wanted, v_wanted = fixed_point(tau)
    s, a = np.nonzero(TIMES)
    s, a = np.repeat(s, TIMES[s, a]), np.repeat(a, TIMES[s, a])
    reward, ended, following = (torch.tensor(x[s, a])[None] for x in (REWARD, END, NEXT))
    v = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    q = torch.zeros(2, 3, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([v, q], lr=0.03)
    for step in range(1500):
        if step == 1000:
            optimizer.param_groups[0]["lr"] = 0.003
        chosen = q[:, s, a][None]  # [1, 2, B]
        y = critic_target(reward, ended, v[following], GAMMA)
        loss = value_loss(v[s][None], chosen, tau) + critic_loss(chosen, y)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    assert v.detach().numpy() == pytest.approx(v_wanted, abs=2e-3)
    for table in q.detach().numpy():
        assert table == pytest.approx(q_wanted, abs=2e-3)


def test_higher_expectiles_come_near_the_best_policys_values():
    best = np.zeros(3)
    for _ in range(400):
        best = (REWARD + GAMMA * (1 - END) * best[NEXT]).max(1)
    values = [fixed_point(tau)[1] for tau in (0.5, 0.7, 0.9, 0.999)]
    assert all((high > low).all() for low, high in zip(values, values[1:], strict=False))
    assert values[-1] == pytest.approx(best, abs=0.03) and (values[-1] < best + 1e-9).all()


def test_weights_are_exponential_and_bounded():
    q = torch.tensor([[[1.0, 5.0, 50.0], [2.0, 4.0, 60.0]]])
    weights = advantage_weights(q, torch.tensor([[0.0, 4.0, 0.0]]), 3.0)
    assert weights[0].tolist() == pytest.approx([np.exp(3.0), 1.0, 100.0])


def test_the_policys_likelihood_is_that_of_a_normal_law():
    policy = GaussianPolicy(seed_generators((0, 1), 1), 3, 2, (8,))
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([[[0.1, -0.4]], [[-9.0, 9.0]]]))  # seed 1: out of range
    g = torch.Generator().manual_seed(0)
    obs, action = torch.randn(2, 5, 3, generator=g), torch.randn(2, 5, 2, generator=g)
    std = torch.tensor([[[0.1, -0.4]], [[-5.0, 2.0]]]).exp()
    normal = torch.distributions.Normal(policy(obs), std)
    torch.testing.assert_close(policy.log_prob(obs, action), normal.log_prob(action).sum(-1))
    assert policy(obs).abs().max() < 1


def test_extraction_is_the_weighted_mean_of_the_actions():
    action = torch.tensor([[0.5, -0.2, 0.1]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 3.0, 4.0]], dtype=torch.float64)
    mean = (weights * action).sum() / weights.sum()
    mean.requires_grad_()
    log_prob = -0.5 * (action - mean).square()
    (gradient,) = torch.autograd.grad(policy_loss(log_prob, weights).sum(), mean)
    assert gradient.item() == pytest.approx(0, abs=1e-12)


def episodes():
    made = []
    for terminated in (True, False):
        T = 3
        last = np.arange(T) == T - 1
        values = np.arange(T + 1, dtype=np.float32)[:, None] + 10 * terminated
        ends = (last & terminated, last & (not terminated))
        made.append(Episode(values, values[:T] / 100, values[:T, 0] * 2, *ends))
    return made


def test_transitions_bootstrap_a_time_limit_from_what_was_seen_last():
    data = transitions(joined(episodes()), reward_scale=0.5)
    assert data.terminated.tolist() == [0, 0, 1, 0, 0, 0]
    assert data.next_obs[:, 0].tolist() == [11, 12, 13, 1, 2, 3]
    assert data.reward.tolist() == data.obs[:, 0].tolist()
    scale = Standardizer.fit(joined(episodes()).observations)
    scaled = transitions(joined(episodes()), standardizer=scale)
    assert scaled.next_obs.numpy() == pytest.approx(scale(data.next_obs.numpy()))


def test_batches_keep_rows_together_and_seeds_apart():
    data = transitions(joined(episodes()))
    batch = data.sample(seed_generators((0, 1), 3), 64)
    assert batch.obs.shape == (2, 64, 1) and batch.reward.shape == (2, 64)
    assert torch.equal(batch.next_obs, batch.obs + 1)
    torch.testing.assert_close(batch.action * 100, batch.obs)
    assert torch.equal(batch.terminated, (batch.obs == 12).float().squeeze(-1))
    assert not torch.equal(batch.obs[0], batch.obs[1])
    alone = data.sample(seed_generators((1,), 3), 64)
    assert torch.equal(alone.obs[0], batch.obs[1])


def test_one_value_per_row_and_seed():
    value = Value(seed_generators((0, 1), 1), 3, (8,))
    assert value(torch.zeros(2, 5, 3)).shape == (2, 5)


def test_the_scale_of_locomotion():
    assert locomotion_scale(np.array([-100.0, 300.0, 0.0])) == 2.5
    with pytest.raises(ValueError, match="same return"):
        locomotion_scale(np.ones(3))


def test_an_update_stays_on_its_device():
    def updated_on(device):
        seeds = seed_generators((0, 1), 1)
        critic, value = TwinCritic(seeds, 1, 1, (8,)), Value(seeds, 1, (8,))
        policy = GaussianPolicy(seeds, 1, 1, (8,))
        nets = [net.to(device) for net in (critic, value, policy)]
        optimizer = adam([{"params": [p for net in nets for p in net.parameters()]}])
        data = transitions(joined(episodes()), device=device)
        batch = data.sample(seed_generators((0, 1), 2, device), 8)
        q, v = critic(batch.obs, batch.action), value(batch.obs)
        y = critic_target(batch.reward, batch.terminated, value(batch.next_obs), 0.9)
        weights = advantage_weights(q, v, 3.0)
        loss = value_loss(v, q, 0.7) + critic_loss(q, y)
        loss = loss + policy_loss(policy.log_prob(batch.obs, batch.action), weights)
        loss.sum().backward()
        optimizer.step()
        return torch.cat([p.detach().cpu().flatten() for net in nets for p in net.parameters()])

    here = updated_on("cpu")
    with fake_cuda():
        torch.use_deterministic_algorithms(True)  # as every run does
        there = updated_on("cuda")
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)
