"""A trained team, for use outside of the experiments."""

from __future__ import annotations

from pathlib import Path

import torch

from common.marl.protocol import BatchEnv, Ints, Seen
from common.marl.recurrent import Acting
from common.marl.targets import NEVER
from common.run import Run
from common.trained import seed_index
from papers.mast.config import Config
from papers.mast.eval import built
from papers.mast.networks import Values
from papers.mast.task import make


class Team:
    """Greedy agents with their memory.

    Attributes:
        config: of the run.
    """

    def __init__(self, values: Values, config: Config) -> None:
        self.config, self._values = config, values
        self._acting: Acting | None = None

    def environment(self, n_envs: int) -> BatchEnv:
        """Environments of the run's task."""
        return make(self.config.task, n_envs)

    def begin(self, n_envs: int) -> None:
        """Begin so many episodes: memories are empty."""
        self._acting = Acting(self._values.agents, n_envs, self._values.n_actions)

    def act(self, seen: Seen) -> Ints:
        """The best available action of every agent. [E, N].

        The first call, and one with another number of environments, begins new episodes.
        """
        if self._acting is None or self._acting.n_envs != len(seen.obs):
            self.begin(len(seen.obs))
        assert self._acting is not None
        values = self._acting.values(seen)
        values[~seen.avail] = NEVER
        actions = values.argmax(-1)
        self._acting.acted(actions)
        return actions


def load(folder: Path, seed: int | None = None) -> Team:
    """See :func:`papers.mast.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    seed_index(folder, [config.seed], seed)
    values, _, _ = built(config, make(config.task, 1), torch.device("cpu"))
    for module, state in zip(values, run.final()["values"], strict=True):
        module.load_state_dict(state)
    return Team(values[0], config)
