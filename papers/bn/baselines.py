"""What the paper compares with: one loop trains all methods (methods.py has their table).

FM, DB, TB and SubTB(0.9) with a learned backward policy (``common.gfn.objectives``), the flat
variant of BN, and the untrained uniform policy. Same widths, batches, seeds and grid of learning
rates for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.nets import StackedMLP
from common.gfn.objectives import Pair, training_pairs
from common.gfn.rows import Part, visit, with_parents
from common.gfn.sampling import Trajectories
from papers.bn.method import WIDTH, BifurcatedNet, bifurcated_pairs, pooled
from papers.bn.methods import METHODS

LAMBDA = 0.9  # of SubTB [public code]
LR_LOG_Z = 0.1  # log Z of TB


def used_rate(method: str, task: str, given: float | None) -> float:
    """The learning rate given, or the tuned one."""
    return METHODS[method].rate(task) if given is None else given


def make_network(
    method: str,
    generators: Sequence[torch.Generator],
    n_inputs: int,
    n_actions: int,
    n_backward: int,
    width: int = WIDTH,
) -> BifurcatedNet | StackedMLP:
    """Two hidden layers for every method; the first outputs are the policy's logits.

    (FM: log flows.) Then come those of P_B, then log F, where the method has them.
    """
    kind = METHODS[method]
    if kind.streams:
        return BifurcatedNet(generators, n_inputs, n_actions, width)
    extra = n_backward * kind.backward + kind.flow
    return StackedMLP(generators, (n_inputs, width, width, n_actions + extra))


def policy_layers(net: BifurcatedNet | StackedMLP) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of the MLP whose first outputs are the policy's logits."""
    return net.policy_layers() if isinstance(net, BifurcatedNet) else net.weights()


def needed_rows(method: str, dag: EnumeratedDAG, traj: Trajectories) -> Tensor:
    """The states that a loss asks the network about: FM and BN need all parents. [S, ...]."""
    return traj.states if METHODS[method].backward else with_parents(dag, traj.states)


def pairs_of(
    method: str,
    dag: EnumeratedDAG,
    part: Part,
    out: Tensor,
    traj: Trajectories,
    log_Z: Tensor | None,
    *,
    learned_pb: bool = True,
) -> list[tuple[Pair, Tensor]]:
    """The (pair, weights) whose weighted squares are the method's loss.

    FM weighs terminal copies as BN does. Without ``learned_pb`` P_B is uniform.
    """
    kind = METHODS[method]
    if kind.factorised:
        return bifurcated_pairs(dag, part, out, traj)
    fm = not kind.backward
    visited = visit(dag, part, out, traj, fm=fm, learned_pb=learned_pb)
    assert kind.objective is not None
    parts = training_pairs(
        kind.objective, visited, traj.actions, traj.mask, stop=dag.stop, log_Z=log_Z, lam=LAMBDA
    )
    return pooled(parts) if fm else parts
