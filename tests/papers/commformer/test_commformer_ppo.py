"""Advantages, value normalisation, the loss, and the bi-level steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.stacked import seed_generators
from papers.commformer import play
from papers.commformer.agent import Agent
from papers.commformer.baselines import shortest_way
from papers.commformer.config import Config, settings_of, updates_of
from papers.commformer.play import judged, roll_out
from papers.commformer.ppo import GAMMA, LAMBDA, ValueNorm, advantages, loss_of, normalised
from papers.commformer.task import TASKS, make_env

torch.set_num_threads(1)
CPU = torch.device("cpu")


def config(**changes: Any) -> Config:
    small: dict[str, Any] = {"n_envs": 8, "horizon": 30, "steps": 8 * 30 * 20, "episodes": 16}
    return Config(**{"task": "pp-tiny", "seed": (0, 1), "width": 16, **small, **changes})


def played(cfg: Config) -> tuple[Agent, Any, ValueNorm]:
    """An agent and its first roll-out."""
    envs = [make_env(cfg.task, settings_of(cfg).n_envs) for _ in cfg.seed]
    agent, norm = Agent(cfg, envs[0], CPU), ValueNorm(len(cfg.seed), CPU)
    return agent, roll_out(agent, envs, norm, seed_generators(cfg.seed, 4), CPU)[0], norm


# -- advantages -----------------------------------------------------------------------------------


def test_advantages_are_the_forward_sum_within_episodes() -> None:
    rng = np.random.default_rng(0)
    S, T, E, N = 2, 9, 3, 2
    reward, value = (torch.from_numpy(rng.standard_normal((S, T, E, N))) for _ in range(2))
    last, over = torch.from_numpy(rng.standard_normal((S, E, N))), rng.random((S, T, E)) < 0.3
    found = advantages(reward, value, last, torch.from_numpy(over))
    for s, t, e, n in np.ndindex(S, T, E, N):
        total, weight = 0.0, 1.0
        for u in range(t, T):
            following = value[s, u + 1, e, n] if u + 1 < T else last[s, e, n]
            ends = over[s, u, e]
            total += weight * (
                reward[s, u, e, n] + (0 if ends else GAMMA * following) - value[s, u, e, n]
            )
            weight *= GAMMA * LAMBDA
            if ends:
                break
        assert found[s, t, e, n].item() == pytest.approx(float(total), abs=1e-12)


def test_normalising_leaves_out_the_dead() -> None:
    x = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    alive = (torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(1)) < 0.7).float()
    y = normalised(torch.where(alive == 1, x, torch.tensor(1e6)), alive)
    for s in range(2):
        living = y[s][alive[s] == 1]
        assert living.mean().abs() < 1e-5 and living.std(unbiased=False) == pytest.approx(1, 1e-3)


def test_the_value_normaliser_is_debiased_and_inverts() -> None:
    norm = ValueNorm(2, CPU)
    x = torch.randn(2, 4_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(norm.normalise(x), x)  # knows nothing yet
    x = x * torch.tensor([[2.0], [5.0]]) + torch.tensor([[1.0], [-3.0]])
    norm.update(x)
    torch.testing.assert_close(norm.denormalise(norm.normalise(x)), x)
    y = norm.normalise(x)
    assert y.mean(1).abs().max() < 1e-3 and (y.std(1) - 1).abs().max() < 1e-2
    again = ValueNorm(2, CPU)
    again.load(norm.state())
    assert torch.equal(again.normalise(x), y)


# -- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["commformer", "commformer-gate", "none", "mat"])
def test_the_ratio_is_one_at_first(method: str) -> None:
    agent, data, _ = played(config(method=method, warmup=0, post_ratio=0.0))
    _, logged = agent.loss(data, 1, dropout=False)
    torch.testing.assert_close(logged["ratio"], torch.ones(2), rtol=0, atol=1e-5)
    assert not logged["clipped"].any()
    if method == "commformer":  # drawn graphs, dropout: no more
        sampled = Agent(config(warmup=0), make_env("pp-tiny", 1), CPU)
        sampled.load(agent.state())
        with torch.no_grad():
            for part in sampled.net.parameters():
                part.mul_(3.0)
        _, logged = sampled.loss(data, 1)
        assert logged["clipped"].min() > 0


def test_the_loss_by_hand() -> None:
    agent, data, _ = played(config(seed=(0,)))
    S, B, N = data.actions.shape
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(S, B, N, 5, generator=g)
    value = data.value + 0.3 * torch.randn(S, B, N, generator=g)
    alive = (torch.rand(S, B, N, generator=g) < 0.8).float()
    data = replace(data, alive=alive, returns=30 * data.returns)
    loss, _ = loss_of(logits, value, data, 0.2)
    total = 0.0
    for b, n in np.ndindex(B, N):
        p = logits[0, b, n].softmax(0)
        r = (p[data.actions[0, b, n]].log() - data.log_prob[0, b, n]).exp()
        a = data.advantage[0, b, n]
        gain = torch.minimum(r * a, r.clamp(0.8, 1.2) * a)
        v, old, R = value[0, b, n], data.value[0, b, n], data.returns[0, b, n]
        error = 0.0
        for w in (v, old + (v - old).clamp(-0.2, 0.2)):
            d = (R - w).abs()
            error = max(error, float(0.5 * d**2 if d <= 10 else 10 * (d - 5)))
        entropy = -(p * p.log()).sum()
        total += float(alive[0, b, n] * (-gain - 0.01 * entropy + error))
    assert loss[0].item() == pytest.approx(total / alive.sum().item(), rel=1e-4)


def test_a_gates_penalty_is_the_mean_gate() -> None:
    agent, data, _ = played(config(method="commformer-gate", post_ratio=0.0, warmup=0))
    with_it, logged = agent.loss(data, 1, dropout=False)
    agent.penalty = 0.0
    without, _ = agent.loss(data, 1, dropout=False)
    torch.testing.assert_close(with_it - without, 0.01 * logged["gate"])
    assert (logged["gate"] == 1).all()  # open at first
    agent, data, _ = played(config(method="commformer-gate", post_ratio=0.0, warmup=1))
    agent.penalty = 1e6
    torch.testing.assert_close(agent.loss(data, 1, dropout=False)[0], without, rtol=0.2, atol=0.2)
    assert (agent.loss(data, 2, dropout=False)[0] > 1e5).all()


def test_mini_batches_are_a_partition_of_each_seeds_samples() -> None:
    _, data, _ = played(config(mini_batches=3))
    parts = list(data.split(3, seed_generators((0, 1), 5)))
    assert [part.obs.shape[1] for part in parts] == [80, 80, 80]
    for s in range(2):
        for name in ("obs", "log_prob", "actions"):
            whole = getattr(data, name)[s].flatten(1)
            cut = torch.cat([getattr(part, name)[s] for part in parts]).flatten(1)
            assert torch.equal(cut.sort(0).values, whole.sort(0).values)
            assert not torch.equal(cut, whole)
    together = torch.cat([torch.cat((p.log_prob, p.advantage), -1) for p in parts], 1)[0]
    for row in torch.cat((data.log_prob, data.advantage), -1)[0][:20]:
        assert (together == row).all(1).any()  # what belongs together stays together
    assert next(data.split(1, [])) is data


# -- bi-level -------------------------------------------------------------------------------------


def parts_of(agent: Agent) -> dict[str, torch.Tensor]:
    own = {name: p.detach().clone() for name, p in agent.net.named_parameters()}
    return {**own, "alpha": agent.alpha.detach().clone()}


@pytest.mark.parametrize("method", ["commformer", "random", "full", "none"])
def test_the_fifth_epoch_is_the_graphs_and_the_others_the_networks(method: str) -> None:
    agent, data, _ = played(config(method=method, warmup=0))
    for epoch in range(1, 11):
        before = parts_of(agent)
        agent.epoch(data, 5, epoch)
        moved = {name for name, part in parts_of(agent).items() if not part.equal(before[name])}
        if epoch % 5:
            assert "alpha" not in moved and {"edges", "encoder.embed.weight"} <= moved | (
                {"edges"} if method in ("full", "none") else set()
            )
        else:
            assert moved == ({"alpha"} if method == "commformer" else set())


def test_graphs_of_training() -> None:
    """Raw in the warm-up, then drawn for every pass, at last exact; at execution exact."""
    agent, _, _ = played(config(task="pp-5", warmup=3, post_ratio=0.5, steps=8 * 30 * 20))
    with torch.no_grad():
        noise = torch.randn(agent.alpha.shape, generator=torch.Generator().manual_seed(0))
        agent.alpha.add_(0.1 * noise)
    own = torch.eye(5)
    assert agent.k == 2 and agent.updates == 20
    torch.testing.assert_close(agent.training_graph(3).connectivity, agent.alpha + own)
    drawn = [agent.training_graph(u).connectivity - own for u in (4, 4, 10)]
    assert all((x.sum(-1) == 2).all() for x in drawn) and not drawn[0].equal(drawn[1])
    exact = agent.training_graph(11).connectivity - own
    assert exact.equal(agent.exact()) and exact.equal(agent.training_graph(20).connectivity - own)
    assert exact.equal((agent.alpha >= agent.alpha.sort(-1).values[..., -2:-1]).float())
    others = Agent(config(task="pp-5", method="commformer-others"), make_env("pp-5", 1), CPU)
    connectivity = others.graph_of(others.exact()).connectivity
    assert (connectivity.diagonal(dim1=1, dim2=2) == 1).all() and (connectivity.sum(-1) == 3).all()


# -- playing --------------------------------------------------------------------------------------


def test_what_is_cut_is_bootstrapped_and_what_ends_is_not(monkeypatch) -> None:
    cfg = config(task="pp-tiny", seed=(0,), horizon=45)
    seen: dict[str, Any] = {}

    def keep(reward, value, last, over):
        seen.update(reward=reward, over=over)
        return advantages(reward, value, last, over)

    monkeypatch.setattr(play, "advantages", keep)
    envs = [make_env(cfg.task, 8)]
    ended = []
    step = envs[0].step
    envs[0].step = lambda a: (ended.append(step(a)), ended[-1])[1]
    agent = Agent(cfg, envs[0], CPU)
    with torch.no_grad():
        agent.net.encoder.value_out.bias.fill_(100.0)
    roll_out(agent, envs, ValueNorm(1, CPU), seed_generators((0,), 4), CPU)
    cut = torch.from_numpy(np.stack([s.truncated for s in ended]))
    done = torch.from_numpy(np.stack([s.terminated for s in ended]))
    assert cut.any() and done.any()
    assert torch.equal(seen["over"][0], cut | done)
    assert (seen["reward"][0][cut] > 90).all() and (seen["reward"][0][~cut] <= 0).all()


def test_an_evaluation_is_one_episode_each_with_the_same_starts() -> None:
    agent, _, _ = played(config(method="commformer-gate"))
    judging = [make_env("pp-tiny", 64) for _ in range(2)]
    one, other = (judged(agent, judging, 7, CPU) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert set(one) == {"steps", "success", "return", "used", "excess"}
    assert (one["used"] <= 0.5).all() and (one["excess"] <= 0).all()
    both = [judged(agent, judging, 7, CPU, drawn=seed_generators((0, s), 6)) for s in (1, 2)]
    assert both[0]["steps"][0] == both[1]["steps"][0] != one["steps"][0]  # the first seed's draws
    assert both[0]["steps"][1] != both[1]["steps"][1]
    full, _, _ = played(config(method="full"))
    assert judged(full, judging, 7, CPU)["used"] == pytest.approx([1, 1])


def test_mean_steps_and_communication_of_known_actions() -> None:
    """The shortest way through ``episodes``: the mean of the steps, and who was running when."""
    env = make_env("pp-tiny", 2_000)
    found, running = play.episodes(lambda seen: shortest_way(env)[None], [env], 3, 20)
    env.reset(3)
    away = np.abs(env.positions - env.prey[:, None]).sum(-1).max(1)
    assert found["steps"][0] == away.mean() and found["success"][0] == 1
    assert np.array_equal(running.sum(1)[0], away)
    bound = play.bounds("oracle", env, 3, 20, 0)
    assert bound["steps"] == found["steps"][0] and bound["return"] < 0
    drawn = play.bounds("uniform", env, 3, 20, 0)
    assert drawn["steps"] > bound["steps"] and drawn["success"] < 1


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "comformer"}, "did you mean commformer"),
        ({"task": "pp-4"}, "unknown task"),
        ({"sparsity": 0.0}, "share of the edges"),
        ({"steps": 10}, "less than one update"),
        ({"diagonal": "gone"}, "unknown diagonal"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        settings_of(config(**changes))


def test_settings_are_the_scripts() -> None:
    got = TASKS["pp-3"]
    assert (got.n_envs, got.horizon, got.epochs, got.clip, got.steps) == (20, 200, 10, 0.05, 10**7)
    got = TASKS["smac-3s5z_vs_3s6z"]
    assert (got.n_envs, got.horizon, got.epochs, got.clip, got.steps) == (
        *(32, 100, 5, 0.05),
        20_000_000,
    )
    assert got.post_ratio == 0.6 and got.diagonal == "replaced"
    assert updates_of(settings_of(Config(task="smac-3m"))) == 156
