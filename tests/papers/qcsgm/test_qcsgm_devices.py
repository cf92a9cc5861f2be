"""Training and evaluation on a GPU, image sets in little: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from papers.qcsgm import eval as evaluation
from papers.qcsgm import networks, train
from papers.qcsgm import task as data
from papers.qcsgm.config import Config
from tests.fake_cuda import same_on_both

SIZES: dict[str, Any] = {"steps": 2, "batch": 2, "lam": (0.1,)}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, one_step: None) -> None:
    """Few points and digits and one level in the evaluation, and one step of the solver."""
    monkeypatch.setattr(data, "N_TOY", 500)
    monkeypatch.setattr(data, "N_HELD_OUT", 12)
    monkeypatch.setattr(evaluation, "N_MMD", 12)
    monkeypatch.setattr(evaluation, "N_LEVELS", 1)
    monkeypatch.setattr(evaluation, "PC_LEVELS", 2)
    monkeypatch.setattr(evaluation, "SOLVERS", (("RK45", 1e-2),))
    whole = evaluation.test_images
    monkeypatch.setattr(
        evaluation, "test_images", lambda task, rng, draws: whole(task, rng, draws)[:12]
    )


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little: dict[str, Any]) -> None:
    """Two images of 8 x 8 pixels, and a little NCSN++ in diffusers' format."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the extra 'generative'")
    values = np.random.default_rng(0).integers(0, 256, (2, 192), dtype=np.uint8)
    monkeypatch.setattr(data, "image_bytes", lambda name, split: values)
    sizes = {**networks.NCSNPP, **little}
    # accelerate, where installed, makes empty weights first, of the class that a tensor has
    monkeypatch.setattr(diffusers.models.modeling_utils, "_LOW_CPU_MEM_USAGE_DEFAULT", False)
    diffusers.UNet2DModel(**sizes).save_pretrained(tmp_path / "qcsgm" / "ncsnpp-cifar10")
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    whole = evaluation.image_field_rows
    monkeypatch.setattr(evaluation, "image_field_rows", lambda *args: whole(*args, n_levels=1))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("task", "method"),  # each loss, each network, C's two forms
    [
        *(("8gaussians", "u"), ("8gaussians", "c"), ("8gaussians", "qc")),
        *(("digits", "c"), ("digits", "qc_est")),
    ],
)
def test_a_gpu_has_the_cpus_rows(task: str, method: str, tmp_path: Path) -> None:
    cfg = Config(method=method, task=task, seed=(0, 1), regularise_after=1, **SIZES)
    same_on_both(train, evaluation, cfg, tmp_path)


@pytest.mark.usefixtures("few", "images")
def test_a_gpu_has_the_cpus_rows_on_images(tmp_path: Path) -> None:
    """The first step is U's, the second has the regulariser."""
    cfg = Config(method="qc_est", task="cifar10", regularise_after=1, **SIZES)
    same_on_both(train, evaluation, cfg, tmp_path)
