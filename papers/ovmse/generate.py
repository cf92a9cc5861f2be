"""Stage 1: QMIX learns a battle, and data sets are made of what it does.

``medium``: at the first evaluation with a win rate in the middle; ``replay``: drawn from what it
had played until then; ``expert``: of the last agents; ``mixed``: half medium, half expert. They lie
in the run directory as NAME.npz (``common.marl.datasets``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch

from common.cli import run_cli
from common.errors import UserError
from common.kept import Kept
from common.marl import datasets
from common.marl.episodes import Episode, EpisodeBuffer, batch_of, collect, outcomes, play
from common.marl.protocol import BatchEnv
from common.marl.targets import linear
from common.run import Run
from common.torch_utils import setup
from papers.ovmse.config import DataConfig
from papers.ovmse.learning import adam, update
from papers.ovmse.networks import Values
from papers.ovmse.playing import Behaviour, evaluated
from papers.ovmse.task import episode_seed, make, stream, task_of

NAME = "QMIX"


def demonstrated(
    values: Values, env: BatchEnv, cfg: DataConfig, generator: np.random.Generator
) -> list[Episode]:
    """Episodes of a data set, on seeds of their own."""

    def actor() -> Behaviour:
        return Behaviour(values, env, cfg.data_epsilon, generator)

    return play(env, actor, cfg.size, episode_seed("data", cfg.seed))


def writer(cfg: DataConfig, checkpoint: int) -> Callable[..., datasets.Header]:
    """Writes a data set of this run: name, episodes, and what is special about it."""

    def write(
        quality: str,
        episodes: list[Episode],
        behaviour: str = NAME,
        epsilon: float | None = cfg.data_epsilon,
    ) -> datasets.Header:
        return datasets.write(
            cfg.out / f"{quality}.npz",
            episodes,
            task=task_of(cfg.task).environment,
            seed=stream("data", cfg.seed),
            behaviour=behaviour,
            epsilon=epsilon,
            checkpoint=checkpoint,
        )

    return write


def write_medium(
    cfg: DataConfig, values: Values, env: BatchEnv, buffer: EpisodeBuffer, step: int
) -> None:
    """The data sets of the medium behaviour: what it does, and what it had played until then."""
    write = writer(cfg, step)
    write("medium", demonstrated(values, env, cfg, np.random.default_rng(stream("data", cfg.seed))))
    drawn = buffer.draw(cfg.size, np.random.default_rng(stream("data", cfg.seed)))
    write("replay", drawn, f"replay buffer of {NAME}", None)


def write_expert(cfg: DataConfig, values: Values, env: BatchEnv, step: int) -> None:
    """The data sets of the last behaviour, and of both."""
    write = writer(cfg, step)
    expert = demonstrated(values, env, cfg, np.random.default_rng(stream("data", cfg.seed)))
    write("expert", expert)
    medium, _ = datasets.read(cfg.out / "medium.npz")
    half = cfg.size // 2
    write("mixed", medium[:half] + expert[: cfg.size - half], f"medium and last {NAME}")


def finish(cfg: DataConfig, run: Run, values: Values, env: BatchEnv, kept: Kept) -> None:
    """What is left to write when the behaviour has learnt enough.

    Raises:
        UserError: if no evaluation was of medium quality.
    """
    if kept.medium_at < 0:
        raise UserError(
            f"no evaluation in {kept.env_steps:,} steps of {cfg.task} had a win rate from "
            f"{cfg.low:g} to {cfg.high:g}; try another --seed, more --steps, or another range"
        )
    if cfg.until == "expert":
        write_expert(cfg, values, env, kept.env_steps)
    run.finish(buffer=None, optimizer=None, target=None)


def train(cfg: DataConfig) -> None:
    """Train, or go on from the last checkpoint.

    Raises:
        UserError: if no evaluation was of medium quality.
    """
    task = task_of(cfg.task)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    seed = stream("data", cfg.seed)
    device = setup(cfg.device, seed)
    env = make(task, cfg.envs)
    values = Values(env, cfg, torch.Generator().manual_seed(seed)).to(device)
    target = copy.deepcopy(values)
    optimizer = adam(values, cfg.lr)
    kept = run.keep(
        **{"values": values, "target": target, "optimizer": optimizer},
        buffer=EpisodeBuffer(cfg.buffer),
        generator=np.random.default_rng(seed),
        **{"env_steps": 0, "updates": 0, "rounds": 0, "medium_at": -1},
    )
    buffer, rng = kept.buffer, kept.generator
    intervals = max(1, cfg.steps // cfg.evaluate_every)
    for interval in run.steps(intervals):
        metrics: dict[str, float] = {}
        while kept.env_steps * intervals < (interval + 1) * cfg.steps:
            # 1. one episode in every environment
            epsilon = linear(1.0, cfg.epsilon, cfg.anneal, kept.env_steps)
            act = Behaviour(values, env, epsilon, rng)
            episodes = collect(env, act, episode_seed("behaviour", cfg.seed, kept.rounds))
            buffer.add(episodes)
            kept.rounds += 1
            kept.env_steps += int(outcomes(episodes).lengths.sum())

            # 2. gradient updates and target network
            for _ in range(cfg.updates if len(buffer) >= cfg.batch else 0):
                batch = batch_of(buffer.draw(cfg.batch, rng), device)
                metrics = update(values, target, optimizer, batch, cfg, task.reward_scale)
                kept.updates += 1
                if kept.updates % cfg.copy_every == 0:
                    target.load_state_dict(values.state_dict())

        # 3. evaluation; the data sets when it is time for them
        found = evaluated(values, env, cfg.episodes, "behaviour evaluation", cfg.seed)
        run.log(kept.env_steps, updates=kept.updates, **found, **metrics)
        if kept.medium_at < 0 and cfg.low <= found["win_rate"] <= cfg.high:
            kept.medium_at = kept.env_steps
            write_medium(cfg, values, env, buffer, kept.env_steps)
        if interval + 1 == intervals or (kept.medium_at >= 0 and cfg.until == "medium"):
            finish(cfg, run, values, env, kept)
            break


if __name__ == "__main__":
    run_cli(train, DataConfig)
