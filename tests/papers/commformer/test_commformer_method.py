"""Oracles of the graph, the attention with relations, and who sees what."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.stacked import StackedLinear, seed_generators
from papers.commformer import method
from papers.commformer.baselines import random_graph
from papers.commformer.method import (
    Graph,
    RelationAttention,
    edges_per_row,
    gated,
    gumbel,
    k_hot,
    make_graph,
    sample_graph,
)
from papers.commformer.network import CommFormer, Shape

torch.set_num_threads(1)
N, A, SEEN, D = 4, 5, 7, 8


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of the attention so large that what they do is seen."""
    wide = lambda t, *, generator=None: torch.nn.init.normal_(t, std=0.5, generator=generator)  # noqa: E731
    monkeypatch.setattr(method, "small", wide)


def network(graph_like: str = "", seeds: tuple[int, ...] = (0,), **changes: Any) -> CommFormer:
    shape = Shape(N, SEEN, A, width=D, dropout=0.0, **changes)
    return CommFormer(seed_generators(seeds, 0), shape).double()


def graph(rows: Any, diagonal: str = "added") -> Graph:
    return make_graph(torch.tensor(rows, dtype=torch.float64)[None], diagonal)


def inputs(B: int = 3, S: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    obs = torch.randn(S, B, N, SEEN, generator=g, dtype=torch.float64)
    actions = torch.randint(A, (S, B, N), generator=g)
    return obs, actions, torch.ones(S, B, N, A, dtype=torch.bool)


def random_rows(seed: int, k: int = 2) -> Any:
    return random_graph(seed_generators((seed,), 0), N, k)[0].tolist()


# -- the graph ------------------------------------------------------------------------------------


def test_edges_per_row() -> None:
    assert [edges_per_row(n, 0.4) for n in (1, 2, 3, 5, 8, 10, 27)] == [1, 1, 1, 2, 3, 4, 10]
    assert edges_per_row(10, 0.7) == 7 and edges_per_row(5, 1.0) == 5  # 10 * .7 is 7.000...1


def test_gumbel_top_k_has_the_softmaxs_frequencies() -> None:
    draws = 100_000
    alpha = torch.tensor([math.log(2.0), 0.0, 0.0]).expand(1, draws, 3)
    noise = gumbel(seed_generators((0,), 1), draws, 3)
    share = k_hot(alpha + noise, 1).mean((0, 1))
    torch.testing.assert_close(share, torch.tensor([0.5, 0.25, 0.25]), atol=0.006, rtol=0)


def test_a_sampled_graph_is_k_hot_and_has_the_softmaxs_gradient() -> None:
    alpha = torch.randn(2, N, N, generator=torch.Generator().manual_seed(1)).requires_grad_()
    noise = gumbel(seed_generators((0, 1), 1), N, N)
    hard = sample_graph(alpha, 2, noise)
    assert set(hard.detach().unique().tolist()) == {0.0, 1.0} and (hard.sum(-1) == 2).all()
    weight = torch.randn(2, N, N, generator=torch.Generator().manual_seed(2))
    (mine,) = torch.autograd.grad((hard * weight).sum(), alpha)
    (theirs,) = torch.autograd.grad(((alpha + noise).softmax(-1) * weight).sum(), alpha)
    torch.testing.assert_close(mine, theirs)
    others = sample_graph(alpha, 2, noise, exclude_diagonal=True)
    assert not others.diagonal(dim1=1, dim2=2).any() and (others.sum(-1) == 2).all()


def test_equal_parameters_give_every_row_the_same_columns() -> None:
    """What happens before alpha moves: the leftmost, whatever the device."""
    for n, k in ((3, 1), (5, 2), (70, 20)):
        found = sample_graph(torch.ones(1, n, n), k)[0]
        assert found[:, :k].all() and not found[:, k:].any()


def test_connectivity_and_classes() -> None:
    A_ = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    added, replaced = make_graph(A_), make_graph(A_, "replaced")
    assert added.connectivity[0].tolist() == [[2, 0], [1, 1]]
    assert replaced.connectivity[0].tolist() == [[1, 0], [1, 1]]
    assert added.classes[0].tolist() == [[1, 0], [1, 0]] == replaced.classes[0].tolist()
    raw = torch.tensor([[[0.9999, 1.0001], [0.9999, 1.0]]])  # alpha in the warm-up
    assert make_graph(raw).classes[0].tolist() == [[1, 1], [1, 1]]
    assert make_graph(raw, truncated=True).classes[0].tolist() == [[0, 1], [0, 1]]
    assert make_graph(A_, self_edges=False).connectivity is A_


def test_a_random_graph_has_each_column_equally_often() -> None:
    drawn = random_graph(seed_generators(range(4_000), 3), N, 1)
    assert (drawn.sum(-1) == 1).all()
    torch.testing.assert_close(drawn.mean(0), torch.full((N, N), 0.25), atol=0.035, rtol=0)
    others = random_graph(seed_generators(range(4_000), 3), N, 1, exclude_diagonal=True).mean(0)
    expected = (torch.ones(N, N) - torch.eye(N)) / 3
    torch.testing.assert_close(others, expected, atol=0.035, rtol=0)


# -- attention ------------------------------------------------------------------------------------


def attention(**options: Any) -> RelationAttention:
    return RelationAttention(seed_generators((0,), 0), D, **options).double()


def naive(
    part: RelationAttention, x: Tensor, g: Graph, E: Tensor, *, released: bool = False
) -> Tensor:
    """Eq. 8 with a relation per pair, pair by pair."""

    def linear(layer: StackedLinear, y: Tensor) -> Tensor:
        return y @ layer.weight[0] + layer.bias[0, 0]

    q, k, v = (linear(layer, x) for layer in (part.query, part.key, part.value))  # [B, N, D]
    result = torch.zeros_like(x)
    for b, i in itertools.product(range(x.shape[0]), range(N)):
        scores, C = [], []
        for j in range(i + 1 if part.causal else N):
            edge = g.classes[0, j, i] if released else g.classes[0, i, j]
            rq, rk = linear(part.relation, E[0, int(edge)]).chunk(2)
            scores.append((q[b, i] + rq) @ (k[b, j] + rk) / (D if released else math.sqrt(D)))
            C.append(g.connectivity[0, i, j])
            if C[-1] == 0:
                scores[-1] = scores[-1] - 1e9
        w = torch.stack(scores).softmax(-1) * torch.stack(C)
        result[b, i] = linear(part.out, w @ v[b, : len(w)])
    return result


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("released", [False, True])
def test_scores_by_class_are_those_pair_by_pair(causal: bool, released: bool) -> None:
    part = attention(causal=causal, as_released=released)
    g, (x, _, _) = graph(random_rows(3)), inputs()
    x, E = (
        x[..., :1] * torch.arange(1.0, D + 1).double() - x[..., 1:2],
        torch.randn(1, 2, D).double(),
    )
    q, k, v = (method.per_token(f, x) for f in (part.query, part.key, part.value))
    torch.testing.assert_close(part(q, k, v, g, E)[0], naive(part, x[0], g, E, released=released))


def test_a_full_graph_without_relations_is_pytorchs_attention() -> None:
    part = attention()
    theirs = torch.nn.MultiheadAttention(D, 1, batch_first=True).double()
    with torch.no_grad():
        part.relation.weight.zero_()
        layers = (part.query, part.key, part.value)
        theirs.in_proj_weight.copy_(torch.cat([layer.weight[0].T for layer in layers]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias[0, 0] for layer in layers]))
        theirs.out_proj.weight.copy_(part.out.weight[0].T)
        theirs.out_proj.bias.copy_(part.out.bias[0, 0])
    x = torch.randn(1, 6, N, D).double()
    q, k, v = (method.per_token(f, x) for f in layers)
    full = graph([[1.0] * N] * N, "replaced")
    found = part(q, k, v, full, torch.randn(1, 2, D).double())
    torch.testing.assert_close(found[0], theirs(x[0], x[0], x[0])[0], rtol=0, atol=1e-14)


def test_gradient_of_the_graph_is_finite_differences_on_the_edges_and_nothing_off_them() -> None:
    net, (obs, actions, avail) = network(), inputs()
    alpha = torch.randn(1, N, N, generator=torch.Generator().manual_seed(5)).double()
    hard = sample_graph(alpha, 2)
    classes = make_graph(hard).classes
    own = torch.eye(N).double()

    def loss(adjacency: Tensor, mask: Tensor = hard) -> Tensor:
        """With mask and classes held."""
        held = torch.where(mask + own != 0, adjacency + own, torch.zeros_like(adjacency))
        rep, value, g, _ = net.encode(obs, Graph(held, classes))
        return net.logits(rep, actions, avail, g).square().sum() + value.square().sum()

    a = alpha.clone().requires_grad_()
    (mine,) = torch.autograd.grad(loss(sample_graph(a, 2)), a)
    A_ = hard.clone().requires_grad_()
    (of_edges,) = torch.autograd.grad(loss(A_), A_)
    off = (hard == 0) & (own == 0)
    assert (of_edges[off] == 0).all() and (of_edges[hard != 0].abs() > 1e-8).any()
    eps = 1e-6
    for i, j in ((0, 1), (2, 2), (3, 0)):
        moved = [alpha.clone(), alpha.clone()]
        moved[0][0, i, j] += eps
        moved[1][0, i, j] -= eps
        up, down = (loss(hard + m.softmax(-1) - alpha.softmax(-1)) for m in moved)
        assert ((up - down) / (2 * eps)).item() == pytest.approx(mine[0, i, j].item(), rel=1e-4)


def test_without_the_product_after_the_softmax_the_graph_has_no_gradient() -> None:
    net, (obs, actions, avail) = network(), inputs()
    alpha = torch.ones(1, N, N).double().requires_grad_()
    made = make_graph(sample_graph(alpha, 2, gumbel(seed_generators((0,), 1), N, N).double()))
    cut = Graph(made.connectivity.detach(), made.classes)  # masking and classes alone
    rep, value, g, _ = net.encode(obs, cut)
    out = net.logits(rep, actions, avail, g).sum() + value.sum()
    assert torch.autograd.grad(out, alpha, allow_unused=True) == (None,)
    rep, value, g, _ = net.encode(obs, made)
    out = net.logits(rep, actions, avail, g).square().sum() + value.sum()
    assert torch.autograd.grad(out, alpha)[0].abs().max() > 1e-6


# -- who sees what --------------------------------------------------------------------------------


def outputs(net: CommFormer, obs: Tensor, actions: Tensor, g: Graph) -> tuple[Tensor, Tensor]:
    rep, value, used, _ = net.encode(obs, g)
    avail = torch.ones(*actions.shape, A, dtype=torch.bool)
    return net.logits(rep, actions, avail, used), torch.cat((value.unsqueeze(-1), rep), dim=-1)


GRAPHS = [random_rows(seed) for seed in range(4)] + [[[0.0] * N] * N, [[1.0] * N] * N]


@pytest.mark.parametrize("rows", GRAPHS)
@pytest.mark.parametrize("diagonal", ["added", "replaced"])
def test_observations_reach_those_who_listen(rows: Any, diagonal: str) -> None:
    net, (obs, actions, _) = network(), inputs()
    g = graph(rows, diagonal)
    before = outputs(net, obs, actions, g)
    for j in range(N):
        other = obs.clone()
        other[:, :, j] += torch.randn(SEEN, generator=torch.Generator().manual_seed(j)).double()
        for x, y in zip(before, outputs(net, other, actions, g), strict=True):
            changed = ((x - y).abs().amax((0, 1, 3)) > 0).tolist()
            assert changed == (g.connectivity[0, :, j] != 0).tolist()


@pytest.mark.parametrize("rows", GRAPHS)
def test_actions_travel_two_causal_steps_from_the_next_agents_token(rows: Any) -> None:
    """So without any edge agent j + 1 still sees what agent j does."""
    net, (obs, actions, _) = network(), inputs()
    g = graph(rows)
    before = outputs(net, obs, actions, g)[0]
    T = (g.connectivity[0] != 0).double().tril()
    for j in range(N):
        other = actions.clone()
        other[:, :, j] = (other[:, :, j] + 1) % A
        changed = (before - outputs(net, obs, other, g)[0]).abs().amax((0, 1, 3)) > 0
        expected = (T @ T)[:, j + 1] != 0 if j + 1 < N else torch.zeros(N, dtype=torch.bool)
        assert changed.tolist() == expected.tolist()


def test_silence_passes_nothing_on() -> None:
    net, (obs, actions, _) = network(silent=True), inputs()
    none = graph([[0.0] * N] * N)
    logits, known = outputs(net, obs, actions, none)
    order = torch.tensor([2, 0, 3, 1])
    mixed = obs[:, :, order].clone()
    mixed[:, :, 1] = obs[:, :, 1]
    other_logits, other = outputs(net, mixed, (actions + 1) % A, none)
    assert torch.equal(logits[:, :, 1], other_logits[:, :, 1])
    torch.testing.assert_close(known[:, :, order][:, :, 0], other[:, :, 0])


@pytest.mark.parametrize(
    "changes",
    [{}, {"gate": True}, {"shared_actor": True}, {"silent": True}, {"relations": False}],
)
def test_acting_one_by_one_and_teacher_forcing_agree(changes: Any) -> None:
    net, (obs, _, avail) = network(seeds=(0, 1), **changes), inputs(B=20, S=2)
    avail[:, ::2, 1, :3] = False
    g = make_graph(torch.tensor([random_rows(s) for s in (1, 2)]).double())
    noise = gumbel(seed_generators((0, 1), 4), 20, N, A).double()
    actions, log_prob, value, used = net.act(obs, avail, g, noise)
    rep, again, graph_used, _ = net.encode(obs, g)
    log_p = net.logits(rep, actions, avail, graph_used).log_softmax(-1)
    forced = log_p.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_prob, forced, rtol=0, atol=1e-12)
    torch.testing.assert_close(value, again)
    assert torch.equal(used.connectivity, graph_used.connectivity)
    assert avail.gather(-1, actions.unsqueeze(-1)).all()
    greedy = net.act(obs, avail, g, None)[0]
    rep = net.encode(obs, g)[0]
    logits = net.logits(rep, greedy, avail, graph_used)
    assert torch.equal(greedy, logits.argmax(-1))


def test_actions_are_drawn_with_their_probabilities() -> None:
    net, (obs, _, avail) = network(), inputs(B=1)
    B = 20_000
    obs, avail = obs.expand(1, B, N, SEEN), avail[:, :1].expand(1, B, N, A)
    noise = gumbel(seed_generators((0,), 4), B, N, A).double()
    actions, log_prob, _, _ = net.act(obs, avail, graph(random_rows(0)), noise)
    first = actions[0, :, 0]
    for a in range(A):
        p = log_prob[0, first == a, 0].exp()[:1]
        share = (first == a).double().mean()
        assert abs(share - p).item() < 5 * math.sqrt(0.25 / B)


# -- the extension --------------------------------------------------------------------------------


def test_open_gates_change_nothing_and_closed_ones_leave_the_own_edge() -> None:
    g = graph(random_rows(1))
    opened = gated(g, torch.ones(1, 2, N).double())
    assert torch.equal(opened.connectivity, g.connectivity.unsqueeze(1).expand(1, 2, N, N))
    gate = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]]).double()
    C = gated(g, gate).connectivity[0, 0]
    assert torch.equal(C[::2], g.connectivity[0, ::2])
    assert torch.equal(C[1::2], (g.connectivity[0] * torch.eye(N))[1::2])


def test_a_gate_depends_on_the_own_observation_alone() -> None:
    net, (obs, _, _) = network(gate=True), inputs(B=50)
    full = graph([[1.0] * N] * N)
    with torch.no_grad():
        net.encoder.gate.weight.mul_(100)  # some open, some closed
    gate = net.encode(obs, full)[3]
    assert 0.1 < gate.mean() < 0.9 and set(gate.unique().tolist()) == {0.0, 1.0}
    other = obs.clone()
    other[:, :, 0] = torch.randn(50, SEEN).double()
    changed = net.encode(other, full)[3]
    assert torch.equal(gate[..., 1:], changed[..., 1:])
    assert not torch.equal(gate[..., 0], changed[..., 0])


def test_gates_learn_through_the_messages_and_are_drawn_with_their_probabilities() -> None:
    net, (obs, actions, avail) = network(gate=True), inputs()
    full = graph([[1.0] * N] * N)
    noise = gumbel(seed_generators((0,), 1), 3, N, 2).double()
    rep, value, g, _ = net.encode(obs, full, gate_noise=noise)
    net.logits(rep, actions, avail, g).square().sum().backward()
    assert net.encoder.gate.weight.grad.abs().max() > 1e-8
    with torch.no_grad():
        net.encoder.gate.bias[0, 0] = torch.tensor([0.0, math.log(3.0)])
        net.encoder.gate.weight.zero_()
    x = net.encoder.embedded(obs[:, :1].expand(1, 20_000, N, SEEN))
    noise = gumbel(seed_generators((0,), 1), 20_000, N, 2).double()
    assert net.encoder.gates(x, noise).mean().item() == pytest.approx(0.75, abs=0.01)
    assert (net.encoder.gates(x, None) == 1).all()


def test_seeds_do_not_see_each_other() -> None:
    together, alone = network(seeds=(3, 5)), network(seeds=(5,))
    obs, actions, avail = inputs(S=2)
    g = make_graph(torch.tensor([random_rows(s) for s in (1, 2)]).double())
    mine = outputs(together, obs, actions, g)
    theirs = outputs(alone, obs[1:], actions[1:], Graph(g.connectivity[1:], g.classes[1:]))
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x[1:], y)
    assert np.isfinite(mine[0].detach().numpy()).all()
