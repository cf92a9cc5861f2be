"""Configurations of runs, and what each kind of task has by default."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError
from papers.aepo.exact import Gaussian, Quadratic
from papers.aepo.method import BETA
from papers.aepo.methods import METHODS
from papers.aepo.task import Task, source_of, task_of

DIFFUSION_STEPS = 1000
Noise = Literal["snr", "uniform"]


@dataclass(frozen=True)
class Setting:
    """Sizes and budgets of a kind of task; the command line changes them."""

    behaviour_steps: int  # updates of the behaviour
    critic_steps: int  # updates of the critic
    steps: int  # updates of the guidance
    hidden: int  # width of all networks
    layers: int  # hidden layers of E_Theta
    batch: int = 256  # actions of an update
    groups: int = 64  # states of an update of the contrastive loss
    support: int = 16  # actions of the behaviour per state
    support_states: int = 8_192  # states that have support actions; -1: all
    lr: float = 3e-4  # Adam's, of guidance and policies
    prior_lr: float = 3e-4  # Adam's, of behaviour and critic
    beta: float = BETA
    solver_steps: int = 15
    samples: int = 10_000  # that a bandit's answer is measured on
    episodes: int = 20  # of an evaluation
    w: tuple[float, ...] = (1.0,)  # guidance scales that are evaluated
    draws: int = 1  # noisy actions of a state and step in the regression on Eq. 7
    noise: Noise = "snr"  # steps of the diffusion that energies are trained at, see drawn_steps


SETTINGS = {
    "gaussian": Setting(
        *(4_000, 1, 2_000, 64, 3), lr=3e-3, prior_lr=3e-3, beta=1.0, solver_steps=40
    ),
    "set": Setting(
        *(4_000, 2_000, 2_000, 64, 3), lr=3e-3, prior_lr=3e-3, solver_steps=40, samples=1_000
    ),
    "control": Setting(5_000, 5_000, 3_000, 128, 3, lr=3e-3, draws=4, w=(0.5, 1.0, 2.0, 4.0)),
    "d4rl": Setting(
        *(600_000, 500_000, 1_000_000, 256, 4),
        **{"groups": 256, "support_states": -1, "episodes": 100},
        w=(0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0),
        noise="uniform",
    ),
    "maze": Setting(
        *(600_000, 500_000, 1_000_000, 256, 4),
        **{"groups": 256, "support": 32, "support_states": -1, "episodes": 100},
        w=(0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0),
        noise="uniform",
    ),
}


@dataclass
class Config:
    """One run of guidance, all seeds at once; None is the kind's own (see SETTINGS)."""

    method: str = "aepo"  # see methods.METHODS
    task: str = "concave"  # see task.TASKS
    seed: tuple[int, ...] = (0,)  # seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    prior: Path | None = None  # run of papers.aepo.pretrain; default: beside this one's stage
    steps: int | None = None  # updates of the guidance
    batch: int | None = None  # actions of an update
    groups: int | None = None  # states of an update of the contrastive loss
    support: int | None = None  # actions of the behaviour per state
    support_states: int | None = None  # states that have support actions; -1: all
    hidden: int | None = None  # width of the networks, the behaviour's as well
    layers: int | None = None  # hidden layers of E_Theta
    lr: float | None = None  # Adam's
    draws: int | None = None  # noisy actions of a state and step in the regression on Eq. 7
    noise: Noise | None = None  # steps that energies are trained at: uniform in log SNR, or plainly
    beta: float | None = None  # inverse temperature; default in control: the method's (methods.py)
    w: tuple[float, ...] | None = None  # guidance scales that are evaluated
    solver_steps: int | None = None  # of DPM-Solver++
    samples: int | None = None  # that a bandit's answer is measured on
    episodes: int | None = None  # of an evaluation
    candidates: int = 1  # samples per state, of which the highest Q acts


@dataclass
class PriorConfig:
    """Behaviour and critic of one data set, all seeds at once; None is the kind's own."""

    task: str = "gauss"  # source of a task
    seed: tuple[int, ...] = (0,)  # seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    critic: str = "iql"  # iql, or support (of QGPO); bandits have Q or its labels
    behaviour_steps: int | None = None  # updates of the behaviour
    critic_steps: int | None = None  # updates of the critic
    batch: int | None = None  # transitions of an update
    support: int | None = None  # actions of the behaviour per next state
    hidden: int | None = None  # width of all networks
    lr: float | None = None  # Adam's
    beta: float | None = None  # inverse temperature of the support critic
    solver_steps: int | None = None  # of DPM-Solver++
    tau: float = 0.7  # expectile
    gamma: float = 0.99  # discount
    polyak: float = 0.005  # step of the target critic


def _with(setting: Setting, cfg: Any) -> Setting:
    given = {k: getattr(cfg, k) for k in vars(setting) if getattr(cfg, k, None) is not None}
    found = replace(setting, **given)
    if min(found.batch, found.support, found.hidden, found.solver_steps - 1) < 1:
        raise UserError("--batch, --support and --hidden have to be 1 or more, --solver-steps 2")
    if found.beta <= 0:
        raise UserError(f"--beta {found.beta:g} is no inverse temperature: give one above 0")
    return found


def resolve(cfg: Config) -> tuple[Task, Setting]:
    """A run's task and its setting with the command line's changes.

    Raises:
        UserError: for an unknown method or task, a method that is none on this kind of task, or a
            target that does not exist.
    """
    task, method = task_of(cfg.task), METHODS[cfg.method]
    if task.bandit and (method.acts == "policy" or method.critic == "support"):
        raise UserError(f"{cfg.method} needs states and rewards; {cfg.task} has none")
    if not task.bandit and method.acts == "exact":
        raise UserError(f"the exact energy of {cfg.task} is not known")
    setting = _with(SETTINGS[task.kind], cfg)
    if setting.draws < 1 or setting.batch % setting.draws:
        raise UserError(f"--batch {setting.batch} is no multiple of --draws {setting.draws}")
    if not task.bandit and cfg.beta is None:
        setting = replace(setting, beta=method.beta)
    if task.kind == "gaussian":
        try:
            Gaussian().target(Quadratic(curvature=task.curvature), setting.beta)
        except ValueError as error:
            raise UserError(f"{cfg.task}: {error}; give a smaller --beta") from error
    return task, setting


def resolve_prior(cfg: PriorConfig) -> tuple[Task, Setting]:
    """The same for a run of pretraining.

    Raises:
        UserError: for an unknown source or critic.
    """
    task = source_of(cfg.task)
    if cfg.critic not in ("iql", "support"):
        raise UserError(f"unknown critic '{cfg.critic}'; choose iql or support")
    if task.bandit and cfg.critic != "iql":
        raise UserError(f"{cfg.task} has no rewards to learn a critic from; leave out --critic")
    setting = SETTINGS[task.kind]
    return task, _with(replace(setting, lr=setting.prior_lr), cfg)
