"""The methods that are compared: what each learns, by which loss, at which rate.

A new one is added here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.methods import Method, Methods

FAST, SLOW = 5e-3, 1e-3  # Adam's rates; 1e-4 was tried as well and never chosen
TUNED = ("g1", "g2", "g3", "g4", "g4-small", "rna", "qed")


@dataclass(frozen=True)
class FlowMethod(Method):
    """What a network has heads for, and the loss that trains them.

    Attributes:
        objective: ``bn`` (Eq. 2) or one of ``common.gfn.objectives``; None: not trained.
        flow: it learns log F(s).
        backward: it learns a backward policy; it is then asked about visited states only, while
            the others need all parents of these.
        streams: the allocation and the state flow have a hidden layer each.
        molecules: it can be run on fragments (their network has streams whatever the method).
        slow: the tuned tasks on which its rate is the slower one.
    """

    objective: str | None = None
    flow: bool = False
    backward: bool = False
    streams: bool = False
    molecules: bool = True
    slow: tuple[str, ...] = ()

    @property
    def factorised(self) -> bool:
        """Edge flows are a state flow times an allocation (Eq. 1)."""
        return self.objective == "bn"

    @property
    def own_log_Z(self) -> bool:
        """log Z is a parameter of its own."""
        return self.objective == "tb"

    def rate(self, task: str) -> float:
        """Learning rate of Adam; the slower one where nothing was tuned."""
        tuned = self.objective is not None and task in TUNED
        return FAST if tuned and task not in self.slow else SLOW


METHODS = Methods(
    FlowMethod("bn", "BN", "method", "bn", flow=True, streams=True, slow=("g2",)),
    FlowMethod(
        "bn-flat", "BN-flat", "ablation", "bn", flow=True, molecules=False, slow=("g4", "qed")
    ),
    FlowMethod("fm", "FM", "baseline", "fm", slow=("g4", "g4-small")),
    FlowMethod("db", "DB", "baseline", "db", flow=True, backward=True),
    FlowMethod("tb", "TB", "baseline", "tb", backward=True, slow=("g2", "g3")),
    FlowMethod("stb", "SubTB(0.9)", "baseline", "stb", flow=True, backward=True),
    FlowMethod("uniform", "uniform", "baseline", molecules=False),
)
TRAINED = tuple(name for name in METHODS if METHODS[name].objective)
