"""Learning on an enumerated DAG, whose states are row numbers: sampling, and what objectives need.

The network's last layer holds all heads: A forward logits (FM: log edge flows), A_b backward
logits, log F. It is evaluated once per distinct state of a batch (``part_of``), or on the whole
table when that is small (``whole``); ``visit`` then gathers along the trajectories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.gfn import objectives as flows
from common.gfn.dag import EnumeratedDAG
from common.gfn.objectives import Visited
from common.gfn.sampling import (
    MASKED,
    Trajectories,
    choose_by_inverse_cdf,
    masked_log_softmax,
)


@dataclass
class Heads:
    """The outputs of the network at some states."""

    logits: Tensor  # [..., A]
    logits_b: Tensor  # [..., A_b]
    log_flow: Tensor  # [...]


def split_heads(out: Tensor, n_actions: int, n_backward: int) -> Heads:
    """[..., >= A + A_b + 1] -> the heads; log F is the last output."""
    return Heads(out[..., :n_actions], out[..., n_actions : n_actions + n_backward], out[..., -1])


@torch.no_grad()
def sample_rows(
    dag: EnumeratedDAG,
    logits_fn: Callable[[Tensor], Tensor],
    u: Tensor,
    *,
    epsilon: float = 0.0,
) -> Trajectories:
    """Samples trajectories, all of them in step, with the network on the current states only.

    Args:
        logits_fn: row numbers [S, B] -> forward logits [S, B, A] (before masking).
        u: uniform numbers [S, T, B], T >= dag.max_length.
        epsilon: probability of a uniformly random allowed action.
    """
    n_seeds, _, batch = u.shape
    state = torch.full((n_seeds, batch), dag.source, device=u.device)
    alive = torch.ones_like(state, dtype=torch.bool)
    states, actions, masks = [state], [], []
    terminal = torch.isfinite(dag.log_reward) if dag.stop is None else None
    for t in range(dag.max_length):
        if t == 0:  # one state for all
            first = state[:, :1]
            probabilities = policy(dag, first, logits_fn(first), epsilon).expand(-1, batch, -1)
        else:
            probabilities = policy(dag, state, logits_fn(state), epsilon)
        action = choose_by_inverse_cdf(probabilities.contiguous(), u[:, t]).masked_fill(~alive, 0)
        child = dag.children[state, action]
        actions.append(action)
        masks.append(alive)
        if terminal is None:
            alive = alive & (action != dag.stop)
            state = torch.where(alive, child, state)
        else:
            state = torch.where(alive, child, state)
            alive = alive & ~terminal[state]
        states.append(state)
        if not bool(alive.any()):
            break
    return Trajectories(
        states=torch.stack(states, -1),
        actions=torch.stack(actions, -1),
        mask=torch.stack(masks, -1),
        last=state,
    )


def policy(dag: EnumeratedDAG, rows: Tensor, logits: Tensor, epsilon: float = 0.0) -> Tensor:
    """(1 - epsilon) softmax + epsilon uniform over the allowed actions. [..., A] probabilities."""
    mask = dag.forward_mask[rows]
    probabilities = torch.softmax(logits.masked_fill(~mask, MASKED), -1)
    if epsilon:
        uniform = mask / mask.sum(-1, keepdim=True).clamp(min=1)
        probabilities = (1 - epsilon) * probabilities + epsilon * uniform
    return probabilities


@dataclass
class Part:
    """The rows of a DAG at which the network is evaluated: those that a batch needs, or all."""

    rows: Tensor | None  # [S, U] ascending, the last one repeated as padding; None: all rows

    def at(self, rows: Tensor) -> Tensor:
        """Places [S, ...] of rows [S, ...] in this part (any place if a row is not in it)."""
        if self.rows is None:
            return rows
        flat = rows.flatten(1).contiguous()
        found = torch.searchsorted(self.rows, flat).clamp(max=self.rows.shape[1] - 1)
        return found.view(rows.shape)

    def of(self, table: Tensor) -> Tensor:
        """A table over all rows [N, ...], at this part's rows. [S, U, ...] (all: [1, N, ...])."""
        return table.unsqueeze(0) if self.rows is None else table[self.rows]


def whole() -> Part:
    """All rows, in order."""
    return Part(None)


def part_of(needed: Tensor) -> Part:
    """The distinct rows among [S, ...] (negative numbers are left out)."""
    per_seed = []
    for rows in needed.flatten(1):
        distinct = torch.unique(rows)
        per_seed.append(distinct[distinct >= 0])
    longest = max(len(rows) for rows in per_seed)
    padded = [torch.cat([r, r[-1:].expand(longest - len(r))]) for r in per_seed]
    return Part(torch.stack(padded))


def with_parents(dag: EnumeratedDAG, states: Tensor) -> Tensor:
    """States [S, ...] and all their parents (-1 where there is none). [S, M]."""
    return torch.cat([states.flatten(1), dag.parents[states].flatten(1)], 1)


def at_states(table: Tensor, states: Tensor) -> Tensor:
    """table[s, states[s]]. [S, U], [S, ...] -> [S, ...]."""
    return table.gather(1, states.flatten(1)).view(states.shape)


def log_inflows(dag: EnumeratedDAG, part: Part, log_edge_flows: Tensor) -> Tensor:
    """log F(parent -> s) over the in-edges of every state of a part.

    [S, U, A] -> [S, U, A_b]; meaningful where the in-edge exists (``part.of(dag.backward_mask)``)
    and the parents are in the part.
    """
    n_seeds, n_rows, n_actions = log_edge_flows.shape
    parents = part.of(dag.parents.clamp(min=0)).expand(n_seeds, -1, -1)
    edge = part.at(parents) * n_actions + part.of(dag.parent_actions)
    return log_edge_flows.flatten(1).gather(1, edge.flatten(1)).view(n_seeds, n_rows, -1)


def visit(
    dag: EnumeratedDAG,
    part: Part,
    out: Tensor,
    traj: Trajectories,
    *,
    fm: bool = False,
    learned_pb: bool = True,
) -> Visited:
    """What an objective needs along trajectories of row numbers.

    Args:
        out: [S, U, heads] at the part's rows, which must hold the trajectories' states (and for
            FM their parents).
        fm: the first head holds log edge flows; also gather the flow-matching pair.
        learned_pb: P_B from the second head; else uniform over in-edges.
    """
    n_seeds = out.shape[0]
    heads = split_heads(out, dag.n_actions, dag.n_backward)
    mask = part.of(dag.forward_mask)
    log_pf = masked_log_softmax(heads.logits, mask)
    before, after = traj.states[..., :-1], traj.states[..., 1:]
    places = part.at(traj.states)
    place_before, place_after = places[..., :-1], places[..., 1:]

    def at_edges(table: Tensor, place: Tensor, action: Tensor) -> Tensor:
        index = place * table.shape[-1] + action
        return table.flatten(1).gather(1, index.flatten(1)).view(index.shape)

    log_pb = torch.zeros(before.shape, dtype=out.dtype, device=out.device)
    if not fm and dag.n_backward > 1:
        logits_b = heads.logits_b if learned_pb else torch.zeros_like(heads.logits_b)
        per_state = masked_log_softmax(logits_b, part.of(dag.backward_mask))
        back = dag.backward_index[before, traj.actions]
        moved = traj.mask if dag.stop is None else traj.mask & (traj.actions != dag.stop)
        log_pb = at_edges(per_state, place_after, back).masked_fill(~moved, 0.0)
    log_reward = dag.log_reward.to(out.dtype)
    visited = Visited(
        log_pf=at_edges(log_pf, place_before, traj.actions).masked_fill(~traj.mask, 0.0),
        log_pb=log_pb,
        log_flow=at_states(heads.log_flow, places),
        log_p_stop=None if dag.stop is None else at_states(log_pf[..., dag.stop], places),
        log_reward=log_reward[traj.states],
        log_reward_last=log_reward[traj.last],
    )
    if fm:
        inflow = log_inflows(dag, part, heads.logits)
        backward_mask = part.of(dag.backward_mask).expand(n_seeds, -1, -1)
        pair = flows.flow_matching(inflow, backward_mask, heads.logits, mask)
        outflow = at_states(pair[1], place_after)
        if dag.stop is None:  # at a complete object the outflow is the reward
            reward = log_reward[after]
            outflow = torch.where(torch.isfinite(reward), reward, outflow)
        else:
            visited.stop_flow = at_states(heads.logits[..., dag.stop], part.at(traj.last))
        visited.matching = at_states(pair[0], place_after), outflow
    return visited
