"""Training and evaluation on a GPU, image sets in little: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import ve_sde
from papers.qcsgm import eval as evaluation
from papers.qcsgm import networks, train
from papers.qcsgm.config import Config
from tests.fake_cuda import same_on_both

SIZES: dict[str, Any] = {"steps": 2, "batch": 2, "lam": (0.1,)}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few points, levels and digits in the evaluation, and a coarse solver."""
    monkeypatch.setattr(evaluation, "N_SAMPLES", 12)
    monkeypatch.setattr(evaluation, "N_MMD", 12)
    monkeypatch.setattr(evaluation, "N_LEVELS", 2)
    monkeypatch.setattr(evaluation, "N_POINTS", 4)
    monkeypatch.setattr(evaluation, "PC_LEVELS", 2)
    monkeypatch.setattr(evaluation, "SOLVERS", (("RK45", 1e-2),))
    whole = evaluation.test_images
    monkeypatch.setattr(
        evaluation, "test_images", lambda task, rng, draws: whole(task, rng, draws)[:12]
    )
    fast = ve_sde.ode_log_likelihood
    monkeypatch.setattr(
        evaluation,
        "ode_log_likelihood",
        lambda *args, **options: fast(*args, rtol=0.5, atol=0.5, **options),
    )


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images in CIFAR's format, and a narrow NCSN++ in diffusers'."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the extra 'generative'")
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (10, 3073), dtype=np.uint8)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        rows.tofile(folder / name)
    narrow = {"block_out_channels": (32, 32), "layers_per_block": 1}
    narrow |= {"down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D")}
    narrow |= {"up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D")}
    sizes = {**networks.NCSNPP, **narrow}
    diffusers.UNet2DModel(**sizes).save_pretrained(tmp_path / "qcsgm" / "ncsnpp-cifar10")
    monkeypatch.setattr(networks, "NCSNPP", sizes)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    whole = evaluation.image_field_rows
    monkeypatch.setattr(evaluation, "image_field_rows", lambda *args: whole(*args, n_levels=2, n=2))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("method", ["u", "c", "qc", "qc_est"])
@pytest.mark.parametrize("task", ["8gaussians", "digits"])
def test_a_gpu_has_the_cpus_rows(task: str, method: str, tmp_path: Path) -> None:
    cfg = Config(method=method, task=task, seed=(0, 1), regularise_after=0, **SIZES)
    same_on_both(train, evaluation, cfg, tmp_path)


@pytest.mark.usefixtures("few", "images")
@pytest.mark.parametrize("method", ["u", "qc_est"])
def test_a_gpu_has_the_cpus_rows_on_images(method: str, tmp_path: Path) -> None:
    cfg = Config(method=method, task="cifar10", **SIZES)
    same_on_both(train, evaluation, cfg, tmp_path)
