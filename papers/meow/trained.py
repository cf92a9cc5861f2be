"""A trained policy, for use outside of the experiments: one seed of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from common.errors import UserError
from common.run import Run
from common.trained import seed_index
from papers.meow.agent import Agent, make_agent
from papers.meow.config import Config
from papers.meow.methods import METHODS
from papers.meow.task import make_environments

Floats = NDArray[np.float64]


class Policy:
    """One seed of a run.

    Attributes:
        obs_dim, action_dim: sizes of observations and actions.
    """

    def __init__(self, agent: Agent, config: Config, index: int) -> None:
        envs = make_environments(config.task, config.seed[:1])
        self.obs_dim, self.action_dim = envs.obs_dim, envs.action_dim
        self._agent, self._config, self._index = agent, config, index
        self._low = np.broadcast_to(getattr(envs, "low", -1.0), envs.action_dim)
        self._high = np.broadcast_to(getattr(envs, "high", 1.0), envs.action_dim)

    def act(self, obs: ArrayLike, seed: int | None = None) -> Floats:
        """Actions in the environment's units. [..., obs] -> [..., A].

        Args:
            obs: observations.
            seed: of the noise; None: the deterministic action of the evaluation.

        Raises:
            UserError: for observations of another size.
        """
        state, lead = self._states(obs)
        noise = None
        if seed is not None:
            shape = (state.shape[1], self.action_dim)
            noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
            noise = noise.expand(len(state), *shape)
        action = self._agent.act(state, noise)[self._index].double().numpy()
        action = self._low + 0.5 * (action + 1) * (self._high - self._low)
        return np.asarray(action.reshape(*lead, self.action_dim))

    def value(self, obs: ArrayLike) -> Floats:
        """The soft value V(s) + min_k b_k(s), exact for the flow's own Q. [..., obs] -> [...].

        Raises:
            UserError: for SAC, which has none, and for observations of another size.
        """
        if not METHODS[self._config.method].has_value:
            raise UserError(f"{METHODS.label(self._config.method)} has no soft value of its own")
        state, lead = self._states(obs)
        with torch.no_grad():
            return self._agent.policy.v_clip(state)[self._index].double().numpy().reshape(lead)

    def _states(self, obs: ArrayLike) -> tuple[Tensor, tuple[int, ...]]:
        """[S, B, obs] for the stack of the run's seeds, and the leading shape."""
        given = np.asarray(obs, dtype=np.float32)
        if given.ndim == 0 or given.shape[-1] != self.obs_dim:
            raise UserError(f"an observation has {self.obs_dim} numbers, not {given.shape}")
        flat = torch.from_numpy(given.reshape(1, -1, self.obs_dim))
        return flat.expand(len(self._config.seed), -1, -1), given.shape[:-1]


def load(folder: Path, seed: int | None = None) -> Policy:
    """See :func:`papers.meow.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    if METHODS[config.method].kind == "peer":
        raise UserError("stable-baselines3's runs keep no networks")
    index = seed_index(folder, config.seed, seed)
    envs = make_environments(config.task, config.seed[:1])
    agent = make_agent(config, envs.obs_dim, envs.action_dim, torch.device("cpu"))
    agent.load(run.final()["agent"])
    return Policy(agent, config, index)
