"""Training and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from papers.rbs import eval as evaluation
from papers.rbs import train
from tests.fake_cuda import same_on_both

CASES = [
    *((method, "g6") for method in ("rbs-db", "rbs-subtb", "her-db", "gc-db", "dqn-her")),
    *(("rbs-db", "b12"), ("dqn-her", "b12")),
]


@pytest.mark.parametrize(("method", "task"), CASES)
def test_a_gpu_has_the_cpus_rows(method: str, task: str, tmp_path: Path) -> None:
    cfg = train.Config(
        **{"method": method, "task": task, "seed": (0, 1), "steps": 6, "eval_every": 3},
        **{"rollouts": 4, "replay": 8},
    )
    same_on_both(train, evaluation, cfg, tmp_path)
