"""What is compared: SeWA, other settings of its mask, rules that choose without looking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.sewa import baselines
from papers.sewa.method import Average, Problem, configured, sewa


@dataclass(frozen=True)
class Averaging(Method):
    """How snapshots become a model.

    Attributes:
        way: a problem in, an average out.
        draws: how often it is asked; what is reported is the mean over them.
        sized: the result depends on K.
        data: what the loss of the choice is taken on: the training data, others kept apart from
            it, or (an oracle) the test data.
        trajectory: the training that the snapshots are of (trajectory.TRAININGS).
        lr: rate of what is learnt, the best of the tuning (results/tuning.md).
    """

    way: Callable[[Problem], Average] = baselines.last
    draws: int = 1
    sized: bool = True
    data: Literal["train", "held", "test"] = "train"
    trajectory: str = "plain"
    lr: float = 0.3


PUBLISHED = {"noise": "gumbel", "start": "comb", "samples": 1, "iterations": 100, "lr": 1e-2}
METHODS = Methods(
    Averaging("sewa", "SeWA", "method", sewa),
    Averaging("sewa-long", "SeWA, M = 16, 2,000", "variant", sewa),
    Averaging("sewa-held", "SeWA, held-out data", "variant", sewa, data="held"),
    Averaging("sewa-mixed", "SeWA, .1 of the last", "variant", configured(mixed=0.1)),
    Averaging("sewa-online", "SeWA, online", "variant", baselines.last, trajectory="online"),
    Averaging("lawa-online", "LAWA, online", "baseline", baselines.last, trajectory="online-lawa"),
    Averaging("sewa-m1", "SeWA, M = 1", "variant", configured(samples=1)),
    Averaging("sewa-m16", "SeWA, M = 16", "variant", configured(samples=16)),
    Averaging("sewa-cold", "SeWA, τ = .5", "variant", configured(tau=0.5)),
    Averaging("sewa-warm", "SeWA, τ = 2", "variant", configured(tau=2.0)),
    Averaging("sewa-gumbel", "SeWA, one Gumbel", "ablation", configured(noise="gumbel")),
    Averaging("sewa-count", "SeWA, 1/Σm", "ablation", configured(norm="count")),
    Averaging("sewa-comb", "SeWA, a from 0", "ablation", configured(start="comb")),
    Averaging("published", "public code's mask", "ablation", configured(**PUBLISHED)),
    Averaging("last", "last iterate", "baseline", baselines.last, sized=False),
    Averaging("lawa", "LAWA", "baseline", baselines.lawa),
    Averaging("swa", "SWA (K)", "baseline", baselines.swa),
    Averaging("all", "SWA (all)", "baseline", baselines.all_of_them, sized=False),
    Averaging("ema", "EMA (1 − 1/K)", "baseline", baselines.ema),
    Averaging("ema-steps", "EMA (.999)", "baseline", baselines.ema_of_steps, sized=False),
    Averaging("random", "random K", "baseline", baselines.random, 5),
    Averaging("greedy", "greedy soup", "baseline", baselines.greedy, sized=False),
    Averaging("search", "random search", "baseline", baselines.search),
    Averaging("twa", "TWA", "baseline", baselines.twa, sized=False, lr=0.03),
    Averaging("oracle", "best on test", "reference", baselines.search, data="test"),
)  # fmt: skip

__all__ = ["METHODS", "PUBLISHED", "Averaging"]
