"""The paper's contribution: an edge flow is a state flow times an allocation.

    F(s -> s') = F(s) A(s'|s),    sum_{s'} A(s'|s) = 1                                    (Eq. 1)

    L(s') = ( log sum_{s in Pa(s')} F(s) A(s'|s)  -  log F(s')  [object: log R(s')] )^2   (Eq. 2)

A(.|s) is the sampling policy. The sum goes over *all* parents, whether or not the sampled
trajectory came through them. The outflow of s' is the one number F(s'), because its allocation sums
to one. F(s_0) learns Z. There is no backward policy and no separate log Z.

The paper's body could not be read: Eq. 1 is its abstract's, Eq. 2 the only squared log-ratio that
goes with it, and the two streams of the network are those of duelling networks. The equations'
numbers are this file's.

Shapes: S seeds, M rows (states) on which the network was evaluated, A actions, A_b in-edges, B
trajectories of T actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.gfn.dag import EnumeratedDAG
from common.gfn.nets import StackedMLP
from common.gfn.objectives import Pair, mean_weights, residual
from common.gfn.rows import Part, at_states, log_inflows, whole
from common.gfn.sampling import MASKED, Trajectories, masked_log_softmax
from common.stacked import StackedLinear

WIDTH = 256  # of every hidden layer [public code of the same benchmarks]


# -- Eq. 1: the two factors ------------------------------------------------------------------------


def log_allocation(logits: Tensor, mask: Tensor) -> Tensor:
    """log A(.|s), a softmax over the allowed actions, the stop action included. [..., A]."""
    return masked_log_softmax(logits, mask)


def log_edge_flow(log_flow: Tensor, log_alloc: Tensor) -> Tensor:
    """Eq. 1: log F(s -> s') = log F(s) + log A(s'|s). [..., M], [..., M, A] -> [..., M, A]."""
    return log_flow.unsqueeze(-1) + log_alloc


class BifurcatedNet(nn.Module):
    """One shared hidden layer, then one hidden layer and a head per stream, for a stack of seeds.

    The streams meet in nothing but the trunk: the state flow's weights are not moved by a gradient
    that asks for another allocation, and the other way round.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        n_inputs: int,
        n_actions: int,
        width: int = WIDTH,
    ) -> None:
        super().__init__()
        self.trunk = StackedMLP(generators, (n_inputs, width))  # one layer
        self.allocation_hidden = StackedLinear(generators, width, width)
        self.allocation_head = StackedLinear(generators, width, n_actions)
        self.flow_hidden = StackedLinear(generators, width, width)
        self.flow_head = StackedLinear(generators, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[S, M, in] or [M, in] -> [S, M, A + 1]: allocation logits, log F."""
        return self._after_trunk(self.trunk(x))

    def from_active_inputs(self, index: Tensor) -> Tensor:
        """The same on inputs of zeros and ones, given by the positions of the ones. [S, M, k]."""
        return self._after_trunk(self.trunk.from_active_inputs(index))

    def _after_trunk(self, hidden: Tensor) -> Tensor:
        act = nn.functional.leaky_relu
        shared = act(hidden)
        logits = self.allocation_head(act(self.allocation_hidden(shared)))
        log_flow = self.flow_head(act(self.flow_hidden(shared)))
        return torch.cat([logits, log_flow], -1)

    def policy_layers(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of the MLP that samples: the trunk and the allocation stream alone."""
        streams = (self.allocation_hidden, self.allocation_head)
        return [*self.trunk.weights(), *((layer.weight, layer.bias) for layer in streams)]


def split_streams(out: Tensor) -> tuple[Tensor, Tensor]:
    """Network output [..., A + 1] -> (allocation logits [..., A], log F [...])."""
    return out[..., :-1], out[..., -1]


# -- Eq. 2: the loss -------------------------------------------------------------------------------


def log_inflow(dag: EnumeratedDAG, part: Part, log_flow: Tensor, log_alloc: Tensor) -> Tensor:
    """log sum_{s in Pa(s')} F(s) A(s'|s) over all in-edges, parallel ones counted apart.

    Args:
        part: the rows that the network was evaluated on: s' and all parents of s'.
        log_flow: [S, M].
        log_alloc: [S, M, A].
    Returns:
        [S, M]; meaningful where all parents are in the part. About -1e9 without parents.
    """
    edges = log_inflows(dag, part, log_edge_flow(log_flow, log_alloc))  # [S, M, A_b]
    return torch.logsumexp(edges.masked_fill(~part.of(dag.backward_mask), MASKED), -1)


def state_pair(inflow: Tensor, log_flow: Tensor, log_reward: Tensor, is_object: Tensor) -> Pair:
    """Eq. 2 at s': inflow against F(s'), or against R(s') where s' is an object. [...] each.

    ``is_object`` is False throughout where objects are made by a stop action (``stop_pair``).
    """
    return inflow, torch.where(is_object, log_reward.to(log_flow.dtype), log_flow)


def stop_pair(log_flow: Tensor, log_alloc_stop: Tensor, log_reward: Tensor) -> Pair:
    """Eq. 2 at the terminal copy of x, whose one parent is x: F(x) A(stop|x) against R(x)."""
    return log_flow + log_alloc_stop, log_reward.to(log_flow.dtype)


def bifurcated_pairs(
    dag: EnumeratedDAG, part: Part, out: Tensor, traj: Trajectories
) -> list[tuple[Pair, Tensor]]:
    """Eq. 2 at every visited state but s_0, and at the terminal copies, as (pair, weights).

    The weights make it one mean over all listed states and copies (``pooled``).

    Args:
        out: [S, M, A + 1] at the part's rows, which hold the visited states and their parents.
    """
    logits, log_flow = split_streams(out)
    log_alloc = log_allocation(logits, part.of(dag.forward_mask))
    inflow = log_inflow(dag, part, log_flow, log_alloc)
    after = traj.states[..., 1:]  # [S, B, T]
    place = part.at(after)
    log_reward = dag.log_reward[after]
    made_by_stop = dag.stop is not None
    is_object = torch.isfinite(log_reward) & (not made_by_stop)
    pair = state_pair(at_states(inflow, place), at_states(log_flow, place), log_reward, is_object)
    if dag.stop is None:
        return [(pair, mean_weights(traj.mask))]
    place = part.at(traj.last)
    stopped = stop_pair(
        at_states(log_flow, place),
        at_states(log_alloc[..., dag.stop], place),
        dag.log_reward[traj.last],
    )
    moved = traj.mask & (traj.actions != dag.stop)
    every_copy = torch.ones_like(traj.last, dtype=torch.bool)
    return pooled([(pair, mean_weights(moved)), (stopped, mean_weights(every_copy))])


def pooled(parts: list[tuple[Pair, Tensor]]) -> list[tuple[Pair, Tensor]]:
    """Parts with a plain mean each -> the same parts under one plain mean over all of them.

    A terminal copy then weighs as much as any other state. (The mean of each part by itself, added,
    would weigh it as much as all states of its trajectory together.)
    """
    counts = [(weights > 0).flatten(1).sum(1) for _, weights in parts]  # [S] each
    total = torch.stack(counts).sum(0)
    return [
        (pair, weights * (n / total).view(-1, *([1] * (weights.dim() - 1))))
        for (pair, weights), n in zip(parts, counts, strict=True)
    ]


def full_batch_loss(dag: EnumeratedDAG, log_flow: Tensor, logits: Tensor) -> Tensor:
    """Eq. 2 averaged over all states of a DAG and all terminal copies. -> [S].

    log_flow [S, N], allocation logits [S, N, A].
    """
    log_alloc = log_allocation(logits, dag.forward_mask)
    inflow = log_inflow(dag, whole(), log_flow, log_alloc)
    is_object = torch.isfinite(dag.log_reward)
    reward = dag.log_reward.masked_fill(~is_object, 0.0)
    pair = state_pair(inflow, log_flow, reward, is_object & (dag.stop is None))
    reached = dag.backward_mask.any(-1)  # every state but s_0
    residuals = [residual(pair)[:, reached]]
    if dag.stop is not None:
        pair = stop_pair(log_flow, log_alloc[..., dag.stop], reward)
        residuals.append(residual(pair)[:, is_object])
    return torch.cat(residuals, -1).square().mean(-1)
