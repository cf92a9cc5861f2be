"""The methods that are compared: Kaleidoscope, its parts taken away, other ways of sharing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from common.errors import choose
from common.methods import Method, Methods

Sharing = Literal["masks", "fixed", "full", "none", "heads", "clusters", "script"]
Host = Literal["qmix", "matd3", "probe"]


@dataclass(frozen=True)
class Learner(Method):
    """How the agents' networks hang together, and what of Kaleidoscope there is.

    Attributes:
        sharing: learnable masks of one network; random masks that stay as drawn; one network; a
            network each; one trunk with a last layer each; a network for each cluster of agents;
            or no network at all, a policy written by hand.
        ids: agents see their number (nobody does in the probe but FuPS + ID).
        diversity: masks are driven apart.
        resets: weights that nobody uses are drawn anew.
        form: how a mask cuts.
        critics: masks make an ensemble of critics out of one (MATD3); else there are two.
        start: thresholds as drawn; the same for all agents; the same, and they never move.
        hosts: the algorithms it is defined for.
    """

    sharing: Sharing = "masks"
    ids: bool = True
    diversity: bool = False
    resets: bool = False
    form: Literal["soft", "hard"] = "soft"
    critics: bool = False
    start: Literal["drawn", "equal", "frozen"] = "drawn"
    hosts: tuple[Host, ...] = field(default=("qmix",))


OURS: dict[str, Any] = {"diversity": True, "resets": True, "critics": True}
EVERYWHERE: tuple[Host, ...] = ("qmix", "matd3", "probe")
TOGETHER: tuple[Host, ...] = ("qmix", "probe")

METHODS = Methods(
    Learner("kaleidoscope", "Kaleidoscope", "method", hosts=EVERYWHERE, **OURS),
    Learner("kaleidoscope-noid", "Kaleidoscope, no id", "variant", ids=False, **OURS),
    Learner(
        *("kaleidoscope-hard", "Kaleidoscope, hard masks", "variant"),
        hosts=TOGETHER,
        form="hard",
        **OURS,
    ),
    Learner("no-diversity", "− diversity", "ablation", hosts=TOGETHER, resets=True),
    Learner("no-reset", "− reset", "ablation", diversity=True),
    Learner(
        *("no-critic-masks", "− critic masks", "ablation"),
        hosts=("matd3",),
        **{**OURS, "critics": False},
    ),
    Learner("equal-start", "− diversity, equal masks", "ablation", hosts=("probe",), start="equal"),
    Learner("frozen", "equal masks, frozen", "ablation", hosts=("probe",), start="frozen"),
    Learner("no-diversity-noid", "− diversity, no id", "ablation", ids=False, resets=True),
    Learner("fups", "FuPS", "baseline", "full", ids=False, hosts=TOGETHER),
    Learner("fups-id", "FuPS + ID", "baseline", "full", hosts=EVERYWHERE),
    Learner("nops", "NoPS", "baseline", "none", ids=False, hosts=EVERYWHERE),
    Learner("multih", "MultiH", "baseline", "heads", ids=False, hosts=TOGETHER),
    Learner("snp", "SNP", "baseline", "fixed", hosts=TOGETHER),
    Learner("seps", "SePS", "baseline", "clusters", ids=False),
    Learner("random", "random play", "reference", "script"),
    Learner("one-prey", "script: all after one prey", "reference", "script"),
    Learner("nearest", "script: each after the nearest", "reference", "script"),
    Learner("assigned", "script: shared out", "reference", "script"),
)


def entry(name: str, host: Host) -> Learner:
    """The method of that name.

    Raises:
        UserError: for an unknown one, or one that the host does not know.
    """
    method = METHODS[name]
    choose(f"method of {host}", name, [m for m in METHODS if host in METHODS[m].hosts])
    return method
