"""Objectives: exact flows give zero residuals; SubTB's extremes are DB and TB."""

import pytest
import torch

from common.gfn import objectives as flows
from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import exact_log_flows, exact_policies
from common.gfn.hypergrid import HyperGrid
from common.gfn.sampling import Trajectories, sample_from_table
from common.gfn.strings import StringEnv


def gathered(
    dag: EnumeratedDAG, log_pf: torch.Tensor, log_pb: torch.Tensor, traj: Trajectories
) -> tuple[torch.Tensor, torch.Tensor]:
    """log P_F and log P_B along trajectories of one seed. [B, T]."""
    s, a, after = traj.states[0, :, :-1], traj.actions[0], traj.states[0, :, 1:]
    pf = log_pf[s, a].masked_fill(~traj.mask[0], 0.0)
    pb = log_pb[after, dag.backward_index[s, a]]
    if dag.stop is not None:
        pb = pb.masked_fill(a == dag.stop, 0.0)
    return pf, pb.masked_fill(~traj.mask[0], 0.0)


def cases() -> list[EnumeratedDAG]:
    def reward(x: torch.Tensor) -> torch.Tensor:
        return -0.7 * x.sum(-1).double()

    return [
        HyperGrid(2, 6, "standard-2").dag(),
        HyperGrid(2, 6, "standard-2", forced_stop=True).dag(),
        StringEnv("prepend_append", 3, 2, reward).dag(),
        StringEnv("slots", 3, 2, reward).dag(),
    ]


@pytest.mark.parametrize("number", range(4))
def test_exact_flows_make_every_residual_zero(number: int) -> None:
    dag = cases()[number]
    log_pf, log_pb, log_flow = exact_policies(dag)
    uniform = dag.forward_mask.double() / dag.forward_mask.sum(-1, keepdim=True)
    u = torch.rand(1, dag.max_length, 64, generator=torch.Generator().manual_seed(0))
    traj = sample_from_table(dag, uniform.log().unsqueeze(0), u)
    pf, pb = gathered(dag, log_pf, log_pb, traj)
    mask, length = traj.mask[0], traj.length[0]
    log_reward = dag.log_reward[traj.last[0]]
    along = flows.with_reward(log_flow[traj.states[0]], log_reward, length)
    tb = flows.trajectory_balance(pf, pb, mask, log_flow[dag.source], log_reward)
    assert flows.residual(tb).abs().max() < 1e-9
    db = flows.detailed_balance(along, pf, pb)
    assert flows.residual(db)[mask].abs().max() < 1e-9
    stb = flows.subtrajectory_balance(along, pf, pb, mask)
    weights = flows.subtrajectory_weights(length, mask.shape[1], 0.9)
    assert flows.residual(stb)[weights > 0].abs().max() < 1e-9
    if dag.stop is not None:
        _, edge = exact_log_flows(dag)
        inflow = edge[dag.parents.clamp(min=0), dag.parent_actions]
        fm = flows.flow_matching(inflow, dag.backward_mask, edge, dag.forward_mask)
        real = dag.backward_mask.any(-1)
        assert flows.residual(fm)[real].abs().max() < 1e-9
        # modified DB: the same statement without a flow head (all states are objects)
        modified = flows.modified_log_flows(dag.log_reward, log_pf[:, dag.stop])
        ok = torch.isfinite(dag.log_reward)
        assert (modified - log_flow)[ok].abs().max() < 1e-9
        # forward-looking: F~ = F/R
        tilde = log_flow[ok] - dag.log_reward[ok]
        assert torch.allclose(flows.forward_looking(tilde, dag.log_reward[ok]), log_flow[ok])


def test_subtrajectory_extremes() -> None:
    rng = torch.Generator().manual_seed(1)
    length = torch.tensor([4, 2])
    mask = torch.arange(4) < length.unsqueeze(-1)
    pf, pb = (torch.randn(2, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    log_reward = torch.randn(2, generator=rng, dtype=torch.float64)
    log_flow = torch.randn(2, 5, generator=rng, dtype=torch.float64)
    log_flow = flows.with_reward(log_flow, log_reward, length)
    t = flows.residual(flows.subtrajectory_balance(log_flow, pf, pb, mask))
    db = flows.residual(flows.detailed_balance(log_flow, pf, pb))
    one_step = t.diagonal(1, -2, -1)
    assert torch.allclose(one_step[mask], db[mask])
    tb = flows.residual(flows.trajectory_balance(pf, pb, mask, log_flow[:, 0], log_reward))
    assert torch.allclose(t[torch.arange(2), 0, length], tb)
    # a piece in the middle, by hand
    by_hand = log_flow[0, 1] + pf[0, 1] + pf[0, 2] - log_flow[0, 3] - pb[0, 1] - pb[0, 2]
    assert torch.allclose(t[0, 1, 3], by_hand)


@pytest.mark.parametrize("lam", [0.9, 0.99, 1.5])
def test_subtrajectory_weights(lam: float) -> None:
    length = torch.tensor([3, 1])
    w = flows.subtrajectory_weights(length, 5, lam).double()
    assert torch.allclose(w.sum((-2, -1)), torch.ones(2, dtype=torch.float64))
    total = 3 * lam + 2 * lam**2 + lam**3
    assert float(w[0, 0, 2]) == pytest.approx(lam**2 / total, rel=1e-6)
    assert int((w[0] > 0).sum()) == 6 and int((w[1] > 0).sum()) == 1
    assert torch.isfinite(flows.subtrajectory_weights(torch.tensor([200]), 200, 1.5)).all()
