"""Training and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from papers.ofp import eval as evaluation
from papers.ofp import networks_large, train
from tests.fake_cuda import same_on_both


@pytest.mark.parametrize("method", ["ofp", "ddpm", "fm", "shortcut", "bc"])
def test_a_gpu_has_the_cpus_rows(method: str, tmp_path: Path) -> None:
    nfe = {"ddpm": (10,), "fm": (2,)}.get(method, ())
    cfg = train.Config(
        method=method, task="point-mass", seed=(0, 1), steps=2, batch=8, episodes=1, nfe=nfe
    )
    same_on_both(train, evaluation, cfg, tmp_path)


class PointClouds:
    """A simulated task with point clouds, in the format of the scale paper's."""

    name, encoder = "dp3-metaworld", "pointnet"
    action_dim, horizon, execute, obs_frames, points = 4, 4, 3, 2, 16
    obs_dim = 2 * (16 * 3 + 8)
    seeds = (0,)

    def windows(self, seed: int, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        obs = rng.standard_normal((10, self.obs_dim)).astype(np.float32)
        return obs, rng.uniform(-1, 1, (10, 4, 4)).astype(np.float32)

    def rollout(self, policy: Any, episode_seeds: Any, record: int = 0) -> dict[str, Any]:
        n = len(episode_seeds)
        policy.reset(n)
        moved = 0.0
        for _ in range(2):
            obs = np.ones((1, n, self.obs_dim), np.float32)
            moved = np.abs(policy(obs, np.ones((1, n), dtype=bool))).mean()
        return {"success": np.full((1, n), moved), "steps": np.ones((1, n))}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("method", ["ofp", "ddpm"])  # fm: a part of ofp's loss
def test_a_gpu_has_the_cpus_rows_on_point_clouds(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (train, evaluation):
        monkeypatch.setattr(module, "make_task", lambda name, seeds: PointClouds())
    narrow = functools.partial(networks_large.UNet, channels=(8, 16, 32))
    monkeypatch.setattr(networks_large, "UNet", narrow)
    cfg = train.Config(method=method, task="dp3-metaworld", steps=2, batch=4, nfe=(1, 10))
    same_on_both(train, evaluation, cfg, tmp_path, rtol=0.2)
