"""What is known exactly of HarmoDT: scores, masks, steps, limits, groups and gates."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from common.control.decision_transformer import TransformerConfig, adamw, decision_transformer
from common.control.sequences import Windows, action_loss
from common.control.sparse import effective
from papers.harmodt import bench
from papers.harmodt.acting import beliefs, by_group
from papers.harmodt.baselines import surgery, with_identity
from papers.harmodt.bench import BenchConfig
from papers.harmodt.config import Config
from papers.harmodt.learning import conflict, gradients_of, make_net, masked_copy
from papers.harmodt.method import (
    Belief,
    Gate,
    agreement,
    clipped_gradients,
    default_groups,
    descend,
    flat,
    flips,
    group_gradients,
    groups_of,
    harmony,
    initial_masks,
    maskable,
    updated_masks,
    views,
    vote,
)

torch.set_num_threads(1)

# the worked example: three tasks, six coordinates
G = torch.tensor(
    [
        [1.0, -2.0, 0.5, 0.0, 3.0, -1.0],
        [-1.0, -1.0, 0.5, 2.0, 1.0, 1.0],
        [0.5, -3.0, -0.5, 1.0, -1.0, 0.3],
    ],
    dtype=torch.float64,
)
M = torch.tensor([[1, 1, 1, 0, 1, 0], [1, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]).bool()


def small(seed: int = 0, dropout: float = 0.0, **changes: Any) -> Any:
    config = TransformerConfig(
        *(3, 2), max_steps=20, prompted=True, width=8, layers=1, heads=2, dropout=dropout, **changes
    )
    return decision_transformer(config, seed)


def some(batch: int = 4, length: int = 3, seed: int = 0) -> Windows:
    g = torch.Generator().manual_seed(seed)
    return Windows(
        torch.randn(batch, length, generator=g),
        torch.randn(batch, length, 3, generator=g),
        torch.rand(batch, length, 2, generator=g) * 2 - 1,
        torch.arange(length).expand(batch, -1),
        torch.ones(batch, length, dtype=torch.bool),
    )


# -- scores and updates ---------------------------------------------------------------------------


def test_scores_of_the_worked_example() -> None:
    assert torch.allclose(G.mean(0), torch.tensor([1 / 6, -2, 1 / 6, 1, 1, 0.1]).double())
    A, H = agreement(G), harmony(G, torch.zeros(6).double(), "fisher", 10.0)
    assert torch.allclose(A[0], torch.tensor([1 / 6, 4, 1 / 12, 0, 3, -0.1]).double())
    assert torch.allclose(H[0], torch.tensor([8 / 3, 44, 13 / 12, 0, 39, 0]).double())


def test_masks_of_the_worked_example() -> None:
    A, H = agreement(G), harmony(G, torch.zeros(6).double(), "fisher", 10.0)
    moved = updated_masks(M, H, A, 1)
    expected = M.clone()
    for k, (drop, recover) in enumerate(((2, 3), (0, 1), (4, 0))):
        expected[k, drop], expected[k, recover] = False, True
    assert torch.equal(moved, expected)


def test_masked_scores_drop_others_and_cannot_recover() -> None:
    """As the authors' code: what is absent scores 0, and the mean of the gradients changes."""
    own = G * M
    mean = torch.tensor([0, -5 / 3, 1 / 6, 1, 1, 1.3 / 3]).double()
    assert torch.allclose(own.mean(0), mean)
    A, H = agreement(own), harmony(own, torch.zeros(6).double(), "fisher", 10.0)
    assert torch.allclose(H[0], torch.tensor([1, 4 + 100 / 3, 13 / 12, 0, 39, 0]).double())
    assert (A[~M] == 0).all()
    moved = updated_masks(M, H, A, 1)
    assert (M & ~moved)[0].nonzero().flatten().tolist() == [0]  # dense scores drop the third
    assert [(M & ~moved)[k].nonzero().item() for k in (1, 2)] == [0, 4]


def test_adding_up_in_place_makes_a_task_agree_with_everything() -> None:
    """As the authors' code: the sum is built on the first task's own tensor."""
    shared = [g.clone() for g in G]
    total = shared[0]
    for g in shared[1:]:
        total += g
    total /= len(shared)
    wrong = torch.stack(shared) * total
    assert (wrong[0] >= 0).all() and torch.allclose(wrong[0], G.mean(0).square())
    assert (agreement(G)[0] < 0).any()
    before = G.clone()
    agreement(G)
    assert torch.equal(G, before)


def test_magnitude_ignores_gradients_where_these_are_small() -> None:
    theta = torch.tensor([0.3, -0.01, 0.2, 0.05, -0.4, 0.1]).double()
    H = harmony(1e-4 * G, theta, "magnitude", 10.0)
    assert torch.equal(H.argsort(dim=1), theta.abs().expand(3, 6).argsort(dim=1))


def test_the_number_of_ones_stays_and_nothing_flips_twice() -> None:
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(5, 200, generator=g) < 0.8
    for count in (0, 1, 17, 60, 1_000):
        grads = torch.randn(5, 200, generator=g)
        H, A = harmony(grads, grads[0], "fisher", 10.0), agreement(grads)
        moved = updated_masks(masks, H, A, count)
        assert torch.equal(moved.sum(1), masks.sum(1))
        flipped = (moved != masks).sum(1) / 2
        most = torch.minimum(masks.sum(1), (~masks).sum(1)).clamp(max=count)
        assert torch.equal(flipped, most.float())
        for k in range(5):  # the worst ones went, the best ones came
            gone, stayed = masks[k] & ~moved[k], masks[k] & moved[k]
            came, absent = moved[k] & ~masks[k], ~moved[k] & ~masks[k]
            if gone.any() and stayed.any():
                assert H[k][gone].max() <= H[k][stayed].min()
            if came.any() and absent.any():
                assert A[k][came].min() >= A[k][absent].max()
        masks = moved
    ones = torch.ones(2, 6, dtype=torch.bool)
    assert torch.equal(updated_masks(ones, G[:2], G[:2], 3), ones)


def test_flips_rise_and_fall() -> None:
    assert [flips(t, 100) for t in (0, 0.25, 0.5, 0.75, 1)] == [0, 50, 100, 50, 0]
    assert flips(0.5, 100, 20) == 100 and flips(0, 100, 20) == 20
    mean = np.mean([flips(t, 100) for t in np.linspace(0, 1, 1_001)])
    assert mean == pytest.approx(49.5, abs=0.6)
    assert flips(0.37, 0) == 0


def test_densities_of_the_first_masks() -> None:
    net = decision_transformer(TransformerConfig(39, 4, 150, width=64, layers=2, heads=2), 0)
    theta = maskable(net)
    assert sum(p.numel() for p in theta.values()) == 100_096
    assert all(n.startswith("blocks.") for n in theta)
    rest = {n.split(".")[0] for n, _ in net.named_parameters() if n not in theta}
    assert rest == {"window", "norm", "head"}
    masks = initial_masks(theta, 0.2, 40, torch.Generator().manual_seed(0))
    assert masks.double().mean().item() == pytest.approx(0.8, abs=5e-4)
    for name, part in views(torch.arange(100_096), theta).items():
        expected = {"c_attn.weight": 0.815, "mlp.c_fc.weight": 0.764, "mlp.c_proj.weight": 0.764}
        density = next((d for key, d in expected.items() if name.endswith(key)), 1.0)
        own = masks[:, part.flatten()].double().mean().item()
        assert own == pytest.approx(density, abs=2e-3), name
    a, b = masks[0].double(), masks[1].double()
    assert abs(float(torch.corrcoef(torch.stack((a, b)))[0, 1]) - 0.06) < 0.1  # dense parts alone
    assert initial_masks(theta, 0.0, 2, torch.Generator()).all()


def test_a_vote_lies_between_union_and_intersection() -> None:
    union, intersection = M.any(0), M.all(0)
    assert torch.equal(vote(M, 1), union) and torch.equal(vote(M, 3), intersection)
    assert torch.equal(vote(M, 2), M.sum(0) >= 2)


def test_identical_tasks_and_a_single_one_agree_everywhere() -> None:
    same = G[:1].expand(4, 6)
    assert torch.allclose(agreement(same), same.square())
    assert (agreement(G[1:2]) >= 0).all()


# -- gradients and steps --------------------------------------------------------------------------


def test_gradients_are_dense_those_of_the_effective_weights() -> None:
    """At a masked coordinate: the finite difference of the loss when that weight is set to +-h."""
    net = small().double().eval()
    theta = maskable(net)
    with torch.no_grad():
        for p in theta.values():
            p.normal_(0, 0.4, generator=torch.Generator().manual_seed(p.numel()))
    windows, prompt = some(), some(length=2, seed=1)
    windows, prompt = (Windows(*(_double(x) for x in vars(w).values())) for w in (windows, prompt))
    mask = initial_masks(theta, 0.5, 1, torch.Generator().manual_seed(3))[0]
    _, found = gradients_of(net, views(mask, theta), (windows, prompt), 1e9)
    dense = flat(found, list(theta))
    off = (~mask).nonzero().flatten()[:: max(1, int((~mask).sum()) // 12)]
    weights = {n: w.detach() for n, w in effective(theta, views(mask, theta)).items()}
    vector = flat(weights, list(theta))

    def loss(at: int, h: float) -> float:
        moved = vector.clone()
        moved[at] = h
        with torch.no_grad():
            out = functional_call(net, views(moved, theta), (windows, prompt))
            return float(action_loss(out, windows))

    for at in off.tolist():
        slope = (loss(at, 1e-5) - loss(at, -1e-5)) / 2e-5
        assert float(dense[at]) == pytest.approx(slope, rel=1e-4, abs=1e-9)
    assert dense[~mask].abs().max() > 1e-4


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def test_clipping_is_that_of_pytorch() -> None:
    net = small().eval()
    leaves = dict(net.named_parameters())
    for norm in (1e-2, 1e3):
        loss = action_loss(net(some(), some(length=2, seed=1)), some())
        ours = clipped_gradients(loss, leaves, norm)
        net.zero_grad()
        action_loss(net(some(), some(length=2, seed=1)), some()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), norm)
        for name, p in leaves.items():
            assert torch.allclose(ours[name], p.grad, rtol=1e-5, atol=1e-9)


def test_a_step_leaves_what_is_masked_bit_for_bit() -> None:
    net = small()
    theta = maskable(net)
    optimizer = adamw(net.parameters(), 1e-2, weight_decay=0.5)
    masks = initial_masks(theta, 0.5, 2, torch.Generator().manual_seed(1))
    for k in (0, 1, 0, 1):  # the other task's steps leave momentum behind
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        mask = views(masks[k], theta)
        _, gradients = gradients_of(net, mask, (some(seed=k), some(length=2, seed=1)), 0.25)
        descend(net, optimizer, gradients, mask)
        now, was = flat(theta, list(theta)), flat(before, list(theta))
        assert torch.equal(now[~masks[k]], was[~masks[k]])
        assert (now[masks[k]] != was[masks[k]]).double().mean() > 0.9
        for name in ("head.weight", "window.embed_state.weight", "norm.weight"):
            assert not torch.equal(before[name], dict(net.named_parameters())[name])
    moments = flat({n: optimizer.state[p]["exp_avg"] for n, p in theta.items()}, list(theta))
    assert (moments[masks[0] | masks[1]] != 0).any() and (moments[~masks[0] & ~masks[1]] == 0).all()


def test_masks_of_ones_are_plain_training() -> None:
    """The same step as PyTorch's own loop with clipping and AdamW."""
    ours, plain = small(), small()
    theta = maskable(ours)
    optimizers = [adamw(net.parameters(), 1e-2) for net in (ours, plain)]
    ones = views(torch.ones(sum(p.numel() for p in theta.values()), dtype=torch.bool), theta)
    for step in range(3):
        batch = some(seed=step), some(length=2, seed=9)
        _, gradients = gradients_of(ours, ones, batch, 0.25)
        descend(ours, optimizers[0], gradients, ones)
        optimizers[1].zero_grad()
        action_loss(plain(*batch), batch[0]).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.25)
        optimizers[1].step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_reloading_the_whole_state_is_the_same(tmp_path: Path) -> None:
    """The authors' way to apply masks gives our weights: what the bench compares is one thing."""
    cfg = BenchConfig(json=tmp_path / "bench.json", width=8, layers=1, batch=4, tasks=2, repeats=1)
    batch = bench.random_batch(cfg)
    nets = [make_net(Config(width=8, layers=1)) for _ in range(2)]
    theta = maskable(nets[0])
    mask = initial_masks(theta, 0.4, 1, torch.Generator().manual_seed(0))[0]
    for net, iterate in zip(nets, (bench.masked, bench.reloading), strict=True):
        optimizer = adamw(net.parameters(), 1e-2, weight_decay=0.1)
        for _ in range(3):
            iterate(net, optimizer, batch, mask)
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    bench.bench(cfg)
    assert len(json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))) == 4


def test_a_masked_copy_acts_with_the_masked_weights() -> None:
    net = small().eval()
    theta = maskable(net)
    mask = initial_masks(theta, 0.5, 1, torch.Generator().manual_seed(1))[0]
    before = copy.deepcopy(net.state_dict())
    made = masked_copy(net, mask)
    weights = {n: p * views(mask, theta)[n] for n, p in theta.items()}
    expected = functional_call(net, weights, (some(), some(length=2, seed=1)))
    assert torch.allclose(made(some(), some(length=2, seed=1)), expected, atol=1e-6)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert flat(maskable(made), list(theta))[~mask].abs().max() == 0


def test_vectors_and_tensors_go_back_and_forth() -> None:
    theta = maskable(small())
    vector = torch.arange(sum(p.numel() for p in theta.values())).float()
    assert torch.equal(flat(views(vector, theta), list(theta)), vector)


# -- groups and gate ------------------------------------------------------------------------------


def test_groups_are_those_of_the_gradients_directions() -> None:
    v = torch.randn(7, generator=torch.Generator().manual_seed(0))
    assert groups_of(torch.stack((v, 3 * v, -v)), 2).tolist() == [0, 0, 1]
    assert groups_of(torch.stack((-v, v, -2 * v, 0.1 * v)), 2).tolist() == [0, 1, 0, 1]
    assert groups_of(torch.stack((v, v)), 2).tolist() == [0, 1]
    assert [default_groups(n) for n in (2, 3, 6, 9, 50)] == [1, 2, 3, 5, 5]


def test_a_groups_gradient_is_its_members_mean() -> None:
    found = group_gradients(G, torch.tensor([0, 1, 0]))
    assert torch.allclose(found, torch.stack(((G[0] + G[2]) / 2, G[1])))


def test_a_gate_learns_disjoint_states() -> None:
    torch.manual_seed(0)
    gate = Gate(3, 2, hidden=16)
    optimizer = torch.optim.Adam(gate.parameters(), 1e-2)
    states = torch.randn(200, 5, 3) + 3.0 * torch.tensor([1.0, -1.0]).repeat(100).view(-1, 1, 1)
    labels, real = torch.tensor([0, 1]).repeat(100), torch.ones(200, 5, dtype=torch.bool)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.nll_loss(gate(states, real), labels).backward()
        optimizer.step()
    assert (gate(states, real).argmax(1) == labels).all()


def test_a_gate_sees_the_mean_of_the_last_real_states() -> None:
    torch.manual_seed(0)
    gate = Gate(3, 2, hidden=4, states=3)
    states = torch.randn(2, 5, 3)
    real = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]).bool()
    found = gate(states, real)
    for row, mean in enumerate((states[0, 3:].mean(0), states[1, 2:].mean(0))):
        assert torch.allclose(found[row], gate.net(mean).log_softmax(-1), atol=1e-6)
    states[0, :3] += 100
    assert torch.equal(gate(states, real)[0], found[0])


def test_a_belief_adds_up_over_steps() -> None:
    class Told(Gate):
        def forward(self, states: Tensor, real: Tensor) -> Tensor:
            return states[:, -1]

    belief = Belief(Told(2, 2))
    votes = [[-1.0, -2.0], [-5.0, -0.1], [-0.1, -0.2]]
    found = [int(belief(torch.tensor([[v]]), torch.ones(1, 1).bool())) for v in votes]
    assert found == [0, 1, 1]  # -1, -2; -6, -2.1; -6.1, -2.3


def test_beliefs_of_whole_episodes_are_those_of_acting() -> None:
    torch.manual_seed(0)
    gate = Gate(3, 3, hidden=8)
    states, K = torch.randn(4, 7, 3), 4
    whole = beliefs(gate, states, K)
    belief = Belief(gate)
    for t in range(7):
        index = torch.arange(t + 1 - K, t + 1)
        real = (index >= 0).expand(4, -1)
        seen = states[:, index.clamp(min=0)] * real.unsqueeze(-1)
        assert torch.equal(belief(seen, real), whole[:, t])


def test_each_window_is_its_groups_networks() -> None:
    nets = [small(seed=s).eval() for s in range(3)]
    groups, windows = torch.tensor([2, 0, 2, 1]), some()
    found = by_group(nets, windows, groups)
    for row, group in enumerate(groups.tolist()):
        assert torch.allclose(found[row], nets[group](windows)[row], atol=1e-6)


# -- baselines and measures -----------------------------------------------------------------------


def test_an_identity_stands_behind_the_states() -> None:
    found = with_identity(some(), 1, 3)
    assert found.states.shape == (4, 3, 6)
    assert (found.states[..., 3:] == torch.tensor([0.0, 1, 0])).all()
    assert torch.equal(found.states[..., :3], some().states)


def test_surgery_of_two_gradients_is_the_closed_form() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    found = surgery(torch.stack((a, b)), torch.Generator().manual_seed(0))
    a_less, b_less = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])
    assert torch.allclose(found, (a_less + b_less) / 2)
    agreeing = torch.stack((a, torch.tensor([1.0, 1.0])))
    assert torch.equal(surgery(agreeing, torch.Generator()), agreeing.mean(0))


def test_conflict_counts_pairs() -> None:
    v = torch.tensor([1.0, 2.0])
    share, cosine = conflict(torch.stack((v, 2 * v, -v)))
    assert share == pytest.approx(2 / 3) and cosine == pytest.approx(-1 / 3)
