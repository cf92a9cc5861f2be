"""Data that others have published, and what they are scored in (scale ``paper``).

D4RL's locomotion: as Minari has it, or, for the replays, the HDF5 files of D4RL's server. Ant-dir:
an npz per direction. Nothing is unpickled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.control.episodes import Episode, load_minari
from common.errors import UserError
from common.files import find_data

Floats = NDArray[np.float32]
ANT_DIM, ANT_ACTIONS = 27, 8
MINARI = {"medium": ("medium",), "medium-expert": ("medium", "expert")}
SERVER = {"medium-replay": "medium_replay", "full-replay": "full_replay"}


def d4rl(name: str, quality: str) -> list[Episode]:
    """Episodes of hopper, walker2d or halfcheetah.

    Raises:
        UserError: if they are not there, with what to get and where it goes.
    """
    if quality in MINARI:
        parts = [load_minari(f"mujoco/{name}/{q}-v0")[0] for q in MINARI[quality]]
        return [episode for part in parts for episode in part]
    return legacy_d4rl(f"{name}_{SERVER[quality]}-v2")


def legacy_d4rl(name: str) -> list[Episode]:
    """Episodes of a file of D4RL's server, ``d4rl/NAME.hdf5`` below ``$PAPERS_DATA``.

    Raises:
        UserError: if it is not there or lacks an array.
    """
    import h5py

    path = find_data(
        f"d4rl/{name}.hdf5",
        f"D4RL's {name}",
        "download it from the address that D4RL's package names for it",
    )
    try:
        with h5py.File(path, "r") as file:
            arrays = {
                key: np.asarray(file[key])
                for key in ("observations", "actions", "rewards", "terminals", "timeouts")
            }
    except (OSError, KeyError) as error:
        raise UserError(f"{path} is no file of D4RL ({error}); get it again") from error
    done = arrays["terminals"].astype(bool) | arrays["timeouts"].astype(bool)
    ends = np.flatnonzero(done) + 1  # what comes after the last end is no whole episode
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else np.zeros(0, int)
    if not len(ends):
        raise UserError(f"{path} has no whole episode")
    return [
        episode_of(
            *(arrays[key][start:end] for key in ("observations", "actions", "rewards")),
            terminated=bool(arrays["terminals"][end - 1]),
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def ant_direction(number: int) -> tuple[list[Episode], float]:
    """Episodes of Ant-dir's task ``number`` and its direction in radians.

    From ``vq_cd/ant-dir/NUMBER.npz`` below ``$PAPERS_DATA``: observations [E, T, 27], actions
    [E, T, 8], rewards [E, T] and direction [].

    Raises:
        UserError: if it is not there or something else.
    """
    path = find_data(
        f"vq_cd/ant-dir/{number}.npz",
        f"Ant-dir's task {number}",
        "make it of Prompt-DT's or MACAW's data: observations [E, T, 27], actions [E, T, 8], "
        "rewards [E, T], direction [] in radians",
    )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            o, a, r = (arrays[key] for key in ("observations", "actions", "rewards"))
            direction = float(arrays["direction"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not what it should be ({error})") from error
    if o.ndim != 3 or o.shape[2] != ANT_DIM or a.shape != (*o.shape[:2], ANT_ACTIONS):
        raise UserError(f"{path} has observations {o.shape} and actions {a.shape}")
    return [episode_of(*part, terminated=False) for part in zip(o, a, r, strict=True)], direction


def episode_of(observations: Any, actions: Any, rewards: Any, *, terminated: bool) -> Episode:
    """An episode of T steps; what follows the last step is not known, and its state is repeated."""
    steps = len(actions)
    last = np.arange(steps) == steps - 1
    return Episode(
        np.concatenate([observations, observations[-1:]]).astype(np.float32),
        np.asarray(actions, np.float32),
        np.asarray(rewards, np.float32).reshape(steps),
        last & terminated,
        last & (not terminated),
    )


class AntDirection:
    """Gymnasium's ant, paid for its velocity along a direction.

    Args:
        direction: in radians.
    """

    def __init__(self, direction: float) -> None:
        import gymnasium

        made = gymnasium.make("Ant-v5", include_cfrc_ext_in_observation=False)
        self._env, self._along = made.unwrapped, np.array([np.cos(direction), np.sin(direction)])
        self.action_space = self._env.action_space

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        """As Gymnasium's."""
        return self._env.reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's; the reward for running forward is the one along the direction."""
        found, _, terminated, truncated, info = self._env.step(action)
        moved = self._along @ (info["x_velocity"], info["y_velocity"])
        rest = sum(info.get(f"reward_{part}", 0.0) for part in ("survive", "ctrl", "contact"))
        return found, float(moved + rest), terminated, truncated, info
