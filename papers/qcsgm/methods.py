"""The table of score models, and of the errors of Example 1.

Training, evaluation, claims, tables and figures read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import choose
from common.methods import Method, Methods

Family = Literal["toy", "digits", "images", "autoencoder", "gaussian"]  # of tasks
SCORES: tuple[Family, ...] = ("toy", "digits", "images")


@dataclass(frozen=True)
class Model(Method):
    """How a score is parameterised and trained.

    Attributes:
        on: families of tasks that it is for.
        constrained: the score is minus the gradient of an energy.
        regulariser: L_QC by the exact trace or by Hutchinson's estimate; none for U and C.
        activation: one more activation on the network's output, as the authors' C has in 2-D.
        exact: the score of the distribution itself: nothing is trained.
        drawn: its samples and its rotation in 2-D are drawn.
        error: the kind of error of Example 1 that it is.
    """

    on: tuple[Family, ...] = SCORES
    constrained: bool = False
    regulariser: Literal["exact", "estimate"] | None = None
    activation: bool = False
    exact: bool = False
    drawn: bool = False
    error: Literal["rotational", "radial"] | None = None


METHODS = Methods(
    Model("qc", "QC", "method", on=(*SCORES, "autoencoder"), regulariser="exact", drawn=True),
    Model("qc_est", "QC, estimate (K=1)", "variant", regulariser="estimate"),
    Model("u", "U", "baseline", drawn=True),
    Model("c", "C", "baseline", constrained=True, drawn=True),
    Model(
        "c_act", "C, output activation", "baseline", on=("toy",), constrained=True, activation=True
    ),
    Model("exact", "exact score", "reference", on=("toy",), exact=True),
    Model("rotational", "rotational error", "reference", on=("gaussian",), error="rotational"),
    Model("radial", "radial error", "reference", on=("gaussian",), error="radial"),
)


def entry(name: str, task: str, family: Family) -> Model:
    """The entry of a method that is for this task.

    Raises:
        UserError: if there is none of that name.
    """
    here = [other for other, model in METHODS.items() if family in model.on]
    return METHODS[choose(f"method on {task}", name, here)]
