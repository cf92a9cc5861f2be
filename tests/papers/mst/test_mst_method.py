"""Oracles of the method: densities, masks, topology, phases, attention, operations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.textlab import models
from papers.mst.baselines import rigl, set_, ticket
from papers.mst.config import Config
from papers.mst.costs import counted, prunable
from papers.mst.learning import adamw, forget, loss_sum
from papers.mst.method import (
    PHASES,
    Masks,
    Variation,
    attention_pattern,
    course,
    drop_fraction,
    drop_score,
    layer_densities,
    mixed_growing,
    n_changes,
)
from papers.mst.methods import METHODS
from papers.mst.plain import plain_of
from papers.mst.plan import costs, plan_of
from papers.mst.task import TASKS, model_of

SHAPES = {"qkv": (96, 32), "out": (32, 32), "up": (128, 32), "down": (32, 128)}
SIZES = {name: rows * cols for name, (rows, cols) in SHAPES.items()}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layers(seed: int = 0) -> dict[str, Tensor]:
    g = draws(seed)
    return {name: torch.randn(shape, generator=g) for name, shape in SHAPES.items()}


# -- Eq. 1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_densities_have_the_global_sparsity_and_the_law_of_erdos_renyi(sparsity: float) -> None:
    D = layer_densities(SHAPES, sparsity)
    kept = sum(D[name] * SIZES[name] for name in SHAPES)
    assert kept == pytest.approx((1 - sparsity) * sum(SIZES.values()), rel=1e-9)
    assert max(D.values()) <= 1
    laws = [D[n] * SIZES[n] / sum(SHAPES[n]) for n in SHAPES if D[n] < 1]
    assert laws == pytest.approx([laws[0]] * len(laws)) if laws else sparsity == 0
    uniform = layer_densities(SHAPES, sparsity, "uniform")
    assert set(uniform.values()) == {1 - sparsity}


def test_densities_of_an_example() -> None:
    D = layer_densities(SHAPES, 0.9)
    assert list(D.values()) == pytest.approx([0.1, 0.15, 0.09375, 0.09375])
    assert set(layer_densities(SHAPES, 0.0).values()) == {1.0}
    crowded = layer_densities(SHAPES, 0.2)  # here the small layer is dense
    assert crowded["out"] == 1 and crowded["up"] < 0.8 < crowded["qkv"] + 0.1


# -- Algorithm 1 ----------------------------------------------------------------------------------


def test_counts_of_an_update() -> None:
    assert n_changes(100, 20, 0.2, 0.3) == (6, 6)
    assert n_changes(100, 20, 0.1, 0.3) == (10, 0)  # shrinks by more than f
    assert n_changes(100, 20, 0.15, 0.3) == (6, 1)
    assert n_changes(100, 20, 0.5, 0.3) == (6, 36)
    assert n_changes(100, 20, 1.0, 0.3) == (6, 86)  # everything comes back
    assert n_changes(3, 1, 1.0, 0.0) == (0, 2)


@given(st.integers(1, 5000), st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_counts_are_possible_and_hit_the_target(
    size: int, now: float, then: float, fraction: float
) -> None:
    active = size - int((1 - now) * size)
    n_prune, n_grow = n_changes(size, active, then, fraction)
    assert 0 <= n_prune <= active and n_grow >= 0
    assert n_grow <= size - active + n_prune
    assert abs(active - n_prune + n_grow - then * size) <= 1


@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0, math.inf])
def test_drop_and_growth_against_brute_force(ratio: float) -> None:
    g = draws(1)
    w, G = torch.randn(9, 11, generator=g), torch.randn(9, 11, generator=g)
    mask = torch.rand(9, 11, generator=g) < 0.4
    w = w * mask
    active, density, fraction = int(mask.sum()), 0.5, 0.3
    new = mixed_growing(w, mask, G, density, fraction, draws(2), ratio=ratio)
    n_prune, n_grow = n_changes(99, active, density, fraction)
    entries = sorted((abs(float(w[i])), i) for i in map(tuple, mask.nonzero().tolist()))
    dropped = {i for _, i in entries[:n_prune]}
    left = {i for _, i in entries[n_prune:]}
    everywhere = {(i, j) for i in range(9) for j in range(11)}
    by_gradient = sorted((-abs(float(G[i])), i) for i in everywhere - left)
    n_g = n_grow if ratio == math.inf else int(n_grow * ratio / (ratio + 1))
    chosen = {i for _, i in by_gradient[:n_g]}
    found = set(map(tuple, new.nonzero().tolist()))
    assert left | chosen <= found and len(found) == len(left) + n_grow
    if ratio == math.inf:
        assert found == left | chosen
    assert dropped  # some of these may be back


def test_mixed_growing_is_rigl_with_all_gradient_and_set_with_none() -> None:
    g = draws(1)
    w, G = torch.randn(20, 30, generator=g), torch.randn(20, 30, generator=g)
    mask = torch.rand(20, 30, generator=g) < 0.2
    for density in (0.1, int(mask.sum()) / 600, 0.4):
        ours = mixed_growing(w, mask, G, density, 0.3, draws(3), ratio=math.inf)
        assert ours.equal(rigl(w, mask, G, density, 0.3, draws(3)))
        ours = mixed_growing(w, mask, None, density, 0.3, draws(3), ratio=0.0)
        assert ours.equal(set_(w, mask, None, density, 0.3, draws(3)))
    for needs in (mixed_growing, rigl):
        with pytest.raises(ValueError, match="dense gradient"):
            needs(w, mask, None, 0.5, 0.3, draws(3))


def test_scores_of_the_drop() -> None:
    """The public code makes ``use_mest`` a tuple, so that its third score is never reached."""
    w, G = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([5.0, 0.1, 1.0])
    assert drop_score(w, G).argmin() == 0
    assert drop_score(w, G, "mest", mixing=1.0).argmin() == 1
    assert drop_score(w, G, "mest", mixing=0.0).equal(drop_score(w, G))
    torch.testing.assert_close(
        drop_score(w, G, "sensitivity"), torch.tensor([0.2, 20.0, 3.0]), rtol=1e-5, atol=0
    )


def test_an_update_leaves_what_it_should() -> None:
    weights = layers()
    masks = Masks(weights, 0.5, draws(1))
    before = {n: (w.clone(), masks.bits[n].clone()) for n, w in weights.items()}
    assert masks.density == pytest.approx(0.5, abs=1e-3)
    change = masks.evolve(0.8, 0.3, layers(5), draws(2))
    assert masks.density == pytest.approx(0.2, abs=1e-3)
    for name, (w, old) in before.items():
        now, new = weights[name], masks.bits[name]
        assert (now[~new] == 0).all() and (now[new & ~old] == 0).all()
        assert now[new & old].equal(w[new & old])  # dropped and back: it keeps its value
        assert change.grown[name].equal(new & ~old)
        expected = n_changes(new.numel(), int(old.sum()), int(new.sum()) / new.numel(), 0.3)
        assert int(new.sum()) - int(old.sum()) == expected[1] - expected[0]
    came = sum(int(g.sum()) for g in change.grown.values())
    assert change.changed == came / sum(int(m.sum()) for m in masks.bits.values())


def test_at_constant_sparsity_the_density_stays_and_without_drop_the_mask_does() -> None:
    weights, G = layers(), layers(7)
    masks = Masks(weights, 0.8, draws(1))
    first, density = {n: m.clone() for n, m in masks.bits.items()}, masks.density
    for t in range(300):
        masks.evolve(0.8, drop_fraction(t, 0, 300), G, draws(t))
        if t % 50 == 0:
            for w in weights.values():
                w.add_(torch.randn(w.shape, generator=draws(t)))
            masks.mask_weights()
    assert masks.density == density and masks.explored > 0.5
    still = Masks(layers(), 0.8, draws(1))
    assert all(still.bits[n].equal(first[n]) for n in first)
    for t in range(20):
        still.evolve(0.8, 0.0, G, draws(t))
    assert all(still.bits[n].equal(first[n]) for n in first) and still.explored == density


def test_from_sparse_to_dense_nothing_is_lost_to_rounding() -> None:
    masks = Masks(layers(), 0.9, draws(1))
    for target in (0.7, 0.333, 0.1, 0.0):
        masks.evolve(target, 0.1, layers(3), draws(2))
        assert masks.density == pytest.approx(1 - target, abs=1e-3)
    assert masks.density == 1.0


def test_the_drop_fraction_is_a_cosine() -> None:
    assert drop_fraction(0, 0, 100) == 0.3
    assert drop_fraction(50, 0, 100) == pytest.approx(0.15)
    assert drop_fraction(25, 0, 100, 0.4) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))
    assert drop_fraction(100, 0, 100) == drop_fraction(200, 0, 100) == pytest.approx(0)
    plan, cfg = plan_of(Config()), Config(stepwise=True)
    assert plan.fraction(120, cfg) == plan.fraction(960, cfg) == 0.3  # begins anew
    assert plan.fraction(960, Config()) < 0.05 < plan.fraction(960, cfg)


def test_a_ticket_is_the_largest_weights() -> None:
    found = ticket(layers(), 0.9)
    for name, w in layers().items():
        mask = found[name]
        assert w[mask].abs().min() > w[~mask].abs().max()
        assert int(mask.sum()) / mask.numel() == pytest.approx(
            layer_densities(SHAPES, 0.9)[name], abs=1e-3
        )


# -- Eq. 2: masked training -----------------------------------------------------------------------


def test_the_masked_gradient_is_that_of_the_masked_function() -> None:
    """d/dW f(W * M) = M * (grad f)(W * M)."""
    task = replace(TASKS["gpt2-tiny"], layers=1, width=8, heads=2, vocabulary=20, length=6)
    model = model_of(task, 8, 2, 0).double()
    weights = prunable(model, head=True)
    assert "lm_head.weight" in weights and weights["lm_head.weight"] is model.transformer.wte.weight
    original = {n: w.detach().clone() for n, w in weights.items()}
    masks = Masks(weights, 0.6, draws(1))
    x = torch.randint(20, (3, 7), generator=draws(2))
    loss_sum(model, task, x[:, :-1], x[:, 1:], None).backward()
    masks.mask_gradients()
    name = "transformer.h.0.mlp.c_fc.weight"
    at, step = original[name], 1e-6
    for i, j in ((0, 0), (3, 5), (7, 31), (2, 9)):
        sides = []
        for sign in (1, -1):
            moved = at.clone()
            moved[i, j] += sign * step
            with torch.no_grad():
                weights[name].copy_(moved * masks.bits[name])
                sides.append(loss_sum(model, task, x[:, :-1], x[:, 1:], None))
        slope = float((sides[0] - sides[1]) / (2 * step))
        assert float(weights[name].grad[i, j]) == pytest.approx(slope, abs=1e-4)


def test_masked_weights_stay_zero_whatever_the_optimiser_does() -> None:
    task = replace(TASKS["gpt2-tiny"], layers=1, width=8, heads=2, vocabulary=20, length=6)
    model = model_of(task, 8, 2, 0)
    masks = Masks(prunable(model, head=False), 0.6, draws(1))
    optimizer = adamw(model, masks, 0.01, 0.1)
    for i in range(6):
        x = torch.randint(20, (3, 7), generator=draws(i))
        optimizer.zero_grad()
        loss_sum(model, task, x[:, :-1], x[:, 1:], None).backward()
        if i == 3:
            change = masks.evolve(0.7, 0.3, masks.gradients(), draws(2))
            grown = change.grown["transformer.h.0.mlp.c_fc.weight"]
            continue
        masks.mask_gradients()
        optimizer.step()
        moved = any(bool((w[~masks.bits[n]] != 0).any()) for n, w in masks.weights.items())
        assert moved == (i > 3)  # by the moments of those that were dropped
        masks.mask_weights()
        assert all(bool((w[~masks.bits[n]] == 0).all()) for n, w in masks.weights.items())
    assert grown.any()
    decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert decayed == {id(w) for w in masks.weights.values()}
    assert optimizer.param_groups[1]["weight_decay"] == 0


def test_grown_connections_forget_their_moments() -> None:
    """The public code looks for SGD's momentum buffer: under AdamW the moments stay."""
    w = torch.nn.Parameter(torch.ones(2, 3))
    masks = Masks({"w": w}, 0.0, draws(0))
    optimizer = torch.optim.AdamW([w], 0.1)
    w.grad = torch.ones(2, 3)
    optimizer.step()
    grown = {"w": torch.tensor([[True, False, False], [False, False, True]])}
    assert (optimizer.state[w]["exp_avg"] != 0).all()
    forget(optimizer, masks, grown)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert (optimizer.state[w][moment] == 0).equal(grown["w"])
    with torch.no_grad():
        w.masked_fill_(grown["w"], 0.0)
    w.grad = torch.zeros(2, 3)
    optimizer.step()  # what is stale would move a weight without any gradient
    assert (w[grown["w"]] == 0).all() and (w[~grown["w"]] != 0).all()


# -- Eq. 6: sparsity variation --------------------------------------------------------------------


def test_phases_of_the_variation() -> None:
    v = Variation()
    assert v.sparsity(0) == 0.5 and v.sparsity(0.05) == pytest.approx(0.9 - 0.4 / 8)
    assert v.sparsity(0.1) == v.sparsity(0.5) == v.sparsity(0.8) == 0.9
    assert v.sparsity(0.875) == pytest.approx(0.45) and v.sparsity(0.95) == pytest.approx(0)
    assert v.sparsity(1.0) == 0
    assert [v.sparsity(p) for p in np.linspace(0, 0.1, 50)] == sorted(
        v.sparsity(p) for p in np.linspace(0, 0.1, 50)
    )


def test_a_course_is_quantised_to_the_updates() -> None:
    found = course(1000, 20, Variation(), evolves=True, cuts=True)
    assert found.update.sum() == 48 and np.flatnonzero(found.update)[-1] == 960
    assert found.sparsity[0] == found.sparsity[20] == 0.5  # the update comes after the gradient
    assert found.sparsity[21] == pytest.approx(Variation().sparsity(0.02))
    assert found.sparsity[960] > 0 and (found.sparsity[961:] == 0).all()
    assert [PHASES[i] for i in found.phase[[0, 99, 100, 799, 800, 999]]] == [
        *("warm-up", "warm-up", "ultra", "ultra", "restoration", "restoration")
    ]
    assert np.flatnonzero(found.cut)[[0, -1]].tolist() == [100, 799]
    still = course(1000, 20, Variation(), evolves=False, cuts=False)
    assert not still.update.any() and not still.cut.any() and (still.sparsity == 0.5).all()


# -- Eq. 7: attention -----------------------------------------------------------------------------


def test_pairs_of_the_patterns() -> None:
    kinds = ("local", "strided", "sparse", "fixed", "full")
    assert [int(attention_pattern(k, 8, 4).sum()) for k in kinds] == [26, 12, 30, 24, 36]
    assert [int(attention_pattern(k, 64, 8).sum()) for k in kinds] == [484, 288, 708, 512, 2080]
    full = attention_pattern("full", 8, 4)
    for kind in ("local", "sparse"):
        assert attention_pattern(kind, 8, 8).equal(full)
    both = attention_pattern("sparse", 8, 4, causal=False)
    assert both.equal(both.T) and int(both.sum()) == 52
    assert attention_pattern("full", 8, 4, causal=False).all()


@pytest.mark.parametrize("kind", ["local", "strided", "sparse", "fixed"])
def test_every_query_looks_at_itself_or_something(kind: str) -> None:
    for n, stride in ((5, 3), (16, 4), (7, 10)):
        assert attention_pattern(kind, n, stride).any(1).all()  # else the softmax is empty


def test_a_model_with_a_pattern_is_the_softmax_over_it() -> None:
    """Of all layers and heads; in float64 against -inf in the scores, and full is causal."""
    model = models.gpt2(20, 8, layers=2, width=8, heads=2, seed=0, bias=False).double().eval()
    x = torch.randint(20, (3, 8), generator=draws(0))
    mask = attention_pattern("sparse", 8, 4)
    with torch.no_grad():
        found = model(input_ids=x, attention_mask=mask[None, None]).logits
        full = model(input_ids=x, attention_mask=attention_pattern("full", 8, 4)[None, None]).logits
        torch.testing.assert_close(full, model(input_ids=x).logits)
        h = model.transformer.wte(x) + model.transformer.wpe.weight[None]
        for block in model.transformer.h:
            q, k, v = (
                part.view(3, 8, 2, 4).transpose(1, 2)
                for part in block.attn.c_attn(block.ln_1(h)).split(8, dim=2)
            )
            scores = (q @ k.transpose(2, 3) / 2).masked_fill(~mask, -torch.inf)
            out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(3, 8, 8)
            h = h + block.attn.c_proj(out)
            h = h + block.mlp(block.ln_2(h))
        torch.testing.assert_close(found, model.lm_head(model.transformer.ln_f(h)))
    assert not torch.allclose(found, full)


# -- Eq. 8: operations ----------------------------------------------------------------------------


def test_gpt2_small_takes_what_is_known() -> None:
    own = costs(TASKS["gpt2-small"], 768, 12, "sparse")
    # 50,304 tokens instead of 50,257
    linear = own.sparse / 1e6 - 2 * 768 * 47 / 1e6
    assert linear == pytest.approx(247.06, abs=0.01) and own.dense == 0
    assert own.sparse / 1e6 == pytest.approx(247.14, abs=0.01)
    assert own.attention / 1e6 == pytest.approx(18.89, abs=0.01)


def test_the_schedule_gives_a_quarter() -> None:
    own = costs(TASKS["gpt2-small"], 768, 12, "sparse")
    for start, ratio in ((0.5, 0.23999), (0.0, 0.25160)):
        found = course(600_000, 1, Variation(start=start), evolves=True, cuts=True)
        F = own.training(found, gradient=False)
        assert F.sum() / own.whole / 600_000 == pytest.approx(ratio, abs=2e-5)
    plan = plan_of(Config(task="gpt2-small"))
    assert plan.budget / plan.dense == pytest.approx(0.2424, abs=2e-4)


def test_the_published_placeholders_train_half_of_a_dense_model() -> None:
    """The released configuration: 50 % from beginning to end, an empty window of attention."""
    cfg = Config(task="gpt2-small", start=0.5, peak=0.5, end=0.5)
    plan = plan_of(cfg)
    own = plan.costs
    assert own.training(plan.course, gradient=True).sum() / plan.dense > 0.49
    assert plan_of(Config(task="gpt2-small")).flops.sum() / plan.dense < 0.255


def test_no_sparsity_is_the_dense_cost_and_gradients_cost_a_third_of_what_is_missing() -> None:
    own = costs(TASKS["gpt2-small"], 768, 12, "sparse")
    dense = course(1000, 10, Variation(0, 0, 0), evolves=True, cuts=False)
    assert own.training(dense, gradient=True).sum() == pytest.approx(1000 * own.whole)
    still = course(1000, 10, Variation(0.8, 0.8, 0.8), evolves=True, cuts=False)
    without, recorded = (own.training(still, gradient=g).sum() for g in (False, True))
    ratio = without / (1000 * own.whole)
    extra = (recorded - without) / (1000 * own.whole)
    assert extra == pytest.approx((1 - ratio) / 3 * still.update.sum() / 1000)


@pytest.mark.parametrize("task", ["gpt2-tiny", "bert-tiny"])
@pytest.mark.parametrize("mask_head", [False, True])
def test_counting_masks_agrees_with_the_formula(task: str, mask_head: bool) -> None:
    one = replace(TASKS[task], mask_head=mask_head)
    own = costs(one, one.width, one.heads, "sparse")
    model = model_of(one, one.width, one.heads, 0)
    weights = prunable(model, head=mask_head)
    masks = Masks(weights, 0.7, draws(0))
    pairs = 4096 if task == "bert-tiny" else 2080
    found = counted(model, 64, masks.densities(), pairs)
    formula = own.forward(np.array([0.7]), np.array([False]))[0]
    assert found.whole == pytest.approx(formula, rel=1e-3)  # whole numbers of zeros
    assert found.dense == pytest.approx(own.sparse + own.dense + own.attention)
    name = {"gpt2-tiny": "lm_head.weight", "bert-tiny": "cls.predictions.decoder.weight"}[task]
    head = own.head * masks.densities().get(name, 1.0)
    assert found.whole - found.body == pytest.approx(head)
    assert found.dense - found.dense_body == own.head
    n = {"gpt2-tiny": 98_304, "bert-tiny": 98_304 + 64 * 64}[task]
    assert own.sparse + own.dense - own.head == 2 * n


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["gpt2-tiny", "bert-tiny", "gpt2-small"])
def test_rivals_cost_as_much(method: str, task: str) -> None:
    plan = plan_of(Config(method=method, task=task))
    took = float(plan.flops.sum()) / plan.budget
    if method == "dense":
        assert took > 2
    elif method == "dense-small":
        assert took == pytest.approx(1, abs=0.04) and plan.width < plan.task.width
    else:
        assert took == pytest.approx(1, abs=1e-3)
    end = plan_of(Config(method="dense", task=task)).lr(plan.task.steps - 1)
    assert plan.lr(plan.steps - 1) == pytest.approx(end)  # the schedule is that of its own length
    highest = max(plan.lr(t) for t in range(0, plan.steps, 97))
    assert plan.lr(0) < highest == pytest.approx(plan.task.lr)


def test_the_sparse_mask_does_not_touch_what_stays_dense() -> None:
    model = model_of(TASKS["bert-tiny"], 64, 4, 0)
    names = set(prunable(model, head=False))
    assert len(names) == 2 * 6 + 1 and not any("decoder" in n or "embeddings" in n for n in names)
    x = torch.randint(512, (2, 64), generator=draws(0))
    mask = attention_pattern("full", 64, 8, causal=False)[None, None]
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=x).logits, model(input_ids=x, attention_mask=mask).logits
        )


def test_the_plain_peer_is_the_same_function_with_the_same_gradient() -> None:
    task = TASKS["gpt2-tiny"]
    model = model_of(task, 16, 2, 0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    plain = plain_of(model).double()
    model.double()
    ids = torch.randint(task.vocabulary, (3, 12))
    theirs, ours = plain(ids), model(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs)
    targets = torch.randint(task.vocabulary, (36,))
    for logits in (theirs, ours):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).backward()
    torch.testing.assert_close(model.transformer.wte.weight.grad, plain.tokens.weight.grad)
    last = model.transformer.h[-1].mlp.c_proj.weight.grad
    torch.testing.assert_close(last.T, plain.blocks[-1].down.weight.grad)
