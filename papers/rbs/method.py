"""Goal-conditioned GFlowNets and retrospective backward synthesis (RBS).

Section numbers are the paper's topics in the order in which the README lists them: the
goal-conditioned flow, backward synthesis, and the three techniques that keep it stable
(regularised backward policy, intensified reward, age-based sampling).

Shapes: S seeds, B trajectories, T actions, K places of a state. A goal is an object; a
goal-conditioned state is the concatenation of a state and its goal, 2K places.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.gfn.objectives import Visited, loss_per_seed, training_pairs
from common.gfn.sampling import ReversibleEnv, Trajectories, masked_log_softmax, sample_backward

LOG_EPSILON = math.log(1e-9)  # log of the reward of a failure [code]


# -- the goal-conditioned GFlowNet -----------------------------------------------------------------


def log_goal_reward(success: Tensor, log_C: float, log_epsilon: float = LOG_EPSILON) -> Tensor:
    """Intensified reward: log(C R(x, y) + epsilon), R = 1[x = y]. [...] bool -> [...].

    C enters in log space: the paper's 1e40 does not exist in float32.
    """
    succeeded = float(np.logaddexp(log_C, log_epsilon))
    return torch.where(success, succeeded, log_epsilon)


class GoalConditioned:
    """An environment whose states carry their goals: [..., 2K] = state, goal.

    The goal changes neither the moves nor the masks; it is what the networks see and what the
    reward compares the object with.
    """

    def __init__(
        self,
        env: ReversibleEnv,
        goals: Tensor,
        log_C: float = 0.0,
        log_epsilon: float = LOG_EPSILON,
    ) -> None:
        """``goals`` [*batch, K] are those that ``initial`` gives to the trajectories."""
        self.env, self.goals = env, goals
        self.log_C, self.log_epsilon = log_C, log_epsilon
        self.n_places = goals.shape[-1]
        self.n_actions, self.n_backward = env.n_actions, env.n_backward
        self.max_length = env.max_length

    @property
    def stop(self) -> int | None:
        """The stop action, if there is one."""
        return self.env.stop

    def split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """State and goal. [..., 2K] -> [..., K], [..., K]."""
        return states[..., : self.n_places], states[..., self.n_places :]

    def initial(self, batch_shape: tuple[int, ...]) -> Tensor:
        """The source with the goals. [*batch, 2K]."""
        return torch.cat([self.env.initial(batch_shape), self.goals], -1)

    def forward_mask(self, states: Tensor) -> Tensor:
        """Allowed actions. [..., A] bool."""
        return self.env.forward_mask(states[..., : self.n_places])

    def backward_mask(self, states: Tensor) -> Tensor:
        """In-edges. [..., A_b] bool."""
        return self.env.backward_mask(states[..., : self.n_places])

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """States after the actions, goals kept."""
        state, goal = self.split(states)
        return torch.cat([self.env.step(state, actions), goal], -1)

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Parents reached by the backward actions, goals kept."""
        state, goal = self.split(states)
        return torch.cat([self.env.backward_step(state, backward_actions), goal], -1)

    def forward_action(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Forward action that a backward action undoes."""
        return self.env.forward_action(states[..., : self.n_places], backward_actions)

    def success(self, states: Tensor) -> Tensor:
        """R(x, y) = 1[x = y]. [..., 2K] -> [...] bool."""
        state, goal = self.split(states)
        return (state == goal).all(-1)

    def log_reward(self, states: Tensor) -> Tensor:
        """log(C R + epsilon). [..., 2K] -> [...]."""
        return log_goal_reward(self.success(states), self.log_C, self.log_epsilon)


# -- retrospective backward synthesis --------------------------------------------------------------


def retrospective_backward_synthesis(
    env: GoalConditioned, u: Tensor, backward_logits: Callable[[Tensor], Tensor] | None
) -> Trajectories:
    """Trajectories that reach the goals: walks from each goal back to the source, reversed.

    Every move back removes something, so each walk ends in the source, and its reversal is a
    forward trajectory with reward 1.

    Args:
        env: with the goals [S, B, K] that this step's forward rollouts aimed at.
        u: uniform numbers [S, T, B].
        backward_logits: goal-conditioned states [S, B, 2K] -> [S, B, A_b] of P_B(.|s, y);
            None: uniform P_B.
    """
    start = torch.cat([env.goals, env.goals], -1)  # x = y
    return sample_backward(env, start, u.transpose(0, 1), backward_logits)


# -- backward-policy regularisation ----------------------------------------------------------------


def uniform_divergence(log_pb: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """KL(U || P_B(.|s, y)), U uniform over the *valid* predecessors; and where it counts.

    States with fewer than two predecessors have nothing to regularise and are left out.

    Args:
        log_pb: [..., A_b].  mask: the same shape, bool.
    Returns:
        KL [...] (0 where it does not count) and [...] bool.
    """
    n_valid = mask.sum(-1)
    counts = n_valid >= 2
    n = n_valid.clamp(min=1).to(log_pb.dtype)
    kl = -n.log() - torch.where(mask, log_pb, torch.zeros_like(log_pb)).sum(-1) / n
    return torch.where(counts, kl, torch.zeros_like(kl)), counts


def regulariser_weight(step: int, initial: float = 0.1, decay: float = 0.999) -> float:
    """lambda at an update: initial * decay^step."""
    return initial * decay**step


# -- age-based sampling ----------------------------------------------------------------------------

NEW = 1.0  # priority of an item that no batch has used
USED = (0.0 + 1e-6) ** 0.5  # priority afterwards: (age term + 1e-6)^alpha, alpha = 0.5 [code]


class SumTree:
    """Priorities of n items per seed, with O(log n) updates and draws, batched."""

    def __init__(self, n_seeds: int, n_items: int, device: torch.device | str = "cpu") -> None:
        self.n_items = n_items
        self.depth = max(1, (n_items - 1).bit_length())
        self.first_leaf = 2**self.depth
        self.sums = torch.zeros(n_seeds, 2 * self.first_leaf, dtype=torch.float64, device=device)

    @property
    def leaves(self) -> Tensor:
        """The priorities. [S, n]."""
        return self.sums[:, self.first_leaf : self.first_leaf + self.n_items]

    @property
    def total(self) -> Tensor:
        """Sum of the priorities. [S]."""
        return self.sums[:, 1]

    def set(self, items: Tensor, priority: float) -> None:
        """Gives items [S, b] a priority (an item may occur more than once)."""
        node = items + self.first_leaf
        self.sums.scatter_(1, node, priority)
        for _ in range(self.depth):
            node = node // 2
            self.sums.scatter_(
                1, node, self.sums.gather(1, 2 * node) + self.sums.gather(1, 2 * node + 1)
            )

    def find(self, mass: Tensor) -> Tensor:
        """The items whose intervals of cumulative priority hold ``mass`` [S, b] in [0, total)."""
        node = torch.ones_like(mass, dtype=torch.long)
        for _ in range(self.depth):
            left = self.sums.gather(1, 2 * node)
            # rounding must not lead to an item without priority
            right = (mass >= left) & (self.sums.gather(1, 2 * node + 1) > 0)
            mass = torch.where(right, mass - left, mass)
            node = 2 * node + right.long()
        return node - self.first_leaf


def stratified(u: Tensor, total: Tensor) -> Tensor:
    """One point in each of b equal segments of [0, total). u [S, b] in [0, 1), total [S]."""
    b = u.shape[-1]
    return (torch.arange(b, device=u.device) + u.double()) * (total.unsqueeze(-1) / b)


class AgeReplay:
    """Paired replay: a trajectory to a goal and its companion (backward synthesis or HER).

    The companions lie at the indices of the forward trajectories, so a draw returns pairs. New
    items have priority 1, used ones 1e-3; draws are stratified (independent draws with the same
    priorities miss more of the new items). Kept are goals and actions; the states are walked anew.
    """

    def __init__(
        self,
        n_seeds: int,
        capacity: int,
        env: GoalConditioned,
        *,
        n_streams: int = 2,
        by_age: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.env, self.capacity = env.env, capacity
        self.n_streams, self.by_age, self.n_added = n_streams, by_age, 0
        shape = (n_seeds, n_streams, capacity)
        self.goals = torch.zeros(*shape, env.n_places, dtype=torch.int16, device=device)
        self.actions = torch.zeros(*shape, env.max_length, dtype=torch.int16, device=device)
        self.length = torch.zeros(*shape, dtype=torch.int16, device=device)
        self.tree = SumTree(n_seeds, capacity, device)

    def add(self, *streams: Trajectories) -> None:
        """Adds B trajectories of each stream [S, B, ...]; the oldest make room."""
        batch = streams[0].actions.shape[1]
        at = (self.n_added + torch.arange(batch)) % self.capacity
        at = at.to(self.actions.device)
        for i, traj in enumerate(streams):
            n_steps = traj.actions.shape[-1]
            self.goals[:, i, at] = traj.states[:, :, 0, self.goals.shape[-1] :].to(torch.int16)
            self.actions[:, i, at, :n_steps] = traj.actions.to(torch.int16)
            self.length[:, i, at] = traj.length.to(torch.int16)
        self.n_added += batch
        self.tree.set(at.expand(self.actions.shape[0], -1), NEW)

    def draw(self, u: Tensor) -> Tensor:
        """b indices per seed, stratified over the priorities. u [S, b] -> [S, b]."""
        return self.tree.find(stratified(u, self.tree.total))

    def mark_used(self, items: Tensor) -> None:
        """Lowers the priorities of the items [S, b] that a batch has used."""
        if self.by_age:
            self.tree.set(items, USED)

    def get(self, items: Tensor) -> Trajectories:
        """All streams at the same indices [S, b], one after the other. Trajectories [S, n*b]."""
        seeds = torch.arange(len(items), device=items.device).unsqueeze(-1)

        def at(x: Tensor) -> Tensor:
            return torch.cat([x[seeds, i, items] for i in range(self.n_streams)], 1).long()

        length, goals = at(self.length), at(self.goals)
        mask = torch.arange(int(length.max()), device=items.device) < length.unsqueeze(-1)
        actions = at(self.actions)[..., : mask.shape[-1]].masked_fill(~mask, 0)
        state = self.env.initial(tuple(length.shape))
        states = [state]
        for t in range(mask.shape[-1]):
            moved = self.env.step(state, actions[..., t])
            state = torch.where(mask[..., t].unsqueeze(-1), moved, state)
            states.append(state)
        walked = torch.stack(states, 2)
        conditioned = torch.cat([walked, goals.unsqueeze(2).expand_as(walked)], -1)
        return Trajectories(conditioned, actions, mask, conditioned[:, :, -1])

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps: the filled part."""
        n = min(self.n_added, self.capacity)
        kept = {name: getattr(self, name)[:, :, :n] for name in ("goals", "actions", "length")}
        return {"n_added": self.n_added, "sums": self.tree.sums, **kept}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Sets what ``state_dict`` gave."""
        self.n_added = int(state["n_added"])
        n = min(self.n_added, self.capacity)
        for name in ("goals", "actions", "length"):
            getattr(self, name)[:, :, :n] = state[name].to(self.actions.device)
        self.tree.sums.copy_(state["sums"])


# -- the loss --------------------------------------------------------------------------------------


@dataclass
class Outputs:
    """What the networks say at the distinct goal-conditioned states of a batch."""

    states: Tensor  # [S, U, 2K]
    at: Tensor  # [S, B, T+1]: where a trajectory's states are among them
    logits_f: Tensor  # [S, U, A]
    logits_b: Tensor | None  # [S, U, A_b]; None: uniform P_B
    log_flow: Tensor  # [S, U] log F(s|y)


def visit(env: GoalConditioned, out: Outputs, traj: Trajectories) -> tuple[Visited, Tensor]:
    """log P_F, log P_B and log F along trajectories; and log P_B of the distinct states."""
    log_pf = masked_log_softmax(out.logits_f, env.forward_mask(out.states))
    mask_b = env.backward_mask(out.states)
    logits_b = (
        torch.zeros_like(mask_b, dtype=log_pf.dtype) if out.logits_b is None else out.logits_b
    )
    log_pb = masked_log_softmax(logits_b, mask_b)
    moved = traj.mask if env.stop is None else traj.mask & (traj.actions != env.stop)

    def along(table: Tensor, at: Tensor, action: Tensor) -> Tensor:
        index = at * table.shape[-1] + action
        return table.flatten(1).gather(1, index.flatten(1)).view(index.shape)

    back = env.env.backward_action(traj.actions)  # type: ignore[attr-defined]
    visited = Visited(
        log_pf=along(log_pf, out.at[..., :-1], traj.actions).masked_fill(~traj.mask, 0.0),
        log_pb=along(log_pb, out.at[..., 1:], back).masked_fill(~moved, 0.0),
        log_flow=out.log_flow.gather(1, out.at.flatten(1)).view(out.at.shape),
        log_p_stop=None,
        log_reward=None,
        log_reward_last=env.log_reward(traj.last).to(log_pf.dtype),
    )
    return visited, log_pb


def goal_loss(
    env: GoalConditioned,
    out: Outputs,
    traj: Trajectories,
    *,
    objective: str = "db",
    weight: float = 0.0,
    lam: float = 0.9,
) -> tuple[Tensor, Tensor]:
    """Balance loss conditioned on the goals plus weight * mean KL(U || P_B). ([S], [S] the KL).

    DB, per edge: (log F(s|y) + log P_F(s'|s,y) - log F(s'|y) - log P_B(s|s',y))^2; at the end
    log F(x|y) + log P_F(stop|x,y) - log(C R + epsilon), or F(x|y) := C R + epsilon where complete
    objects are terminal. ``objective`` "stb": SubTB(lam).
    """
    visited, log_pb = visit(env, out, traj)
    pairs = training_pairs(objective, visited, traj.actions, traj.mask, stop=env.stop, lam=lam)
    kl, counts = uniform_divergence(log_pb, env.backward_mask(out.states))
    mean_kl = kl.sum(1) / counts.sum(1).clamp(min=1)
    loss = loss_per_seed(pairs)
    if weight and out.logits_b is not None:
        loss = loss + weight * mean_kl
    return loss, mean_kl.detach()
