"""The methods that are compared: what aligns, who has which weights, which data a task sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from common.methods import Method, Methods, Role

Align = Literal["vq", "ae", "vae", "pad"]
Masks = Literal["none", "disjoint", "packed"]
Acts = Literal["assembled", "last", "own"]
Data = Literal["one by one", "replay", "at once"]
Kind = Literal["trained", "untrained", "behaviour"]

# What the tuning chose: Adam's rates, and EWC's lambda. VQ-CD's rate is its ablations', Finetune's
# that of all others whose network is everybody's.
MASKED, SHARED, AT_ONCE, SMALL = 1e-3, 1e-3, 1e-3, 1e-3
ELASTIC = 1e3


@dataclass(frozen=True)
class Planner(Method):
    """A planner and how it learns tasks in turn.

    Attributes:
        align: of states and actions where tasks' spaces differ.
        standardised: latents have mean 0 and variance 1 over each task's data.
        masks: whose weights are whose: everybody's, disjoint random shares, or PackNet's.
        convolutions_only: masks are over convolution kernels alone, all else is everybody's.
        own_vectors: each task keeps its own biases and norms.
        acts: with the assembled weights, with the last checkpoint's (under the task's mask), or
            with the task's own checkpoint.
        fresh: Adam's moments begin anew with each task.
        small: a network of its own for each task, with a 1 / I of the weights.
        backbone: of the denoiser.
        diffuses_actions: action latents are diffused with the states', without inverse dynamics.
        data: of a task's updates: its own, every second batch of earlier tasks', or all at once.
        elastic: the penalty's lambda of EWC; 0: none.
        lr: Adam's rate that the tuning chose.
        kind: of an untrained planner inverse dynamics are learned as everybody's, so that what it
            earns is theirs alone; "behaviour" is the data's mean.
    """

    align: Align = "vq"
    standardised: bool = False
    masks: Masks = "none"
    convolutions_only: bool = False
    own_vectors: bool = False
    acts: Acts = "last"
    fresh: bool = False
    small: bool = False
    backbone: Literal["unet", "mlp"] = "unet"
    diffuses_actions: bool = False
    data: Data = "one by one"
    elastic: float = 0.0
    lr: float = SHARED
    kind: Kind = "trained"

    @property
    def told(self) -> bool:
        """Whether a one-hot vector tells the network its task; with masks or alone none need."""
        return self.masks == "none" and not self.small


def _masked(name: str, label: str, role: Role, **changes: Any) -> Planner:
    """VQ-CD with changes."""
    own = {"masks": "disjoint", "own_vectors": True, "acts": "assembled", "lr": MASKED, **changes}
    return Planner(name, label, role, **own)


METHODS = Methods(
    _masked("vq_cd", "VQ-CD", "method"),
    _masked("vq_cd_reset", "VQ-CD, Adam reset, not assembled", "variant", acts="last", fresh=True),
    _masked("not_assembled", "VQ-CD, not assembled", "ablation", acts="last"),
    _masked(
        "kernels_only",
        "VQ-CD, kernels masked alone",
        "ablation",
        convolutions_only=True,
        own_vectors=False,
    ),
    _masked("ae", "AE alignment", "ablation", align="ae"),
    _masked("ae_std", "AE, standardised", "ablation", align="ae", standardised=True),
    _masked("vae", "VAE alignment", "ablation", align="vae"),
    _masked("padding", "padding", "ablation", align="pad"),
    _masked("mlp", "MLP backbone", "ablation", backbone="mlp"),
    _masked("diffused_actions", "actions diffused", "ablation", diffuses_actions=True),
    Planner("own_vectors", "no masks, own norms", "ablation", own_vectors=True),
    Planner("finetune", "Finetune", "baseline"),
    Planner("ewc", "EWC", "baseline", elastic=ELASTIC),
    Planner("replay", "Replay (10 %)", "baseline", data="replay"),
    Planner("packnet", "PackNet", "baseline", masks="packed", own_vectors=True),
    Planner("single", "small network each", "baseline", small=True, acts="own", lr=SMALL),
    Planner("untrained", "planner untrained", "baseline", kind="untrained"),
    Planner("multitask", "Multitask", "reference", data="at once", lr=AT_ONCE),
    Planner("behaviour", "mean of the data", "reference", kind="behaviour"),
)

__all__ = ["METHODS", "Acts", "Align", "Data", "Kind", "Masks", "Planner"]
