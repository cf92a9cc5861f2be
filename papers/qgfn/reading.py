"""What claims and tables read from the rows of a sweep over p."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.rows import NoResults, Rows
from papers.qgfn.methods import METHODS

FINAL = ("reward", "distance")  # of the final models, and along a sweep


def own_sweep(rows: Rows, method: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """p [P] and values [n_seeds, P] of a pair sampled with the mixture that it was trained with."""
    mixture = METHODS[method].mixture
    swept = rows.of(method=method, metric=f"sweep_{metric}")
    return swept.of(mixture=mixture).curve(least=2)


@dataclass(frozen=True)
class Matched:
    """A mixture at a rival's mean reward, per seed.

    Attributes:
        ours: distance, linear in R between the two p of the sweep that enclose the reward; that
            of the greediest policy where none reaches it.
        before: distance at the last p below that reward: more than ours can be.
        theirs: the rival's distance.
        reached: whether some p reaches the reward.
    """

    ours: np.ndarray
    before: np.ndarray
    theirs: np.ndarray
    reached: np.ndarray


def matched(rows: Rows, method: str, rival: str) -> Matched:
    """The judged mixture's sweep at the rival's mean reward, seed by seed, on one task."""
    own = rows.of(method=method, mixture=METHODS[method].mixture)
    other = rows.of(method=rival)
    own_sweep(rows, method, "reward")
    seeds = [s for s in own.unique("seed") if other.of(seed=s, metric="final_reward")]
    if len(seeds) < 2:
        raise NoResults(f"fewer than two seeds that {method} and {rival} share")
    lines = []
    for seed in seeds:
        reward, distance = (
            own.of(seed=seed, metric=f"sweep_{name}").curve()[1][0]
            for name in ("reward", "distance")
        )
        target = other.of(seed=seed, metric="final_reward").value()
        theirs = other.of(seed=seed, metric="final_distance").value()
        at = int(np.argmax(reward >= target))  # the first that reaches it
        reached = bool(reward[at] >= target)
        if not reached:
            lines.append((distance[-1], distance[-1], theirs, False))
        elif at == 0:
            lines.append((distance[0], distance[0], theirs, True))
        else:
            pair = slice(at - 1, at + 1)
            ours = float(np.interp(target, reward[pair], distance[pair]))
            lines.append((ours, distance[at - 1], theirs, True))
    ours, before, theirs, reached_all = (np.array(column) for column in zip(*lines, strict=True))
    return Matched(ours, before, theirs, reached_all)


def with_single_points(rows: Rows) -> Rows:
    """The sweeps with each pair's own mixture, and the final models of the others as one point."""
    frame = rows.frame
    if "mixture" not in frame:
        return Rows(frame.iloc[:0])
    own = {name: METHODS[name].mixture for name in frame["method"].unique()}
    sweeps = frame[frame["mixture"] == frame["method"].astype(str).map(own)]
    pairs = sweeps["method"].unique()
    points = frame[frame["metric"].isin([f"final_{n}" for n in FINAL])]
    points = points[~points["method"].isin(pairs)].assign(step=0.0)
    points["metric"] = points["metric"].astype(str).str.replace("final_", "sweep_")
    return Rows(pd.concat([sweeps.astype({"metric": str}), points]))
