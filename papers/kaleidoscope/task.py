"""Tasks and what belongs to them: two preys for four predators, battles, a robot's two halves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import choose
from common.marl.episodes import Act, Episode, outcomes
from common.marl.protocol import BatchEnv, Floats, Ints, Seen, uniform_actions


@dataclass(frozen=True)
class Task:
    """A task with discrete actions, and what the authors set for its kind (MPE, SMACv2).

    Attributes:
        env: name of the environment, see ``common.marl.environments``.
        options: of the environment.
        steps: environment steps of a run.
        standardise: rewards by their running mean and deviation.
        lam: of TD(lambda) (paper: one step on MPE, .6 on SMACv2).
        last: agents see their last action.
        loss_scale: of the squared error.
        beta_0: of the diversity's coefficient.
        rho: share of the weights that nobody uses which a reset draws anew.
        finite: the steps of an episode are all that counts: nothing of value follows the last.
        battle: it is won or lost.
        preys: it is the hunt for two preys.
    """

    env: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 240_000
    standardise: bool = True
    lam: float = 0.6
    last: bool = False
    loss_scale: float = 1.0
    beta_0: float = 0.5
    rho: float = 0.1
    finite: bool = True
    battle: bool = False
    preys: bool = False


BATTLE: dict[str, Any] = {
    **{"standardise": False, "last": True, "loss_scale": 0.5},
    **{"beta_0": 5.0, "rho": 0.2, "finite": False, "battle": True},
}
FLEEING = {"preys": "fleeing"}
TASKS: dict[str, Task] = {
    "distinct": Task("mpe:facmac_distinct", preys=True),
    "distinct-long": Task("mpe:facmac_distinct", steps=720_000, preys=True),
    "distinct-fleeing": Task("mpe:facmac_distinct", FLEEING, preys=True),
    "mpe": Task("mpe:facmac_mpe", preys=True),
    "spread": Task("mpe:spread"),
    "units": Task("smax:smacv2_5_units", **BATTLE),
    **{
        race: Task(f"smacv2:{race}_5_vs_5", steps=10_050_000, **BATTLE)
        for race in ("terran", "protoss", "zerg")
    },
}


def task_of(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: for an unknown name.
    """
    return TASKS[choose("task", name, TASKS)]


def make(task: Task, n_envs: int) -> BatchEnv:
    """The environments of a task."""
    from common.marl.environments import make_env

    return make_env(task.env, n_envs, **task.options)


def measured(task: Task, episodes: Sequence[Episode]) -> dict[str, float]:
    """What evaluation episodes say: return, and what the task is about."""
    ended = outcomes(episodes)
    found = {"return": float(ended.returns.mean())}
    if task.battle:
        found["win_rate"] = float(ended.won.mean())
    if task.preys:
        from common.marl.jax_mpe import covered

        after = np.concatenate([e["state"][1:] for e in episodes])
        found["covered"] = float(covered(after).mean())
    return found


def chased(episodes: Sequence[Episode]) -> NDArray[np.float64]:
    """Share of the steps in which a prey is the one that a predator is nearest to. [4, 2]."""
    from common.marl.jax_mpe import positions

    predators, preys = positions(np.concatenate([e["state"][1:] for e in episodes]))
    distances = np.linalg.norm(predators[:, :, None] - preys[:, None], axis=-1)  # [steps, 4, 2]
    nearest = distances.argmin(-1)
    return np.stack([(nearest == prey).mean(0) for prey in range(preys.shape[1])], -1)


# -- policies written by hand ---------------------------------------------------------------------

# every way to give four predators two preys with nobody left alone
_SHARED_OUT = np.array([w for w in itertools.product(range(2), repeat=4) if 0 < sum(w) < 4])
_BRAKE = 0.3  # s; the velocity counts against the distance so that nobody overshoots


def script(name: str, seed: int) -> Act:
    """A policy written by hand, of the hunt (but for "random").

    Args:
        name: "random"; "one-prey", all after the first prey; "nearest", each after the prey that
            is nearest to it; "assigned", preys shared out so that the sum of distances is least
            and none is left alone.
        seed: of random play.
    """
    rng = np.random.default_rng(seed)

    def act(seen: Seen, t: int) -> Ints:
        if name == "random":
            return uniform_actions(seen, rng)
        from common.marl.jax_mpe import positions

        predators, preys = positions(seen.state)
        distances = np.linalg.norm(predators[:, :, None] - preys[:, None], axis=-1)  # [E, 4, 2]
        if name == "one-prey":
            prey = np.zeros(distances.shape[:2], np.int64)
        elif name == "nearest":
            prey = distances.argmin(-1)
        else:
            sums = [distances[:, np.arange(4), way].sum(-1) for way in _SHARED_OUT]
            prey = _SHARED_OUT[np.stack(sums, -1).argmin(-1)]
        aim = np.take_along_axis(preys, prey[..., None], 1) - predators
        velocity = seen.state[:, -12:].reshape(-1, 6, 2)[:, :4]  # agents' and preys' come last
        return heading(aim - _BRAKE * velocity)

    return act


def heading(direction: Floats) -> Ints:
    """The action that pushes along the longer axis of a direction. [..., 2] -> [...]."""
    axis = np.abs(direction).argmax(-1)
    positive = np.take_along_axis(direction, axis[..., None], -1)[..., 0] > 0
    return (1 + 2 * axis + positive).astype(np.int64)  # 1 left, 2 right, 3 down, 4 up
