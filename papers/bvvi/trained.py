"""What a run has learnt, to be used: a policy over histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.run import Run
from papers.bvvi.config import Config
from papers.bvvi.method import Setup
from papers.bvvi.methods import METHODS
from papers.bvvi.task import POMDP, Integers, exact_J, level_starts, make_pomdp, rollout


@dataclass(frozen=True)
class Trained:
    """A policy over histories, and the environment that it was learnt on."""

    env: POMDP  # the truth
    setup: Setup  # what the learner was told
    policy: NDArray[np.int8]  # [F] the action at every history
    starts: Integers  # [H + 1]

    def act(self, observations: Sequence[int]) -> int:
        """The action after the observations o_1 ... o_h of an episode (its own actions between).

        Raises:
            UserError: if there are none or more than H, or one that does not exist.
        """
        H, A, _, _ = self.env.T.shape
        n_obs = self.env.O.shape[2]
        if not 1 <= len(observations) <= H or not set(observations) <= set(range(n_obs)):
            raise UserError(f"act takes 1 to {H} observations, each from 0 to {n_obs - 1}")
        f = observations[0]
        for h, o in enumerate(observations[1:]):
            f = (f * A + int(self.policy[self.starts[h] + f])) * n_obs + o
        return int(self.policy[self.starts[len(observations) - 1] + f])

    def value(self, gamma: float | None = None) -> float:
        """J of the policy, exactly; at the run's own gamma unless another is given."""
        return exact_J(self.env, self.setup.gamma if gamma is None else gamma, self.policy)

    def play(self, seed: int = 0) -> dict[str, Any]:
        """An episode: states and observations [H + 1], actions and rewards [H]."""
        H = len(self.env.T)
        states, observations = np.empty(H + 1, np.int64), np.empty(H + 1, np.int64)
        actions = np.empty(H, np.int64)
        uniforms = np.random.default_rng(seed).random((H + 1, 2))
        rollout(self.env, self.policy, self.starts, uniforms, states, observations, actions)
        rewards = self.env.r[np.arange(H), states[:H], actions]
        return {"s": states, "o": observations, "a": actions, "r": rewards}


def load(folder: Path, seed: int, gamma: float | None, c: float | None) -> Trained:
    """The policy that a finished run would play next; see :func:`papers.bvvi.load`."""
    run = Run.load(folder)
    cfg, final = run.config(Config), run.final()
    method = METHODS[cfg.method]
    if method.learn is None:
        raise UserError(f"the run in {folder} holds exact values; {method.label} learns nothing")
    g = _one("gamma", gamma, final["gammas"])
    j = _one("c", c, final["scales"])
    i = _one("seed", seed, final["seeds"])
    env = make_pomdp(cfg.task, seed)
    setup = method.setup(
        env,
        final["gammas"][g],
        final["scales"][j],
        cfg.episodes,
        cfg.delta,
        cfg.first_obs == "exact",
    )
    cell = (g * len(final["scales"]) + j) * len(final["seeds"]) + i
    policy = method.current_policy(env, setup, tuple(final["states"][cell]))
    return Trained(env, setup, policy, level_starts(env))


def _one(name: str, wanted: float | None, there: Sequence[float]) -> int:
    """Where a run has the value that is asked for; the first one where none is."""
    if wanted is None:
        return 0
    if wanted not in there:
        raise UserError(f"the run has {name} = {', '.join(map(str, there))}, not {wanted}")
    return list(there).index(wanted)
