"""A trained team, for use outside of the experiments; and the networks of an earlier stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from common import files
from common.errors import UserError
from common.marl.protocol import Ints, Seen
from common.marl.recurrent import Acting
from common.marl.targets import NEVER
from common.run import Run
from papers.ovmse.config import ChainConfig, Config, DataConfig, Learning, OfflineConfig
from papers.ovmse.methods import METHODS
from papers.ovmse.networks import Sizes, Values
from papers.ovmse.task import CHAIN, make, task_of

CONFIGS: dict[str, type[Learning]] = {
    "data": DataConfig,
    "offline": OfflineConfig,
    "online": Config,
}


def config_of(run: Run) -> Any:
    """The configuration of a run of any stage."""
    written = files.read_json(run.folder / "config.json")
    if written["task"] == CHAIN:
        return run.config(ChainConfig)
    return run.config(CONFIGS[METHODS[written["method"]].stage])


def load_values(folder: Path, env: Sizes, method: str, task: str, seed: int) -> Values:
    """The networks of a finished run, which has to be the one that is meant.

    Raises:
        UserError: if it is not there, not finished, or another one.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"there is no run of {method} in {folder}; make it "
            f"(python -m papers.ovmse.pretrain --method {method} --task {task}) or name it"
        )
    run = Run.load(folder)
    cfg = config_of(run)
    if (cfg.method, cfg.task, cfg.seed) != (method, task, seed):
        raise UserError(
            f"{folder} holds {cfg.method} on {cfg.task}, seed {cfg.seed}; "
            f"this run needs {method} on {task}, seed {seed}"
        )
    return values_of(run, cfg, env)


def offline_alpha(folder: Path) -> float:
    """The weight of the conservative term that an offline run was trained with."""
    return float(Run.load(folder).config(OfflineConfig).alpha)


def values_of(run: Run, cfg: Learning, env: Sizes) -> Values:
    """The networks that a run ended with."""
    values = Values(env, cfg, torch.Generator())
    values.load_state_dict(run.final()["values"])
    return values


class Team:
    """N agents that act in one environment, each with a memory of its own episode.

    Attributes:
        n_agents, obs_dim, n_actions: sizes.

    Args:
        values: whose agents act.
        env: for its sizes.
    """

    def __init__(self, values: Values, env: Sizes) -> None:
        self.n_agents, self.obs_dim, self.n_actions = env.n_agents, env.obs_dim, env.n_actions
        self._values = values
        self.reset()

    def reset(self) -> None:
        """Forget: an episode begins."""
        self._acting = Acting(self._values.agents, 1, self.n_actions)

    def act(self, obs: ArrayLike, avail: ArrayLike | None = None) -> Ints:
        """The greedy actions of this step. [N].

        Args:
            obs: [N, O].
            avail: which actions are available; default: all. [N, A].

        Raises:
            UserError: for arrays of another shape, or an agent that can do nothing.
        """
        seen = np.asarray(obs, np.float32)
        if seen.shape != (self.n_agents, self.obs_dim):
            wanted = (self.n_agents, self.obs_dim)
            raise UserError(f"observations are {wanted}, not {seen.shape}")
        allowed = np.ones((self.n_agents, self.n_actions), bool)
        if avail is not None:
            allowed = np.asarray(avail, bool)
        if allowed.shape != (self.n_agents, self.n_actions) or not allowed.any(-1).all():
            raise UserError(
                f"available actions are ({self.n_agents}, {self.n_actions}), one at least for each"
            )
        blank = np.zeros((1, self.n_agents), np.int64)
        moment = Seen(seen[None], seen[:0], allowed[None], blank > -1, blank)
        utilities = np.where(allowed, self._acting.values(moment)[0], NEVER)
        actions = utilities.argmax(-1).astype(np.int64)
        self._acting.acted(actions[None])
        return actions


def load(folder: Path) -> Team:
    """See :func:`papers.ovmse.load`."""
    run = Run.load(folder)
    cfg = config_of(run)
    if cfg.task == CHAIN:
        raise UserError(f"{folder} holds tables of the chain, and no team")
    env = make(task_of(cfg.task), 1)
    return Team(values_of(run, cfg, env), env)
