"""Training and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from papers.meow import eval as evaluation
from papers.meow import train
from papers.meow.config import Config
from tests.fake_cuda import same_on_both


@pytest.mark.parametrize("method", ["meow", "meow-vanilla", "meow-affine", "sac"])
def test_a_gpu_has_the_cpus_rows(method: str, tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="MuJoCo is in the extra 'control'")
    cfg = Config(
        **{"method": method, "task": "InvertedPendulum-v5", "seed": (0, 1), "steps": 16},
        **{"learning_starts": 10, "batch": 8, "evaluate_every": 8, "episodes": 1},
    )
    same_on_both(train, evaluation, cfg, tmp_path)
