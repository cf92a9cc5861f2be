"""A trained team, for use outside of the experiments: one seed of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError
from common.run import Run
from common.trained import seed_index
from papers.commformer.agent import Agent
from papers.commformer.config import Config
from papers.commformer.method import gumbel
from papers.commformer.methods import METHODS
from papers.commformer.task import make_env


class Team:
    """One seed of a run.

    Attributes:
        n_agents, obs_dim, n_actions: sizes.
        graph: who listens to whom at execution, rows are receivers. [N, N] of 0 and 1.
    """

    def __init__(self, agent: Agent, index: int) -> None:
        shape = agent.net.shape
        self.n_agents, self.obs_dim, self.n_actions = agent.n, shape.obs_dim, shape.n_actions
        self._agent, self._index = agent, index
        self.graph: NDArray[np.int64] = agent.exact()[index].long().numpy()

    def act(
        self, obs: ArrayLike, avail: ArrayLike | None = None, seed: int | None = None
    ) -> NDArray[np.int64]:
        """The team's actions. [..., N, O] -> [..., N].

        Args:
            obs: what each agent sees.
            avail: which actions there are, [..., N, A]; None: all.
            seed: of the draws; None: the most probable actions, as in the evaluation.

        Raises:
            UserError: for observations of another size.
        """
        given = np.asarray(obs, dtype=np.float32)
        if given.shape[-2:] != (self.n_agents, self.obs_dim):
            raise UserError(
                f"observations are [..., {self.n_agents}, {self.obs_dim}], not {given.shape}"
            )
        S, lead = len(self._agent.cfg.seed), given.shape[:-2]
        flat = torch.from_numpy(given.reshape(1, -1, *given.shape[-2:]))
        shape = (flat.shape[1], self.n_agents, self.n_actions)
        able = torch.ones(shape, dtype=torch.bool)
        if avail is not None:
            able = torch.from_numpy(np.asarray(avail, dtype=bool).reshape(shape))
        noise = None
        if seed is not None:
            noise = gumbel([torch.Generator().manual_seed(seed)], *shape).expand(S, *shape)
        agent = self._agent
        actions, _, _, _ = agent.net.act(
            flat.expand(S, *flat.shape[1:]),
            able.expand(S, *shape),
            agent.graph_of(agent.exact()),
            noise,
        )
        return np.asarray(actions[self._index].numpy().reshape(*lead, self.n_agents))


def load(folder: Path, seed: int | None = None) -> Team:
    """See :func:`papers.commformer.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    if METHODS[config.method].policy != "network":
        raise UserError(f"{METHODS.label(config.method)} has nothing to load")
    index = seed_index(folder, config.seed, seed)
    agent = Agent(config, make_env(config.task, 1), torch.device("cpu"))
    agent.load(run.final()["agent"])
    return Team(agent, index)
