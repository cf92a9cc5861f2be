"""DeepMind Control from pixels: environments, frames in a buffer, shifted images, the encoder."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import choose

#: task -> (domain, task of the suite, action repeat): the repeats of PlaNet's benchmark
TASKS = {
    "pixels-cartpole_swingup": ("cartpole", "swingup", 8),
    "pixels-cheetah_run": ("cheetah", "run", 4),
    "pixels-finger_spin": ("finger", "spin", 2),
    "pixels-reacher_easy": ("reacher", "easy", 4),
    "pixels-walker_walk": ("walker", "walk", 2),
}
CHANNELS, STACK, LENGTH = 3, 3, 1_000  # colours, frames of an observation, steps of an episode


class PixelEnvironment(Protocol):
    """One episode."""

    action_dim: int
    length: int  # steps of the agent in an episode, which never terminates

    def reset(self) -> NDArray[np.uint8]:
        """First frame. [3, size, size]."""

    def step(self, action: NDArray) -> tuple[NDArray[np.uint8], float]:
        """Next frame and the reward, summed over the repeats; actions lie in (-1, 1)."""


class Suite:
    """A task of dm_control's suite, rendered.

    Args:
        task: name of ``TASKS``.
        seed: of the episode.
        size: pixels of a side.
    """

    def __init__(self, task: str, seed: int, size: int) -> None:
        if sys.platform == "linux":  # off-screen, unless the user has chosen something else
            os.environ.setdefault("MUJOCO_GL", "egl")
        from dm_control import suite

        domain, name, self.repeat = TASKS[task]
        self.env: Any = suite.load(domain, name, task_kwargs={"random": seed})
        self.size, self.length = size, LENGTH // self.repeat
        self.action_dim = int(self.env.action_spec().shape[0])

    def _frame(self) -> NDArray[np.uint8]:
        image = self.env.physics.render(self.size, self.size, camera_id=0)
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def reset(self) -> NDArray[np.uint8]:
        self.env.reset()
        return self._frame()

    def step(self, action: NDArray) -> tuple[NDArray[np.uint8], float]:
        paid = sum(float(self.env.step(action).reward or 0.0) for _ in range(self.repeat))
        return self._frame(), paid


def make(task: str, seed: int, size: int) -> PixelEnvironment:
    """One episode of a task: a checkpoint between episodes has no simulator to keep.

    Raises:
        UserError: for an unknown task.
    """
    choose("task", task, TASKS)
    return Suite(task, seed, size)


# -- the buffer -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelBatch:
    """Transitions of one seed."""

    obs: Tensor  # [B, 9, size, size], uint8
    action: Tensor  # [B, A]
    reward: Tensor  # [B]
    next_obs: Tensor  # [B, 9, size, size], uint8


class FrameBuffer:
    """The last frames, each stored once; an observation is made of the last three of an episode.

    Frame k comes with the action taken in it; an episode's last frame has none.

    Args:
        capacity: frames.
        action_dim: of actions.
        size: pixels of a side.
        device: where frames lie.
    """

    def __init__(
        self, capacity: int, action_dim: int, size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.capacity, self.count = capacity, 0  # count: frames that ever came
        frames = (capacity, CHANNELS, size, size)
        self.frames = torch.zeros(frames, dtype=torch.uint8, device=device)
        self.action = torch.zeros(capacity, action_dim, device=device)
        self.reward = torch.zeros(capacity, device=device)
        self.first = torch.zeros(capacity, dtype=torch.int64, device=device)  # of its episode
        self.acted = torch.zeros(capacity, dtype=torch.bool, device=device)

    def begin(self, frame: NDArray[np.uint8]) -> None:
        """The first frame of an episode."""
        self._put(frame, self.count)

    def add(self, action: Tensor, reward: float, frame: NDArray[np.uint8]) -> None:
        """What was done in the last frame, what it paid, and the next frame."""
        last = (self.count - 1) % self.capacity
        self.action[last], self.reward[last], self.acted[last] = action, reward, True
        self._put(frame, int(self.first[last]))

    def _put(self, frame: NDArray[np.uint8], first: int) -> None:
        at = self.count % self.capacity
        self.frames[at] = torch.from_numpy(frame).to(self.frames.device)
        self.first[at], self.acted[at] = first, False
        self.count += 1

    def latest(self) -> Tensor:
        """The newest observation. [1, 9, size, size]."""
        return self._stacked(torch.tensor([self.count - 1], device=self.first.device))

    def _stacked(self, k: Tensor) -> Tensor:
        """Frames k - 2, k - 1, k, the first of the episode repeated. [B, 9, size, size]."""
        first = self.first[k % self.capacity]
        back = torch.arange(STACK - 1, -1, -1, device=k.device)
        index = torch.maximum(k[:, None] - back, first[:, None]) % self.capacity
        return self.frames[index].flatten(1, 2)

    def sample(self, generator: torch.Generator, batch: int, share: float = 1.0) -> PixelBatch:
        """Transitions with replacement, from the oldest ``share`` of what is stored.

        Where an episode's last frame is drawn, the one before it is taken.
        """
        oldest = max(0, self.count - self.capacity + STACK)  # their stacks are whole
        n = max(1, int(share * (self.count - 1 - oldest)))
        device = self.first.device
        k = oldest + torch.randint(n, (batch,), generator=generator, device=device)
        k = torch.where(self.acted[k % self.capacity], k, (k - 1).clamp(min=oldest))
        at = k % self.capacity
        return PixelBatch(self._stacked(k), self.action[at], self.reward[at], self._stacked(k + 1))

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the filled part."""
        n = min(self.count, self.capacity)
        names = ("frames", "action", "reward", "first", "acted")
        return {"count": self.count, **{k: getattr(self, k)[:n].clone() for k in names}}

    def load(self, state: Mapping[str, Any]) -> None:
        """What ``state`` gave."""
        self.count = int(state["count"])
        for name in ("frames", "action", "reward", "first", "acted"):
            getattr(self, name)[: len(state[name])] = state[name]


# -- images and the encoder -------------------------------------------------------------------


def shifted(obs: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Each image moved by up to ``pad`` pixels, its border repeated. [B, C, size, size]."""
    B, C, size, _ = obs.shape
    moves = torch.randint(2 * pad + 1, (2, B, 1), generator=generator, device=obs.device) - pad
    rows, columns = (torch.arange(size, device=obs.device) + moves).clamp(0, size - 1)  # [B, size]
    images = torch.arange(B, device=obs.device)[:, None, None, None]
    channels = torch.arange(C, device=obs.device)[None, :, None, None]
    return obs[images, channels, rows[:, None, :, None], columns[:, None, None, :]]


class Convolutions(nn.Module):
    """DrQ's four layers of 32 channels. [B, 9, size, size] uint8 -> [B, features]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = [CHANNELS * STACK, 32, 32, 32, 32]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2 if i == 0 else 1)
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )
        for layer in self.layers:
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
        self.features = 32 * ((size - 3) // 2 + 1 - 6) ** 2

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.float() / 255
        for layer in self.layers:
            x = F.relu(layer(x))
        return x.flatten(1)


class Projection(nn.Module):
    """tanh(layer norm(linear)) of the convolutions' features. [B, features] -> [B, 50]."""

    def __init__(self, features: int, width: int = 50) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(features, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.linear(x)))
