"""Meta-World by tasks and goals: noisy scripted experts on fixed goals, for offline learning.

A task has numbered goals, each with its own place of goal and objects: 0–39 are for data, those
from 40 on for evaluation alone. Episodes have a fixed number of steps and go on after success. An
action is clip(clip(expert) + sigma N(0, I)), or, with probability ``random``, uniform in the box;
``infos`` keep what the expert would have done without noise.
"""

from __future__ import annotations

import time
import warnings
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.control.cards import statistics
from common.control.episodes import Episode, cached_episodes
from common.control.metaworld import ACTION_DIM, LIBRARIES, SimulatedEpisode, TaskSimulator

Floats = NDArray[np.float32]
DATA_GOALS = 40  # goals 0 … 39 are for data, the others for evaluation
GOAL = slice(36, 39)  # where the goal is in an observation
SLOW = {  # tasks for which the scripted expert, with noise, often needs more than 100 steps
    *("door-open-v3", "peg-insert-side-v3", "peg-unplug-side-v3", "pick-place-v3", "push-v3"),
    *("stick-pull-v3", "window-open-v3"),
}
_NOISE = 5  # stream of the draws of actions


@dataclass(frozen=True)
class GoalData:
    """Episodes of one task; each field is part of the data's hash."""

    task: str
    episodes: int = 60  # that are run, goal by goal in turn
    steps: int = 100  # of every episode; see ``episode_steps``
    first_goal: int = 0
    goals: int = DATA_GOALS  # that many from the first one on
    sigmas: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5)  # of the action noise, equally often
    random: float = 0.0  # probability of a uniform random action, per step
    stream: int = 0  # another number: other noise
    version: int = 1  # of the generator


def episode_steps(task: str) -> int:
    """Steps of an episode of data and of evaluation: 100, or 150 where the task is slow."""
    return 150 if task in SLOW else 100


def near_optimal(task: str) -> GoalData:
    """60 episodes with sigma 0, .1, .3 and .5."""
    return GoalData(task, steps=episode_steps(task))


def sub_optimal(task: str) -> GoalData:
    """60 episodes with sigma .3, .5 and .8, and a fifth of the actions random."""
    return GoalData(task, steps=episode_steps(task), sigmas=(0.3, 0.5, 0.8), random=0.2)


def held_out(config: GoalData, episodes: int = 10) -> GoalData:
    """Episodes of the same kind with other noise, to measure the error of actions on."""
    return GoalData(**{**asdict(config), "episodes": episodes, "stream": config.stream + 1})


def goal_episodes(
    config: GoalData, simulator: TaskSimulator | None = None
) -> tuple[list[Episode], dict[str, Any]]:
    """The episodes from the cache, generated on first use; see :func:`generate`.

    Args:
        simulator: of the task, if there is one already.
    """
    kind = "sub" if config.random else "near"
    return cached_episodes(
        f"repro/metaworld/{config.task}/scripted-goals-{kind}-v0",
        {"name": "metaworld-goals", **asdict(config)},
        lambda: generate(config, simulator),
        libraries=LIBRARIES,
    )


def generate(
    config: GoalData, simulator: TaskSimulator | None = None
) -> tuple[list[Episode], dict[str, Any]]:
    """Run the scripted expert on the goals.

    Returns:
        Episodes in the order in which they were run, whose infos hold, per step, ``goal`` (its
        number), ``sigma``, ``success`` (true from the first success on) and ``expert_action``
        (without noise) [T, 4]; and the metadata of a card.
    """
    from metaworld.policies import ENV_POLICY_MAP

    began = time.perf_counter()
    simulator = simulator or TaskSimulator(config.task)
    expert: Any = ENV_POLICY_MAP[config.task]()  # type: ignore[abstract]
    episodes = [_episode(simulator, expert, config, n) for n in range(config.episodes)]
    by_sigma: dict[str, list[bool]] = {}
    for e in episodes:
        by_sigma.setdefault(f"{e.infos['sigma'][0]:g}", []).append(bool(e.infos["success"][-1]))
    return episodes, {
        "behaviour": _behaviour(config),
        "success_rate": {sigma: float(np.mean(of)) for sigma, of in by_sigma.items()},
        "statistics": statistics(episodes),
        "environment_steps": sum(map(len, episodes)),
        "seconds": time.perf_counter() - began,
    }


def evaluation(simulator: TaskSimulator, count: int = 10) -> list[SimulatedEpisode]:
    """Fresh episodes on the goals 40, 41, …, the same ones for every policy."""
    return [simulator.goal(DATA_GOALS + number) for number in range(count)]


def hidden(observations: Floats) -> Floats:
    """Observations [..., 39] with the goal's place zeroed."""
    shown = observations.copy()
    shown[..., GOAL] = 0.0
    return shown


def without_goal(episode: Episode) -> Episode:
    """The episode as somebody sees it who does not know the goal."""
    return Episode(**{**vars(episode), "observations": hidden(episode.observations)})


def _behaviour(config: GoalData) -> str:
    said = f"Meta-World's scripted expert, sigma {', '.join(f'{s:g}' for s in config.sigmas)}"
    if config.random:
        said += f", {config.random:.0%} random actions"
    return said


def _episode(simulator: TaskSimulator, expert: Any, config: GoalData, number: int) -> Episode:
    goal = config.first_goal + number % config.goals
    # from one round of the goals to the next, each goal gets another sigma
    sigma = config.sigmas[(number + number // config.goals) % len(config.sigmas)]
    rng = np.random.default_rng(
        [zlib.crc32(config.task.encode()), _NOISE, config.stream, config.first_goal, number]
    )
    episode = simulator.goal(goal)
    steps = config.steps
    observations = np.empty((steps + 1, len(episode.obs)), np.float32)
    actions, wanted = (np.empty((steps, ACTION_DIM), np.float32) for _ in range(2))
    rewards, success = np.empty(steps, np.float32), np.empty(steps, bool)
    observations[0] = episode.obs
    for t in range(steps):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "constants may be too high", once per step
            clean = np.clip(expert.get_action(episode._exact_obs), -1.0, 1.0)
        noisy = np.clip(clean + sigma * rng.standard_normal(ACTION_DIM), -1.0, 1.0)
        anything = rng.uniform(-1.0, 1.0, ACTION_DIM)
        wanted[t] = clean
        actions[t] = anything if rng.random() < config.random else noisy
        episode.step(actions[t])
        observations[t + 1], rewards[t] = episode.obs, episode.reward
        success[t] = episode.success
    ends = np.arange(steps) == steps - 1
    infos: dict[str, NDArray[Any]] = {
        "goal": np.full(steps, goal),
        "sigma": np.full(steps, sigma),
        "success": success,
        "expert_action": wanted,
    }
    return Episode(observations, actions, rewards, np.zeros(steps, bool), ends, infos)
