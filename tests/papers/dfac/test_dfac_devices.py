"""Training and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.marl.matrix_games import MatrixGame
from papers.dfac import eval as evaluation
from papers.dfac import train, train_games
from papers.dfac.config import Config, GameConfig
from tests.fake_cuda import same_on_both


@pytest.mark.parametrize("method", ["dmix", "diql", "dplex", "dmix-c51", "naive", "qmix"])
def test_a_gpu_has_the_cpus_rows(method: str, tmp_path: Path) -> None:
    cfg = GameConfig(
        **{"method": method, "seed": (0, 1), "updates": 3, "batch": 4, "samples": 3},
        **{"hidden": 8, "evaluations": 1, "buffer": 10, "target_every": 2},
    )
    same_on_both(train_games, evaluation, cfg, tmp_path)


@pytest.mark.parametrize("method", ["dmix", "qplex"])
def test_a_gpu_has_the_cpus_battles(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (train, evaluation):
        monkeypatch.setattr(module, "make_env", lambda name, n, **_: MatrixGame("dfac_m", n))
    cfg = Config(
        **{"method": method, "task": "smax-3m-noise", "steps": 24, "envs": 4, "hidden": 8},
        **{"steps_per_update": 8, "batch": 4, "evaluations": 2, "episodes": 4, "monte_carlo": 4},
    )
    same_on_both(train, evaluation, cfg, tmp_path)
