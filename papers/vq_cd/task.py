"""Sequences of tasks: their data, what a window is worth, and episodes for evaluation.

*spaces-* sequences have tasks with different states and actions; those of *same-* sequences share
them, and nothing is aligned. Scores: 0 is doing nothing (no torque) and 100 the best policy of the
search that made the data, both from the same starts; D4RL's are D4RL's (0: random); on Meta-World
they are successes in percent; on Ant-dir returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.control.decision_rollout import Environments, GymnasiumBatch, SimulatedBatch
from common.control.episodes import Episode
from common.control.locomotion_data import LocomotionData, best, locomotion_episodes
from common.control.metaworld import TaskSimulator
from common.control.metaworld_goals import DATA_GOALS, GoalData, goal_episodes
from common.control.random_search import SEARCHES, SearchConfig, maker, play, searched
from common.control.scores import D4RL_RETURNS
from common.control.trajectories import joined
from common.errors import choose
from papers.vq_cd.method import Paper
from papers.vq_cd.published import AntDirection, ant_direction, d4rl

Floats = NDArray[np.float64]
Kind = Literal["control", "metaworld", "d4rl", "ant"]
FIRST_SEED = 10_000_000  # of the evaluation's episodes
MANY = 100  # episodes of the references that data are scored by
QUALITIES = ("medium", "medium-replay", "medium-expert", "full-replay")
CW10 = (
    *("hammer-v3", "push-wall-v3", "faucet-close-v3", "push-back-v3", "stick-pull-v3"),
    *("handle-press-side-v3", "push-v3", "shelf-place-v3", "window-close-v3"),
    "peg-unplug-side-v3",
)
NOW = (*range(18), *range(36, 39))  # of Meta-World's 39: 18 are the frame before, once more
ANT_FOUR, ANT_SIX = (10, 15, 19, 25), (4, 18, 26, 34, 42, 49)


@dataclass(frozen=True)
class Domain:
    """One task of a sequence.

    Attributes:
        name: in rows.
        kind: where its data come from.
        limit: steps of an episode of the evaluation.
        ahead: steps that a window's return sums; None: to the end of the episode.
        frame: what of an observation is seen; all of it by default.
        made: how the data are made, of control and Meta-World.
        key: what published data are asked for by.
    """

    name: str
    kind: Kind
    limit: int
    ahead: int | None = None
    frame: tuple[int, ...] | None = None
    made: LocomotionData | GoalData | None = None
    key: tuple[Any, ...] = ()


def control(name: str, search: SearchConfig, limit: int, ahead: int, **changes: Any) -> Domain:
    """A task whose data are the tries of a random search, from the first to the last."""
    made = LocomotionData(
        search,
        "full-replay",
        **{"transitions": 30_000, "steps": limit + ahead, "scored_steps": limit, **changes},
    )
    return Domain(name, "control", limit, ahead, made=made)


def metaworld(
    name: str, steps: int, episodes: int = 60, frame: tuple[int, ...] | None = None
) -> Domain:
    """A task of Meta-World, its data those of noisy scripted experts on 40 goals."""
    return Domain(name, "metaworld", steps, frame=frame, made=GoalData(name, episodes, steps))


def _small(environment: str, **changes: Any) -> SearchConfig:
    own = {"steps": 50, "iterations": 4, "directions": 8, "best": 4, "evaluations": 1}
    return SearchConfig(environment, **{**own, **changes})


_SHORT = {"transitions": 1_200, "reference_episodes": 10}
SWIMMER = control("swimmer", SEARCHES["Swimmer-v5"], 100, 100)
SEQUENCES: dict[str, tuple[Domain, ...]] = {
    "spaces-pr": (
        control("pendulum", _small("Pendulum-v1", noise=0.3, step=0.3), 40, 20, **_SHORT),
        control("reacher-small", _small("Reacher-v5", step=0.02), 40, 20, **_SHORT),
    ),
    "spaces-rsh": (
        control("reacher", SEARCHES["Reacher-v5"], 50, 100),
        SWIMMER,
        control("halfcheetah", SEARCHES["HalfCheetah-v5"], 100, 100),
    ),
    "alone-swimmer": (SWIMMER,),
    "same-mw3": tuple(
        metaworld(t, 120, frame=NOW) for t in ("hammer-v3", "faucet-close-v3", "window-close-v3")
    ),
    "same-cw10": tuple(metaworld(t, 200, 400) for t in CW10),
    **{
        f"spaces-d4rl-{quality}": tuple(
            Domain(name, "d4rl", 1000, key=(name, quality))
            for name in ("hopper", "walker2d", "halfcheetah")
        )
        for quality in QUALITIES
    },
    **{
        f"same-ant{len(numbers)}": tuple(
            Domain(f"ant-dir-{n}", "ant", 200, key=(n,)) for n in numbers
        )
        for numbers in (ANT_FOUR, ANT_SIX)
    },
}


def sequence_of(name: str) -> tuple[Domain, ...]:
    """The tasks of a sequence, in order.

    Raises:
        UserError: for an unknown one.
    """
    return SEQUENCES[choose("task", name, SEQUENCES)]


def aligned(name: str) -> bool:
    """Whether a sequence's tasks have spaces of their own."""
    return not name.startswith("same-")


@dataclass(frozen=True)
class Offline:
    """The data of a task and how a policy is scored on it.

    Attributes:
        episodes: of the data.
        worth: what a window that begins at a step is worth, per episode [T]; NaN where none may.
        batch: fresh episodes: how many begin where, and how often all of them (lanes).
        limit: steps of an episode.
        ends: of n episodes: the returns whose scores are 0 [n] (or one for all), and how many
            more are worth 100 points.
        by_success: the score is the share of successes, in percent; an episode ends with it.
        floored: a task's score is at least 0: worse than doing nothing is nothing.
        behaviour: the mean score of the data.
    """

    episodes: list[Episode]
    worth: list[Floats]
    batch: Callable[[int, int], Environments]
    limit: int
    ends: Callable[[int], tuple[Floats, float]]
    by_success: bool
    floored: bool
    behaviour: Callable[[], float]

    @property
    def dims(self) -> tuple[int, int]:
        """Of states and actions."""
        first = self.episodes[0]
        return first.observations.shape[1], first.actions.shape[1]

    def scores(self, returns: Floats, success: NDArray[np.bool_]) -> Floats:
        """Of episodes, the first of them in the first column. [..., E]"""
        if self.by_success:
            return 100.0 * success
        zero, whole = self.ends(returns.shape[-1])
        return 100.0 * (returns - zero) / whole

    def bounded(self, scores: Floats) -> Floats:
        """Mean scores as they count. Control's are unbounded below (a flailing arm's is -600)."""
        return np.maximum(scores, 0.0) if self.floored else scores


@lru_cache(maxsize=16)
def offline(domain: Domain) -> Offline:
    """The data of a task, made or fetched on first use.

    Raises:
        UserError: if published data are missing.
    """
    if isinstance(domain.made, GoalData):
        return _of_metaworld(domain, domain.made)
    if isinstance(domain.made, LocomotionData):
        return _of_control(domain, domain.made)
    if domain.kind == "d4rl":
        name, quality = domain.key
        env = {"hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}
        low, high = D4RL_RETURNS[name]
        return _by_return(domain, d4rl(name, quality), maker(env[name]), low, high - low)
    episodes, direction = ant_direction(*domain.key)
    return _by_return(domain, episodes, lambda: AntDirection(direction), 0.0, 100.0)


def _by_return(
    domain: Domain, episodes: list[Episode], make: Callable[[], Any], zero: float, whole: float
) -> Offline:
    """Scores on a scale that is the same for all episodes."""

    def mean() -> float:
        return 100.0 * (returns_of(episodes, domain.limit) - zero) / whole

    worth = worth_of_returns(episodes, domain.limit, domain.ahead)
    starts = _starts(make)
    ends = (np.asarray(zero), whole)
    return Offline(episodes, worth, starts, domain.limit, lambda n: ends, False, False, mean)


def _of_control(domain: Domain, made: LocomotionData) -> Offline:
    """Scores between doing nothing and the search's best policy from the same starts."""
    episodes, _ = locomotion_episodes(made)

    def mean() -> float:
        zero, whole = references(made, MANY)
        return 100.0 * (returns_of(episodes, domain.limit) - float(zero.mean())) / whole

    worth = worth_of_returns(episodes, domain.limit, domain.ahead)
    starts = _starts(maker(made.search.environment))
    return Offline(
        *(episodes, worth, starts, domain.limit),
        *(lambda n: references(made, n), False, True, mean),
    )


def _starts(make: Callable[[], Any]) -> Callable[[int, int], Environments]:
    def batch(lanes: int, n: int) -> Environments:
        envs = [Scaled(make()) for _ in range(lanes * n)]
        return GymnasiumBatch(envs, [FIRST_SEED + e for e in range(n)] * lanes)

    return batch


def returns_of(episodes: Sequence[Episode], limit: int) -> float:
    """Their mean return over as many steps as the evaluation's have."""
    return float(np.mean([e.rewards[:limit].sum(dtype=np.float64) for e in episodes]))


@lru_cache(maxsize=32)
def references(made: LocomotionData, n: int) -> tuple[Floats, float]:
    """Returns of doing nothing from the first n starts of the evaluation, and what 100 points are.

    Where a goal is near, doing nothing is nearly as good as the best: a few starts' luck would move
    all scores by as much as methods differ.
    """
    env, snapshots = maker(made.search.environment)(), searched(made.search)
    expert = snapshots[best(snapshots)].policy
    nothing = np.zeros(env.action_space.shape)

    def returns(act: Callable[[Any], Any]) -> Floats:
        played = [play(env, act, FIRST_SEED + e, made.scored_steps) for e in range(n)]
        return np.array([e.rewards.sum(dtype=np.float64) for e in played])

    zero = returns(lambda _: nothing)
    # a search as short as smoke's may not find anything better
    return zero, max(float(returns(expert).mean() - zero.mean()), 1.0)


def _of_metaworld(domain: Domain, made: GoalData) -> Offline:
    simulator = TaskSimulator(made.task)
    episodes, _ = goal_episodes(made, simulator)
    frame = list(domain.frame) if domain.frame else slice(None)
    episodes = [replace(e, observations=e.observations[:, frame]) for e in episodes]

    def batch(lanes: int, n: int) -> Environments:
        goals = [simulator.goal(DATA_GOALS + e) for e in [*range(n)] * lanes]
        return SimulatedBatch(goals, lambda seen: seen[:, frame])

    def mean() -> float:
        return 100.0 * float(np.mean([e.infos["success"].any() for e in episodes]))

    worth = [worth_of_success(e) for e in episodes]
    ends = (np.zeros(()), 1.0)
    return Offline(episodes, worth, batch, domain.limit, lambda n: ends, True, False, mean)


class Scaled:
    """An environment whose actions are in [-1, 1] whatever its box is."""

    def __init__(self, env: Any) -> None:
        self._env, self.reset = env, env.reset
        self._low, self._high = env.action_space.low, env.action_space.high

    def step(self, action: NDArray[Any]) -> Any:
        """As Gymnasium's."""
        return self._env.step(self._low + (action + 1.0) / 2.0 * (self._high - self._low))


# -- what windows are worth ---------------------------------------------------------------------


def worth_of_returns(
    episodes: Sequence[Episode], limit: int, ahead: int | None, gamma: float = Paper.gamma
) -> list[Floats]:
    """R_t = sum over k < ahead of gamma^k r_{t + k}, per episode [T].

    With ``ahead`` windows begin before step ``limit`` and where so many steps follow: a sum up to
    the end of a short episode would tell above all how much of it is left.

    Args:
        ahead: steps; None: to the end, and windows begin anywhere.
    """
    togo = joined(episodes).returns_to_go(gamma)
    found = []
    for part in np.split(togo, np.cumsum([len(e) for e in episodes])[:-1]):
        if ahead is None:
            found.append(part)
            continue
        t, T = np.arange(len(part)), len(part)
        later = np.append(part, 0.0)[np.minimum(t + ahead, T)]
        whole = (t < limit) & (t + ahead <= T)
        found.append(np.where(whole, part - gamma**ahead * later, np.nan))
    return found


def worth_of_success(episode: Episode) -> Floats:
    """1 / (1 + steps to success), 0 without one, the same for all windows of an episode. [T]

    None begins after the success: the evaluation ends there.
    """
    success = episode.infos["success"].astype(bool)
    if not success.any():
        return np.zeros(len(episode))
    steps = int(success.argmax()) + 1
    return np.where(np.arange(len(episode)) < steps, 1.0 / (1.0 + steps), np.nan)
