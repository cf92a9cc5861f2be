"""Oracles of merging: what is known exactly, and "with this setting it equals that"."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.textlab import models
from papers.hc_smoe import baselines
from papers.hc_smoe.clustering import agglomerate
from papers.hc_smoe.layers import (
    Reduced,
    blocks_of,
    experts_of,
    inputs_of,
    install,
    pruned,
    routing_of,
    visit_inputs,
)
from papers.hc_smoe.method import (
    Calibration,
    Experts,
    MergedExperts,
    Statistics,
    correlation,
    distances,
    fix_dominant,
    hidden,
    merge,
    outputs,
    representative,
    routing,
    selections,
    zip_neurons,
)

torch.set_num_threads(1)
KINDS = ("mixtral", "qwen")


def mixture(kind: str, seed: int = 0, experts: int = 6, active: int = 2) -> Any:
    """A random mixture with weights large enough that routing and experts differ."""
    sizes: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "hidden": 8, "seed": seed}
    sizes |= {"experts": experts, "active": active, "balance": 0.0}
    if kind == "qwen":
        model = models.qwen_moe(64, 32, shared=16, **sizes)
    else:
        model = models.mixtral(64, 32, **sizes)
    model.config.output_router_logits = False
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(8)
    model.set_experts_implementation("eager")
    return model.eval().requires_grad_(False)


def windows(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randint(64, (n, 20), generator=torch.Generator().manual_seed(seed))


def random_experts(n: int, D: int = 5, ff: int = 7, seed: int = 0) -> Experts:
    g = torch.Generator().manual_seed(seed)
    return Experts(torch.randn(n, 2 * ff, D, generator=g), torch.randn(n, D, ff, generator=g))


def statistics_of(model: Any, tokens: torch.Tensor, chunk: int = 7) -> list[Statistics]:
    sums = [Calibration(experts_of(block), chunk) for block in blocks_of(model)]
    visit_inputs(model, tokens, lambda i, *seen: sums[i].add(*seen), batch=4)
    return [of.statistics() for of in sums]


def merged(model: Any, labels: list[int], tokens: torch.Tensor) -> list[Reduced]:
    usage = [of.usage for of in statistics_of(model, tokens)]
    layers = [experts_of(block) for block in blocks_of(model)]
    return [Reduced(merge(e, labels, f), labels) for e, f in zip(layers, usage, strict=True)]


# -- Eq. 1 to 4: experts, routing, calibration ----------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_routing_make_the_librarys_layer(kind: str) -> None:
    model = mixture(kind)
    for block, seen in zip(blocks_of(model), inputs_of(model, windows()), strict=True):
        each = outputs(experts_of(block), seen.x)  # [n, T, D]
        P = routing(seen.logits, *routing_of(block))  # [T, n]
        ours = torch.einsum("tn,ntd->td", P, each)
        if kind == "qwen":
            ours = ours + block.shared_expert_gate(seen.x).sigmoid() * block.shared_expert(seen.x)
        torch.testing.assert_close(ours, block(seen.x[None])[0], rtol=1e-5, atol=1e-5)
        assert (P > 0).sum(1).eq(2).all()
        assert routing_of(block) == (2, kind == "mixtral")


def test_shares_of_the_chosen_are_normalised_or_not() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -torch.inf]])
    p = logits.softmax(-1)[0]
    np.testing.assert_allclose(routing(logits, 2, False)[0], [p[0], p[1], 0, 0])
    np.testing.assert_allclose(routing(logits, 2, True)[0, :2], p[:2] / p[:2].sum())
    assert routing(logits[:, :1], 2, True).tolist() == [[1.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_by_a_naive_loop(kind: str) -> None:
    """Over all tokens, routed to the expert or not, and without the router's weights."""
    model, tokens = mixture(kind), windows()
    for block, seen, of in zip(
        blocks_of(model), inputs_of(model, tokens), statistics_of(model, tokens), strict=True
    ):
        n, T = 6, len(seen.x)
        y = torch.zeros(n, T, 16, dtype=torch.float64)
        for i in range(n):
            for t in range(T):
                gate, up = (block.experts.gate_up_proj[i] @ seen.x[t]).chunk(2)
                y[i, t] = (block.experts.down_proj[i] @ (F.silu(gate) * up)).double()
        close = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(of.output, y.mean(1), **close)
        torch.testing.assert_close(of.products, torch.einsum("itd,jtd->ij", y, y) / T, **close)
        z = seen.logits.double()
        torch.testing.assert_close(of.logits, z.mT @ z / T, **close)
        torch.testing.assert_close(of.score, z.softmax(-1).mean(0), **close)
        chosen = seen.logits.topk(2).indices
        counts = torch.tensor([float((chosen == i).sum()) for i in range(n)])
        torch.testing.assert_close(of.usage, (counts / counts.sum()).double())
        by_token = (y[0] - y[1]).square().sum(1).mean().sqrt()
        experts = experts_of(block)
        assert distances("tokens", experts, of)[0, 1] == pytest.approx(float(by_token), rel=1e-5)
        gap = (of.output[2] - of.output[4]).norm()
        assert distances("output", experts, of)[2, 4] == pytest.approx(float(gap))
        flat = [
            torch.cat([w[i].flatten() for w in (experts.gate_up, experts.down)]) for i in (1, 3)
        ]
        weights = (flat[0] - flat[1]).norm()
        assert distances("weight", experts, of)[1, 3] == pytest.approx(float(weights))
        column = (z[:, 0] - z[:, 5]).square().mean().sqrt()
        assert distances("router", experts, of)[0, 5] == pytest.approx(float(column), rel=1e-4)


def test_counting_two_choices_where_four_are_made_is_another_usage() -> None:
    """The public code takes the top 2 of Qwen's router for the usage; the model uses 4."""
    model, tokens = mixture("qwen", active=4), windows(20)
    seen, of = inputs_of(model, tokens)[0], statistics_of(model, tokens)[0]
    counts = selections(seen.logits.topk(4).indices, 6)
    torch.testing.assert_close(of.usage, counts / counts.sum())
    two = selections(seen.logits.topk(2).indices, 6)
    assert (of.usage - two / two.sum()).abs().max() > 0.02


def test_clusters_do_not_depend_on_names_or_a_common_shift() -> None:
    model, tokens = mixture("mixtral"), windows()
    of, experts = statistics_of(model, tokens)[0], experts_of(blocks_of(model)[0])
    labels = agglomerate(distances("output", experts, of)).cut(3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = agglomerate(
        distances(
            "output", experts, Statistics(of.output[order], *[of.usage] * 2, *[of.logits] * 2)
        )
    ).cut(3)
    same = np.array(labels)[order][:, None] == np.array(labels)[order]
    assert np.array_equal(same, np.array(other)[:, None] == np.array(other))
    shifted = Statistics(of.output + 3.0, of.usage, of.score, of.logits, of.products)
    assert agglomerate(distances("output", experts, shifted)).cut(3) == labels


# -- Eq. 7: merging -------------------------------------------------------------------------------


def test_the_average_is_weighted_by_usage() -> None:
    one = Experts(
        torch.tensor([1.0, 5.0]).view(2, 1, 1).repeat(1, 2, 1), torch.tensor([[[1.0]], [[5.0]]])
    )
    for usage, wanted in (((3.0, 1.0), 2.0), ((0.0, 0.0), 3.0), ((0.0, 7.0), 5.0), ((1, 1), 3.0)):
        found = merge(one, [0, 0], torch.tensor(usage))
        assert found.gate_up.unique().tolist() == [wanted] == found.down.unique().tolist()


def test_merged_entries_lie_between_the_members() -> None:
    experts, labels = random_experts(7), [0, 1, 0, 2, 1, 0, 3]
    found = merge(experts, labels, torch.rand(7, generator=torch.Generator().manual_seed(1)))
    for group in range(4):
        own = experts.of([i for i in range(7) if labels[i] == group])
        for ours, theirs in ((found.gate_up, own.gate_up), (found.down, own.down)):
            assert (ours[group] <= theirs.amax(0) + 1e-6).all()
            assert (ours[group] >= theirs.amin(0) - 1e-6).all()


def test_a_group_of_one_is_copied_whatever_its_usage() -> None:
    """With an epsilon in the denominator an unused expert would become zeros."""
    experts = random_experts(3)
    found = merge(experts, [0, 1, 2], torch.tensor([0.0, 1e-9, 1.0]))
    assert torch.equal(found.gate_up, experts.gate_up) and torch.equal(found.down, experts.down)
    assert found.down.data_ptr() != experts.down.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_experts_the_model_is_the_original(kind: str) -> None:
    model, tokens = mixture(kind), windows()
    before = model(input_ids=tokens).logits
    with install(model, merged(model, [0, 1, 2, 3, 4, 5], tokens)):
        assert torch.equal(model(input_ids=tokens).logits, before)
    with install(model, merged(model, [0, 0, 1, 1, 2, 2], tokens)):
        assert (model(input_ids=tokens).logits - before).abs().max() > 1e-2
        assert all(block.experts.num_experts == 3 for block in blocks_of(model))
        assert all(len(block.gate.weight) == 6 for block in blocks_of(model))  # it stays
    assert torch.equal(model(input_ids=tokens).logits, before)  # and back


@pytest.mark.parametrize("kind", KINDS)
def test_duplicates_are_joined_first_and_cost_nothing(kind: str) -> None:
    model, tokens = mixture(kind), windows()
    for block in blocks_of(model):
        block.experts.gate_up_proj[4] = block.experts.gate_up_proj[1]
        block.experts.down_proj[4] = block.experts.down_proj[1]
    before = model(input_ids=tokens).logits
    labels = []
    for block, of in zip(blocks_of(model), statistics_of(model, tokens), strict=True):
        history = agglomerate(distances("output", experts_of(block), of))
        assert history.pairs[0] == (1, 4) and history.heights[0] == 0
        labels.append(history.cut(5))
    assert labels == [[0, 1, 2, 3, 1, 4]] * 2
    with install(model, merged(model, labels[0], tokens)):
        torch.testing.assert_close(model(input_ids=tokens).logits, before, rtol=1e-5, atol=1e-5)


def test_one_neuron_by_hand() -> None:
    """E(x) = d SiLU(g x) (u x): the merged expert is not the mean of the outputs."""
    gate_up = torch.tensor([[[1.0], [2.0]], [[2.0], [1.0]]])  # (g, u) = (1, 2) and (2, 1)
    experts = Experts(gate_up, torch.ones(2, 1, 1))
    one = torch.ones(1, 1)
    both = merge(experts, [0, 0], torch.tensor([0.5, 0.5]))
    assert float(outputs(both, one)) == pytest.approx(1.839543, abs=1e-6)
    assert float(outputs(experts, one).mean()) == pytest.approx(1.611856, abs=1e-6)


def permuted(experts: Experts, order: torch.Tensor) -> Experts:
    gate, up = experts.gate_up.chunk(2, dim=1)
    return Experts(torch.cat([gate[:, order], up[:, order]], 1), experts.down[:, :, order])


def test_fix_dominant_and_zip_undo_a_permutation_of_neurons() -> None:
    experts = random_experts(1)
    order = torch.tensor([3, 1, 6, 0, 5, 2, 4])
    twin = permuted(experts, order)
    both = Experts(torch.cat([experts.gate_up, twin.gate_up]), torch.cat([experts.down, twin.down]))
    x = torch.randn(500, 5, generator=torch.Generator().manual_seed(1))
    whole, usage = outputs(experts, x), torch.tensor([0.7, 0.3])
    means = outputs(both, x).mean(1).double()
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(outputs(twin, x), whole, **close)
    torch.testing.assert_close(outputs(fix_dominant(both, [0, 0], means, x), x), whole, **close)
    torch.testing.assert_close(outputs(zip_neurons(both, [0, 0], usage, x), x), whole, **close)
    fitted = baselines.aligned(both, [0, 0], [0])
    torch.testing.assert_close(outputs(merge(fitted, [0, 0], usage), x), whole, **close)
    assert (outputs(merge(both, [0, 0], usage), x) - whole).abs().max() > 0.5


def test_fix_dominant_averages_by_neuron_of_the_representative() -> None:
    """By a loop, where several neurons of another expert choose the same one."""
    experts = random_experts(3, seed=2)
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(3))
    means = outputs(experts, x).mean(1).double()
    frame = representative([0, 1, 2], means)
    distance = (means - means.mean(0)).norm(dim=1)
    assert frame == int(distance.argmin())
    h = hidden(experts, x)
    rows: list[list[torch.Tensor]] = [[] for _ in range(7)]
    for i in range(3):
        gate, up = experts.gate_up[i].chunk(2)
        for k in range(7):
            to = k
            if i != frame:
                each = [np.corrcoef(h[i, :, k], h[frame, :, b])[0, 1] for b in range(7)]
                to = int(np.argmax(each))
            rows[to].append(torch.cat([gate[k], up[k], experts.down[i, :, k]]))
    wanted = torch.stack([torch.stack(own).mean(0) for own in rows])
    found = fix_dominant(experts, [0, 0, 0], means, x)
    gate, up = found.gate_up[0].chunk(2)
    ours = torch.cat([gate, up, found.down[0].mT], dim=1)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    assert max(map(len, rows)) > 3  # else this would show nothing


def test_of_two_members_the_first_is_the_representative() -> None:
    for seed in range(20):
        points = torch.randn(4, 9, generator=torch.Generator().manual_seed(seed)).double()
        assert representative([1, 3], points) == 1
    assert representative([0, 2, 3], torch.tensor([[0.0], [9.0], [5.0], [4.0]])) == 3


def test_correlation_of_a_constant_is_zero() -> None:
    a = torch.stack([torch.arange(5.0), torch.ones(5)], dim=1)
    assert correlation(a, a).tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0]]


# -- Eq. 8: after merging -------------------------------------------------------------------------


def test_two_selected_experts_of_a_group_add_their_shares() -> None:
    experts = random_experts(2)
    module = MergedExperts(experts, [0, 1, 0, 0])
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(4))
    chosen = torch.tensor([[0, 2]] * 4 + [[3, 1]] * 5)
    weights = torch.tensor([[0.3, 0.2]] * 4 + [[0.6, 0.1]] * 5)
    E = outputs(experts, x)
    found = module(x, chosen, weights)
    torch.testing.assert_close(found[:4], 0.5 * E[0, :4])  # once, with (P_0 + P_2)
    torch.testing.assert_close(found[4:], 0.6 * E[0, 4:] + 0.1 * E[1, 4:])
    weights[:4] = torch.tensor([0.75, 0.25])  # normalised, both in one group: y = E(x)
    torch.testing.assert_close(module(x, chosen, weights)[:4], E[0, :4])


def test_a_group_is_evaluated_once_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    linear = F.linear

    def counting(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(x))
        return linear(x, *rest)

    module = MergedExperts(random_experts(1), [0, 0])
    monkeypatch.setattr(F, "linear", counting)
    module(torch.randn(6, 5), torch.tensor([[0, 1]] * 6), torch.full((6, 2), 0.5))
    assert rows == [6, 6]  # W_gate and W_up, then W_down: not 12 tokens


# -- pruning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_is_brute_force_over_the_librarys_layers(kind: str) -> None:
    model, tokens = mixture(kind, experts=4), windows()
    block, seen = blocks_of(model)[0], inputs_of(model, tokens)[0]
    experts, candidates = experts_of(block), list(itertools.combinations(range(4), 2))
    rule = routing_of(block)
    found = baselines.search(experts, seen.x, seen.logits, candidates, *rule, chunk=50, at_once=4)
    whole = block(seen.x[None])[0]
    errors = []
    for subset in candidates:
        layers = [pruned(experts_of(b), subset) for b in blocks_of(model)]
        with install(model, layers):
            errors.append(float((block(seen.x[None])[0] - whole).square().sum()))
    np.testing.assert_allclose(found, errors, rtol=1e-3)
    assert found.argmin() == np.argmin(errors) and len(set(np.round(found, 3))) > 3
    every = baselines.search(experts, seen.x, seen.logits, [(0, 1, 2, 3)], *rule)
    assert every.tolist() == [0.0]


def test_dropping_an_expert_that_is_never_chosen() -> None:
    """It costs nothing where shares are normalised; else the softmax over the rest changes."""
    experts = random_experts(4)
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    logits[:, 2] = logits.amin(1) - 0.1
    lost = [baselines.search(experts, x, logits, [(0, 1, 3)], 2, n)[0] for n in (True, False)]
    assert lost[0] < 1e-6 < 1e-2 < lost[1]


def test_a_pruned_router_knows_what_stays() -> None:
    model, tokens = mixture("mixtral"), windows()
    gates = [block.gate for block in blocks_of(model)]
    weights = [gate.weight.clone() for gate in gates]
    with install(model, [pruned(experts_of(b), [1, 4, 5]) for b in blocks_of(model)]):
        for block, weight in zip(blocks_of(model), weights, strict=True):
            assert torch.equal(block.gate.weight, weight[[1, 4, 5]])
            x = torch.randn(7, 16)
            assert block.gate(x)[2].max() <= 2
        model(input_ids=tokens)
    assert [block.gate for block in blocks_of(model)] == gates
    assert all(torch.equal(g.weight, w) for g, w in zip(gates, weights, strict=True))
    assert all(g.num_experts == 6 for g in gates)
    one = [pruned(experts_of(b), [3]) for b in blocks_of(model)]
    with install(model, one):  # fewer than k: all that are left
        assert model(input_ids=tokens).logits.isfinite().all()
