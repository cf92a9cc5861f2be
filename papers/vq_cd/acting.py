"""A trained planner in episodes: plans from the current latents, and acts by inverse dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.control.decision_rollout import Environments
from common.run import Run
from common.stacked import randn, seed_generators
from papers.vq_cd.config import Config
from papers.vq_cd.learning import (
    Shares,
    World,
    identity,
    make_inverses,
    make_masks,
    make_net,
    make_world,
    own_names,
    run_with,
)
from papers.vq_cd.method import Weights, condition, plan, schedule
from papers.vq_cd.methods import METHODS

ACTING = 9  # stream of random numbers
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Learned:
    """What a run has learned: a denoiser's structure, its parameters by task, inverse dynamics."""

    world: World
    net: nn.Module
    inverses: nn.ModuleList
    shares: Shares


def load_learned(run: Run, device: torch.device) -> Learned:
    """All seeds of a finished run."""
    cfg, final = run.config(Config), run.final()
    world = make_world(cfg, device)
    net, inverses = make_net(cfg, world.sizes), make_inverses(cfg, world.sizes)
    inverses.load_state_dict(final["inverses"])
    masks: list[dict[str, Tensor]] = []
    if METHODS[cfg.method].masks == "disjoint":
        masks = [{n: m.to(device) for n, m in ms.items()} for ms in make_masks(cfg, net)]

    def on_device(weights: Weights) -> dict[str, Tensor]:
        return {name: w.to(device) for name, w in weights.items()}

    snapshots = [on_device(s) for s in final["snapshots"]]
    owner, own = on_device(final["owner"]), own_names(cfg, net)
    frozen = inverses.to(device).requires_grad_(False)
    return Learned(
        world,
        net.to(device).requires_grad_(False),
        frozen,
        Shares(cfg, masks, owner, own, snapshots),
    )


class Planning:
    """The policy on one task with given parameters of the denoiser.

    Attributes:
        calls: of the denoiser so far.

    Args:
        learned: a run's.
        task: its number in the sequence.
        weights: of the denoiser, by name.
        target: return that it is conditioned on; default: the run's.
        steps: of DDIM; default: the run's.
    """

    def __init__(
        self,
        learned: Learned,
        task: int,
        weights: Weights,
        *,
        target: float | None = None,
        steps: int | None = None,
    ) -> None:
        cfg = self.cfg = learned.world.cfg
        self.task, self._learned = learned.world.tasks[task], learned
        self._target = cfg.target if target is None else target
        self._steps = cfg.acting_steps if steps is None else steps
        self._schedule = schedule(cfg.diffusion_steps)
        self._device = self.task.states.device
        self._drawing = seed_generators(cfg.seed, 100 * ACTING + task, self._device)
        self._denoise = run_with(learned.net, weights)
        self.calls = 0

    @torch.no_grad()
    def __call__(self, observations: Floats) -> Floats:
        """Actions in [-1, 1]. [S, E, d_s] -> [S, E, d_a]

        Raises:
            ValueError: for another task's observations.
        """
        cfg, task, (c, _) = self.cfg, self.task, self._learned.world.sizes
        seen = torch.from_numpy(task.arrays.standardizer(observations)).to(self._device)
        z = task.spaces[0].encode(seen)
        rows = torch.full(z.shape[:2], self._target, device=self._device)
        kept, named = torch.ones_like(rows), identity(cfg, task.number, rows)
        channels = sum(self._learned.world.sizes) if METHODS[cfg.method].diffuses_actions else c
        noise = randn(self._drawing, z.shape[1], cfg.horizon, channels)
        found = plan(
            self._counted,
            *(z, noise, condition(rows, kept, named), condition(rows, 0 * kept, named)),
            self._schedule,
            steps=self._steps,
            omega=cfg.omega,
            clip=task.clip,
        )
        if METHODS[cfg.method].diffuses_actions:
            latents = found[:, :, 0, c:]
        else:
            inverse = self._learned.inverses[task.number]
            latents = inverse(torch.cat((z, found[:, :, 1]), -1))
        return task.spaces[1].decode(latents).clamp(-1, 1).cpu().numpy()

    def _counted(self, x: Tensor, n: Any, given: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = self._denoise(x, n, given)
        return found


def rollout(
    batch: Environments, policy: Any, lanes: int, limit: int, *, stop_at_success: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns and successes of all episodes. [lanes, E] each

    The policy always gets all rows; those of episodes that are over are stale and ignored, so that
    no episode's course depends on when another one ends.

    Args:
        batch: of lanes * E episodes, lane by lane.
        policy: observations [lanes, E, o] -> actions [lanes, E, a].
        lanes: seeds.
        limit: steps of an episode.
        stop_at_success: whether an episode is over once its goal is reached.
    """
    n = len(batch.observations)
    returns, active = np.zeros(n), np.ones(n, bool)
    for _ in range(limit):
        seen = batch.observations.reshape(lanes, n // lanes, -1)
        rewards, ended = batch.step(policy(seen).reshape(n, -1), active)
        returns[active] += rewards[active]
        active &= ~ended
        if stop_at_success:
            active &= ~batch.success
        if not active.any():
            break
    return returns.reshape(lanes, -1), batch.success.reshape(lanes, -1).copy()
