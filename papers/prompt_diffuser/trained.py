"""What a run has tuned, for use outside of the experiments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from common.control.decision_rollout import acting
from common.control.sequences import Windows
from common.errors import UserError
from common.run import Run
from common.torch_utils import setup
from common.trained import seed_index
from papers.prompt_diffuser.config import Config
from papers.prompt_diffuser.learning import load_base, stream
from papers.prompt_diffuser.task import task_of
from papers.prompt_diffuser.tuning import EVALUATION, Prompt, make_learner, prompts_of

Floats = NDArray[np.float32]


class Tuned:
    """Draws prompts of a test task and acts after them, several episodes at a time.

    Attributes:
        goals: the test tasks that it was tuned on.
    """

    def __init__(self, run: Run, config: Config, seed: int) -> None:
        base = load_base(config, config.seed[seed], setup("cpu", 0))
        self.base, self.goals = base, task_of(config.task).test
        modules = run.final()["modules"]
        own = len(self.goals) * seed
        self._learners = {}
        for i, goal in enumerate(self.goals):
            learner = make_learner(base, config, goal, experts=False)
            if learner.module is not None:
                learner.module.load_state_dict(modules[own + i])
            self._learners[goal] = learner
        self._n = 0

    @torch.no_grad()
    def prompts(self, goal: float, n: int, seed: int = 0) -> Prompt:
        """n prompts for a test task: windows of standardised steps, or tokens of a soft prompt.

        Args:
            goal: one of ``goals``.
            n: how many.
            seed: of the draws; 0: those of the evaluation.

        Raises:
            UserError: for a task that it was not tuned on.
        """
        if goal not in self._learners:
            known = ", ".join(f"{g:g}" for g in self.goals)
            raise UserError(f"it was not tuned on {goal:g}; choose one of {known}")
        generator = stream(self.base.cfg.seed + seed, EVALUATION, goal)
        return prompts_of(self._learners[goal], n, generator)

    @torch.no_grad()
    def begin(self, goal: float, n: int) -> None:
        """Begin n episodes of a test task, each after a prompt of its own."""
        prompt, policy = self.prompts(goal, n), self._learners[goal].policy
        if isinstance(prompt, Windows):
            prompt = policy.embed_prompt(prompt)
        self._act, self._n = acting(policy, prompt), n
        self._togo = np.full(n, self.base.scales.target)
        self._steps: list[tuple[Floats, Floats, Floats]] = []

    def act(self, observations: ArrayLike, rewards: ArrayLike) -> Floats:
        """Actions in (-1, 1) at the next step of all episodes. [n, a]

        Args:
            observations: [n, s].
            rewards: that the last actions earned [n]; zeros at the first step.

        Raises:
            UserError: before ``begin``, or for observations of another shape.
        """
        if not self._n:
            raise UserError("call begin(goal, n) before the first step")
        suite, scales = self.base.world.suite, self.base.scales
        seen = np.asarray(observations, np.float32)
        if seen.shape != (self._n, suite.state_dim):
            wanted = [self._n, suite.state_dim]
            raise UserError(f"observations are {wanted}, not {list(seen.shape)}")
        self._togo = self._togo - np.asarray(rewards, np.float64)
        togo = np.asarray(self._togo / scales.returns, np.float32)
        state = scales.standardizer(seen)
        self._steps.append((togo, state, np.zeros((self._n, suite.action_dim), np.float32)))
        action = self._act(self._window()).nan_to_num().numpy()  # as the evaluation does
        self._steps[-1] = (togo, state, action)
        return action

    def _window(self) -> Windows:
        """The last K steps, padded on the left."""
        K, t = self.base.cfg.window, len(self._steps) - 1
        parts = [np.stack(part, 1) for part in zip(*self._steps[-K:], strict=True)]
        missing = K - parts[0].shape[1]
        timesteps = np.broadcast_to(np.arange(t + 1 - K, t + 1), (self._n, K))
        returns, states, actions = (
            torch.from_numpy(np.pad(x, [(0, 0), (missing, 0), *[(0, 0)] * (x.ndim - 2)]))
            for x in parts
        )
        shown, real = timesteps.clip(min=0), timesteps >= 0
        return Windows(returns, states, actions, torch.from_numpy(shown), torch.from_numpy(real))


def load_tuned(folder: Path, seed: int | None = None) -> Tuned:
    """See :func:`papers.prompt_diffuser.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    config.out = folder
    return Tuned(run, config, seed_index(folder, config.seed, seed))
