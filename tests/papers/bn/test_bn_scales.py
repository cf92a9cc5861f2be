"""Every stage of every scale on tiny stand-ins, through claims, tables and figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.errors import UserError
from papers import bn
from papers.bn import task
from tests import stand_ins
from tests.papers.kit import check_added_method, run_scale
from tools.manifest import Job


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small sets and strings, a fragment library and a proxy of the real format, a new cache."""
    pytest.importorskip("rdkit", reason="RDKit is in the extra 'gfn'")
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    stand_ins.seh(tmp_path / "data")
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    whole = task.set_problem
    monkeypatch.setattr(
        task, "set_problem", lambda n=6, size=3, log_scale=0.0: whole(n, size, log_scale)
    )
    monkeypatch.setattr(task, "planted_pairs", lambda n: torch.tensor([[0, 1], [2, 3], [4, 5]]))
    return tmp_path


SIZE = {
    **dict.fromkeys(("g1", "g2", "g3", "tabular"), ("--height", "4")),
    **dict.fromkeys(("g4", "g4-small"), ()),
    "rna": ("--length", "3"),
    "qed": ("--length", "2"),
    "rna-long": ("--length", "4", "--uniform-samples", "30"),
    "seh": ("--max-blocks", "3"),
}


def tiny(job: Job) -> list[str] | None:
    """Every stage and task, every method on G1; not every method and rate on every task.

    A rate is a number to the code: the tuning runs its second one with BN on G1 alone.
    """
    assert job.task is not None
    partly = job.scale in ("default", "tuning") and job.task not in ("g1", "tabular")
    other_rate = bool(job.grid) and job.grid != ("lr=0.005",)
    if partly and (job.method not in ("bn", "db") or other_rate):
        return None
    if other_rate and job.method != "bn":
        return None
    steps = ["--steps", "2", "--eval-every", "1", "--batch", "3", "--device", "cpu"]
    return [*SIZE[job.task], *steps, *(() if job.task == "tabular" else ("--width", "8"))]


@pytest.mark.parametrize("scale", ["default", "study", "tuning", "paper"])
def test_scale(scale: str, small: Path) -> None:
    seeds = 2 if scale == "default" else 1  # two have intervals, in the same tables and figures
    found = run_scale("bn", scale, small / "runs", tiny, seeds=seeds)
    assert sum(table["main"] for table in found["tables"]) == (scale != "tuning")


def test_an_added_method(tmp_path: Path) -> None:
    check_added_method("bn", tmp_path, flags=["--steps", "4", "--height", "4", "--width", "8"])


def test_load_is_for_enumerated_tasks(small: Path) -> None:
    from papers.bn.config import Config
    from papers.bn.train import train

    out = small / "r"
    train(Config("bn", "rna-long", length=4, steps=2, batch=2, uniform_samples=20, out=out))
    with pytest.raises(UserError, match="load knows"):
        bn.load(out)
