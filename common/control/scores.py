"""Normalised scores: 0 for a random policy, 100 for the expert of the same data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError

# random, expert: D4RL's reference returns (Fu et al. 2020), for its own simulators (v2) alone
D4RL_RETURNS = {
    "ant": (-325.6, 3879.7),
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
}


def normalized(returns: ArrayLike, random: float, expert: float) -> NDArray[np.float64]:
    """100 (R - random) / (expert - random).

    Raises:
        ValueError: if the expert is no better than random.
    """
    if not expert > random:
        raise ValueError(f"the expert's return {expert} is not above the random one {random}")
    return 100.0 * (np.asarray(returns, np.float64) - random) / (expert - random)


def references(metadata: Mapping[str, Any]) -> tuple[float, float]:
    """The random and the expert return that a Minari data set was published with.

    Raises:
        UserError: if it has none.
    """
    try:
        return float(metadata["ref_min_score"]), float(metadata["ref_max_score"])
    except (KeyError, TypeError, ValueError) as error:
        name = metadata.get("dataset_id", "this data set")
        raise UserError(
            f"{name} has no reference returns (ref_min_score, ref_max_score); "
            "give those of its publication"
        ) from error
