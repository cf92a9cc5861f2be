"""Windows of (return-to-go, state, action) for decision transformers, and prompts.

A window of K steps begins at a step of an episode and ends K steps later or at the end of the
episode, whichever comes first; what is missing is padded on the left and told by ``real``. So no
window holds steps of two episodes. Decision transformers (Chen et al. 2021) draw the episode with
probability proportional to its length and the first step uniformly: every step is as likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.control.trajectories import Trajectories
from common.control.windows import Standardizer

Where = Literal["random", "end"]


@dataclass(frozen=True)
class Windows:
    """B windows of K steps; padding is zeros, on the left."""

    returns: Tensor  # [B, K] return-to-go over the task's scale
    states: Tensor  # [B, K, s]
    actions: Tensor  # [B, K, a]
    timesteps: Tensor  # [B, K] int64, steps since the beginning of the episode
    real: Tensor  # [B, K] bool, False where it is padding


@dataclass(frozen=True)
class SequenceData:
    """The steps of one task on a device, standardised and scaled, episode after episode."""

    returns: Tensor  # [N]
    states: Tensor  # [N, s]
    actions: Tensor  # [N, a]
    timesteps: Tensor  # [N] int64
    ends: Tensor  # [N] int64, index after the last step of the episode
    starts: Tensor  # [E] int64, on the CPU


def sequence_data(
    trajectories: Trajectories,
    *,
    return_scale: float,
    standardizer: Standardizer | None = None,
    device: torch.device | str = "cpu",
) -> SequenceData:
    """Put trajectories on a device.

    Args:
        return_scale: of the task; the return-to-go (undiscounted) is divided by it.
        standardizer: of the states; without it they stay as they are.
    """
    states = trajectories.observations
    if standardizer is not None:
        states = standardizer(states)
    returns = (trajectories.returns_to_go() / return_scale).astype(np.float32)
    return SequenceData(
        torch.from_numpy(returns).to(device),
        torch.from_numpy(states).to(device),
        torch.from_numpy(trajectories.actions).to(device),
        torch.from_numpy(trajectories.timesteps).to(device),
        torch.from_numpy(trajectories.ends).to(device),
        torch.from_numpy(trajectories.starts[:-1]),
    )


def windows_at(data: SequenceData, first: Tensor, length: int) -> Windows:
    """The windows of ``length`` steps that begin at the flat indices ``first`` [B]."""
    first = first.to(data.ends.device)
    end = torch.minimum(first + length, data.ends[first])  # [B]
    index = end.unsqueeze(1) - length + torch.arange(length, device=first.device)  # [B, K]
    real = index >= first.unsqueeze(1)
    index = index.clamp(min=0)
    return Windows(
        data.returns[index] * real,
        data.states[index] * real.unsqueeze(-1),
        data.actions[index] * real.unsqueeze(-1),
        data.timesteps[index] * real,
        real,
    )


def random_windows(
    data: SequenceData, generator: torch.Generator, batch: int, length: int
) -> Windows:
    """``batch`` windows, each beginning at a step drawn uniformly, with replacement.

    Args:
        generator: on the CPU, whatever the device of the data.
    """
    first = torch.randint(len(data.ends), (batch,), generator=generator)
    return windows_at(data, first, length)


def prompts(
    data: SequenceData,
    generator: torch.Generator,
    batch: int,
    length: int,
    where: Where = "random",
) -> Windows:
    """Segments of ``length`` steps of demonstrations, to be put before a window (Prompt-DT).

    The episode is drawn uniformly. "random": a segment that lies wholly within it, each as likely;
    "end": its last steps. A shorter episode is taken whole and padded.

    Args:
        data: the demonstrations.
        generator: on the CPU.
    """
    episode = torch.randint(len(data.starts), (batch,), generator=generator)
    begin = data.starts[episode]
    last = (data.ends[begin.to(data.ends.device)].to(begin.device) - length).clamp(min=begin)
    if where == "end":
        return windows_at(data, last, length)
    share = torch.rand(batch, generator=generator, dtype=torch.float64)
    first = begin + (share * (last - begin + 1)).long()
    return windows_at(data, first, length)


def concatenated(parts: Sequence[Windows]) -> Windows:
    """One batch of several, in their order; they have the same length."""
    names = [field.name for field in fields(Windows)]
    return Windows(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def action_loss(predicted: Tensor, windows: Windows) -> Tensor:
    """Mean of (a - a^)^2 over real steps and action dimensions.

    Args:
        predicted: [B, K, a].
    """
    error = (predicted - windows.actions).square().mean(-1)  # [B, K]
    return (error * windows.real).sum() / windows.real.sum()
