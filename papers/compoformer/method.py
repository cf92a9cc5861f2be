"""CompoFormer: the policies of earlier tasks, composed by attention over what the tasks are called.

Tasks k = 1 … K come one after another. Task j that got parameters of its own is a *source* for the
later ones: its features h_j [B, T, d] (hidden states of a decision transformer at the state tokens)
and its policy pi_j stay as they are for good. Task k first learns how to mix the sources' actions;
if the mixture is good enough, nothing is added, else the task gets parameters of its own (Grow: a
low-rank pair; Prune: free weights) and learns on top of the mixed features. Equations are numbered
as in NOTES.md; S is the number of sources, e the width of a sentence's vector.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Initial = Literal["default", "ones"]
FREE = -1  # owner of a weight that no task has


# -- the meta-policy ------------------------------------------------------------------------------


class MetaPolicy(nn.Module):
    """Eq. 1: alpha_kj = softmax_j(q_k(e_k) . kappa_k(e_j) / sqrt(width)) over the sources j.

    A task has one of its own; its weights depend on the pair of sentences, not on the state.

    Args:
        text_dim: e, width of a sentence's vector.
        width: of queries and keys (256).
        initial: "default" is nn.Linear's own; "ones" has all weights 1 and biases 0 (authors'
            code): the logit is then sqrt(width) (sum e_k) (sum e_j), and every row of q and kappa
            gets the same gradient, so that both stay of rank one.
    """

    def __init__(self, text_dim: int = 384, width: int = 256, initial: Initial = "default") -> None:
        super().__init__()
        self.query = nn.Linear(text_dim, width)
        self.key = nn.Linear(text_dim, width)
        if initial == "ones":
            for layer in (self.query, self.key):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, task: Tensor, sources: Tensor) -> Tensor:
        """Weights of the sources, which sum to 1. [S]

        Args:
            task: vector of the task's sentence [e].
            sources: those of the sources' sentences [S, e].
        """
        query, keys = self.query(task), self.key(sources)
        return (keys @ query / math.sqrt(len(query))).softmax(-1)


def composed(weights: Tensor, parts: Tensor) -> Tensor:
    """Eq. 2 (actions) and Eq. 4 (features): sum_j alpha_j x_j. [B, T, n]

    Args:
        weights: alpha [S].
        parts: of the sources [S, B, T, n].
    """
    return torch.tensordot(weights, parts, 1)


def sufficient(success: float, threshold: float = 0.8) -> bool:
    """Eq. 3: whether the composed policy is good enough to be the task's own.

    Args:
        success: share of its episodes that reach the goal.
        threshold: eta; 0: always, above 1: never.
    """
    return success >= threshold


class Fusion(nn.Module):
    """Eq. 5: a_k = W_2 LN(GELU(W_1 [h_bar; h_k])), without tanh. Orthogonal, gains sqrt(2) and .01.

    Args:
        width: d of features.
        action_dim: of actions.
    """

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        first, last = nn.Linear(2 * width, width), nn.Linear(width, action_dim)
        for layer, gain in ((first, math.sqrt(2)), (last, 0.01)):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        self.net = nn.Sequential(first, nn.GELU(), nn.LayerNorm(width), last)

    def forward(self, mixed: Tensor, own: Tensor) -> Tensor:
        """Actions [B, T, a] from composed and own features, both [B, T, d]."""
        found: Tensor = self.net(torch.cat((mixed, own), -1))
        return found


# -- Prune: whose a weight is ---------------------------------------------------------------------
# Masks are kept as one number per weight, the task that owns it, so that no two tasks share one.


def mask_of(owner: Tensor, task: int) -> Tensor:
    """Eq. 8: the weights that a task acts with, m_1 or … or m_k; all others are 0. [D] bool

    Args:
        owner: [D], ``FREE`` where no task has the weight.
        task: k, from 0.
    """
    return (owner != FREE) & (owner <= task)


def trainable(owner: Tensor, task: int, taken: bool) -> Tensor:
    """Eq. 6: what a task may change. [D] bool

    Args:
        owner: [D].
        task: k, from 0.
        taken: whether the task has chosen its weights: before, all free ones; after, its own.
    """
    return owner == (task if taken else FREE)


def taken(weights: Tensor, owner: Tensor, task: int, share: float, last: bool) -> Tensor:
    """Eq. 7: the owners after the task has taken its part of the free weights. [D]

    It takes those whose magnitude is at or above the ``share``-quantile of |w| over the free ones.

    Args:
        weights: [D].
        owner: [D], before.
        task: k, from 0.
        share: q, the part of the free weights that is given back.
        last: of the sequence: takes all.
    """
    free = owner == FREE
    if not free.any():
        return owner.clone()
    size = weights.abs()
    cut = quantile(size[free], 0.0 if last else share)
    return torch.where(free & (size >= cut), torch.full_like(owner, task), owner)


def quantile(values: Tensor, share: float) -> Tensor:
    """The quantile with linear interpolation; unlike ``torch.quantile`` of any number of values.

    Args:
        values: [n], n > 0.
        share: in [0, 1].
    """
    ordered = values.sort().values
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], place - low)
