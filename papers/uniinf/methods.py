"""The table of methods: what plays, and what it is told about the tails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.methods import Method, Methods
from papers.uniinf import baselines, method
from papers.uniinf.method import Vector


@dataclass(frozen=True)
class Player(Method):
    """A method as it is run.

    Attributes:
        simulate: plays rounds (see :func:`papers.uniinf.method.simulate`).
        new_state: number of arms -> its state before the first round.
        sigma_factor: told sigma / true sigma.
        alpha: told alpha; None: the true one.
        inverse_rate: state -> the inverse learning rate S, of a method that adapts it.
    """

    simulate: Callable[..., None]
    new_state: Callable[[int], tuple[Vector, ...]]
    sigma_factor: float = 1.0
    alpha: float | None = None
    inverse_rate: Callable[[tuple[Vector, ...]], float] | None = None

    @property
    def mistold(self) -> bool:
        """Whether it is told a wrong value (E5)."""
        return self.sigma_factor != 1.0 or self.alpha is not None


HTINF = (baselines.htinf_simulate, baselines.htinf_state)
ROBUST = (baselines.robust_ucb_simulate, baselines.robust_ucb_state)
HALF = baselines.htinf_state  # of all that use the 1/2-Tsallis entropy at a rate of their own

METHODS: Methods[Player] = Methods(
    Player(
        "uniinf",
        "uniINF",
        "method",
        method.simulate,
        method.new_state,
        inverse_rate=lambda state: float(state[1][0]),
    ),
    Player("htinf", "HTINF", "reference", *HTINF),
    Player("opttinf", "OptTINF", "baseline", baselines.opttinf_simulate, HALF),
    Player("adatinf", "AdaTINF", "baseline", baselines.adatinf_simulate, baselines.adatinf_state),
    Player("robust_ucb", "Robust-UCB", "reference", *ROBUST),
    Player("tsallis_inf", "Tsallis-INF", "baseline", baselines.tsallis_inf_simulate, HALF),
    Player("ucb1", "UCB1", "baseline", baselines.ucb1_simulate, baselines.ucb1_state),
    # E5: HTINF that is told one wrong value
    Player("htinf_low", "HTINF (σ/10)", "baseline", *HTINF, sigma_factor=0.1),
    Player("htinf_high", "HTINF (10σ)", "baseline", *HTINF, sigma_factor=10.0),
    Player("htinf_alpha2", "HTINF (α=2)", "baseline", *HTINF, alpha=2.0),
)
