"""Sequences of Meta-World tasks: sentences, data, held-out episodes, goals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.control.behaviour import wanted_actions
from common.control.decision_rollout import SimulatedBatch
from common.control.episodes import Episode
from common.control.metaworld import TaskSimulator
from common.control.metaworld_goals import GoalData, goal_episodes, held_out, near_optimal
from common.control.mtdiff import EPISODES, STEPS, mtdiff_episodes
from common.control.task_texts import embed_tasks
from common.errors import UserError
from common.files import find_data

Floats = NDArray[np.float32]
OBS_DIM, ACTION_DIM = 39, 4
LIMIT = 120  # steps of an episode; the data's mean action needs up to 94 of them
LONG = 200  # of the ten tasks, whose experts need up to 129

# One imperative sentence per task, ours; tasks of a family share words.
SENTENCES = {
    "hammer-v3": "Hammer a nail into the wall",
    "push-wall-v3": "Push a puck around a wall to a goal",
    "faucet-close-v3": "Turn a faucet to close it",
    "push-back-v3": "Pull a puck back to a goal",
    "stick-pull-v3": "Pull a box to a goal with a stick",
    "handle-press-side-v3": "Press a handle down from the side",
    "push-v3": "Push a puck to a goal",
    "shelf-place-v3": "Place a puck on a shelf",
    "window-close-v3": "Slide a window to close it",
    "peg-unplug-side-v3": "Unplug a peg from a hole at the side",
}
PRESS, FAUCET, WINDOW = "handle-press-side-v3", "faucet-close-v3", "window-close-v3"
PUSH, PUSH_WALL = "push-v3", "push-wall-v3"
TEN = tuple(SENTENCES)  # Offline Continual World's order
SEVEN = (PRESS, FAUCET, WINDOW, PUSH, PUSH_WALL, PRESS, PUSH)


@dataclass(frozen=True)
class Stream:
    """Tasks that come one after another.

    Attributes:
        tasks: in their order; one may come again.
        episodes: of each task.
        published: MTDiff's data in the place of scripted experts.
        slow: whether episodes are longer.
    """

    tasks: tuple[str, ...]
    episodes: int = 60
    published: bool = False
    slow: bool = False

    @property
    def limit(self) -> int:
        """Steps of an episode, of data as of evaluation."""
        return STEPS if self.published else LONG if self.slow else LIMIT

    def earlier(self, step: int) -> int | None:
        """Where the task of a step has come before for the first time; None: it is new."""
        first = self.tasks.index(self.tasks[step])
        return first if first < step else None


def _order(number: int) -> tuple[str, ...]:
    """A random order of the ten tasks (ours: the authors' three were not at hand)."""
    return tuple(TEN[i] for i in np.random.default_rng(number).permutation(len(TEN)))


def _streams() -> dict[str, Stream]:
    made = {
        "ocw3": Stream((PRESS, FAUCET, PRESS), episodes=8),
        "ocw3-tune": Stream((WINDOW, PUSH, WINDOW)),
        "ocw7": Stream(SEVEN),
        "ocw10": Stream(TEN, slow=True),
        "ocw20": Stream((*TEN, *TEN), slow=True),
    }
    for quality, episodes in EPISODES.items():
        made[f"ocw10-sac-{quality}"] = Stream(TEN, episodes, published=True)
        made[f"ocw20-sac-{quality}"] = Stream((*TEN, *TEN), episodes, published=True)
    for n in (1, 2, 3):
        made[f"ocw10-order{n}-sac-near"] = Stream(_order(n), EPISODES["near"], published=True)
    return made


STREAMS = _streams()


def sentence_vectors(stream: Stream, encoder: str) -> Floats:
    """Vectors of the tasks' sentences, of length 1. [K, 384]

    Args:
        encoder: "minilm-l6", which a package brings along, or "minilm-l12" (the authors') below
            ``$PAPERS_DATA``.
    """
    sentences = [SENTENCES[task] for task in stream.tasks]
    if encoder == "minilm-l6":
        return embed_tasks(sentences)
    from common.textlab.encoder import embed, load, normalised

    name = "sentence-transformers/all-MiniLM-L12-v2"
    folder = find_data(name, "the sentence encoder all-MiniLM-L12-v2", "get it from the hub")
    return normalised(embed(*load(folder), sentences))


@dataclass(frozen=True)
class Demonstrations:
    """What a run has of one task.

    Attributes:
        train: episodes to learn from.
        held_out: episodes of the same kind on the goals of evaluation (of MTDiff: the last two).
        wanted: per held-out episode, what an action is compared with [T, 4]: the mean of the
            behaviour's actions at that state, its noise integrated out (of MTDiff: its actions).
        behaviour_success: share of the training episodes that reach their goal; NaN: not told.
    """

    train: list[Episode]
    held_out: list[Episode]
    wanted: list[Floats]
    behaviour_success: float


def behaviour(stream: Stream, task: str) -> GoalData:
    """Who made a task's data."""
    return replace(near_optimal(task), episodes=stream.episodes, steps=stream.limit)


def demonstrations(
    stream: Stream, task: str, first_goal: int, goals: int, episodes: int | None
) -> Demonstrations:
    """The data of a task, generated on first use or read below ``$PAPERS_DATA``.

    Args:
        first_goal: first goal of the held-out episodes.
        goals: how many, one episode each.
        episodes: to learn from; None: the stream's number.
    """
    number = stream.episodes if episodes is None else episodes
    if stream.published:
        found = mtdiff_episodes(task, number)
        train, rest = found[:-2], found[-2:]
        return Demonstrations(train, rest, [e.actions for e in rest], math.nan)
    config = replace(behaviour(stream, task), episodes=number)
    unseen = replace(held_out(config, goals), first_goal=first_goal, goals=goals)
    simulator = TaskSimulator(task)
    train, _ = goal_episodes(config, simulator)
    rest, _ = goal_episodes(unseen, simulator)
    success = float(np.mean([bool(e.infos["success"][-1]) for e in train]))
    return Demonstrations(train, rest, [wanted_actions(e, unseen) for e in rest], success)


def goal_batch(task: str, first_goal: int, goals: int) -> SimulatedBatch:
    """Fresh episodes of a task on the goals, the same ones for every policy."""
    simulator = _simulator(task)
    return SimulatedBatch([simulator.goal(first_goal + i) for i in range(goals)])


_simulators: dict[str, TaskSimulator] = {}


def _simulator(task: str) -> TaskSimulator:
    """A task's simulator, compiled once in a process."""
    if task not in _simulators:
        _simulators[task] = TaskSimulator(task)
    return _simulators[task]


def check_goals(first: Sequence[int], goals: int, data: int) -> None:
    """Refuse goals that data hold, and blocks of goals that share one.

    Args:
        first: the first goal of each block.
        goals: of a block.
        data: goals below this number are those of the data.

    Raises:
        UserError: if they do.
    """
    if min(first) < data:
        raise UserError(f"--first-goal {min(first)}: goals below {data} are those of the data")
    ordered = sorted(first)
    if any(b - a < goals for a, b in zip(ordered, ordered[1:], strict=False)):
        raise UserError(
            f"--goals {goals}: those of evaluation ({first[0]} on) and of the sufficiency test "
            f"({first[1]} on) overlap"
        )
