"""The baselines' loss of a training step, and the policy that each learner has learned.

RPE's loss is ``method.rpe_loss``.

All work on a DAG's row numbers, with the network evaluated once per distinct row of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.nets import StackedMLP
from common.gfn.objectives import loss_per_seed, training_pairs
from common.gfn.rows import at_states, part_of, split_heads, visit, with_parents
from common.gfn.sampling import Trajectories
from papers.rpe import baselines, method
from papers.rpe.method import evaluate_rows, mean_over
from papers.rpe.methods import Learner

CHUNK = 2048  # rows per forward pass over a whole table


def gflownet_loss(
    net: StackedMLP,
    dag: EnumeratedDAG,
    traj: Trajectories,
    learner: Learner,
    log_Z: Tensor | None,
    lam: float,
) -> Tensor:
    """The textbook loss of FM, DB, TB or SubTB, P_B learned. [S]."""
    fm = learner.objective == "fm"
    part = part_of(with_parents(dag, traj.states) if fm else traj.states)
    assert part.rows is not None
    visited = visit(dag, part, evaluate_rows(net, dag, part.rows), traj, fm=fm)
    pairs = training_pairs(
        learner.objective, visited, traj.actions, traj.mask, stop=None, log_Z=log_Z, lam=lam
    )
    return loss_per_seed(pairs)


def dqn_loss(
    net: StackedMLP,
    target_net: StackedMLP,
    dag: EnumeratedDAG,
    traj: Trajectories,
    learner: Learner,
    leaf_coefficient: float,
) -> Tensor:
    """Mean Huber error of Q over the transitions, those to complete objects weighted. [S]."""
    part = part_of(traj.states)
    assert part.rows is not None
    n_actions = dag.n_actions
    before, after = part.at(traj.states[..., :-1]), part.at(traj.states[..., 1:])
    mask = dag.forward_mask[part.rows]
    with torch.no_grad():
        q_bar = evaluate_rows(target_net, dag, part.rows)[..., :n_actions]
        next_value = at_states(baselines.soft_value(q_bar, mask, learner.alpha), after)
        bonus: Tensor | float = 0.0
        if learner.alpha:
            log_policy = baselines.soft_log_policy(q_bar, mask, learner.alpha)
            taken = at_states(log_policy.flatten(1), before * n_actions + traj.actions)
            bonus = baselines.munchausen_bonus(taken, learner.alpha)
        log_reward = dag.log_reward[traj.states[..., 1:]].to(q_bar.dtype)
        log_b = method.log_in_degree(dag, traj.states[..., 1:]).to(q_bar.dtype)
        ended = torch.isfinite(log_reward)
        target = baselines.q_targets(-log_b, log_reward, ended, next_value, bonus)
    q = evaluate_rows(net, dag, part.rows)[..., :n_actions].flatten(1)
    error = at_states(q, before * n_actions + traj.actions) - target
    weight = torch.where(ended, leaf_coefficient, 1.0)
    return mean_over(weight * baselines.huber(error), traj.mask)


# -- what has been learned ----------------------------------------------------------------------


@torch.no_grad()
def evaluate_table(net: StackedMLP, dag: EnumeratedDAG, rows: Tensor, n_outputs: int) -> Tensor:
    """The first outputs of the network at many rows [n], in parts. [S, n, n_outputs]."""
    n_seeds = net.weights()[0][0].shape[0]
    parts = [
        evaluate_rows(net, dag, part.expand(n_seeds, -1))[..., :n_outputs]
        for part in rows.split(CHUNK)
    ]
    return torch.cat(parts, 1)


def learned_policy(
    net: StackedMLP,
    dag: EnumeratedDAG,
    learner: Learner,
    log_g: Tensor | None,
    *,
    true_leaves: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(log P_F [S, N, A], estimate of log Z [S]) of a learner on an enumerated DAG.

    RPE needs all children's values; the others only rows with actions. The estimate of RPE is
    v(s_0), to which log c must be added; for TB use its log Z instead.

    Args:
        log_g: path factors, for rectified RPE.
        true_leaves: log c [S], to put log R(x) in the place of log F(x) (rectified RPE).
    """
    inner = dag.forward_mask.any(-1)
    if learner.kind == "rpe":
        everything = torch.arange(dag.n_states, device=dag.children.device)
        if true_leaves is None:
            v = evaluate_table(net, dag, everything, 1)[..., 0]
        else:
            found = evaluate_table(net, dag, everything[inner], 1)[..., 0]
            exact = method.rectified_log_reward(dag.log_reward, _given(log_g))
            v = (exact - true_leaves.unsqueeze(-1)).to(found.dtype)  # [S, N]
            v[:, inner] = found
        estimate = v[:, dag.source]
        if not learner.rectified:
            return method.policy_over_children(dag, v), estimate
        return method.sampling_policy(dag, v - _given(log_g).to(v.dtype)), estimate
    rows = inner.nonzero().squeeze(-1)
    n_actions = dag.n_actions
    out = evaluate_table(net, dag, rows, n_actions + dag.n_backward + 1)
    heads = split_heads(out, n_actions, dag.n_backward)
    mask = dag.forward_mask[rows]
    log_pf = out.new_zeros(len(out), dag.n_states, n_actions)
    log_pf[:, rows] = baselines.soft_log_policy(heads.logits, mask, learner.alpha)
    at_source = int((rows == dag.source).nonzero()[0])
    flow = baselines.soft_value(heads.logits, mask, learner.alpha)  # FM: log sum of edge flows
    if learner.kind == "gflownet" and learner.objective != "fm":
        flow = heads.log_flow
    return log_pf, flow[:, at_source]


def _given(log_g: Tensor | None) -> Tensor:
    assert log_g is not None
    return log_g
