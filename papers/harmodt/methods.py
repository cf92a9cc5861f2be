"""The methods that are compared: one decision transformer, its masks and what tells it the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.harmodt.method import Importance

Told = Literal["prompt", "one-hot", "nothing"]
Kind = Literal["trained", "untrained", "expert", "mean"]


@dataclass(frozen=True)
class Policy(Method):
    """What acts.

    Attributes:
        told: what tells it the task: a prompt and the task's own scales, a one-hot vector and the
            task's own scales, or nothing, with scales that all tasks share.
        masks: none, random ones that stay, or learned ones.
        importance: what learned masks keep beside agreement.
        dense: whether masks are moved by dense gradients, or by masked ones (authors' code).
        groups: masks are those of groups of tasks, and a gate tells the group.
        mixed: every batch holds windows of all tasks, as many in all, instead of one's alone.
        surgery: the tasks' gradients of a mixed batch lose what conflicts (PCGrad).
        lr: AdamW's rate that the tuning chose.
        kind: an untrained network is evaluated like a trained one; the scripted expert acts without
            noise, or by the mean of the data's actions, which is what a regression tends to.
    """

    told: Told = "prompt"
    masks: Literal["none", "random", "learned"] = "none"
    importance: Importance = "fisher"
    dense: bool = True
    groups: bool = False
    mixed: bool = False
    surgery: bool = False
    lr: float = 3e-3
    kind: Kind = "trained"


METHODS = Methods(
    Policy("harmo_f", "HarmoDT-F", "method", masks="learned"),
    Policy("harmo_m", "HarmoDT-M", "variant", masks="learned", importance="magnitude"),
    Policy("g_harmo", "G-HarmoDT", "variant", "nothing", "learned", groups=True),
    Policy("harmo_r", "HarmoDT-R", "ablation", masks="random"),
    Policy("harmo_f_code", "HarmoDT-F, masked scores", "ablation", masks="learned", dense=False),
    Policy("g_harmo_r", "G-HarmoDT, random masks", "ablation", "nothing", "random", groups=True),
    Policy("prompt_dt", "Prompt-DT", "baseline"),
    Policy("mtdt", "MTDT", "baseline", "one-hot"),
    Policy("mixed_dt", "Prompt-DT, mixed batches", "baseline", mixed=True),
    Policy("pcgrad_dt", "Prompt-DT, PCGrad", "baseline", mixed=True, surgery=True),
    Policy("dt_agnostic", "DT, no task", "baseline", "nothing"),
    Policy("untrained", "untrained", "baseline", kind="untrained"),
    Policy("expert", "scripted expert", "reference", kind="expert"),
    Policy("mean", "mean of the data's actions", "reference", kind="mean"),
)

__all__ = ["METHODS", "Kind", "Policy", "Told"]
