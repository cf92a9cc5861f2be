"""Faults of the authors' code, as NOTES.md describes them, and what each changes.

Nothing of the code is here: each rule is written down from its description.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.control.sparse import er_densities
from common.run import Run
from common.stacked import MLP, StackedLinear, adam, randn, seed_generators
from papers.ne import method, train
from papers.ne.agent import make_agent
from papers.ne.config import Config
from papers.ne.learning import descend
from papers.ne.method import NEConfig, Topology, connections, dormancy, forget
from papers.ne.method import hidden_activations as hidden_of
from papers.ne.task import Task

torch.set_num_threads(1)

SIZES = (6, 24, 20, 2)
SIZE: dict[str, Any] = {"batch": 8, "hidden": 12, "interval": 4}


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


def test_so_its_pruning_is_inactive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same step of the topology on the same eight silent neurons, with its comparison."""
    _, top, x = network(8)
    assert stepped(top, x).any()
    monkeypatch.setattr(method, "dormancy", lambda h: (dormancy(h) >= 0).float())  # 0: score < 0
    _, top, x = network(8)
    assert not stepped(top, x).any()


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


def test_a_step_inside_the_sparse_branch_never_trains_the_dense_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``if sparse: ... optimizer.step()``: with a sparsity of 0 TD3 ends as it began."""

    def inside(loss: Tensor, topology: Topology, optimizer: Any, t: int, hidden: Any) -> Any:
        if topology.config.start_sparsity > 0:
            return descend(loss, topology, optimizer, t, hidden)
        loss.sum().backward()
        return None

    def learned(name: str, rule: Any) -> bool:
        """Whether a run of TD3 ends with other weights, in either network."""
        monkeypatch.setattr(train, "descend", rule)
        small = {"steps": 24, "warm_up": 8, "limit": 4, "eval_every": 8, "episodes": 1}
        cfg = Config(name, seed=(0,), out=tmp_path / name / rule.__name__, **small, **SIZE)
        train.train(cfg)
        final = Run.load(cfg.out).final()
        began = make_agent(cfg, Task("cycle"), seed_generators((0,), 6), torch.device("cpu"))
        changed = [
            not torch.equal(value, final[part]["net"][key])
            for part, of in (("actor", began.actor), ("critic", began.critic))
            for key, value in of.net.state_dict().items()
        ]
        assert any(changed) == all(changed)
        return any(changed)

    assert learned("static", inside) and not learned("dense", inside)
    assert learned("dense", descend)


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
