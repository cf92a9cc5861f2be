"""Faults of the authors' code, as NOTES.md describes them, and what each changes.

Nothing of the code is here: each rule is written down from its description.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from common.control.sparse import er_densities
from common.stacked import MLP, StackedLinear, adam, randn, seed_generators
from papers.ne.method import NEConfig, Topology, connections, dormancy, forget
from papers.ne.method import hidden_activations as hidden_of

torch.set_num_threads(1)

SIZES = (6, 24, 20, 2)


def network(dormant: int) -> tuple[list[StackedLinear], Topology, Tensor]:
    """A growing network of which some neurons of the second hidden layer are silent; inputs."""
    layers: list[StackedLinear] = list(MLP(seed_generators((0,), 1), SIZES, torch.relu).layers)
    top = Topology(layers, NEConfig(interval=10), 100, seed_generators((0,), 2))
    with torch.no_grad():
        layers[1].bias[:, :, :dormant] = -100.0
    return layers, top, randn(seed_generators((0,), 3), 32, SIZES[0])


def stepped(top: Topology, x: Tensor) -> Tensor:
    """A step of our topology; which connections of the second layer it pruned."""
    (top.layers[2](hidden_of(top.layers, x)[-1])).square().mean().backward()
    before = top.masks[1].clone()
    optimizer = adam([{"params": [w.weight for w in top.layers]}])
    top.step(10, hidden_of(top.layers, x), optimizer)
    return (before > 0) & (top.masks[1] == 0)


def test_a_threshold_of_zero_with_a_strict_comparison_never_fires() -> None:
    layers, _, x = network(8)
    scores = [dormancy(h) for h in hidden_of(layers, x)]
    assert any((s == 0).any() for s in scores)
    assert not any((s < 0).any() for s in scores)


def test_scores_looked_up_by_the_wrong_key_leave_pruning_to_magnitude() -> None:
    """Stored under module names, asked for by index: nothing is found, |W| decides."""
    layers, top, x = network(8)
    stored = {f"net.{2 * k}": dormancy(h) for k, h in enumerate(hidden_of(layers, x))}
    assert all(stored.get(k) is None for k in range(len(layers)))  # type: ignore[call-overload]
    dormant = dormancy(hidden_of(layers, x)[1])[0] == 0
    ours = stepped(top, x)
    assert 8 <= dormant.sum() < SIZES[2]
    assert ours.any() and not ours[0][:, ~dormant].any()
    # as many by magnitude: they come from working neurons as well
    layers, top, _ = network(8)
    size = layers[1].weight[0].abs().masked_fill(top.masks[1][0] == 0, torch.inf)
    smallest = size.flatten().topk(int(ours.sum()), largest=False).indices
    columns = smallest % SIZES[2]
    assert not dormant[columns].all()


def test_a_step_inside_the_sparse_branch_never_trains_the_dense_baseline() -> None:
    """``if sparse: ... optimizer.step()``: with a sparsity of 0 nothing is ever learned."""

    def trained(sparsity: float, inside: bool) -> bool:
        net = nn.Linear(3, 1)
        before, optimizer = copy.deepcopy(net.weight), torch.optim.Adam(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(4, 3)).square().mean().backward()
            if sparsity > 0 or not inside:
                optimizer.step()
        return not torch.equal(before, net.weight)

    assert trained(0.8, inside=True) and not trained(0.0, inside=True)
    assert trained(0.0, inside=False)


def test_its_growth_space_is_negative_where_a_layer_is_dense() -> None:
    """.008 (.8 N - ones), with the initial sparsity where the target's density is meant."""
    critic = [(23, 256), (256, 256), (256, 1)]
    ones = connections(critic, 0.8)
    space = [0.8 * a * b - n for (a, b), n in zip(critic, ones, strict=True)]
    assert space[0] < 0 and space[2] < 0
    assert er_densities(critic, 0.8)[0] > 0.8
    actor = connections([(17, 256), (256, 256), (256, 6)], 0.8)
    grows = 0.008 * (0.8 * 256**2 - actor[1])
    assert actor[1] == pytest.approx(8_397, abs=2)
    assert int(grows) == 352 and int(0.4 * grows) == 140
    # ours: what the target lacks, never below zero
    assert all(b >= a for a, b in zip(ones, connections(critic, 0.25), strict=True))


def test_stale_moments_move_a_connection_that_has_just_come() -> None:
    """Resetting SGD's ``momentum_buffer`` does nothing to Adam."""
    weight = nn.Parameter(torch.ones(1, 2, 2))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(5):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert "momentum_buffer" not in optimizer.state[weight]
    new = torch.zeros(1, 2, 2, dtype=torch.bool)
    new[0, 0, 0] = True

    def next_step(reset: bool) -> float:
        fresh = nn.Parameter(weight.detach().clone().masked_fill(new, 0.0))
        other = torch.optim.Adam([fresh], lr=0.1)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if reset:
            forget(other, fresh, new)
        fresh.grad = torch.zeros_like(fresh)
        other.step()
        return float(fresh.detach()[0, 0, 0])

    assert next_step(reset=False) < -0.01 and next_step(reset=True) == 0.0


def test_zeros_are_no_measure_of_density() -> None:
    """Counted in weights, connections that have just come are absent."""
    layers, top, x = network(0)
    stepped(top, x)
    sizes = [a * b for a, b in pairwise(SIZES)]
    counted = sum(int((layer.weight != 0).sum()) for layer in layers) / sum(sizes)
    assert counted < float(top.density[0]) - 0.01
