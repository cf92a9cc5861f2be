"""One gradient update: QMIX's target and loss, with the memory or a conservative term in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.marl.episodes import Batch
from common.marl.targets import greedy, masked_mean, taken, td_lambda
from papers.ovmse.baselines import (
    cfcql_penalty,
    counterfactual,
    macql_penalty,
    moderate_weights,
)
from papers.ovmse.config import Learning
from papers.ovmse.method import memory_target
from papers.ovmse.methods import Penalty
from papers.ovmse.networks import Values

Q_OFF = "q_off"  # name of the memory among what episodes hold


@dataclass(frozen=True)
class Conservative:
    """The term that keeps Q_tot down where the data don't go.

    Attributes:
        kind: which.
        weight: alpha.
        samples: joint actions of MACQL.
        temperature: of the moderate form.
        clone: the behaviour, for the moderate form.
        generator: of MACQL's joint actions.
    """

    kind: Penalty = "none"
    weight: float = 0.0
    samples: int = 100
    temperature: float = 0.0
    clone: Values | None = None
    generator: torch.Generator | None = None


@dataclass
class Loss:
    """The loss of a batch and what it was made of.

    Attributes:
        loss: 1/2 (Q_tot - y)^2 + alpha penalty. [].
        q_tot: of the actions taken. [B, T].
        y_td: the target of plain Q-learning. [B, T].
        y: the target. [B, T].
        penalty: the conservative term. [B, T].
    """

    loss: Tensor
    q_tot: Tensor
    y_td: Tensor
    y: Tensor
    penalty: Tensor


@torch.no_grad()
def td_target(
    utilities: Tensor, target: Values, batch: Batch, cfg: Learning, scale: float
) -> Tensor:
    """y_TD: lambda returns, the next value by the target network at the online network's best.

    Args:
        utilities: of the online agents. [B, T + 1, N, A].
        scale: of the rewards.

    Returns:
        [B, T].
    """
    best = greedy(utilities[:, 1:], batch.avail[:, 1:])
    following = target.mix(taken(target.utilities(batch)[:, 1:], best), batch.state[:, 1:])
    reward = scale * batch.reward
    return td_lambda(reward, batch.terminated, batch.filled, following, cfg.gamma, cfg.lam)


def penalty_of(
    term: Conservative, values: Values, batch: Batch, q: Tensor, q_tot: Tensor
) -> Tensor:
    """The conservative term of each step. [B, T]."""
    state, avail = batch.state[:, :-1], batch.avail[:, :-1]
    if term.kind == "none":
        return torch.zeros_like(q_tot)
    if term.kind == "macql":
        assert term.generator is not None
        return macql_penalty(values, q, avail, state, q_tot, term.samples, term.generator)
    others = counterfactual(values, q, batch.actions, state)
    weights = None
    if term.kind == "moderate":
        assert term.clone is not None
        with torch.no_grad():
            logits = term.clone.utilities(batch)[:, :-1]
        weights = moderate_weights(others, avail, logits, term.temperature)
    return cfcql_penalty(others, avail, q_tot, weights)


def loss_of(
    values: Values,
    target: Values,
    batch: Batch,
    cfg: Learning,
    scale: float,
    *,
    memory: float = 0.0,
    term: Conservative = Conservative(),
) -> Loss:
    """The loss of a batch.

    Args:
        scale: of the rewards.
        memory: lambda_m; above 0 the batch holds ``q_off``.
        term: what is added.
    """
    utilities = values.utilities(batch)
    q = utilities[:, :-1]
    q_tot = values.mix(taken(q, batch.actions), batch.state[:, :-1])
    y = y_td = td_target(utilities, target, batch, cfg, scale)
    if memory > 0:
        y = memory_target(y_td, batch.extra[Q_OFF], memory)
    penalty = penalty_of(term, values, batch, q, q_tot)
    each = 0.5 * (q_tot - y).square() + term.weight * penalty
    return Loss(masked_mean(each, batch.filled), q_tot, y_td, y, penalty)


def update(
    values: Values,
    target: Values,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    cfg: Learning,
    scale: float,
    *,
    memory: float = 0.0,
    term: Conservative = Conservative(),
) -> dict[str, float]:
    """One step of Adam on the loss; what was seen, as means over the steps that happened."""
    found = loss_of(values, target, batch, cfg, scale, memory=memory, term=term)
    descend(found.loss, values, optimizer, cfg.clip)
    seen = {
        "loss": found.loss.detach(),
        "q": masked_mean(found.q_tot.detach(), batch.filled),
        "target": masked_mean(found.y_td, batch.filled),
        "lift": masked_mean(found.y - found.y_td, batch.filled),
    }
    if term.kind != "none":
        seen["gap"] = masked_mean(found.penalty.detach(), batch.filled)
    if Q_OFF in batch.extra:
        above = batch.extra[Q_OFF] > found.y_td
        seen["remembered"] = masked_mean(above.float(), batch.filled)
    return {name: float(value) for name, value in seen.items()}


def descend(
    loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, clip: float
) -> None:
    """A step against the gradient, whose norm is clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in network.parameters() if p.grad is not None], clip)
    optimizer.step()


def adam(network: nn.Module, lr: float) -> torch.optim.Adam:
    """The optimiser of every stage; each stage begins with a new one."""
    return torch.optim.Adam(network.parameters(), lr, eps=1e-5, fused=True)


__all__ = [
    "Q_OFF",
    "Conservative",
    "Loss",
    "adam",
    "descend",
    "loss_of",
    "penalty_of",
    "td_target",
    "update",
]
