"""Training, validation and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from papers.ebflow import eval as evaluation
from papers.ebflow import train
from tests.fake_cuda import same_on_both

CASES = [
    *(
        ("ml", "digits-fc"),
        ("sml", "digits-fc"),
        ("fdssm", "digits-fc"),
        ("dsm-nomap", "digits-fc"),
    ),
    *(("ssm", "digits-cnn"), ("dsm", "sine"), ("sml", "sine")),
]


@pytest.mark.parametrize(("method", "task"), CASES)
def test_a_gpu_has_the_cpus_rows(method: str, task: str, tmp_path: Path) -> None:
    seeds = (0,) if task == "digits-cnn" else (0, 1)
    cfg = train.Config(method=method, task=task, seed=seeds, steps=2, batch=8, langevin=2)
    same_on_both(train, evaluation, cfg, tmp_path)
