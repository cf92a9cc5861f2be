"""Training and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from papers.rbs import eval as evaluation
from papers.rbs import task as tasks
from papers.rbs import train
from tests.fake_cuda import same_on_both

# each companion, objective, P_B and environment: the other methods put together parts of these
CASES = [
    *((method, "g6") for method in ("rbs-db", "rbs-subtb", "dqn-her")),
    *((method, "b12") for method in ("rbs-db", "rbs-fixed", "dqn-her")),
]


@pytest.mark.parametrize(("method", "task"), CASES)
def test_a_gpu_has_the_cpus_rows(
    method: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "N_EVAL_GOALS", 8)
    cfg = train.Config(
        **{"method": method, "task": task, "seed": (0, 1), "steps": 3, "eval_every": 2},
        **{"rollouts": 4, "replay": 8},
    )
    same_on_both(train, evaluation, cfg, tmp_path)
