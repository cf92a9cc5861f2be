"""Makes the expert's demonstration: the best deterministic episode of stable-baselines3's SAC.

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
    steps: int = 300_000  # environment steps at most, as many gradient steps
    every: int = 10_000  # steps between tests
    episodes: int = 5  # deterministic episodes of a test; the best of all tests is kept
    enough: float = 3400.0  # stop once the best return is here
    least: float = 2500.0  # a lower return is not an expert: train longer
    seed: int = 0  # of the training
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
    """Trains SAC with the library's defaults, tests as it goes, and keeps the best episode.

    Raises:
        UserError: if the best return stays below ``cfg.least``.
    """
    import gymnasium
    import torch
    from stable_baselines3 import SAC

    torch.set_num_threads(1)
    started = time.time()
    model = SAC("MlpPolicy", gymnasium.make(cfg.env), seed=cfg.seed, device=cfg.device)
    env = gymnasium.make(cfg.env)
    best: dict[str, Any] = {"return": -np.inf}

    def test(seen: dict[str, Any], _: dict[str, Any]) -> bool:
        steps = seen["self"].num_timesteps
        if steps % cfg.every != 0 and steps != cfg.steps:
            return True
        runs = [episode(model, env, 10_000 + i) for i in range(cfg.episodes)]
        returns = [float(run["rewards"].sum()) for run in runs]
        if max(returns) > best["return"]:
            best.update({"return": max(returns), "returns": returns, "steps": steps})
            best["episode"] = runs[int(np.argmax(returns))]
        print(
            f"{steps} steps, {time.time() - started:.0f} s: returns "
            + " ".join(f"{value:.0f}" for value in returns),
            flush=True,
        )
        return bool(best["return"] < cfg.enough)

    model.learn(total_timesteps=cfg.steps, callback=test)
    if best["return"] < cfg.least:
        raise UserError(
            f"the best of all episodes has return {best['return']:.0f}, below "
            f"{cfg.least:.0f}: train longer with --steps {2 * cfg.steps}"
        )
    stem = cfg.out / f"expert-{cfg.env.lower()}"
    packages = ("stable-baselines3", "gymnasium", "mujoco", "torch", "numpy")
    card = {
        "command": f"python -m papers.tdil.expert --env {cfg.env} --steps {cfg.steps} "
        f"--every {cfg.every} --episodes {cfg.episodes} --enough {cfg.enough:g} --seed {cfg.seed}",
        "algorithm": "stable-baselines3 SAC, MlpPolicy, default hyperparameters",
        "trained_steps": best["steps"],
        "return": best["return"],
        "returns": best["returns"],
        "length": len(best["episode"]["rewards"]),
        "packages": {name: version(name) for name in packages},
        "seconds": round(time.time() - started),
    }
    save(stem, best["episode"], card)
    print(f"{stem.with_suffix('.npz')}: return {best['return']:.0f} in {card['length']} steps")


if __name__ == "__main__":
    run_cli(make_expert, Config)
