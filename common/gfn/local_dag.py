"""A small DAG around the states that a batch visits, for tasks too large to be enumerated.

Losses that are written for an ``EnumeratedDAG`` work on it as they are: its rows are the distinct
states among those visited and their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.fragments import FragmentEnv
from common.gfn.sampling import Trajectories
from common.gfn.strings import StringEnv


@dataclass
class LocalDAG:
    """The rows around a batch."""

    states: Tensor  # [N, *state], what the rows are
    visited: Tensor  # [n] rows of the visited states
    dag: EnumeratedDAG

    def along(self, traj: Trajectories) -> Trajectories:
        """Trajectories [1, B, T] whose states, flattened, were the visited ones, by their rows."""
        rows = self.visited.view(*traj.mask.shape[:-1], traj.mask.shape[-1] + 1)
        return replace(traj, states=rows, last=rows[..., -1])


def strings_around(
    env: StringEnv, visited: Tensor, log_reward: Tensor, objects: Tensor, *, children: bool
) -> LocalDAG:
    """The DAG of visited strings [n, L], their parents and, if asked for, their children.

    Counts of edges are those of the whole DAG. Edges that leave the neighbourhood lead nowhere (-1,
    or row 0 for parents); no loss looks at them. Objects that were not visited have the placeholder
    log R = 0, and their reward is not asked for.

    Args:
        env: strings that grow to a fixed length.
        visited: [n, L].
        log_reward: [m], of the objects among them.
        objects: [m], which of the n they are.
        children: whether a loss looks at children (policy evaluation does, balances do not).
    """
    device = visited.device
    actions = torch.arange(env.n_actions, device=device)
    backward = torch.arange(env.n_backward, device=device)
    needed = [visited]
    if children:
        inner = visited[env.forward_mask(visited).any(-1)]
        after = env.step(
            inner.unsqueeze(1).expand(-1, env.n_actions, -1), actions.expand(len(inner), -1)
        )
        needed.append(after.flatten(0, 1))
    grown = visited[env.backward_mask(visited).any(-1)]
    before = env.backward_step(
        grown.unsqueeze(1).expand(-1, env.n_backward, -1), backward.expand(len(grown), -1)
    )
    every = torch.cat([*needed, before.flatten(0, 1)])
    number, inverse = torch.unique(env.index(every), return_inverse=True)
    states = torch.empty(len(number), env.length, dtype=torch.long, device=device)
    states[inverse] = every  # equal strings write the same

    def local(other: Tensor, exists: Tensor, absent: int) -> Tensor:
        wanted = env.index(other)
        place = torch.searchsorted(number, wanted).clamp(max=len(number) - 1)
        return torch.where(exists & (number[place] == wanted), place, absent)

    forward_mask, backward_mask = env.forward_mask(states), env.backward_mask(states)
    n = len(states)
    twice = states.unsqueeze(1).expand(-1, env.n_backward, -1)
    following = env.step(states.unsqueeze(1).expand(-1, env.n_actions, -1), actions.expand(n, -1))
    parents = local(env.backward_step(twice, backward.expand(n, -1)), backward_mask, 0)
    rewards = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
    rewards[~forward_mask.any(-1)] = 0.0
    rows = inverse[: len(visited)]
    rewards[rows[objects]] = log_reward.double()
    dag = EnumeratedDAG(
        children=local(following, forward_mask, -1),
        forward_mask=forward_mask,
        parents=parents.masked_fill(~backward_mask, -1),
        parent_actions=env.forward_action(twice, backward.expand(n, -1)).masked_fill(
            ~backward_mask, 0
        ),
        backward_index=env.backward_action(actions).expand(n, -1).contiguous(),
        log_reward=rewards,
        level=env.n_filled(states),
        source=0,
        active=env.active_inputs(states),
        input_dim=env.input_dim,
    )
    return LocalDAG(states, rows, dag)


def fragments_around(
    env: FragmentEnv, visited: Tensor, log_reward: Tensor, objects: Tensor
) -> LocalDAG:
    """The DAG of visited molecules [n, K, 3] and their parents; no children.

    Only visited molecules have in-edges. One that ended by itself has one action left, to stop.

    Args:
        env: the fragment MDP.
        visited: [n, K, 3].
        log_reward: [m], of the objects among them.
        objects: [m], which of the n they are.
    """
    parents, exists, actions = env.parents(visited)
    every = torch.cat([visited.flatten(1), parents[exists].flatten(1)])
    distinct, place = torch.unique(every, dim=0, return_inverse=True)
    states = distinct.view(-1, *visited.shape[1:])
    rows = place[: len(visited)]
    mine = torch.full_like(exists, -1, dtype=torch.long)
    mine[exists] = place[len(visited) :]
    parent_rows = torch.full((len(states), env.n_backward), -1, device=visited.device)
    parent_actions = torch.zeros_like(parent_rows)
    parent_rows[rows] = mine
    parent_actions[rows] = actions.masked_fill(~exists, 0)
    forward_mask = env.forward_mask(states)
    forward_mask[:, env.stop] |= ~forward_mask.any(-1)
    newest = env.n_placed(states).clamp(max=env.max_blocks - 1)
    index = newest.unsqueeze(-1).expand(-1, env.n_actions).contiguous()
    rewards = torch.full((len(states),), -torch.inf, dtype=torch.float64, device=visited.device)
    rewards[rows[objects]] = log_reward.double()
    dag = EnumeratedDAG(
        children=torch.full_like(index, -1),
        forward_mask=forward_mask,
        parents=parent_rows,
        parent_actions=parent_actions,
        backward_index=index,
        log_reward=rewards,
        level=env.n_placed(states),
        stop=env.stop,
    )
    return LocalDAG(states, rows, dag)


def with_last_stop(traj: Trajectories, stop: int) -> Trajectories:
    """Gives the trajectories that ended by themselves a stop action, which moves nothing."""
    actions = torch.nn.functional.pad(traj.actions, (0, 1))
    mask = torch.nn.functional.pad(traj.mask, (0, 1))
    open_end = ~((traj.actions == stop) & traj.mask).any(-1, keepdim=True)
    at = traj.length.unsqueeze(-1)
    actions = torch.where(open_end, actions.scatter(-1, at, stop), actions)
    mask = torch.where(open_end, mask.scatter(-1, at, True), mask)
    states = torch.cat([traj.states, traj.states[:, :, -1:]], 2)
    return Trajectories(states=states, actions=actions, mask=mask, last=traj.last)
