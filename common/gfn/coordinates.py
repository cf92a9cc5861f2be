"""Learning on HyperGrids that are too large for a table: states are coordinates [..., D].

As in ``rows``, the network's last layer holds D+1 forward logits (FM: log edge flows), D backward
logits, log F.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.gfn import objectives as flows
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP
from common.gfn.objectives import Visited
from common.gfn.rollout import CompiledTrajectories, sample_compiled
from common.gfn.rows import at_states, split_heads
from common.gfn.sampling import Trajectories, masked_log_softmax, sample
from common.gfn.strings import StringEnv


def sample_states(
    net: StackedMLP, env: HyperGrid | StringEnv, u: Tensor, *, epsilon: float = 0.0
) -> Trajectories:
    """On-policy trajectories of coordinates (or strings): compiled on a CPU, in step on a GPU."""
    if u.device.type == "cpu":
        return sample_compiled(env.moves(), net.weights(), u, epsilon=epsilon)

    def logits(states: Tensor) -> Tensor:
        return net.from_active_inputs(env.active_inputs(states))[..., : env.n_actions]

    return sample(env, logits, u, epsilon=epsilon)


def visit_distinct(
    net: StackedMLP, env: HyperGrid, traj: CompiledTrajectories, *, flow: bool = True
) -> Visited:
    """What an objective (not FM) needs, from the rollout's own forward pass.

    Each distinct state is differentiated once.

    Args:
        flow: also log F and log P_F(stop) (all objectives but TB).
    """
    heads = split_heads(traj.outputs(net.weights()), env.n_actions, env.n_backward)
    log_pf = masked_log_softmax(heads.logits, env.forward_mask(traj.distinct))
    log_pb = masked_log_softmax(heads.logits_b, env.backward_mask(traj.distinct))
    log_pb = nn.functional.pad(log_pb, (0, 1))  # a stop edge has P_B = 1
    rows, n_actions = traj.rows, env.n_actions
    before, after = rows[..., :-1], rows[..., 1:]

    def at_edges(table: Tensor, place: Tensor) -> Tensor:
        index = place * n_actions + traj.actions
        return table.flatten(1).gather(1, index.flatten(1)).view(index.shape)

    log_reward = at_states(env.log_reward(traj.distinct).to(log_pf.dtype), rows)
    return Visited(
        log_pf=at_edges(log_pf, before),
        log_pb=at_edges(log_pb, after),
        log_flow=at_states(heads.log_flow, rows) if flow else None,
        log_p_stop=at_states(log_pf[..., env.stop], rows) if flow else None,
        log_reward=log_reward,
        log_reward_last=log_reward[..., -1],
    )


def visit_states(
    net: StackedMLP,
    env: HyperGrid,
    traj: Trajectories,
    *,
    fm: bool = False,
    reward_of_states: bool = False,
) -> Visited:
    """The same for any trajectories, from a forward pass over the visited states.

    Args:
        fm: the first head holds log edge flows; also gather the flow-matching pair.
        reward_of_states: also log R of the states passed (fl-*, modified-*).
    """
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
    heads = split_heads(out, env.n_actions, env.n_backward)
    logits = heads.logits
    mask = env.forward_mask(traj.states)
    log_pf = masked_log_softmax(logits, mask)
    after = traj.states[..., 1:, :]
    visited = Visited(
        log_pf=log_pf[..., :-1, :].gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1),
        log_pb=torch.zeros_like(traj.actions, dtype=out.dtype),
        log_flow=heads.log_flow,
        log_p_stop=log_pf[..., env.stop],
        log_reward=env.log_reward(traj.states).to(out.dtype) if reward_of_states else None,
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
        log_pb = masked_log_softmax(heads.logits_b[..., 1:, :], backward_mask)
        log_pb = nn.functional.pad(log_pb, (0, 1))
        visited.log_pb = log_pb.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
    return visited
