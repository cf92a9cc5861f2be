"""A trained network, for use outside of the experiments: one seed of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from common import files
from common.errors import UserError
from common.marl.environments import make_env
from common.marl.targets import masked
from common.run import Run
from common.trained import seed_index
from papers.dfac.config import Config, GameConfig, battle_learning, battle_sizes
from papers.dfac.learner import Learner, Net
from papers.dfac.method import QuantileNet, midpoints
from papers.dfac.methods import METHODS
from papers.dfac.networks import Sizes
from papers.dfac.task import BATTLES, RANDOM, battle_task, game_task
from papers.dfac.train_games import game_sizes, make_learner

LEVELS = 32


class Policy:
    """One seed of a run: agents that remember what they have seen since ``reset``.

    Attributes:
        method: its name.
        n_agents, obs_dim, n_actions: n, O, A.
    """

    def __init__(
        self, method: str, net: Net, sizes: Sizes, index: int, *, last_action: bool
    ) -> None:
        self.method, self.n_agents, self.n_actions = method, sizes.n_agents, sizes.n_actions
        self.obs_dim = sizes.n_in - sizes.n_agents - sizes.n_actions * last_action
        self._net, self._index, self._last = net, index, last_action
        self._seeds = net.trunk.encoder.weight.shape[0]
        self.reset()

    def reset(self) -> None:
        """Forget: an episode begins."""
        self._h: Tensor | None = None
        self._actions: Tensor | None = None

    @torch.no_grad()
    def act(
        self, obs: ArrayLike, avail: ArrayLike | None = None, *, cvar: float = 1.0
    ) -> NDArray[np.int64]:
        """Each agent's best action by its own utility. [n, O] -> [n], [E, n, O] -> [E, n].

        Args:
            obs: observations of the moment (one episode, or E side by side).
            avail: which actions are available, [n, A] or [E, n, A]; default: all.
            cvar: agents maximise the mean of the lower ``cvar`` of their quantiles: 1 is the
                expectation, smaller is more averse to risk. For DDN that is the joint action of
                the largest CVaR, for others it need not be.

        Raises:
            UserError: for observations of another shape, or a CVaR of a method without a law.
        """
        given = np.asarray(obs, np.float32)
        if given.ndim not in (2, 3) or given.shape[-2:] != (self.n_agents, self.obs_dim):
            expected = f"{self.n_agents} agents x {self.obs_dim} numbers"
            raise UserError(f"observations are {expected}, not {given.shape}")
        if not 0 < cvar <= 1:
            raise UserError(f"the CVaR's share must be in (0, 1], not {cvar}")
        if cvar < 1 and METHODS[self.method].law == "scalar":
            raise UserError(f"{METHODS.label(self.method)} has no law whose CVaR could be taken")
        features = self._see(given.reshape(-1, self.n_agents, self.obs_dim))
        omega = midpoints(LEVELS, high=cvar).expand(*features.shape[:3], 1, LEVELS)
        exact = cvar == 1 and not isinstance(self._net, QuantileNet)
        q = self._net.means(features, None if exact else omega)[self._index, :, 0]  # [E, n, A]
        allowed = torch.ones_like(q, dtype=torch.bool)
        if avail is not None:
            allowed = torch.from_numpy(np.asarray(avail, bool).reshape(q.shape))
        self._actions = masked(q, allowed).argmax(-1)
        return np.asarray(self._actions.numpy().reshape(given.shape[:-1]))

    def _see(self, obs: NDArray[np.float32]) -> Tensor:
        """Hidden states after one more moment. [E, n, O] -> [S, E, 1, n, H]."""
        E, n, A = len(obs), self.n_agents, self.n_actions
        parts = [torch.from_numpy(obs)]
        if self._last:
            before = torch.zeros(E, n, A)
            if self._actions is not None:
                before.scatter_(-1, self._actions[..., None], 1.0)
            parts.append(before)
        inputs = torch.cat([*parts, torch.eye(n).expand(E, n, n)], -1).reshape(1, E * n, -1)
        if self._h is None:
            self._h = self._net.trunk.initial(E * n)
        if self._h.shape[1] != E * n:
            raise UserError(f"{E} episodes are seen, {self._h.shape[1] // n} before; reset first")
        self._h = self._net.trunk.step(inputs.expand(self._seeds, -1, -1), self._h)
        return self._h.view(self._seeds, E, 1, n, -1)


def load(folder: Path, seed: int | None = None) -> Policy:
    """See :func:`papers.dfac.load`."""
    run = Run.load(folder)
    task = files.read_json(folder / "config.json")["task"]
    if task in BATTLES:
        battle = run.config(Config)
        env = make_env(battle_task(task).env, 1)
        sizes = battle_sizes(battle, env)
        seeds: tuple[int, ...] = (battle.seed,)
        learner = Learner(battle.method, battle_learning(battle), sizes, seeds, torch.device("cpu"))
    else:
        game = run.config(GameConfig)
        if task == RANDOM or not METHODS[game.method].trained:
            raise UserError(f"nothing was learnt in {folder}")
        seeds, sizes = game.seed, game_sizes(game, game_task(task))
        learner = make_learner(game, torch.device("cpu"))
    index = seed_index(folder, seeds, seed)
    learner.load(run.final()["learner"])
    method = METHODS[files.read_json(folder / "config.json")["method"]].name
    return Policy(method, learner.net, sizes, index, last_action=task in BATTLES)
