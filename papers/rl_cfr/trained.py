"""A learned (or fixed, tuned, random) action abstraction, for states of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.run import Run
from papers.rl_cfr import leduc
from papers.rl_cfr.abstraction import Abstraction
from papers.rl_cfr.config import Config, resolve
from papers.rl_cfr.eval import legal_sizes, policy_of
from papers.rl_cfr.mdp import Belief, uniform_ranges
from papers.rl_cfr.methods import METHODS
from papers.rl_cfr.task import first_state


class Chooser:
    """Chooses the raises that a solver should consider.

    Args:
        policy: the abstraction.
        config: of the run.
    """

    def __init__(self, policy: Abstraction, config: Config) -> None:
        self.policy, self.config = policy, config

    def choose(self, live: Sequence[int], stack: float) -> list[float]:
        """Raises in pots, beside fold, call and all-in, at the root of a hand of PREFLOP43.

        Args:
            live: the nine cards of the deck that are not face up, 0 to 51.
            stack: big blinds.

        Raises:
            UserError: if these are not nine different cards, or the stack is below the big blind.
        """
        cards = np.array(sorted(set(live)), dtype=np.int64)
        if len(cards) != 9 or cards.min() < 0 or cards.max() > 51 or stack <= 1.0:
            raise UserError("a hand takes nine different cards of 0 to 51 and a stack above 1 BB")
        return legal_sizes(self.policy, Belief(first_state(cards, stack), uniform_ranges()))


def load_chooser(folder: Path, seed: int | None = None) -> Chooser:
    """See :func:`papers.rl_cfr.load`."""
    run = Run.load(folder)
    config = resolve(run.config(Config))
    if seed is not None and seed != config.seed:
        raise UserError(f"the run in {folder} has the seed {config.seed}, not {seed}")
    if config.task in leduc.TASKS or METHODS[config.method].kind == "searched":
        raise UserError("load knows what was learned or fixed for preflop43")
    return Chooser(policy_of(config, run.final()), config)
