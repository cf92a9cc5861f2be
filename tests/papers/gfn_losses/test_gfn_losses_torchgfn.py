"""The losses agree with torchgfn's on the same trajectories, after the sign flip (and x 1/2)."""

import pytest
import torch

from common.gfn.hypergrid import HyperGrid
from common.gfn.rows import visit, whole
from common.gfn.sampling import Trajectories
from papers.gfn_losses import grid
from papers.gfn_losses.method import LOSSES, linex

gfn = pytest.importorskip("gfn", reason="torchgfn is a development dependency")

ENV = HyperGrid(2, 8, "standard-3")


class Rows(torch.nn.Module):
    """Looks a state's row of the shared output up."""

    input_dim = 2

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(table)  # [N, k]
        self.output_dim = table.shape[1]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.table[ENV.index(states.long().clamp(0, ENV.height - 1))]


def peers_loss(name: str):
    """torchgfn's loss that equals ours: its residual is -t."""
    from gfn.gflownet import losses

    return {
        "quadratic": losses.SquaredLoss(),
        "linex1": losses.LinexLoss(alpha=-1.0),
        "linex05": losses.LinexLoss(alpha=-0.5),
        "shifted-cosh": losses.ShiftedCoshLoss(),
    }[name]


def build(objective: str, loss_fn, rows: dict[str, Rows], log_z: torch.nn.Parameter):
    from gfn.estimators import DiscretePolicyEstimator, ScalarEstimator
    from gfn.gflownet import DBGFlowNet, FMGFlowNet, SubTBGFlowNet, TBGFlowNet
    from gfn.preprocessors import IdentityPreprocessor

    def prep():
        return IdentityPreprocessor(output_dim=2)

    pf = DiscretePolicyEstimator(rows["f"], n_actions=3, preprocessor=prep())
    pb = DiscretePolicyEstimator(rows["b"], n_actions=3, preprocessor=prep(), is_backward=True)
    flow = ScalarEstimator(rows["flow"], preprocessor=prep())
    if objective == "tb":
        return TBGFlowNet(pf, pb, logZ=log_z, loss_fn=loss_fn)
    if objective == "db":
        return DBGFlowNet(pf, pb, flow, loss_fn=loss_fn)
    if objective == "stb":
        return SubTBGFlowNet(pf, pb, flow, weighting="geometric_within", lamda=0.9, loss_fn=loss_fn)
    return FMGFlowNet(pf, loss_fn=loss_fn)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("objective", ["tb", "db", "stb", "fm"])
def test_same_loss_on_same_trajectories(objective: str, loss: str) -> None:
    from gfn.gym import HyperGrid as PeersGrid
    from gfn.samplers import Sampler

    torch.manual_seed(0)
    peer_env = PeersGrid(
        2, 8, reward_fn_kwargs={"R0": 1e-3, "R1": 0.5, "R2": 2.0}, store_all_states=True
    )
    out = torch.randn(64, 6)
    log_z = torch.nn.Parameter(torch.tensor(0.7))
    rows = {"f": Rows(out[:, :3]), "b": Rows(out[:, 3:5]), "flow": Rows(out[:, 5:])}
    peer = build(objective, peers_loss(loss), rows, log_z)
    batch = Sampler(peer.logF if objective == "fm" else peer.pf).sample_trajectories(peer_env, n=12)
    theirs = peer.loss(peer_env, peer.to_training_samples(batch))

    length = batch.terminating_idx
    steps = int(length.max())
    states = batch.states.tensor[: steps + 1].transpose(0, 1).clone()  # [B, T+1, D]
    actions = batch.actions.tensor[:steps, :, 0].transpose(0, 1)
    mask = torch.arange(steps) < length.unsqueeze(-1)
    last = states[torch.arange(12), length - 1]
    padded = torch.arange(steps + 1) >= length.unsqueeze(-1)
    states[padded] = last.unsqueeze(1).expand_as(states)[padded]
    index = ENV.index(states).unsqueeze(0)
    traj = Trajectories(
        states=index,
        actions=actions.clamp(min=0).masked_fill(~mask, 0).unsqueeze(0),
        mask=mask.unsqueeze(0),
        last=ENV.index(last).unsqueeze(0),
    )
    table = torch.cat([r.table for r in rows.values()], 1).unsqueeze(0)
    visited = visit(ENV.dag(), whole(), table, traj, fm=objective == "fm")

    def ours(g):
        return grid.grid_loss(objective, visited, traj, ENV.stop, log_z.view(1), 0.9, g, 50.0)

    surrogate, logged = ours(LOSSES[loss])
    factor = 2.0 if loss == "quadratic" else 1.0  # its default is t^2
    assert float(logged) * factor == pytest.approx(float(theirs), rel=1e-5, abs=1e-5)
    tables = [r.table for r in rows.values()] + [log_z]
    mine = torch.autograd.grad(surrogate.sum(), tables, allow_unused=True)
    peers = torch.autograd.grad(theirs, tables, allow_unused=True)
    for a, b in zip(mine, peers, strict=True):
        if b is None or a is None:
            assert (a is None or not a.any()) and (b is None or not b.any())
            continue
        assert torch.allclose(a * factor, b, rtol=1e-4, atol=1e-5)
    if loss.startswith("linex"):  # without the flip the losses differ
        alpha = 1.0 if loss == "linex1" else 0.5
        _, flipped = ours(linex(-alpha))
        assert abs(float(flipped) - float(theirs)) > 1e-2


@pytest.mark.parametrize("height", [8, 16])
def test_same_rewards_and_target(height: int) -> None:
    from gfn.gym import HyperGrid as PeersGrid

    peer = PeersGrid(
        2, height, reward_fn_kwargs={"R0": 1e-3, "R1": 0.5, "R2": 2.0}, store_all_states=True
    )
    env = HyperGrid(2, height, "standard-3")
    states = peer.all_states.tensor
    assert torch.allclose(peer.reward(peer.all_states).double(), env.reward(states))
    target = env.dag().target()[env.index(states)]
    assert torch.allclose(peer.true_dist().double(), target, atol=1e-7)
    assert (peer.all_states.forward_masks == env.forward_mask(states)).all()
    assert (peer.all_states.backward_masks == env.backward_mask(states)).all()
