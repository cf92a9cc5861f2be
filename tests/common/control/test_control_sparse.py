"""Masks by hand, dense gradients by finite differences, steps that leave what they have to."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from common.control import sparse
from common.control.sparse import (
    dense_gradients,
    density,
    effective,
    er_densities,
    grow,
    largest,
    masked,
    partial_step,
    prune,
    random_mask,
    sparse_step,
)
from tests.fake_cuda import fake_cuda


def test_densities_worked_out_by_hand():
    found = er_densities([(6, 4), (6, 6), (2, 6)], 0.5)  # eps = 1.2
    kept = [d * n for d, n in zip(found, (24, 36, 12), strict=True)]
    assert kept == pytest.approx([12, 14.4, 9.6])
    actor = er_densities([(256, 17), (256, 256), (6, 256)], 0.8)
    assert actor == pytest.approx([1, 0.1281, 1], abs=5e-5)
    critic = er_densities([(256, 23), (256, 256), (1, 256)], 0.8)
    assert critic == pytest.approx([0.8435, 0.1391, 1], abs=5e-5)


def test_densities_of_a_transformer_of_width_64():
    block = [(64, 192), (192,), (64, 64), (64,), (64, 256), (256,), (256, 64), (64,)]
    norms = [(64,)] * 4
    shapes = (block + norms) * 2 + [(64,), (64,)]
    found = er_densities(shapes, 0.2)
    sizes = [torch.Size(s).numel() for s in shapes]
    assert sum(sizes) == 100_096
    assert sum(d * n for d, n in zip(found, sizes, strict=True)) == pytest.approx(0.8 * 100_096)
    assert found[0] == pytest.approx(0.815, abs=5e-4) and found[2] == 1
    assert found[4] == found[6] == pytest.approx(0.764, abs=5e-4)
    assert all(d == 1 for d, s in zip(found, shapes, strict=True) if len(s) == 1)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.95])
def test_densities_add_up(sparsity):
    shapes = [(5, 300), (300, 300), (300, 2), (7, 7, 3, 3)]
    sizes = [1500, 90_000, 600, 441]
    found = er_densities(shapes, sparsity)
    assert all(0 < d <= 1 for d in found)
    total = sum(d * n for d, n in zip(found, sizes, strict=True))
    assert total == pytest.approx((1 - sparsity) * sum(sizes))
    with pytest.raises(ValueError, match="sparsity"):
        er_densities(shapes, 1.0)


def test_picks_are_of_the_allowed_and_ties_go_to_the_first():
    score = torch.tensor([[3.0, 9.0, 3.0], [3.0, 1.0, 8.0]])
    among = torch.tensor([[1, 0, 1], [1, 1, 0]], dtype=torch.bool)
    assert largest(score, among, 2).int().tolist() == [[1, 0, 1], [0, 0, 0]]
    assert largest(score, among, 9).equal(among)
    per_row = largest(score, among, torch.tensor([1, 2]))
    assert per_row.int().tolist() == [[1, 0, 0], [1, 1, 0]]
    assert not largest(score, among, 0).any()


def test_pruning_takes_the_smallest_present_and_growth_the_steepest_absent():
    weight = torch.tensor([[0.1, -0.9, 0.0], [0.3, -0.2, 0.7]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    assert prune(mask, weight, 2).int().tolist() == [[0, 1, 0], [1, 0, 1]]
    gradient = torch.tensor([[9.0, 0.0, -0.1], [0.0, 0.0, 0.0]])
    assert grow(mask, gradient, 1).all()
    less = torch.tensor([[0, 1, 0], [0, 1, 1]], dtype=torch.bool)
    assert grow(less, gradient, 1).int().tolist() == [[1, 1, 0], [0, 1, 1]]
    each = grow(less, gradient, torch.tensor([2, 1]))
    assert each.int().tolist() == [[1, 1, 1], [1, 1, 1]]


def test_random_masks_have_their_size_and_can_be_disjoint():
    g = torch.Generator().manual_seed(0)
    free = torch.ones(6, 8, dtype=torch.bool)
    taken = []
    for _ in range(3):
        taken.append(random_mask(free, 16, g))
        free = free & ~taken[-1]
    assert [int(m.sum()) for m in taken] == [16, 16, 16] and not free.any()
    assert density(taken) == pytest.approx(1 / 3)
    again = random_mask(torch.ones(6, 8, dtype=torch.bool), 16, torch.Generator().manual_seed(0))
    assert again.equal(taken[0]) and not again.equal(taken[1])


def net_and_masks(dtype=torch.float32):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)
    g = torch.Generator().manual_seed(1)
    masks = {
        name: random_mask(torch.ones_like(p, dtype=torch.bool), p.numel() // 2, g)
        for name, p in net.named_parameters()
        if p.dim() == 2
    }
    return net, masks, torch.randn(7, 3, generator=g, dtype=dtype)


def loss_of(net, weights, x):
    return functional_call(net, weights, (x,)).square().mean()


def test_the_dense_gradient_is_the_derivative_at_absent_weights_too():
    net, masks, x = net_and_masks(torch.float64)
    weights = effective(dict(net.named_parameters()), masks)
    found = dense_gradients(loss_of(net, weights, x), weights)
    h = 1e-5
    for name, mask in masks.items():
        assert (found[name][~mask] != 0).all()
        for index in [(0, 0), (1, 2), tuple((~mask).nonzero()[0].tolist())]:
            values = []
            for sign in (1, -1):
                moved = {n: w.detach().clone() for n, w in weights.items()}
                moved[name][index] += sign * h
                values.append(loss_of(net, moved, x).item())
            slope = (values[0] - values[1]) / (2 * h)
            assert found[name][index].item() == pytest.approx(slope, rel=1e-6, abs=1e-10)


def test_the_masked_gradient_is_the_dense_one_where_the_mask_is_on():
    net, masks, x = net_and_masks()
    parameters = dict(net.named_parameters())
    weights = effective(parameters, masks)
    dense = dense_gradients(loss_of(net, weights, x), weights)
    loss_of(net, masked(parameters, masks), x).backward()
    for name, mask in masks.items():
        torch.testing.assert_close(parameters[name].grad, dense[name] * mask)
        assert weights[name].equal((parameters[name] * mask).detach())


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
}


def random_steps(step, optimizer, net, masks, steps=100):
    g = torch.Generator().manual_seed(2)
    pairs = [(p, masks[n]) for n, p in net.named_parameters() if n in masks]
    for _ in range(steps):
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=g)
        step(optimizer, pairs)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_sparse_steps_absent_weights_and_moments_are_zero(name):
    net, masks, _ = net_and_masks()
    optimizer = OPTIMIZERS[name](net.parameters())
    before = net[0].bias.detach().clone()
    random_steps(sparse_step, optimizer, net, masks)
    for n, p in net.named_parameters():
        moments = [v for v in optimizer.state[p].values() if v.shape == p.shape]
        assert moments
        for value in [p, *moments]:
            if n in masks:
                assert (value[~masks[n]] == 0).all()
                assert (value[masks[n]] != 0).all()
    assert not torch.equal(net[0].bias, before)  # has no mask


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_partial_steps_leave_the_others_bit_for_bit(name):
    net, masks, _ = net_and_masks()
    other = {n: ~m for n, m in masks.items()}
    optimizer = OPTIMIZERS[name](net.parameters())
    random_steps(partial_step, optimizer, net, masks, 5)  # moments everywhere
    random_steps(partial_step, optimizer, net, other, 5)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    random_steps(partial_step, optimizer, net, masks)
    for n, p in net.named_parameters():
        if n in masks:
            assert torch.equal(p[~masks[n]], before[n][~masks[n]])
            assert (p[masks[n]] != before[n][masks[n]]).all()


def test_a_full_mask_changes_nothing():
    nets = []
    for step in (lambda optimizer, pairs: optimizer.step(), sparse_step, partial_step):
        net, masks, _ = net_and_masks()
        full = {n: torch.ones_like(m) for n, m in masks.items()}
        random_steps(step, OPTIMIZERS["adamw"](net.parameters()), net, full, 10)
        nets.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(nets[0], nets[1]) and torch.equal(nets[0], nets[2])


def test_masking_gradients_alone_would_not_do():
    """What the two steps are for: decay and momentum move weights that have no gradient."""
    net, masks, _ = net_and_masks()
    optimizer = OPTIMIZERS["adamw"](net.parameters())

    def naive(optimizer, pairs):
        sparse._mask_gradients(pairs)
        optimizer.step()

    before = net[0].weight.detach().clone()
    random_steps(naive, optimizer, net, masks, 3)
    off = ~masks["0.weight"]
    assert (net[0].weight[off] != before[off]).all()


def test_masks_and_steps_stay_on_their_device():
    def trained_on(device):
        net, masks, x = net_and_masks()
        net, x = net.to(device), x.to(device)
        masks = {n: m.to(device) for n, m in masks.items()}
        parameters = dict(net.named_parameters())
        weights = effective(parameters, masks)
        dense = dense_gradients(loss_of(net, weights, x), weights)
        masks = {n: grow(prune(m, parameters[n], 2), dense[n], 3) for n, m in masks.items()}
        g = torch.Generator().manual_seed(0)
        masks["0.weight"] = masks["0.weight"] | random_mask(~masks["0.weight"], 1, g)
        optimizer = torch.optim.Adam(net.parameters(), fused=True)
        for step in (sparse_step, partial_step):
            optimizer.zero_grad()
            loss_of(net, masked(parameters, masks), x).backward()
            step(optimizer, [(parameters[n], m) for n, m in masks.items()])
        return torch.cat([p.detach().cpu().flatten() for p in net.parameters()])

    here = trained_on("cpu")
    with fake_cuda():
        torch.use_deterministic_algorithms(True)  # as every run does
        there = trained_on("cuda")
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)
