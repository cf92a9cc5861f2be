"""The expert of behaviour cloning: a linear policy for Hopper, found by random search.

    python -m papers.sewa.expert --out FILE

Augmented random search (Mania et al., 2018): observations are normalised, the better half of the
directions counts, rewards of staying upright are left out of the search. ``expert.json``, its 33
weights and 22 moments, is committed: nobody has to search again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import files
from common.cli import run_cli
from common.errors import UserError

Floats = NDArray[np.float64]
FILE = Path(__file__).with_name("expert.json")
ENVIRONMENT, OBSERVED, ACTIONS = "Hopper-v5", 11, 3


@dataclass(frozen=True)
class Expert:
    """action = clip(W (observation - mean) / std).

    Attributes:
        weights: W. [actions, observed].
        mean, std: of observations. [observed].
    """

    weights: Floats
    mean: Floats
    std: Floats

    def act(self, observations: Floats) -> Floats:
        """Actions in [-1, 1]. [..., observed] -> [..., actions]."""
        found: Floats = np.clip((observations - self.mean) / self.std @ self.weights.T, -1, 1)
        return found


def load(path: Path = FILE) -> Expert:
    """The committed expert.

    Raises:
        UserError: if the file is not there or holds something else.
    """
    if not path.is_file():
        raise UserError(f"there is no expert at {path}; restore it with git")
    found = files.read_json(path)
    try:
        expert = Expert(*(np.array(found[name], float) for name in ("weights", "mean", "std")))
        fits = expert.weights.shape == (ACTIONS, OBSERVED)
        fits = fits and expert.mean.shape == expert.std.shape == (OBSERVED,)
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise UserError(f"{path} holds no linear policy for {ENVIRONMENT}; restore it with git")
    return expert


@dataclass
class SearchConfig:
    """The search."""

    out: Path = FILE  # where the policy is written
    iterations: int = 60
    directions: int = 8  # pairs of episodes of an iteration
    best: int = 4  # directions that count
    noise: float = 0.025  # of the directions
    step: float = 0.01
    seed: int = 0


class Moments:
    """Running mean and variance of observations (Welford)."""

    def __init__(self) -> None:
        self.n, self.mean, self.square = 0, np.zeros(OBSERVED), np.zeros(OBSERVED)

    def add(self, x: Floats) -> None:
        """One observation."""
        self.n += 1
        change = x - self.mean
        self.mean = self.mean + change / self.n
        self.square = self.square + change * (x - self.mean)

    @property
    def std(self) -> Floats:
        """Standard deviation, 1 where nothing is known."""
        found = np.sqrt(self.square / max(1, self.n - 1))
        return np.where(found < 1e-7, 1.0, found)


def episode(env: Any, policy: Expert, seed: int, moments: Moments | None) -> float:
    """Return of an episode without the reward of staying upright; 1,000 steps at most."""
    observation, _ = env.reset(seed=seed)
    total = 0.0
    for _ in range(1000):
        if moments is not None:
            moments.add(observation)
        observation, reward, fallen, _, _ = env.step(policy.act(observation))
        total += float(reward) - env.healthy_reward
        if fallen:
            break
    return total


def search(cfg: SearchConfig) -> None:
    """Search and write the policy."""
    import gymnasium

    env: Any = gymnasium.make(ENVIRONMENT).unwrapped
    rng, moments = np.random.default_rng(cfg.seed), Moments()
    weights = np.zeros((ACTIONS, OBSERVED))
    for iteration in range(cfg.iterations):
        mean, std = moments.mean.copy(), moments.std
        directions = rng.standard_normal((cfg.directions, ACTIONS, OBSERVED))
        gained = np.zeros((cfg.directions, 2))
        for i, direction in enumerate(directions):
            for j, sign in enumerate((1, -1)):
                policy = Expert(weights + sign * cfg.noise * direction, mean, std)
                gained[i, j] = episode(env, policy, int(rng.integers(2**31)), moments)
        best = np.argsort(-gained.max(1))[: cfg.best]
        change = ((gained[best, 0] - gained[best, 1])[:, None, None] * directions[best]).mean(0)
        weights = weights + cfg.step * change / max(gained[best].std(), 1e-8)
        print(f"{iteration + 1}: {gained.mean():.0f}, {moments.n} steps", flush=True)
    policy = Expert(weights, moments.mean, moments.std)
    plain = {name: getattr(policy, name).tolist() for name in ("weights", "mean", "std")}
    files.write_json(cfg.out, {"environment": ENVIRONMENT, **plain})


if __name__ == "__main__":
    run_cli(search, SearchConfig)
