"""Training and evaluation on a GPU: nothing is left on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from papers.kaleidoscope import eval as evaluation
from papers.kaleidoscope import probe, train, train_matd3
from papers.kaleidoscope.config import Config, MATD3Config
from tests.fake_cuda import same_on_both

SMALL: dict[str, Any] = {"steps": 60, "envs": 2, "updates": 1, "batch": 2, "hidden": 4}
SMALL |= {"embed": 4, "hypernet": 4, "evaluations": 1, "episodes": 2, "resets": 4}
SMALL |= {"describing": 2, "copy_every": 4}


@pytest.mark.parametrize(
    ("method", "task"),
    [("kaleidoscope", "distinct"), ("kaleidoscope", "units"), ("nops", "mpe")],
)
def test_qmix(method: str, task: str, tmp_path: Path, stand_ins) -> None:
    same_on_both(train, evaluation, Config(method, task, **SMALL), tmp_path)


def test_clusters(tmp_path: Path, stand_ins) -> None:
    cfg = Config("seps", "distinct", **{**SMALL, "steps": 140, "hidden": 16})
    same_on_both(train, evaluation, cfg, tmp_path)


@pytest.mark.parametrize("method", ["kaleidoscope", "nops"])
def test_matd3(method: str, tmp_path: Path, stand_ins) -> None:
    cfg = MATD3Config(
        **{"method": method, "steps": 48, "envs": 4, "warm_up": 20, "batch": 4, "hidden": 4},
        **{"evaluations": 1, "episodes": 1, "critic_reset": 0.3, "resets": 4},
    )
    same_on_both(train_matd3, evaluation, cfg, tmp_path)


@pytest.mark.parametrize("method", ["kaleidoscope", "snp"])
def test_the_probe(method: str, tmp_path: Path) -> None:
    cfg = probe.ProbeConfig(method, episodes=12, evaluations=1, hidden=4, resets=4)
    same_on_both(probe, evaluation, cfg, tmp_path)
