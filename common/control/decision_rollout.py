"""Rollouts of policies that are conditioned on a return and see the last steps, in lock-step.

All environments of a batch step together, with one call of the policy per step. The return-to-go
begins at the target and is lowered by every reward received.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.control.decision_transformer import DecisionTransformer, PromptTokens
from common.control.sequences import Windows

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Policy = Callable[[Windows], Tensor]  # windows of B episodes -> actions [B, a]


class Environments(Protocol):
    """B environments at the beginning of an episode each."""

    observations: Floats  # [B, o] as they are now
    success: Bools  # [B] the goal was reached at some step

    def step(self, actions: Floats, active: Bools) -> tuple[Floats, Bools]:
        """Steps the active ones: rewards [B] and whether the episode has ended by itself [B]."""


class Simulated(Protocol):
    """One running episode, as ``common.control.metaworld`` has them."""

    obs: Floats
    reward: float
    success: bool

    def step(self, action: Floats) -> None:
        """Apply one action [a]."""


class SimulatedBatch:
    """Meta-World's episodes as :class:`Environments`.

    Args:
        episodes: freshly reset.
        observe: what the policy sees of observations [B, 39] (to hide the goal, say).
    """

    def __init__(
        self, episodes: Sequence[Simulated], observe: Callable[[Floats], Floats] = np.asarray
    ) -> None:
        self.episodes, self._observe = episodes, observe
        self.success = np.zeros(len(episodes), bool)
        self.observations = observe(np.stack([e.obs for e in episodes]))

    def step(self, actions: Floats, active: Bools) -> tuple[Floats, Bools]:
        """See :class:`Environments`; these episodes never end by themselves."""
        rewards = np.zeros(len(active), np.float32)
        for i in np.flatnonzero(active):
            self.episodes[i].step(actions[i])
            rewards[i] = self.episodes[i].reward
            self.success[i] = self.episodes[i].success
        self.observations = self._observe(np.stack([e.obs for e in self.episodes]))
        return rewards, np.zeros(len(active), bool)


class GymnasiumBatch:
    """Gymnasium's environments as :class:`Environments`, reset from a seed each."""

    def __init__(self, environments: Sequence[Any], seeds: Sequence[int]) -> None:
        self.environments = environments
        self.success = np.zeros(len(environments), bool)
        first = [e.reset(seed=s)[0] for e, s in zip(environments, seeds, strict=True)]
        self.observations = np.stack(first).astype(np.float32)

    def step(self, actions: Floats, active: Bools) -> tuple[Floats, Bools]:
        """See :class:`Environments`; success is what ``info`` calls so, if it does."""
        rewards, ended = np.zeros(len(active), np.float32), np.zeros(len(active), bool)
        for i in np.flatnonzero(active):
            found, reward, terminated, truncated, info = self.environments[i].step(actions[i])
            self.observations[i], rewards[i] = found, reward
            ended[i] = terminated or truncated
            self.success[i] |= bool(info.get("success", False))
        return rewards, ended


@dataclass(frozen=True)
class Outcomes:
    """What B episodes came to."""

    returns: NDArray[np.float64]  # [B] sum of rewards
    success: Bools  # [B] the goal was reached at some step
    steps: NDArray[np.int64]  # [B] that were taken


def rollout(
    environments: Environments,
    policy: Policy,
    *,
    action_dim: int,
    context: int,
    limit: int,
    target_return: float | Floats,
    return_scale: float | Floats,
    standardize: Callable[[Floats], Floats] = np.asarray,
    stop_at_success: bool = True,
    device: torch.device | str = "cpu",
) -> Outcomes:
    """Run all episodes to their end.

    The policy always gets all B rows; those of episodes that are over are stale and their actions
    are ignored, so that no episode's course depends on when another one ends.

    Args:
        environments: B of them.
        policy: see :func:`acting`.
        action_dim: d.
        context: steps that the policy sees, the last one without its action; before the first
            step there is padding.
        limit: steps after which an episode is over.
        target_return: at the first step, one or [B].
        return_scale: what returns-to-go are divided by, one or [B].
        standardize: of observations [B, o], rows by themselves.
        stop_at_success: whether an episode is over once its goal is reached.
        device: where the windows are.
    """
    n = len(environments.observations)
    togo = np.broadcast_to(np.asarray(target_return, np.float64), (n,)).copy()
    scale = np.broadcast_to(np.asarray(return_scale, np.float64), (n,))
    states = standardize(environments.observations)
    # each buffer begins with the padding that the first windows show
    seen = np.zeros((n, context - 1 + limit, states.shape[-1]), np.float32)
    acted = np.zeros((n, context - 1 + limit, action_dim), np.float32)
    returns_to_go = np.zeros((n, context - 1 + limit), np.float32)
    returns, steps = np.zeros(n), np.zeros(n, np.int64)
    active = np.ones(n, bool)
    for t in range(limit):
        at = t + context - 1
        seen[:, at], returns_to_go[:, at] = states, togo / scale
        shown = slice(at + 1 - context, at + 1)
        window = _windows(returns_to_go[:, shown], seen[:, shown], acted[:, shown], t, device)
        acted[:, at] = policy(window).detach().cpu().numpy()
        rewards, ended = environments.step(acted[:, at], active)
        returns[active] += rewards[active]
        steps[active] += 1
        togo[active] -= rewards[active]
        active = active & ~ended
        if stop_at_success:
            active = active & ~environments.success
        if not active.any():
            break
        states = standardize(environments.observations)
    return Outcomes(returns, environments.success.copy(), steps)


def acting(
    model: DecisionTransformer, prompt: PromptTokens | Windows | None = None
) -> Callable[[Windows], Tensor]:
    """The policy that takes the model's action at the last step; the model is put to ``eval()``.

    Args:
        prompt: one per episode [B].
    """
    model.eval()

    @torch.no_grad()
    def policy(windows: Windows) -> Tensor:
        actions: Tensor = model(windows, prompt)
        return actions[:, -1]

    return policy


def _windows(
    returns: Floats, states: Floats, actions: Floats, step: int, device: torch.device | str
) -> Windows:
    """Windows [B, K] whose last step is ``step``; those before step 0 are padding."""
    context = returns.shape[1]
    timesteps = np.arange(step + 1 - context, step + 1)
    real = np.broadcast_to(timesteps >= 0, returns.shape)
    shown = np.broadcast_to(timesteps.clip(min=0), returns.shape)
    arrays = (returns, states, actions, shown, real)
    return Windows(*(torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in arrays))
