"""Every number of the linkages against SciPy; groups of the baselines."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.cluster.hierarchy
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from papers.hc_smoe import baselines
from papers.hc_smoe.clustering import Floats, History, agglomerate, groups_of, renumbered


def points_of(seed: int, n: int | None = None) -> Floats:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n or int(rng.integers(2, 17)), int(rng.integers(1, 9))))


@pytest.mark.parametrize("linkage", ["single", "average", "complete", "ward"])
def test_every_join_is_scipys(linkage: str) -> None:
    for seed in range(100):
        apart = pdist(points_of(seed))
        theirs = scipy.cluster.hierarchy.linkage(apart, linkage)
        ours = agglomerate(squareform(apart), linkage)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours.matrix(), theirs, rtol=1e-9)
        for r in range(1, len(theirs) + 2):
            labels = scipy.cluster.hierarchy.fcluster(theirs, r, "maxclust")
            assert ours.cut(r) == renumbered(labels.tolist()), (seed, r)


def by_definition(D: Floats, r: int, linkage: str) -> list[int]:
    """Groups by looking at all pairs of all groups anew after every join."""
    groups = [[i] for i in range(len(D))]
    reduce = {"single": np.min, "average": np.mean, "complete": np.max}[linkage]
    while len(groups) > r:
        pairs = itertools.combinations(range(len(groups)), 2)
        links = {(a, b): reduce(D[np.ix_(groups[a], groups[b])]) for a, b in pairs}
        a, b = min(links, key=lambda pair: links[pair])
        groups[a] = groups[a] + groups.pop(b)
    label = {i: g for g, members in enumerate(groups) for i in members}
    return renumbered([label[i] for i in range(len(D))])


@given(st.integers(0, 10**6), st.sampled_from(["single", "average", "complete"]))
def test_groups_by_definition(seed: int, linkage: str) -> None:
    D = squareform(pdist(points_of(seed)))
    r = 1 + seed % len(D)
    assert agglomerate(D, linkage).cut(r) == by_definition(D, r, linkage)  # type: ignore[arg-type]


def test_ties_go_to_the_first_pair_and_duplicates_join_first() -> None:
    D = 1 - np.eye(4)
    assert agglomerate(D, "average").pairs == ((0, 1), (0, 2), (0, 3))
    points = points_of(3, 6)
    points[4] = points[1]
    history = agglomerate(squareform(pdist(points)))
    assert history.pairs[0] == (1, 4) and history.heights[0] == 0.0


def test_masses_are_copies() -> None:
    """Ward with an expert of mass 2 is Ward with that expert twice."""
    for seed in range(20):
        points = points_of(seed, 6)
        twice = np.vstack([points, points[:2]])
        theirs = scipy.cluster.hierarchy.ward(pdist(twice))[2:, 2]
        ours = agglomerate(squareform(pdist(points)), "ward", sizes=[2, 2, 1, 1, 1, 1])
        np.testing.assert_allclose(ours.heights, theirs, rtol=1e-9)


def test_the_released_linkages_are_others() -> None:
    """Complete linkage that joins the farthest pair; Ward with an unsquared norm."""
    differ = {"complete": 0, "ward": 0}
    for seed in range(60):
        points = points_of(seed, 8)
        D = squareform(pdist(points))
        for name in differ:
            released = agglomerate(D, f"{name}-released")  # type: ignore[arg-type]
            right = agglomerate(D, name)  # type: ignore[arg-type]
            differ[name] += released.cut(4) != right.cut(4)
        first = agglomerate(D, "complete-released")
        assert first.heights[0] == D.max()
        # the first join of the unsquared form is |a - b| / 2, then ab/(a + b) |mu_A - mu_B|
        unsquared = agglomerate(D, "ward-released")
        assert unsquared.heights[0] == pytest.approx(np.sort(D[np.triu_indices(8, 1)])[0] / 2)
        groups = {i: [i] for i in range(8)}
        for (a, b), height in zip(unsquared.pairs, unsquared.heights, strict=True):
            na, nb = len(groups[a]), len(groups[b])
            gap = points[groups[a]].mean(0) - points[groups[b]].mean(0)
            assert height == pytest.approx(na * nb / (na + nb) * np.linalg.norm(gap))
            groups[a] += groups.pop(b)
    assert differ["complete"] == 60 and 10 < differ["ward"] < 60


def test_cutting() -> None:
    history = agglomerate(squareform(pdist(points_of(1, 5))))
    assert history.cut(5) == [0, 1, 2, 3, 4] and history.cut(1) == [0] * 5
    for wrong in (0, 6):
        with pytest.raises(ValueError, match="5 experts make 1 to 5 groups"):
            history.cut(wrong)
    assert History((), ()).cut(1) == [0]
    assert list(groups_of([0, 1, 0, 2])) == [[0, 2], [1], [3]]


# -- other groups, and experts that stay ----------------------------------------------------------


def test_k_means_groups() -> None:
    points = np.repeat(np.eye(4)[:, :3] * 10, 3, axis=0) + 0.01 * points_of(0, 12)[:, :1]
    assert baselines.k_means(points, 4, seed=0) == [i // 3 for i in range(12)]
    starts = {tuple(baselines.k_means(points_of(5, 16), 6, seed)) for seed in range(8)}
    assert len(starts) > 1  # it depends on its start; hierarchical clustering has none


def test_one_shot_groups() -> None:
    similarity = np.array(
        [[1, 0.1, 0.9, 0.2], [0.1, 1, 0.3, 0.8], [0.9, 0.3, 1, 0.0], [0.2, 0.8, 0.0, 1]]
    )
    usage = np.array([0.4, 0.3, 0.2, 0.1])
    assert baselines.one_shot(similarity, [0, 1], usage) == [0, 1, 0, 1]
    alike = np.ones((4, 4)) - 0.5 * np.eye(4)[[0]] * 0
    assert baselines.one_shot(alike, [0, 1], usage) == [0, 1, 0, 0]
    assert baselines.one_shot(alike, [0, 1], usage, largest=2) == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="2 groups of 1 cannot hold 4"):
        baselines.one_shot(alike, [0, 1], usage, largest=1)


def test_random_groups_are_balanced_and_differ() -> None:
    drawn = [baselines.random_groups(8, 3, np.random.default_rng(i)) for i in range(20)]
    assert all(sorted(np.bincount(labels)) == [2, 3, 3] for labels in drawn)
    assert all(labels == renumbered(labels) for labels in drawn)
    assert len(set(map(tuple, drawn))) > 15


def test_what_stays() -> None:
    usage = [np.array([0.7, 0.1, 0.1, 0.1]), np.array([0.3, 0.3, 0.2, 0.2])]
    assert baselines.most(usage[0], 2) == [0, 1] and baselines.most(usage[1], 3) == [0, 1, 2]
    assert baselines.most_of_all(usage, 4) == [[0], [0, 1, 2]]
    # at least one per layer, however little it is used
    assert baselines.most_of_all([np.array([0.1, 0.2]), np.array([5.0, 6.0])], 3) == [[1], [0, 1]]


def test_subsets() -> None:
    rng = np.random.default_rng(0)
    assert (
        len(baselines.subsets(8, 4, 70, rng)) == 70 and len(baselines.subsets(8, 6, 70, rng)) == 28
    )
    drawn = baselines.subsets(16, 8, 200, rng)
    assert len(drawn) == 200 and all(len(set(s)) == 8 and s == tuple(sorted(s)) for s in drawn)
