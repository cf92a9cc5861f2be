"""A trained goal-conditioned sampler, with one seed picked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.gfn.sampling import uniforms
from common.run import Run
from common.trained import seed_index
from papers.rbs.config import Config
from papers.rbs.method import retrospective_backward_synthesis
from papers.rbs.methods import METHODS
from papers.rbs.networks import backward_policy
from papers.rbs.task import Task
from papers.rbs.train import network, rollout


class GoalSampler:
    """Builds the object that it is asked for, as well as the run has learned it.

    Args:
        config: of the run.
        final: its last checkpoint.
        index: which of its seeds.
    """

    def __init__(self, config: Config, final: dict[str, Any], index: int) -> None:
        self.config, self.method, self._index = config, METHODS[config.method], index
        self.task = Task(config.task, config.seed, log_C=self.method.log_C)
        self._net = network(self.task, config.seed).eval()
        self._net.load_state_dict(final["net"])

    def _towards(self, goal: Sequence[int] | Tensor, n: int, seed: int) -> tuple[Any, Tensor]:
        """The environment with ``n`` times the goal per seed, and uniform numbers [S, T, n]."""
        goal = torch.as_tensor(goal)
        if goal.shape != (self.task.n_places,):
            raise UserError(f"a goal of {self.config.task} has {self.task.n_places} entries")
        if bool((goal < 0).any()) or bool((goal >= self.task.n_values).any()):
            raise UserError(f"entries of a goal are 0 to {self.task.n_values - 1}, not {goal}")
        env = self.task.conditioned(goal.expand(len(self.config.seed), n, -1))
        generators = [torch.Generator().manual_seed(seed) for _ in self.config.seed]
        return env, uniforms(generators, (env.max_length, n))

    @torch.no_grad()
    def sample(self, goal: Sequence[int] | Tensor, n: int, seed: int = 0) -> Tensor:
        """``n`` objects built in the attempt to reach the goal [K]: cells, strings, sets. [n, K].

        Raises:
            UserError: if the goal is none of this task.
        """
        env, u = self._towards(goal, n, seed)
        built = rollout(self._net, env, u, 0.0, greedy=self.method.greedy)
        return env.split(built.last)[0][self._index]

    @torch.no_grad()
    def synthesise(self, goal: Sequence[int] | Tensor, n: int, seed: int = 0) -> Tensor:
        """``n`` retrospective syntheses of the goal: states from the source to it. [n, T+1, K].

        Raises:
            UserError: if the goal is none of this task.
        """
        env, u = self._towards(goal, n, seed)
        policy = backward_policy(self._net, self.method.backward)
        return env.split(retrospective_backward_synthesis(env, u, policy).states)[0][self._index]


def load_sampler(folder: Path, seed: int | None = None) -> GoalSampler:
    """See :func:`papers.rbs.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    return GoalSampler(config, run.final(), seed_index(folder, config.seed, seed))
