"""The configurations of runs: of a policy and its generators, and of what is tuned with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.control.sequences import Where
from common.errors import UserError, choose
from papers.prompt_diffuser.methods import GRADIENTS, METHODS
from papers.prompt_diffuser.suites import Quality
from papers.prompt_diffuser.task import FEW, WORLDS, task_of

CANDIDATES = 8  # perturbed prompts of an iteration of Prompt-Tuning DT
SIGMA = 0.05  # of the perturbations
BACKWARD = 2  # a backward pass counts as so many calls of the policy
POOLS: tuple[Quality, ...] = ("expert", "random")
KINDS = ("diffusion", "regression")  # of generators


@dataclass
class PolicyConfig:
    """A policy and the generators that are trained on prompts beforehand; (Prompt-DT's code)."""

    task: str = "point"  # world, see task.WORLDS
    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 700  # updates of the policy (50,000)
    batch: int = 64  # windows of an update, tasks drawn uniformly (16 of each task)
    width: int = 64  # of the transformer (128)
    layers: int = 2  # of the transformer (3)
    heads: int = 2  # of the transformer (1)
    dropout: float = 0.0  # of the transformer (0.1)
    window: int = 10  # K, steps of a window (20)
    prompt: int = 5  # K*, steps of a prompt (5)
    where: Where = "random"  # segments of demonstrations that are prompts, or their end (end)
    lr: float = 1e-3  # AdamW's rate (1e-4)
    weight_decay: float = 1e-4  # of AdamW (1e-4)
    warm_up: int = 50  # updates over which the rate rises (10,000)
    clip: float = 0.25  # norm of gradients (0.25)
    max_steps: int | None = None  # rows of the embedding of time steps; None: the limit (1,000)
    demonstrations: int | None = None  # episodes of each training task; None: the world's
    prior_steps: int = 2_000  # updates of each generator; not in the paper
    prior_batch: int = 128  # prompts of an update
    prior_lr: float = 1e-3  # Adam's rate
    hidden: int = 256  # units of the generators' hidden layers
    diffusion_steps: int = 10  # N
    pools: tuple[Quality, ...] = POOLS  # qualities of prompts that generators are trained on
    kinds: tuple[str, ...] = KINDS  # of generators: diffusion, regression


@dataclass
class Config:
    """What is tuned on every test task of a task, with the policies of several seeds."""

    method: str = "prompt_diffuser"  # see methods.METHODS
    task: str = "point-random"  # see task.TASKS
    seed: tuple[int, ...] = (0,)  # seeds, each with its own policy
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    policy: Path | None = None  # folder of runs of papers.prompt_diffuser.pretrain, by seed
    steps: int = 150  # updates on each test task
    batch: int = 16  # windows of an update
    prompt_batch: int = 64  # prompts of an update of L_DM
    few: int = FEW  # episodes of a test task
    lr: float | None = None  # Adam's rate; None: the method's
    lam: float = 1.0  # lambda, weight of the guidance
    episodes: int = 20  # of the evaluation of each test task
    labels: tuple[str, ...] = ()  # fields whose values the rows carry (a grid's)

    @property
    def rate(self) -> float:
        """Adam's rate."""
        return METHODS[self.method].lr if self.lr is None else self.lr

    @property
    def updates(self) -> int:
        """Updates on each test task: all get the same number of calls of the policy."""
        method = METHODS[self.method]
        if method.tunes == "search":
            return max(1, self.steps * (1 + BACKWARD) // CANDIDATES)
        return method.longer * self.steps if method.tunes in GRADIENTS else 0

    @property
    def calls(self) -> int:
        """Calls of the policy with ``batch`` windows on each test task."""
        method = METHODS[self.method]
        if method.tunes == "search":
            return self.updates * CANDIDATES
        return 0 if method.rule == "denoising" else self.updates * (1 + BACKWARD)


def check(cfg: Config) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: for an unknown method or task, or numbers that make no sense.
    """
    _ = METHODS[cfg.method]
    task_of(cfg.task)
    for name in ("batch", "prompt_batch", "few", "episodes"):
        if getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: give 1 or more")
    if cfg.rate <= 0:
        raise UserError(f"--lr {cfg.lr:g} would not move anything downhill; give more than 0")
    if cfg.steps < 0:
        raise UserError(f"--steps {cfg.steps}: give 0 or more")
    if cfg.lam < 0:
        raise UserError(f"--lam {cfg.lam:g} would climb the guidance; give 0 or more")


def check_policy(cfg: PolicyConfig) -> None:
    """The same for a policy.

    Raises:
        UserError: for an unknown world or kind of generator, or numbers that do not fit.
    """
    world = WORLDS[choose("world", cfg.task, WORLDS)]
    for kind in cfg.kinds:
        choose("kind of generator", kind, KINDS)
    if cfg.width % cfg.heads:
        raise UserError(f"--width {cfg.width} is no multiple of --heads {cfg.heads}")
    if cfg.prompt > world.suite.limit:
        raise UserError(
            f"--prompt {cfg.prompt}: episodes of {cfg.task} have {world.suite.limit} steps"
        )
    if cfg.max_steps is not None and cfg.max_steps < world.suite.limit:
        raise UserError(
            f"--max-steps {cfg.max_steps}: episodes of {cfg.task} have {world.suite.limit} steps"
        )
    if cfg.diffusion_steps < 1:
        raise UserError(f"--diffusion-steps {cfg.diffusion_steps}: give 1 or more")
