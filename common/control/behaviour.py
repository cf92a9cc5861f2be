"""What the noisy experts of ``metaworld_goals`` do on average, and how far the expert comes.

The noise of their actions is known, so its mean is a closed form: an error against it is free of
what nobody can predict, and rolled out it is the exact answer of a regression.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.control.decision_rollout import Outcomes, SimulatedBatch
from common.control.episodes import Episode
from common.control.metaworld_goals import GoalData

Floats = NDArray[np.float32]


def mean_actions(clean: Floats, sigma: float, random: float = 0.0) -> Floats:
    """E[action | state, sigma] of the noisy expert: (1 - p) E[clip(c + sigma e)], e normal.

    Args:
        clean: c, the expert's actions without noise [..., a].
        sigma: of the noise.
        random: p, probability of a uniform random action, whose mean is 0.
    """
    from scipy.stats import norm

    c = clean.astype(np.float64)
    if sigma == 0:
        return ((1 - random) * c).astype(np.float32)
    low, high = (-1 - c) / sigma, (1 - c) / sigma
    inside = norm.cdf(high) - norm.cdf(low)
    mean = c * inside - sigma * (norm.pdf(high) - norm.pdf(low)) + norm.sf(high) - norm.cdf(low)
    return ((1 - random) * mean).astype(np.float32)


def wanted_actions(episode: Episode, config: GoalData) -> Floats:
    """The behaviour's mean actions in one of its episodes. [T, a]"""
    sigma = float(episode.infos["sigma"][0])
    return mean_actions(episode.infos["expert_action"], sigma, config.random)


def average_actions(clean: Floats, config: GoalData) -> Floats:
    """The mean of :func:`mean_actions` over a behaviour's sigmas, which occur equally often.

    The exact answer of a regression on the state that does not know sigma.

    Args:
        clean: the expert's actions without noise [..., a].
        config: the behaviour.
    """
    means = [mean_actions(clean, sigma, config.random) for sigma in config.sigmas]
    return np.mean(means, 0, dtype=np.float32)


def expert_outcomes(
    batch: SimulatedBatch, task: str, limit: int, config: GoalData | None = None
) -> Outcomes:
    """What the scripted expert without noise comes to.

    Args:
        batch: of episodes, freshly reset.
        task: theirs ("reach-v3").
        limit: steps of an episode.
        config: acts by :func:`average_actions` of this behaviour instead.
    """
    from metaworld.policies import ENV_POLICY_MAP

    experts: Sequence[Any] = [
        ENV_POLICY_MAP[task]()  # type: ignore[abstract]
        for _ in batch.episodes
    ]
    n = len(experts)
    returns, steps, active = np.zeros(n), np.zeros(n, np.int64), np.ones(n, bool)
    for _ in range(limit):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "constants may be too high", once per step
            actions = [
                e.get_action(o.astype(np.float64))
                for e, o in zip(experts, batch.observations, strict=True)
            ]
        chosen = np.clip(np.stack(actions), -1, 1).astype(np.float32)
        if config is not None:
            chosen = average_actions(chosen, config)
        rewards, _ = batch.step(chosen, active)
        returns[active] += rewards[active]
        steps[active] += 1
        active &= ~batch.success
        if not active.any():
            break
    return Outcomes(returns, batch.success.copy(), steps)
