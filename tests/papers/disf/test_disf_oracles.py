"""DiSF's equations against what is known exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from papers.disf import baselines
from papers.disf.method import (
    EPS,
    Ask,
    Files,
    batches,
    correlations,
    disf,
    disf_farthest,
    disf_with_copies,
    distinct,
    dominance,
    effective_rank,
    greedy,
    lower_bound,
    quota,
    redundancy,
    redundancy_by_gram,
    scores_by_loop,
    scores_by_products,
    scores_by_tensor,
    second_scores,
    select_group,
    spectrum,
    submodularity_ratio,
)


def normals(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def files_of(X: torch.Tensor, **fields: object) -> Files:
    n = len(X)
    there = {"texts": [f"text {i}" for i in range(n)], "domains": np.array(["a", "b"] * n)[:n]}
    return Files(X.numpy(), **{**there, **fields})  # type: ignore[arg-type]


# -- the objective -----------------------------------------------------------------------------


def test_j_by_hand() -> None:
    """Three files of two features: C_12 = cov / sqrt(v_1 v_2) = 1/2."""
    X = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 3.0]], dtype=torch.float64)
    # feature 1: -1 0 1, v = 1; feature 2: -1 -1 2, v = 3; covariance (1 + 2)/2 = 3/2
    assert float(correlations(X)[0, 1]) == pytest.approx(1.5 / math.sqrt(3))
    assert float(redundancy(X)) == pytest.approx(2 * 1.5**2 / 3)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 99))
def test_both_forms_agree_and_keep_the_bound(n: int, d: int, seed: int) -> None:
    X = normals(n, d, seed)
    J = float(redundancy(X))
    assert float(redundancy_by_gram(X)) == pytest.approx(J, rel=1e-9, abs=1e-9)
    assert lower_bound(n, d) - 1e-7 * d * d * (1 / float(X.var(0).min()) + 1) <= J <= d * d - d


@pytest.mark.parametrize(("d", "J"), [(4, 4.0), (5, 7.5), (8, 24.0)])
def test_the_bound_is_reached(d: int, J: float) -> None:
    a, f = torch.meshgrid(torch.arange(3.0), torch.arange(float(d)), indexing="ij")
    X = torch.cos(2 * math.pi * a / 3 + math.pi * f / d).double()
    assert float(redundancy(X)) == pytest.approx(J, abs=1e-5)
    assert lower_bound(3, d) == pytest.approx(J)
    assert spectrum(X)[:2].numpy() == pytest.approx([d / 2, d / 2], abs=1e-5)


def test_the_unit_cube() -> None:
    e = torch.eye(3, dtype=torch.float64)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    assert float(redundancy(e)) == pytest.approx(1.5, abs=1e-6)
    assert float(redundancy(torch.cat([e, 0 * e[:1]]))) == pytest.approx(2 / 3, abs=1e-6)
    assert float(redundancy(corners)) == pytest.approx(0, abs=1e-6)


def test_what_changes_j() -> None:
    X = normals(7, 5)
    J = float(redundancy(X))
    scaled = X * torch.tensor([2.0, -3.0, 0.5, -1.0, 7.0]).double() + normals(1, 5, 1)
    assert float(redundancy(scaled)) == pytest.approx(J, rel=1e-6)
    assert float(redundancy(X.flip(0))) == pytest.approx(J, rel=1e-12)
    rotation = torch.linalg.qr(normals(5, 5, 2))[0]
    assert float(redundancy(X @ rotation)) != pytest.approx(J, rel=1e-2)


def test_a_flat_spectrum_is_a_small_j() -> None:
    """|C|^2 is the sum of squared eigenvalues, the trace is d."""
    X = normals(30, 6)
    eigenvalues = spectrum(X)
    assert float(eigenvalues.sum()) == pytest.approx(6, abs=1e-6)
    assert float(eigenvalues.square().sum() - 6) == pytest.approx(float(redundancy(X)), abs=1e-5)


# -- greedy ------------------------------------------------------------------------------------


@given(st.integers(4, 10), st.integers(2, 9), st.integers(0, 99))
def test_all_candidates_at_once_are_one_after_the_other(m: int, d: int, seed: int) -> None:
    X = normals(m, d, seed)
    for chosen in ([0, 1], [2, 0, 3]):
        loop = scores_by_loop(X, chosen)
        rest = [j for j in range(m) if j not in chosen]
        for scores in (scores_by_products, scores_by_tensor):
            np.testing.assert_allclose(scores(X, chosen)[rest], loop[rest], rtol=1e-6)


def naive(X: torch.Tensor, picks: int, first: int) -> list[int]:
    """Algorithm 1 in three plain loops over numbers."""
    rows, chosen = X.tolist(), [first]
    d = len(rows[0])
    while len(chosen) < picks:
        best: tuple[float, int] = (math.inf, -1)
        for j in range(len(rows)):
            if j in chosen:
                continue
            S, n, z = [rows[i] for i in (*chosen, j)], len(chosen) + 1, []
            for f in range(d):
                mean = sum(x[f] for x in S) / n
                v = sum((x[f] - mean) ** 2 for x in S) / (n - 1)
                z.append([(x[f] - mean) / math.sqrt(v + EPS) for x in S])
            J = sum(
                (sum(a * b for a, b in zip(z[f], z[g], strict=True)) / (n - 1)) ** 2
                for f in range(d)
                for g in range(d)
                if f != g
            )
            best = min(best, (J, j))
        chosen.append(best[1])
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_greedy_is_the_plain_loop(seed: int) -> None:
    X = normals(14, 6, seed)
    for first in (0, 5):
        expected = naive(X, 6, first)
        for form in ("products", "tensor", "loop"):
            assert greedy(X, 6, first, form=form) == expected


def test_greedy_lessens_j() -> None:
    """From the third pick on the best of all candidates; far below random sets."""
    X = normals(12, 4)
    sets = torch.tensor(list(itertools.combinations(range(12), 5)))
    every = redundancy_by_gram(X[sets])
    found = torch.stack([redundancy(X[greedy(X, 5, first)]) for first in range(12)])
    assert float(found.mean()) < 0.6 * float(every.mean())
    assert float(found.min()) >= float(every.min()) - 1e-9


def test_the_second_pick_hangs_on_eps() -> None:
    X = normals(9, 5)
    exact = torch.stack([redundancy(X[[2, j]]) for j in range(9)])
    other = [j for j in range(9) if j != 2]
    assert float((exact[other] - 20).abs().max()) < 1e-3  # d^2 - d for all
    np.testing.assert_allclose(second_scores(X, 2)[other], exact[other], rtol=1e-12)
    near = X.clone()
    near[7, 3] = near[2, 3] + 1e-5  # nearly agrees in one feature
    assert greedy(near, 2, 2)[1] == 7
    far = int((X - X[2]).norm(dim=1).argmax())
    assert greedy(X, 2, 2, tie="farthest")[1] == far


def test_standardising_over_the_set_is_what_counts() -> None:
    """Features of very different size: J does not see sizes, as the ablation and norms do."""
    X, scales = normals(20, 6), 10.0 ** torch.arange(-1, 5).double()
    assert greedy(X, 6, 0, tie="farthest")[2:] != greedy(X, 6, 1, tie="farthest")[2:]
    start = greedy(X, 6, 3)
    assert greedy(X * scales, 6, 3)[0] == start[0]
    one = baselines.once_picks(X, 6, np.random.default_rng(0))
    assert one != greedy(X, 6, one[0])


def test_standardised_once_by_hand() -> None:
    """The ablation's sums are |Z_S^T Z_S|^2 off the diagonal."""
    X = normals(8, 3)
    Z = (X - X.mean(0)) / (X.var(0) + EPS).sqrt()
    chosen = baselines.once_picks(X, 4, np.random.default_rng(1))

    def J(members: list[int]) -> float:
        A = Z[members].T @ Z[members]
        return float(A.square().sum() - A.diagonal().square().sum())

    for t in range(1, 4):
        left = [j for j in range(8) if j not in chosen[:t]]
        assert chosen[t] == min(left, key=lambda j: J([*chosen[:t], j]))


# -- copies --------------------------------------------------------------------------------------


def test_copies_attract_and_are_removed() -> None:
    X = normals(10, 5)
    X[4] = X[8] = X[1]
    assert float(redundancy(X[[1, 4]])) == float(redundancy(X[[1, 4, 8]])) == 0
    assert sorted(greedy(X, 5, 1)[:3]) == [1, 4, 8]  # the public code's fault
    assert distinct(X.numpy()).tolist() == [0, 1, 2, 3, 5, 6, 7, 9]
    twice, ask = torch.cat([X, X]), Ask(20, 6, 0, "crawl")
    for seed in range(12):
        ask = Ask(20, 6, seed, "crawl")
        rows = {tuple(twice[i].tolist()) for i in disf(files_of(twice), ask)}
        assert len(rows) == 6
    kept = [
        len({tuple(twice[i].tolist()) for i in disf_with_copies(files_of(twice), Ask(20, 6, s))})
        for s in range(12)
    ]
    assert max(kept) < 6


def test_near_copies_attract_by_eps_alone() -> None:
    X = normals(10, 5)
    X[6] = X[2] + 1e-3 * normals(1, 5, 3)[0]
    assert greedy(X, 2, 2)[1] == 6
    assert greedy(X, 2, 2, tie="farthest")[1] != 6


def test_where_only_copies_are_left_the_quota_is_kept() -> None:
    X = normals(3, 4).repeat(4, 1)
    assert len(disf(files_of(X), Ask(12, 6, 0))) == 6


# -- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [disf, disf_farthest, baselines.uniform, baselines.facility,
                                 baselines.kcenter, baselines.disf_once])  # fmt: skip
def test_every_batch_gives_its_quota(how: object) -> None:
    files, ask = files_of(normals(70, 5)), Ask(16, 4, 3)
    chosen = how(files, ask)  # type: ignore[operator]
    assert np.array_equal(chosen, np.unique(chosen)) and len(chosen) == 4 * 4 + 2  # a tail of 6
    for members in batches(70, ask):
        assert len(np.intersect1d(members, chosen)) == quota(len(members), 16, 4)
    assert np.array_equal(chosen, how(files, ask))  # type: ignore[operator]
    if how is not baselines.facility:
        assert not np.array_equal(chosen, how(files, Ask(16, 4, 4)))  # type: ignore[operator]


def test_order_of_files() -> None:
    crawl = batches(10, Ask(4, 1, 0, "crawl"))
    assert [part.tolist() for part in crawl] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    flat = np.concatenate(batches(10, Ask(4, 1, 0))).tolist()
    assert sorted(flat) == list(range(10)) and flat != list(range(10))
    other = np.concatenate(batches(10, Ask(4, 1, 0), 1)).tolist()  # each group its own order
    assert sorted(other) == list(range(10)) and other != flat
    assert quota(8, 1024, 16) == 0 and quota(40, 1024, 16) == 1 and quota(1024, 1024, 16) == 16


def test_a_group_alone_is_the_group_in_the_whole() -> None:
    X = normals(50, 4)
    whole = disf(files_of(X, groups=(20, 50)), Ask(10, 3, 5))
    alone = [select_group(X[:20].numpy(), Ask(10, 3, 5), 0),
             20 + select_group(X[20:].numpy(), Ask(10, 3, 5), 1)]  # fmt: skip
    assert np.array_equal(whole, np.concatenate(alone))


# -- what is measured ----------------------------------------------------------------------------


def test_dominance() -> None:
    line = torch.outer(normals(40, 1)[:, 0], torch.ones(6).double())
    assert dominance(spectrum(line), [1, 3]) == pytest.approx([1, 1], abs=1e-6)
    flat = dominance(spectrum(normals(20_000, 10)), [2, 5, 10])
    assert flat == pytest.approx([0.2, 0.5, 1.0], abs=0.02)
    assert effective_rank(spectrum(normals(20_000, 10))) == pytest.approx(10, abs=0.05)
    assert effective_rank(spectrum(line)) == pytest.approx(1, abs=1e-3)
    few = spectrum(normals(8, 30))
    assert len(few) == 8 and float(few[7]) < 1e-9  # n - 1 that are not 0
    whole = torch.linalg.eigvalsh(correlations(normals(8, 30))).flip(0)[:8]
    np.testing.assert_allclose(few, whole, atol=1e-9)


def test_submodularity_ratio() -> None:
    """1 for one file; gains of single files over the joint gain."""
    X = normals(10, 4)
    assert submodularity_ratio(X, [0, 1, 2], [5]) == pytest.approx(1)
    J = lambda *s: float(redundancy(X[list(s)]))  # noqa: E731
    expected = (2 * J(0, 1, 2) - J(0, 1, 2, 5) - J(0, 1, 2, 6)) / (J(0, 1, 2) - J(0, 1, 2, 5, 6))
    assert submodularity_ratio(X, [0, 1, 2], [5, 6]) == pytest.approx(expected)


# -- baselines -------------------------------------------------------------------------------------


def test_facility_location_is_greedy() -> None:
    X = np.random.default_rng(7).standard_normal((12, 3))
    K = baselines.cosines(torch.from_numpy(X)).clamp(min=0)
    found = baselines.cover(K, 6)

    def value(members: list[int]) -> float:
        return float(K[:, members].max(1).values.sum())

    for t in range(6):
        left = [j for j in range(12) if j not in found[:t]]
        gains = {j: value([*found[:t], j]) for j in left}
        assert gains[found[t]] == pytest.approx(max(gains.values()))


def test_dsir_weights_by_hand() -> None:
    texts = ["red red blue", "red blue", "green green green", "green blue"]
    files = Files(np.zeros((4, 2)), texts, np.array(["a", "a", "b", "b"]))
    log_weight = baselines.importance(files, "a")
    grams = [[*t.split(), *map(" ".join, itertools.pairwise(t.split()))] for t in texts]
    buckets = {
        g: int(next(baselines.counted([g])).indices[0]) for t in grams for g in t if " " not in g
    }
    total, towards = np.ones(baselines.BUCKETS), np.ones(baselines.BUCKETS)
    for counts, mine in zip(next(baselines.counted(texts)).toarray(), (1, 1, 0, 0), strict=True):
        total += counts
        towards += mine * counts
    ratio = np.log(towards / towards.sum()) - np.log(total / total.sum())
    assert log_weight[1] == pytest.approx(next(baselines.counted(texts)).toarray()[1] @ ratio)
    assert ratio[buckets["red"]] > 0 > ratio[buckets["green"]]
    assert log_weight[:2].min() > log_weight[2:].max()
    assert next(baselines.counted(["a b c"])).sum() == 5  # three words, two pairs
    chosen = baselines.dsir(files, Ask(4, 2, 0, target="a"))
    assert len(chosen) == 2


def test_dsir_counts_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{i % 7} word{i % 3} other" for i in range(40)]
    one, other = (Files(np.zeros((40, 2)), texts, np.array(["a", "b"] * 20)) for _ in range(2))
    whole = baselines.importance(one, "a")
    assert baselines.importance(one, "a") is whole  # kept for other seeds
    monkeypatch.setattr(baselines, "AT_ONCE", 7)
    np.testing.assert_allclose(baselines.importance(other, "a"), whole)


def test_d4_drops_copies_then_prototypes() -> None:
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.standard_normal((30, 6)), np.ones((10, 6)) + 1e-3])
    X[30:] += 1e-4 * rng.standard_normal((10, 6))
    files = files_of(torch.from_numpy(X))
    chosen = baselines.d4(files, Ask(40, 20, 0))
    assert len(chosen) == 20 and (chosen >= 30).sum() <= 2  # of ten copies one or two are left
    same = files_of(torch.ones(12, 3).double())
    assert len(baselines.d4(same, Ask(12, 6, 0))) == 6


def test_farthest_first() -> None:
    X = torch.tensor([[0.0], [1.0], [10.0], [4.0]])
    chosen = baselines.center_picks(X, 3, np.random.default_rng(0))
    for t in (1, 2):
        left = [j for j in range(4) if j not in chosen[:t]]
        far = {j: float((X[chosen[:t]] - X[j]).abs().min()) for j in left}
        assert far[chosen[t]] == max(far.values())


def test_budgets_are_equal() -> None:
    files = files_of(normals(70, 5))
    ask = Ask(16, 4, 0, target="a")
    sizes = {
        len(how(files, ask)) for how in (disf, baselines.uniform, baselines.dsir, baselines.d4)
    }
    assert sizes == {baselines.budget(files, ask)} == {18}
    assert len(baselines.full(files, ask)) == 70
