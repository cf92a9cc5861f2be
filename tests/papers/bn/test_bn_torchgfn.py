"""torchgfn's flow matching has the residuals that BN's edge flows have."""

import pytest
import torch

from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP
from common.gfn.objectives import residual
from common.gfn.rows import whole
from common.stacked import seed_generators
from papers.bn.method import (
    BifurcatedNet,
    log_allocation,
    log_edge_flow,
    log_inflow,
    split_streams,
    state_pair,
    stop_pair,
)

gfn = pytest.importorskip("gfn", reason="torchgfn is a development dependency")


@pytest.mark.parametrize("two_streams", [True, False])
def test_same_residuals_as_torchgfn(two_streams: bool) -> None:
    from gfn.estimators import DiscretePolicyEstimator
    from gfn.gflownet import FMGFlowNet
    from gfn.gym import HyperGrid as PeersGrid
    from gfn.preprocessors import IdentityPreprocessor

    env = HyperGrid(2, 8, "standard-3")
    dag = env.dag()
    generators = seed_generators((0,), 0)
    net = (
        BifurcatedNet(generators, env.input_dim, env.n_actions, width=32)
        if two_streams
        else StackedMLP(generators, (env.input_dim, 32, 32, env.n_actions + 1))
    )
    logits, log_flow = split_streams(net(env.encode(env.all_states())))
    log_alloc = log_allocation(logits, dag.forward_mask)
    edges = log_edge_flow(log_flow, log_alloc)[0].detach()

    class EdgeFlows(torch.nn.Module):
        """The network's edge flows, as torchgfn's edge-flow estimator."""

        input_dim, output_dim = 2, 3

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(edges)

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.table[env.index(states.long().clamp(0, 7))]

    peer_env = PeersGrid(
        2, 8, reward_fn_kwargs={"R0": 1e-3, "R1": 0.5, "R2": 2.0}, store_all_states=True
    )
    estimator = DiscretePolicyEstimator(
        EdgeFlows(), n_actions=3, preprocessor=IdentityPreprocessor(output_dim=2)
    )
    peer = FMGFlowNet(estimator)
    states = peer_env.all_states
    inner = states[~states.is_initial_state]
    theirs = peer.flow_matching_loss(peer_env, inner, reduction="none")
    inflow = log_inflow(dag, whole(), log_flow, log_alloc)
    nowhere = torch.zeros(64, dtype=torch.bool)
    ours = residual(state_pair(inflow, log_flow, dag.log_reward, nowhere))[0]
    ours = ours[env.index(inner.tensor)].square()  # torchgfn gives the squares
    assert ours.max() > 1e-3
    assert torch.allclose(ours, theirs.flatten(), rtol=1e-4, atol=1e-6)
    # the terminal part is a mean of its own
    theirs_last = peer.reward_matching_loss(
        peer_env, states, peer_env.log_reward(states), reduction="none"
    )
    last = residual(stop_pair(log_flow, log_alloc[..., env.stop], dag.log_reward))[0].square()
    assert torch.allclose(last[env.index(states.tensor)], theirs_last.flatten(), rtol=1e-4)
