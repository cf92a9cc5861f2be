"""Training and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from papers.ofp import eval as evaluation
from papers.ofp import train
from tests.fake_cuda import same_on_both


@pytest.mark.parametrize("method", ["ofp", "ddpm", "fm", "shortcut", "bc"])
def test_a_gpu_has_the_cpus_rows(method: str, tmp_path: Path) -> None:
    nfe = {"ddpm": (10,), "fm": (2,)}.get(method, ())
    cfg = train.Config(
        method=method, task="point-mass", seed=(0, 1), steps=2, batch=8, episodes=1, nfe=nfe
    )
    same_on_both(train, evaluation, cfg, tmp_path)
