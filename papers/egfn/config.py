"""The configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from papers.egfn.method import Evolution
from papers.egfn.methods import METHODS


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "egfn-db"  # a line of methods.METHODS
    task: str = "grid-s"  # grid-s, grid-m, grid-l, grid-l3, map, ab10, qm9str, seh, ...
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2500  # gradient steps [code]
    batch: int = 16  # the star's own trajectories per step [code]
    replay: int = 16  # replayed trajectories per step [code]
    eval_every: int = 100  # steps between evaluations
    lr: float | None = None  # Adam; default 1e-3 (FM: 1e-4; seh: 5e-4) [code]
    lr_log_Z: float = 0.1  # of log Z (TB) [code]
    n_agents: int = 5  # K [code; antibody, molecules: 10]
    n_elites: int = 2  # protected copies [code]
    episodes: int = 4  # E, trajectories per agent and step [code; antibody: 10]
    tournament: int = 4  # ranks drawn per offspring [code]
    mutation: float = 0.9  # probability that a tensor is changed [code]
    strength: float = 1.0  # gamma, standard deviation of the noise [code]
    crossover: float = 0.1  # probability that two offspring are crossed [code]
    capacity: int = 1000  # of the buffer [code]
    percentile: float = 0.9  # where the buffer's top begins [code]
    top_share: float = 0.5  # of a draw from the top [code]
    table: str = "qm9str.npy"  # qm9str: rewards in $PAPERS_DATA/qm9
    fragments: str = "blocks_PDB_105.json"  # seh: fragment list in $PAPERS_DATA/seh
    proxy: str = "seh_proxy.npz"  # seh: proxy weights in $PAPERS_DATA/seh
    width: int = 256  # seh: width of the policy network [code]
    max_blocks: int = 8  # seh: fragments per molecule


def evolution(cfg: Config) -> Evolution:
    """The population's hyperparameters: the flags, and what the method leaves out."""
    method = METHODS[cfg.method]
    return Evolution(
        n_agents=cfg.n_agents,
        n_elites=cfg.n_elites,
        episodes=cfg.episodes,
        tournament=cfg.tournament,
        crossover=cfg.crossover if method.crossover else 0.0,
        fill_crossover=method.crossover,
        mutation=cfg.mutation if method.mutation else 0.0,
        strength=cfg.strength,
    )
