"""Experiment A: a point must pass a disc on either side; the expert's side is not observable.

At the start the observation does not say which way the expert will go, so the conditional action
distribution has two modes and their mean runs into the disc.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from papers.ofp.interface import Floats, Policy, Scales

SPEED = 0.06  # length of a step at |a| = 1
GOAL = np.array([1.0, 0.0])
DISC = np.array([0.5, 0.0])
RADII = (0.12, 0.15, 0.20)  # of the disc; applied to stored paths, nobody sees the disc
JUDGED_RADIUS = 0.15
REACHED = 0.06  # success: this close to the goal
STEP_LIMIT = 48
HORIZON, EXECUTE = 8, 4
CHUNKS_AT_START = 500  # first chunks drawn at the ambiguous start


def expert_action(
    p: NDArray, side: NDArray, passed: NDArray, noise: NDArray
) -> tuple[NDArray, NDArray]:
    """The scripted expert: way-point (.5, .35 side), then the goal; noisy unit-speed steps.

    Args:
        p: positions [B, 2].
        side: +1 or -1 [B].
        passed: whether the way-point has been dropped [B].
        noise: standard normal [B, 2].

    Returns:
        actions [B, 2] in [-1, 1], and the new `passed`.
    """
    way = np.stack([np.full(len(p), 0.5), 0.35 * side], axis=1)
    passed = passed | (np.linalg.norm(way - p, axis=1) < REACHED)
    target = np.where(passed[:, None], GOAL, way)
    gap = target - p
    distance = np.linalg.norm(gap, axis=1, keepdims=True)
    a = gap / np.maximum(distance, 1e-9) * np.minimum(1.0, distance / 0.06) + 0.15 * noise
    return np.clip(a, -1.0, 1.0), passed


def expert_episodes(
    n: int, rng: np.random.Generator, start: NDArray | None = None
) -> tuple[list[NDArray], list[NDArray]]:
    """Demonstrations, sides alternating; stops within .05 of the goal.

    Args:
        n: how many.
        rng: random numbers.
        start: common start; default: .02 N(0, I).

    Returns:
        positions [T + 1, 2] and actions [T, 2] of each episode.
    """
    side = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    p = 0.02 * rng.standard_normal((n, 2)) if start is None else np.tile(start, (n, 1))
    passed, done = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    paths, actions = [p], []
    lengths = np.zeros(n, dtype=int)
    for _ in range(200):
        a, passed = expert_action(p, side, passed, rng.standard_normal((n, 2)))
        p = p + SPEED * a
        paths.append(p)
        actions.append(a)
        lengths += ~done
        done |= np.linalg.norm(p - GOAL, axis=1) < 0.05
        if done.all():
            break
    path, action = np.stack(paths, 1), np.stack(actions, 1)
    return (
        [path[i, : lengths[i] + 1] for i in range(n)],
        [action[i, : lengths[i]] for i in range(n)],
    )


def cut_windows(
    paths: list[NDArray], actions: list[NDArray], horizon: int = HORIZON
) -> tuple[NDArray, NDArray]:
    """Observation (p_{t-1}, p_t) and actions t … t+H-1, the ends padded by repetition.

    Returns:
        obs [N, 4], chunks [N, H, 2]; no window spans two episodes.
    """
    obs, chunks = [], []
    for path, action in zip(paths, actions, strict=True):
        T = len(action)
        now = np.arange(T)
        obs.append(np.concatenate((path[np.maximum(now - 1, 0)], path[now]), axis=1))
        chunks.append(action[np.minimum(now[:, None] + np.arange(horizon), T - 1)])
    return np.concatenate(obs), np.concatenate(chunks)


def judge_paths(
    paths: NDArray, radius: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Success and collision of paths [..., T + 1, 2] for a disc of `radius`, whichever is first.

    Success: within REACHED of the goal (after a step) while no position up to then was closer to
    the disc's centre than the radius.

    Returns:
        success, collision, and the index at which the episode ends; each [...].
    """
    T = paths.shape[-2]
    at_goal = np.linalg.norm(paths - GOAL, axis=-1) < REACHED
    at_goal[..., 0] = False
    inside = np.linalg.norm(paths - DISC, axis=-1) < radius

    def first(hit: NDArray) -> NDArray:
        return np.where(hit.any(-1), hit.argmax(-1), T)

    goal, hit = first(at_goal), first(inside)
    return goal < hit, (hit <= goal) & (hit < T), np.minimum(np.minimum(goal, hit), T - 1)


def lateral_displacement(chunks: NDArray) -> NDArray:
    """y after a chunk [..., H, 2] at full speed, before clipping: .06 sum_k a_{k,y}."""
    return SPEED * chunks[..., 1].sum(-1)


def start_metrics(chunks: NDArray, expert: NDArray) -> dict[str, float]:
    """How well chunks [n, H, 2] drawn at the ambiguous start match the expert's [n, H, 2].

    on_mode: share with | |y| - .27 | <= .09; side_entropy in bits; lateral_std; W1: exact optimal
    assignment in the 2H-dimensional chunk space (Euclidean).
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    y = lateral_displacement(chunks)
    up = float((y > 0).mean())
    entropy = -sum(q * np.log2(q) for q in (up, 1 - up) if q > 0)
    cost = cdist(chunks.reshape(len(chunks), -1), expert.reshape(len(expert), -1))
    rows, columns = linear_sum_assignment(cost)
    return {
        "on_mode": float((np.abs(np.abs(y) - 0.27) <= 0.09).mean()),
        "side_entropy": float(abs(entropy)),
        "lateral_std": float(y.std()),
        "w1": float(cost[rows, columns].mean()),
    }


class PointMass:
    """Experiment A (see interface.py); every training seed has its own demonstrations."""

    name = "point-mass"
    obs_dim, action_dim, horizon, execute = 4, 2, HORIZON, EXECUTE
    encoder, obs_frames = "identity", 2

    def __init__(self, seeds: tuple[int, ...], demos: int = 100) -> None:
        self.seeds = seeds
        self._windows = {}
        self._stats: list[tuple[NDArray, NDArray]] = []
        for seed in seeds:
            rng = np.random.default_rng((1, seed))
            obs, chunks = cut_windows(*expert_episodes(demos, rng))
            mean, std = obs.mean(0), np.maximum(obs.std(0), 1e-3)
            self._stats.append((mean, std))
            self._windows[seed] = (
                ((obs - mean) / std).astype(np.float32),
                chunks.astype(np.float32),
            )
        self.mean = np.stack([m for m, _ in self._stats])[:, None]  # [S, 1, 4]
        self.std = np.stack([s for _, s in self._stats])[:, None]

    def windows(self, seed: int, split: str = "train") -> tuple[Floats, Floats]:
        """(obs [N, 4], actions [N, 8, 2]) of a seed's 100 demonstrations, about 2 000 windows."""
        return self._windows[seed]

    def observe(self, previous: NDArray, now: NDArray) -> Floats:
        """Standardised observations [S, E, 4] of positions [S, E, 2]."""
        obs = np.concatenate((previous, now), axis=-1)
        return ((obs - self.mean) / self.std).astype(np.float32)

    def scales(self, seed: int) -> Scales:
        """Of a training seed; the actions are not rescaled."""
        mean, std = self._stats[self.seeds.index(seed)]

        def observe(frames: NDArray) -> Floats:
            return ((np.reshape(frames, -1) - mean) / std).astype(np.float32)

        return observe, lambda chunk: np.asarray(chunk)

    def rollout(
        self, policy: Policy, episode_seeds: Sequence[int], record: int = 0
    ) -> dict[str, NDArray]:
        """Lock-step episodes; success, collision and steps for each radius, applied to the paths.

        "success" is the one at the judged radius; "success@r" and "collision@r" are all.
        """
        S, E = len(self.seeds), len(episode_seeds)
        starts = [0.02 * np.random.default_rng((2, s)).standard_normal(2) for s in episode_seeds]
        p = np.tile(np.stack(starts), (S, 1, 1))
        previous, path = p, [p]
        policy.reset(E)
        arrived = np.zeros((S, E), dtype=bool)
        for _ in range(STEP_LIMIT // EXECUTE):
            chunk = policy(self.observe(previous, p), ~arrived)
            for k in range(EXECUTE):
                step = SPEED * np.clip(chunk[:, :, k], -1.0, 1.0)
                previous, p = p, p + step * ~arrived[..., None]
                path.append(p)
                arrived = arrived | (np.linalg.norm(p - GOAL, axis=-1) < REACHED)
            if arrived.all():
                break
        paths = np.stack(path, axis=2)  # [S, E, T + 1, 2]; stands still after arrival
        results: dict[str, NDArray] = {}
        for radius in RADII:
            success, collision, ends = judge_paths(paths, radius)
            results[f"success@{radius:.2f}"] = success.astype(float)
            results[f"collision@{radius:.2f}"] = collision.astype(float)
            if radius == JUDGED_RADIUS:
                results["success"], results["steps"] = success.astype(float), ends
        if record:
            results["paths"] = paths[:, :record]
        return results

    def start_chunks(self, policy: Policy, seed: int, n: int = CHUNKS_AT_START) -> list[dict]:
        """First chunks at the ambiguous start (0, 0) against fresh expert chunks, per network.

        Returns:
            for each network the metrics of `start_metrics` and "y", the lateral displacements.
        """
        zeros = np.zeros((len(self.seeds), n, 2))
        policy.reset(n)
        chunks = policy(self.observe(zeros, zeros), np.ones((len(self.seeds), n), dtype=bool))
        rng = np.random.default_rng((3, seed))
        results = []
        for own in chunks:
            _, actions = expert_episodes(n, rng, start=np.zeros(2))
            expert = np.stack([a[:HORIZON] for a in actions])
            results.append({**start_metrics(own, expert), "y": lateral_displacement(own)})
        return results

    def close(self) -> None:
        """Nothing to release."""
