"""The methods that are compared: what a task owns of the transformer, what it makes of the others.

All have the same decision transformer, the same steps per task and the same evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.compoformer.method import Initial

Growth = Literal["shared", "lora", "masks", "apart"]
Composition = Literal["none", "attention", "uniform", "best", "own"]
Penalty = Literal["none", "l2", "ewc", "mas", "rwalk", "vcl", "lwf"]
Kind = Literal["trained", "untrained", "expert", "mean"]


@dataclass(frozen=True)
class Learner(Method):
    """How tasks are learned one after another.

    Attributes:
        growth: what a task has of its own beside its head: nothing, a low-rank pair, free weights
            of the one network (with those of the tasks before), or a network.
        composition: what the sources give to a new task: nothing (a plain head); features mixed by
            attention over sentences, by equal weights, or of the source whose actions err least on
            the task's data; or "own": the fusion head with zeros in their place.
        reuse: whether a task whose composed policy is good enough adds nothing.
        initial: of queries and keys.
        penalty: what holds the shared weights where earlier tasks left them.
        strength: lambda of the penalty.
        memory: share of every earlier task's episodes that is kept.
        projected: whether memory corrects gradients (A-GEM) instead of being trained on.
        joint: all tasks at once.
        give_back: q, the share of the free weights that a task does not take (masks).
        lr: AdamW's rate that the tuning chose.
        kind: an untrained network is evaluated like a trained one; the scripted expert acts without
            noise, or by the mean of the data's actions, which is what a regression tends to.
    """

    growth: Growth = "shared"
    composition: Composition = "none"
    reuse: bool = False
    initial: Initial = "default"
    penalty: Penalty = "none"
    strength: float = 0.0
    memory: float = 0.0
    projected: bool = False
    joint: bool = False
    give_back: float = 0.0
    lr: float = 1e-3
    kind: Kind = "trained"

    @property
    def composes(self) -> bool:
        """Whether it has anything from the sources."""
        return self.composition != "none"


# what the tuning chose for Grow and Prune, and their ablations take
TUNED: dict[str, dict[str, object]] = {
    "lora": {"lr": 1e-3},
    "masks": {"lr": 1e-3, "give_back": 0.5},
}


def _compo(name: str, label: str, role: str, growth: Growth, **changes: object) -> Learner:
    settings = {"composition": "attention", "reuse": True, **TUNED[growth]}
    made: Learner = Learner(name, label, role, growth, **{**settings, **changes})  # type: ignore[arg-type]
    return made


METHODS = Methods(
    _compo("compo_prune", "CompoFormer-Prune", "method", "masks"),
    _compo("compo_grow", "CompoFormer-Grow", "variant", "lora"),
    _compo("compo_uniform", "Grow, uniform weights", "ablation", "lora", composition="uniform"),
    _compo("compo_own", "Grow, no sources", "ablation", "lora", composition="own", reuse=False),
    _compo("compo_always", "Grow, never reused", "ablation", "lora", reuse=False),
    _compo("compo_best", "Grow, best source", "ablation", "lora", composition="best"),
    _compo("compo_ones", "Grow, maps of ones", "ablation", "lora", initial="ones"),
    _compo("prune_own", "Prune, no sources", "ablation", "masks", composition="own", reuse=False),
    _compo("prune_uniform", "Prune, uniform weights", "ablation", "masks", composition="uniform"),
    Learner("packnet", "PackNet", "baseline", "masks", give_back=0.7),
    Learner("lora", "LoRA", "baseline", "lora"),
    Learner("rehearsal", "rehearsal, 5 %", "baseline", memory=0.05),
    Learner("agem", "A-GEM, 5 %", "baseline", memory=0.05, projected=True),
    Learner("ewc", "EWC", "baseline", penalty="ewc", strength=1.0),
    Learner("l2", "L2", "baseline", penalty="l2", strength=1.0),
    Learner("mas", "MAS", "baseline", penalty="mas", strength=1.0),
    Learner("rwalk", "RWalk", "baseline", penalty="rwalk", strength=1.0),
    Learner("vcl", "VCL", "baseline", penalty="vcl", strength=1.0),
    Learner("lwf", "LwF", "baseline", penalty="lwf", strength=1.0),
    Learner("finetune", "finetuning", "baseline"),
    Learner("untrained", "untrained", "baseline", kind="untrained"),
    Learner("multitask", "all tasks at once", "reference", joint=True),
    Learner("single", "a network per task", "reference", "apart"),
    Learner("expert", "scripted expert", "reference", kind="expert"),
    Learner("mean", "mean of the data's actions", "reference", kind="mean"),
)

__all__ = ["METHODS", "Composition", "Growth", "Kind", "Learner", "Penalty"]
