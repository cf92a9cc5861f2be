"""Training and evaluation on a GPU, the tasks of the scale paper in little: nothing is left on the
CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from papers.egfn import eval as evaluation
from papers.egfn import train
from tests import stand_ins
from tests.fake_cuda import same_on_both

GRID = {"steps": 3, "eval_every": 2, "seed": (0, 1)}
SEH = {"steps": 2, "batch": 2, "replay": 2, "eval_every": 1, "width": 8, "max_blocks": 3}
SEH |= {"n_agents": 3, "episodes": 2}
# a method without a population, or without replay, leaves out parts of these
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((f"egfn-{kind}", "smoke", GRID) for kind in ("db", "tb", "fm", "noise", "polluted")),
    ("egfn-db", "seh", SEH),
]


@pytest.mark.parametrize(("method", "task", "changes"), CASES)
def test_a_gpu_has_the_cpus_rows(
    method: str,
    task: str,
    changes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if task == "seh":
        pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")
        stand_ins.seh(tmp_path)
        monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    cfg = train.Config(method=method, task=task, **changes)
    same_on_both(train, evaluation, cfg, tmp_path)
