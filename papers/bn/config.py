"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from papers.bn.baselines import LR_LOG_Z


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "bn"  # a name of methods.py: bn, bn-flat, fm, db, tb, stb, …
    task: str = "g1"  # g1, g2, g3, g4, g4-small, rna, qed, tabular, rna-long, seh
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2000  # gradient steps
    batch: int = 16  # trajectories per step and seed [public code: 16 grids, 16-32 strings]
    eval_every: int = 50  # steps between evaluations
    lr: float | None = None  # Adam (default: as tuned for the method and the task)
    lr_log_Z: float = LR_LOG_Z  # of TB's log Z [public code: 0.1 on grids]
    ndim: int | None = None  # grid: D (default: the task's)
    height: int | None = None  # grid: H (default: the task's)
    reward: str | None = None  # grid: reward setting (default: standard-3, i.e. R0 = 1e-3)
    length: int | None = None  # strings: L (default: 8 letters, 4 blocks)
    table_limit: int = 256  # up to this many states, one forward pass over all per step
    uniform_samples: int = 100_000  # rna-long: strings that set the threshold of a mode
    fragments: str = "blocks_PDB_105.json"  # seh: fragment list in $PAPERS_DATA/seh
    proxy: str = "seh_proxy.npz"  # seh: proxy weights in $PAPERS_DATA/seh
    width: int = 256  # of the hidden layers
    max_blocks: int = 8  # seh: fragments per molecule [public code]

    def sizes(self) -> dict[str, Any]:
        """The sizes given on the command line, None where the task's own are kept."""
        return {name: getattr(self, name) for name in ("ndim", "height", "length", "reward")}
