"""A learner where a run left it, one round after the other on losses of the caller's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.run import Run
from papers.uniinf.config import Config, environments
from papers.uniinf.methods import METHODS
from papers.uniinf.task import REGRET, TALLY, Bandit, Known

State = tuple[NDArray[np.float64], ...]


class Learner:
    """Chooses arms and goes on learning: ``choose``, then ``observe`` the loss of that arm.

    Rounds are played by the method's own compiled loop, one at a time, on a bandit whose losses
    are the observed one, and whose "gaps" number the arms, so that its tally tells which was
    chosen.

    Args:
        config: of the run.
        seed: one of its seeds: the actions go on drawing from its stream.
        env: the run's bandit.
        known: what the method is told.
        state: where the run ended.
    """

    def __init__(self, config: Config, seed: int, env: Bandit, known: Known, state: State) -> None:
        self._method, self._known, self._seed, self._state = (
            METHODS[config.method],
            known,
            seed,
            state,
        )
        n_arms = env.slope.shape[1]
        self._env = env._replace(
            slope=np.zeros((1, n_arms)),
            offset=np.zeros((1, n_arms)),
            starts=np.ones(1, np.int64),
            gaps=np.arange(float(n_arms))[None],
        )
        self.n_arms, self.rounds = n_arms, config.horizon

    def choose(self) -> int:
        """The arm of this round; the same until its loss is observed."""
        return self._play(tuple(part.copy() for part in self._state))

    def observe(self, loss: float) -> None:
        """Learn from the loss of the arm of this round.

        Raises:
            UserError: for a loss that is not a finite number.
        """
        if not np.isfinite(loss):
            raise UserError(f"a loss must be a finite number, not {loss}")
        self._env.offset[:] = loss
        self._play(self._state)
        self.rounds += 1

    def _play(self, state: State) -> int:
        tally = np.zeros(len(TALLY))
        t = self.rounds
        self._method.simulate(self._env, self._known, self._seed, t, t + 1, state, tally)
        return int(tally[REGRET])


def load_learner(folder: Path, seed: int | None, alpha: float | None) -> Learner:
    """See :func:`papers.uniinf.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    for name, wanted, there in (("seeds", seed, config.seed), ("alphas", alpha, config.alpha)):
        if wanted is not None and wanted not in there:
            raise UserError(f"the run in {folder} has the {name} {there}, not {wanted}")
    s = 0 if seed is None else config.seed.index(seed)
    a = 0 if alpha is None else config.alpha.index(alpha)
    envs, _, told = environments(config)
    state = tuple(run.final()["states"][a * len(config.seed) + s])
    return Learner(config, config.seed[s], envs[a], told[a], state)
