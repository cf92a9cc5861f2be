"""Training, validation and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch

from papers.ebflow import cost, train
from papers.ebflow import eval as evaluation
from papers.ebflow import task as data
from tests.fake_cuda import fake_cuda, same_on_both

CASES = [
    *(
        ("ml", "digits-fc"),
        ("sml", "digits-fc"),
        ("fdssm", "digits-fc"),
        ("dsm-nomap", "digits-fc"),
    ),
    *(("ssm", "digits-cnn"), ("dsm", "sine"), ("sml", "sine")),
]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few digits, points and proposals in the evaluation."""
    for name, value in (("IMPUTED", 3), ("PROPOSALS", 200), ("DRAWS", 2)):
        monkeypatch.setattr(evaluation, name, value)
    for name, value in (("FRESH", 20), ("GRID", 4)):
        monkeypatch.setattr(data, name, value)
    digits = data.images("digits")
    parts = {name: getattr(digits, name)[:20] for name in ("train", "valid", "test")}
    monkeypatch.setattr(data, "images", lambda name: dataclasses.replace(digits, **parts))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("method", "task"), CASES)
def test_a_gpu_has_the_cpus_rows(method: str, task: str, tmp_path: Path) -> None:
    seeds = (0,) if task == "digits-cnn" else (0, 1)
    cfg = train.Config(method=method, task=task, seed=seeds, steps=2, batch=8, langevin=2)
    same_on_both(train, evaluation, cfg, tmp_path)


@pytest.mark.parametrize(
    ("method", "task"),
    [("fdssm", "mnist-fc"), ("dsm", "mnist-cnn"), ("ssm", "mnist-glow"), ("ml", "cifar-cnn")],
)
def test_a_gpu_has_the_cpus_rows_on_images(
    method: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = torch.Generator().manual_seed(0)
    channels = 3 if task.startswith("cifar") else 1
    parts = [torch.randint(0, 256, (n, channels * 64), generator=g).byte() for n in (20, 6, 6)]
    tiny = data.Images(*parts, shape=(channels, 8, 8), levels=256)
    monkeypatch.setattr(data, "images", lambda name: tiny)
    small = functools.partial(train.models.glow_layers, depth=1, width=6)
    monkeypatch.setattr(
        train.models, "glow_layers", lambda g, s, levels=2, **_: small(g, s, levels=levels)
    )
    cfg = train.Config(method=method, task=task, epochs=1, batch=10)
    same_on_both(train, evaluation, cfg, tmp_path)


def test_the_cost_is_measured_on_a_gpu(tmp_path: Path) -> None:
    with fake_cuda():
        for model, size in (("fc", 8), ("cnn", 4)):
            cfg = cost.Config(
                task=model,
                out=tmp_path / model,
                device="cuda",
                sizes=(size,),
                batch=(3,),
                repeats=1,
            )
            cost.main(cfg)
