"""What is known exactly of CompoFormer and its rivals: weights, masks, frozen pasts, penalties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from common.control.adapters import use_lora
from common.control.continual import (
    average_performance,
    backward_transfer,
    forgetting,
    forward_transfer,
)
from common.control.decision_transformer import TransformerConfig, adamw, decision_transformer
from common.control.sequences import Windows, action_loss, windows_at
from common.control.trajectories import best, joined
from papers.compoformer import baselines, train
from papers.compoformer.baselines import (
    Consolidation,
    Gaussian,
    corrected,
    distillation,
    gaussian_fisher,
    path_gain,
    quadratic,
    sensitivity,
    walk_importance,
    window_gradients,
)
from papers.compoformer.config import Config
from papers.compoformer.learning import make_net, make_world
from papers.compoformer.method import (
    FREE,
    Fusion,
    MetaPolicy,
    composed,
    mask_of,
    quantile,
    sufficient,
    taken,
    trainable,
)
from papers.compoformer.network import Continual, flat, learned, pair, views
from papers.compoformer.updates import descend, loss_of, warm_up_loss
from tests.papers.compoformer.conftest import SHORT

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("stand_in")
CPU = torch.device("cpu")


def config(method: str, **changes: Any) -> Config:
    small = {"width": 8, "layers": 1, "heads": 2, "window": 4, "batch": 4, "text_width": 6}
    return Config(method, "ocw3", pool=20, episodes=4, goals=2, **{**small, **changes})


def network(method: str, grown: int = 0, **changes: Any) -> Continual:
    """A network whose first tasks have been learned, with random weights."""
    net = make_net(config(method, **changes)).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_B" in name or "fusions" in name:
                p.add_(0.2 * torch.randn(p.shape, generator=g))
        for k in range(grown):
            if net.method.growth == "masks":
                train.take_weights(net, k, 0.5, False)
                free = views(net.owner == FREE, net.maskable())
                for name, p in net.maskable().items():  # the next task has moved what is free
                    noise = 0.2 * torch.randn(p.shape, generator=g)
                    p.copy_(torch.where(free[name], noise, p))
            net.grown[k] = True
    return net


def some(batch: int = 4, length: int = 4, seed: int = 0) -> Windows:
    g = torch.Generator().manual_seed(seed)
    return Windows(
        torch.randn(batch, length, generator=g),
        torch.randn(batch, length, 39, generator=g),
        torch.rand(batch, length, 4, generator=g) * 2 - 1,
        torch.arange(length).expand(batch, -1).contiguous(),
        torch.ones(batch, length, dtype=torch.bool),
    )


def work_on(net: Continual, cfg: Config) -> train.Work:
    size = sum(p.numel() for p in net.base().values())
    past = Consolidation.of(net.method.penalty, size, CPU)
    posterior = Gaussian(size * (net.method.penalty == "vcl"))
    return train.Work(cfg, net, make_world(cfg, CPU), past, posterior)


# -- the meta-policy ------------------------------------------------------------------------------


def test_weights_of_the_worked_example() -> None:
    meta = MetaPolicy(3, 4, "ones")
    task, sources = torch.tensor([0, 0.1, 0.2]), torch.tensor([[0.1, 0.2, -0.1], [0.3, 0, 0.1]])
    logits = meta.key(sources) @ meta.query(task) / 2
    assert torch.allclose(logits, torch.tensor([0.12, 0.24]))
    assert torch.allclose(meta(task, sources), torch.tensor([0.47004, 0.52996]), atol=1e-5)
    assert torch.allclose(logits, 2 * task.sum() * sources.sum(1))


def test_maps_of_ones_stay_of_rank_one_and_see_sums_alone() -> None:
    """The authors' code: equal rows have equal gradients; a direction cannot be told at first."""
    torch.manual_seed(0)
    meta, free = MetaPolicy(5, 8, "ones"), MetaPolicy(5, 8)
    e = nn.functional.normalize(torch.randn(4, 5), dim=1)
    shuffled = e[1:][:, torch.randperm(5)]
    assert torch.allclose(meta(e[0], e[1:]), meta(e[0], shuffled), atol=1e-6)
    assert not torch.allclose(free(e[0], e[1:]), free(e[0], shuffled), atol=1e-6)
    actions, wanted = torch.randn(3, 2, 1, 4), torch.randn(2, 1, 4)
    optimizer = torch.optim.Adam(meta.parameters(), 1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        (composed(meta(e[0], e[1:]), actions) - wanted).square().mean().backward()
        optimizer.step()
    for layer in (meta.query, meta.key):
        assert (layer.weight == layer.weight[0]).all() and (layer.bias == layer.bias[0]).all()
    assert not torch.equal(meta.query.weight, torch.ones(8, 5))


def test_at_width_256_maps_of_ones_begin_saturated() -> None:
    meta = MetaPolicy(384, 256, "ones")
    e = nn.functional.normalize(torch.randn(6, 384, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(meta(e[0], e[1:]), (16 * e[0].sum() * e[1:].sum(1)).softmax(0), atol=1e-4)
    assert meta(e[0], e[1:]).max() > 0.9 and MetaPolicy()(e[0], e[1:]).max() < 0.25


def test_weights_sum_to_one_and_one_source_has_all() -> None:
    meta, e = MetaPolicy(5, 7), torch.randn(4, 5)
    assert torch.allclose(meta(e[0], e[1:]).sum(), torch.ones(()))
    assert torch.equal(meta(e[0], e[1:2]), torch.ones(1))
    actions = torch.randn(1, 2, 3, 4)
    assert torch.equal(composed(meta(e[0], e[1:2]), actions), actions[0])


def test_a_composition_is_the_weighted_sum() -> None:
    weights, parts = torch.tensor([0.2, 0.3, 0.5]), torch.randn(3, 2, 4, 5)
    expected = 0.2 * parts[0] + 0.3 * parts[1] + 0.5 * parts[2]
    assert torch.allclose(composed(weights, parts), expected, atol=1e-6)


def test_sufficiency_is_at_or_above_eta() -> None:
    assert sufficient(0.8) and sufficient(0.9) and not sufficient(0.7)
    assert sufficient(0.0, 0.0) and not sufficient(1.0, 1.01)


def test_a_fusion_is_small_orthogonal_and_without_tanh() -> None:
    fusion = Fusion(16, 4)
    first, last = fusion.net[0].weight, fusion.net[3].weight
    assert torch.allclose(first @ first.T, 2 * torch.eye(16), atol=1e-5)
    assert torch.allclose(last @ last.T, 1e-4 * torch.eye(4), atol=1e-8)
    with torch.no_grad():
        fusion.net[3].bias.fill_(3.0)
    mixed, own = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    assert fusion(mixed, own).shape == (2, 3, 4) and fusion(mixed, own).min() > 2
    assert not torch.allclose(fusion(mixed, own), fusion(own, mixed))


# -- masks ----------------------------------------------------------------------------------------


def test_masks_of_the_worked_example() -> None:
    w = torch.tensor([0.1, -0.9, 0.3, -0.2, 0.7, 0.05, -0.6, 0.4])
    owner = torch.full((8,), FREE)
    owner[[1, 6]] = 0
    assert quantile(w.abs()[owner == FREE], 0.5) == pytest.approx(0.25)
    after = taken(w, owner, 1, 0.5, last=False)
    assert after.tolist() == [FREE, 0, 1, FREE, 1, FREE, 0, 1]
    assert mask_of(after, 0).nonzero().flatten().tolist() == [1, 6]
    assert mask_of(after, 1).nonzero().flatten().tolist() == [1, 2, 4, 6, 7]
    assert trainable(owner, 1, False).tolist() == (owner == FREE).tolist()
    assert trainable(after, 1, True).nonzero().flatten().tolist() == [2, 4, 7]
    assert taken(w, owner, 1, 0.5, last=True).tolist() == [1, 0, 1, 1, 1, 1, 0, 1]
    full = torch.zeros(8, dtype=torch.long)
    assert torch.equal(taken(w, full, 1, 0.5, last=False), full)


def test_masks_are_disjoint_and_their_union_grows() -> None:
    w, owner = torch.randn(1_000), torch.full((1_000,), FREE)
    unions = []
    for k in range(5):
        owner = taken(w, owner, k, 0.5, last=k == 4)
        unions.append(mask_of(owner, k))
    sizes = [int((owner == k).sum()) for k in range(5)]
    assert sizes == [500, 250, 125, 63, 62] or sum(sizes) == 1_000
    assert all((a <= b).all() for a, b in zip(unions, unions[1:], strict=False))
    assert unions[-1].all()


@pytest.mark.parametrize("share", [0.0, 0.31, 0.5, 0.7, 1.0])
def test_quantiles_are_pytorchs(share: float) -> None:
    values = torch.rand(101)
    assert quantile(values, share) == pytest.approx(float(values.quantile(share)), rel=1e-6)


def test_biases_and_norms_are_masked_and_time_steps_are_not() -> None:
    net = network("compo_prune")
    names, all_names = set(net.maskable()), set(net.base())
    assert {n.split(".")[-2] for n in all_names - names} == {"embed_timestep"}
    assert any("ln_1.bias" in n for n in names) and any("embed_state.bias" in n for n in names)
    assert not any("heads" in n or "fusions" in n for n in names)
    moved = {id(p) for p in learned(net, 1)}
    assert all((id(p) in moved) == (n in names) for n, p in net.base().items())


def test_what_a_task_gives_back_is_zero_and_others_stay() -> None:
    net = network("compo_prune", grown=1)
    before = flat(net.maskable()).detach().clone()
    train.take_weights(net, 1, 0.5, last=False)
    after = flat(net.maskable()).detach()
    assert (after[net.owner == FREE] == 0).all()
    assert torch.equal(after[net.owner >= 0], before[net.owner >= 0])
    share = float((net.owner == 1).double().mean() / (net.owner != 0).double().mean())
    assert share == pytest.approx(0.5, abs=0.01)


# -- the past stays -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["compo_grow", "compo_prune", "lora", "packnet", "single"])
def test_outputs_of_finished_tasks_stay_bit_for_bit(method: str) -> None:
    """Through updates with heavy weight decay and momentum, before and after weights are taken."""
    cfg = config(method, weight_decay=0.5, lr=1e-2)
    net = network(method, grown=2, weight_decay=0.5)
    then = [net.act(k, some()).detach().clone() for k in range(2)]
    work = work_on(net, cfg)
    optimizer = train.make_optimizers(cfg, net, work.posterior)[1][2]
    work.enter(2, True, train.parameters_of(optimizer))
    generators = {"drawing": torch.Generator().manual_seed(0)}
    at = train.Place(2, 30, False, False)
    moved = {n: p.detach().clone() for n, p in net.named_parameters()}
    for step in range(6):
        train.update(work, optimizer, at, generators, chosen=step > 3)
        if step == 3 and net.method.growth == "masks":
            train.take_weights(net, 2, 0.5, False)
    assert any(not torch.equal(p, moved[n]) for n, p in net.named_parameters())
    net.eval()
    for k in range(2):
        assert torch.equal(net.act(k, some()), then[k]), f"task {k}"


def test_masking_gradients_alone_would_move_the_past() -> None:
    """The authors' ``grad *= mask``: weight decay and momentum move what is masked."""
    moved = {}
    for name, step in (("ours", True), ("authors", False)):
        net = network("compo_prune", grown=1)
        cfg = config("compo_prune")
        optimizer = adamw(net.maskable().values(), 1e-2, weight_decay=0.1)
        before = flat(net.maskable()).detach().clone()
        free = views(trainable(net.owner, 1, False), net.maskable())
        for p in net.maskable().values():
            p.grad = torch.ones_like(p)
        if step:
            descend(net, optimizer, 1, cfg, chosen=False)
        else:
            for n, p in net.maskable().items():
                p.grad.mul_(free[n])  # type: ignore[union-attr]
            optimizer.step()
        past = net.owner == 0
        moved[name] = not torch.equal(flat(net.maskable()).detach()[past], before[past])
    assert moved == {"ours": False, "authors": True}


def test_a_low_rank_pair_at_birth_changes_nothing() -> None:
    net = make_net(config("compo_grow")).eval()
    with_pair = net.features(1, some())
    use_lora(net.trunks[0].net.blocks, None)
    plain = decision_transformer(
        TransformerConfig(39, 4, SHORT, width=8, layers=1, heads=2, dropout=0.0), 0
    ).eval()
    base = net.trunks[0](some())
    assert torch.equal(with_pair, base) and torch.equal(base, plain.features(some()))


def test_a_low_rank_pair_is_ba_over_r() -> None:
    net = network("compo_grow")
    a, b = (p.detach() for p in net.low_rank(1)[:2])
    name = next(n for n in net.base() if "c_attn" in n and n.endswith("weight"))
    folded = network("finetune")
    target = folded.base()[name.replace(".base_layer", "")]
    with torch.no_grad():
        target.add_((b @ a).T / 8)
    assert torch.allclose(net.features(1, some()), folded.features(0, some()), atol=1e-5)
    assert not torch.allclose(net.features(0, some()), net.features(1, some()), atol=1e-4)
    assert pair(1) == "task1"


def test_a_masked_task_acts_with_the_union_of_earlier_masks() -> None:
    net = network("compo_prune", grown=2)
    theta = net.maskable()
    by_hand = {n: p * views(net.owner == 0, theta)[n] for n, p in theta.items()}
    expected = functional_call(net.trunks[0], by_hand, (some(),))
    assert torch.equal(net.features(0, some()), expected)
    assert not torch.equal(net.features(1, some()), expected)
    assert torch.equal(net.features(2, some()), net.trunks[0](some()))  # being learned: all of it


# -- policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["compo_grow", "compo_prune"])
def test_a_source_in_a_chain_composes_raw_features(method: str) -> None:
    """Source 1's action is its fusion of source 0's features and its own, not of fused ones."""
    net = network(method, grown=2)
    net.alpha[1, 0], net.decided[1] = 1.0, True
    h = [net.features(k, some()) for k in range(2)]
    assert torch.equal(net.act(0, some()), torch.tanh(net.heads[0](h[0])))
    assert torch.allclose(net.act(1, some()), net.fusions[1](h[0], h[1]), atol=1e-6)
    features, actions = net.of_sources(2, some())
    assert torch.allclose(features, torch.stack(h)) and features.shape == (2, 4, 4, 8)
    assert torch.allclose(actions, torch.stack([net.act(0, some()), net.act(1, some())]), atol=1e-6)


def test_features_are_mixed_after_the_warm_up_and_actions_during_it() -> None:
    net, cfg = network("compo_grow", grown=2), config("compo_grow")
    work = work_on(net, cfg)
    work.enter(2, False, [])
    net.eval()
    batch = work.draw(2, torch.Generator().manual_seed(0), 5)
    weights, (features, actions) = net.weigh(2).detach(), net.of_sources(2, batch.windows)
    loss = action_loss((weights.view(2, 1, 1, 1) * actions).sum(0), batch.windows)
    assert float(warm_up_loss(net, 2, batch, work.sources)) == pytest.approx(float(loss), rel=1e-5)
    mixed = (weights.view(2, 1, 1, 1) * features).sum(0)
    own = net.fusions[2](mixed, net.features(2, batch.windows))
    loss = action_loss(own, batch.windows)
    assert float(loss_of(net, 2, batch, work.sources)) == pytest.approx(float(loss), rel=1e-5)


def test_a_pool_asks_the_sources_once_and_says_the_same() -> None:
    net, cfg = network("compo_prune", grown=2), config("compo_prune")
    work = work_on(net, cfg)
    work.enter(2, False, [])
    batch = work.draw(2, torch.Generator().manual_seed(0), 5)
    once = work.sources.of(net, batch.windows, batch.drawn)
    assert work.sources.features is not None
    for a, b in zip(once, net.of_sources(2, batch.windows), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    everything = work_on(net, replace(cfg, pool=0))
    everything.enter(2, False, [])
    assert work.world.pool(0).shape == (20,) and everything.world.pool(0).shape == (28,)
    assert everything.sources.features is None
    anew = everything.sources.of(net, batch.windows, batch.drawn)
    assert torch.allclose(anew[0], once[0], atol=1e-6)


def test_a_reused_task_is_its_largest_sources_policy() -> None:
    """Authors' code: one source, although a mixture was trained; equal weights stay a mixture."""
    net = network("compo_grow", grown=2)
    net.alpha[2, :2], net.decided[2], net.reused[2] = torch.tensor([0.4, 0.6]), True, True
    assert torch.equal(net.act(2, some()), net.act(1, some()))
    mixture = network("compo_uniform", grown=2)
    expected = (mixture.act(0, some()) + mixture.act(1, some())) / 2
    assert torch.allclose(mixture.act(2, some()), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["compo_own", "prune_own"])
def test_without_sources_the_head_sees_zeros_in_their_place(method: str) -> None:
    """While a task is learned and when it acts; and it neither warms up nor is it reused."""
    net, cfg = network(method, grown=2), config(method)
    own = net.features(2, some())
    work = work_on(net, cfg)
    work.enter(2, True, [])
    assert not warm_up_loss(net, 2, work.draw(2, torch.Generator(), 4), work.sources).requires_grad
    assert math.isnan(train.decide(work, 2)) and not net.reused[2] and not net.alpha.any()
    net.eval()
    assert torch.allclose(net.act(2, some()), net.fusions[2](torch.zeros_like(own), own))


def test_reused_tasks_are_no_sources() -> None:
    net = network("compo_grow", grown=3)
    net.grown[1], net.reused[1] = False, True
    assert net.sources(2) == [0] and net.sources(0) == []


def test_gradients_go_where_they_should() -> None:
    """Warm-up: queries and keys (and a head that is not asked). Later: pair and fusion."""
    net, cfg = network("compo_grow", grown=2), config("compo_grow")
    work = work_on(net, cfg)
    warm, main = train.make_optimizers(cfg, net, work.posterior)
    g = torch.Generator().manual_seed(0)
    for learning, optimizer, expected in (
        (False, warm[2], {"metas"}),
        (True, main[2], {"trunks", "fusions"}),
    ):
        work.enter(2, learning, train.parameters_of(optimizer))
        net.zero_grad(set_to_none=True)
        batch = work.draw(2, g, 4)
        loss = (loss_of if learning else warm_up_loss)(net, 2, batch, work.sources)
        loss.backward()
        touched = {n for n, p in net.named_parameters() if p.grad is not None}
        assert {n.split(".")[0] for n in touched} == expected
        assert all("task2" in n for n in touched if "lora" in n)
        assert all(n.split(".")[1] == "2" for n in touched if n.split(".")[0] != "trunks")
        assert not any(n.startswith("trunks") and "lora" not in n for n in touched)


def test_sources_are_asked_without_dropout() -> None:
    net = network("compo_grow", grown=2, dropout=0.5).train()
    first, second = net.of_sources(2, some()), net.of_sources(2, some())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert net.training and not torch.equal(net.features(2, some()), net.features(2, some()))


def test_later_tokens_and_padding_do_not_matter() -> None:
    net = network("compo_grow", grown=2)
    net.alpha[1, 0], net.decided[1] = 1.0, True
    seen, other = some(), some(seed=1)
    t = 2
    mixed = Windows(
        *(
            torch.where(torch.arange(4).view(1, 4, *[1] * (a.dim() - 2)) <= t, a, b)
            for a, b in zip(vars(seen).values(), vars(other).values(), strict=True)
        )
    )
    found, expected = net.act(1, mixed)[:, : t + 1], net.act(1, seen)[:, : t + 1]
    assert torch.allclose(found, expected, atol=1e-6)
    padded = Windows(*(torch.cat((torch.zeros_like(x[:, :2]), x), 1) for x in vars(seen).values()))
    assert torch.allclose(net.act(1, padded)[:, 2:], net.act(1, seen), atol=1e-5)


def test_the_first_return_to_go_is_the_episodes_return_over_the_best() -> None:
    world = make_world(config("finetune"), CPU)
    task = world.tasks[0]
    returns = joined(task.source.train).returns
    first = windows_at(task.data, task.data.starts, 3).returns[:, 0]
    np.testing.assert_allclose(first, returns / returns.max(), rtol=1e-5)
    top = best(task.source.train, 1)[0]
    assert task.reward == pytest.approx(float(top.rewards.sum(dtype=np.float64)))


def test_a_task_is_seen_by_its_own_statistics() -> None:
    world = make_world(config("finetune"), CPU)
    for task in world.tasks:
        states = np.concatenate([e.observations for e in task.source.train])
        np.testing.assert_allclose(task.standardizer.mean, states.mean(0), rtol=1e-4, atol=1e-5)
    assert world.tasks[0].standardizer is world.tasks[2].standardizer  # it comes again
    assert not np.array_equal(world.tasks[0].standardizer.mean, world.tasks[1].standardizer.mean)


def test_metrics_of_the_worked_example() -> None:
    scores = np.array([[0, 0, 0.1], [0.9, 0.1, 0], [0.5, 0.8, 0.2], [0.4, 0.8, 0.7]])
    assert average_performance(scores) == pytest.approx(0.6333, abs=1e-4)
    assert forgetting(scores) == pytest.approx(0.1667, abs=1e-4)
    assert forward_transfer(scores) == pytest.approx(0.1)
    assert backward_transfer(scores) == pytest.approx(-0.25)


# -- baselines ------------------------------------------------------------------------------------


def small_policy() -> tuple[Any, dict[str, Tensor]]:
    net = network("finetune")
    weights = {n: p.detach() for n, p in net.base().items()}

    def actions(of: dict[str, Tensor], windows: Windows) -> Tensor:
        return torch.tanh(net.heads[0](functional_call(net.trunks[0], of, (windows,))))

    return actions, weights


def by_loop(actions: Any, weights: dict[str, Tensor], windows: Windows, scalar: Any) -> Tensor:
    """Gradients of each window by itself, one after the other. [B, D]"""
    found = []
    for i in range(len(windows.returns)):
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        one = Windows(*(x[i : i + 1] for x in vars(windows).values()))
        mu = actions(leaves, one)[0] * one.real[0].unsqueeze(-1)
        grads = torch.autograd.grad(scalar(mu / one.real.sum().sqrt()), list(leaves.values()))
        found.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(found)


def test_gradients_of_windows_are_those_of_a_loop() -> None:
    actions, weights = small_policy()
    windows = some()
    windows.real[0, :2] = False
    found = window_gradients(actions, weights, windows, lambda mu: mu.square().sum())
    expected = by_loop(actions, weights, windows, lambda mu: mu.square().sum())
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert torch.allclose(
        sensitivity(actions, weights, windows), expected.abs().mean(0), rtol=1e-3, atol=1e-6
    )


def test_fisher_information_is_that_of_the_jacobian() -> None:
    """E over signs: the exact sum of squared Jacobians of the actions, per real step."""
    actions, weights = small_policy()
    windows = some(batch=2, length=2)
    exact = torch.zeros(sum(w.numel() for w in weights.values()))
    for t in range(2):
        for d in range(4):
            of = by_loop(actions, weights, windows, lambda mu, t=t, d=d: mu[t, d])
            exact += of.square().mean(0)
    torch.manual_seed(0)
    found = gaussian_fisher(actions, weights, windows, draws=200)
    assert float((found - exact).norm() / exact.norm()) < 0.1
    assert float(found.sum()) == pytest.approx(float(exact.sum()), rel=0.05)


def test_squaring_the_gradient_of_a_mean_loses_the_information() -> None:
    """The authors' Fisher is the square of one batch's mean gradient: next to nothing."""
    g = torch.Generator().manual_seed(0)
    gradients = torch.randn(512, 20, generator=g)  # of samples, at a minimum: their mean is 0
    assert gradients.mean(0).square().mean() < 0.01 * gradients.square().mean(0).mean()


def test_penalties_are_closed_forms() -> None:
    theta, anchor = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
    assert float(quadratic(theta, anchor, torch.tensor([3.0, 0.5]))) == pytest.approx(5.0)
    now, then = torch.zeros(2, 1, 2, 4), torch.ones(2, 1, 2, 4)
    assert float(distillation(now, then, torch.tensor([[True, False]]))) == pytest.approx(1.0)


def test_walks_count_what_was_gained() -> None:
    """A quadratic loss: the gain per distance of a small step is the slope over the curvature."""
    g, moved, fisher = torch.tensor([2.0, -1.0]), torch.tensor([-0.1, -0.1]), torch.tensor([4.0, 1])
    found = path_gain(g, moved, fisher)
    assert torch.allclose(found, torch.tensor([0.2 / 0.02, 0.0]))  # the second went uphill
    total = walk_importance(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))
    assert torch.allclose(total, torch.tensor([1.25, 1.5]))
    assert torch.equal(walk_importance(torch.zeros(2), torch.zeros(2)), torch.zeros(2))


def test_divergence_is_that_of_gaussians() -> None:
    q = Gaussian(5, 0.3).requires_grad_(False)
    mean = torch.randn(5)
    assert float(q.divergence(mean)) == pytest.approx(-5 * math.log(0.3), rel=1e-5)
    q.settle(mean)
    assert float(q.divergence(mean)) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        q.log_sigma.add_(torch.randn(5))
    later = torch.randn(5)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(later, q.log_sigma.exp()), normal(mean, torch.full((5,), 0.3))
    ).sum()
    assert float(q.divergence(later)) == pytest.approx(float(expected), rel=1e-4)
    noise = torch.randn(5)
    assert torch.allclose(q.sampled(later, noise), later + q.log_sigma.exp() * noise)


def test_a_divergence_of_softmaxed_weights_does_not_see_a_shift() -> None:
    """The authors' VCL: all weights moved by 1 cost nothing there, and here what they should."""
    was, now = torch.randn(6), None
    now = was + 1
    code = nn.functional.kl_div(now.log_softmax(0), was.softmax(0), reduction="sum")
    assert float(code) == pytest.approx(0.0, abs=1e-6)
    q = Gaussian(6, 0.1).requires_grad_(False)
    q.settle(was)
    assert float(q.divergence(now)) == pytest.approx(6 * 0.5 / 0.01, rel=1e-4)


def test_a_corrected_gradient_does_not_hurt_the_memory() -> None:
    g, r = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    found = corrected(g, r)
    assert torch.allclose(found, torch.tensor([0.5, 0.5])) and abs(float(found @ r)) < 1e-6
    assert torch.equal(corrected(g, -r), g) and torch.equal(corrected(g, torch.zeros(2)), g)


def test_a_memory_holds_a_share_of_whole_episodes_and_is_drawn_anew() -> None:
    """The authors' A-GEM always takes the first stored batch."""
    world = make_world(config("rehearsal"), CPU)
    found = world.memory(1, 0.5)
    episodes = {int(i) // 7 for i in found}
    assert len(episodes) == 2 and len(found) == 14  # two of four episodes of seven steps
    assert len(world.memory(1, 0.05)) == 7
    work = work_on(network("agem", grown=1), config("agem"))
    g = torch.Generator().manual_seed(0)
    assert len({float(work.recall(1, g, 2).detach()) for _ in range(5)}) == 5


def test_consolidation_survives_a_checkpoint() -> None:
    one = Consolidation.of("rwalk", 3, CPU)
    one.anchor += 1
    one.seen = 2
    other = Consolidation.of("rwalk", 3, CPU)
    other.load(one.state())
    assert other.seen == 2 and torch.equal(other.anchor, torch.ones(3))
    assert len(Consolidation.of("ewc", 3, CPU).path) == 0 and baselines.CHUNK > 0


def test_the_best_source_errs_least() -> None:
    net, cfg = network("compo_best", grown=2), config("compo_best")
    work = work_on(net, cfg)
    work.enter(2, True, [])
    windows = work.world.windows(2, work.pools[2])
    _, actions = net.of_sources(2, windows)
    errors = [float(action_loss(a, windows)) for a in actions]
    train.decide(work, 2)
    assert int(net.alpha[2].argmax()) == int(np.argmin(errors)) and net.alpha[2].sum() == 1
