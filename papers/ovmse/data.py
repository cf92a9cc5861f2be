"""The data set of a run: the project's own for SMAX, CFCQL's public one for SMAC.

CFCQL's are files MAP_QUALITY.h5 in PyMARL's layout: padded episodes, an array per name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import UserError
from common.marl import datasets
from common.marl.episodes import Episode
from papers.ovmse.task import data_task, place

NAMES = ("obs", "state", "avail_actions", "actions", "reward", "terminated", "filled")


SOURCE = "unpack sc2datasets, which the README of github.com/thu-rllab/CFCQL/discrete links to"


def data_file(cfg: Any) -> Path:
    """The data set of a run of stage 2 or 3: as given, of stage 1 with the same seed, or CFCQL's.

    Raises:
        UserError: if CFCQL's is needed and not there.
    """
    if cfg.data is not None:
        return Path(cfg.data)
    task = data_task(cfg.task)
    family, _, battle = task.environment.partition(":")
    if family == "smac":
        quality = {"replay": "medium_replay"}.get(task.quality, task.quality)
        return files.find_data(f"ovmse/{battle}_{quality}.h5", "CFCQL's data set", SOURCE)
    return place(cfg.out, "data", task.map, "qmix") / f"{task.quality}.npz"


def load(cfg: Any) -> list[Episode]:
    """The episodes of a run of stage 2 or 3.

    Raises:
        UserError: if they are not there, or damaged.
    """
    path = data_file(cfg)
    return read_h5(path) if path.suffix == ".h5" else datasets.read(path)[0]


def read_h5(path: Path) -> list[Episode]:
    """The episodes of a file of CFCQL's; ``won`` is not recorded there and False throughout.

    A padded episode of L steps has L + 1 filled moments, the last one without an action.

    Raises:
        UserError: if it is not there, h5py is missing, or it is of another layout.
    """
    if not path.is_file():
        raise UserError(f"there is no data set at {path}; {SOURCE}")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = {name: np.asarray(file[name]) for name in NAMES}
    except (OSError, KeyError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path} is no data set of CFCQL's ({why}); get it again") from error
    lengths = arrays["filled"][..., 0].sum(1).astype(int) - 1
    if (lengths < 1).any():
        raise UserError(f"{path} holds an episode without a step; get it again")
    return [_episode({k: v[b] for k, v in arrays.items()}, n) for b, n in enumerate(lengths)]


def _episode(arrays: dict[str, np.ndarray], length: int) -> Episode:
    moments = slice(0, length + 1)
    avail = arrays["avail_actions"][moments] > 0
    avail[~avail.any(-1)] = True  # the last moment of some has none
    return {
        "obs": arrays["obs"][moments].astype(np.float32),
        "state": arrays["state"][moments].astype(np.float32),
        "avail": avail,
        "alive": ~avail[..., 0],  # action 0 is that of the dead, and theirs alone
        "agent_type": np.zeros(avail.shape[:2], np.int64),
        "actions": arrays["actions"][:length, :, 0].astype(np.int64),
        "reward": arrays["reward"][:length, 0].astype(np.float32),
        "terminated": arrays["terminated"][:length, 0].astype(np.float32),
        "won": np.array(False),
    }


__all__ = ["NAMES", "SOURCE", "data_file", "load", "read_h5"]
