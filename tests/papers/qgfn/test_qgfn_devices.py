"""Training and evaluation on a GPU, the tasks of the scale paper in little: nothing is left on the
CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from papers.qgfn import eval as evaluation
from papers.qgfn import train
from tests import stand_ins
from tests.fake_cuda import same_on_both

METHODS = ("p-quantile", "p-of-max", "tb", "dqn")
BITS: dict[str, Any] = {
    "n_bits": 8,
    "word_bits": 4,
    "n_modes": 4,
    "delta": 2,
    "steps": 3,
    "eval_every": 2,
}
BITS |= {"sweep": (0.0, 0.9)}
PAPER = {"sampling_tau": 0.9, "lr_half_life": 20.0, "log_Z_half_life": 50.0, "weight_decay": 1e-8}
SEH: dict[str, Any] = {
    "n": 2,
    "steps": 2,
    "eval_every": 1,
    "batch": 2,
    "width": 8,
    "max_blocks": 2,
    "samples": 3,
}
SEH |= {"sweep": (0.0, 0.9)}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((method, "bits", {**BITS, **PAPER, "seed": (0, 1)}) for method in METHODS),
    ("p-of-max", "bits", {**BITS, **PAPER, "net": "transformer"}),
    # both networks and Q alone: a pair has TB's loss, and its evaluation goes through all mixtures
    *((method, "seh", {**SEH, **PAPER}) for method in ("p-of-max", "dqn")),
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
    options = {} if task == "seh" else {"samples": 20}
    same_on_both(train, evaluation, cfg, tmp_path, **options)
