"""What LIAR is compared with, in the same signature: (problem, ridge) -> weight and bias.

Further: updates of single weights by their curvature (SparseGPT), and retraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from papers.liar.architecture import Batch
from papers.liar.method import Linear, Problem, Ridge, centred, penalty, solved, with_bias


def none(problem: Problem, ridge: Ridge) -> Linear:
    """Pruned and left so."""
    return Linear(problem.weight, problem.bias)


def bias_compensation(problem: Problem, ridge: Ridge) -> Linear:
    """FLAP: what removed inputs give on average goes into the bias.

    With the local target b + sum over removed j of mean(x_j) W_j.
    """
    return with_bias(problem, problem.weight)


def mask_tuning(problem: Problem, ridge: Ridge) -> Linear:
    """Kwon et al. (2022): one scale per kept unit by least squares; the bias stays.

    min over s of |y - b - sum_u s_u x_u W_u|^2 + lambda |s - s_0|^2, s_0 = 1 ("old") or 0.
    """
    m, W, unit = problem.moments, problem.weight, problem.unit
    C = m.C - torch.outer(m.sx, problem.bias)
    # <x_u W_u, x_v W_v> and <x_u W_u, y - b>, summed over the inputs of a unit
    pairs = m.G * (W @ W.T)
    k = len(W) // unit
    A = pairs.reshape(k, unit, k, unit).sum((1, 3))
    r = (C * W).sum(1).reshape(k, unit).sum(1)
    lam = penalty(A, ridge)
    start = torch.full_like(r, float(ridge.to == "old"))[:, None]
    A_ridge = A + lam * torch.eye(k, dtype=A.dtype, device=A.device)
    scale = (start + solved(A_ridge, r[:, None] - A @ start))[:, 0]
    return Linear(scale.repeat_interleave(unit)[:, None] * W, problem.bias)


# -- single weights --------------------------------------------------------------------------------


def obs(problem: Problem, keep: Tensor | None, ridge: Ridge, pattern: Any) -> Linear:
    """SparseGPT (Frantar and Alistarh, 2023): inputs one after the other, errors handed on.

    With U the upper Cholesky factor of the inverse of H = G + lambda I, input j's removed weights
    w_j are set to 0 and w_j / U_jj U_j,j+1: is taken off the inputs that follow. The inputs that
    came before stay as they are, which is what makes it fast and not optimal.

    Args:
        problem: of all inputs.
        keep: mask of the weights to keep [d_in, d], or None: by the saliency w^2 / U_jj^2,
            chosen group by group while the weights change.
        ridge: its size counts.
        pattern: :class:`papers.liar.sparse.Pattern`, used where ``keep`` is None.
    """
    _, _, G, _ = centred(problem)
    d_in = len(G)
    dead = G.diagonal() <= 0
    H = G + torch.diag(penalty(G, ridge) + dead.double())
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    W = problem.weight.clone()
    mask = torch.ones_like(W, dtype=torch.bool) if keep is None else keep
    for begin in range(0, d_in, pattern.group):
        end = min(begin + pattern.group, d_in)
        if keep is None:
            saliency = (W[begin:end] / U.diagonal()[begin:end, None]).square()
            mask[begin:end] = pattern.kept(saliency)
        for j in range(begin, end):
            error = torch.where(mask[j], 0.0, W[j]) / U[j, j]  # [d]
            W[j:] -= torch.outer(U[j, j:], error)
            W[j] = torch.where(mask[j], W[j], 0.0)
    return with_bias(problem, W)


# -- retraining ------------------------------------------------------------------------------------


def retrain(
    model: Any,
    batches: Sequence[Batch],
    wanted: Sequence[Tensor],
    *,
    steps: int,
    lr: float = 1e-4,
    seed: int = 0,
) -> list[float]:
    """Gradient steps on the layers of a pruned model, towards the unpruned one's last states.

    What no reconstruction does: a reference for how far they go. AdamW, the mean squared
    difference over real tokens of the same calibration texts, a batch a step.

    Args:
        wanted: last hidden states of the unpruned model. [B, T, d] each.

    Returns:
        The losses.
    """
    from papers.liar.architecture import FAMILIES

    arch = FAMILIES[model.config.model_type](model)
    weights = [p.requires_grad_(True) for p in arch.layers.parameters()]
    optimizer = torch.optim.AdamW(weights, lr, weight_decay=0.0)
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        i = int(torch.randint(len(batches), (), generator=generator))
        h = arch.start(batches[i])
        for index, module in enumerate(arch.modules):
            h = arch.after(index, h, module.last(arch.features(index, h, batches[i])))
        loss = F.mse_loss(h[batches[i].real], wanted[i][batches[i].real])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    for weight in weights:
        weight.requires_grad_(False)
    return losses


__all__ = ["bias_compensation", "mask_tuning", "none", "obs", "retrain"]
