"""What OVMSE's tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from papers.ovmse import generate, pretrain
from papers.ovmse.config import DataConfig, OfflineConfig
from tests.papers.ovmse import stand_in

torch.set_num_threads(1)


@pytest.fixture
def corridor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task is the corridor."""
    monkeypatch.setattr("common.marl.environments.make_env", stand_in.make_env)


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scale's folder in which stages 1 and 2 of seed 0 are finished; not to be changed."""
    scale = tmp_path_factory.mktemp("ovmse") / "scale"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.marl.environments.make_env", stand_in.make_env)
        data = scale / "data" / "3m" / "qmix" / "seed-0"
        generate.train(DataConfig(out=data, until="expert", **stand_in.DATA))
        for method, stage in (("cfcql", "offline"), ("bc", "clone")):
            out = scale / stage / "3m-medium" / method / "seed-0"
            pretrain.train(OfflineConfig(method=method, out=out, **stand_in.OFFLINE))
    return scale


@pytest.fixture
def earlier(tmp_path: Path, corridor: None, stages: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(stages, tmp_path / "scale"))
