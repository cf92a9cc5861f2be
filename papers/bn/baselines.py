"""What the paper compares with, and the settings of all methods: one loop trains them all.

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

BIFURCATED = ("bn", "bn-flat")
BACKWARD = ("db", "tb", "stb")  # with a backward policy
TRAINED = (*BIFURCATED, "fm", *BACKWARD)
METHODS = (*TRAINED, "uniform")
LAMBDA = 0.9  # of SubTB [public code]
LR_LOG_Z = 0.1  # log Z of TB

#: Learning rates of Adam, chosen from {1e-4, 1e-3, 5e-3} on seeds from 100 on (see the README).
LEARNING_RATES: dict[str, dict[str, float]] = {
    "g1": {"bn": 5e-3, "bn-flat": 5e-3, "fm": 5e-3, "db": 5e-3, "tb": 5e-3, "stb": 5e-3},
    "g2": {"bn": 1e-3, "bn-flat": 5e-3, "fm": 5e-3, "db": 5e-3, "tb": 1e-3, "stb": 5e-3},
    "g3": {"bn": 5e-3, "bn-flat": 5e-3, "fm": 5e-3, "db": 5e-3, "tb": 1e-3, "stb": 5e-3},
    "g4": {"bn": 5e-3, "bn-flat": 1e-3, "fm": 1e-3, "db": 5e-3, "tb": 5e-3, "stb": 5e-3},
    "rna": {"bn": 5e-3, "bn-flat": 5e-3, "fm": 5e-3, "db": 5e-3, "tb": 5e-3, "stb": 5e-3},
    "qed": {"bn": 5e-3, "bn-flat": 1e-3, "fm": 5e-3, "db": 5e-3, "tb": 5e-3, "stb": 5e-3},
}


def used_rate(method: str, task: str, given: float | None) -> float:
    """The learning rate given, or the tuned one (1e-3 where nothing was tuned)."""
    return LEARNING_RATES.get(task, {}).get(method, 1e-3) if given is None else given


def make_network(
    method: str,
    generators: Sequence[torch.Generator],
    n_inputs: int,
    n_actions: int,
    n_backward: int,
    width: int = WIDTH,
) -> BifurcatedNet | StackedMLP:
    """Two hidden layers for every method; the first outputs are the policy's logits.

    bn: two streams after the first layer. bn-flat: one MLP with A + 1 outputs. fm: A log edge
    flows. tb: P_F and P_B. db, stb: P_F, P_B and log F.
    """
    if method == "bn":
        return BifurcatedNet(generators, n_inputs, n_actions, width)
    extra = {"bn-flat": 1, "fm": 0, "tb": n_backward}.get(method, n_backward + 1)
    return StackedMLP(generators, (n_inputs, width, width, n_actions + extra))


def policy_layers(net: BifurcatedNet | StackedMLP) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of the MLP whose first outputs are the policy's logits."""
    return net.policy_layers() if isinstance(net, BifurcatedNet) else net.weights()


def needed_rows(method: str, dag: EnumeratedDAG, traj: Trajectories) -> Tensor:
    """The states that a loss asks the network about: FM and BN need all parents. [S, ...]."""
    if method in BACKWARD:
        return traj.states
    return with_parents(dag, traj.states)


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
    if method in BIFURCATED:
        return bifurcated_pairs(dag, part, out, traj)
    visited = visit(dag, part, out, traj, fm=method == "fm", learned_pb=learned_pb)
    parts = training_pairs(
        method, visited, traj.actions, traj.mask, stop=dag.stop, log_Z=log_Z, lam=LAMBDA
    )
    return pooled(parts) if method == "fm" else parts
