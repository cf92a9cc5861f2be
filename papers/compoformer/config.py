"""The configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.control.metaworld_goals import DATA_GOALS
from common.errors import UserError, choose
from papers.compoformer.methods import METHODS
from papers.compoformer.task import STREAMS, check_goals


@dataclass
class Config:
    """One run: a method on a stream of tasks. Comments give the authors' values (their code)."""

    method: str = "compo_prune"  # see methods.METHODS
    task: str = "ocw7"  # stream of tasks, see task.STREAMS
    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 300  # updates of a task after the warm-up (50,000)
    first_steps: int = 600  # updates of the first task, which has everything to learn (50,000)
    warm_up: int = 150  # updates of the meta-policy, or of a new head, before them (1,000)
    batch: int = 32  # windows of an update (32)
    width: int = 64  # d, of the transformer (256)
    layers: int = 2  # of the transformer (6)
    heads: int = 2  # of the transformer (8)
    dropout: float = 0.0  # of the transformer (0.1)
    window: int = 10  # steps of a window (20)
    pool: int = 2_000  # windows of a task that are drawn from; 0: all (all)
    lr: float | None = None  # AdamW's rate; None: the method's (1e-4)
    meta_lr: float = 1e-3  # Adam's rate in the warm-up (1e-4)
    weight_decay: float = 1e-4  # of AdamW (1e-4)
    cool_down: float = 0.25  # share of a task's updates over which the rate falls to 0 (none)
    clip: float = 0.25  # norm of gradients (0.25)
    text_width: int = 256  # of queries and keys (256)
    encoder: Literal["minilm-l6", "minilm-l12"] = "minilm-l6"  # of sentences (minilm-l12)
    eta: float = 0.8  # success from which on the composed policy is the task's own (0.8)
    rank: int = 8  # r of a low-rank pair, which is scaled by 1 / r (8)
    give_back: float | None = None  # q of masks; None: the method's (0.5; PackNet 0.7)
    choose_at: float = 0.8  # share of a task's updates after which it takes its weights (0.8)
    strength: float | None = None  # lambda of a penalty; None: the method's
    samples: int = 128  # windows from which a Fisher information or a sensitivity is estimated
    goals: int = 10  # episodes of an evaluation and of a sufficiency test, a goal each (10)
    first_goal: int = DATA_GOALS  # the first goal of evaluations; the tuning's are others
    test_goal: int = DATA_GOALS + 10  # the first goal of sufficiency tests (those of evaluation)
    episodes: int | None = None  # of each task's data; None: the stream's
    labels: tuple[str, ...] = ()  # fields whose values the rows carry (a grid's)

    @property
    def rate(self) -> float:
        """AdamW's rate."""
        return METHODS[self.method].lr if self.lr is None else self.lr

    @property
    def given_back(self) -> float:
        """q of masks."""
        return METHODS[self.method].give_back if self.give_back is None else self.give_back

    @property
    def lam(self) -> float:
        """lambda of a penalty."""
        return METHODS[self.method].strength if self.strength is None else self.strength

    def budgets(self) -> list[int]:
        """Updates of each task, warm-up included; of all at once in one number."""
        n = len(STREAMS[self.task].tasks)
        each = [self.warm_up + self.first_steps, *[self.warm_up + self.steps] * (n - 1)]
        return [sum(each)] if METHODS[self.method].joint else each


def check(cfg: Config) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: for an unknown method or stream, or numbers that do not fit together.
    """
    _ = METHODS[cfg.method]
    choose("task", cfg.task, STREAMS)
    if cfg.width % cfg.heads:
        raise UserError(f"--width {cfg.width} is no multiple of --heads {cfg.heads}")
    if min(cfg.steps, cfg.first_steps, cfg.warm_up) < 1:
        raise UserError("--steps, --first-steps and --warm-up are 1 or more")
    for name in ("cool_down", "give_back", "choose_at"):
        value = getattr(cfg, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name.replace('_', '-')} {value} is no share")
    if cfg.lam < 0:
        raise UserError(f"--strength {cfg.lam} is below 0")
    check_goals((cfg.first_goal, cfg.test_goal), cfg.goals, DATA_GOALS)
