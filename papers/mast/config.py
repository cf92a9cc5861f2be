"""The configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Host = Literal["qmix", "vdn", "ow-qmix", "cw-qmix", "res"]


@dataclass
class Config:
    """One training run: a method in a host algorithm, on a task. Paper: SMAC, 2M steps."""

    method: str = "mast"  # see methods.METHODS
    task: str = "smax-3m"  # FAMILY-NAME of an environment (see task.make)
    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    host: Host = "qmix"  # algorithm that is made sparse
    sparsity: float = 0.95  # S, of agents and of the mixer (paper: .85 to .95 by map)
    share: bool = False  # one network for all agents (paper: one for each)
    pool: bool = False  # rank a layer's connections over all agents, not agent by agent
    steps: int = 120_000  # environment steps
    envs: int = 16  # environments that are stepped together
    updates: int = 4  # gradient updates after each round of ``envs`` episodes
    batch: int = 32  # episodes of an update
    buffer: int = 5_000  # episodes
    latest: int = 128  # episodes of the second buffer
    lr: float = 1e-3  # Adam's learning rate
    gamma: float = 0.99  # discount
    lam: float = 0.6  # of TD(lambda)
    n_steps: int = 3  # of the n-step targets (RLx2)
    switch: float = 0.375  # share of training with one-step targets (hybrid, n-step)
    omega: float = 10.0  # Soft Mellowmax
    alpha: float = 1.0  # Soft Mellowmax
    epsilon: float = 0.05  # exploration at the end
    anneal: int = 30_000  # environment steps over which it falls from 1
    copy_every: int = 200  # episodes between copies into the target networks
    rewire_every: int = 50  # updates between changes of topology (200 episodes)
    drop: float = 0.5  # zeta_0, share of connections that move at first
    hidden: int = 64  # width of the agents
    embed: int = 32  # width of the mixing layer
    hypernet: int = 64  # width of its hypernetworks
    clip: float = 10.0  # norm of gradients
    evaluations: int = 20  # in the course of training
    episodes: int = 64  # of an evaluation, greedy
