"""The configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "linex1"  # loss g: quadratic, linex1, linex05, shifted-cosh (theory: all)
    task: str = "grid-tb"  # experiment-objective, e.g. grid-tb, control-tb, bits-db, theory
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2000  # gradient steps (paper: 50k on the grid, 250k on bits)
    batch: int = 16  # trajectories per step and seed [paper; molecules: 4]
    eval_every: int = 50  # steps between evaluations
    slope_clip: float | None = None  # c of the surrogate [code: 50 (the default); molecules 10]
    lr: float | None = None  # grid: Adam's rate (default: the paper's 1e-3)
    grad_clip: float | None = None  # grid: largest gradient norm (default: the authors' code's)
    ndim: int | None = None  # grid: D (default: the task's)
    height: int | None = None  # grid: H (default: the task's)
    reward: str | None = None  # grid: reward setting (default: the task's)
    table_limit: int = 1024  # grid: up to this many states, one forward pass over all per step
    reuse: bool = False  # larger grids, CPU: train on the rollout's own forward pass (not FM)
    n_bits: int = 40  # bits: n [paper: 120]
    word_bits: int = 4  # bits: k [paper: 8]
    n_modes: int = 20  # bits: |M| [paper: 60]
    delta: float = 5.0  # bits: Hamming radius of "mode found" [paper: 30 at n=120]
    net: str = "mlp"  # bits: mlp or transformer [paper: transformer]
    fragments: str = "blocks_PDB_105.json"  # molecules: fragment list in $PAPERS_DATA/seh
    proxy: str = "seh_proxy.npz"  # molecules: proxy weights in $PAPERS_DATA/seh
    width: int = 256  # molecules: width of the policy network [code]
    max_blocks: int = 8  # molecules: fragments per molecule [paper]
