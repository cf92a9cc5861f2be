"""LIAR: pruned modules are reconstructed by linear interpolation of the weights that are left.

A module is an output projection Y = X W + 1 b^T, X [n, d_in] its inputs over calibration tokens.
Pruning keeps the inputs K and loses X_R W_R; the kept weights are replaced by combinations of
themselves, and the bias by another, so that the module's output comes back (equation 1). That is
least squares in closed form; everything it needs are the moments of inputs and targets.

Row-vector convention: W is [d_in, d_out], the transpose of ``nn.Linear.weight``. Float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from papers.liar.architecture import Architecture, Batch, Stream, rows_of

RIDGE = 1e-4  # lambda over the mean square of a kept input (the paper's wasn't found)
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # among which a held-out third of the texts chooses
Target = Literal["dense", "local", "stream"]
ShrinkTo = Literal["old", "zero"]


# -- what is remembered of the calibration texts ---------------------------------------------------


@dataclass
class Moments:
    """Sums over tokens of inputs x and targets y, in float64.

    Attributes:
        n: tokens.
        sx, sy: sum of x [k], of y [d].
        G: sum of x x^T. [k, k].
        C: sum of x y^T. [k, d].
        syy: sum of |y|^2.
    """

    n: int
    sx: Tensor
    sy: Tensor
    G: Tensor
    C: Tensor
    syy: Tensor

    @classmethod
    def zeros(cls, k: int, d: int, device: torch.device | str = "cpu") -> Moments:
        """Of no tokens."""
        sizes: tuple[Any, ...] = ((k,), (d,), (k, k), (k, d), ())
        return cls(0, *(torch.zeros(s, dtype=torch.float64, device=device) for s in sizes))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Count tokens: inputs [N, k] and targets [N, d]."""
        x, y = x.double(), y.double()
        self.n += len(x)
        self.sx += x.sum(0)
        self.sy += y.sum(0)
        self.G += x.T @ x
        self.C += x.T @ y
        self.syy += y.square().sum()

    def __add__(self, other: Moments) -> Moments:
        """Of the tokens of both."""
        pairs = zip(self.tensors, other.tensors, strict=True)
        return Moments(self.n + other.n, *(a + b for a, b in pairs))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All but n."""
        return self.sx, self.sy, self.G, self.C, self.syy

    def of(self, kept: Tensor) -> Moments:
        """Of some of the inputs. [k'] indices."""
        return replace(self, sx=self.sx[kept], G=self.G[kept][:, kept], C=self.C[kept])


class Linear(NamedTuple):
    """A reconstructed output projection: weight [k, d] and bias [d]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Problem:
    """One pruned module.

    Attributes:
        moments: of its kept inputs and its targets.
        weight: W_K, the kept rows as they were. [k, d].
        bias: b; zeros where the module has none. [d].
        unit: inputs that are pruned together (the width of a head; 1 for a neuron).
        affine: the bias may change; False where the model has none and is to get none.
    """

    moments: Moments
    weight: Tensor
    bias: Tensor
    unit: int = 1
    affine: bool = True


@dataclass(frozen=True)
class Ridge:
    """The penalty lambda |W - W_0|^2.

    Attributes:
        size: lambda over the mean of the diagonal of G_KK.
        to: what it pulls towards: "old", W_0 = W_K, so that few tokens change little, or "zero",
            the textbook's, which with fewer tokens than inputs forgets the module.
    """

    size: float = RIDGE
    to: ShrinkTo = "old"


Solver = Callable[[Problem, Ridge], Linear]


def centred(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means and second moments about them; about 0, and of y - b, where the bias is fixed.

    Returns:
        mean of x [k], mean of y [d], G [k, k], C [k, d].
    """
    m = problem.moments
    if not problem.affine:
        return m.sx * 0, problem.bias, m.G, m.C - torch.outer(m.sx, problem.bias)
    mx, my = m.sx / m.n, m.sy / m.n
    return mx, my, m.G - m.n * torch.outer(mx, mx), m.C - m.n * torch.outer(mx, my)


def penalty(G: Tensor, ridge: Ridge) -> Tensor:
    """lambda."""
    return ridge.size * G.diagonal().mean()


def solved(A: Tensor, B: Tensor) -> Tensor:
    """A^+ B of a symmetric positive semi-definite A, by Cholesky or, singular, by eigenvalues."""
    factor, failed = torch.linalg.cholesky_ex(A)
    pivots = factor.diagonal()
    if not bool(failed) and bool(pivots.min() > 1e-7 * pivots.max()):
        return torch.cholesky_solve(B, factor)
    values, vectors = torch.linalg.eigh(A)
    large = values > 1e-12 * values[-1].clamp_min(torch.finfo(A.dtype).tiny)
    inverse = torch.where(large, 1 / values.clamp_min(torch.finfo(A.dtype).tiny), 0.0)
    return vectors @ (inverse[:, None] * (vectors.T @ B))


# -- equation 1: the reconstruction ----------------------------------------------------------------


def change(problem: Problem, ridge: Ridge) -> Tensor:
    """Delta with W_K + Delta the least-squares weight. [k, d]."""
    _, _, G, C = centred(problem)
    A = G + penalty(G, ridge) * torch.eye(len(G), dtype=G.dtype, device=G.device)
    old = problem.weight
    if ridge.to == "zero":
        return solved(A, C) - old  # Eq. 3b: (G + lambda I) W = C
    return solved(A, C - G @ old)  # Eq. 3a: (G + lambda I) (W - W_K) = C - G W_K


def with_bias(problem: Problem, weight: Tensor) -> Linear:
    """Eq. 2: the bias that goes with a weight, b = mean(y) - mean(x) W."""
    if not problem.affine:
        return Linear(weight, problem.bias)
    mx, my, _, _ = centred(problem)
    return Linear(weight, my - mx @ weight)


def liar(problem: Problem, ridge: Ridge = Ridge()) -> Linear:
    """Eq. 1: the affine map of the kept inputs that is nearest to the targets.

    Where W_K has full column rank (k >= d) every weight is an interpolation Q W_K of the kept
    rows, so that this is :func:`liar_q`; elsewhere its error is smaller.
    """
    return with_bias(problem, problem.weight + change(problem, ridge))


def liar_q(problem: Problem, ridge: Ridge = Ridge()) -> Linear:
    """Eq. 1 with the weight held to Q W_K, Q [k, k]: combinations of the kept rows.

    The least-squares weight projected on the row space of W_K (Eq. 4); exact for every lambda of
    Eq. 3a, since the projection commutes with what stands left of the weight.
    """
    old = problem.weight
    within = torch.linalg.pinv(old) @ old  # [d, d]
    weight = (old + change(problem, ridge)) @ within  # Eq. 4
    return with_bias(problem, weight)


def liar_weights(problem: Problem, ridge: Ridge = Ridge()) -> Linear:
    """Without P: the weight alone is reconstructed, the bias stays."""
    return liar(replace(problem, affine=False), ridge)


def interpolation(problem: Problem, found: Linear) -> tuple[Tensor, Tensor]:
    """Q and P of a reconstruction: weight = Q W_K [k, k], bias = P b [d, d] (of smallest norm).

    Exact for the weight where its rows lie in the row space of W_K, for the bias where b is not 0.
    """
    Q = found.weight @ torch.linalg.pinv(problem.weight)
    b = problem.bias
    return Q, torch.outer(found.bias, b) / b.square().sum().clamp_min(1e-300)


def shares(moments: Moments, kept: Tensor, ridge: float = 0.0) -> Tensor:
    """Each input as a combination of kept ones: A = (G_KK + lambda I)^-1 G_K. [k, d_in].

    The same solution read the other way: W = A W_all, removed rows distributed over kept ones.
    """
    G = moments.G[kept]
    A = G[:, kept]
    return solved(A + ridge * A.diagonal().mean() * torch.eye(len(A), dtype=A.dtype), G)


def squared_error(moments: Moments, linear: Linear) -> float:
    """Sum over tokens of |y - x W - b|^2, from the moments."""
    W, b = linear
    m = moments
    own = (W * (m.G @ W)).sum() + m.n * b.square().sum() + 2 * (m.sx @ W @ b)
    return float(m.syy + own - 2 * (W * m.C).sum() - 2 * b @ m.sy)


def relative_error(moments: Moments, linear: Linear) -> float:
    """:func:`squared_error` over the sum of |y|^2."""
    return squared_error(moments, linear) / max(float(moments.syy), 1e-300)


def adaptive(solve: Solver, problem: Problem, held_out: Moments, to: ShrinkTo) -> Ridge:
    """The ridge whose solution on ``problem`` has the least error on held-out tokens."""
    sizes = [Ridge(size, to) for size in RIDGES]
    return min(sizes, key=lambda ridge: squared_error(held_out, solve(problem, ridge)))


# -- the whole model, module after module ----------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a model is reconstructed.

    Attributes:
        solve: a module's reconstruction.
        ridge: None: chosen for each module on a held-out third of the texts.
        target: what a module is to give. "local": what the unpruned module makes of the same
            inputs; "dense": what it gives in the unpruned model, so that earlier errors are
            corrected; "stream": the same of the residual sum after it (ours).
        add_bias: give a bias to modules without one.
    """

    solve: Solver
    ridge: Ridge | None = Ridge()
    target: Target = "dense"
    add_bias: bool = False


@dataclass(frozen=True)
class Solution:
    """A reconstructed module.

    Attributes:
        kept: indices of its inputs. [k].
        linear: weight and bias.
        error: of the calibration tokens, relative, in the pruned stream.
        ridge: that was used.
    """

    kept: Tensor
    linear: Linear
    error: float
    ridge: float


def weights_of(arch: Architecture, index: int) -> tuple[Tensor, Tensor]:
    """W [d_in, d_out] and b [d_out] of a module, in float64; zeros for no bias."""
    last = arch.modules[index].last
    weight = last.weight.detach().double().T
    bias = weight.new_zeros(weight.shape[1]) if last.bias is None else last.bias.detach().double()
    return weight, bias


def solution(
    problem: Problem, folds: Sequence[Moments], recipe: Recipe
) -> tuple[Linear, float, float]:
    """Solve a module on both folds together: its weights, relative error and ridge."""
    ridge = recipe.ridge
    if ridge is None:
        ridge = adaptive(recipe.solve, replace(problem, moments=folds[0]), folds[1], "old")
    linear = recipe.solve(problem, ridge)
    return linear, relative_error(problem.moments, linear), ridge.size


@torch.inference_mode()
def reconstruct(
    arch: Architecture,
    batches: Sequence[Batch],
    units: Sequence[Tensor],
    recipe: Recipe,
    dense: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]],
) -> list[Solution]:
    """Prune and reconstruct every module in forward order; no gradient anywhere.

    A module's inputs come from the part before it as it is now: pruned and reconstructed.

    Args:
        arch: the unpruned model; it is not changed.
        batches: calibration texts.
        units: kept units of each module.
        recipe: how.
        dense: of each module what it receives and gives in the unpruned model
            (:class:`papers.liar.architecture.Dense`).
    """
    stream, found = Stream(arch, batches), []
    for index, (module, (received, given)) in enumerate(zip(arch.modules, dense, strict=True)):
        W, b = weights_of(arch, index)
        kept = module.inputs_of(units[index])
        folds = [Moments.zeros(len(kept), len(b), W.device) for _ in range(2)]
        features: list[Tensor] = []
        for i, batch in enumerate(batches):
            x = stream.features(index, i)  # [B, T, d_in]
            if recipe.target == "local":
                y = x @ W.to(x.dtype) + b.to(x.dtype)
            else:
                y = given[i]
                if recipe.target == "stream":
                    y = y + received[i] - stream.hidden[i]
            features.append(x[..., kept])
            folds[i % 3 == 2].add(  # a third chooses the ridge
                rows_of(features[-1], batch), rows_of(y, batch)
            )
        affine = module.last.bias is not None or recipe.add_bias
        problem = Problem(folds[0] + folds[1], W[kept], b, module.unit, affine)
        if folds[1].n == 0:  # a single batch
            folds[1] = folds[0]
        linear, error, ridge = solution(problem, folds, recipe)
        found.append(Solution(kept, linear, error, ridge))
        for i, x in enumerate(features):
            y = x @ linear.weight.to(x.dtype) + linear.bias.to(x.dtype)
            stream.advance(index, i, y)
    return found
