"""Batched sampling of trajectories: from a table of policies, from a network, and backwards.

Shapes: leading axes are free (usually [seeds, batch]); time is the last axis of actions and masks
and the last but state axes of states. Padding after the end: action 0, mask False, state repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.torch_utils import cumulative_probability

MASKED = -1e9  # logit of a forbidden action: exp gives an exact 0, and no inf - inf arises


class Env(Protocol):
    """What sampling needs of an environment (HyperGrid, StringEnv)."""

    n_actions: int
    n_backward: int
    max_length: int

    @property
    def stop(self) -> int | None: ...
    def initial(self, batch_shape: tuple[int, ...]) -> Tensor: ...
    def forward_mask(self, states: Tensor) -> Tensor: ...
    def backward_mask(self, states: Tensor) -> Tensor: ...
    def step(self, states: Tensor, actions: Tensor) -> Tensor: ...
    def backward_step(self, states: Tensor, backward_actions: Tensor) -> Tensor: ...
    def log_reward(self, states: Tensor) -> Tensor: ...


class ReversibleEnv(Env, Protocol):
    """An environment that also says which forward action a backward action undoes."""

    def forward_action(self, states: Tensor, backward_actions: Tensor) -> Tensor: ...


@dataclass
class Trajectories:
    """A batch of complete trajectories."""

    states: Tensor  # [..., T+1, *state] (or [..., T+1] row numbers)
    actions: Tensor  # [..., T]
    mask: Tensor  # [..., T] bool: this action was taken
    last: Tensor  # [..., *state] the object (or [...] its row number)

    @property
    def length(self) -> Tensor:
        """Number of actions, the stop action included. [...]."""
        return self.mask.sum(-1)


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """log_softmax over allowed actions; forbidden ones get about -1e9, never -inf."""
    return torch.log_softmax(logits.masked_fill(~mask, MASKED), -1)


def uniforms(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers, one stream per seed, so that a seed's draws do not depend on its company.

    [S, *shape] float32 in [0, 1).
    """
    return torch.stack([torch.rand(shape, generator=g, device=g.device) for g in generators])


def choose_by_inverse_cdf(probabilities: Tensor, u: Tensor) -> Tensor:
    """Index whose cumulative interval holds u; never one of probability zero. [..., A], [...]."""
    cdf = cumulative_probability(probabilities)
    below_total = u.unsqueeze(-1) * cdf[..., -1:]  # u < 1, so strictly below, also in float32
    return torch.searchsorted(cdf, below_total, right=True).squeeze(-1)


def sample_from_table(dag: EnumeratedDAG, log_pf: Tensor, u: Tensor) -> Trajectories:
    """Samples every trajectory of every seed from tables of policies.

    Args:
        log_pf: [S, N, A].
        u: uniform numbers [S, T, B], T >= dag.max_length.
    Returns:
        Trajectories of row numbers; states [S, B, T'+1], cut to the longest of the batch.
    """
    n_seeds, n_states, n_actions = log_pf.shape
    cdf = cumulative_probability(log_pf.detach().exp())
    cdf = (cdf / cdf[..., -1:]).view(n_seeds * n_states, n_actions)[:, :-1].contiguous()
    offset = (torch.arange(n_seeds, device=log_pf.device) * n_states).unsqueeze(-1)
    children = dag.children.reshape(-1)
    state = torch.full((n_seeds, u.shape[-1]), dag.source, device=log_pf.device)
    alive = torch.ones_like(state, dtype=torch.bool)
    if dag.stop is None:
        terminal = torch.isfinite(dag.log_reward)
    states, actions, mask = [state], [], []
    for t in range(dag.max_length):
        rows = cdf[state + offset]  # [S, B, A-1]
        action = (rows <= u[:, t].unsqueeze(-1)).sum(-1)
        child = children[state * n_actions + action]
        actions.append(torch.where(alive, action, torch.zeros_like(action)))
        mask.append(alive)
        if dag.stop is None:
            state = torch.where(alive, child, state)
            alive = alive & ~terminal[state]
        else:
            alive = alive & (action != dag.stop)
            state = torch.where(alive, child, state)
        states.append(state)
        if t % 4 == 3 and not bool(alive.any()):
            break
    all_mask = torch.stack(mask, -1)
    longest = int(all_mask.flatten(0, 1).any(0).sum())
    return Trajectories(
        states=torch.stack(states, -1)[..., : longest + 1],
        actions=torch.stack(actions, -1)[..., :longest],
        mask=all_mask[..., :longest],
        last=state,
    )


@torch.no_grad()
def sample(
    env: Env,
    logits_fn: Callable[[Tensor], Tensor],
    u: Tensor,
    *,
    epsilon: float = 0.0,
) -> Trajectories:
    """Samples trajectories from a network, all of them in step.

    Args:
        logits_fn: states [S, B, *state] -> forward logits [S, B, A] (before masking).
        u: uniform numbers [S, T, B], T >= env.max_length.
        epsilon: probability of a uniformly random allowed action.

    An environment whose episodes may end without the stop action says so by ``ends_by_itself``.
    """
    n_seeds, _, batch = u.shape
    fixed_length = env.stop is None
    ends_by_itself = bool(getattr(env, "ends_by_itself", False))
    state = env.initial((n_seeds, batch))
    states = [state]
    alive = torch.ones((n_seeds, batch), dtype=torch.bool, device=state.device)
    actions, masks = [], []
    rows: Tensor | None = None  # [S, m] the trajectories still computed; None: all
    for t in range(env.max_length):
        if t and not fixed_length:
            if not bool(alive.any()):
                break
            n_alive = int(alive.sum(-1).max()) if alive.numel() > 32 else alive.shape[1]
            if n_alive <= alive.shape[1] // 2:  # drop the finished ones
                order = (~alive).long().argsort(dim=-1, stable=True)[:, :n_alive]
                rows = order if rows is None else rows.gather(1, order)
                state = _take(state, order)
                alive = alive.gather(1, order)
        mask = env.forward_mask(state)
        if ends_by_itself:
            alive = alive & mask.any(-1)
        drawn = u[:, t] if rows is None else u[:, t].gather(1, rows)
        probabilities = torch.softmax(logits_fn(state).masked_fill(~mask, MASKED), -1)
        if epsilon:
            uniform = mask / mask.sum(-1, keepdim=True).clamp(min=1)
            probabilities = (1 - epsilon) * probabilities + epsilon * uniform
        action = choose_by_inverse_cdf(probabilities, drawn)
        if env.stop is None:
            state = env.step(state, action)
            taken, after = alive, alive
        else:
            action = action.masked_fill(~alive, env.stop)  # stopping moves nothing
            state = env.step(state, action)
            taken, after = alive, alive & (action != env.stop)
        if rows is None:
            states.append(state)
            actions.append(action)
            masks.append(taken)
        else:
            index = rows.view(*rows.shape, *([1] * (state.dim() - 2))).expand_as(state)
            states.append(states[-1].scatter(1, index, state))
            actions.append(torch.zeros_like(actions[-1]).scatter(1, rows, action))
            masks.append(torch.zeros_like(masks[-1]).scatter(1, rows, taken))
        alive = after
    mask = torch.stack(masks, -1)
    if ends_by_itself:  # the last step may have found all trajectories ended
        longest = int(mask.flatten(0, 1).any(0).sum())
        states, actions, mask = states[: longest + 1], actions[:longest], mask[..., :longest]
    return Trajectories(
        states=torch.stack(states, 2),
        actions=torch.stack(actions, -1).masked_fill(~mask, 0),
        mask=mask,
        last=states[-1],
    )


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """x[s, rows[s]]. [S, B, ...], [S, m] -> [S, m, ...]."""
    index = rows.view(*rows.shape, *([1] * (x.dim() - 2)))
    return x.gather(1, index.expand(*rows.shape, *x.shape[2:]))


@torch.no_grad()
def sample_backward(
    env: ReversibleEnv,
    objects: Tensor,
    u: Tensor,
    logits_fn: Callable[[Tensor], Tensor] | None = None,
) -> Trajectories:
    """Trajectories that end in given objects, drawn from a backward policy.

    With a stop action the objects may lie at different depths: the trajectories are aligned at the
    source, the stop action ends each, and padding follows as everywhere.

    Args:
        objects: [..., *state] with any leading axes.
        u: uniform numbers [T, ...] with T at least the longest way back (stop not counted).
        logits_fn: states [..., *state] -> backward logits [..., A_b] (before masking); None: the
            uniform backward policy.
    """
    state = objects
    states, actions, moved = [state], [], []
    for drawn in u:
        mask = env.backward_mask(state)
        alive = mask.any(-1)
        if not bool(alive.any()):
            break
        if logits_fn is None:
            weights = mask.float()
        else:
            weights = torch.softmax(logits_fn(state).masked_fill(~mask, MASKED), -1)
        # clamp: a row that is at the source has no weights at all
        back = choose_by_inverse_cdf(weights, drawn).clamp(max=env.n_backward - 1)
        actions.append(env.forward_action(state, back))
        before = env.backward_step(state, back)
        axes = state.dim() - alive.dim()
        state = torch.where(alive.view(*alive.shape, *([1] * axes)), before, state)
        states.append(state)
        moved.append(alive)
    axis = u.dim() - 1  # of time
    if not actions:  # every object is the source
        moves = torch.zeros(objects.shape[:axis], dtype=torch.long, device=objects.device)
        all_actions = torch.zeros_like(moves).unsqueeze(-1)
    else:
        moves = torch.stack(moved, -1).sum(-1)
        all_actions = torch.stack(actions, -1)  # backward in time
    n_steps = len(actions) + (env.stop is not None)
    time = torch.arange(n_steps + 1, device=objects.device)
    left = moves.unsqueeze(-1) - time  # moves still to come before forward step ``time``
    chosen = all_actions.gather(-1, (left[..., :-1] - 1).clamp(min=0))
    mask = left[..., :-1] > 0
    if env.stop is not None:
        chosen = torch.where(left[..., :-1] == 0, env.stop, chosen)
        mask = left[..., :-1] >= 0
    stacked = torch.stack(states, axis)
    rest = stacked.shape[axis + 1 :]
    index = left.clamp(min=0).view(*left.shape, *([1] * len(rest))).expand(*left.shape, *rest)
    return Trajectories(
        states=stacked.gather(axis, index),
        actions=chosen.masked_fill(~mask, 0),
        mask=mask,
        last=objects,
    )
