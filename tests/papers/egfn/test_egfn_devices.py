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

GRID = {"steps": 4, "eval_every": 2, "seed": (0, 1)}
SEH = {"steps": 3, "batch": 4, "replay": 4, "eval_every": 2, "width": 16, "max_blocks": 3}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((method, "smoke", GRID) for method in ("egfn-db", "egfn-tb", "egfn-fm", "db-prb", "tb")),
    *((method, "seh", SEH) for method in ("egfn-db", "db-prb", "db")),
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
