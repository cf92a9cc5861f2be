"""Stage 3: online training from the offline value function, or from nothing.

Every method makes the same environment steps and updates, begins with an empty buffer and a new
optimiser, and is evaluated on the same episodes.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from common.cli import run_cli
from common.errors import UserError
from common.marl.episodes import Batch, Episode, EpisodeBuffer, batch_of, collect, outcomes
from common.marl.targets import linear
from common.run import Run
from common.torch_utils import setup
from papers.ovmse import data
from papers.ovmse.config import Config
from papers.ovmse.learning import Q_OFF, Conservative, adam, update
from papers.ovmse.method import (
    frozen,
    independent,
    memory,
    memory_weight,
    one_explorer,
    sequential,
)
from papers.ovmse.methods import METHODS, Learner
from papers.ovmse.networks import Values
from papers.ovmse.playing import Behaviour, evaluated
from papers.ovmse.probe import Probe
from papers.ovmse.task import data_task, episode_seed, make, offline_folder, stream
from papers.ovmse.trained import load_values, offline_alpha

AT_ONCE = 64  # episodes whose memory is computed together
SELECT = {"each": independent, "sequential": sequential, "one": one_explorer}


def remembered(
    episodes: list[Episode], offline: Values | None, device: torch.device
) -> list[Episode]:
    """Episodes with Q_tot(tau, u; theta_off), which never changes and is computed once."""
    if offline is None:
        return episodes
    made: list[Episode] = []
    for i in range(0, len(episodes), AT_ONCE):
        part = episodes[i : i + AT_ONCE]
        q_off = memory(offline, batch_of(part, device)).cpu().numpy()
        made += [
            {**episode, Q_OFF: q[: len(episode["reward"])].copy()}
            for episode, q in zip(part, q_off, strict=True)
        ]
    return made


def explorers(act: Behaviour, episodes: list[Episode]) -> dict[str, float]:
    """How many agents explored at a step, of those alive: mean, and share of steps with two."""
    explored = np.stack(act.explored, 1)  # [E, T, N]
    count = np.concatenate(
        [
            (explored[e, : len(episode["reward"])] & episode["alive"][:-1]).sum(-1)
            for e, episode in enumerate(episodes)
        ]
    )
    return {"explorers": float(count.mean()), "several": float((count >= 2).mean())}


def mean_of(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Means of what several updates gave."""
    return {name: float(np.mean([m[name] for m in metrics])) for name in (metrics or [{}])[0]}


def exploration(cfg: Config, method: Learner, step: int) -> float:
    """Epsilon after ``step`` environment steps: of each agent, or expected explorers (SE)."""
    start = method.epsilon if cfg.epsilon is None else cfg.epsilon
    return linear(start, cfg.epsilon_end, cfg.explore_over * cfg.steps, step)


def lambda_m(cfg: Config, method: Learner, step: int) -> float:
    """The weight of the memory after ``step`` environment steps."""
    if method.memory == "none":
        return 0.0
    over = cfg.memory_over * cfg.steps
    return cfg.memory if method.memory == "fixed" else memory_weight(step, over, cfg.memory)


class Batches:
    """Batches for updates: what was played online, a share of it replaced by the data set."""

    def __init__(
        self, cfg: Config, method: Learner, buffer: EpisodeBuffer, dataset: EpisodeBuffer
    ) -> None:
        self._from_data = round(method.from_data * cfg.batch)
        self._online = cfg.batch - self._from_data
        self._buffer, self._dataset = buffer, dataset

    def draw(self, rng: np.random.Generator, device: torch.device) -> Batch:
        """A batch."""
        drawn = self._buffer.draw(self._online, rng)
        if self._from_data:
            drawn = drawn + self._dataset.draw(self._from_data, rng)
        return batch_of(drawn, device)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint.

    Raises:
        UserError: if the offline run or the data are not there, or the method is of another stage.
    """
    task, method = data_task(cfg.task), METHODS[cfg.method]
    if method.stage != "online":
        raise UserError(f"{method.name} doesn't learn online; see papers.ovmse.methods")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    seed = stream("online", cfg.seed)
    device = setup(cfg.device, seed)
    env = make(task, cfg.envs)
    values = Values(env, cfg, torch.Generator().manual_seed(seed)).to(device)
    offline = None
    if method.pretrained:
        offline = load_values(offline_folder(cfg), env, cfg.learner, cfg.task, cfg.seed).to(device)
        values, offline = offline, frozen(offline)
    target, optimizer = copy.deepcopy(values), adam(values, cfg.lr)
    alpha = method.conserve * offline_alpha(offline_folder(cfg)) if method.conserve else 0.0
    term = Conservative(method.penalty, alpha)
    episodes = data.load(cfg)
    probe = Probe(episodes[: cfg.probe], offline, device)
    dataset = EpisodeBuffer(len(episodes))
    dataset.add(remembered(episodes, offline, device) if method.from_data else [])
    kept = run.keep(
        **{"values": values, "target": target, "optimizer": optimizer},
        buffer=EpisodeBuffer(cfg.buffer),
        generator=np.random.default_rng(seed),
        **{"env_steps": 0, "updates": 0, "rounds": 0},
    )
    buffer, rng = kept.buffer, kept.generator
    batches = Batches(cfg, method, buffer, dataset)

    def look(number: int) -> None:
        early = number <= cfg.dip_until * cfg.evaluations
        n = cfg.dip_episodes if early else cfg.episodes
        found = evaluated(values, env, n, "evaluation", cfg.seed)
        at = round(number * cfg.steps / cfg.evaluations)
        run.log(kept.env_steps, evaluated_at=at, **found, **probe(values))

    for interval in run.steps(cfg.evaluations, drop=("buffer", "optimizer", "target")):
        if interval == 0:
            look(0)
        while kept.env_steps * cfg.evaluations < (interval + 1) * cfg.steps:
            # 1. one episode in every environment
            epsilon = exploration(cfg, method, kept.env_steps)
            act = Behaviour(values, env, epsilon, rng, SELECT[method.explore])
            played = collect(env, act, episode_seed("online", cfg.seed, kept.rounds))
            buffer.add(remembered(played, offline, device))
            kept.rounds += 1
            kept.env_steps += int(outcomes(played).lengths.sum())

            # 2. gradient updates and target network
            weight = lambda_m(cfg, method, kept.env_steps)
            metrics: list[dict[str, float]] = []
            for _ in range(cfg.updates if len(buffer) >= cfg.batch else 0):
                batch, scale = batches.draw(rng, device), task.reward_scale
                metrics.append(
                    update(values, target, optimizer, batch, cfg, scale, memory=weight, term=term)
                )
                kept.updates += 1
                if kept.updates % cfg.copy_every == 0:
                    target.load_state_dict(values.state_dict())
            run.log(
                kept.env_steps,
                **{"updates": kept.updates, "epsilon": epsilon, "memory": weight},
                **explorers(act, played),
                **mean_of(metrics),
            )
        look(interval + 1)


if __name__ == "__main__":
    run_cli(train, Config)
