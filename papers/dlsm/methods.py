"""The table of methods: guided score models, score models, and what they are measured against.

Training, evaluation, claims, tables and figures read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import choose
from common.methods import Method, Methods

MOONS, DIGITS, CIFAR = "moons", "digits", ("cifar10", "cifar100")
TASKS = (MOONS, DIGITS, *CIFAR)


@dataclass(frozen=True)
class Guide(Method):
    """What a method trains, and how its scores are put together.

    Attributes:
        on: tasks that it is for.
        kind: it trains a classifier (stage 2, ``train.py``) or a score model (``train_score.py``);
            None: it trains nothing.
        loss: of the classifier: L_DLSM' + lambda L_CE, L_DLSM' alone, or L_CE.
        per_class: a score model for each class, from that class' data alone.
        scales: the method whose classifier it takes; its run makes the rows of both.
        alpha: factor of the likelihood score; 1 is Bayes' rule.
    """

    on: tuple[str, ...] = TASKS
    kind: Literal["classifier", "score"] | None = None
    loss: Literal["total", "dlsm", "ce"] | None = None
    per_class: bool = False
    scales: str = ""
    alpha: float = 1.0


METHODS = Methods(
    Guide("total", "ours (CE + DLSM)", "method", kind="classifier", loss="total"),
    Guide("dlsm", "DLSM alone", "variant", kind="classifier", loss="dlsm"),
    Guide("base", "base (CE)", "baseline", kind="classifier", loss="ce"),
    Guide("scaling-3", "scaling, α = 3", "baseline", on=(DIGITS,), scales="base", alpha=3.0),
    Guide("scaling-10", "scaling, α = 10", "baseline", scales="base", alpha=10.0),
    Guide("posterior", "posterior SM", "baseline", on=(MOONS,), kind="score", per_class=True),
    Guide("score", "prior score (stage 1)", "reference", kind="score"),
    Guide("oracle", "oracle", "reference", on=(MOONS,)),
    Guide("real", "real training images", "reference", on=(DIGITS, *CIFAR)),
)


def entry(name: str, task: str, kind: Literal["classifier", "score"]) -> Guide:
    """The entry of a method that trains this kind of network on this task.

    Raises:
        UserError: if there is none of that name.
    """
    choose("task", task, TASKS)
    here = [other for other, guide in METHODS.items() if guide.kind == kind and task in guide.on]
    return METHODS[choose(f"method ({kind}, {task})", name, here)]


def served(name: str, task: str) -> dict[str, float]:
    """The methods that a classifier's run makes rows of, with their alpha: itself, and those that
    scale its guidance."""
    scaled = {m: g.alpha for m, g in METHODS.items() if g.scales == name and task in g.on}
    return {name: METHODS[name].alpha, **scaled}
