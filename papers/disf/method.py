"""DiSF: the files of each batch whose features are least correlated, found greedily.

Every file has a feature vector x of d numbers. For a set S of n files the features are standardised
**over S** and J(S) is the sum of their squared correlations: 0 if they are uncorrelated, largest if
all files lie on a line. The trace of the correlation matrix is d whatever S is, so that a small J
is a flat spectrum. Files come in batches; from each batch the algorithm takes ``picks`` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EPS = 1e-8  # added to variances (public code)
Tie = Literal["eps", "farthest"]
Form = Literal["products", "tensor", "loop"]
Order = Literal["shuffled", "crawl"]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Ask:
    """What a selection is asked for.

    Attributes:
        batch: b, files that compete with each other (public code: 1024).
        picks: k, files taken from a full batch (public code: 16, that is 1.56 %).
        seed: of the order of files, of first picks and of whatever a baseline draws.
        order: files are dealt to batches at random, or in the order they come in (public code).
        target: domain that a baseline selects towards; DiSF knows of none.
        device: where products are computed.
    """

    batch: int = 1024
    picks: int = 16
    seed: int = 0
    order: Order = "shuffled"
    target: str = ""
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Files:
    """What can be selected.

    Attributes:
        features: [N, d].
        texts: of each file; may be read again and again.
        domains: of each file. [N].
        groups: where each group of files ends; batches are cut inside groups, so that groups can
            be worked on anywhere. Default: one group.
        first_group: number of the first one.
    """

    features: NDArray[np.floating]
    texts: Iterable[str]
    domains: NDArray[np.str_]
    groups: tuple[int, ...] = ()
    first_group: int = 0

    def __len__(self) -> int:
        return len(self.features)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First file and end of each group."""
        ends = self.groups or (len(self),)
        return list(zip((0, *ends[:-1]), ends, strict=True))


# -- the objective -----------------------------------------------------------------------------


def standardised(X: Tensor) -> Tensor:
    """Features with mean 0 and variance 1 over the set. [..., n, d] -> [..., n, d]."""
    # Eq. 1: z = (x - mu_S) / sqrt(v_S + eps), v_S with n - 1 in the denominator
    centred = X - X.mean(-2, keepdim=True)
    variance = centred.square().sum(-2, keepdim=True) / (X.shape[-2] - 1)
    return centred / (variance + EPS).sqrt()


def correlations(X: Tensor) -> Tensor:
    """Correlation matrix of the features over the set. [..., n, d] -> [..., d, d]."""
    # Eq. 2: C = Z^T Z / (n - 1)
    Z = standardised(X)
    return Z.mT @ Z / (X.shape[-2] - 1)


def redundancy(X: Tensor) -> Tensor:
    """J, the sum of squared correlations of different features. [..., n, d] -> [...]."""
    # Eq. 3: J(S) = sum_{f != g} C_fg^2 = |C|^2 - |diag C|^2
    C = correlations(X)
    return C.square().sum((-2, -1)) - C.diagonal(dim1=-2, dim2=-1).square().sum(-1)


def redundancy_by_gram(X: Tensor) -> Tensor:
    """J by products of files instead of features: n^2 d operations instead of n d^2. [...]."""
    # Eq. 3, with |Z^T Z| = |Z Z^T|
    Z, n = standardised(X), X.shape[-2]
    diagonal = Z.square().sum(-2) / (n - 1)  # [..., d]
    return (Z @ Z.mT / (n - 1)).square().sum((-2, -1)) - diagonal.square().sum(-1)


def lower_bound(n: int, d: int) -> float:
    """The least J of n files: C has rank n - 1 at most and trace d."""
    # Eq. 4: J(S) >= d^2 / (n - 1) - d, equality where all eigenvalues that are not 0 are equal
    return max(0.0, d * d / (n - 1) - d)


# -- greedy --------------------------------------------------------------------------------------


def second_scores(X: Tensor, first: int) -> Tensor:
    """J of the pairs {first, j}, without cancellation. [m, d] -> [m].

    A pair lies on a line: J = d^2 - d for all of them but for eps, which prefers a file that nearly
    agrees with the first one in some feature.
    """
    # Eq. 3 for n = 2: C_fg^2 = c_f c_g, c = v / (v + eps), v = (x_a - x_b)^2 / 2
    v = (X - X[first]).square() / 2
    c = v / (v + EPS)
    return c.sum(1).square() - c.square().sum(1)


def scores_by_products(X: Tensor, chosen: Sequence[int]) -> Tensor:
    """J(S + j) of every file j, all Gram matrices from three products. [m, d] -> [m].

    With w = 1/(v + eps) of each candidate, its inner products are sums over w of products of pairs.
    """
    S, (m, _), n = X[list(chosen)], X.shape, len(chosen) + 1
    mean = (S.sum(0) + X) / n  # [m, d]
    variance = (S.square().sum(0) + X.square() - n * mean.square()).clamp(min=0) / (n - 1)
    w = 1 / (variance + EPS)
    i, j = torch.triu_indices(n - 1, n - 1, device=X.device)
    pairs = w @ (S[i] * S[j]).T  # [m, (n - 1) n / 2]
    K = X.new_empty(m, n, n)  # K_ij = sum_f w_f x_if x_jf over S and the candidate
    K[:, i, j] = pairs
    K[:, j, i] = pairs
    K[:, :-1, -1] = K[:, -1, :-1] = (w * X) @ S.T
    K[:, -1, -1] = (w * X.square()).sum(1)
    K = K - K.mean(2, keepdim=True)  # centred: Z Z^T
    K = K - K.mean(1, keepdim=True)
    diagonal = (variance * w).square().sum(1)
    return (K / (n - 1)).square().sum((1, 2)) - diagonal


def scores_by_tensor(X: Tensor, chosen: Sequence[int]) -> Tensor:
    """The same with all sets side by side, [m, n, d] numbers. [m, d] -> [m]."""
    S = X[list(chosen)].expand(len(X), -1, -1)
    return redundancy_by_gram(torch.cat([S, X[:, None]], 1))


def scores_by_loop(X: Tensor, chosen: Sequence[int]) -> Tensor:
    """The same one candidate after the other, by the d x d matrix (public code). [m, d] -> [m]."""
    return torch.stack([redundancy(X[[*chosen, j]]) for j in range(len(X))])


SCORES = {"products": scores_by_products, "tensor": scores_by_tensor, "loop": scores_by_loop}


def greedy(
    X: Tensor, picks: int, first: int, *, tie: Tie = "eps", form: Form = "products"
) -> list[int]:
    """Algorithm 1: files in the order in which they are taken from a batch.

    Args:
        X: [m, d]; in float64, since variances of a few files cancel.
        picks: files to take, m at most.
        first: the first one.
        tie: what decides the second pick, which J leaves open: eps, or the largest distance.
        form: how J of all candidates is computed.
    """
    X = X.double() - X.double().mean(0)  # J does not change, rounding does
    chosen = [first][:picks]
    while len(chosen) < picks:
        if len(chosen) > 1:
            J = SCORES[form](X, chosen)
        elif tie == "eps":
            J = second_scores(X, first)
        else:
            J = -(X - X[first]).square().sum(1)
        J[chosen] = torch.inf
        chosen.append(int(J.argmin()))  # the lowest index wins ties
    return chosen


# -- batches ---------------------------------------------------------------------------------------


def quota(m: int, batch: int, picks: int) -> int:
    """Files that a batch of m gives: its share, rounded. (The public code drops short batches.)"""
    return min(m, round(picks * m / batch))


def batches(n: int, ask: Ask, group: int = 0) -> list[Indices]:
    """The files of each batch of a group: by the data and the seed alone, not by an engine."""
    order = np.arange(n)
    if ask.order == "shuffled":
        order = np.random.default_rng([ask.seed, group]).permutation(n)
    return [order[at : at + ask.batch] for at in range(0, n, ask.batch)]


def distinct(X: NDArray[np.floating]) -> Indices:
    """The first of each set of equal rows. [m, d] -> [<= m].

    A copy adds a feature vector without variance: J of copies is 0, and greedy would take all
    copies of its first pick before anything else.
    """
    first: dict[bytes, int] = {}
    for i, row in enumerate(np.ascontiguousarray(X)):
        first.setdefault(row.tobytes(), i)
    return np.fromiter(first.values(), dtype=np.int64)


def select_group(
    X: NDArray[np.floating], ask: Ask, group: int = 0, *, tie: Tie = "eps", copies: bool = False
) -> Indices:
    """DiSF on one group: sorted numbers of its selected files. A pure function.

    Args:
        X: features of the group. [n, d].
        ask: how many files of how many.
        group: its number: batches and first picks are drawn from (seed, group, batch).
        tie: see :func:`greedy`.
        copies: copies stay in the batch (public code).
    """
    taken: list[int] = []
    for number, members in enumerate(batches(len(X), ask, group)):
        picks = quota(len(members), ask.batch, ask.picks)
        if not picks:
            continue
        rows = np.asarray(X[members])
        there = np.arange(len(members)) if copies else distinct(rows)
        first = int(np.random.default_rng([ask.seed, group, number]).integers(len(there)))
        part = torch.from_numpy(rows[there].astype(np.float64)).to(ask.device)
        found = [int(there[i]) for i in greedy(part, min(picks, len(there)), first, tie=tie)]
        rest = np.setdiff1d(np.arange(len(members)), found)  # copies alone are left
        taken += members[[*found, *rest[: picks - len(found)]]].tolist()
    return np.sort(np.array(taken, dtype=np.int64))


def by_group(files: Files, select: Callable[..., Indices], ask: Ask, **options: object) -> Indices:
    """A selection of every group, put together. [n] sorted."""
    spans = enumerate(files.spans, files.first_group)
    found = [a + select(files.features[a:b], ask, number, **options) for number, (a, b) in spans]
    return np.concatenate(found)


def disf(files: Files, ask: Ask) -> Indices:
    """DiSF: sorted numbers of the selected files."""
    return by_group(files, select_group, ask)


def disf_farthest(files: Files, ask: Ask) -> Indices:
    """DiSF whose second pick is the file farthest from the first."""
    return by_group(files, select_group, ask, tie="farthest")


def disf_with_copies(files: Files, ask: Ask) -> Indices:
    """DiSF that leaves copies in the batch."""
    return by_group(files, select_group, ask, copies=True)


# -- what is measured ----------------------------------------------------------------------------


def spectrum(X: Tensor) -> Tensor:
    """Eigenvalues of the correlation matrix, from the largest. [n, d] -> [min(n, d)]."""
    Z = standardised(X.double())
    inner = Z @ Z.T if len(Z) < Z.shape[1] else Z.T @ Z
    return torch.linalg.eigvalsh(inner).flip(0).clamp(min=0) / (len(Z) - 1)


def dominance(eigenvalues: Tensor, ranks: Sequence[int]) -> list[float]:
    """Share of the r largest eigenvalues, for each r: 1 where the features have collapsed."""
    # Eq. 5: score(r) = sum_{i <= r} lambda_i / sum lambda_i
    shares = eigenvalues.cpu().cumsum(0) / eigenvalues.sum().cpu()
    return [float(shares[min(r, len(shares)) - 1]) for r in ranks]


def effective_rank(eigenvalues: Tensor) -> float:
    """exp of the entropy of the eigenvalues' shares."""
    p = eigenvalues / eigenvalues.sum()
    return float(torch.exp(-(p * p.clamp(min=1e-300).log()).sum()))


def submodularity_ratio(X: Tensor, chosen: Sequence[int], added: Sequence[int]) -> float:
    """gamma of one pair of sets, with F = -J: single gains over the joint gain.

    F is gamma-weakly submodular if it is gamma or more for all pairs whose joint gain is positive;
    greedy then reaches 1 - exp(-gamma) of the best where F is also monotone, which -J is not.
    """

    # Eq. 6: sum_w [F(S + w) - F(S)] / [F(S + W) - F(S)]
    def F(members: Sequence[int]) -> float:
        return -float(redundancy_by_gram(X[list(members)]))

    alone = sum(F([*chosen, w]) - F(chosen) for w in added)
    return alone / (F([*chosen, *added]) - F(chosen))
