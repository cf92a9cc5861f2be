"""Linear policies by augmented random search (Mania et al. 2018), and what came before the last.

The policy is action = clip(W (f(o) - mean) / std), with the moments of all features f(o) seen; f is
the identity but where a linear policy of the observation cannot do the task. Each iteration tries
pairs W +- noise delta, keeps the better directions and steps along sum of (r+ - r-) delta over the
spread of their returns. A policy of every iteration is kept: those
are the learners of a "replay". Actions lie in [-1, 1] whatever the environment's box is.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.control.episodes import Episode, config_hash, library_versions
from common.files import cache_root, locked, write_bytes

Floats = NDArray[np.float64]
Make = Callable[[], Any]  # a gymnasium environment
LIBRARIES = ("gymnasium", "mujoco", "numpy")


@dataclass(frozen=True)
class SearchConfig:
    """The search; each field is part of the hash of what it finds."""

    environment: str  # gymnasium's name, or another one of an environment made by hand
    steps: int = 200  # of an episode
    iterations: int = 40
    directions: int = 12  # pairs of episodes of an iteration
    best: int = 6  # directions that count
    noise: float = 0.03  # size of the directions
    step: float = 0.02
    evaluations: int = 4  # episodes of every snapshot, for its score alone
    seed: int = 0
    version: int = 1  # of the search


def reaching(observation: Floats) -> Floats:
    """Reacher's joint errors J^T (target - fingertip) and velocities. [..., 10] -> [..., 4]"""
    error = -observation[..., 8:10]  # target - fingertip, metres
    tip = observation[..., 4:6] - error
    elbow = 0.1 * observation[..., [0, 2]]  # the first link, 0.1 m long
    turned = [
        arm[..., 0] * error[..., 1] - arm[..., 1] * error[..., 0] for arm in (tip, tip - elbow)
    ]
    return np.stack([*turned, observation[..., 6], observation[..., 7]], -1)


def identity(observation: Floats) -> Floats:
    """The observation itself."""
    return observation


FEATURES: dict[str, Callable[[Floats], Floats]] = {"Reacher-v5": reaching}


SEARCHES = {  # what finds a good policy in seconds, so that papers share one search
    "HalfCheetah-v5": SearchConfig("HalfCheetah-v5", iterations=60),
    "Swimmer-v5": SearchConfig("Swimmer-v5", iterations=20, noise=0.05, step=0.04),
    "Reacher-v5": SearchConfig("Reacher-v5", steps=100, iterations=40, step=0.005),
    "InvertedDoublePendulum-v5": SearchConfig(
        "InvertedDoublePendulum-v5", iterations=60, noise=0.1, step=0.05
    ),
}


@dataclass(frozen=True)
class LinearPolicy:
    """action = clip(W (f(o) - mean) / std, -1, 1)."""

    weights: Floats  # [a, f]
    mean: Floats  # [f]
    std: Floats  # [f]
    features: Callable[[Floats], Floats] = identity

    def __call__(self, observation: Floats) -> Floats:
        """[..., o] -> [..., a]."""
        found: Floats = (self.features(observation) - self.mean) / self.std @ self.weights.T
        return np.clip(found, -1.0, 1.0)

    def moved(self, direction: Floats) -> LinearPolicy:
        """The policy with W + direction."""
        return replace(self, weights=self.weights + direction)


@dataclass(frozen=True)
class Snapshot:
    """The policy at the beginning of an iteration."""

    policy: LinearPolicy
    steps: int  # of the environment up to its evaluation, evaluations of all before included
    score: float  # its mean return, without noise


class Moments:
    """Mean and standard deviation of all rows added so far (Chan et al. 1983)."""

    def __init__(self, dim: int) -> None:
        self.count, self.mean, self.square = 0, np.zeros(dim), np.zeros(dim)

    def add(self, rows: Floats) -> None:
        """Add ``rows`` [n, dim]."""
        n, mean = len(rows), rows.mean(0)
        total, change = self.count + n, mean - self.mean
        self.square += ((rows - mean) ** 2).sum(0) + change**2 * self.count * n / total
        self.mean = self.mean + change * n / total
        self.count = total

    @property
    def std(self) -> Floats:
        """Standard deviation, 1 where nothing is known or nothing moves."""
        found = np.sqrt(self.square / max(1, self.count))
        return np.where(found < 1e-6, 1.0, found)


def maker(environment: str) -> Make:
    """Makes the environment of this name without time limit, checks and renderer."""

    def make() -> Any:
        import gymnasium

        return gymnasium.make(environment).unwrapped

    return make


def play(
    env: Any, act: Callable[[Floats], Floats], seed: int, steps: int, sigma: float = 0.0
) -> Episode:
    """One episode of ``steps`` steps, or until it ends by itself.

    Args:
        env: a gymnasium environment without a time limit of its own.
        act: observation [o] -> action in [-1, 1] [a], mapped to the environment's box.
        seed: of the start and of the noise.
        sigma: of normal noise on the actions, clipped to [-1, 1] again.
    """
    low, high = env.action_space.low, env.action_space.high
    rng = np.random.default_rng([seed, 1])
    observation, _ = env.reset(seed=seed)
    observations, terminated = [observation], False
    actions: list[Floats] = []
    rewards: list[float] = []
    while len(actions) < steps and not terminated:
        action = np.asarray(act(observation))
        if sigma:
            action = np.clip(action + sigma * rng.standard_normal(action.shape), -1.0, 1.0)
        found = env.step(low + (action + 1.0) / 2.0 * (high - low))
        observation, terminated = found[0], bool(found[2])
        observations.append(observation)
        actions.append(action)
        rewards.append(found[1])
    last = np.arange(len(actions)) == len(actions) - 1
    return Episode(
        np.array(observations, np.float32),
        np.array(actions, np.float32),
        np.array(rewards, np.float32),
        last & terminated,
        last & (not terminated),
    )


def search(config: SearchConfig, make: Make | None = None) -> list[Snapshot]:
    """The policy at the beginning of every iteration, and the one after the last.

    Args:
        config: the search.
        make: makes the environment; default: gymnasium's of that name.
    """
    env = (make or maker(config.environment))()
    features = FEATURES.get(config.environment, identity)
    seen, acting = len(features(np.zeros(env.observation_space.shape))), env.action_space.shape[0]
    rng, moments = np.random.default_rng(config.seed), Moments(seen)
    weights, found, taken = np.zeros((acting, seen)), list[Snapshot](), 0

    def episode(policy: LinearPolicy, seed: int) -> Episode:
        nonlocal taken
        played = play(env, policy, seed, config.steps)
        taken += len(played)
        return played

    for iteration in range(config.iterations + 1):
        policy = LinearPolicy(weights, moments.mean.copy(), moments.std, features)
        seeds = rng.integers(2**31, size=config.evaluations)
        returns = [episode(policy, int(seed)).rewards.sum(dtype=float) for seed in seeds]
        found.append(Snapshot(policy, taken, float(np.mean(returns))))
        if iteration == config.iterations:
            break
        directions = rng.standard_normal((config.directions, acting, seen))
        gained = np.empty((config.directions, 2))
        for i, direction in enumerate(directions):
            seed = int(rng.integers(2**31))  # both signs start alike
            for j, sign in enumerate((1, -1)):
                played = episode(policy.moved(sign * config.noise * direction), seed)
                moments.add(features(played.observations[:-1].astype(float)))
                gained[i, j] = played.rewards.sum(dtype=float)
        best = np.argsort(-gained.max(1), kind="stable")[: config.best]
        change = ((gained[best, 0] - gained[best, 1])[:, None, None] * directions[best]).mean(0)
        weights = weights + config.step * change / max(float(gained[best].std()), 1e-8)
    return found


def searched(config: SearchConfig, make: Make | None = None) -> list[Snapshot]:
    """:func:`search` from the cache, run on first use."""
    key = {**asdict(config), "libraries": library_versions(LIBRARIES)}
    path = cache_root() / "random-search" / f"{config_hash(key)}.npz"
    with locked(path.with_suffix(".lock"), f"{path} is being made", wait=True):
        try:
            return _read(path, FEATURES.get(config.environment, identity))
        except (OSError, ValueError, KeyError, EOFError):  # not there, or damaged
            found = search(config, make)
            _write(path, found)
            return found


def _write(path: Path, snapshots: list[Snapshot]) -> None:
    data = io.BytesIO()
    np.savez(
        data,
        weights=np.stack([s.policy.weights for s in snapshots]),
        mean=np.stack([s.policy.mean for s in snapshots]),
        std=np.stack([s.policy.std for s in snapshots]),
        steps=np.array([s.steps for s in snapshots]),
        score=np.array([s.score for s in snapshots]),
    )
    write_bytes(path, data.getvalue())


def _read(path: Path, features: Callable[[Floats], Floats]) -> list[Snapshot]:
    try:
        with np.load(path, allow_pickle=False) as kept:
            columns = [kept[name] for name in ("weights", "mean", "std", "steps", "score")]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged") from error
    return [
        Snapshot(LinearPolicy(w, m, s, features), int(steps), float(score))
        for w, m, s, steps, score in zip(*columns, strict=True)
    ]
