"""Eq. 6 of HC-SMoE: agglomerative clustering of the experts of a layer by their distances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = list[int]  # group of each expert, numbered in the order of their first members
Linkage = Literal["single", "average", "complete", "ward", "complete-released", "ward-released"]


@dataclass(frozen=True)
class History:
    """Joins of n experts down to one group, in order.

    Attributes:
        pairs: (a, b): group b was joined to group a, both named by their first member.
        heights: the linkage at each join.
    """

    pairs: tuple[tuple[int, int], ...]
    heights: tuple[float, ...]

    def cut(self, r: int) -> Labels:
        """The r groups that were there after n - r joins.

        Raises:
            ValueError: if there cannot be r groups.
        """
        n = len(self.pairs) + 1
        if not 1 <= r <= n:
            raise ValueError(f"{n} experts make 1 to {n} groups, not {r}")
        first = list(range(n))
        for a, b in self.pairs[: n - r]:
            first = [a if of == b else of for of in first]
        return renumbered(first)

    def matrix(self) -> Floats:
        """The joins in the format of ``scipy.cluster.hierarchy``. [n - 1, 4]."""
        n = len(self.pairs) + 1
        name, size = list(range(n)), [1] * n
        lines = []
        for i, ((a, b), height) in enumerate(zip(self.pairs, self.heights, strict=True)):
            size[a] += size[b]
            lines.append([*sorted((name[a], name[b])), height, size[a]])
            name[a] = n + i
        return np.array(lines, dtype=float)


def renumbered(groups: Sequence[int]) -> Labels:
    """Groups numbered in the order of their first members."""
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return [order[group] for group in groups]


def agglomerate(
    distance: Floats, linkage: Linkage = "average", sizes: Sequence[float] | None = None
) -> History:
    """Eq. 6: from singletons on, the two closest groups become one. [n, n] -> joins.

    The linkage of two groups is the smallest, the mean or the largest distance over all pairs of
    their members, or Ward's (2 ab/(a + b))^1/2 |mu_A - mu_B|. The first pair in index order wins
    a tie. ``complete-released`` joins the two *farthest* groups by complete linkage, and
    ``ward-released`` takes ab/(a + b) |mu_A - mu_B|, as the public code does.

    Args:
        distance: symmetric.
        linkage: how groups are compared.
        sizes: masses of the experts (Ward); default: 1 each.
    """
    n = len(distance)
    size = np.ones(n) if sizes is None else np.array(sizes, dtype=float)
    D = np.array(distance, dtype=float)
    ward = linkage.startswith("ward")
    if ward:
        D *= np.sqrt(2 * np.outer(size, size) / np.add.outer(size, size))
    there = np.ones(n, dtype=bool)
    pairs, heights = [], []
    for _ in range(n - 1):
        shown = D
        if linkage == "ward-released":  # of the same distance between means
            shown = D * np.sqrt(np.outer(size, size) / np.add.outer(size, size) / 2)
        open_ = np.triu(np.outer(there, there), 1)
        if linkage == "complete-released":
            at = int(np.where(open_, shown, -np.inf).argmax())
        else:
            at = int(np.where(open_, shown, np.inf).argmin())
        a, b = divmod(at, n)
        pairs.append((a, b))
        heights.append(float(shown[a, b]))
        joined = _linked(D, size, a, b, linkage)
        D[a], D[:, a] = joined, joined
        size[a] += size[b]
        there[b] = False
    return History(tuple(pairs), tuple(heights))


def _linked(D: Floats, size: Floats, a: int, b: int, linkage: Linkage) -> Floats:
    """Linkage of the union of groups a and b with every other (Lance and Williams). [n]."""
    if linkage == "single":
        return np.minimum(D[a], D[b])
    if linkage.startswith("complete"):
        return np.maximum(D[a], D[b])
    if linkage == "average":
        return np.asarray((size[a] * D[a] + size[b] * D[b]) / (size[a] + size[b]))
    total = size[a] + size[b] + size
    squared = (size[a] + size) * D[a] ** 2 + (size[b] + size) * D[b] ** 2 - size * D[a, b] ** 2
    return np.sqrt(np.maximum(squared / total, 0))


def groups_of(labels: Labels) -> Iterator[list[int]]:
    """The members of each group."""
    for group in range(max(labels) + 1):
        yield [i for i, of in enumerate(labels) if of == group]
