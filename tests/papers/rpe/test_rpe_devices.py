"""Training and evaluation on a GPU, the tasks of the scale paper in little: nothing is left on the
CPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from common.gfn import rna
from papers.rpe import eval as evaluation
from papers.rpe import train
from papers.rpe.task import Sizes
from tests.fake_cuda import same_on_both

LEARNERS = ("rpe", "rpe-log", "fm", "db", "tb", "subtb", "munchausen-dqn")


@pytest.fixture(autouse=True)
def folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fitness without the folding, so that the tests are quick."""
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    monkeypatch.setattr(
        rna.Fitness,
        "of_letters",
        lambda self, strings: (strings == 2).double().mean(-1) + 0.1 * (strings[..., 0] == 1),
    )


@pytest.mark.parametrize("method", ["rpe", "tb", "soft-dqn"])
def test_a_gpu_has_the_cpus_rows(method: str, tmp_path: Path) -> None:
    cfg = train.Config(
        **{"method": method, "task": "words", "seed": (0, 1), "steps": 3, "eval_every": 3},
        **{"batch": 4, "hidden": 16, "sizes": Sizes(words=30)},
    )
    same_on_both(train, evaluation, cfg, tmp_path)


@pytest.mark.parametrize("method", LEARNERS)
def test_a_gpu_has_the_cpus_rows_on_long_strings(method: str, tmp_path: Path) -> None:
    cfg = train.Config(
        **{"method": method, "task": "rna2-l14", "steps": 3, "eval_every": 3, "batch": 4},
        **{"hidden": 16, "reference": 50},
    )
    same_on_both(train, evaluation, cfg, tmp_path)
