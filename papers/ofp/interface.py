"""What an experiment and a policy offer each other.

Training sees windows of demonstrations, evaluation sees closed-loop rollouts; everything that
depends on the simulator stays behind these two calls. S is the number of training seeds (the
networks of all seeds are evaluated together), E the number of episodes per network.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

EncoderKind = Literal["identity", "mlp", "pointnet"]
Floats = NDArray[np.float32]
#: Raw frames [T_o, features] -> standardised obs [obs_dim]; normalised chunk [H, d] -> actions.
Scales = tuple[Callable[[NDArray], Floats], Callable[[Floats], Floats]]


class Policy(Protocol):
    """S closed-loop policies that see E episodes each. The task calls reset() once per rollout."""

    def reset(self, n_episodes: int) -> None:
        """Forget the previous chunks (warm start): all episodes start together, in lock-step."""

    def __call__(self, obs: Floats, active: NDArray[np.bool_]) -> Floats:
        """Standardised obs [S, E, obs_dim] -> normalised chunks [S, E, H, action_dim].

        Called once per re-plan with all episodes; rows that are finished (`active` [S, E] False)
        may hold anything and their chunks are ignored.
        """


class Task(Protocol):
    """One experiment. Built by `make_task(name, seeds)`; `seeds` are the S training seeds."""

    name: str
    seeds: tuple[int, ...]
    obs_dim: int  # width of one flattened observation: T_o x features (x points x 3 for C)
    action_dim: int  # d
    horizon: int  # H, actions predicted per chunk
    execute: int  # h, actions executed before the next re-plan
    encoder: EncoderKind  # identity: c = obs; mlp / pointnet: trained jointly
    obs_frames: int  # T_o; obs is frame-major: [T_o, features] or [T_o, points, 3 + extras]

    def windows(self, seed: int, split: str = "train") -> tuple[Floats, Floats]:
        """(obs [N, obs_dim] standardised, actions [N, H, d] normalised) for a training seed.

        split: "train", or "val" where the task keeps held-out demonstrations. A task with one
        fixed set of demonstrations returns the same arrays for every seed.
        """

    def scales(self, seed: int) -> Scales:
        """How a training seed's policy sees raw frames, and what its chunks mean."""

    def rollout(
        self, policy: Policy, episode_seeds: Sequence[int], record: int = 0
    ) -> dict[str, NDArray]:
        """Runs len(episode_seeds) episodes per network (per sub-task, if there are several).

        Standardises observations, de-normalises and clips actions, executes h of each chunk.
        Episode seeds are disjoint from the demonstrations' and identical for every method.
        Returns arrays [S, E]: "success" (0/1), "steps" (int); "task" [E] (str: the sub-task's
        name) if there are several; further per-episode metrics (float) under their own names.
        `record` > 0: also "paths", positions [S, record, steps + 1, dims] padded with NaN.
        """

    def close(self) -> None:
        """Release simulators."""
