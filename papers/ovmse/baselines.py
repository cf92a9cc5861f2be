"""What is learnt from data: conservative penalties (CFCQL, MACQL) and behaviour cloning.

CFCQL: Shao et al. 2023, "Counterfactual Conservative Q Learning for Offline Multi-agent
Reinforcement Learning"; MACQL is its baseline that treats the team as one agent.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from common.marl.targets import masked, taken
from common.marl.weighted import deviations
from papers.ovmse.networks import Values


def counterfactual(values: Values, q: Tensor, actions: Tensor, state: Tensor) -> Tensor:
    """Q_tot where one agent leaves the joint action and the others keep to it.

    Args:
        values: with the mixer.
        q: utilities. [B, T, N, A].
        actions: of the data. [B, T, N].
        state: [B, T, S].

    Returns:
        [B, T, N, A]: entry (i, a) is Q_tot(s, (a, u_{-i})).
    """
    N, A = q.shape[-2:]
    return values.mix_each(deviations(q, actions).flatten(-3, -2), state).unflatten(-1, (N, A))


def cfcql_penalty(others: Tensor, avail: Tensor, q_tot: Tensor, weights: Tensor | None) -> Tensor:
    """sum_i w_i log sum_a exp Q_tot(s, (a, u_{-i})) - Q_tot(s, u), over available actions.

    Args:
        others: of ``counterfactual``. [B, T, N, A].
        avail: [B, T, N, A].
        q_tot: of the data's actions. [B, T].
        weights: w_i, which add up to 1; None: 1 / n. [B, T, N].

    Returns:
        [B, T]; 0 or above.
    """
    each = masked(others, avail).logsumexp(-1)  # [B, T, N]
    mean = each.mean(-1) if weights is None else (weights * each).sum(-1)
    return mean - q_tot


@torch.no_grad()
def moderate_weights(others: Tensor, avail: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """w = softmax_i(temperature KL(mu_i || beta_i)), mu_i = softmax_a Q_tot(s, (a, u_{-i})).

    Args:
        others: of ``counterfactual``. [B, T, N, A].
        avail: [B, T, N, A].
        logits: of the cloned behaviour beta. [B, T, N, A].
        temperature: 0 gives 1 / n; the larger, the more it falls to who leaves the data most.

    Returns:
        [B, T, N].
    """
    log_mu = masked(others, avail).log_softmax(-1)
    log_beta = masked(logits, avail).log_softmax(-1)
    difference = torch.where(avail, log_mu - log_beta, 0.0)
    return (temperature * (log_mu.exp() * difference).sum(-1)).softmax(-1)


def macql_penalty(
    values: Values,
    q: Tensor,
    avail: Tensor,
    state: Tensor,
    q_tot: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """log sum_{u' in S} exp Q_tot(s, u') - Q_tot(s, u) over joint actions S drawn uniformly.

    Drawn from what is available: nothing has to be left out of the sum.

    Args:
        q, avail: [B, T, N, A].
        state: [B, T, S].
        q_tot: of the data's actions. [B, T].
        samples: how many.
        generator: of the joint actions.
    """
    scores = torch.rand(*q.shape[:2], samples, *q.shape[2:], generator=generator, device=q.device)
    drawn = scores.masked_fill(~avail.unsqueeze(2), -1.0).argmax(-1)  # [B, T, K, N]
    each = taken(q.unsqueeze(2).expand(*drawn.shape, -1), drawn)
    return values.mix_each(each, state).logsumexp(-1) - q_tot


def cloning_loss(logits: Tensor, avail: Tensor, actions: Tensor, filled: Tensor) -> Tensor:
    """Mean negative log-likelihood of the data's actions over agents and steps.

    Args:
        logits, avail: [B, T, N, A].
        actions: [B, T, N].
        filled: [B, T].
    """
    log_beta = masked(logits, avail).log_softmax(-1)
    nll = F.nll_loss(log_beta.flatten(0, 2), actions.flatten(), reduction="none")
    return (nll.view(actions.shape).mean(-1) * filled).sum() / filled.sum()


__all__ = [
    "cfcql_penalty",
    "cloning_loss",
    "counterfactual",
    "macql_penalty",
    "moderate_weights",
]
