"""The paper's contribution: evaluating the uniform policy yields a GFlowNet's flows and sampler.

A(s) is the number of out-edges (actions) of s, B(s) the number of its in-edges; parallel edges
count. A complete object is a row of its own without actions (a terminal copy has one in-edge), so
every function here wants ``dag.stop is None``. Discount 1, reward at the end only:

    V(s) = 1/A(s) sum_{s'} V(s'),    V(x) = R'(x).

With the path factor g(s) = prod_i A(s_i)/B(s_{i+1}) along a path to s, if it is the same along all
of them, and R'(x) = R(x) g(x), V(s) = F(s) g(s), where F is the flow of the uniform backward policy
P_B = 1/B. Rows without a value (no object, unreachable) hold log 0 = -inf.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.nets import StackedMLP
from common.gfn.objectives import mean_weights
from common.gfn.rows import at_states, part_of
from common.gfn.sampling import Trajectories, masked_log_softmax
from common.torch_utils import cumulative_sum

LossSpace = Literal["value", "log"]


# -- the path factor ----------------------------------------------------------------------------


def log_out_degree(dag: EnumeratedDAG, rows: Tensor | None = None) -> Tensor:
    """log A(s), 0 at complete objects, of all states [N] or of some rows [...]. float64."""
    if dag.stop is not None:
        raise ValueError("give every object a terminal row (task.with_terminal_copies)")
    mask = dag.forward_mask if rows is None else dag.forward_mask[rows]
    return mask.sum(-1).clamp(min=1).double().log()


def log_in_degree(dag: EnumeratedDAG, rows: Tensor | None = None) -> Tensor:
    """log B(s), 0 at the source, of all states [N] or of some rows [...]. float64."""
    parents = dag.parents if rows is None else dag.parents[rows]
    return (parents >= 0).sum(-1).clamp(min=1).double().log()


def path_factor_range(dag: EnumeratedDAG) -> tuple[Tensor, Tensor]:
    """Smallest and largest log g(tau, s) over all paths tau to s. [N], [N] float64.

    One sweep in topological order; (inf, -inf) where no path leads.
    """
    log_a, log_b = log_out_degree(dag), log_in_degree(dag)
    low = torch.full_like(log_a, torch.inf)
    high = torch.full_like(log_a, -torch.inf)
    low[dag.source] = high[dag.source] = 0.0
    for src, _, dst in dag.levels():
        factor = log_a[src] - log_b[dst]
        low.scatter_reduce_(0, dst, low[src] + factor, "amin")
        high.scatter_reduce_(0, dst, high[src] + factor, "amax")
    return low, high


def path_dependence(dag: EnumeratedDAG) -> Tensor:
    """log of the ratio between the largest and the smallest path factor of every state. [N].

    Path invariance (the DAG theorem's condition) holds where this is 0.
    """
    low, high = path_factor_range(dag)
    return torch.where(torch.isfinite(low), high - low, torch.zeros_like(low))


def log_path_factor(dag: EnumeratedDAG, tolerance: float = 1e-9) -> Tensor:
    """log g(s). [N] float64.

    Raises:
        ValueError: if two paths to one state have different factors.
    """
    worst = float(path_dependence(dag).max())
    if worst > tolerance:
        raise ValueError(
            f"path factors of one state differ by a factor of {math.exp(worst):.3g}: "
            "policy evaluation gives no flows here"
        )
    return path_factor_range(dag)[0]


def log_path_factor_along(log_a: Tensor, log_b: Tensor) -> Tensor:
    """log g of the states of trajectories, from log A and log B of those states. [..., T+1].

    Padding that repeats a complete object must hold log A = 0 and is of no use.
    """
    steps = log_a[..., :-1] - log_b[..., 1:]
    return torch.nn.functional.pad(cumulative_sum(steps), (1, 0))


# -- tabular ------------------------------------------------------------------------------------


def rectified_log_reward(log_reward: Tensor, log_g: Tensor) -> Tensor:
    """log R'(x) = log R(x) + log g(x), the rescaled terminal reward."""
    return torch.where(torch.isfinite(log_reward), log_reward + log_g, log_reward)


def evaluate_uniform_policy(dag: EnumeratedDAG, log_terminal: Tensor) -> Tensor:
    """log V(s) of the uniform policy: one sweep in reverse topological order. [N] float64.

    Args:
        log_terminal: log R'(x) [N], -inf where the state is no object.
    """
    scale = log_terminal.max()
    value = (log_terminal.double() - scale).exp()
    per_action = (-log_out_degree(dag)).exp()
    for src, _, dst in reversed(dag.levels()):
        value.index_add_(0, src, value[dst] * per_action[src])
    return value.log() + scale


def sampling_policy(dag: EnumeratedDAG, log_flow: Tensor) -> Tensor:
    """log P_F(s'|s) = log F(s')/B(s'), normalised over the children. [..., N] -> [..., N, A].

    Every parallel edge counts. Needs no consistency of F(s) with its children.
    """
    per_edge = log_flow - log_in_degree(dag).to(log_flow.dtype)
    return policy_over_children(dag, per_edge)


def policy_over_children(dag: EnumeratedDAG, log_weight: Tensor) -> Tensor:
    """log P(s'|s) proportional to a weight of the child, per edge. [..., N] -> [..., N, A].

    On values V it is the sampler of plain policy evaluation, which knows no parents. On the
    rectified V it equals ``sampling_policy``, since g(s') B(s') = g(s) A(s).
    """
    child = dag.children.clamp(min=0)
    logits = log_weight.index_select(-1, child.flatten()).unflatten(-1, child.shape)
    return masked_log_softmax(logits, dag.forward_mask)


def tabular_rpe(dag: EnumeratedDAG, log_g: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(log V [N], log P_F [N, A]) of rectified policy evaluation.

    Args:
        log_g: a path factor to use although it depends on the path; default: the invariant one.
    """
    if log_g is None:
        log_g = log_path_factor(dag)
    log_value = evaluate_uniform_policy(dag, rectified_log_reward(dag.log_reward, log_g))
    return log_value, sampling_policy(dag, log_value - log_g)


def tabular_unrectified(dag: EnumeratedDAG) -> tuple[Tensor, Tensor]:
    """(log V [N], log P [N, A]) of plain policy evaluation, R' = R and no 1/B."""
    log_value = evaluate_uniform_policy(dag, dag.log_reward)
    return log_value, policy_over_children(dag, log_value)


# Flow iteration, F(s) <- sum_{s'} F(s') P_B(s|s') for any P_B, is common.gfn.exact.exact_log_flows.


# -- learned ------------------------------------------------------------------------------------
# The network gives v(s) = log(V(s)/c) with one constant c for the whole task, hence F = c e^v / g.


def nth_allowed(dag: EnumeratedDAG) -> tuple[Tensor, Tensor]:
    """The allowed actions of every state, first ones first [N, A], and their number [N]."""
    mask = dag.forward_mask
    order = torch.argsort(mask.long(), dim=-1, descending=True, stable=True)
    return order, mask.sum(-1)


def uniform_rollout(dag: EnumeratedDAG, allowed: tuple[Tensor, Tensor], u: Tensor) -> Trajectories:
    """Trajectories of row numbers of the uniform policy.

    Args:
        allowed: what ``nth_allowed`` gave.
        u: uniform numbers [S, T, B], T >= dag.max_length.
    """
    order, count = allowed
    state = torch.full((u.shape[0], u.shape[-1]), dag.source, device=u.device)
    states, actions, masks = [state], [], []
    for t in range(dag.max_length):
        n = count[state]
        alive = n > 0
        which = (u[:, t] * n).long()  # u < 1, and so < n also in float32
        action = torch.where(alive, order[state, which], 0)
        state = torch.where(alive, dag.children[state, action], state)
        states.append(state)
        actions.append(action)
        masks.append(alive)
    mask = torch.stack(masks, -1)
    longest = int(mask.flatten(0, 1).any(0).sum())
    return Trajectories(
        states=torch.stack(states[: longest + 1], -1),
        actions=torch.stack(actions[:longest], -1),
        mask=mask[..., :longest],
        last=state,
    )


def log_scale(log_terminal: Tensor) -> Tensor:
    """log c: log of the mean terminal target of one batch. [S, B] log R'(x) -> [S].

    Under the uniform policy that is an estimate of V(s_0), which is the magnitude of the values at
    every depth; so the outputs start near the values from a bias of 0. One constant for all
    states: dividing per state by g(s) would make the errors of late states, whose flows are small,
    invisible.
    """
    return torch.logsumexp(log_terminal, -1) - math.log(log_terminal.shape[-1])


def log_targets(log_v_children: Tensor, allowed: Tensor) -> Tensor:
    """log of sum_a pi(a|s) g(s') F(s')/c over all children, pi uniform. [..., A] -> [...].

    The sum over all actions, not a sampled successor: the target has no noise. No gradient.
    Meaningful where an action is allowed.
    """
    v = log_v_children.detach().masked_fill(~allowed, -torch.inf)
    total = torch.logsumexp(v.masked_fill(~allowed.any(-1, keepdim=True), 0.0), -1)
    return total - allowed.sum(-1).clamp(min=1).to(v.dtype).log()


def squared_error(v: Tensor, log_target: Tensor, space: LossSpace) -> Tensor:
    """(g F - V^)^2 in units of c ("value", the paper's) or (log gF - log V^)^2 ("log"). [...]."""
    if space == "log":
        return (v - log_target).square()
    return (v.exp() - log_target.exp()).square()


def evaluate_rows(net: StackedMLP, dag: EnumeratedDAG, rows: Tensor) -> Tensor:
    """The network at rows [S, U]. [S, U, out]."""
    assert dag.active is not None
    return net.from_active_inputs(dag.active[rows])


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of [S, ...] over the marked entries, per seed. [S]."""
    kept = torch.where(mask, values, torch.zeros_like(values))
    return (kept * mean_weights(mask)).flatten(1).sum(1)


def log_terminal_targets(dag: EnumeratedDAG, traj: Trajectories, rectified: bool) -> Tensor:
    """log R'(x) = log g(x) R(x) of the objects, g taken along the trajectories. [S, B] float64."""
    target = dag.log_reward[traj.last]
    if not rectified:
        return target
    log_a = log_out_degree(dag, traj.states)
    along = log_path_factor_along(log_a, log_in_degree(dag, traj.states))
    return target + along.gather(-1, traj.length.unsqueeze(-1)).squeeze(-1)


def rpe_loss(
    net: StackedMLP,
    dag: EnumeratedDAG,
    traj: Trajectories,
    log_c: Tensor,
    *,
    rectified: bool = True,
    space: LossSpace = "value",
) -> Tensor:
    """Mean over the visited states of (g F - V^)^2 with targets from all children. [S].

    Args:
        net: its first output is v(s) = log(V(s)/c), asked for once per distinct row of the batch.
        traj: trajectories of row numbers, of the uniform policy.
        log_c: [S], see ``log_scale``.
        rectified: R' = R g; else R' = R.
        space: see ``squared_error``.
    """
    visited = part_of(traj.states)
    assert visited.rows is not None
    children = dag.children[visited.rows]  # [S, U, A]
    around = part_of(children)
    assert around.rows is not None
    with torch.no_grad():
        v_around = evaluate_rows(net, dag, around.rows)[..., 0]
        v_children = at_states(v_around, around.at(children.clamp(min=0)))
        inner = log_targets(v_children, children >= 0)  # [S, U]
        terminal = log_terminal_targets(dag, traj, rectified) - log_c.unsqueeze(-1)
        terminal = terminal.to(inner.dtype)
    v = evaluate_rows(net, dag, visited.rows)[..., 0]
    place = visited.at(traj.states)
    steps = torch.arange(place.shape[-1], device=place.device)
    ended = steps == traj.length.unsqueeze(-1)
    target = torch.where(ended, terminal.unsqueeze(-1), at_states(inner, place))
    error = squared_error(at_states(v, place), target, space)
    return mean_over(error, steps <= traj.length.unsqueeze(-1))
