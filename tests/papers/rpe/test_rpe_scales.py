"""Every stage of every scale on tiny stand-ins, through claims, tables and figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.gfn import rna
from papers.rpe import task
from tests.papers.kit import check_added_method, run_scale
from tests.papers.rpe.test_rpe_training import write_table
from tools.manifest import Job

SIZES = ("--sizes.length", "3", "--sizes.shortest", "2", "--sizes.longest", "3")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random tables of the published alphabets and three letters, a fitness without folding."""
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    read, build = task.read_table, task.string_dag
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    write_table(tmp_path / "qm9str" / "gap.csv", "ABCDEFGHIJK", 3)
    write_table(tmp_path / "tfbind8" / "tfbind8.csv", "ACGT", 3)
    monkeypatch.setattr(task, "read_table", lambda path, letters, length: read(path, letters, 3))
    monkeypatch.setattr(task, "string_dag", lambda s, v, n, r: build(s, v, 3, r))
    monkeypatch.setattr(
        rna.Fitness,
        "of_letters",
        lambda self, strings: (strings == 2).double().mean(-1) + 0.1 * (strings[..., 0] == 1),
    )
    return tmp_path


def is_twin(job: Job) -> bool:
    """Whether it runs another job's code on other numbers; every learner is on rna1's tasks."""
    name, _, shape = job.task.partition("-")
    if shape == "l14":  # four targets, a job per seed
        return job.method != "rpe" and (name != "rna1" or job.seeds != (0,))
    if job.task in ("tfbind8-tree", "qm9str-dag"):  # tfbind8-dag has every learner
        return job.method not in ("exact", "rpe", "munchausen-dqn")
    # no claim reads these of rna3
    return name == "rna3" and job.method in ("fm", "subtb", "rpe-unrectified")


def tiny(job: Job) -> list[str] | None:
    if is_twin(job):
        return None
    flags = [*SIZES, "--sizes.words", "12", "--sizes.height", "4", "--device", "cpu"]
    steps = ["--steps", "4", "--eval-every", "2", "--batch", "3", "--hidden", "8"]
    return [*flags, *steps, "--reference", "50"]


@pytest.mark.parametrize("scale", ["default", "paper"])
def test_scale(scale: str, small: Path) -> None:
    found = run_scale("rpe", scale, small / "runs", tiny)
    assert sum(table["main"] for table in found["tables"]) == (scale == "default")
    drawn = {figure["name"] for figure in found["figures"]}
    assert drawn >= {"curves", "modes", "rectification", "grid", "accuracy"}


def test_an_added_learner(tmp_path: Path) -> None:
    check_added_method("rpe", tmp_path, flags=["--steps", "4", "--hidden", "8"])


def test_reference_needs_no_folding_of_all(small: Path) -> None:
    from papers.rpe.large import LargeStrings

    large = LargeStrings("rna2-l14", torch.device("cpu"), n_reference=200)
    threshold, expected = large.reference()
    assert threshold < 0 and expected > 0
