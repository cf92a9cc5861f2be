"""Makes the expert's demonstration: stable-baselines3's SAC, its best deterministic episode.

``make expert PAPER=tdil`` writes ``papers/tdil/demonstrations/expert-hopper-v5.npz`` (observations,
actions, next observations, rewards, without pickle) and beside it a JSON card that says which
command, seed and library versions made it, its return, and the hash of its arrays.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cli import run_cli
from common.errors import UserError
from papers.tdil.demonstration import ARRAYS, FOLDER, save


@dataclass
class Config:
    """One expert."""

    env: str = "Hopper-v5"  # Gymnasium id with continuous actions
    steps: int = 300_000  # environment steps, as many gradient steps
    seed: int = 0  # of the training
    episodes: int = 5  # deterministic episodes, of which the best is kept
    least: float = 2500.0  # a lower return is not an expert: train longer
    out: Path = FOLDER  # folder of the .npz and its card
    device: str = "cpu"  # cpu or cuda


def episode(model: Any, env: Any, seed: int) -> dict[str, NDArray[np.float32]]:
    """One episode of the deterministic policy, to termination or the time limit."""
    rows: dict[str, list[Any]] = {name: [] for name in ARRAYS}
    obs, _ = env.reset(seed=seed)
    over = False
    while not over:
        action, _ = model.predict(obs, deterministic=True)
        following, reward, terminated, truncated, _ = env.step(action)
        for name, value in zip(ARRAYS, (obs, action, following, reward), strict=True):
            rows[name].append(value)
        obs, over = following, terminated or truncated
    return {name: np.asarray(values, dtype=np.float32) for name, values in rows.items()}


def make_expert(cfg: Config) -> None:
    """Trains SAC with the library's defaults and keeps the best of a few episodes.

    Raises:
        UserError: if the best return stays below ``cfg.least``.
    """
    import gymnasium
    import torch
    from stable_baselines3 import SAC

    torch.set_num_threads(1)
    started = time.time()
    model = SAC("MlpPolicy", gymnasium.make(cfg.env), seed=cfg.seed, device=cfg.device)

    def report(seen: dict[str, Any], _: dict[str, Any]) -> bool:
        done = seen["self"].num_timesteps
        if done % max(1, cfg.steps // 20) == 0:
            print(f"{done} of {cfg.steps} steps, {time.time() - started:.0f} s", flush=True)
        return True

    model.learn(total_timesteps=cfg.steps, callback=report)
    env = gymnasium.make(cfg.env)
    runs = [episode(model, env, 10_000 + i) for i in range(cfg.episodes)]
    returns = [float(run["rewards"].sum()) for run in runs]
    best = runs[int(np.argmax(returns))]
    if max(returns) < cfg.least:
        raise UserError(
            f"the best of {cfg.episodes} episodes has return {max(returns):.0f}, below "
            f"{cfg.least:.0f}: train longer with --steps {2 * cfg.steps}"
        )
    stem = cfg.out / f"expert-{cfg.env.lower()}"
    packages = ("stable-baselines3", "gymnasium", "mujoco", "torch", "numpy")
    card = {
        "command": f"python -m papers.tdil.expert --env {cfg.env} --steps {cfg.steps} "
        f"--seed {cfg.seed} --episodes {cfg.episodes}",
        "algorithm": "stable-baselines3 SAC, MlpPolicy, default hyperparameters",
        "return": max(returns),
        "returns": returns,
        "length": len(best["rewards"]),
        "packages": {name: version(name) for name in packages},
        "seconds": round(time.time() - started),
    }
    save(stem, best, card)
    print(f"{stem.with_suffix('.npz')}: return {max(returns):.0f} in {card['length']} steps")


if __name__ == "__main__":
    run_cli(make_expert, Config)
