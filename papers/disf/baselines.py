"""What DiSF is compared with, in its signature: (files, ask) -> sorted numbers of selected files.

Every selection takes as many files as DiSF; ``full`` takes all.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError
from common.textlab.encoder import normalised
from papers.disf.method import Ask, Files, Indices, batches, by_group, quota, standardised

BUCKETS = 10_000  # of DSIR
SAME = 0.95  # cosine above which D4 calls two files copies
AT_ONCE = 10_000  # texts that are counted side by side


def budget(files: Files, ask: Ask) -> int:
    """Files that DiSF takes."""
    sizes = (len(part) for a, b in files.spans for part in batches(b - a, ask))
    return sum(quota(m, ask.batch, ask.picks) for m in sizes)


def full(files: Files, ask: Ask) -> Indices:
    """Every file."""
    return np.arange(len(files))


def in_batches(X: NDArray[Any], ask: Ask, group: int, *, pick: Any) -> Indices:
    """Files of each batch by ``pick(rows, picks, rng)``, with DiSF's batches and first draws."""
    taken: list[int] = []
    for number, members in enumerate(batches(len(X), ask, group)):
        rng = np.random.default_rng([ask.seed, group, number])
        n = quota(len(members), ask.batch, ask.picks)
        rows = torch.from_numpy(np.asarray(X[members], dtype=np.float64)).to(ask.device)
        taken += members[pick(rows, n, rng)].tolist() if n else []
    return np.sort(np.array(taken, dtype=np.int64))


# -- at random -------------------------------------------------------------------------------------


def random_picks(X: Tensor, picks: int, rng: np.random.Generator) -> list[int]:
    """Any ones."""
    return [int(i) for i in rng.permutation(len(X))[:picks]]


def uniform(files: Files, ask: Ask) -> Indices:
    """As many files of each batch, at random."""
    return by_group(files, in_batches, ask, pick=random_picks)


# -- diversity of other kinds ----------------------------------------------------------------------


def cosines(X: Tensor) -> Tensor:
    """Cosine of every pair. [m, d] -> [m, m]."""
    X = X / X.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return X @ X.T


def cover(K: Tensor, picks: int) -> list[int]:
    """Greedy facility location: argmax of sum_i max_{s in S} K_is, the lowest index on ties.

    Args:
        K: similarities, 0 or more. [m, m].
        picks: how many.
    """
    best, chosen = K.new_zeros(len(K)), list[int]()
    taken = torch.zeros(len(K), dtype=torch.bool, device=K.device)
    for _ in range(picks):
        gain = (K - best[:, None]).clamp(min=0).sum(0).masked_fill(taken, -1)
        chosen.append(int(gain.argmax()))
        taken[chosen[-1]] = True
        best = torch.maximum(best, K[:, chosen[-1]])
    return chosen


def facility_picks(X: Tensor, picks: int, rng: np.random.Generator) -> list[int]:
    """By :func:`cover` of cosines."""
    return cover(cosines(X).clamp(min=0), picks)


def facility(files: Files, ask: Ask) -> Indices:
    """Facility location inside each batch."""
    return by_group(files, in_batches, ask, pick=facility_picks)


def center_picks(X: Tensor, picks: int, rng: np.random.Generator) -> list[int]:
    """From a random file on, always the one farthest from those that are taken."""
    chosen = [int(rng.integers(len(X)))]
    near = (X - X[chosen[0]]).square().sum(1)
    while len(chosen) < picks:
        near[chosen] = -1
        chosen.append(int(near.argmax()))
        near = torch.minimum(near, (X - X[chosen[-1]]).square().sum(1))
    return chosen


def kcenter(files: Files, ask: Ask) -> Indices:
    """Farthest-first traversal inside each batch: diversity without correlations."""
    return by_group(files, in_batches, ask, pick=center_picks)


def once_picks(X: Tensor, picks: int, rng: np.random.Generator) -> list[int]:
    """DiSF's greedy on features standardised once, over the batch, instead of over each set.

    |A + z z^T|^2 = |A|^2 + 2 z^T A z + |z|^4 with A the products of those that are taken.
    """
    Z = standardised(X)
    G, chosen = Z @ Z.T, [int(rng.integers(len(X)))]
    while len(chosen) < picks:
        diagonal = Z[chosen].square().sum(0)  # [d]
        norm = G[chosen][:, chosen].square().sum()
        J = norm + 2 * G[:, chosen].square().sum(1) + G.diagonal().square()
        J = J - (diagonal + Z.square()).square().sum(1)
        J[chosen] = torch.inf
        chosen.append(int(J.argmin()))
    return chosen


def disf_once(files: Files, ask: Ask) -> Indices:
    """DiSF without standardising anew over each set."""
    return by_group(files, in_batches, ask, pick=once_picks)


# -- DSIR ------------------------------------------------------------------------------------------


def counted(texts: Iterable[str]) -> Iterator[Any]:
    """Words and pairs of neighbouring words, hashed into buckets. Sparse [n, BUCKETS] each."""
    from sklearn.feature_extraction.text import HashingVectorizer

    options: dict[str, Any] = {"alternate_sign": False, "norm": None, "dtype": np.float64}
    hashing = HashingVectorizer(
        n_features=BUCKETS, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", **options
    )
    rest = iter(texts)
    while part := list(itertools.islice(rest, AT_ONCE)):
        yield hashing.transform(part)


@functools.lru_cache(maxsize=1)  # the same for all seeds
def importance(files: Files, target: str) -> NDArray[np.float64]:
    """log of how much likelier each file is as one of the target domain than of all. [N].

    Raises:
        UserError: for a domain that there is not.
    """
    wanted = files.domains == target
    if not wanted.any():
        known = ", ".join(sorted(set(files.domains.tolist())))
        raise UserError(f"no file is of the domain '{target}'; choose --target among: {known}")
    there, towards, at = np.ones(BUCKETS), np.ones(BUCKETS), 0  # smoothed by one of each
    for counts in counted(files.texts):
        mine = wanted[at : at + counts.shape[0]].astype(np.float64)
        there += np.asarray(counts.sum(0)).ravel()
        towards += counts.T @ mine
        at += counts.shape[0]
    log_ratio = np.log(towards / towards.sum()) - np.log(there / there.sum())
    return np.concatenate([counts @ log_ratio for counts in counted(files.texts)])


def dsir(files: Files, ask: Ask) -> Indices:
    """Importance resampling towards a domain: the largest of log weight + Gumbel noise."""
    noise = np.random.default_rng([ask.seed, 1]).gumbel(size=len(files))
    order = np.argsort(-(importance(files, ask.target) + noise), kind="stable")
    return np.sort(order[: budget(files, ask)])


# -- D4 --------------------------------------------------------------------------------------------


def clustered(X: NDArray[np.float32], seed: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """k-means with half the square root of N centres: cluster and distance of each file. [N]."""
    from sklearn.cluster import KMeans

    k = math.ceil(math.sqrt(len(X)) / 2)
    found = KMeans(k, n_init=1, max_iter=20, random_state=seed).fit(X)
    return found.labels_, np.linalg.norm(X - found.cluster_centers_[found.labels_], axis=1)


def d4(files: Files, ask: Ask) -> Indices:
    """Copies go (SemDeDup), then the files nearest to the centre of their cluster.

    Of every pair of a cluster with a cosine above .95 the later one goes; the rest is clustered
    anew. Where too few are left, copies that went come back.
    """
    X, n = normalised(np.asarray(files.features, dtype=np.float32)), budget(files, ask)
    labels, _ = clustered(X, ask.seed)
    copies = np.zeros(len(X), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        copies[members] = (np.triu(X[members] @ X[members].T, 1) > SAME).any(0)
    kept = np.flatnonzero(~copies)
    if len(kept) <= n:
        return np.sort(np.concatenate([kept, np.flatnonzero(copies)])[:n])
    _, distances = clustered(X[kept], ask.seed)
    return np.sort(kept[np.argsort(-distances, kind="stable")[:n]])
