"""How many seeds would decide a claim that is inconclusive, at the present effect.

The seeds at hand are drawn again with replacement to n seeds (the same draw for all methods and
metrics of a task, so that pairs stay pairs), and the judge is asked. A claim is decided by n seeds
if four of five draws give a verdict other than inconclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import numpy as np
import pandas as pd

from common.claims import INCONCLUSIVE, Claim, Judgement, NoResults
from common.rows import Rows

DRAWS = 20
DECIDED = 0.8  # share of the draws that have to give a verdict
LARGEST = 64  # times the present number of seeds: beyond it the effect is as good as none


def redrawn(rows: Rows, factor: float, rng: np.random.Generator) -> Rows:
    """Rows with ``factor`` times as many seeds, drawn with replacement from those at hand.

    Groups of rows (task, method) that have the same seeds get the same draw.
    """
    draws: dict[tuple[int, ...], np.ndarray] = {}
    parts = []
    for _, group in rows.frame.groupby(["task", "method"], observed=True, sort=False):
        seeds = tuple(sorted(group["seed"].unique().tolist()))
        if seeds not in draws:
            draws[seeds] = rng.choice(seeds, max(2, round(factor * len(seeds))))
        chosen = pd.DataFrame({"seed": draws[seeds], "_new": np.arange(len(draws[seeds]))})
        merged = chosen.merge(group, on="seed")
        parts.append(merged.assign(seed=merged["_new"]).drop(columns="_new"))
    return Rows(pd.concat(parts, ignore_index=True))


def seeds_of(claim: Claim, rows: Rows) -> int:
    """Seeds that the claim's method has at present, on the task where it has fewest."""
    tasks = [t for t in rows.unique("task") if any(fnmatch(t, p) for p in claim.tasks)]
    frame = rows.of(method=claim.method, task=tasks).frame
    if frame.empty:
        return 0
    return int(frame.groupby("task", observed=True)["seed"].nunique().min())


def power(claim: Claim, rows: Rows) -> dict[str, Any] | None:
    """What would decide a claim, or None where it is decided or its rows are missing.

    Returns:
        ``{"id", "tasks", "seeds", "needed", "share"}``: seeds at present; seeds at which ``share``
        of the draws are decided (None: not with ``LARGEST`` times as many).
    """

    def verdict(sample: Rows) -> str:
        judgement: Judgement = claim.judge(sample, claim.method)
        return judgement.verdict

    try:
        if verdict(rows) != INCONCLUSIVE:
            return None
    except NoResults:
        return None
    now = seeds_of(claim, rows)
    rng = np.random.default_rng(0)
    factor, share = 1.0, 0.0
    while factor <= LARGEST:
        factor *= 1.5
        verdicts = [verdict(redrawn(rows, factor, rng)) for _ in range(DRAWS)]
        share = 1 - verdicts.count(INCONCLUSIVE) / DRAWS
        if share >= DECIDED:
            break
    needed = round(now * factor) if share >= DECIDED else None
    known = {"id": claim.id, "tasks": list(claim.tasks), "seeds": now}
    return {**known, "needed": needed, "share": share}


def power_of_all(claims: Sequence[Claim], rows: Rows) -> list[dict[str, Any]]:
    """:func:`power` of each inconclusive claim."""
    return [found for claim in claims if (found := power(claim, rows)) is not None]
