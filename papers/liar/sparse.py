"""Single weights instead of units: unstructured and 2:4 masks, and a reconstruction within them.

The paper prunes structures. Its idea carries over output by output: of output i the weights in a
set S_i are left, and least squares on the inputs S_i gives them. This part is ours, as are the
masks of zeros: nothing becomes smaller here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.errors import choose
from papers.liar.architecture import (
    FAMILIES,
    Architecture,
    Batch,
    Dense,
    Module,
    Stream,
    rows_of,
)
from papers.liar.baselines import obs
from papers.liar.method import (
    Linear,
    Moments,
    Problem,
    Ridge,
    Solution,
    centred,
    penalty,
    relative_error,
    with_bias,
)

AT_ONCE = 64  # outputs whose systems are solved together
WEIGHT_CRITERIA = ("magnitude", "wanda", "obs")
WAYS = ("none", "bias", "liar", "sparsegpt")
Way = Literal["none", "bias", "liar", "sparsegpt"]


@dataclass(frozen=True)
class Pattern:
    """Which weights may stay.

    Attributes:
        group: inputs among which a choice is made, per output.
        share: of them that stays.
    """

    group: int
    share: float

    def kept(self, scores: Tensor) -> Tensor:
        """Mask of the highest scores within each group of inputs. [d_in, d] -> bool."""
        mask = torch.zeros_like(scores, dtype=torch.bool)
        for begin in range(0, len(scores), self.group):
            part = scores[begin : begin + self.group]
            n = max(1, round(self.share * len(part)))
            order = part.argsort(dim=0, descending=True, stable=True)[:n]
            mask[begin : begin + self.group].scatter_(0, order, True)
        return mask


def pattern_of(name: str, d_in: int, ratio: float) -> Pattern:
    """ "2to4": two of four neighbouring inputs; else the share of all inputs of an output."""
    return Pattern(4, 0.5) if name == "2to4" else Pattern(d_in, 1 - ratio)


def weight_scores(name: str, problem: Problem, ridge: Ridge) -> Tensor:
    """Magnitude |w|, Wanda's |w| |x_j|_2, or OBS's |w| / (H^-1)_jj^1/2. [d_in, d].

    Raises:
        UserError: for another criterion.
    """
    choose("criterion of single weights", name, WEIGHT_CRITERIA)
    W, G = problem.weight, problem.moments.G
    if name == "magnitude":
        return W.abs()
    if name == "wanda":
        return W.abs() * G.diagonal().sqrt()[:, None]
    _, _, G, _ = centred(problem)
    dead = (G.diagonal() <= 0).double()
    inverse = torch.linalg.inv(G + torch.diag(penalty(G, ridge) + dead))
    return W.abs() / inverse.diagonal().sqrt()[:, None]


def liar_within(problem: Problem, keep: Tensor, ridge: Ridge) -> Linear:
    """Least squares on the kept inputs of each output, towards the old weights.

    (G_SS + lambda I) (w - w_S) = c_S - G_SS w_S for output i with S = S_i.

    Args:
        problem: of all inputs.
        keep: as many inputs for every output. [d_in, d].
    """
    _, _, G, C = centred(problem)
    lam, found = penalty(G, ridge), problem.weight * keep
    size = int(keep[:, 0].sum())
    inputs = keep.T.nonzero()[:, 1].reshape(-1, size)  # [d, k]
    eye = torch.eye(size, dtype=G.dtype, device=G.device)
    for begin in range(0, len(inputs), AT_ONCE):
        S = inputs[begin : begin + AT_ONCE]  # [m, k]
        A = G[S[:, :, None], S[:, None, :]]
        outputs = torch.arange(begin, begin + len(S), device=G.device)[:, None]
        old, c = problem.weight[S, outputs], C[S, outputs]
        right = c - (A @ old[..., None])[..., 0]
        factor = torch.linalg.cholesky(A + lam * eye)
        found[S, outputs] = old + torch.cholesky_solve(right[..., None], factor)[..., 0]
    return with_bias(problem, found)


def reconstructed(
    way: Way, criterion: str, problem: Problem, pattern: Pattern, ridge: Ridge
) -> Linear:
    """A matrix with the weights outside of the pattern removed, by one of ``WAYS``."""
    keep = pattern.kept(weight_scores(criterion, problem, ridge))
    if way == "sparsegpt":  # with OBS's criterion it chooses while the weights change
        own = criterion == "obs"
        group = min(pattern.group, 128) if own else len(keep)
        return obs(problem, None if own else keep, ridge, replace(pattern, group=group))
    if way == "liar":
        return liar_within(problem, keep, ridge)
    weight = problem.weight * keep
    return with_bias(problem, weight) if way == "bias" else Linear(weight, problem.bias)


def put(linear: nn.Linear, found: Linear) -> None:
    """Write a reconstruction into a layer."""
    weight = found.weight.T.to(linear.weight.dtype).contiguous()
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if linear.bias is not None:
        linear.bias = nn.Parameter(found.bias.to(linear.bias.dtype), requires_grad=False)


def matrices(module: Module) -> list[tuple[str, list[nn.Linear]]]:
    """The matrices of a module in forward order, those with the same input together."""
    return [("first", [linear for linear, _ in module.first]), ("last", [module.last])]


@torch.inference_mode()
def sparsify(
    arch: Architecture,
    batches: Sequence[Batch],
    setting: Any,
    way: Way,
    ridge: Ridge,
    dense: Dense,
    local: bool,
) -> tuple[Any, list[Solution]]:
    """A copy of the model in which every matrix of every layer is pruned and reconstructed.

    Args:
        setting: its ``criterion``, ``parts`` ("weights" or "2to4") and ``ratio``.
        way: what is done with the weights that are left.
        dense: of the unpruned model.
        local: targets from the same inputs instead of from the unpruned model.
    """
    made = FAMILIES[arch.model.config.model_type](copy.deepcopy(arch.model))
    stream, found = Stream(made, batches), []
    for index, (module, (received, _)) in enumerate(zip(made.modules, dense, strict=True)):
        original = matrices(arch.modules[index])
        for place, linears in matrices(module):
            if place == "first":
                inputs = [made.entry(index, h) for h in stream.hidden]
                wanted = [arch.entry(index, h) for h in received]
            else:
                inputs = [stream.features(index, i) for i in range(len(batches))]
                pairs = zip(received, batches, strict=True)
                wanted = [arch.features(index, h, b) for h, b in pairs]
            wanted = inputs if local else wanted
            for linear, before in zip(linears, dict(original)[place], strict=True):
                m = Moments.zeros(linear.in_features, linear.out_features, arch.device)
                for x, source, batch in zip(inputs, wanted, batches, strict=True):
                    m.add(rows_of(x, batch), rows_of(before(source), batch))
                weight = before.weight.double().T
                bias = weight[0] * 0 if before.bias is None else before.bias.double()
                problem = Problem(m, weight, bias, 1, before.bias is not None)
                pattern = pattern_of(setting.parts, len(weight), setting.ratio)
                solved = reconstructed(way, setting.criterion, problem, pattern, ridge)
                put(linear, solved)
            if place == "last":
                error = relative_error(m, solved)
                found.append(Solution(torch.arange(0), solved, error, ridge.size))
                for i, x in enumerate(inputs):
                    stream.advance(index, i, module.last(x))
    return made.model, found


__all__ = ["WAYS", "Pattern", "liar_within", "matrices", "pattern_of", "reconstructed", "sparsify"]
