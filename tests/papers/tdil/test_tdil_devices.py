"""Training and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from papers.tdil import eval as evaluation
from papers.tdil import train
from papers.tdil.config import Config
from tests.fake_cuda import same_on_both


@pytest.mark.parametrize("method", ["tdil", "tdil-irl", "gail-bc", "bc"])  # gail: irl without BC
def test_a_gpu_has_the_cpus_rows(method: str, tmp_path: Path) -> None:
    cfg = Config(
        **{"method": method, "task": "grid", "seed": (0, 1), "steps": 12, "warm_up": 6},
        **{"eval_every": 6, "hidden": 8, "batch": 8},
    )
    same_on_both(train, evaluation, cfg, tmp_path)
