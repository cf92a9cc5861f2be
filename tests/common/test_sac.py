"""SAC's pieces against stable-baselines3's formulas and change of variables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from common.sac import (
    Actor,
    ReplayBuffer,
    TwinCritic,
    actor_loss,
    critic_loss,
    critic_target,
    frozen,
    polyak,
    squash,
    temperature_loss,
)
from common.stacked import rand, randn, seed_generators


def test_log_probability_is_that_of_the_squashed_gaussian() -> None:
    g = seed_generators([0, 1], 1)
    mean, log_std, noise = (randn(g, 6, 3, dtype=torch.float64) for _ in range(3))
    action, log_prob = squash(mean, log_std, noise)
    policy = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    torch.testing.assert_close(log_prob, policy.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)
    far, finite = squash(mean + 40, log_std, noise)
    assert torch.isfinite(finite).all() and far.max() <= 1


def test_losses_by_hand() -> None:
    q = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])  # [S = 1, 2, B = 2]
    log_prob = torch.tensor([[0.5, -0.5]])
    reward, over = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    target = critic_target(reward, over, q, log_prob, 0.1, 0.9)
    torch.testing.assert_close(target, torch.tensor([[1 + 0.9 * (1 - 0.05), 2.0]]))
    expected = 0.5 * ((q - target.unsqueeze(1)) ** 2).mean(-1).sum(-1)
    torch.testing.assert_close(critic_loss(q, target), expected)
    torch.testing.assert_close(actor_loss(q, log_prob, 0.1), torch.tensor([(-0.95 - 0.05) / 2]))
    log_alpha = torch.tensor([0.3])
    torch.testing.assert_close(
        temperature_loss(log_alpha, log_prob, -2.0), torch.tensor([-0.3 * -2.0])
    )


def test_stacked_networks_are_those_of_single_seeds() -> None:
    obs, action = torch.randn(2, 5, 4), torch.rand(2, 5, 2)
    both = TwinCritic(seed_generators([3, 8], 1), 4, 2, (16,))
    one = TwinCritic(seed_generators([8], 1), 4, 2, (16,))
    torch.testing.assert_close(both(obs, action)[1], one(obs[1:], action[1:])[0])
    q = both(obs, action)
    assert q.shape == (2, 2, 5) and not torch.allclose(q[:, 0], q[:, 1])
    actor = Actor(seed_generators([3, 8], 1), 4, 2, (16,))
    alone = Actor(seed_generators([8], 1), 4, 2, (16,))
    torch.testing.assert_close(actor.mode(obs)[1], alone.mode(obs[1:])[0])


def test_frozen_lets_gradients_through_but_not_in() -> None:
    g = seed_generators([0], 1)
    actor, critic = Actor(g, 3, 1, (8,)), TwinCritic(g, 3, 1, (8,))
    obs = randn(g, 4, 3)
    with frozen(critic):
        action, log_prob = actor.sample(obs, randn(g, 4, 1))
        actor_loss(critic(obs, action), log_prob, 0.2).sum().backward()
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in actor.parameters())


def test_replay_wraps_round_and_resumes() -> None:
    buffer = ReplayBuffer(2, capacity=5, obs_dim=1, action_dim=1)
    for t in range(7):
        value = np.full((2, 1), float(t))
        flat = value[:, 0]
        buffer.add(obs=value, action=value, reward=flat, next_obs=value + 1, terminated=0 * flat)
    assert buffer.size == 5
    batch = buffer.sample(seed_generators([0, 1], 4), 200)
    assert set(batch.reward.unique().tolist()) == {2.0, 3.0, 4.0, 5.0, 6.0}
    assert torch.equal(batch.next_obs, batch.obs + 1)
    fresh = ReplayBuffer(2, capacity=5, obs_dim=1, action_dim=1)
    fresh.load(buffer.state())
    again = fresh.sample(seed_generators([0, 1], 4), 200)
    assert torch.equal(again.obs, batch.obs) and fresh.place == buffer.place
    with pytest.raises(ValueError, match="holds"):
        buffer.add(obs=0.0)


def test_polyak_moves_by_tau() -> None:
    source, target = (TwinCritic(seed_generators([s], 1), 2, 1, (4,)) for s in (0, 1))
    before = [p.clone() for p in target.parameters()]
    polyak(target, source, 0.1)
    for p, old, new in zip(target.parameters(), before, source.parameters(), strict=True):
        torch.testing.assert_close(p, 0.9 * old + 0.1 * new)


def test_one_critic_and_actor_step_is_stable_baselines3s() -> None:
    """Same weights, batch and noise: the losses that SAC.train computes."""
    sb3 = pytest.importorskip("stable_baselines3")
    import gymnasium

    model = sb3.SAC("MlpPolicy", gymnasium.make("Pendulum-v1"), seed=0, device="cpu", ent_coef=0.2)
    g = seed_generators([0], 1)
    actor, critic = Actor(g, 3, 1), TwinCritic(g, 3, 1)
    theirs = model.policy.actor
    pairs = [
        (actor.net.layers[0], [theirs.latent_pi[0]]),
        (actor.net.layers[1], [theirs.latent_pi[2]]),
    ]
    for i in range(3):
        pairs.append((critic.net.layers[i], [q[2 * i] for q in model.critic.q_networks]))
    with torch.no_grad():
        for ours, others in pairs:
            ours.weight.copy_(torch.stack([m.weight.T for m in others]))
            ours.bias.copy_(torch.stack([m.bias.unsqueeze(0) for m in others]))
        last = actor.net.layers[2]
        last.weight.copy_(torch.cat([theirs.mu.weight.T, theirs.log_std.weight.T], 1)[None])
        last.bias.copy_(torch.cat([theirs.mu.bias, theirs.log_std.bias])[None, None])
    obs, action = randn(g, 32, 3), 2 * rand(g, 32, 1) - 1
    q = critic(obs, action)
    expected = torch.stack([v[:, 0] for v in model.critic(obs[0], action[0])])
    torch.testing.assert_close(q[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actor.mode(obs)[0], theirs(obs[0], deterministic=True))
    noise = randn(g, 32, 1)
    a, log_prob = actor.sample(obs, noise)
    mean, log_std, _ = theirs.get_action_dist_params(obs[0])
    distribution = theirs.action_dist.proba_distribution(mean, log_std)
    log_theirs = distribution.log_prob(a[0], torch.atanh(a[0]))
    torch.testing.assert_close(log_prob[0], log_theirs, rtol=1e-3, atol=1e-3)
