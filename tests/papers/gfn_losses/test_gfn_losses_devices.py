"""Training and evaluation on a GPU, the tasks of the scale paper in little: nothing is left on the
CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from papers.gfn_losses import eval as evaluation
from papers.gfn_losses import train
from tests import stand_ins
from tests.fake_cuda import same_on_both

GRID = {"ndim": 3, "height": 4, "steps": 3, "eval_every": 2, "batch": 4}
BITS = {"n_bits": 8, "word_bits": 4, "n_modes": 4, "delta": 2.0, "steps": 3, "eval_every": 2}
MOLS = {"batch": 2, "steps": 2, "eval_every": 1, "width": 8, "max_blocks": 3}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *(("linex1", f"grid-{objective}", GRID) for objective in ("stb", "fm", "db", "tb")),
    ("quadratic", "grid-db", {**GRID, "table_limit": 10}),
    *(("shifted-cosh", f"bits-{objective}", BITS) for objective in ("stb", "db", "tb")),
    ("linex05", "bits-tb", {**BITS, "net": "transformer"}),
    ("linex05", "mols-stb", MOLS),
]


@pytest.mark.parametrize(("method", "task", "changes"), CASES)
def test_a_gpu_has_the_cpus_rows(
    method: str,
    task: str,
    changes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = (0, 1)
    if task.startswith("mols"):
        pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")
        stand_ins.seh(tmp_path)
        monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
        seeds = (0,)
    cfg = train.Config(method=method, task=task, seed=seeds, **changes)
    same_on_both(train, evaluation, cfg, tmp_path)
