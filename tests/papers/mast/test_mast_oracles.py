"""MAST's parts against worked numbers, closed forms and what they must leave alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from common.marl.episodes import Batch, batch_of
from common.marl.recurrent import RecurrentAgents
from common.marl.targets import masked_mean, td_lambda
from papers.mast import cost, learning, method
from papers.mast.config import Config
from papers.mast.methods import METHODS, Sparse
from papers.mast.networks import (
    copies,
    make_values,
    n_parameters,
    parameters_of,
    sparse_size,
)

torch.set_num_threads(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Sizes:
    """As much of an environment as networks need."""

    n_agents, obs_dim, state_dim, n_actions = 3, 7, 11, 5


def batch(lengths: tuple[int, ...] = (4, 6, 2), seed: int = 0) -> Batch:
    """Random episodes of these lengths; the first is cut, the others terminated."""
    rng, env, episodes = np.random.default_rng(seed), Sizes, []
    for i, length in enumerate(lengths):
        moments = (length + 1, env.n_agents)
        avail = rng.random((*moments, env.n_actions)) < 0.7
        avail[..., 0] = True
        terminated = np.zeros(length, np.float32)
        terminated[-1] = i > 0
        episodes.append(
            {
                "obs": rng.standard_normal((*moments, env.obs_dim), dtype=np.float32),
                "state": rng.standard_normal((length + 1, env.state_dim), dtype=np.float32),
                "avail": avail,
                "alive": np.ones(moments, bool),
                "agent_type": np.zeros(moments, np.int64),
                "actions": np.zeros((length, env.n_agents), np.int64),
                "reward": rng.standard_normal(length, dtype=np.float32),
                "terminated": terminated,
                "won": np.array(False),
            }
        )
    return batch_of(episodes)


# -- soft mellowmax -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "alpha", "omega", "wanted"),
    [
        ([1.0, 2.0, 3.0], 1.0, 10.0, 2.959241),
        ([1.0, 2.0, 3.0], 1.0, 5.0, 2.918975),
        ([2.0, 1.9, -3.0, 0.4], 1.0, 10.0, 1.953900),
        ([1.0, 2.0, 3.0], 0.0, 10.0, 2.890143),
        ([0.3, 0.3, 0.3], 1.0, 10.0, 0.3),
        ([1.0, 2.0, 3.0], 1.0, 1e-6, 2.575211),
    ],
)
def test_soft_mellowmax_worked_numbers(
    q: list[float], alpha: float, omega: float, wanted: float
) -> None:
    values = torch.tensor(q, dtype=torch.double)
    everything = torch.ones(len(q), dtype=torch.bool)
    found = method.soft_mellowmax(values, everything, alpha, omega)
    assert float(found) == pytest.approx(wanted, abs=2e-6)


def test_soft_mellowmax_lies_between_the_softmax_mean_and_the_maximum() -> None:
    q = torch.randn(500, 8, generator=generator(), dtype=torch.double)
    avail = torch.rand(500, 8, generator=generator(1)) < 0.6
    avail[:, 0] = True
    sm = method.soft_mellowmax(q, avail)
    p = torch.softmax(q.masked_fill(~avail, -math.inf), -1)
    best = q.masked_fill(~avail, -math.inf).amax(-1)
    assert (sm <= best + 1e-12).all() and (sm >= (p * q).sum(-1) - 1e-12).all()
    torch.testing.assert_close(method.soft_mellowmax(q, avail, 1.0, 1e5), best, atol=1e-3, rtol=0)


def test_an_unavailable_action_does_not_count() -> None:
    q = torch.tensor([[1.0, 2.0, 3.0, 50.0]])
    avail = torch.tensor([[True, True, True, False]])
    moved = q.clone()
    moved[0, 3] = -99.0
    assert float(method.soft_mellowmax(q, avail)) == pytest.approx(2.959241, abs=1e-5)
    torch.testing.assert_close(method.soft_mellowmax(q, avail), method.soft_mellowmax(moved, avail))


# -- topology -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sparsity", "wanted"),
    [(0.9, [0.11359, 0.08683, 0.08683, 0.58610]), (0.8, [0.23080, 0.17644, 0.17644, 1.0])],
)
def test_erdos_renyi_densities(sparsity: float, wanted: list[float]) -> None:
    shapes = [(64, 86), (192, 64), (192, 64), (8, 64)]
    found = method.erdos_renyi(shapes, sparsity)
    assert found == pytest.approx(wanted, abs=1e-5)
    kept = sum(d * o * i for d, (o, i) in zip(found, shapes, strict=True))
    assert kept == pytest.approx((1 - sparsity) * 30592)


def test_erdos_renyi_without_sparsity_is_dense_and_refuses_all_of_it() -> None:
    assert method.erdos_renyi([(4, 5), (2, 4)], 0.0) == pytest.approx([1.0, 1.0])
    with pytest.raises(ValueError, match="sparsity"):
        method.erdos_renyi([(4, 5)], 1.0)


def test_one_connection_moves_as_it_does_by_hand() -> None:
    weight = torch.tensor([[0.5, -0.1, 0.0, 0.0, 0.2, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0, 0.0]])
    gradient = torch.tensor([[0.0, 0.0, 3.0, 1.0, 0.0, 2.0]])
    new, masked, void = method.rewired(weight, mask, gradient, 1)
    assert masked.tolist() == [[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]
    assert new[0].tolist() == pytest.approx([0.5, 0.0, 0.0, 0.0, 0.2, 0.0])
    assert void.tolist() == [[False, True, True, False, False, False]]


def test_a_connection_that_comes_back_at_once_keeps_its_weight() -> None:
    weight, mask = torch.tensor([[0.5, -0.1, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    new, masked, void = method.rewired(weight, mask, torch.tensor([[0.0, 9.0, 1.0]]), 1)
    assert masked.tolist() == mask.tolist() and new[0, 1] == pytest.approx(-0.1)
    assert void[0, 1]


def test_drop_share_falls_by_a_cosine() -> None:
    assert method.drop_share(0, 100) == 0.5
    assert method.drop_share(50, 100) == pytest.approx(0.25)
    assert method.drop_share(100, 100) == pytest.approx(0.0)


def trained(name: str, n: int, **changes: Any) -> tuple[Any, ...]:
    """Networks after ``n`` updates on one batch."""
    cfg = replace(Config(rewire_every=5, steps=100, hidden=16, sparsity=0.8), **changes)
    chosen = METHODS[name]
    values = make_values(cfg, Sizes, chosen.size, generator())  # type: ignore[arg-type]
    networks = [m for v in values for m in v.networks]
    sparsity = cfg.sparsity if chosen.size == "sparse" else 0.0
    topology = method.Topology(networks, sparsity, chosen.growth, generator(1))
    first = [m.clone() for m in topology.masks]
    targets = copies(values)
    optimizer = torch.optim.Adam(parameters_of(values), 1e-2)
    data = batch()
    for number in range(1, n + 1):
        learning.update(
            *(chosen, cfg, values, targets, topology, optimizer, data),
            step=number * 100 // (n + 1),
            number=number,
        )
    return values, targets, topology, optimizer, first


@pytest.mark.parametrize("name", ["mast", "set", "ss", "rlx2"])
def test_absent_weights_and_their_moments_stay_zero_and_connections_keep_their_number(
    name: str,
) -> None:
    values, targets, topology, optimizer, first = trained(name, 60)
    assert sum(m.numel() for m in topology.masks) > 1000
    for layer, mask, before in zip(topology.layers, topology.masks, first, strict=True):
        absent = mask == 0
        assert method.rows(layer.data)[absent].abs().max() == 0
        for moment in method.moments(optimizer, layer):
            assert method.rows(moment)[absent].abs().max() == 0
        assert torch.equal(mask.sum(1), before.sum(1))
        moved = bool((mask != before).any())
        assert moved == (name != "ss")
    for old, layer in zip(
        (w for v in targets for m in v.networks for w in method.weights_of(m)),
        (w for v in values for m in v.networks for w in method.weights_of(m)),
        strict=True,
    ):
        assert old.shape == layer.shape


def test_growth_by_the_gradient_takes_the_dense_gradient() -> None:
    """What grows has the largest gradient among all absent connections."""
    cfg = Config(hidden=16, sparsity=0.8, rewire_every=1, steps=100)
    values = make_values(cfg, Sizes, "sparse", generator())  # type: ignore[arg-type]
    topology = method.Topology(values[0].networks, 0.8, "gradient", generator(1))
    optimizer = torch.optim.Adam(parameters_of(values), 1e-2)
    loss = learning.loss_of(METHODS["rigl"], cfg, values, copies(values), batch(), 0)
    loss.loss.backward()
    k = max(range(len(topology.layers)), key=lambda i: topology.masks[i].numel())
    before = topology.masks[k].clone()
    assert method.rows(topology.layers[k].grad)[before == 0].abs().max() > 0  # type: ignore[arg-type]
    topology.evolve(0.3, optimizer)
    after = topology.masks[k]
    score = method.rows(topology.layers[k].grad).abs()  # type: ignore[arg-type]
    for g in range(before.shape[0]):
        grown, absent = (after > before)[g], ((before == 0) & (after == 0))[g]
        assert grown.any() and score[g][grown].min() >= score[g][absent].max()


def test_networks_of_agents_have_masks_of_their_own() -> None:
    agents = RecurrentAgents(3, 20, 5, 16, share=False, generator=generator())
    topology = method.Topology([agents], 0.9, "none", generator(1))
    assert topology.masks[0].shape[0] == 3
    assert not torch.equal(topology.masks[0][0], topology.masks[0][1])
    assert {len(set(c)) for c in topology.counts()} == {1}


def test_pooled_connections_go_where_the_gradient_is_largest_over_all_agents() -> None:
    """Two agents of one connection of four each; the gradient is all the second one's."""
    stack = torch.nn.Linear(1, 1)
    stack.weight = torch.nn.Parameter(torch.ones(2, 2, 2))
    topology = method.Topology([stack], 0.75, "gradient", generator(1), pool=True)
    topology.masks[0] = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    with torch.no_grad():
        method.rows(stack.weight).copy_(torch.tensor([[0.1, 0, 0, 0], [0.9, 0, 0, 0]]))
    stack.weight.grad = torch.tensor([[[0.0, 1], [1, 1]], [[0.0, 2], [3, 2]]])
    optimizer = torch.optim.Adam([stack.weight], 1e-2)
    assert topology.evolve(0.5, optimizer) == 1
    assert topology.masks[0].tolist() == [[0, 0, 0, 0], [1, 0, 1, 0]]
    assert stack.weight.flatten().tolist() == pytest.approx([0, 0, 0, 0, 0.9, 0, 0, 0])
    assert sum(topology.counts()[0]) == 2


def test_a_topology_comes_back_from_its_state() -> None:
    values, _, topology, _, _ = trained("mast", 12)
    networks = [m for v in values for m in v.networks]
    other = method.Topology(networks, 0.8, "gradient", generator(9))
    other.load_state_dict(topology.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(topology.masks, other.masks, strict=True))


# -- targets, samples and losses ------------------------------------------------------------------


def test_without_its_parts_mast_is_qmix() -> None:
    """S = 0, the maximum, lambda = 0 and one buffer: PyMARL's loss without double Q."""
    cfg, data = Config(hidden=16, task="matrix-two_step"), batch()
    plain = Sparse("plain", "plain", "baseline", size="dense", operator="max")
    values = make_values(cfg, Sizes, "dense", generator())  # type: ignore[arg-type]
    targets = copies(make_values(cfg, Sizes, "dense", generator(3)))  # type: ignore[arg-type]
    found = learning.loss_of(plain, cfg, values, targets, data, 0)

    total, count = 0.0, 0.0
    q = values[0].utilities(data)
    q_next = targets[0].utilities(data)
    for b in range(len(data)):
        for t in range(int(data.filled[b].sum())):
            chosen = torch.stack([q[b, t, n, data.actions[b, t, n]] for n in range(3)])
            best = torch.stack(
                [q_next[b, t + 1, n][data.avail[b, t + 1, n]].max() for n in range(3)]
            )
            v = targets[0].mixer(best, data.state[b, t + 1])
            y = data.reward[b, t] + cfg.gamma * (1 - data.terminated[b, t]) * v
            total += float((values[0].mixer(chosen, data.state[b, t]) - y) ** 2)
            count += 1
    assert float(found.loss) == pytest.approx(total / count, rel=1e-5)


def test_soft_mellowmax_never_gives_a_higher_target_than_the_maximum() -> None:
    cfg, data = Config(hidden=16), batch()
    values = make_values(cfg, Sizes, "dense", generator())  # type: ignore[arg-type]
    targets = copies(values)
    by = {
        operator: learning.loss_of(
            Sparse("x", "x", "baseline", operator=operator), cfg, values, targets, data, 0
        ).following
        for operator in ("sm", "max", "double")
    }
    real = data.filled > 0
    assert (by["sm"] <= by["max"] + 1e-6)[real].all() and (by["sm"] < by["max"])[real].any()
    # with targets equal to the online networks double Q takes the maximum
    torch.testing.assert_close(by["double"], by["max"])


def test_targets_are_one_step_before_the_switch_and_lambda_returns_after_it() -> None:
    cfg, data = Config(steps=1000, task="matrix-two_step"), batch()
    following = torch.randn(data.reward.shape, generator=generator(5))
    given = (data.reward, data.terminated, data.filled, following)
    early = learning.targets_of(METHODS["mast"], cfg, data, following, 374)
    late = learning.targets_of(METHODS["mast"], cfg, data, following, 375)
    real = data.filled > 0
    torch.testing.assert_close(early[real], td_lambda(*given, cfg.gamma, 0.0)[real])
    torch.testing.assert_close(late, td_lambda(*given, cfg.gamma, cfg.lam))
    always = learning.targets_of(METHODS["dense-lambda"], cfg, data, following, 0)
    torch.testing.assert_close(always, late)
    one = learning.targets_of(METHODS["mast-td"], cfg, data, following, 999)
    torch.testing.assert_close(one[real], early[real])


def test_rewards_of_smax_have_the_scale_of_smac() -> None:
    data = batch()
    nothing = torch.zeros_like(data.reward)
    of = {
        task: learning.targets_of(METHODS["rigl"], Config(task=task), data, nothing, 0)
        for task in ("smax-3m", "smac-3m", "matrix-two_step")
    }
    torch.testing.assert_close(of["smac-3m"], data.reward)
    torch.testing.assert_close(of["smax-3m"], 10 * data.reward)
    torch.testing.assert_close(of["matrix-two_step"], data.reward)


def test_a_batch_of_two_buffers() -> None:
    buffer = method.DualBuffer(past=50, latest=2)
    rng = np.random.default_rng(0)
    made = [{"reward": np.zeros(1), "obs": np.full((2, 1), i)} for i in range(20)]
    buffer.add(made)
    drawn = buffer.draw(8, rng)
    latest = list(drawn[5:])
    assert len(drawn) == 7  # five of the past, and the two that there are of the latest
    assert {int(e["obs"][0, 0]) for e in latest} == {18, 19}
    buffer = method.DualBuffer(past=50, latest=10)
    buffer.add(made)
    drawn = buffer.draw(8, rng)
    assert len(drawn) == 8 and all(e["obs"][0, 0] >= 10 for e in drawn[5:])
    assert len(method.DualBuffer(50, 10, share=0.0).latest) == 0


@pytest.mark.parametrize("host", ["vdn", "ow-qmix", "cw-qmix", "res"])
def test_every_host_learns_sparsely(host: str) -> None:
    values, _, topology, _, _ = trained("mast", 40, host=host)
    assert len(values) == 1 + (host in ("ow-qmix", "cw-qmix"))
    assert all(bool(torch.isfinite(p).all()) for p in parameters_of(values))


def test_res_adds_its_regulariser_and_averages_over_neighbours() -> None:
    data = batch()
    plain = Sparse("plain", "plain", "baseline", size="dense")
    made = {}
    for host in ("qmix", "res"):
        cfg = Config(hidden=16, host=host)  # type: ignore[arg-type]
        values = make_values(cfg, Sizes, "dense", generator())  # type: ignore[arg-type]
        made[host] = learning.loss_of(plain, cfg, values, copies(values), data, 0)
    real = data.filled > 0
    # a mean over joint actions is below the value of the best
    assert (made["res"].following <= made["qmix"].following + 1e-6)[real].all()
    error = masked_mean((made["res"].q_tot - made["res"].target).square(), data.filled)
    assert float(made["res"].loss.detach()) > float(error)


# -- cost -----------------------------------------------------------------------------------------


def test_flops_of_an_agent() -> None:
    agents = RecurrentAgents(1, 86, 8, 64, generator=generator())
    assert cost.forward_flops(agents, None) == 60_728
    for sparsity, ratio in ((0.9, 0.100005), (0.95, 0.0500025)):
        topology = method.Topology([agents], sparsity, "none", generator())
        assert cost.forward_flops(agents, topology) / 60_728 == pytest.approx(ratio, rel=2e-3)


def test_size_of_a_sparse_agent_counts_its_biases() -> None:
    agents = RecurrentAgents(1, 86, 8, 64, generator=generator())
    # 30,592 weights; PyTorch's GRU has two biases per gate
    assert sparse_size(agents, 0.95) / n_parameters(agents) == pytest.approx(0.0640, abs=0.001)


def test_cost_is_that_of_the_masks_that_are_there() -> None:
    values, _, topology, _, _ = trained("mast", 20)
    dense = trained("dense", 0)
    sparse_cost = cost.cost_of(values, topology, 50)
    dense_cost = cost.cost_of(dense[0], dense[2], 50)
    assert sparse_cost.act / dense_cost.act == pytest.approx(0.2, abs=0.03)
    assert sparse_cost.train > 4 * (sparse_cost.act)  # the mixer and dense growth besides
    present = sum(
        int((w != 0).sum()) for v in values for m in v.networks for w in method.weights_of(m)
    )
    biases = sum(n_parameters(m) for v in values for m in v.networks) - sum(
        w.numel() for v in values for m in v.networks for w in method.weights_of(m)
    )
    assert present <= sparse_cost.size - biases


def test_tiny_is_dense_and_no_larger_than_the_sparse_one() -> None:
    cfg = Config(sparsity=0.9)
    tiny = make_values(cfg, Sizes, "tiny", generator())[0]  # type: ignore[arg-type]
    full = make_values(cfg, Sizes, "sparse", generator())[0]  # type: ignore[arg-type]
    for small, large in zip(tiny.networks, full.networks, strict=True):
        limit = sparse_size(large, 0.9)
        assert 0.75 * limit < n_parameters(small) <= limit
