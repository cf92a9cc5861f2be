"""Training and evaluation on a GPU, the tasks of the scale paper in little: nothing is left on the
CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from papers.bn import eval as evaluation
from papers.bn import train
from tests import stand_ins
from tests.fake_cuda import same_on_both

METHODS = ("bn", "bn-flat", "fm", "db", "tb", "stb")
GRID = {"ndim": 3, "height": 4, "steps": 3, "eval_every": 2, "batch": 4, "seed": (0, 1)}
SAMPLED = {"steps": 2, "eval_every": 1, "batch": 3, "width": 8}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((method, "g3", GRID) for method in METHODS),
    ("bn", "g3", {**GRID, "table_limit": 10}),
    *((method, "rna-long", {**SAMPLED, "length": 5}) for method in ("bn", "fm", "stb")),
    *((method, "seh", {**SAMPLED, "max_blocks": 3}) for method in ("bn", "fm", "db", "tb")),
]


@pytest.mark.parametrize(("method", "task", "changes"), CASES)
def test_a_gpu_has_the_cpus_rows(
    method: str,
    task: str,
    changes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    if task == "seh":
        pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")
        stand_ins.seh(tmp_path)
        monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    if task == "rna-long":
        pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
        changes = {**changes, "uniform_samples": 50}
    cfg = train.Config(method=method, task=task, **changes)
    same_on_both(train, evaluation, cfg, tmp_path)
