"""TD3's pieces against stable-baselines3, by hand, and stacked against separate seeds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.stacked import adam, rand, randn, seed_generators
from common.td3 import (
    Actor,
    Batch,
    TwinCritic,
    actor_loss,
    critic_loss,
    critic_target,
    first_q,
    frozen,
    noisy,
    polyak,
)

torch.set_num_threads(1)


def test_losses_by_hand() -> None:
    q = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])  # [S = 1, 2, B = 2]
    reward, over = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    target = critic_target(reward, over, q.requires_grad_(), 0.9)
    torch.testing.assert_close(target, torch.tensor([[1.9, 2.0]]))
    assert not target.requires_grad
    expected = torch.tensor([(0.81 + 0) / 2 + (1.21 + 4) / 2])
    torch.testing.assert_close(critic_loss(q, target), expected)
    torch.testing.assert_close(actor_loss(q[:, 0]), torch.tensor([-1.5]))


def test_noise_is_clipped_before_the_action_is() -> None:
    action = torch.tensor([0.0, 0.9, -0.9])
    noise = torch.tensor([4.0, 4.0, 1.0])
    torch.testing.assert_close(noisy(action, noise, 0.2, 0.5), torch.tensor([0.5, 1.0, -0.7]))
    torch.testing.assert_close(noisy(action, noise, 0.2), torch.tensor([0.8, 1.0, -0.7]))


def test_first_q_is_the_first_of_both_with_its_gradient() -> None:
    critic = TwinCritic(seed_generators([3, 8], 1), 4, 2, (16, 16))
    obs, action = torch.randn(2, 5, 4), torch.rand(2, 5, 2, requires_grad=True)
    q, both = first_q(critic, obs, action), critic(obs, action)[:, 0]
    torch.testing.assert_close(q, both)
    ours, theirs = (torch.autograd.grad(x.sum(), action)[0] for x in (q, both))
    torch.testing.assert_close(ours, theirs)


def networks(seeds: list[int]) -> list[nn.Module]:
    g = seed_generators(seeds, 1)
    actor, critic = Actor(g, 3, 2, (16, 16)), TwinCritic(g, 3, 2, (16, 16))
    return [actor, critic, copy.deepcopy(actor), copy.deepcopy(critic)]


def trained(seeds: list[int], updates: int) -> list[nn.Module]:
    """TD3 on random batches, drawn by each seed's own generator."""
    actor, critic, slow_actor, slow_critic = nets = networks(seeds)
    by_critic, by_actor = (adam([{"params": list(n.parameters())}]) for n in (critic, actor))
    g = seed_generators(seeds, 2)
    for t in range(updates):
        obs, following = randn(g, 8, 3), randn(g, 8, 3)
        batch = Batch(obs, 2 * rand(g, 8, 2) - 1, randn(g, 8), following, (rand(g, 8) > 0.9) * 1.0)
        noise = randn(g, 8, 2)
        with torch.no_grad():
            smoothed = noisy(slow_actor(following), noise, 0.2, 0.5)
            next_q = slow_critic(following, smoothed)
            y = critic_target(batch.reward, batch.terminated, next_q, 0.99)
        by_critic.zero_grad(set_to_none=True)
        critic_loss(critic(obs, batch.action), y).sum().backward()
        by_critic.step()
        if t % 2:
            by_actor.zero_grad(set_to_none=True)
            with frozen(critic):
                actor_loss(first_q(critic, obs, actor(obs))).sum().backward()
            by_actor.step()
            polyak(slow_critic, critic, 0.05)
            polyak(slow_actor, actor, 0.05)
    return nets


def of_seed(net: nn.Module, index: int, n_seeds: int) -> dict[str, Tensor]:
    """One seed's part of every parameter."""
    return {
        name: p.unflatten(0, (n_seeds, -1))[index].detach() for name, p in net.named_parameters()
    }


def test_stacked_seeds_train_as_separate_runs_do(trained_alike: Any) -> None:
    start, stacked, alone = networks([8]), trained([3, 8], 20), trained([8], 20)
    for before, one, both in zip(start, alone, stacked, strict=True):
        trained_alike(of_seed(one, 0, 1), of_seed(both, 1, 2), of_seed(before, 0, 1))


def ours_of(model: Any) -> tuple[Actor, TwinCritic]:
    """Networks with the weights of a policy of stable-baselines3."""
    g = seed_generators([0], 1)
    actor, critic = Actor(g, 3, 1), TwinCritic(g, 3, 1)
    with torch.no_grad():
        for i in range(3):
            pairs = [
                (actor.net.layers[i], [model.policy.actor.mu[2 * i]]),
                (critic.net.layers[i], [q[2 * i] for q in model.critic.q_networks]),
            ]
            for mine, theirs in pairs:
                mine.weight.copy_(torch.stack([m.weight.T for m in theirs]))
                mine.bias.copy_(torch.stack([m.bias.unsqueeze(0) for m in theirs]))
    return actor, critic


def test_updates_are_stable_baselines3s(
    monkeypatch: pytest.MonkeyPatch, trained_alike: Any
) -> None:
    """The same weights, batch and noise: losses, and all weights after ``TD3.train``."""
    sb3 = pytest.importorskip("stable_baselines3")
    import gymnasium
    import numpy as np
    from stable_baselines3.common.logger import configure

    env = gymnasium.make("Pendulum-v1")
    net = {"net_arch": [256, 256]}
    model = sb3.TD3("MlpPolicy", env, seed=0, device="cpu", batch_size=32, policy_kwargs=net)
    model.set_logger(configure(None, []))
    g = seed_generators([0], 3)
    obs, following, action = randn(g, 64, 3)[0], randn(g, 64, 3)[0], (2 * rand(g, 64, 1) - 1)[0]
    reward = randn(g, 64)[0]
    for i in range(64):
        rows = [x[i : i + 1].numpy() for x in (obs, following, action, reward)]
        model.replay_buffer.add(*rows, np.array([i % 7 == 0]), [{}])
    actor, critic = ours_of(model)
    start = [copy.deepcopy(dict(n.named_parameters())) for n in (actor, critic)]
    slow_actor, slow_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    by_critic, by_actor = (adam([{"params": list(n.parameters())}]) for n in (critic, actor))

    sampled: list[Any] = []
    sample = model.replay_buffer.sample
    monkeypatch.setattr(
        model.replay_buffer,
        "sample",
        lambda *a, **k: sampled.append(sample(*a, **k)) or sampled[-1],
    )
    noises: list[Tensor] = []
    normal = Tensor.normal_

    def recorded(self: Tensor, mean: float = 0, std: float = 1, **more: Any) -> Tensor:
        drawn = normal(self, mean, std, **more)
        noises.append(drawn.clone() / std)
        return drawn

    monkeypatch.setattr(Tensor, "normal_", recorded)
    logged: dict[str, float] = {}
    monkeypatch.setattr(
        model.logger, "record", lambda name, value, **_: logged.update({name: value})
    )
    model.train(gradient_steps=2, batch_size=32)
    monkeypatch.undo()

    seen = []
    for t, data in enumerate(sampled):
        one = [x[None] for x in (data.observations, data.actions, data.next_observations)]
        s, a, s_next = one
        over, r = data.dones[None, :, 0], data.rewards[None, :, 0]
        with torch.no_grad():
            next_q = slow_critic(s_next, noisy(slow_actor(s_next), noises[t][None], 0.2, 0.5))
            y = critic_target(r, over, next_q, 0.99)
        loss = critic_loss(critic(s, a), y)
        seen.append(float(loss.detach()))
        by_critic.zero_grad(set_to_none=True)
        loss.sum().backward()
        by_critic.step()
    by_actor.zero_grad(set_to_none=True)
    with frozen(critic):
        loss = actor_loss(first_q(critic, s, actor(s)))
        loss.sum().backward()
    by_actor.step()
    polyak(slow_critic, critic, 0.005)
    polyak(slow_actor, actor, 0.005)

    assert logged["train/critic_loss"] == pytest.approx(sum(seen) / 2, rel=1e-4)
    assert logged["train/actor_loss"] == pytest.approx(float(loss.detach()), rel=1e-3)
    for mine, theirs, before in zip((actor, critic), ours_of(model), start, strict=True):
        trained_alike(*(dict(n.named_parameters()) for n in (mine, theirs)), before)
    model.critic, model.policy.actor = model.critic_target, model.actor_target
    pairs = zip((slow_actor, slow_critic), ours_of(model), start, strict=True)
    for mine, theirs, before in pairs:
        trained_alike(*(dict(n.named_parameters()) for n in (mine, theirs)), before)
