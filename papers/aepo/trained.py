"""A trained policy: behaviour, critic and guidance of a run together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from common.control.iql import GaussianPolicy
from common.errors import UserError
from common.run import Run
from common.stacked import randn, seed_generators
from common.trained import seed_index
from papers.aepo.config import Config, Setting, resolve
from papers.aepo.method import energy_gradient, sample
from papers.aepo.methods import METHODS
from papers.aepo.prior import SCHEDULE, Generators, Prior, load_prior, prior_folder
from papers.aepo.train import make_network, temperatures


class Policy:
    """All seeds of a run.

    Attributes:
        method, setting, seeds: of the run.
        prior: behaviour, critic and data.
        scales: guidance scales (temperatures of a policy without diffusion; 1 for no guidance).

    Args:
        config: of the run.
        prior: see above.
        net: the guidance or the policy.
    """

    def __init__(self, config: Config, setting: Setting, prior: Prior, net: nn.Module) -> None:
        self.method, self.setting, self.seeds = METHODS[config.method], setting, config.seed
        self.prior, self.net = prior, net
        self.scales = setting.w
        if self.method.acts == "policy":
            factors = temperatures(self.method.learns, setting.w)
            self.scales = factors if self.method.learns == "policy" else (1.0,)
        elif self.method.acts == "behaviour":
            self.scales = (1.0,)  # the same at all of them

    def energy(self, a: Tensor, n: int, obs: Tensor) -> Tensor:
        """The intermediate energy that guides. [S, B, d], [S, B, o] -> [S, B]."""
        if self.method.acts == "noisy-q":
            return self.setting.beta * self.prior.critic(obs, a)
        if self.method.acts == "predicted-q":
            m = self.prior.mean(a, n, obs)
            return self.setting.beta * self.prior.critic(obs, self.prior.data.clipped(m))
        return self.net(a, n, obs)

    def gradient(self, a: Tensor, n: int, obs: Tensor) -> Tensor:
        """Its gradient in a_n. [S, B, d]."""
        return energy_gradient(lambda x: self.energy(x, n, obs), a)

    @torch.no_grad()
    def actions(
        self, observations: NDArray[Any], generators: Generators, candidates: int = 1
    ) -> NDArray[np.float32]:
        """Actions at every guidance scale. [S, W E, o] -> [S, W E, d].

        Rows come scale by scale; the noise of row e is the same at all scales.

        Args:
            observations: the environment's, seed by seed.
            generators: one per seed.
            candidates: samples per state, of which the one with the highest Q is taken.
        """
        prior, W = self.prior, len(self.scales)
        S, rows = observations.shape[:2]
        standardizer = prior.standardizer
        seen = observations if standardizer is None else standardizer(observations)
        device = prior.data.action.device
        obs = torch.from_numpy(np.asarray(seen, np.float32)).to(device)
        if isinstance(self.net, GaussianPolicy):
            mean = self.net(obs.view(S * W, rows // W, -1))  # [S W, E, d]
            return mean.view(S, rows, -1).cpu().numpy()
        obs = obs.repeat_interleave(candidates, 1)
        each = candidates * rows // W
        noise = randn(generators, each, prior.data.action.shape[-1]).repeat(1, W, 1)
        w = torch.tensor(self.scales, device=device).repeat_interleave(each).view(1, -1, 1)
        found = sample(
            lambda a, n: prior.behaviour.epsilon(a, n, obs),
            None if self.method.acts == "behaviour" else lambda a, n: self.gradient(a, n, obs),
            *(noise, SCHEDULE),
            **{"w": w, "steps": self.setting.solver_steps, "clip": prior.clip},
            keep_norm=self.method.keep_norm,
        )
        if candidates > 1:
            q = prior.critic(obs, found).view(S, rows, candidates)
            choice = q.argmax(-1, keepdim=True).unsqueeze(-1).expand(-1, -1, -1, found.shape[-1])
            found = found.view(S, rows, candidates, -1).gather(2, choice).squeeze(2)
        return found.cpu().numpy()


class Actor:
    """One seed of a policy at one guidance scale.

    Attributes:
        obs_dim: of an observation; 0 for bandits.

    Args:
        policy: all seeds.
        index: which of them.
        w: guidance scale; default: the first that was evaluated.
    """

    def __init__(self, policy: Policy, index: int, w: float | None) -> None:
        if w is not None and w not in policy.scales:
            raise UserError(f"the run was evaluated at w = {policy.scales}, not {w:g}")
        self._policy, self._index = policy, index
        self._place = policy.scales.index(w) if w is not None else 0
        self.obs_dim = policy.prior.data.obs.shape[-1]
        self._generators = seed_generators(policy.seeds, 14)

    def act(self, observations: ArrayLike) -> NDArray[np.float32]:
        """Sampled actions in [-1, 1]. [n, o] -> [n, d].

        Raises:
            UserError: for observations of another length.
        """
        seen = np.atleast_2d(np.asarray(observations, np.float32))
        if seen.shape[1] != self.obs_dim:
            raise UserError(f"observations are [n, {self.obs_dim}], not {list(seen.shape)}")
        W, S = len(self._policy.scales), len(self._policy.seeds)
        rows = np.broadcast_to(np.tile(seen, (W, 1)), (S, W * len(seen), seen.shape[1]))
        found = self._policy.actions(rows, self._generators)
        return found[self._index].reshape(W, len(seen), -1)[self._place]


def load_policy(run: Run, device: torch.device) -> Policy:
    """The policy of a finished run, all its seeds."""
    config = run.config(Config)
    task, setting = resolve(config)
    method = METHODS[config.method]
    folder = prior_folder(config, task, method.critic)
    prior = load_prior(folder, task, config.seed, device, method.by_norm)
    net = make_network(method.learns, prior, config.seed, setting)
    net.load_state_dict(run.final()["net"])
    return Policy(config, setting, prior, net.to(device).requires_grad_(False))


def load_actor(folder: Path, seed: int | None, w: float | None) -> Actor:
    """See :func:`papers.aepo.load`."""
    run = Run.load(folder)
    policy = load_policy(run, torch.device("cpu"))
    return Actor(policy, seed_index(folder, policy.seeds, seed), w)
