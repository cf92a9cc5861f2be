"""The environments, and what tasks are called in the rows."""

from __future__ import annotations

from common.marl.environments import make_env
from common.marl.protocol import BatchEnv
from papers.mast.config import Config, Host

HOSTS: dict[Host, str] = {
    "qmix": "QMIX",
    "vdn": "VDN",
    "ow-qmix": "OW-QMIX",
    "cw-qmix": "CW-QMIX",
    "res": "RES-QMIX",
}


SMAX_SCALE = 10.0  # returns of SMAX reach 2, those of SMAC 20, for which the paper's values are


def reward_scale(task: str) -> float:
    """What learners multiply rewards by: Soft Mellowmax's omega and alpha are in units of 1 / Q."""
    return SMAX_SCALE if task.startswith("smax-") else 1.0


def make(task: str, n_envs: int) -> BatchEnv:
    """The environment FAMILY:NAME of common.marl.environments, called FAMILY-NAME here.

    Raises:
        UserError: for an unknown one, with those that there are.
    """
    return make_env(task.replace("-", ":", 1), n_envs)


def task_name(cfg: Config) -> str:
    """E.g. ``smax-3m``, or ``smax-3m, RES-QMIX, shared, S = 0.9`` where it differs from that."""
    own = Config()
    parts = [cfg.task]
    parts += [HOSTS[cfg.host]] * (cfg.host != own.host)
    parts += ["shared"] * (cfg.share != own.share)
    parts += ["pooled"] * (cfg.pool != own.pool)
    parts += [f"S = {cfg.sparsity:g}"] * (cfg.sparsity != own.sparsity)
    parts += [f"lr = {cfg.lr:g}"] * (cfg.lr != own.lr)
    return ", ".join(parts)
