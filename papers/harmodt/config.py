"""The configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.control.metaworld_goals import DATA_GOALS
from common.errors import UserError, choose
from papers.harmodt.methods import METHODS
from papers.harmodt.task import SUITES


@dataclass
class Config:
    """One run: a method on a suite of tasks. Comments give the authors' values (their code)."""

    method: str = "harmo_f"  # see methods.METHODS
    task: str = "mt6-sub"  # suite of tasks and quality of their data, see task.SUITES
    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 3_000  # T, iterations, each on one task (1,000,000)
    batch: int = 32  # windows of an iteration (8)
    width: int = 64  # of the transformer (256)
    layers: int = 2  # of the transformer (6)
    heads: int = 2  # of the transformer (8)
    dropout: float = 0.0  # of the transformer (0.1)
    window: int = 10  # K, steps of a window (20)
    prompt: int = 5  # steps of a prompt (5)
    prompt_episodes: int = 5  # of highest return, whose ends are the prompts of training
    lr: float | None = None  # AdamW's rate; None: the method's (1e-4)
    weight_decay: float = 1e-4  # of AdamW (1e-4)
    warm_up: int = 200  # iterations over which the rate rises (10,000)
    cool_down: float = 0.25  # share of the iterations over which the rate falls to 0 (none)
    clip: float = 0.25  # norm of gradients (0.25)
    sparsity: float = 0.2  # S (0.2)
    interval: int = 75  # t_m, iterations between changes of the masks (500)
    flip_share: float = 0.01  # eta_max as a share of D (100 of 4,739,072)
    lam: float = 10.0  # lambda, weight of agreement (10)
    grouping: float = 0.1  # share of the iterations after which groups are formed (G-HarmoDT)
    gate_lr: float = 1e-3  # Adam's rate for the gate
    gate_batch: int = 8  # windows of each task in a step of the gate
    conflict_batch: int = 256  # windows of each task on which conflict is measured
    goals: int = 20  # evaluation: goals per task (10)
    first_goal: int = DATA_GOALS  # the first of them; the tuning's are others
    acts: bool = True  # evaluation: whether the policy acts; if not, its errors are all there is
    episodes: int | None = None  # of each task's data; None: the suite's
    labels: tuple[str, ...] = ()  # fields whose values the rows carry (a grid's)

    @property
    def rate(self) -> float:
        """AdamW's rate."""
        return METHODS[self.method].lr if self.lr is None else self.lr


def check(cfg: Config) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: for an unknown method or suite, or numbers that do not fit together.
    """
    _ = METHODS[cfg.method]
    choose("task", cfg.task, SUITES)
    if cfg.width % cfg.heads:
        raise UserError(f"--width {cfg.width} is no multiple of --heads {cfg.heads}")
    if not 0 <= cfg.sparsity < 1:
        raise UserError(f"--sparsity {cfg.sparsity} is not in [0, 1)")
    if not 0 <= cfg.flip_share <= 1:
        raise UserError(f"--flip-share {cfg.flip_share} is no share")
    if not 0 <= cfg.cool_down <= 1:
        raise UserError(f"--cool-down {cfg.cool_down} is no share of the iterations")
    if not 0 < cfg.grouping < 1:
        raise UserError(f"--grouping {cfg.grouping} is no share of the iterations")
    if METHODS[cfg.method].groups and cfg.steps <= len(SUITES[cfg.task].tasks):
        raise UserError(
            f"--steps {cfg.steps}: groups are formed after a step of each of the "
            f"{len(SUITES[cfg.task].tasks)} tasks; take more"
        )
    if cfg.first_goal < DATA_GOALS:
        raise UserError(
            f"--first-goal {cfg.first_goal}: goals below {DATA_GOALS} are those of the data"
        )
