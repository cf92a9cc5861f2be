"""Networks and hosts: who works with which weights, and what the losses are made of."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.marl.episodes import Batch, batch_of, collect
from common.marl.protocol import Seen, Step, uniform_actions
from common.marl.recurrent import agent_inputs
from papers.kaleidoscope import qmix
from papers.kaleidoscope.agents import Acting, Agents
from papers.kaleidoscope.baselines import PrunedLinear, clusters, describe
from papers.kaleidoscope.config import Config, resolved
from papers.kaleidoscope.eval import disagreement, same_masks, weight_distance
from papers.kaleidoscope.matd3 import (
    Actors,
    Critics,
    Replay,
    critic_loss,
    critic_target,
    with_own,
)
from papers.kaleidoscope.method import MaskedLinear
from papers.kaleidoscope.methods import METHODS, entry
from papers.kaleidoscope.task import TASKS
from tests.papers.kaleidoscope.stand_ins import stand_in

torch.set_num_threads(1)
NETWORKS = [m for m in METHODS if "qmix" in METHODS[m].hosts and METHODS[m].sharing != "script"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def played(env: Any, seed: int = 0) -> Batch:
    """Episodes of random play."""
    rng = np.random.default_rng(seed)
    return batch_of(collect(env, lambda seen, t: uniform_actions(seen, rng), seed))


def team_of(name: str, task: str = "distinct", n: int = 6) -> tuple[Any, Any, Any, Any]:
    cfg, what = resolved(Config(name, task, hidden=16))
    env = stand_in(what.env, n)
    groups = [[0, 2], [1, *range(3, env.n_agents)]]
    return qmix.make_team(cfg, METHODS[name], what, env, groups), what, env, METHODS[name]


@pytest.mark.parametrize("task", ["distinct", "units"])
@pytest.mark.parametrize("name", NETWORKS)
def test_acting_step_by_step_is_the_forward_of_the_whole(name: str, task: str) -> None:
    team, what, env, method = team_of(name, task)
    batch = played(env)
    inputs = agent_inputs(batch.obs, batch.actions, env.n_actions, last=what.last, ids=method.ids)
    q = team.agents(inputs, batch.agent_type)
    assert q.shape == batch.avail.shape
    acting = Acting(team.agents, env.n_envs, env.n_actions, last=what.last, ids=method.ids)
    for t in range(batch.steps + 1):
        fields = ("obs", "state", "avail", "alive", "agent_type")
        seen = Seen(*(getattr(batch, field)[:, t].numpy() for field in fields))
        np.testing.assert_allclose(acting.values(seen), q[:, t].detach(), atol=2e-6)
        if t < batch.steps:
            acting.acted(batch.actions[:, t].numpy())


def test_units_work_with_the_mask_of_their_type() -> None:
    team, what, env, method = team_of("kaleidoscope-noid", "units")
    agents = team.agents
    assert agents.by_type and agents.masked[0].thresholds.shape[0] == 6
    batch = played(env)
    inputs = agent_inputs(batch.obs, batch.actions, env.n_actions, last=True, ids=False)
    q = agents(inputs, batch.agent_type)
    weights = [layer.effective() for layer in agents.layers]
    for b, n in ((0, 1), (3, 4), (5, 0)):  # agent 0 dies: its type is 0 from then on
        kinds = batch.agent_type[b, :, n]
        x = inputs[b, :, n]
        x = torch.stack([(row @ weights[0][0][k]) for row, k in zip(x, kinds, strict=True)])
        h = agents.gru(torch.relu(x + weights[0][1][0])[:, None, None])[:, 0, 0]
        for i, (weight, bias) in enumerate(weights[1:]):
            h = torch.relu(h) if i else h
            h = torch.stack([r @ weight[k] for r, k in zip(h, kinds, strict=True)]) + bias[0]
        torch.testing.assert_close(q[b, :, n], h, atol=1e-5, rtol=1e-5)


def test_who_shares_what() -> None:
    def networks(name: str) -> list[int]:
        return [len(w) for w, _ in team_of(name)[0].agents.effective()]

    assert networks("fups") == networks("fups-id") == [1] * 4
    assert networks("nops") == networks("kaleidoscope") == networks("snp") == [4] * 4
    assert networks("multih") == [1, 1, 1, 4]
    ours, rival = team_of("kaleidoscope")[0].agents, team_of("fups-id")[0].agents
    assert ours.gru.hidden.weight.shape == rival.gru.hidden.weight.shape  # the same depth, one GRU
    assert len(ours.masked) == 4 and not rival.masked
    seps = team_of("seps")[0].agents
    assert [part.n_agents for part in seps.parts] == [2, 2]


@pytest.mark.parametrize("name", ["fups", "kaleidoscope-noid", "nops", "seps"])
def test_an_agents_number_is_all_that_full_sharing_tells_apart(name: str) -> None:
    team, what, env, method = team_of(name)
    with torch.no_grad():  # masks and networks that differ a lot
        for layer in team.agents.masked:
            layer.thresholds += 6 * torch.rand_like(layer.thresholds)
    found = disagreement(team.agents, played(env), method, what)
    assert found == 0 if name == "fups" else 0 < found <= 1
    if name == "seps":  # agents of a cluster act alike: 2 of 6 pairs
        assert found <= 4 / 6 + 1e-6


def test_disagreement_of_masks_and_of_numbers() -> None:
    team, what, env, method = team_of("kaleidoscope")
    batch = played(env)
    with torch.no_grad():
        for layer in team.agents.masked:
            layer.thresholds += 6 * torch.rand_like(layer.thresholds)
        team.agents.masked[0].weight[-4:] *= 100  # of the number
    equal = same_masks(team.agents)
    assert disagreement(equal, batch, method, what, number=0) == 0
    assert disagreement(equal, batch, method, what) > 0
    assert disagreement(team.agents, batch, method, what, number=0) > 0
    assert team.agents.masked[0].thresholds.std(0).max() > 0  # the original is left alone


def test_weight_distance() -> None:
    one = torch.tensor([[[1.0, -1.0]], [[1.0, 1.0]], [[1.0, -1.0]]])
    bias = torch.zeros(1, 1, 2)
    assert weight_distance([(one, bias)]) == pytest.approx((2 + 0 + 2) / 3 / 2)
    assert weight_distance([(one[:1], bias)]) == 0.0
    assert weight_distance([(one[:1], bias), (one, bias)]) == pytest.approx((2 + 0 + 2) / 3 / 4)


def test_fixed_masks_are_never_learned() -> None:
    layer = PrunedLinear(50, 40, 3, 0.2, generator=generator())
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    weights, _ = layer.effective()
    assert float((weights == 0).float().mean()) == pytest.approx(0.2, abs=0.03)
    assert not torch.equal(weights[0], weights[1])
    weights.sum().backward()
    assert torch.equal(layer.weight.grad, layer.get_buffer("mask").sum(0))


def test_seps_tells_agents_apart_whose_world_follows_other_laws() -> None:
    """Agents 0 and 3 move by their action, 1 and 2 against it."""
    rng, episodes = np.random.default_rng(0), []
    sign = np.array([1.0, -1, -1, 1], np.float32)[:, None]
    for _ in range(40):
        actions = rng.integers(0, 2, (10, 4))
        obs = rng.standard_normal((11, 4, 1)).astype(np.float32)
        for t in range(10):
            obs[t + 1] = obs[t] + sign * (2 * actions[t, :, None] - 1)
        reward = np.zeros(10, np.float32)
        episodes.append({"obs": obs, "actions": actions, "reward": reward})
    latents = describe(episodes, 2, seed=0, updates=600)
    assert clusters(latents, 2, seed=0) == [[0, 3], [1, 2]]
    for wrong in (0, 5):
        with pytest.raises(UserError, match="1 to 4"):
            clusters(latents, wrong, seed=0)


# -- QMIX -----------------------------------------------------------------------------------------


class Table(torch.nn.Module):
    """In the place of agents: the same utilities everywhere. Mixer: their sum."""

    def __init__(self, q: list[float]) -> None:
        super().__init__()
        self.q = torch.nn.Parameter(torch.tensor(q))

    def agents(self, inputs: Any, types: Any) -> Any:
        return self.q.expand(*inputs.shape[:3], -1)

    def mixer(self, q: Any, state: Any) -> Any:
        return q.sum(-1)


@pytest.mark.parametrize("finite", [False, True])
def test_td_loss_by_hand(finite: bool) -> None:
    batch = played(stand_in("smax:x", 4))
    N = batch.obs.shape[2]
    task = replace(TASKS["units"], lam=0.0, finite=finite)
    reward = 0.1 * batch.reward
    online, slow = Table([0.0, 1.0, 2.0, 3.0]), Table([0.5, 0.25, 0.0, 0.75])
    loss = qmix.td_loss(online, slow, batch, reward, task, 0.9, ids=True)  # type: ignore[arg-type]
    total, count = 0.0, 0
    for b in range(4):
        steps = int(batch.filled[b].sum())
        for t in range(steps):
            allowed = batch.avail[b, t + 1]
            best = [int(torch.where(a, online.q, torch.tensor(-9.0)).argmax()) for a in allowed]
            value = sum(float(slow.q[i].detach()) for i in best)
            over = batch.terminated[b, t] > 0 or (finite and t == steps - 1)
            y = float(reward[b, t]) + (0.0 if over else 0.9 * value)
            q = sum(float(online.q[a].detach()) for a in batch.actions[b, t])
            total, count = total + (q - y) ** 2, count + 1
    assert N == 5 and loss.item() == pytest.approx(0.5 * total / count, rel=1e-5)
    loss.backward()
    assert slow.q.grad is None and online.q.grad is not None


def test_target_networks_have_thresholds_of_their_own() -> None:
    team = team_of("kaleidoscope")[0]
    slow = qmix.slow_copy(team)
    with torch.no_grad():
        for layer in team.agents.masked:
            layer.thresholds += 1
    before = [layer.thresholds.clone() for layer in slow.agents.masked]
    for mine, theirs in zip(before, team.agents.masked, strict=True):
        assert not torch.equal(mine, theirs.thresholds)
    slow.load_state_dict(team.state_dict())
    for mine, theirs in zip(slow.agents.masked, team.agents.masked, strict=True):
        assert torch.equal(mine.thresholds, theirs.thresholds)


def test_rewards_are_standardised_by_all_batches_so_far() -> None:
    scale, seen = qmix.RewardScale(), []
    for seed in range(3):
        reward = 5 + 3 * torch.randn(4, 10, generator=generator(seed))
        filled = (torch.rand(4, 10, generator=generator(seed)) < 0.7).float()
        scale.update(reward, filled)
        seen.append(reward[filled > 0])
    every = torch.cat(seen)
    found = scale(torch.tensor([5.0]))
    assert found.item() == pytest.approx(float((5 - every.mean()) / every.std()), abs=0.02)


# -- MATD3 ----------------------------------------------------------------------------------------


def replay_of(length: int, steps: int, ends: dict[int, bool]) -> Replay:
    """One environment; the reward of step t is t; ends: step -> whether it terminated."""
    shapes = {"obs": (2, 1), "state": (1,), "actions": (2, 1)}
    made = Replay(length, 1, shapes)

    def seen(t: int) -> Seen:
        obs = np.full((1, 2, 1), t, np.float32)
        none = np.zeros((1, 2, 0), bool)
        return Seen(obs, obs[:, 0], none, np.ones((1, 2), bool), np.zeros((1, 2), np.int64))

    for t in range(steps):
        over, term = t in ends, ends.get(t, False)
        step = Step(
            seen(t + 1), np.array([t], np.float32), np.array([over and term]),
            np.array([over and not term]), np.array([False]),
        )  # fmt: skip
        made.add(seen(t), np.zeros((1, 2, 1), np.float32), step)
    return made


def test_n_step_returns_stop_at_ends_and_at_the_latest_step() -> None:
    steps, ends = 20, {5: True, 12: False}
    made = replay_of(12, steps, ends)  # the first 8 steps are gone
    batch = made.sample(400, 3, 0.5, np.random.default_rng(0))
    assert set(batch.obs[:, 0, 0].tolist()) == set(map(float, range(8, 20)))
    for i in range(400):
        t = int(batch.obs[i, 0, 0])
        value, k = 0.0, 0
        while k < 3 and t + k < steps:
            value, k = value + 0.5**k * (t + k), k + 1
            if t + k - 1 in ends:
                break
        assert batch.reward[i].item() == pytest.approx(value)
        assert batch.next_obs[i, 0, 0] == batch.next_state[i, 0] == t + k
        assert batch.discount[i].item() == pytest.approx(0.5**k)  # 12 is a time limit
    early = replay_of(12, 7, ends).sample(400, 3, 0.5, np.random.default_rng(0))
    done = early.obs[:, 0, 0] == 4
    assert (early.discount[done] == 0).all() and (early.next_state[done] == 6).all()


class Constant(torch.nn.Module):
    """Critics that say 1, 2, ..., 5 whatever they see; actors that stand still."""

    def forward(self, first: Any, actions: Any = None) -> Any:
        if actions is None:
            return torch.zeros(len(first), 2, 1)
        return torch.arange(1.0, 6.0)[:, None].expand(5, len(first))


def test_the_target_takes_the_least_critic() -> None:
    batch = replay_of(12, 6, {}).sample(8, 1, 0.5, np.random.default_rng(0))
    y = critic_target(Constant(), Constant(), batch, torch.zeros(8, 2, 1), 0.5)
    torch.testing.assert_close(y, batch.reward + 0.5)
    q = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert critic_loss(q, torch.zeros(2)).item() == pytest.approx(2.5 + 4.5)


def test_smoothing_is_clipped_and_stays_within_the_bounds() -> None:
    taken = []

    class Watching(Constant):
        def forward(self, first: Any, actions: Any = None) -> Any:
            if actions is not None:
                taken.append(actions)
            return (
                super().forward(first, actions)
                if actions is not None
                else torch.full((8, 2, 1), 0.8)
            )

    batch = replay_of(12, 6, {}).sample(8, 1, 0.5, np.random.default_rng(0))
    noise = torch.full((8, 2, 1), -3.0)
    noise[:4] = 3.0
    critic_target(Watching(), Watching(), batch, noise, 0.5)
    torch.testing.assert_close(taken[0][:4], torch.ones(4, 2, 1))
    torch.testing.assert_close(taken[0][4:], torch.full((4, 2, 1), 0.3))


def test_an_agent_replaces_its_own_action_alone() -> None:
    actions = torch.randn(3, 2, 4, generator=generator())
    own = torch.zeros(3, 4, requires_grad=True)
    joint = with_own(actions, own, 1)
    assert torch.equal(joint[:, 0], actions[:, 0]) and (joint[:, 1] == 0).all()
    joint.sum().backward()
    assert own.grad is not None and (own.grad == 1).all()


def test_critics_are_masks_of_one_network_or_two_networks() -> None:
    masked = Critics(True, 5, 3, 4, 16, generator=generator())
    state, actions = torch.randn(7, 3, generator=generator()), torch.randn(7, 2, 2)
    q = masked(state, actions)
    assert q.shape == (5, 7) and q.std(0).min() > 0
    with torch.no_grad():
        for layer in masked.masked:
            layer.thresholds[:] = layer.thresholds[:1].clone()
    same = masked(state, actions)
    torch.testing.assert_close(same, same[:1].expand(5, -1))
    two = Critics(False, 2, 3, 4, 16, generator=generator())
    assert two(state, actions).shape == (2, 7) and not two.masked


def test_actors_stay_within_the_bounds_and_differ_by_mask() -> None:
    made = Actors(METHODS["kaleidoscope"], 2, 5, 3, 16, generator=generator())
    obs = torch.randn(6, 1, 5, generator=generator()).expand(6, 2, 5)
    out = made(obs)
    assert out.shape == (6, 2, 3) and out.abs().max() <= 1
    shared = Actors(METHODS["fups-id"], 2, 5, 3, 16, generator=generator())
    assert len(shared.layers[0].effective()[0]) == 1
    own = Actors(METHODS["nops"], 2, 5, 3, 16, generator=generator())
    assert own.layers[0].weight.shape == (2, 5, 16)  # no number


def test_methods_know_their_hosts() -> None:
    assert entry("kaleidoscope", "matd3").critics
    with pytest.raises(UserError, match="did you mean"):
        entry("kaleidoscop", "qmix")
    with pytest.raises(UserError, match="method of matd3"):
        entry("snp", "matd3")
    assert isinstance(copy.deepcopy(METHODS["no-diversity"]).diversity, bool)
    layer = MaskedLinear(3, 2, 4, generator=generator())
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias", "thresholds"}
    assert Agents(METHODS["kaleidoscope"], 2, 1, 3, 2, 4, generator=generator()).n_masks == 2
