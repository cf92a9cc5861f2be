"""Experiment A, HyperGrid: what an objective needs along trajectories, and the objectives' losses.

The network's last layer holds all heads: D+1 forward logits (FM: log edge flows), D backward
logits, log F. ``train.train_grid`` is the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.gfn import objectives as flows
from common.gfn.dag import EnumeratedDAG
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP
from common.gfn.rollout import CompiledTrajectories, sample_compiled
from common.gfn.sampling import Trajectories, masked_log_softmax, sample
from papers.gfn_losses.method import RegressionLoss, mean_weights, objective


@dataclass
class Visited:
    """What an objective needs along trajectories; all [S, B, ...] with gradient."""

    log_pf: Tensor  # [S, B, T]
    log_pb: Tensor  # [S, B, T], 0 at the stop edge
    log_flow: Tensor | None  # [S, B, T+1] output of the flow head (not for TB)
    log_p_stop: Tensor | None  # [S, B, T+1] (not for TB)
    log_reward: Tensor | None  # [S, B, T+1] log R of the states passed (fl-*, modified-*)
    log_reward_last: Tensor  # [S, B]
    matching: tuple[Tensor, Tensor] | None = None  # FM pair at states[1:], [S, B, T] each
    stop_flow: Tensor | None = None  # FM: log F(x -> s_f) of the object, [S, B]


def split_heads(out: Tensor, env: HyperGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Network output -> forward logits [..., D+1], backward logits [..., D], log flow [...]."""
    n = env.n_actions
    return out[..., :n], out[..., n : n + env.n_backward], out[..., -1]


def visit_table(
    out: Tensor, env: HyperGrid, dag: EnumeratedDAG, traj: Trajectories, fm: bool
) -> Visited:
    """Gathers along trajectories of row numbers from the output on all states [S, N, out]."""
    visited = gather_along(
        out,
        env,
        traj.states,
        traj.actions,
        forward_mask=dag.forward_mask,
        backward_mask=None if fm else dag.backward_mask,
        log_reward=dag.log_reward.float().expand(out.shape[0], -1),
    )
    if fm:
        logits, n_actions = out[..., : env.n_actions], env.n_actions
        inflow = logits.flatten(1)[:, (dag.parents.clamp(min=0) * n_actions + dag.parent_actions)]
        pair = flows.flow_matching(inflow, dag.backward_mask, logits, dag.forward_mask)
        after = traj.states[..., 1:]
        visited.matching = at_states(pair[0], after), at_states(pair[1], after)
        visited.stop_flow = at_states(logits[..., env.stop], traj.last)
    return visited


def visit_distinct(
    net: StackedMLP, env: HyperGrid, traj: CompiledTrajectories, name: str
) -> Visited:
    """The same from the rollout's own forward pass, each distinct state once (not for FM)."""
    return gather_along(
        traj.outputs(net.weights()),
        env,
        traj.rows,
        traj.actions,
        forward_mask=env.forward_mask(traj.distinct),
        backward_mask=env.backward_mask(traj.distinct),
        log_reward=env.log_reward(traj.distinct).float(),
        flow=name != "tb",
    )


def at_states(table: Tensor, states: Tensor) -> Tensor:
    """table[s, states[s]]. [S, N], [S, ...] -> [S, ...]."""
    return table.gather(1, states.flatten(1)).view(states.shape)


def gather_along(
    out: Tensor,
    env: HyperGrid,
    states: Tensor,
    actions: Tensor,
    *,
    forward_mask: Tensor,
    backward_mask: Tensor | None,
    log_reward: Tensor,
    flow: bool = True,
) -> Visited:
    """Gathers from the output on a table of states [S, N, out] at the row numbers [S, B, T+1].

    Without ``flow``, only what TB needs.
    """
    logits, logits_b, log_flow = split_heads(out, env)
    log_pf = masked_log_softmax(logits, forward_mask)
    n_actions = env.n_actions
    before, after = states[..., :-1], states[..., 1:]
    shape = before.shape

    def at_edges(table: Tensor, rows: Tensor) -> Tensor:
        return table.flatten(1).gather(1, (rows * n_actions + actions).flatten(1)).view(shape)

    log_pb = torch.zeros_like(before, dtype=out.dtype)
    if backward_mask is not None:
        per_state = masked_log_softmax(logits_b, backward_mask)
        log_pb = at_edges(nn.functional.pad(per_state, (0, 1)), after)
    log_reward_passed = at_states(log_reward, states)
    return Visited(
        log_pf=at_edges(log_pf, before),
        log_pb=log_pb,
        log_flow=at_states(log_flow, states) if flow else None,
        log_p_stop=at_states(log_pf[..., env.stop], states) if flow else None,
        log_reward=log_reward_passed,
        log_reward_last=log_reward_passed[..., -1],
    )


def sample_states(net: StackedMLP, env: HyperGrid, u: Tensor) -> Trajectories:
    """On-policy trajectories of coordinates: compiled on a CPU, in step on a GPU."""
    moves = env.moves() if u.device.type == "cpu" else None
    if moves is not None:
        return sample_compiled(moves, net.weights(), u)
    return sample(
        env, lambda s: split_heads(net.from_active_inputs(env.active_inputs(s)), env)[0], u
    )


def visit_states(net: StackedMLP, env: HyperGrid, traj: Trajectories, name: str) -> Visited:
    """The same from a forward pass over the visited states only (grids too large for a table)."""
    fm, of_states = name == "fm", name.startswith(("fl-", "modified-"))
    # every state an action was taken from, packed per seed: padding costs no forward pass
    taken = traj.mask.flatten(1)  # [S, B*T]
    place = (taken.cumsum(-1) - 1).clamp(min=0)
    before = traj.states[..., :-1, :].flatten(1, 2)
    rows = torch.zeros_like(before[:, : int(place.max()) + 1])
    if len(rows) == 1:
        rows[0] = before[0, taken[0]]
    else:
        seed = torch.arange(len(rows), device=rows.device).unsqueeze(-1).expand_as(taken)
        rows[seed[taken], place[taken]] = before[taken]
    computed = net.from_active_inputs(env.active_inputs(rows))  # [S, packed, out]
    index = place.unsqueeze(-1).expand(-1, -1, computed.shape[-1])
    out = computed.gather(1, index).view(*traj.mask.shape, -1)
    out = nn.functional.pad(out, (0, 0, 0, 1))  # the state after the last action is a terminal copy
    logits, logits_b, log_flow = split_heads(out, env)
    mask = env.forward_mask(traj.states)
    log_pf = masked_log_softmax(logits, mask)
    after = traj.states[..., 1:, :]
    visited = Visited(
        log_pf=log_pf[..., :-1, :].gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1),
        log_pb=torch.zeros_like(traj.actions, dtype=out.dtype),
        log_flow=log_flow,
        log_p_stop=log_pf[..., env.stop],
        log_reward=None if not of_states else env.log_reward(traj.states).to(out.dtype),
        log_reward_last=env.log_reward(traj.last).to(out.dtype),
    )
    backward_mask = env.backward_mask(after)
    if fm:
        coordinates = torch.arange(env.ndim, device=out.device).expand(*after.shape[:-1], -1)
        parents = env.backward_step(
            after.unsqueeze(-2).expand(*after.shape[:-1], env.ndim, -1), coordinates
        ).clamp(min=0)
        inflow = net.from_active_inputs(env.active_inputs(parents))[..., : env.n_actions]
        inflow = inflow.gather(-1, coordinates.unsqueeze(-1)).squeeze(-1)
        visited.matching = flows.flow_matching(
            inflow, backward_mask, logits[..., 1:, :], mask[..., 1:, :]
        )
        at_last = (traj.length - 1).unsqueeze(-1)
        visited.stop_flow = logits[..., env.stop].gather(-1, at_last).squeeze(-1)
    else:
        log_pb = masked_log_softmax(logits_b[..., 1:, :], backward_mask)
        log_pb = nn.functional.pad(log_pb, (0, 1))
        visited.log_pb = log_pb.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
    return visited


def grid_loss(
    name: str,
    visited: Visited,
    traj: Trajectories,
    stop: int,
    log_Z: Tensor | None,
    lam: float,
    loss: RegressionLoss,
    clip: float,
) -> tuple[Tensor, Tensor]:
    """Surrogate and logged loss per seed of one objective of Section 3. [S], [S]."""
    v, mask = visited, traj.mask
    if name == "tb":
        assert log_Z is not None
        pair = flows.trajectory_balance(
            v.log_pf, v.log_pb, mask, log_Z.unsqueeze(-1), v.log_reward_last
        )
        return objective(pair, mean_weights(torch.ones_like(mask[..., 0])), loss, clip)
    if name == "fm":
        assert v.matching is not None and v.stop_flow is not None
        inner = objective(v.matching, mean_weights(mask & (traj.actions != stop)), loss, clip)
        pair = flows.reward_matching(v.stop_flow, v.log_reward_last)
        last = objective(pair, mean_weights(torch.ones_like(mask[..., 0])), loss, clip)
        return inner[0] + last[0], inner[1] + last[1]
    assert v.log_flow is not None and v.log_p_stop is not None
    log_flow = v.log_flow
    if name.startswith("fl-"):
        assert v.log_reward is not None
        log_flow = flows.forward_looking(log_flow, v.log_reward)
    if name.startswith("modified-"):
        assert v.log_reward is not None
        log_flow = flows.modified_log_flows(v.log_reward, v.log_p_stop)
    log_flow = flows.with_reward(log_flow, v.log_reward_last, traj.length)
    if name.endswith("stb"):
        pair = flows.subtrajectory_balance(log_flow, v.log_pf, v.log_pb, mask)
        weights = flows.subtrajectory_weights(traj.length, mask.shape[-1], lam) / mask.shape[1]
        return objective(pair, weights, loss, clip)
    edges = mask & (traj.actions != stop) if name.startswith("modified-") else mask
    pair = flows.detailed_balance(log_flow, v.log_pf, v.log_pb)
    return objective(pair, mean_weights(edges), loss, clip)


@torch.no_grad()
def log_pf_of_all_states(net: StackedMLP, env: HyperGrid, dag: EnumeratedDAG) -> Tensor:
    """Policy on the whole grid, in parts that fit into memory. [S, N, D+1]."""
    parts = [net(env.encode(part)) for part in env.all_states().split(20_000)]
    logits = split_heads(torch.cat(parts, 1), env)[0]
    return masked_log_softmax(logits, dag.forward_mask)
