"""Roll-outs for learning, and episodes that are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.marl.protocol import BatchEnv, Seen, Step, uniform_actions
from papers.commformer.agent import Agent
from papers.commformer.baselines import shortest_way
from papers.commformer.method import Graph, gumbel
from papers.commformer.ppo import GAMMA, Data, ValueNorm, advantages, normalised
from papers.commformer.task import grid_of

#: what every seed sees [S] -> actions [S, E, N]
Act = Callable[[Sequence[Seen]], NDArray[np.int64]]


def stacked(seen: Sequence[Seen], name: str, device: torch.device) -> Tensor:
    """One part of what all seeds see. [S, E, ...]."""
    return torch.from_numpy(np.stack([getattr(s, name) for s in seen])).to(device)


def rewards_of(env: BatchEnv, step: Step) -> NDArray[np.float32]:
    """Each agent's own reward where the environment knows it, else the team's. [E, N]."""
    own = getattr(env, "agent_reward", None)
    return np.repeat(step.reward[:, None], env.n_agents, axis=1) if own is None else own


def roll_out(
    agent: Agent,
    envs: Sequence[BatchEnv],
    norm: ValueNorm,
    sampling: Sequence[torch.Generator],
    device: torch.device,
) -> tuple[Data, dict[str, Tensor]]:
    """T steps of every environment with the exact graph, from where it stands; what was seen.

    An episode that ends is begun anew. One that is cut by the time limit is bootstrapped: its last
    reward has the discounted value of what it led to added.
    """
    graph, steps = agent.graph_of(agent.exact()), agent.settings.horizon
    seen = [env.reset_where(np.zeros(env.n_envs, dtype=bool)) for env in envs]
    kept: dict[str, list[Tensor]] = {name: [] for name in ("obs", "avail", "alive", "over")}
    kept |= {name: [] for name in ("actions", "log_prob", "value", "reward", "team")}

    def value_of(obs: Tensor) -> Tensor:
        with torch.no_grad():
            return agent.net.encode(obs, graph)[1]

    for _ in range(steps):
        obs, avail = stacked(seen, "obs", device), stacked(seen, "avail", device)
        noise = gumbel(sampling, *avail.shape[1:])
        actions, log_prob, value, _ = agent.net.act(obs, avail, graph, noise)
        chosen = actions.cpu().numpy()
        done = [env.step(chosen[s]) for s, env in enumerate(envs)]
        reward = torch.from_numpy(
            np.stack([rewards_of(env, step) for env, step in zip(envs, done, strict=True)])
        ).to(device)
        cut = torch.from_numpy(np.stack([step.truncated for step in done])).to(device)
        if bool(cut.any()):
            led_to = norm.denormalise(value_of(stacked([s.seen for s in done], "obs", device)))
            reward = reward + GAMMA * led_to * cut.unsqueeze(-1)
        over = np.stack([step.terminated | step.truncated for step in done])
        now = (obs, avail, stacked(seen, "alive", device).to(obs.dtype), torch.from_numpy(over))
        now += (actions, log_prob, value, reward)
        now += (torch.from_numpy(np.stack([step.reward for step in done])),)
        for name, part in zip(kept, now, strict=True):
            kept[name].append(part.to(device))
        seen = [
            env.reset_where(over[s]) if over[s].any() else step.seen
            for s, (env, step) in enumerate(zip(envs, done, strict=True))
        ]
    whole = {name: torch.stack(parts, dim=1) for name, parts in kept.items()}  # [S, T, E, ...]
    value = norm.denormalise(whole["value"])
    last = norm.denormalise(value_of(stacked(seen, "obs", device)))
    advantage = advantages(whole["reward"], value, last, whole["over"])
    returns = advantage + value
    norm.update(returns)
    whole |= {"returns": norm.normalise(returns)}
    whole |= {"advantage": normalised(advantage, whole["alive"])}
    names = Data.__dataclass_fields__
    data = Data(**{name: whole[name].flatten(1, 2) for name in names})
    return data, {"reward": whole["team"].mean((1, 2))}


# -- evaluation ---------------------------------------------------------------------------------


def judged(
    agent: Agent,
    envs: Sequence[BatchEnv],
    seed: int,
    device: torch.device,
    *,
    drawn: Sequence[torch.Generator] | None = None,
    graph: Graph | None = None,
) -> dict[str, NDArray[np.float64]]:
    """One episode per environment, the same starts for every training seed. [S] each.

    Args:
        agent: who acts.
        envs: one per training seed.
        seed: of the starts.
        device: of the agent.
        drawn: generators; actions are drawn as in training. None: the most probable ones.
        graph: in the place of the agent's own.

    Returns:
        "steps"; "success"; "return" of the team; "used": off-diagonal edges in use, of N (N - 1);
        "excess": the largest of any episode's used edges less those of the graph without gates.
    """
    graph = agent.graph_of(agent.exact()) if graph is None else graph
    own = torch.eye(agent.n, device=device)
    pairs = agent.n * (agent.n - 1)
    edges: list[Tensor] = []

    def act(seen: Sequence[Seen]) -> NDArray[np.int64]:
        obs, avail = stacked(seen, "obs", device), stacked(seen, "avail", device)
        noise = None if drawn is None else gumbel(drawn, *avail.shape[1:])
        actions, _, _, in_use = agent.net.act(obs, avail, graph, noise)
        edges.append(others(in_use).expand(obs.shape[:2]))
        return np.asarray(actions.cpu().numpy())

    def others(in_use: Graph) -> Tensor:
        """Edges to others. [S, B or 1]."""
        C = in_use.connectivity
        C = C if C.dim() == 4 else C.unsqueeze(1)
        return ((C != 0) * (1 - own)).sum((-1, -2))

    found, running = episodes(act, envs, seed, agent.settings.limit)
    count = torch.stack(edges, dim=1).cpu().double().numpy()  # [S, T, E]
    # whole numbers up to the division, so that equal shares are equal
    used = (count * running).sum(1) / (running.sum(1) * pairs)  # [S, E], over an episode's steps
    excess = (used - others(graph).cpu().double().numpy() / pairs).max(1)
    return {**found, "used": used.mean(1), "excess": excess}


def episodes(
    act: Act, envs: Sequence[BatchEnv], seed: int, limit: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """One episode per environment; an unfinished one counts ``limit`` steps (0: as it was).

    Returns:
        means [S] of "steps", "success" and "return"; who was running when, [S, T, E].
    """
    seen = [env.reset(seed) for env in envs]
    shape = (len(envs), envs[0].n_envs)
    over, length, total = np.zeros(shape, bool), np.zeros(shape), np.zeros(shape)
    won, running = np.zeros(shape, bool), []
    while not over.all():
        running.append(~over)
        chosen = act(seen)
        steps = [env.step(chosen[s]) for s, env in enumerate(envs)]
        seen = [step.seen for step in steps]
        length += ~over
        total += np.stack([step.reward for step in steps])
        won |= ~over & np.stack([step.won for step in steps])
        over |= np.stack([step.terminated | step.truncated for step in steps])
    if limit:
        length = np.where(won, length, limit)
    parts: dict[str, Any] = {"steps": length, "success": won, "return": total}
    found = {name: part.astype(np.float64).mean(1) for name, part in parts.items()}
    return found, np.stack(running, axis=1).astype(np.float64)


def bounds(policy: str, env: BatchEnv, seed: int, limit: int, own: int) -> dict[str, float]:
    """Steps, success and return of uniform actions (drawn by ``own``) or of the shortest way."""
    generator = np.random.default_rng(own)

    def act(seen: Sequence[Seen]) -> NDArray[np.int64]:
        if policy == "uniform":
            return uniform_actions(seen[0], generator)[None]
        return shortest_way(grid_of(env))[None]

    return {name: float(value[0]) for name, value in episodes(act, [env], seed, limit)[0].items()}
