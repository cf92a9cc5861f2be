"""What a run has learnt, to be used: a policy of the state and of the reward so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.run import Run
from papers.rs_disrl.augmented import Policy, law
from papers.rs_disrl.config import Config
from papers.rs_disrl.method import sample
from papers.rs_disrl.methods import METHODS
from papers.rs_disrl.risk import Array, Risk, grid, make_risk, rho
from papers.rs_disrl.task import Problem, make_problem


@dataclass(frozen=True)
class Trained:
    """A policy, and the Markov decision process that it was learnt on."""

    problem: Problem  # the truth and its sizes
    risk: Risk  # what it was learnt for
    policy: Policy  # [H, S, Y]

    def act(self, step: int, state: int, so_far: float) -> int:
        """The action at a step (from 0) in a state, with the reward so far of the episode.

        Raises:
            UserError: if there is no such step, state or sum of rewards.
        """
        size = self.problem.size
        y = round(so_far * size.m)
        if not (0 <= step < size.H and 0 <= state < size.S and 0 <= y <= step * size.m):
            raise UserError(
                f"act takes a step below {size.H}, a state below {size.S} and the reward so far, "
                f"at most the number of the step"
            )
        return int(self.policy[step, state, y])

    def law(self) -> tuple[Array, Array]:
        """The returns that there are [Y] and their probabilities [Y], exactly."""
        size = self.problem.size
        return grid(size.H, size.m), law(self.problem.truth, self.policy, self.problem.start)

    def value(self) -> float:
        """The risk measure of the return, exactly."""
        return float(rho(self.law()[1], self.risk))

    def play(self, seed: int = 0) -> dict[str, Any]:
        """An episode: states [H + 1], actions [H], rewards [H]."""
        size, rng = self.problem.size, np.random.default_rng(seed)
        states, actions, rewards = [self.problem.start], [], []
        for h in range(size.H):
            actions.append(self.act(h, states[-1], sum(rewards)))
            s, r = sample(self.problem.truth[h, states[-1], actions[-1]], rng.random())
            states.append(int(s))
            rewards.append(r / size.m)
        return {"s": states, "a": actions, "r": rewards}


def load(folder: Path, seed: int, risk: str | None) -> Trained:
    """What a finished run plays in the end; see :func:`papers.rs_disrl.load`."""
    run = Run.load(folder)
    cfg, final = run.config(Config), run.final()
    risk = final["risks"][0] if risk is None else risk
    for name, wanted, there in (("seed", seed, final["seeds"]), ("risk", risk, final["risks"])):
        if wanted not in there:
            raise UserError(f"the run has {name} = {', '.join(map(str, there))}, not {wanted}")
    cell = final["risks"].index(risk) * len(final["seeds"]) + final["seeds"].index(seed)
    if (policy := final["policies"][cell]) is None:
        raise UserError(f"{METHODS[cfg.method].label} actions are no policy to load")
    problem = make_problem(cfg.task, risk, seed)
    return Trained(problem, make_risk(risk, problem.size.H, problem.size.m), np.asarray(policy))
