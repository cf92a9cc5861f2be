"""A trained policy, for use outside of the experiments."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError
from common.run import Run
from common.trained import seed_index
from papers.ofp.config import Config, resolve
from papers.ofp.interface import Task
from papers.ofp.method import shift_chunk, warm_start
from papers.ofp.methods import METHODS, T_W, Policy
from papers.ofp.networks import make_network
from papers.ofp.task import make_task


class Trained:
    """One seed's policy in the environment's units.

    From its second chunk on, a policy with a warm start begins at the last one; ``reset`` forgets
    it. Chunks of policies that sample are drawn anew at every call, from a generator of its own.
    """

    def __init__(self, net: nn.Module, policy: Policy, task: Task, seed: int, nfe: int) -> None:
        self._net, self._policy, self._task, self._nfe = net, policy, task, nfe
        self._observe, self._actions = task.scales(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._previous: Tensor | None = None
        self.frames, self.execute = task.obs_frames, task.execute

    def reset(self) -> None:
        """An episode begins."""
        self._previous = None

    @torch.no_grad()
    def act(self, frames: NDArray) -> NDArray:
        """The actions [h, d] to execute before the next call.

        Args:
            frames: the last T_o raw observations, [T_o, features]: positions on A, states with the
                one-hot of the task on B, clouds and states on C (see the tasks).
        """
        task = self._task
        shape = (task.obs_frames, task.obs_dim // task.obs_frames)
        if np.shape(frames) != shape:
            raise UserError(f"act takes frames of shape {shape}, not {np.shape(frames)}")
        obs = torch.from_numpy(self._observe(np.asarray(frames, dtype=np.float64))).float()
        H, d, h = task.horizon, task.action_dim, task.execute
        z = torch.randn(1, 1, H * d, generator=self._generator)
        start = 0.0
        if self._policy.warm and self._previous is not None:
            start = T_W
            z = warm_start(z, shift_chunk(self._previous, h).flatten(2), start)
        c = self._net.encode(obs[None, None])  # type: ignore[operator]
        flat = self._policy.sampler(self._net, z, c, self._nfe, start, [self._generator])
        self._previous = flat.view(1, 1, H, d)
        return np.clip(self._actions(self._previous[0, 0].numpy()), -1.0, 1.0)[:h]


def load(run_directory: str | PathLike[str], seed: int | None, nfe: int) -> Trained:
    """See ``papers.ofp.load``."""
    folder = Path(run_directory)
    run = Run.load(folder)
    final = run.final()
    if "teacher" not in final:
        raise UserError(f"{folder} holds no policy")
    cfg = resolve(run.config(Config))
    policy = METHODS[cfg.method]
    if nfe not in policy.calls:
        raise UserError(f"{policy.label} is sampled with {policy.calls} network calls, not {nfe}")
    place = seed_index(folder, cfg.seeds, seed)
    seed = cfg.seeds[place]
    task = make_task(cfg.task, (seed,))
    net = make_network(task, (seed,), **cfg.network)
    net.load_state_dict({name: x[place : place + 1] for name, x in final["teacher"].items()})
    return Trained(net.eval().requires_grad_(False), policy, task, seed, nfe)
