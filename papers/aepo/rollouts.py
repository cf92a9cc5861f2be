"""Many episodes in lock-step, one call of the policy for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from papers.aepo.task import Offline, observed

Floats = NDArray[np.float32]
FIRST_SEED = 10_000_000  # of the evaluation's episodes: no data begin there


def returns(
    source: Offline,
    policy: Callable[[Floats, NDArray[np.bool_]], Floats],
    lanes: int,
    episodes: int,
) -> NDArray[np.float64]:
    """Undiscounted returns; episode e begins alike in all lanes. [lanes, episodes].

    Args:
        source: makes environments and says how long an episode is.
        policy: observations [lanes, episodes, o] and which are running -> actions in [-1, 1].
        lanes: settings, seeds, ... that are compared.
        episodes: of each.
    """
    envs = [[source.make() for _ in range(episodes)] for _ in range(lanes)]
    seen = np.stack(
        [
            [
                observed(env.reset(seed=FIRST_SEED + e)[0], source.parts)
                for e, env in enumerate(lane)
            ]
            for lane in envs
        ]
    )
    low, high = envs[0][0].action_space.low, envs[0][0].action_space.high
    running = np.ones((lanes, episodes), bool)
    total = np.zeros((lanes, episodes))
    for _ in range(source.steps):
        action = np.clip(policy(seen, running), -1.0, 1.0)
        scaled = low + (action + 1) / 2 * (high - low)
        for lane, e in zip(*np.nonzero(running), strict=True):
            found = envs[lane][e].step(scaled[lane, e])
            seen[lane, e] = observed(found[0], source.parts)
            total[lane, e] += found[1]
            running[lane, e] = not found[2]
        if not running.any():
            break
    return total
