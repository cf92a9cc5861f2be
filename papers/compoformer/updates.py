"""One update of a task: losses, what moves and what stays, penalties, what is recalled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from common.control.sequences import Windows, action_loss
from common.control.sparse import partial_step
from papers.compoformer.baselines import (
    Consolidation,
    Gaussian,
    distillation,
    gaussian_fisher,
    path_gain,
    quadratic,
    running_fisher,
    sensitivity,
    walk_importance,
)
from papers.compoformer.config import Config
from papers.compoformer.learning import AT_ONCE, Sources, World
from papers.compoformer.method import composed, trainable
from papers.compoformer.network import Continual, flat, views


@dataclass
class Batch:
    """Windows of an update.

    Attributes:
        windows: B of the task.
        drawn: their places in the task's pool [B].
    """

    windows: Windows
    drawn: Tensor


# -- the two losses of a task with sources, the one of a task without -----------------------------


def warm_up_loss(net: Continual, k: int, batch: Batch, sources: Sources) -> Tensor:
    """Error of the composed action (Eq. 2), or of a new head on features that stay."""
    if not (net.method.composes and net.sources(k)):
        with torch.no_grad():
            own = net.features(k, batch.windows)
        return action_loss(torch.tanh(net.heads[net.head_of(k)](own)), batch.windows)
    _, actions = sources.of(net, batch.windows, batch.drawn)
    return action_loss(composed(net.weigh(k), actions), batch.windows)


def loss_of(
    net: Continual, k: int, batch: Batch, sources: Sources, weights: dict[str, Tensor] | None = None
) -> Tensor:
    """Error of the task's policy (Eqs. 4 and 5; the head where there is no source).

    Args:
        weights: of the transformer, in the place of its own (VCL).
    """
    if weights is None:
        own = net.features(k, batch.windows)
    else:
        own = functional_call(net.trunks[0], weights, (batch.windows,))
    if not (net.method.composes and net.sources(k)):
        return action_loss(torch.tanh(net.heads[net.head_of(k)](own)), batch.windows)
    features, _ = sources.of(net, batch.windows, batch.drawn)
    mixed = composed(net.weigh(k).detach(), features)
    return action_loss(net.fusions[k](mixed, own), batch.windows)


@torch.no_grad()
def decided_weights(net: Continual, k: int, world: World, sources: Sources, pool: Tensor) -> Tensor:
    """alpha_k once the warm-up is over; constant from then on. [S]"""
    if net.method.composition != "best":
        return net.weigh(k)
    errors = []
    for at in torch.arange(len(pool)).split(AT_ONCE):
        windows = world.windows(k, pool[at])
        _, actions = sources.of(net, windows, at)
        errors.append(torch.stack([action_loss(a, windows) for a in actions]))
    best = torch.stack(errors).mean(0).argmin()
    return nn.functional.one_hot(best, len(net.sources(k))).to(net.alpha)


# -- updates --------------------------------------------------------------------------------------


def descend(
    net: Continual, optimizer: torch.optim.Optimizer, k: int, cfg: Config, chosen: bool
) -> None:
    """An AdamW step; with masks, what is not the task's to change stays bit for bit (Eq. 6)."""
    pairs = []
    if net.method.growth == "masks":
        theta = net.maskable()
        free = views(trainable(net.owner, k, chosen), theta)
        pairs = [(p, free[n]) for n, p in theta.items()]
        for p, mask in pairs:
            if p.grad is not None:
                p.grad.mul_(mask)
    mine = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(mine, cfg.clip)
    partial_step(optimizer, pairs)


def shared_gradient(net: Continual) -> Tensor:
    """Gradients of the shared transformer as they are now. [D]"""
    return flat({n: p.grad.detach() for n, p in net.base().items() if p.grad is not None})


def set_shared_gradient(net: Continual, gradient: Tensor) -> None:
    """The other way round."""
    theta = net.base()
    for name, part in views(gradient, theta).items():
        theta[name].grad = part.clone()


def penalty_of(
    net: Continual,
    k: int,
    cfg: Config,
    batch: Batch,
    past: Consolidation,
    posterior: Gaussian,
    steps: int,
) -> Tensor:
    """What holds the shared weights where earlier tasks left them, times lambda.

    Args:
        steps: of the task's data, over which VCL's divergence is spread.
    """
    kind, theta = net.method.penalty, net.base()
    if kind == "vcl":
        return cfg.lam * posterior.divergence(flat(theta)) / steps
    if kind == "none" or not past.seen:
        return torch.zeros((), device=net.alpha.device)
    if kind == "lwf":
        now = net.features(k, batch.windows)
        with torch.no_grad():
            then = functional_call(net.trunks[0], views(past.anchor, theta), (batch.windows,))
        heads = [net.heads[j] for j in range(k)]
        said = [torch.stack([torch.tanh(h(x)) for h in heads]) for x in (now, then)]
        return cfg.lam * distillation(said[0], said[1].detach(), batch.windows.real)
    return cfg.lam * quadratic(flat(theta), past.anchor, past.importance)


@torch.no_grad()
def consolidate(
    net: Continual, k: int, cfg: Config, world: World, pool: Tensor, past: Consolidation
) -> None:
    """After a task: what its penalty is to remember of it."""
    kind, theta = net.method.penalty, net.base()
    if kind == "none":
        return
    net.eval()
    windows = world.windows(k, pool[: cfg.samples])
    weights = {name: p.detach() for name, p in theta.items()}

    def actions(of: dict[str, Tensor], one: Windows) -> Tensor:
        return torch.tanh(net.heads[k](functional_call(net.trunks[0], of, (one,))))

    if kind == "ewc":
        past.importance += gaussian_fisher(actions, weights, windows)
    elif kind == "mas":
        past.importance += sensitivity(actions, weights, windows)
    elif kind == "l2":
        past.importance.fill_(1.0)
    elif kind == "rwalk":
        past.importance.copy_(walk_importance(past.fisher, past.path))
        past.path.mul_(0.5)
    past.anchor.copy_(flat(weights))
    past.seen += 1
    net.train()


# -- what is recalled -----------------------------------------------------------------------------


def recall_loss(net: Continual, k: int, windows: Windows) -> Tensor:
    """Error on windows of an earlier task's memory."""
    return action_loss(torch.tanh(net.heads[k](net.features(k, windows))), windows)


@torch.no_grad()
def walked(past: Consolidation, gradient: Tensor, moved: Tensor) -> None:
    """RWalk: what a step has gained, and the running Fisher information."""
    past.fisher.copy_(running_fisher(past.fisher, gradient))
    past.path += path_gain(gradient, moved, past.fisher)
