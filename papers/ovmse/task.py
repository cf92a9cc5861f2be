"""Tasks: a battle and the quality of the data; seeds of episodes; where stages find each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError, choose
from common.marl.protocol import BatchEnv

# Conservative weights are meant for returns of up to 20, SMAC's; SMAX has returns of up to 2.
SCALES = {"smax": 10.0, "smac": 1.0}
MAPS = {
    **{name: f"smax:{name}" for name in ("3m", "8m", "5m_vs_6m", "2s3z")},
    **{f"smac_{name}": f"smac:{name}" for name in ("2s3z", "3s_vs_5z", "5m_vs_6m", "6h_vs_8z")},
}
CHAIN = "chain"  # the exact case, see papers.ovmse.tabular
QUALITIES = ("medium", "replay", "expert", "mixed")

Purpose = Literal["behaviour", "behaviour evaluation", "data", "online", "evaluation"]
PURPOSES: tuple[Purpose, ...] = (
    *("behaviour", "behaviour evaluation", "data", "online", "evaluation"),
)


@dataclass(frozen=True)
class Task:
    """A battle with data of one quality.

    Attributes:
        map: name in ``MAPS``.
        quality: of the data; empty where they are about to be made.
    """

    map: str
    quality: str = ""

    @property
    def environment(self) -> str:
        """Name for ``make_env``."""
        return MAPS[self.map]

    @property
    def reward_scale(self) -> float:
        """What every learner multiplies rewards by; data and results have them as they are."""
        return SCALES[self.environment.partition(":")[0]]


def task_of(name: str) -> Task:
    """The task called MAP or MAP-QUALITY.

    Raises:
        UserError: for an unknown map or quality.
    """
    battle, dash, quality = name.partition("-")
    choose("map", battle, MAPS)
    if dash:
        choose("quality of data", quality, QUALITIES)
    return Task(battle, quality)


def data_task(name: str) -> Task:
    """As :func:`task_of`, with a quality.

    Raises:
        UserError: likewise, and where no quality is named.
    """
    task = task_of(name)
    if not task.quality:
        raise UserError(f"'{name}' names no data; write {name}-QUALITY ({', '.join(QUALITIES)})")
    return task


def make(task: Task, n_envs: int) -> BatchEnv:
    """The environments of a task.

    Raises:
        UserError: if a package or a game is missing.
    """
    from common.marl.environments import make_env

    return make_env(task.environment, n_envs)


def episode_seed(purpose: Purpose, seed: int, number: int = 0) -> int:
    """Seed of a round of episodes: no two purposes, training seeds or rounds share one."""
    return (PURPOSES.index(purpose) + 1) * 10**12 + seed * 10**6 + number


def stream(stage: str, seed: int) -> int:
    """Seed of weights, batches and actions: the stages of a training seed share none."""
    return {"online": 0, "data": 10_000, "offline": 20_000}[stage] + seed


# -- where stages find each other -----------------------------------------------------------------


def place(out: Path, *parts: str) -> Path:
    """A run of an earlier stage: SCALE/STAGE/TASK/METHOD/seed-S beside the run ``out``.

    Where the run is a cell of a grid, there is one folder more between it and the scale.
    """
    places = [at.joinpath(*parts, out.absolute().name) for at in out.absolute().parents[3:6]]
    return next((found for found in places if found.is_dir()), places[0])


def offline_folder(cfg: Any) -> Path:
    """The run of stage 2 that a run of stage 3 begins with."""
    if cfg.offline is not None:
        return Path(cfg.offline)
    return place(cfg.out, "offline", cfg.task, cfg.learner)


def clone_folder(cfg: Any) -> Path:
    """The cloned behaviour that the moderate form weighs agents by."""
    return Path(cfg.clone) if cfg.clone is not None else place(cfg.out, "clone", cfg.task, "bc")


__all__ = [
    "CHAIN",
    "MAPS",
    "QUALITIES",
    "Task",
    "clone_folder",
    "Purpose",
    "data_task",
    "episode_seed",
    "make",
    "offline_folder",
    "place",
    "stream",
    "task_of",
]
