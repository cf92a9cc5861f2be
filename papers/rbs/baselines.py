"""What RBS is compared with.

- GC-DB: forward rollouts only (``METHODS["gc-db"]`` in train.py has no companion stream).
- HER-DB: the companion of a forward trajectory is itself, relabelled (``relabel``).
- DQN + HER: the same data and network, one-step Q-learning instead of a flow (``q_loss``).

All run through the loop of ``train.py`` with the same number of trajectories per update.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from common.gfn.sampling import MASKED, Trajectories
from papers.rbs.method import GoalConditioned

GAMMA = 0.99  # discount of DQN per action


def relabel(
    traj: Trajectories, env: GoalConditioned, allowed: Tensor | None = None
) -> Trajectories:
    """Hindsight experience replay: the goal becomes the object that was reached, at every step.

    Args:
        allowed: [S, B] bool, which trajectories may be relabelled (default: all).
    """
    state, goal = env.split(traj.states)
    reached = env.split(traj.last)[0].unsqueeze(2).expand_as(goal)
    if allowed is not None:
        reached = torch.where(allowed[..., None, None], reached, goal)
    states = torch.cat([state, reached], -1)
    return replace(traj, states=states, last=states[:, :, -1])


def greedy_log_policy(q: Tensor, mask: Tensor) -> Tensor:
    """log of the policy that takes the best allowed action. [..., A]."""
    best = q.masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
    return torch.full_like(q, MASKED).scatter_(-1, best, 0.0)


def exploration(step: int, n_steps: int, last: float = 0.05) -> float:
    """Probability of a random action of DQN: from 1 down to ``last`` over the first half."""
    return max(last, 1.0 - (1.0 - last) * step / max(1, n_steps / 2))


def q_loss(
    env: GoalConditioned,
    states: Tensor,
    at: Tensor,
    q: Tensor,
    q_target: Tensor,
    traj: Trajectories,
    gamma: float = GAMMA,
) -> Tensor:
    """Mean squared error of one-step Q-learning over all edges; reward 1 for ending in the goal.

    Args:
        states: [S, U, 2K] distinct states, of which ``at`` [S, B, T+1] are the trajectories'.
        q, q_target: [S, U, A] of the network and of its target copy.
    Returns:
        loss [S].
    """
    taken = (at[..., :-1] * q.shape[-1] + traj.actions).flatten(1)
    value = q.flatten(1).gather(1, taken).view(traj.actions.shape)
    best = q_target.masked_fill(~env.forward_mask(states), -torch.inf).amax(-1)  # [S, U]
    after = best.gather(1, at[..., 1:].flatten(1)).view(traj.actions.shape)
    last = torch.arange(traj.mask.shape[-1], device=q.device) == (traj.length - 1).unsqueeze(-1)
    reward = env.success(traj.last).to(q.dtype).unsqueeze(-1)
    wanted = torch.where(last, reward, gamma * after).detach()
    error = torch.where(traj.mask, value - wanted, torch.zeros_like(value))
    return error.square().flatten(1).sum(1) / traj.mask.flatten(1).sum(1)
