"""Offline and online training on a GPU: nothing is left on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from papers.ovmse import eval as evaluation
from papers.ovmse import generate, pretrain, train
from papers.ovmse.config import Config, DataConfig, OfflineConfig
from tests.fake_cuda import same_on_both
from tests.papers.ovmse import stand_in

TINY: dict[str, Any] = {"batch": 3, "envs": 3, "episodes": 3, "hidden": 4}


def test_a_gpu_has_the_cpus_behaviour(tmp_path: Path, corridor: None) -> None:
    few = {**stand_in.DATA, **TINY, "steps": 70, "evaluate_every": 35, "size": 3}
    same_on_both(generate, evaluation, DataConfig(until="expert", **few), tmp_path)


@pytest.mark.parametrize("method", ["cfcql-moderate", "macql", "bc"])
def test_a_gpu_has_the_cpus_offline_rows(earlier: Path, tmp_path: Path, method: str) -> None:
    cfg = OfflineConfig(method=method, **{**stand_in.OFFLINE, "updates": 3, "evaluate_every": 3})
    cfg = replace(
        cfg,
        data=earlier / "data" / "3m" / "qmix" / "seed-0" / "medium.npz",
        clone=earlier / "clone" / "3m-medium" / "bc" / "seed-0",
    )
    same_on_both(pretrain, evaluation, cfg, tmp_path)


@pytest.mark.parametrize("method", ["ovmse", "keep-cql", "mix-50"])
def test_a_gpu_has_the_cpus_online_rows(earlier: Path, tmp_path: Path, method: str) -> None:
    few = {**stand_in.ONLINE, "steps": 60, "evaluations": 4, "dip_episodes": 4}
    cfg = Config(method=method, **few)
    cfg = replace(
        cfg,
        data=earlier / "data" / "3m" / "qmix" / "seed-0" / "medium.npz",
        offline=earlier / "offline" / "3m-medium" / "cfcql" / "seed-0",
    )
    same_on_both(train, evaluation, cfg, tmp_path)
