"""The configuration of a run, and what is built from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from papers.qgfn.method import TAU_Q
from papers.qgfn.methods import METHODS
from papers.qgfn.networks import Networks
from papers.qgfn.task import StringTask, bits_task, qed_task, qm9_task, rna_task

LR = 1e-3  # Adam, both networks, where --lr is not given [code: 1e-4]
SWEEP = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)  # p at inference


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "p-of-max"  # a line of methods.METHODS
    task: str = "bits"  # bits, rna, qed, qm9str, seh
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 4000  # gradient steps (paper: 50k on bits, 10k on fragments, 100k on QM9)
    batch: int = 16  # trajectories per step and seed [code: bits 16, molecules 64]
    eval_every: int = 100  # steps between logged lines
    beta: float | None = None  # reward exponent (default: the task's) [paper: bits 3, sEH 32]
    p: float | None = None  # greediness (default: the method's)
    n: int | None = None  # steps of the Q target (default: the trajectory's length)
    ramp_share: float = 0.15  # share of the steps in which p rises [code: 1500 steps]
    objective: str = "tb"  # P_F's objective: tb or stb
    lam: float = 0.99  # lambda of SubTB
    lr: float | None = None  # Adam, both networks; default 1e-3 [code: 1e-4]
    lr_log_Z: float = 0.1  # Adam, log Z [code: 1e-3]
    lr_half_life: float = 0.0  # steps in which lr halves, 0: never [code: 20k]
    log_Z_half_life: float = 0.0  # the same for log Z's rate [code: 50k]
    weight_decay: float = 0.0  # [code: 1e-8]
    grad_clip: float = 10.0  # gradient norm of each network [code]
    tau_q: float = TAU_Q  # weight of the old copy in the lagged Q [code: 0.9-0.95]
    sampling_tau: float = 0.0  # weight of the old copy in the networks that sample [code: 0.9]
    net: str = "mlp"  # strings: mlp or transformer [paper: transformer 3 x 64]
    hidden: int = 256  # MLP: width of the two hidden layers
    length: int | None = None  # rna, qed, qm9str: letters (default: 8, 4, 5)
    n_bits: int = 32  # bits: n [paper: 120]
    word_bits: int = 4  # bits: k [paper]
    n_modes: int = 16  # bits: |M| [paper: 60]
    delta: int = 3  # bits: Levenshtein radius of "mode found" [paper: 30 at n=120]
    fragments: str = "blocks_PDB_105.json"  # seh: fragment list in $PAPERS_DATA/seh
    proxy: str = "seh_proxy.npz"  # seh: proxy weights in $PAPERS_DATA/seh
    width: int = 128  # seh: width of the graph transformers [paper]
    max_blocks: int = 8  # seh: fragments per molecule
    samples: int = 1000  # seh: molecules drawn per policy by the evaluation
    sweep: tuple[float, ...] = SWEEP  # p of the evaluation's sweep


def make_task(cfg: Config) -> StringTask:
    """The string task of a configuration, at the task's own beta."""
    if cfg.task == "bits":
        return bits_task(cfg.n_bits, cfg.word_bits, cfg.n_modes, cfg.delta)
    made = {"rna": rna_task, "qed": qed_task, "qm9str": qm9_task}[cfg.task]
    return made() if cfg.length is None else made(cfg.length)


def make_networks(cfg: Config, task: StringTask, *, policy: bool = True) -> Networks:
    """The networks that the method learns; without ``policy`` the lagged copy of Q."""
    method = METHODS[cfg.method]
    return Networks(
        cfg.net,
        cfg.seed,
        task.env,
        learns_pf=method.learns_pf and policy,
        learns_q=method.learns_q,
        hidden=cfg.hidden,
        flow=cfg.objective == "stb",
    )


def exponent(cfg: Config, beta: float) -> float:
    """The reward exponent of P_F's target; ``beta`` is the task's own."""
    method = METHODS[cfg.method]
    if method.beta is not None:
        return method.beta
    return (beta if cfg.beta is None else cfg.beta) * method.beta_factor


def rates(cfg: Config) -> tuple[tuple[float, float], tuple[float, float]]:
    """(rate at step 0, steps in which it halves) of the networks and of log Z."""
    return (
        (LR if cfg.lr is None else cfg.lr, cfg.lr_half_life),
        (cfg.lr_log_Z, cfg.log_Z_half_life),
    )
