"""Which units go: scores of heads and neurons, and how many of them each module keeps.

A criterion scores the inputs of an output projection; a head's score is the sum of its inputs'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.errors import choose
from papers.liar.architecture import Architecture, Batch, Dense, Statistics

CRITERIA = ("magnitude", "flap", "wanda", "random", "fisher")
#: loss of a batch from the last hidden states, summed over its texts
Loss = Callable[[Tensor, Batch, int], Tensor]


def input_scores(name: str, weight: Tensor, seen: Statistics, rng: torch.Generator) -> Tensor:
    """Score of each input of an output projection; the lowest go. [d_in].

    Args:
        name: magnitude |W_j|_2; wanda |x_j|_2 sum |W_j|; flap Var(x_j) |W_j|_2^2; random.
        weight: W. [d_in, d_out].
        seen: statistics of the inputs over the calibration tokens.
        rng: of the random scores, on the CPU.
    """
    choose("criterion", name, CRITERIA)
    squares = weight.square().sum(1)
    if name == "magnitude":
        return squares.sqrt()
    if name == "wanda":
        return seen.norm * weight.abs().sum(1)
    if name == "flap":
        return seen.variance * squares
    return torch.rand(len(weight), generator=rng, dtype=torch.float64).to(weight.device)


def fisher(arch: Architecture, batches: Sequence[Batch], loss: Loss) -> list[Tensor]:
    """Kwon et al.: sum over texts of (dL/dm_u)^2, m_u a mask on unit u. [units] each.

    It takes gradients, as a criterion: no reconstruction does.
    """
    found: list[Tensor] = []
    for i, batch in enumerate(batches):
        h, caught = arch.start(batch), []
        for index, module in enumerate(arch.modules):
            x = arch.features(index, h, batch)
            mask = torch.ones(len(x), 1, module.n_units, device=x.device)  # one per text and unit
            caught.append(mask.requires_grad_(True))
            x = x * mask.repeat_interleave(module.unit, -1)
            h = arch.after(index, h, module.last(x))
        gradients = torch.autograd.grad(loss(h, batch, i), caught)
        squares = [g.double().square().sum((0, 1)) for g in gradients]
        found = [a + b for a, b in zip(found, squares, strict=True)] if found else squares
    return found


def unit_scores(
    arch: Architecture, name: str, dense: Dense, seed: int, loss: Loss, batches: Sequence[Batch]
) -> list[Tensor]:
    """Scores of the units of every module. [units] each."""
    if name == "fisher":
        return fisher(arch, batches, loss)
    rng, found = torch.Generator().manual_seed(seed), []
    for module, seen in zip(arch.modules, dense.statistics, strict=True):
        weight = module.last.weight.detach().double().T
        scores = input_scores(name, weight, seen, rng)
        found.append(scores.reshape(module.n_units, module.unit).sum(1))
    return found


def best(scores: Tensor, n: int) -> Tensor:
    """Indices of the n highest, in order; ties go to the first."""
    return scores.argsort(descending=True, stable=True)[:n].sort().values


def choose_units(
    arch: Architecture, scores: Sequence[Tensor], ratio: float, parts: str, everywhere: bool
) -> list[Tensor]:
    """Kept units of every module.

    Args:
        ratio: share that goes.
        parts: "all" modules, "heads" or "ffn" only.
        everywhere: rank the standardised scores of all modules of a kind together (one unit is
            kept in each), instead of the same share in each.
    """
    kept: list[Tensor] = []
    for module, own in zip(arch.modules, scores, strict=True):
        pruned = parts == "all" or parts == {"attention": "heads", "ffn": "ffn"}[module.kind]
        n = len(own) if not pruned else max(1, round((1 - ratio) * len(own)))
        if pruned and everywhere:
            rivals = [s for m, s in zip(arch.modules, scores, strict=True) if m.kind == module.kind]
            pool = torch.cat([standardised(s) for s in rivals])
            n_all = max(1, round((1 - ratio) * len(pool)))
            level = pool.sort(descending=True).values[n_all - 1]
            n = max(1, int((standardised(own) >= level).sum()))
        kept.append(best(own, n))
    return kept


def standardised(scores: Tensor) -> Tensor:
    """Mean 0, standard deviation 1."""
    return (scores - scores.mean()) / scores.std().clamp_min(1e-300)


__all__ = ["CRITERIA", "Loss", "best", "choose_units", "fisher", "input_scores", "unit_scores"]
