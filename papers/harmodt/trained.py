"""A trained policy, for use outside of the experiments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from common.control.sequences import Windows
from common.errors import UserError, choose
from common.run import Run
from common.torch_utils import setup
from common.trained import seed_index
from papers.harmodt.acting import Act, load_actor, policy_of
from papers.harmodt.config import Config
from papers.harmodt.learning import make_world
from papers.harmodt.methods import METHODS
from papers.harmodt.task import ACTION_DIM, OBS_DIM

Floats = NDArray[np.float32]


class Policy:
    """Acts in Meta-World's episodes with the goal in the observation, several at a time.

    Attributes:
        tasks: that it was trained on.
        told: whether it has to be told the task.
    """

    def __init__(self, run: Run, config: Config) -> None:
        device = setup("cpu", 0)
        self.config, self._world = config, make_world(config, device)
        self._actor = load_actor(config, run.final(), device)
        self.tasks = tuple(task.name for task in self._world.tasks)
        self.told = METHODS[config.method].told != "nothing"
        self._act: Act | None = None

    def begin(self, task: str | None, n: int) -> None:
        """Begin n episodes of a task.

        Args:
            task: one of ``tasks``; None for a policy that is told nothing.
            n: episodes side by side.

        Raises:
            UserError: for an unknown task, or none where the policy has to be told one.
        """
        if task is None and self.told:
            raise UserError(f"tell it the task, one of {', '.join(self.tasks)}")
        k = 0 if task is None else self.tasks.index(choose("task", task, self.tasks))
        self._act, self._scales = (
            policy_of(self._actor, self._world, k, n),
            self._world.tasks[k].scales,
        )
        self._n, self._togo = n, np.full(n, self._scales.reward)
        self._steps: list[tuple[Floats, Floats, Floats]] = []  # returns-to-go, states, actions

    def act(self, observations: ArrayLike, rewards: ArrayLike) -> Floats:
        """Actions in (-1, 1) at the next step of all episodes. [n, 4]

        Args:
            observations: [n, 39].
            rewards: that the last actions earned [n]; zeros at the first step.

        Raises:
            UserError: before ``begin``, or for observations of another shape.
        """
        if self._act is None:
            raise UserError("call begin(task, n) before the first step")
        seen = np.asarray(observations, np.float32)
        if seen.shape != (self._n, OBS_DIM):
            raise UserError(f"observations are [{self._n}, {OBS_DIM}], not {list(seen.shape)}")
        self._togo = self._togo - np.asarray(rewards, np.float64)
        togo = (self._togo / self._scales.reward).astype(np.float32)
        state = self._scales.standardizer(seen)
        self._steps.append((togo, state, np.zeros((self._n, ACTION_DIM), np.float32)))
        action = self._act(self._window()).numpy()
        self._steps[-1] = (togo, state, action)
        return action

    def _window(self) -> Windows:
        """The last K steps, padded on the left."""
        K, t = self.config.window, len(self._steps) - 1
        returns, states, actions = (
            np.stack(part, 1) for part in zip(*self._steps[-K:], strict=True)
        )
        missing = K - returns.shape[1]
        timesteps = np.broadcast_to(np.arange(t + 1 - K, t + 1), (self._n, K))

        def padded(x: Floats) -> torch.Tensor:
            widths = [(0, 0), (missing, 0), *[(0, 0)] * (x.ndim - 2)]
            return torch.from_numpy(np.pad(x, widths))

        return Windows(
            *(padded(returns), padded(states), padded(actions)),
            torch.from_numpy(timesteps.clip(min=0)),
            torch.from_numpy(timesteps >= 0),
        )


def load_policy(folder: Path, seed: int | None = None) -> Policy:
    """See :func:`papers.harmodt.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    seed_index(folder, [config.seed], seed)
    if METHODS[config.method].kind in ("expert", "mean"):
        raise UserError(f"{folder} holds the scripted expert, of which nothing was learned")
    return Policy(run, config)
