"""The configuration of a run, and what follows from it for a task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from papers.kaleidoscope.task import Task, task_of


@dataclass
class Config:
    """One training run with QMIX. What is left at None is the task's (task.TASKS)."""

    method: str = "kaleidoscope"  # see methods.METHODS
    task: str = "distinct"  # see task.TASKS
    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # environment steps (paper 3.05M MPE, 10.05M SMACv2)
    envs: int = 16  # environments that are stepped together (paper 1 MPE, 4 SMACv2)
    updates: int = 8  # after each round of ``envs`` episodes (paper: one per episode)
    batch: int = 16  # episodes of an update (paper 32 MPE, 128 SMACv2)
    buffer: int = 800  # episodes (paper 5,000, of 122,000)
    lr: float = 1e-3  # Adam's learning rate (paper 5e-4 MPE, 1e-3 SMACv2)
    gamma: float = 0.95  # discount (paper .99)
    beta_0: float | None = None  # of the diversity's coefficient (paper .5 MPE, 5 SMACv2)
    layer_weights: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)  # lambda_l
    resets: int = 15  # reset intervals in a run (paper 200k of 3.05M steps)
    rho: float | None = None  # share of the unused weights that a reset draws (paper .1, .2)
    pruned: float = 0.2  # SNP: share of the weights that each agent's fixed mask cuts
    clusters: int = 2  # SePS: networks
    describing: int = 1_000  # SePS: updates of the auto-encoder that tells agents apart
    epsilon: float = 0.05  # exploration at the end
    anneal: int = 25_000  # environment steps over which it falls from 1 (paper 50k, 100k)
    copy_every: int = 128  # episodes between copies into the target networks (paper 200)
    hidden: int = 64  # width of the agents
    embed: int = 32  # width of the mixing layer
    hypernet: int = 64  # width of its hypernetworks
    clip: float = 10.0  # largest gradient norm
    evaluations: int = 20  # in the course of training, and one before
    episodes: int = 64  # of an evaluation, greedy


def resolved(cfg: Config) -> tuple[Config, Task]:
    """The configuration with the task's numbers where it leaves them open, and the task.

    Raises:
        UserError: for an unknown task.
    """
    task = task_of(cfg.task)
    own = {
        name: getattr(task, name)
        for name in ("steps", "beta_0", "rho")
        if getattr(cfg, name) is None
    }
    return replace(cfg, **own), task


@dataclass
class MATD3Config:
    """One training run with MATD3 (paper: MaMuJoCo, 10M steps; the defaults are the study's)."""

    method: str = "kaleidoscope"  # see methods.METHODS
    task: str = "HalfCheetah-2x3"  # robot and how it is shared out, see common.marl.mamujoco
    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 60_000  # environment steps (paper 10M)
    envs: int = 10  # environments that are stepped together (paper 10)
    warm_up: int = 5_000  # environment steps with uniform actions (paper 10k)
    update_every: int = 5  # environment steps per update of the critics (paper 10)
    batch: int = 256  # transitions (paper 1000)
    buffer: int = 1_000_000  # transitions (paper 1e6)
    n_steps: int = 10  # of the returns (paper 10 HalfCheetah; 5 Ant, Hopper; 20 Walker2d)
    policy_freq: int = 2  # updates of the critics per update of the actors (paper 2; 8 Walker2d)
    actor_lr: float = 5e-4  # Adam (paper)
    critic_lr: float = 1e-3  # Adam (paper)
    gamma: float = 0.99  # discount
    tau: float = 0.005  # step of the slow copies (paper)
    noise: float = 0.1  # deviation of the exploration (paper)
    smoothing: float = 0.2  # deviation of the target's noise (paper)
    smoothing_limit: float = 0.5  # where it is clipped (paper)
    critics: int = 5  # M, masks of the critic (paper)
    alpha_0: float = 0.1  # of the coefficient of the critics' diversity (paper)
    beta_0: float = 0.1  # of the coefficient of the actors' diversity (paper)
    layer_weights: tuple[float, ...] = (1.0, 2.0, 4.0)  # lambda_l (paper)
    resets: int = 10  # reset intervals of the actors in a run (paper 1M of 10M steps)
    rho: float = 0.5  # share of the unused weights that a reset draws (paper)
    critic_reset: float = 0.08  # share of the run between resets of a critic's mask (paper 800k)
    hidden: int = 128  # width of all networks (paper 256)
    evaluations: int = 12  # in the course of training, and one before
    episodes: int = 5  # of an evaluation (paper 40)
