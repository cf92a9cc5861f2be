"""Both stages and their evaluation on a GPU, CIFAR in little: nothing is left on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from papers.dlsm import eval as evaluation
from papers.dlsm import task as task_module
from papers.dlsm import train, train_score
from papers.dlsm.config import Config, ScoreConfig
from papers.dlsm.methods import METHODS
from papers.dlsm.task import ImageNetworks
from tests.fake_cuda import same_on_both

TINY = ImageNetworks(channels=(32, 32), layers=1, width=4)
SIZES = {"steps": 2, "batch": 4, "samples": 6, "sampler_steps": 1, "cas_steps": 1, "draws": 50}


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 in its published binary format, a few images, the first two of its classes."""
    monkeypatch.setattr(task_module, "CIFAR10", replace(task_module.CIFAR10, n_classes=2, k=1))
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        labels = np.arange(6, dtype=np.uint8)[:, None] % 2
        pixels = rng.integers(0, 256, (6, 3072), dtype=np.uint8)
        np.hstack([labels, pixels]).tofile(folder / name)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))


@pytest.mark.parametrize("task", ["moons", "digits", "cifar10"])
@pytest.mark.usefixtures("cifar")
def test_a_gpu_has_the_cpus_rows(task: str, tmp_path: Path) -> None:
    seeds = (0,) if task == "cifar10" else (0, 1)
    sizes = {**SIZES, "steps": 1, "batch": 2, "samples": 2} if task == "cifar10" else SIZES
    prior = ScoreConfig(task=task, seed=seeds, images=TINY, **sizes)
    same_on_both(train_score, evaluation, prior, tmp_path / "score")
    methods = {"moons": ("base", "dlsm", "posterior")}  # base's loss and scalings are there
    for method in methods.get(task, ("total",)):
        if METHODS[method].kind == "score":
            cfg = replace(prior, method=method)
            same_on_both(train_score, evaluation, cfg, tmp_path / method)
            continue
        shared = {"task": task, "seed": seeds, "images": TINY, **sizes}
        cfg = Config(method=method, prior=tmp_path / "score" / "cpu", **shared)
        same_on_both(train, evaluation, cfg, tmp_path / method)
