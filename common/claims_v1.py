"""Claims: statements of a paper as functions of the results that return a verdict.

Verdicts: ``reproduced``, ``contradicted``, ``inconclusive`` (the interval straddles the
threshold), ``needs <scale>``. A claim that does not hold stays, with its evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from common import files
from common.claims import CONTRADICTED as CONTRADICTED
from common.claims import INCONCLUSIVE as INCONCLUSIVE
from common.claims import NOT_JUDGED, plain
from common.claims import REPRODUCED as REPRODUCED
from common.claims import Judgement as Judgement
from common.claims import NoResults as NoResults
from common.claims import by_interval as by_interval
from common.claims import compare as compare
from common.claims import not_worse as not_worse
from common.cli import run_cli
from common.stats import mean_ci

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and how it is judged.

    Attributes:
        id: short name, as in the paper's notes.
        statement: what is claimed, in a sentence.
        source: where the paper says it.
        paper: the paper's number or rate.
        scales: the scales whose results can decide it.
        judge: rows -> :class:`Judgement`; raises :class:`NoResults`.
    """

    id: str
    statement: str
    source: str
    paper: str
    scales: tuple[str, ...]
    judge: Callable[[pd.DataFrame], Judgement]

    def judged(self, rows: pd.DataFrame) -> Judgement:
        """The judgement; inconclusive, with what is missing, where rows are."""
        try:
            return self.judge(rows)
        except NoResults as missing:
            return Judgement(INCONCLUSIVE, str(missing))


@dataclass(frozen=True)
class Table:
    """A table of the README: strings and numbers, row by row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def all_of(parts: Mapping[str, Judgement]) -> Judgement:
    """A claim with several required parts: it holds if all do, and fails if one does."""
    verdicts = [part.verdict for part in parts.values()]
    if all(v == REPRODUCED for v in verdicts):
        verdict = REPRODUCED
    elif CONTRADICTED in verdicts:
        verdict = CONTRADICTED
    else:
        verdict = next((v for v in verdicts if v.startswith("needs")), INCONCLUSIVE)
    held = [name for name, part in parts.items() if part.verdict == REPRODUCED]
    ours = "; ".join(f"{name}: {part.ours} ({part.verdict})" for name, part in parts.items())
    if held and len(held) < len(parts):
        ours = f"partly ({len(held)} of {len(parts)} hold): {ours}"
    return Judgement(
        verdict, ours, {n: {"verdict": p.verdict, **p.evidence} for n, p in parts.items()}
    )


def judge_all(claims: Sequence[Claim], rows: pd.DataFrame, scale: str) -> list[dict[str, Any]]:
    """Judge every claim at ``scale``; a claim that this scale can't decide says what it needs."""
    judged = []
    for claim in claims:
        if scale == "smoke":
            result = Judgement(NOT_JUDGED, "smoke proves the wiring only")
        elif scale not in claim.scales:
            result = Judgement(f"needs {claim.scales[0]}", "")
        else:
            result = claim.judged(rows)
        judged.append(
            {
                "id": claim.id,
                "statement": claim.statement,
                "source": claim.source,
                "paper": claim.paper,
                "ours": result.ours,
                "verdict": result.verdict,
                "evidence": plain(dict(result.evidence)),
            }
        )
    return judged


def long_form(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame with one line per value: curves are spread over their steps."""
    frame = pd.DataFrame(list(rows))
    if "step" not in frame:
        return frame
    curves = frame["value"].map(lambda value: isinstance(value, list))
    spread = frame[curves].explode(["step", "value"])
    frame = pd.concat([frame[~curves], spread]).sort_index(kind="stable").reset_index(drop=True)
    return frame.astype({"step": float, "value": float})


def values(rows: pd.DataFrame, task: str, method: str, metric: str) -> np.ndarray:
    """One number per seed of a metric, in the order of the seeds (those without one left out)."""
    at = (rows.task == task) & (rows.method == method) & (rows.metric == metric)
    return rows[at].sort_values("seed").value.dropna().to_numpy(dtype=float)


def needed(rows: pd.DataFrame, task: str, method: str, metric: str, least: int = 2) -> np.ndarray:
    """``values`` that a claim cannot do without.

    Raises:
        NoResults: if there are fewer than ``least``; two are what an interval takes.
    """
    found = values(rows, task, method, metric)
    if len(found) < least:
        raise NoResults(f"{len(found)} values of {metric} of {method} on {task}")
    return found


def interval(sample: np.ndarray) -> str:
    """A table's cell: the mean with its interval, one value as it is, an en dash for none."""
    if len(sample) == 0:
        return "–"
    return str(mean_ci(sample)) if len(sample) > 1 else f"{sample[0]:.3g}"


def curves(
    rows: pd.DataFrame, task: str, method: str, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Steps [T] and values [n_seeds, T] of a logged curve."""
    if "step" not in rows:
        return np.zeros(0), np.zeros((0, 0))
    at = (rows.task == task) & (rows.method == method) & (rows.metric == metric)
    table = rows[at & rows.step.notna()].pivot(index="seed", columns="step", values="value")
    return table.columns.to_numpy(dtype=float), table.to_numpy(dtype=float)


@dataclass
class ClaimsConfig:
    """Judge a paper's claims and draw its tables and figures."""

    results: Path  # results.json with the rows
    scale: str = "default"  # scale the rows come from
    out: Path = Path("judged")  # folder for claims.json and the figures


def claims_cli(
    claims: Sequence[Claim],
    tables: Callable[[pd.DataFrame], Sequence[Table]],
    figures: Callable[[pd.DataFrame, list[dict[str, Any]]], Mapping[str, Figure]],
) -> None:
    """Command line of a paper's ``claims.py``: rows in; ``claims.json`` and figures out."""

    def judge(cfg: ClaimsConfig) -> None:
        results = files.read_json(cfg.results)
        rows = long_form(results["rows"])
        drawn = figures(rows, results.get("extras", []))
        for name, figure in drawn.items():
            cfg.out.mkdir(parents=True, exist_ok=True)
            figure.savefig(cfg.out / f"{name}.png", metadata={"Software": None})
        files.write_json(
            cfg.out / "claims.json",
            {
                "claims": judge_all(claims, rows, cfg.scale),
                "tables": [
                    plain(
                        {
                            "title": table.title,
                            "columns": list(table.columns),
                            "rows": [list(row) for row in table.rows],
                        }
                    )
                    for table in tables(rows)
                ],
                "figures": sorted(drawn),
            },
        )

    run_cli(judge, ClaimsConfig)
