"""Fragment molecules: parents, networks, and the small DAG of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.gfn.fragment_nets import FragmentNetworks
from common.gfn.fragments import FragmentEnv, load_fragments, mean_similarity
from common.gfn.local_dag import fragments_around, with_last_stop
from common.gfn.sampling import Trajectories, choose_by_inverse_cdf
from common.stacked import seed_generators
from tests import stand_ins

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is in the extra 'gfn'")


@pytest.fixture
def env(tmp_path: Path) -> FragmentEnv:
    return FragmentEnv(
        load_fragments(stand_ins.seh(tmp_path) / "blocks_PDB_105.json"), max_blocks=5
    )


def grown(env: FragmentEnv, n: int, steps: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Random molecules: (before, action, after) of each step; ended ones stay as they are."""
    rng = torch.Generator().manual_seed(0)
    state, walk = env.initial((n,)), []
    for _ in range(steps):
        mask = env.forward_mask(state)
        mask[..., -1] = False
        action = choose_by_inverse_cdf(mask.float(), torch.rand(n, generator=rng))
        after = torch.where(mask.any(-1).view(-1, 1, 1), env.step(state, action), state)
        walk.append((state, action, after))
        state = after
    return walk


def test_parents_exist_and_lead_back(env: FragmentEnv) -> None:
    """Every listed edge exists in the MDP and leads to the same molecule; none is missing."""
    seen_root = 0
    for step, (before, action, state) in enumerate(grown(env, 200, 5)):
        parents, exists, actions = env.parents(state)
        assert not (exists & ~env.leaves(state)).any()
        assert (exists | ~env.leaves(state))[:, 1:].all()  # only a root may lack its entry
        for i in range(0, 200, 8):
            here = Chem.MolToSmiles(env.molecule(state[i]))
            for j in exists[i].nonzero().flatten().tolist():
                parent, back = parents[i, j], actions[i, j]
                assert env.forward_mask(parent)[back], (state[i], j)
                again = env.step(parent.unsqueeze(0), back.unsqueeze(0))[0]
                assert Chem.MolToSmiles(env.molecule(again)) == here
                assert int(env.n_placed(parent)) == int(env.n_placed(state[i])) - 1
                seen_root += j == 0 and step > 0
        moved = (before != state).flatten(1).any(1)
        newest = (env.n_placed(state) - 1)[moved]  # undoing the last action leads back
        assert torch.equal(parents[moved][torch.arange(len(newest)), newest], before[moved])
        assert torch.equal(actions[moved][torch.arange(len(newest)), newest], action[moved])
    assert seen_root > 10
    # a root that hangs on by an atom by which no entry attaches has no edge: pyrazole's atom 0
    pyrazole = env.step(env.initial((1,)), torch.tensor([4]))
    joined = env.step(pyrazole, torch.tensor([(0 * env.n_stems + 1) * env.n_blocks + 3]))
    assert env.parents(joined)[1][0].tolist() == [False, True, False, False, False]


def test_the_dag_around_molecules(env: FragmentEnv) -> None:
    walk = grown(env, 6, 3)
    visited = torch.cat([walk[0][0], *(after for _, _, after in walk)])  # 6 trajectories, 4 states
    objects = torch.arange(18, 24)
    local = fragments_around(env, visited, torch.arange(6.0), objects)
    dag = local.dag
    assert torch.equal(local.states[local.visited], visited)
    parents, exists, actions = env.parents(visited)
    found = dag.parents[local.visited]
    assert torch.equal(found >= 0, exists)
    assert torch.equal(local.states[found[exists]], parents[exists])
    assert torch.equal(dag.parent_actions[local.visited][exists], actions[exists])
    ended = ~env.forward_mask(local.states).any(-1)
    assert dag.forward_mask[ended].sum(-1).eq(1).all() and dag.forward_mask[ended, env.stop].all()
    assert len(torch.unique(local.states.flatten(1), dim=0)) == len(local.states)
    rewarded = torch.isfinite(dag.log_reward).nonzero().flatten()
    assert set(rewarded.tolist()) == set(local.visited[objects].tolist())


def test_trajectories_that_end_by_themselves_get_a_stop() -> None:
    traj = Trajectories(
        states=torch.tensor([[[0, 1, 2], [0, 3, 3]]]),
        actions=torch.tensor([[[4, 5], [4, 9]]]),
        mask=torch.tensor([[[True, True], [True, True]]]),
        last=torch.tensor([[2, 3]]),
    )
    closed = with_last_stop(traj, stop=9)
    assert closed.actions.tolist() == [[[4, 5, 9], [4, 9, 0]]]
    assert closed.mask.tolist() == [[[True] * 3, [True, True, False]]]
    assert closed.states.tolist() == [[[0, 1, 2, 2], [0, 3, 3, 3]]]


@pytest.mark.parametrize("own_flow", [False, True])
def test_networks_do_not_see_each_other(env: FragmentEnv, own_flow: bool) -> None:
    both = FragmentNetworks(seed_generators((0, 1), 0), env, 8, 2, own_flow=own_flow)
    alone = FragmentNetworks(seed_generators((1,), 0), env, 8, 2, own_flow=own_flow)
    states = torch.stack([after for _, _, after in grown(env, 6, 3)])  # [3, 6, K, 3]
    logits, log_flow = both(states.expand(2, -1, -1, -1, -1))
    assert logits.shape == (2, 3, 6, env.n_actions) and log_flow.shape == (2, 3, 6)
    logits_1, log_flow_1 = alone(states[None])
    torch.testing.assert_close(logits[1], logits_1[0])
    torch.testing.assert_close(log_flow[1], log_flow_1[0])
    one = alone(states[None, 0])  # [1, B, K, 3]
    torch.testing.assert_close(one[0], logits_1[:, 0])
    assert not torch.allclose(logits[0], logits[1])
    (log_flow.sum() + logits.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in both.parameters())


def test_empty_slots_do_not_count(env: FragmentEnv) -> None:
    wide = FragmentEnv(env.fragments, max_blocks=7)
    net, same = (FragmentNetworks(seed_generators((0,), 0), e, 16, 2) for e in (env, wide))
    state = grown(env, 6, 3)[-1][-1]
    padded = torch.cat([state, wide.initial((6,))[:, :2]], 1)
    logits, log_flow = net(state[None])
    logits_wide, log_flow_wide = same(padded[None])
    used = 5 * env.n_stems * env.n_blocks
    mask = env.forward_mask(state)[:, :-1]
    torch.testing.assert_close(log_flow, log_flow_wide)
    torch.testing.assert_close(logits[0, :, :-1][mask], logits_wide[0, :, :used][mask])


def test_messages_are_those_of_a_slow_computation(env: FragmentEnv) -> None:
    """Molecule by molecule, with PyTorch's own layers."""
    net = FragmentNetworks(seed_generators((3,), 0), env, 8, 3)
    states = grown(env, 5, 4)[-1][-1]
    with torch.no_grad():
        found = net._messages(states[None])[0]
        gru = nn.GRUCell(8, 8)
        for ours, weight, bias in (
            (net.received[0], gru.weight_ih, gru.bias_ih),
            (net.kept[0], gru.weight_hh, gru.bias_hh),
        ):
            weight.copy_(ours.weight[0].T)
            bias.copy_(ours.bias[0, 0])
        act = nn.functional.leaky_relu
        for i, state in enumerate(states):
            rows = [row for row in state.tolist() if row[0] != env.n_blocks]
            x = torch.stack([net.block[0, env.true_block[b]] for b, _, _ in rows])
            for n, layer in enumerate(net.enter):
                x = (act(x) if n else x) @ layer.weight[0] + layer.bias[0]
            for _ in range(3):
                messages = torch.zeros_like(x)
                for j, (b, parent, stem) in enumerate(rows):
                    if parent >= 0:
                        first = net.bond[0, env.stem_type[rows[parent][0], stem]]
                        second = net.bond[0, env.stem_type[b, 0]]
                        messages[j] = (x[parent] @ first) * second
                m = act(messages + x @ net.root[0].weight[0] + net.root[0].bias[0])
                x = gru(m, x)
            torch.testing.assert_close(found[i, : len(rows)], x)


def test_similarity() -> None:
    assert mean_similarity(["CCO", "CCO"]) == 1.0
    assert 0 < mean_similarity(["CCO", "CCCO", "c1ccccc1O"]) < 1
    assert mean_similarity(["CCO"]) != mean_similarity(["CCO"])  # nan
