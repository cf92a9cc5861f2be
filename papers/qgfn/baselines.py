"""What the mixtures are compared with, and the settings of all methods: one loop trains them all.

TB alone at the same reward exponent and at four times it (the usual way to greediness), Q alone
(a DQN that explores by random actions), and the untrained uniform policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from papers.qgfn.method import restricted


@dataclass(frozen=True)
class Method:
    """Which networks learn, and which policy gathers the trajectories."""

    mixture: str | None = None  # name in method.MIXTURES; None: P_F (or uniform) alone
    p: float = 0.0  # greediness at the end of the ramp
    learns_pf: bool = True
    learns_q: bool = True
    beta_factor: float = 1.0  # the task's reward exponent times this
    beta: float | None = None  # the reward exponent itself
    epsilon: float = 0.0  # uniformly random actions; none while a mixture is active [code]
    n: int | None = None  # steps of the Q target; None: the trajectory's length

    @property
    def ramps(self) -> bool:
        """Whether p rises from 0 (a DQN is greedy from the start)."""
        return self.mixture is not None and self.learns_pf


GFN_EPSILON = 5e-4  # random actions of a GFlowNet alone on strings [code]

METHODS: dict[str, Method] = {
    "p-greedy": Method("p-greedy", 0.4),  # [code: 0.4]
    "p-quantile": Method("p-quantile", 0.8),  # [code: 0.8]
    "p-of-max": Method("p-of-max", 0.9),  # no value given; 0.9
    "tb": Method(learns_q=False, epsilon=GFN_EPSILON),
    "tb-4beta": Method(learns_q=False, epsilon=GFN_EPSILON, beta_factor=4.0),
    "tb-beta3": Method(learns_q=False, epsilon=GFN_EPSILON, beta=3.0),  # the paper's beta on bits
    "dqn": Method("p-greedy", 1.0, learns_pf=False, epsilon=0.05),
    "uniform": Method(learns_pf=False, learns_q=False),
    "p-of-max-n1": Method("p-of-max", 0.9, n=1),
    "p-of-max-n3": Method("p-of-max", 0.9, n=3),
}
VARIANTS = ("p-greedy", "p-quantile", "p-of-max")


def p_quantile_per_type(
    logits: Tensor, q: Tensor, mask: Tensor, p: float, sizes: tuple[int, ...]
) -> Tensor:
    """The authors' p-quantile: a quantile within each action type, masked entries included.

    Documented variant, used nowhere: of strings, the letters to append and those to prepend each
    keep their own top 1 - p, and a type with one entry (stop) is never pruned.

    Args:
        sizes: number of actions of each type, in the order of the last axis.
    """
    keep = [
        part >= torch.quantile(part, p, dim=-1, keepdim=True) for part in q.split(list(sizes), -1)
    ]
    return restricted(logits, mask & torch.cat(keep, -1))
