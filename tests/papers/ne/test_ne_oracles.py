"""The method against what is known exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from common.control.sparse import er_densities
from common.sac import ReplayBuffer
from common.stacked import MLP, StackedLinear, adam, randn, seed_generators
from papers.ne import review
from papers.ne.method import (
    NEConfig,
    Prune,
    Topology,
    connections,
    cosine,
    dormancy,
    due_share,
    fau,
    grown,
    hidden_activations,
    inactive,
    share_of,
    take_back,
    within,
)

torch.set_num_threads(1)

SIZES = (6, 24, 20, 2)


def stack(seeds: Sequence[int] = (0, 1), sizes: Sequence[int] = SIZES) -> list[StackedLinear]:
    return list(MLP(seed_generators(seeds, 1), sizes, F.relu).layers)


def output(layers: Sequence[StackedLinear], x: Tensor) -> Tensor:
    return layers[-1](hidden_activations(layers, x)[-1])


def topology(
    layers: Sequence[StackedLinear], steps: int = 100, seeds: Sequence[int] = (0, 1), **changes: Any
) -> Topology:
    config = NEConfig(**{"interval": 10, **changes})
    return Topology(layers, config, steps, seed_generators(seeds, 2))


def backward(layers: Sequence[StackedLinear], seed: int = 5) -> Tensor:
    """Gradients of a loss on a random batch; returns the inputs."""
    g = seed_generators(range(seed, seed + len(layers[0].weight)), 3)
    x, y = randn(g, 32, SIZES[0]), randn(g, 32, SIZES[-1])
    for layer in layers:
        layer.weight.grad = layer.bias.grad = None
    (output(layers, x) - y).square().mean((1, 2)).sum().backward()
    return x


# -- 1. Erdős–Rényi ------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=6),
    st.floats(0, 0.99),
)
def test_densities_keep_the_share(widths: list[int], sparsity: float) -> None:
    shapes = list(pairwise(widths))
    densities = er_densities(shapes, sparsity)
    sizes = [a * b for a, b in shapes]
    kept = sum(p * n for p, n in zip(densities, sizes, strict=True))
    assert kept == pytest.approx((1 - sparsity) * sum(sizes), rel=1e-9)
    assert all(0 < p <= 1 for p in densities)
    free = [
        (p * n / (a + b)) for p, n, (a, b) in zip(densities, sizes, shapes, strict=True) if p < 1
    ]
    assert not free or max(free) == pytest.approx(min(free))  # one eps for all that are not dense


def test_densities_of_known_networks() -> None:
    small = er_densities([(6, 4), (6, 6), (2, 6)], 0.5)
    assert small == pytest.approx([12 / 24, 14.4 / 36, 9.6 / 12])
    actor = er_densities([(17, 256), (256, 256), (256, 6)], 0.8)
    assert actor == pytest.approx([1, 0.1281, 1], abs=1e-4)
    critic = er_densities([(23, 256), (256, 256), (256, 1)], 0.8)
    assert critic == pytest.approx([0.8435, 0.1391, 1], abs=1e-4)
    with pytest.raises(ValueError, match="sparsity"):
        er_densities([(2, 2)], 1.0)


def test_a_network_begins_with_its_largest_weights() -> None:
    layers = stack()
    before = [layer.weight.detach().clone() for layer in layers]
    masks = topology(layers).masks
    wanted = connections(list(pairwise(SIZES)), 0.8)
    for layer, w, mask, n in zip(layers, before, masks, wanted, strict=True):
        assert mask.sum((1, 2)).tolist() == [n, n]
        assert torch.equal(layer.weight, w * mask)
        absent = (w.abs() * (mask == 0)).amax((1, 2))
        present = w.abs().masked_fill(mask == 0, math.inf).amin((1, 2))
        assert (absent <= present).all()


# -- 2. potential gradient -----------------------------------------------------------------------


def test_the_potential_gradient_is_the_derivative_of_adding_a_connection() -> None:
    layers = [layer.double() for layer in stack()]
    masks = topology(layers).masks
    g = seed_generators((7, 8), 3)
    x, y = (randn(g, 16, n, dtype=torch.float64) for n in (SIZES[0], SIZES[-1]))

    def loss() -> Tensor:
        return (output(layers, x) - y).square().mean((1, 2))

    loss().sum().backward()
    h = 1e-5
    for k, layer in enumerate(layers[:2]):
        for i, j in (masks[k][0] == 0).nonzero()[:20].tolist():
            with torch.no_grad():
                layer.weight[0, i, j] = h
                up = loss()[0]
                layer.weight[0, i, j] = -h
                down = loss()[0]
                layer.weight[0, i, j] = 0.0
            numeric = (up - down) / (2 * h)
            torch.testing.assert_close(layer.weight.grad[0, i, j], numeric, rtol=1e-6, atol=1e-8)


def test_the_potential_gradient_is_delta_times_activation() -> None:
    layers = stack()
    topology(layers)
    x = randn(seed_generators((7, 8), 3), 16, SIZES[0])
    h = hidden_activations(layers, x)
    z = layers[1](h[0])
    z.retain_grad()
    layers[2](F.relu(z)).square().mean((1, 2)).sum().backward()
    by_hand = h[0].transpose(1, 2) @ z.grad  # sum over the batch: the mean is in the loss
    torch.testing.assert_close(layers[1].weight.grad, by_hand, rtol=1e-4, atol=1e-7)


def test_growth_takes_the_largest_absent_gradients() -> None:
    score = torch.arange(12.0).view(1, 3, 4).repeat(2, 1, 1)
    absent = torch.zeros(2, 3, 4, dtype=torch.bool)
    absent[:, 0], absent[:, 1, 0], absent[1, 2, 3] = True, True, True
    new = grown(score, absent, torch.tensor([2, 3]))
    assert new[0].flatten().nonzero().flatten().tolist() == [3, 4]
    assert new[1].flatten().nonzero().flatten().tolist() == [3, 4, 11]
    everything = grown(score, absent, torch.tensor([99, 0]))
    assert torch.equal(everything[0], absent[0]) and not everything[1].any()


def test_growth_reads_the_gradient_before_it_is_masked() -> None:
    layers = stack()
    top, optimizer = topology(layers, prune="none"), adam([{"params": layers[1].weight}])
    x = backward(layers)
    before, score = top.masks[1].clone(), layers[1].weight.grad.abs()
    n = int((top.left[1][0] * due_share(1, 10)).round())
    change = top.step(10, hidden_activations(layers, x), optimizer)
    new = (top.masks[1] > before).flatten(1)
    best = score.masked_fill(before > 0, -1).flatten(1).topk(n, dim=1).indices
    assert torch.equal(new.nonzero()[:, 1].view(2, n), best.sort(dim=1).values)
    assert (score.flatten(1)[new] > 0).all() and change.grown.sum() >= 2 * n


# -- 3. what keeps the function ------------------------------------------------------------------


def test_growth_leaves_the_function_as_it_is_bit_for_bit() -> None:
    layers = stack()
    top, optimizer = topology(layers, prune="none"), adam([{"params": layers[0].weight}])
    x = backward(layers)
    other = randn(seed_generators((9, 10), 3), 64, SIZES[0])
    before = output(layers, other)
    change = top.step(10, hidden_activations(layers, x), optimizer)
    assert (change.grown > 0).all()
    assert torch.equal(output(layers, other), before)


def with_dormant(rule: Prune, bias: float) -> tuple[list[StackedLinear], Tensor, Tensor, Tensor]:
    """Layers of which neurons 3 and 5 of layer 1 were silent and are pruned; x, before, chosen."""
    layers = stack()
    x = randn(seed_generators((7, 8), 3), 32, SIZES[0])
    with torch.no_grad():
        layers[1].weight[:, :, [3, 5]] = -layers[1].weight[:, :, [3, 5]].abs() - 0.05
        layers[1].bias[:, :, [3, 5]] = bias
    h = hidden_activations(layers, x)
    chosen = dormancy(h[1]) == 0
    assert chosen[:, [3, 5]].all()
    before = output(layers, x)
    take_back(layers[1], layers[2], chosen, h[1], rule)
    return layers, x, before, chosen


@pytest.mark.parametrize("rule", ["revive", "zero-bias"])
@pytest.mark.parametrize("bias", [-0.3, 1e-4])
def test_pruning_keeps_the_outputs_of_the_batch(rule: Prune, bias: float) -> None:
    layers, x, before, _ = with_dormant(rule, bias)
    torch.testing.assert_close(output(layers, x), before, rtol=0, atol=1e-6)


def test_dropping_the_inputs_alone_changes_them() -> None:
    layers, x, before, _ = with_dormant("inputs-only", 1e-4)
    assert (output(layers, x) - before).abs().max() > 1e-6
    layers, x, before, _ = with_dormant("inputs-only", -0.3)  # below 0 it stays silent
    torch.testing.assert_close(output(layers, x), before, rtol=0, atol=1e-6)


def test_only_a_revived_neuron_has_a_gradient() -> None:
    for rule, alive in (("revive", True), ("zero-bias", False)):
        layers, _, _, chosen = with_dormant(rule, -0.3)  # type: ignore[arg-type]
        assert (layers[1].weight.transpose(1, 2)[chosen] == 0).all()
        backward(layers)
        outgoing = layers[2].weight.grad[chosen].abs().sum(1)  # [neurons, out]
        incoming = layers[1].weight.grad.transpose(1, 2)[chosen].abs().sum(1)
        assert bool((outgoing > 0).all()) == alive and bool((outgoing == 0).all()) != alive
        assert (incoming == 0).all()
    layers, _, _, chosen = with_dormant("revive", -0.3)
    with torch.no_grad():  # once the outgoing weights have values, the absent inputs have one
        layers[2].weight[chosen] = 0.1
    backward(layers)
    assert (layers[1].weight.grad.transpose(1, 2)[chosen].abs().sum(1) > 0).all()


def test_a_revived_neuron_is_constant_and_counts_as_inactive() -> None:
    layers, x, _, chosen = with_dormant("revive", -0.3)
    h = hidden_activations(layers, x)[1]
    assert (dormancy(h)[chosen] > 0).all() and inactive(h)[chosen].all()
    assert not inactive(h)[~chosen].all()


# -- 4. limits -----------------------------------------------------------------------------------


def descend(layers: Sequence[StackedLinear], top: Topology | None, steps: int) -> int:
    """Adam on random batches; returns how often the topology changed in a step's place."""
    optimizer, skipped = adam([{"params": [p for m in layers for p in m.parameters()]}]), 0
    for t in range(1, steps + 1):
        x = backward(layers, seed=t)
        if top is not None and top.due(t):
            top.step(t, hidden_activations(layers, x), optimizer)
            skipped += 1
            continue
        if top is not None:
            top.mask_gradients()
        optimizer.step()
    return skipped


def test_without_sparsity_it_is_plain_training() -> None:
    plain, ours = stack(), stack()
    descend(plain, None, 60)
    top = topology(ours, 60, start_sparsity=0.0, end_sparsity=0.0)
    assert descend(ours, top, 60) == 0
    for one, other in zip(plain, ours, strict=True):
        assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def test_without_growth_masks_stay_and_absent_weights_are_exactly_zero() -> None:
    layers = stack()
    top = topology(layers, growth="none")
    before = [mask.clone() for mask in top.masks]
    assert descend(layers, top, 100) == 0
    for layer, mask, old in zip(layers, top.masks, before, strict=True):
        assert torch.equal(mask, old)
        assert (layer.weight[mask == 0] == 0).all() and (layer.weight[mask > 0] != 0).all()


def silent(layers: Sequence[StackedLinear], neurons: Sequence[int]) -> None:
    """Make neurons of the second hidden layer dormant."""
    with torch.no_grad():
        layers[1].bias[:, :, list(neurons)] = -100.0


@pytest.mark.parametrize("changes", [{"omega": 0.0}, {"prune": "none"}])
def test_without_allowance_nothing_is_pruned(changes: dict[str, Any]) -> None:
    layers = stack()
    top = topology(layers, **changes)
    silent(layers, range(10))
    x = backward(layers)
    change = top.step(10, hidden_activations(layers, x), adam([{"params": layers[1].weight}]))
    assert (change.pruned == 0).all() and (change.grown > 0).all()


# -- 5. schedule ---------------------------------------------------------------------------------


def test_the_schedule_is_a_half_cosine_and_ends_at_the_target() -> None:
    values = [cosine(t, 100) for t in (0, 25, 50, 75, 100)]
    assert values == pytest.approx([1, 0.8536, 0.5, 0.1464, 0], abs=1e-4)
    left, steps = 1.0, []
    for u in range(1, 11):
        steps.append(left * due_share(u, 10))
        left -= steps[-1]
    assert left == 0 and steps[-1] == 0 and steps[-2] > 0
    shape = [cosine(u, 10) for u in range(1, 11)]
    assert steps == pytest.approx([s / sum(shape) for s in shape])


@pytest.mark.parametrize("growth", ["gradient", "random"])
def test_the_topology_grows_to_its_target_and_prunes_less_than_it_grows(growth: Any) -> None:
    layers = stack()
    top = topology(layers, 200, growth=growth)
    optimizer = adam([{"params": [p for m in layers for p in m.parameters()]}])
    silent(layers, range(12))
    density, pruned = [top.density], 0
    for t in range(1, 201):
        x = backward(layers, seed=t)
        if t == 100:
            silent(layers, range(6, 16))
        if top.due(t):
            change = top.step(t, hidden_activations(layers, x), optimizer)
            assert (change.least >= 0).all()
            assert (change.pruned <= 0.4 * change.grown).all()
            torch.testing.assert_close(change.density, top.density)
            density.append(change.density)
            pruned += int(change.pruned.sum())
        else:
            top.mask_gradients()
            optimizer.step()
    assert pruned > 0
    assert (torch.stack(density).diff(dim=0) >= 0).all()
    wanted = sum(connections(list(pairwise(SIZES)), 0.25)) / sum(a * b for a, b in pairwise(SIZES))
    torch.testing.assert_close(density[-1], torch.full((2,), wanted))
    assert not top.due(190)


def test_density_is_that_of_masks_not_of_weights() -> None:
    layers = stack()
    top = topology(layers, prune="none")
    x = backward(layers)
    top.step(10, hidden_activations(layers, x), adam([{"params": layers[1].weight}]))
    nonzero = sum(int((layer.weight[0] != 0).sum()) for layer in layers)
    assert nonzero < float(top.density[0]) * sum(a * b for a, b in pairwise(SIZES)) - 1


# -- 6. dormancy ---------------------------------------------------------------------------------

H = torch.tensor([[[0.0, 1, 3, 0], [0, 1, 1, 0.5], [0, 2, 0, 0]]])


def test_dormancy_by_hand() -> None:
    score = dormancy(H)[0]
    assert score.tolist() == pytest.approx([0, 1.882, 1.882, 0.235], abs=1e-3)
    assert float(score.mean()) == pytest.approx(1)
    torch.testing.assert_close(dormancy(7.5 * H), dormancy(H))
    assert float(fau([H])) == 0.5
    assert float(share_of(lambda h: dormancy(h) == 0, [H])) == 0.25
    assert float(share_of(inactive, [H, torch.full((1, 3, 4), 2.0)])) == 5 / 8
    assert float(fau([H, torch.ones(1, 3, 4)])) == 0.75
    assert (dormancy(torch.zeros(1, 3, 4)) == 0).all()


# -- 7. pruning by hand --------------------------------------------------------------------------


def test_things_are_taken_in_order_while_they_fit() -> None:
    cost, order = torch.tensor([[4, 2, 3, 0]]), torch.tensor([[0.3, 0.1, 0.2, 0.9]])
    taken = within(cost, order, torch.tensor([5]))[0] & (cost[0] > 0)
    assert taken.tolist() == [False, True, True, False]
    assert within(cost, order, torch.tensor([1]))[0].tolist() == [False] * 4


def test_each_network_prunes_its_own_neurons_as_it_would_alone() -> None:
    def pruned(seeds: tuple[int, ...]) -> tuple[list[Tensor], Any]:
        layers = stack(seeds)
        top = topology(layers, seeds=seeds)
        with torch.no_grad():
            layers[1].bias[seeds.index(1), :, :10] = -100.0
        g = seed_generators(seeds, 3)
        x = randn(g, 32, SIZES[0])
        output(layers, x).square().mean((1, 2)).sum().backward()
        change = top.step(10, hidden_activations(layers, x), adam([{"params": layers[0].weight}]))
        return top.masks, change

    both, one = pruned((0, 1)), pruned((1,))
    assert both[1].pruned[1] == one[1].pruned[0] > both[1].pruned[0]
    for stacked, alone in zip(both[0], one[0], strict=True):
        assert torch.equal(stacked[1], alone[0])


def test_a_pruned_connection_does_not_come_back_in_the_same_step() -> None:
    layers = stack()
    top = topology(layers, end_sparsity=0.02)
    silent(layers, range(16))
    before = top.masks[1].clone()
    x = backward(layers)
    layers[1].weight.grad[:] = before  # what is there has the largest gradient
    change = top.step(10, hidden_activations(layers, x), adam([{"params": layers[1].weight}]))
    gone = (before > 0) & (top.masks[1] == 0)
    assert gone.sum((1, 2)).tolist() == change.pruned.tolist() and (change.pruned > 0).all()


def test_a_cap_by_layer_would_hold_no_neuron_of_the_first_layer() -> None:
    """Why the allowance is the network's: the cycle's critics, 200 updates of the topology."""
    shapes = [(24, 128), (128, 128), (128, 1)]
    start, end = connections(shapes, 0.8), connections(shapes, 0.25)
    most = due_share(1, 200) * (end[0] - start[0]) * 0.4 / 0.6  # of the first update, the largest
    assert math.floor(most) == 11 < start[0] / 128  # at most; then less, as the cosine falls
    whole = due_share(1, 200) * (sum(end) - sum(start)) * 0.4 / 0.6
    assert whole > 5 * 11


# -- 8. masks and Adam ---------------------------------------------------------------------------


def test_absent_weights_stay_zero_and_new_ones_have_no_moments() -> None:
    layers = stack()
    top = topology(layers, 200)
    optimizer = adam([{"params": [p for m in layers for p in m.parameters()]}])
    silent(layers, range(12))
    moves = 0
    for t in range(1, 101):
        x = backward(layers, seed=t)
        if top.due(t):
            old = [mask.clone() for mask in top.masks]
            top.step(t, hidden_activations(layers, x), optimizer)
            for layer, mask, before in zip(layers, top.masks, old, strict=True):
                moved = mask != before
                state = optimizer.state[layer.weight]
                for name in ("exp_avg", "exp_avg_sq"):
                    assert (state[name][moved] == 0).all()
                assert (layer.weight[moved] == 0).all()
            moves += 1
        else:
            top.mask_gradients()
            optimizer.step()
        for layer, mask in zip(layers, top.masks, strict=True):
            assert (layer.weight[mask == 0] == 0).all()
    assert moves == 10


def test_a_target_is_masked_as_the_online_network_is() -> None:
    layers = stack()
    top = topology(layers)
    target = copy.deepcopy(layers)
    silent(layers, range(16))
    x = backward(layers)
    top.step(10, hidden_activations(layers, x), adam([{"params": layers[1].weight}]))
    leaking = [(t.weight[m == 0] != 0).any() for t, m in zip(target, top.masks, strict=True)]
    assert any(leaking)  # weights of pruned connections
    top.mask(target)
    for layer, mask in zip(target, top.masks, strict=True):
        assert (layer.weight[mask == 0] == 0).all()


def test_masks_are_kept() -> None:
    first, second = stack(), stack((3, 4))
    top, other = topology(first), topology(second)
    other.load(top.state())
    for a, b, layer in zip(top.masks, other.masks, second, strict=True):
        assert torch.equal(a, b) and (layer.weight[b == 0] == 0).all()


def test_last_layers_can_be_left_out() -> None:
    layers = stack()
    top = Topology(layers, NEConfig(interval=10), 100, seed_generators((0, 1), 2), dense=1)
    inner = connections(list(pairwise(SIZES[:-1])), 0.8)
    assert [int(mask[0].sum()) for mask in top.masks] == [*inner, 40]


# -- 9. review -----------------------------------------------------------------------------------


def test_the_authors_gate() -> None:
    gate = review.fau_gate(torch.tensor([0.0, 0.3, 0.4]))
    assert gate.tolist() == pytest.approx([0.42687, 0.50134, 0.52632], abs=1e-5)


def test_the_threshold_falls_as_dormancy_calms_down() -> None:
    assert review.review_threshold(torch.zeros(0, 2)).tolist() == [1, 1]
    assert review.review_threshold(torch.tensor([[0.1, 0.2]])).tolist() == [1, 1]
    assert review.review_threshold(torch.full((5, 2), 0.3)).tolist() == [1, 1]
    ratios = torch.tensor([[0.0, 0.0], [0.4, 0.0], [0.4, 0.1], [0.4, 0.1], [0.7, 0.1]])
    # changes .4 0 0 .3 and 0 .1 0 0; means over the last two, their maxima .4 and .05
    assert review.review_threshold(ratios, window=2, floor=0.1).tolist() == pytest.approx(
        [0.15 / 0.4, 0.1]
    )
    assert review.review_threshold(ratios, window=2).tolist() == [0.5, 0.5]


def filled(n: int, capacity: int) -> ReplayBuffer:
    """A buffer whose rewards say when they came."""
    buffer = ReplayBuffer(2, capacity, 1, 1)
    for t in range(n):
        zeros = torch.zeros(2, 1)
        rewards = torch.full((2,), float(t))
        buffer.add(
            obs=zeros, action=zeros, reward=rewards, next_obs=zeros, terminated=torch.zeros(2)
        )
    return buffer


@pytest.mark.parametrize("n", [7, 10, 14, 23])
def test_the_oldest_segment_follows_age(n: int) -> None:
    buffer, g = filled(n, 10), seed_generators((0, 1), 3)
    reviewed = torch.tensor([True, False])
    batch = review.sample(buffer, g, 400, reviewed, 0.3)
    first = max(0, n - 10)
    wanted = set(range(first, first + int(0.3 * min(n, 10))))
    assert set(batch.reward[0].int().tolist()) == wanted
    assert set(batch.reward[1].int().tolist()) == set(range(first, n))


def test_what_is_not_reviewed_is_what_the_buffer_draws() -> None:
    buffer = filled(14, 10)
    plain = buffer.sample(seed_generators((0, 1), 3), 32)
    for reviewed in (None, torch.tensor([False, False])):
        ours = review.sample(buffer, seed_generators((0, 1), 3), 32, reviewed)
        assert torch.equal(ours.reward, plain.reward)
