"""A trained policy, for use outside of the experiments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from common.control.sequences import Windows
from common.errors import UserError
from common.run import Run
from common.torch_utils import setup
from common.trained import seed_index
from papers.compoformer.config import Config
from papers.compoformer.learning import make_net, make_world
from papers.compoformer.methods import METHODS
from papers.compoformer.network import acting
from papers.compoformer.task import ACTION_DIM, OBS_DIM

Floats = NDArray[np.float32]


class Policy:
    """Acts in Meta-World's episodes with the goal in the observation, several at a time.

    Attributes:
        tasks: in the order in which they were learned; one may come again.
        attention: weights of the sources [K, K], a task per row; zeros without a composition.
        reused: for each task, whether it has nothing of its own.
    """

    def __init__(self, run: Run, config: Config) -> None:
        device = setup("cpu", 0)
        self.config, self._world = config, make_world(config, device)
        self._net = make_net(config)
        self._net.load_state_dict(run.final()["net"])
        self.tasks = tuple(task.name for task in self._world.tasks)
        self.attention: Floats = self._net.alpha.numpy()
        self.reused = tuple(self._net.reused.tolist())
        self._act = None

    def begin(self, place: int, n: int) -> None:
        """Begin n episodes of a task.

        Args:
            place: of the task among ``tasks``, from 0.
            n: episodes side by side.

        Raises:
            UserError: if there is no such place.
        """
        if not 0 <= place < len(self.tasks):
            raise UserError(f"there is no place {place}; {len(self.tasks)} tasks were learned")
        self._act, self._task = acting(self._net, place), self._world.tasks[place]
        self._n, self._togo = n, np.full(n, self._task.reward)
        self._steps: list[tuple[Floats, Floats, Floats]] = []  # returns-to-go, states, actions

    def act(self, observations: ArrayLike, rewards: ArrayLike) -> Floats:
        """Actions at the next step of all episodes, to be clipped to [-1, 1]. [n, 4]

        Args:
            observations: [n, 39].
            rewards: that the last actions earned [n]; zeros at the first step.

        Raises:
            UserError: before ``begin``, or for observations of another shape.
        """
        if self._act is None:
            raise UserError("call begin(place, n) before the first step")
        seen = np.asarray(observations, np.float32)
        if seen.shape != (self._n, OBS_DIM):
            raise UserError(f"observations are [{self._n}, {OBS_DIM}], not {list(seen.shape)}")
        self._togo = self._togo - np.asarray(rewards, np.float64)
        togo = (self._togo / self._task.reward).astype(np.float32)
        state = self._task.standardizer(seen)
        self._steps.append((togo, state, np.zeros((self._n, ACTION_DIM), np.float32)))
        action: Floats = self._act(self._window()).numpy()
        self._steps[-1] = (togo, state, action)
        return action

    def _window(self) -> Windows:
        """The last steps that the policy sees, padded on the left."""
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
    """See :func:`papers.compoformer.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    seed_index(folder, [config.seed], seed)
    if METHODS[config.method].kind in ("expert", "mean"):
        raise UserError(f"{folder} holds the scripted expert, of which nothing was learned")
    return Policy(run, config)
