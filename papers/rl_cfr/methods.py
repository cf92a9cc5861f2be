"""The abstractions that are compared: how each comes about, and what it changes in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.methods import Method, Methods
from papers.rl_cfr.abstraction import FINE_SIZES

Kind = Literal["learned", "fixed", "default", "tuned", "random", "searched"]


@dataclass(frozen=True)
class Source(Method):
    """Where an abstraction comes from.

    Attributes:
        kind: learned by RL-CFR, fixed, the task's default, tuned on deals, random, or searched.
        changes: fields of ``config.Config`` that a learned one sets.
        sizes: raises of a fixed one, in pots.
        on_leduc: measured in no-limit Leduc as well (there FINE is every bet).
    """

    kind: Kind
    changes: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[float, ...] = ()
    on_leduc: bool = False


#: The repository's reward: a fixed number of iterations and the mean of the iterates' values.
ITERATES = {"iterations": 250, "value": "iterates", "tolerance": 0.0}
NO_TRUST = {"trust_from": 1.0}  # other nodes keep the default abstraction
# the networks see both ranges; below the root there are none before the tree is solved
RANGES = {"trust_from": 1.0, "with_ranges": True}
# the reward is v of the chosen tree alone
NO_BASELINE = {"no_baseline": True, "clip": 2000.0, "reward_scale": 200.0}

METHODS = Methods(
    Source("rl_cfr", "RL-CFR", "method", "learned"),
    Source("rl_cfr_t250", "RL-CFR, reward of T = 250", "variant", "learned", ITERATES),
    Source("rl_cfr_no_trust", "RL-CFR without trust", "ablation", "learned", NO_TRUST),
    Source("rl_cfr_pbs", "RL-CFR with ranges as input", "ablation", "learned", RANGES),
    Source("rl_cfr_no_baseline", "RL-CFR without baseline", "ablation", "learned", NO_BASELINE),
    Source("default", "default", "baseline", "default", on_leduc=True),
    Source("tuned_fixed", "TUNED-FIXED", "baseline", "tuned", on_leduc=True),
    Source("fine", "FINE (8 sizes)", "baseline", "fixed", sizes=FINE_SIZES, on_leduc=True),
    Source("random", "random", "baseline", "random"),
    Source("no_raise", "no raises", "baseline", "fixed", on_leduc=True),
    Source("grid_oracle", "GRID oracle", "reference", "searched"),
)
