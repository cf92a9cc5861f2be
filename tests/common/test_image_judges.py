"""Fréchet distance and inception score in closed form; what is said when Inception is missing."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from common import image_judges
from common.errors import UserError


def test_frechet_distance_in_closed_form() -> None:
    g = torch.Generator().manual_seed(1)
    a = torch.randn(50_000, 3, generator=g)
    b = 2.0 * torch.randn(50_000, 3, generator=g) + torch.tensor([1.0, 0.0, 0.0])
    assert image_judges.frechet_distance(a, b) == pytest.approx(1.0 + 3 * (2 - 1) ** 2, rel=0.05)
    assert image_judges.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_inception_score_does_not_depend_on_the_order() -> None:
    """Samples are drawn class after class; unshuffled, each split would hold one class: 1."""
    certain = 50.0 * torch.eye(10).repeat_interleave(500, 0)
    assert image_judges.inception_score(certain) == pytest.approx(10.0, rel=0.02)
    assert image_judges.inception_score(torch.zeros(20, 10), splits=2) == pytest.approx(1.0)
    mixed = certain[torch.randperm(5000, generator=torch.Generator().manual_seed(0))]
    same = image_judges.inception_score(mixed)
    assert same == pytest.approx(image_judges.inception_score(certain), rel=0.01)


def test_metrics_see_each_image_once() -> None:
    g = torch.Generator().manual_seed(0)
    weight, calls = torch.randn(12, 4, generator=g), []

    def extract(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(x))
        return x @ weight, x @ weight

    images = torch.rand(30, 12, generator=g)
    metrics = image_judges.inception_metrics(extract, images, size=20)
    found = metrics(images)
    assert calls == [20, 10, 20, 10]
    assert found["fid"] == pytest.approx(0.0, abs=1e-9) and found["inception_score"] > 1


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_judges.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="make setup .*SCALE=paper"):
        image_judges.inception("cpu")


def stand_in(monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    """A package torch-fidelity whose extractor is ``net``."""
    package = types.ModuleType("torch_fidelity")
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = net  # type: ignore[attr-defined]
    monkeypatch.setattr(image_judges.importlib.util, "find_spec", lambda name: package)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_weights_are_taken_from_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Net(torch.nn.Module):
        def __init__(self, name: str, features: list[str], **options: Any) -> None:
            super().__init__()
            asked.append(options["feature_extractor_weights_path"])

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            assert x.dtype == torch.uint8 and x.shape[1:] == (3, 4, 4)
            return x.flatten(1), x.flatten(1)

    stand_in(monkeypatch, Net)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    pooled, _ = image_judges.inception("cpu")(torch.linspace(-1, 2, 96).view(2, 48))
    assert pooled.min() == 0 and pooled.max() == 255
    (tmp_path / image_judges.WEIGHTS).parent.mkdir()
    (tmp_path / image_judges.WEIGHTS).touch()
    image_judges.inception("cpu")
    assert asked == [None, str(tmp_path / image_judges.WEIGHTS)]


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise OSError("no network")

    stand_in(monkeypatch, unreachable)
    monkeypatch.delenv("PAPERS_DATA", raising=False)
    with pytest.raises(UserError, match="put torch-fidelity's"):
        image_judges.inception("cpu")
