"""Behaviour cloning: Hopper from a few demonstrations, and D4RL's data by a Decision Transformer.

The policy's return is measured by episodes with fixed starts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.control.episodes import Episode, library_versions, load_minari
from common.textlab import store
from papers.sewa import expert
from papers.sewa.examples import Batch, Plain, Work, constant, regression
from papers.sewa.networks import policy

Floats = NDArray[np.float64]
Act = Callable[[Floats, NDArray[np.bool_]], Floats]  # observations, which still run -> actions
STARTS = 1_000_000  # seeds of the test's episodes are this and above


def rollout(
    make: Callable[[int], Any], act: Act, seeds: Sequence[int], limit: int = 1000
) -> Floats:
    """Returns of episodes side by side, one for each seed. [n].

    Args:
        make: the i-th environment.
        act: gets the observations [n, d] of all, ended ones as they were left, and which of them
            still run [n]; gives actions [n, A].
        limit: steps of an episode.
    """
    envs = [make(i) for i in range(len(seeds))]
    observed = np.stack([e.reset(seed=int(s))[0] for e, s in zip(envs, seeds, strict=True)])
    returns, running = np.zeros(len(envs)), np.ones(len(envs), bool)
    for _ in range(limit):
        actions = act(observed, running)
        for i in np.flatnonzero(running):
            observed[i], reward, over, cut, _ = envs[i].step(actions[i])
            returns[i] += float(reward)
            running[i] = not (over or cut)
        if not running.any():
            break
    return returns


@functools.cache
def hopper(i: int) -> Any:
    """The i-th environment, without wrappers; made once, for compiling its model takes longest."""
    import gymnasium

    return gymnasium.make(expert.ENVIRONMENT).unwrapped


@functools.cache
def demonstrations(episodes: int, seed: int, limit: int, noise: float = 0.05) -> Batch:
    """Observations and actions of the expert, N(0, noise^2) added to what it does. float32."""
    teacher, rng = expert.load(), np.random.default_rng([7, seed])
    seen: list[Floats] = []
    done: list[Floats] = []

    def act(observed: Floats, running: NDArray[np.bool_]) -> Floats:
        right = teacher.act(observed)
        actions = np.clip(right + noise * rng.standard_normal(right.shape), -1, 1)
        seen.append(observed[running].copy())
        done.append(actions[running])
        return actions

    rollout(hopper, act, rng.integers(2**31, size=episodes).tolist(), limit)
    both = (np.concatenate(seen), np.concatenate(done))
    return tuple(torch.from_numpy(x).float() for x in both)


def expert_return(episodes: int, limit: int) -> dict[str, float]:
    """Mean return of the expert without noise on the starts of seed 0, computed once."""
    teacher = expert.load()

    def make() -> str:
        returns = rollout(hopper, lambda x, _: teacher.act(x), starts(0, episodes), limit)
        return json.dumps(float(returns.mean()))

    parts = {"weights": teacher.weights.tolist(), "episodes": episodes, "limit": limit}
    parts |= library_versions(["gymnasium", "mujoco"])
    return {"expert": float(json.loads(store.text("sewa-expert", parts, make)))}


def starts(seed: int, episodes: int) -> list[int]:
    """Of the test's episodes: the same for all models of a seed."""
    return [STARTS + 1000 * seed + i for i in range(episodes)]


def hopper_work(task: Any, seed: int, device: torch.device) -> Work:
    """A policy of three ReLU layers, cloned from a few episodes of the expert."""
    data = demonstrations(task.examples, seed, task.limit)
    held = demonstrations(1, 10_000 + seed, task.limit)
    test = demonstrations(2, 20_000, task.limit)
    mean, std = data[0].mean(0), data[0].std(0).clamp_min(1e-3)
    parts = [Plain(((obs - mean) / std, act)) for obs, act in (data, held, test)]
    torch.manual_seed(seed)
    model = policy(expert.OBSERVED, expert.ACTIONS, task.width).to(device)

    def measure(clone: nn.Module) -> dict[str, float]:
        @torch.no_grad()
        def act(observed: Floats, _: Any) -> Floats:
            x = (torch.from_numpy(observed).float() - mean) / std
            found: Floats = clone(x.to(device)).cpu().double().numpy()
            return found

        returns = rollout(hopper, act, starts(seed, task.episodes), task.limit)
        return {"score": float(returns.mean()), "worst": float(returns.min())}

    optimizer = torch.optim.Adam(model.parameters(), task.lr)
    constants = functools.partial(expert_return, task.episodes, task.limit)
    rate = constant(task.lr)
    return Work(
        model, parts[0], parts[1], parts[2], regression, measure, optimizer, rate, task.batch,
        device, constants,
    )  # fmt: skip


# -- the paper's: a Decision Transformer on D4RL ---------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """The last ``length`` moments before and at a random one of recorded episodes.

    Attributes:
        states, actions, to_go, times: of all moments, episodes one after the other. [n, …].
        starts: where the episode of each moment begins. [n].
        length: of a window.
    """

    states: Tensor
    actions: Tensor
    to_go: Tensor
    times: Tensor
    starts: Tensor
    length: int

    def __len__(self) -> int:
        return len(self.states)

    def take(self, at: Tensor, generator: torch.Generator | None = None) -> Batch:
        """(states, actions, returns to go, times, mask; actions wanted), padded on the left."""
        moments = at[:, None] + torch.arange(1 - self.length, 1)
        real = moments >= self.starts[at][:, None]
        moments = moments.clamp_min(0)
        parts = (self.states[moments], self.actions[moments], self.to_go[moments][..., None])
        padded = [x * real[..., None] for x in parts]
        return (*padded, self.times[moments] * real, real.long(), padded[1])


def windows_of(episodes: Sequence[Episode], length: int, scale: float, mean: Tensor,
               std: Tensor) -> Windows:  # fmt: skip
    """Recorded episodes as windows; observations are normalised, returns divided by ``scale``."""
    arrays: dict[str, list[NDArray[Any]]] = {k: [] for k in ("obs", "act", "rtg", "t", "at")}
    begin = 0
    for e in episodes:
        n = len(e)
        arrays["obs"].append(e.observations[:n])
        arrays["act"].append(e.actions)
        arrays["rtg"].append(np.cumsum(e.rewards[::-1])[::-1] / scale)
        arrays["t"].append(np.arange(n))
        arrays["at"].append(np.full(n, begin))
        begin += n
    joined = {k: torch.from_numpy(np.concatenate(v)) for k, v in arrays.items()}
    return Windows((joined["obs"].float() - mean) / std, joined["act"].float(),
                   joined["rtg"].float(), joined["t"].long(), joined["at"].long(),
                   length)  # fmt: skip


def dt_loss(call: Callable[..., Any], batch: Batch) -> Tensor:
    """Mean squared error of the actions that are no padding. []."""
    states, actions, to_go, times, real, wanted = batch
    found = call(states, actions, to_go, times, real)
    errors = (found - wanted).square().mean(-1)
    return (errors * real).sum() / real.sum()


class Transformer(nn.Module):
    """Decision Transformer of ``transformers``; gives the actions alone."""

    def __init__(self, states: int, actions: int, width: int, length: int) -> None:
        super().__init__()
        import transformers

        config = transformers.DecisionTransformerConfig(
            state_dim=states, act_dim=actions, hidden_size=width, n_layer=3, n_head=1,
            n_positions=3 * length, activation_function="relu", max_ep_len=1000, vocab_size=1,
        )  # fmt: skip
        self.inner = transformers.DecisionTransformerModel(config)

    def forward(self, states: Tensor, actions: Tensor, to_go: Tensor, times: Tensor,
                real: Tensor) -> Tensor:  # fmt: skip
        """[B, T, s], [B, T, a], [B, T, 1], [B, T], [B, T] -> actions [B, T, a]."""
        found: Tensor = self.inner(
            states=states, actions=actions, returns_to_go=to_go, timesteps=times,
            attention_mask=real, rewards=None, return_dict=True,
        ).action_preds  # fmt: skip
        return found


class Past:
    """What a Decision Transformer sees in episodes side by side."""

    def __init__(self, n: int, work: Windows, target: float, mean: Tensor, std: Tensor) -> None:
        self.length, self.mean, self.std = work.length, mean, std
        self.states = torch.zeros(n, 0, work.states.shape[1])
        self.actions = torch.zeros(n, 0, work.actions.shape[1])
        self.to_go = torch.full((n, 1, 1), target)

    def inputs(self, observed: Floats) -> Batch:
        """Append observations; the network's inputs."""
        now = (torch.from_numpy(observed).float() - self.mean) / self.std
        self.states = torch.cat([self.states, now[:, None]], 1)
        empty = torch.zeros(len(now), 1, self.actions.shape[-1])
        self.actions = torch.cat([self.actions, empty], 1)
        T, L = self.states.shape[1], self.length
        times = torch.arange(T).expand(len(now), -1)
        parts = (self.states, self.actions, self.to_go, times, torch.ones_like(times))
        return tuple(x[:, -L:] for x in parts)

    def add(self, actions: Tensor, rewards: Tensor) -> None:
        """What was done, and what it brought (in units of the scale)."""
        self.actions[:, -1] = actions
        self.to_go = torch.cat([self.to_go, self.to_go[:, -1:] - rewards[:, None, None]], 1)


def dt_work(task: Any, seed: int, device: torch.device) -> Work:
    """A Decision Transformer on a data set of D4RL by Minari."""
    episodes, _ = load_minari(task.source)
    chosen = [e for e in episodes if len(e)]
    every = torch.from_numpy(np.concatenate([e.observations[: len(e)] for e in chosen])).float()
    mean, std = every.mean(0), every.std(0) + 1e-6
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(chosen)) if len(chosen) > 2 else np.arange(len(chosen)).repeat(3)
    cut = max(1, len(order) // 50)
    split = (order[2 * cut :], order[:cut], order[cut : 2 * cut])
    parts = [windows_of([chosen[i] for i in p], task.length, task.scale, mean, std) for p in split]
    train = parts[0]
    torch.manual_seed(seed)
    sizes = (train.states.shape[1], train.actions.shape[1])
    model = Transformer(*sizes, task.width, task.length).to(device)

    def measure(net: nn.Module) -> dict[str, float]:
        import gymnasium

        seeds = starts(seed, task.episodes)
        past = Past(len(seeds), train, task.target / task.scale, mean, std)
        total = np.zeros(len(seeds))
        envs = [gymnasium.make(task.environment) for _ in seeds]
        observed = np.stack([e.reset(seed=s)[0] for e, s in zip(envs, seeds, strict=True)])
        running = np.ones(len(seeds), bool)
        for _ in range(task.limit):
            with torch.no_grad():
                inputs = (x.to(device) for x in past.inputs(observed))
                actions = net(*inputs)[:, -1].cpu().clamp(-1, 1)
            rewards = torch.zeros(len(seeds))
            for i in np.flatnonzero(running):
                observed[i], reward, over, ended, _ = envs[i].step(actions[i].numpy())
                rewards[i], running[i] = float(reward), not (over or ended)
            past.add(actions, rewards / task.scale)
            total += rewards.numpy()
            if not running.any():
                break
        return {"score": float(total.mean()), "worst": float(total.min())}

    optimizer = torch.optim.AdamW(model.parameters(), task.lr, weight_decay=1e-4)
    rate = lambda step: task.lr * min(1.0, (step + 1) / task.warm_up)  # noqa: E731
    best = float(max(e.rewards.sum() for e in chosen))
    return Work(
        model, parts[0], parts[1], parts[2], dt_loss, measure, optimizer, rate, task.batch,
        device, lambda: {"expert": best},
    )  # fmt: skip


__all__ = ["Past", "Windows", "demonstrations", "dt_work", "hopper_work", "rollout", "windows_of"]
