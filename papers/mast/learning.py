"""One gradient update: targets of a host algorithm, its loss, and the change of topology."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.marl.episodes import Batch
from common.marl.mixers import QMix
from common.marl.targets import (
    discounted_returns,
    greedy,
    masked,
    masked_mean,
    n_step,
    one_step,
    taken,
    td_lambda,
)
from common.marl.weighted import (
    central_weights,
    deviations,
    optimistic_weights,
    softmax_value,
)
from papers.mast.config import Config
from papers.mast.method import Topology, drop_share, lambda_at, soft_mellowmax
from papers.mast.methods import Operator, Sparse
from papers.mast.networks import Values
from papers.mast.task import reward_scale

OTHER_WEIGHT = 0.1  # weighted QMIX's alpha
RES_BETA, RES_WEIGHT = 0.05, 0.05  # inverse temperature and weight of RES


@dataclass
class Loss:
    """The loss of a batch and what it was made of.

    Attributes:
        loss: to be minimised. [].
        q_tot: of the actions taken. [B, T].
        target: y. [B, T].
        following: V(s_{t+1}), the value of what a step led to. [B, T].
    """

    loss: Tensor
    q_tot: Tensor
    target: Tensor
    following: Tensor


def next_utilities(
    online: Tensor, target: Tensor, avail: Tensor, operator: Operator, cfg: Config
) -> Tensor:
    """The target's value of each agent at the next moment. [B, T, N, A] each -> [B, T, N]."""
    if operator == "sm":
        return soft_mellowmax(target, avail, cfg.alpha, cfg.omega)
    if operator == "max":
        return masked(target, avail).amax(-1)
    return taken(target, greedy(online, avail))


def following_value(
    cfg: Config,
    operator: Operator,
    values: list[Values],
    targets: list[Values],
    batch: Batch,
    utilities: Tensor,
) -> Tensor:
    """V(s_{t+1}) of the host, by the target networks. [B, T].

    Args:
        utilities: of the online agents, every moment. [B, T + 1, N, A].
    """
    state, avail, online = batch.state[:, 1:], batch.avail[:, 1:], utilities[:, 1:].detach()
    source = targets[-1]  # weighted QMIX: the central one
    q = source.utilities(batch)[:, 1:]
    best = next_utilities(online, q, avail, operator, cfg)
    if cfg.host != "res":
        out: Tensor = source.mixer(best, state)
        return out
    # RES: joint actions in which one agent leaves the greedy one, weighted by the online Q_tot
    at = greedy(online, avail)
    base = deviations(q, at)
    if operator == "sm":  # the others' greedy utilities give way to Soft Mellowmax
        own = torch.eye(q.shape[-2], dtype=torch.bool, device=q.device)[:, None, :]
        base = torch.where(own, base, best[..., None, None, :])
    mixers: list[QMix] = [values[0].mixer, source.mixer]  # type: ignore[list-item]
    q_online = mixers[0].each(deviations(online, at).flatten(-3, -2), state)
    return softmax_value(avail, q_online, mixers[1].each(base.flatten(-3, -2), state), RES_BETA)


def targets_of(method: Sparse, cfg: Config, batch: Batch, following: Tensor, step: int) -> Tensor:
    """y of every step; ``step`` counts environment steps (Eq. 5 and 6). [B, T]."""
    reward = reward_scale(cfg.task) * batch.reward
    given = (reward, batch.terminated, batch.filled, following)
    switch = int(cfg.switch * cfg.steps)
    if method.target == "lambda":
        return td_lambda(*given, cfg.gamma, cfg.lam)
    if method.target == "hybrid":
        return td_lambda(*given, cfg.gamma, lambda_at(step, switch, cfg.lam))
    if method.target == "n-step" and step >= switch:
        return n_step(*given, cfg.gamma, cfg.n_steps)
    return one_step(reward, batch.terminated, following, cfg.gamma)


def loss_of(
    method: Sparse,
    cfg: Config,
    values: list[Values],
    targets: list[Values],
    batch: Batch,
    step: int,
) -> Loss:
    """The host's loss on a batch with the method's targets."""
    state = batch.state[:, :-1]
    utilities = values[0].utilities(batch)
    q_tot = values[0].mixer(taken(utilities[:, :-1], batch.actions), state)
    with torch.no_grad():
        following = following_value(cfg, method.operator, values, targets, batch, utilities)
        y = targets_of(method, cfg, batch, following, step)
    error = (q_tot - y).square()
    extra: Tensor | float = 0.0
    if cfg.host in ("ow-qmix", "cw-qmix"):
        central = values[1].utilities(batch)[:, :-1]
        q_central = values[1].mixer(taken(central, batch.actions), state)
        extra = masked_mean((q_central - y).square(), batch.filled)
        with torch.no_grad():
            if cfg.host == "ow-qmix":
                weights = optimistic_weights(q_tot, y, OTHER_WEIGHT)
            else:
                at = greedy(utilities[:, :-1], batch.avail[:, :-1])
                best = targets[1].mixer(taken(targets[1].utilities(batch)[:, :-1], at), state)
                same = (at == batch.actions).all(-1)
                weights = central_weights(same, y, best, OTHER_WEIGHT)
        error = weights * error
    if cfg.host == "res":
        returns = discounted_returns(reward_scale(cfg.task) * batch.reward, cfg.gamma)
        extra = RES_WEIGHT * masked_mean((q_tot - returns).square(), batch.filled)
    return Loss(masked_mean(error, batch.filled) + extra, q_tot, y, following)


def update(
    method: Sparse,
    cfg: Config,
    values: list[Values],
    targets: list[Values],
    topology: Topology,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    step: int,
    number: int,
) -> dict[str, float]:
    """One update of the weights, or of the topology where it is due.

    Args:
        step: environment steps so far.
        number: of this update, from 1.
    """
    found = loss_of(method, cfg, values, targets, batch, step)
    optimizer.zero_grad(set_to_none=True)
    found.loss.backward()
    metrics = {
        "loss": float(found.loss.detach()),
        "target": float(masked_mean(found.target, batch.filled)),
    }
    due = number % cfg.rewire_every == 0 and topology.growth != "none"
    if due:  # the gradient is used to grow connections only, as RigL does
        metrics["moved"] = topology.evolve(drop_share(step, cfg.steps, cfg.drop), optimizer)
        return metrics
    topology.mask_gradients()
    parameters = [p for v in values for p in v.parameters()]
    nn.utils.clip_grad_norm_(parameters, cfg.clip)
    optimizer.step()
    return metrics
