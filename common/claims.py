"""Claims: statements of a paper as functions of the rows and of the method that is judged.

A judge is called with the paper's method and again with every other one of its table in its place.
A claim about the contribution that a method without it meets as well is ``reproduced, not
specific``. The other verdicts: ``reproduced``, ``contradicted``, ``inconclusive`` (the interval
straddles the threshold), ``needs <scale>``. A claim that does not hold stays, with its evidence.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.cli import run_cli
from common.methods import Methods
from common.rows import NoResults, Rows
from common.stats import Interval

REPRODUCED = "reproduced"
NOT_SPECIFIC = "reproduced, not specific"
CONTRADICTED = "contradicted"
INCONCLUSIVE = "inconclusive"
NOT_JUDGED = "not judged"  # at smoke, which proves wiring only

SCALES = ("default", "gpu", "paper", "study")  # from the smallest: what "needs" names
WITHOUT_THE_CONTRIBUTION = ("ablation", "baseline")


@dataclass(frozen=True)
class Judgement:
    """What the rows say of a claim.

    Attributes:
        verdict: one of the verdicts above.
        ours: our number with its interval, short: a cell of the README.
        evidence: the plain numbers behind the verdict.
        details: a longer text for ``results/<scale>.md``; default: ``ours``.
    """

    verdict: str
    ours: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    details: str = ""


Judge = Callable[[Rows, str], Judgement]


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and how it is judged.

    Attributes:
        id: short name, as in the paper's notes.
        statement: what is claimed, in 25 words or fewer; horizon, seeds and setting are named
            where the verdict depends on them.
        source: where the paper says it.
        paper: the paper's number or rate.
        judge: (rows, method) -> :class:`Judgement`; raises :class:`NoResults` where rows lack.
        method: the method that the paper claims it of, a name of the table.
        tasks: what has to have been run (patterns like "grid-*"; any task that matches will do).
        against: the methods it is compared with; they are not put into the method's place.
        specific: the claim is about the contribution, so that a method without it should fail.
        shared: where not ``specific``: why others are expected to meet it as well.
        headline: the paper's first claim, whose verdict the page's answer goes by (one a paper).
        only: scales that can decide it, where having run the tasks is not enough.
    """

    id: str
    statement: str
    source: str
    paper: str
    judge: Judge
    method: str
    tasks: tuple[str, ...]
    against: tuple[str, ...] = ()
    specific: bool = True
    shared: str = ""
    headline: bool = False
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.specific == bool(self.shared):
            raise ValueError(f"{self.id}: 'shared' says why a claim is not specific, and only then")

    def possible(self, scale: str, plan: Plan) -> bool:
        """Whether a scale runs what the claim needs."""
        if self.only and scale not in self.only:
            return False
        return all(
            any(
                fnmatch(task or "", pattern) and run in (None, "all", method)
                for run, task in plan.get(scale, ())
            )
            for pattern in self.tasks
            for method in (self.method, *self.against)
        )


#: What each scale runs: pairs (method, task); None where a stage has no such axis.
Plan = Mapping[str, Iterable[tuple[str | None, str | None]]]


def plan_of(manifest: Path) -> dict[str, list[tuple[str | None, str | None]]]:
    """What the scales of a ``paper.toml`` run."""
    scales = tomllib.loads(manifest.read_text(encoding="utf-8"))["scales"]
    return {
        name: [
            (method, task)
            for stage in scale["stages"]
            for method in stage.get("methods", [None])
            for task in stage.get("tasks", [None])
        ]
        for name, scale in scales.items()
    }


# -- judging ------------------------------------------------------------------------------------


def by_interval(
    ci: Interval,
    threshold: float = 0.0,
    above: bool = True,
    *,
    ours: str | None = None,
    **evidence: Any,
) -> Judgement:
    """Judge "the quantity lies above (below) ``threshold``" by its confidence interval.

    Args:
        ci: the interval of the quantity.
        threshold: what it is compared with.
        above: the claim says above; else below.
        ours: text for the README; default: the interval.
        evidence: further numbers to keep.
    """
    holds, fails = ci.low > threshold, ci.high < threshold
    if not above:
        holds, fails = fails, holds
    verdict = REPRODUCED if holds else CONTRADICTED if fails else INCONCLUSIVE
    return Judgement(
        verdict, ours or str(ci), {**asdict(ci), "threshold": threshold, "above": above, **evidence}
    )


def not_worse(
    difference: Interval, margin: float, *, ours: str | None = None, **evidence: Any
) -> Judgement:
    """Judge "A is not worse than B by more than ``margin``" (non-inferiority).

    Args:
        difference: interval of A - B, larger is better.
        margin: positive; fixed before the runs.
    """
    return by_interval(difference, -margin, ours=ours, margin=margin, **evidence)


def compare(
    value: float,
    threshold: float,
    above: bool = True,
    *,
    ours: str | None = None,
    **evidence: Any,
) -> Judgement:
    """Judge a number that has no sampling error: an exact computation, a count of parameters."""
    holds = value >= threshold if above else value <= threshold
    return Judgement(
        REPRODUCED if holds else CONTRADICTED,
        ours or f"{value:.3g}",
        {"value": value, "threshold": threshold, "above": above, **evidence},
    )


def all_of(parts: Mapping[str, Judgement], note: str = "", *, spell_out: int = 2) -> Judgement:
    """A claim with several required parts: it holds if all do, and fails if one does.

    Args:
        parts: by name.
        note: ends the text.
        spell_out: up to so many parts are all named in ``ours``; of more only those that fail.
    """
    verdicts = [part.verdict for part in parts.values()]
    if all(v == REPRODUCED for v in verdicts):
        verdict = REPRODUCED
    elif CONTRADICTED in verdicts:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    each = [f"{name}: {part.ours}" for name, part in parts.items()]
    failing = [f"{n}: {p.ours}" for n, p in parts.items() if p.verdict != REPRODUCED]
    held = len(parts) - len(failing)
    if len(parts) <= spell_out:
        text = "; ".join(each)
    elif not failing:
        text = f"all {len(parts)} parts hold"
    else:
        text = f"{held} of {len(parts)} parts hold; not " + "; ".join(failing)
    details = "; ".join(f"{n}: {p.details or p.ours} ({p.verdict})" for n, p in parts.items())
    return Judgement(
        verdict,
        "; ".join(filter(None, [text, note])),
        {n: {"verdict": p.verdict, **p.evidence} for n, p in parts.items()},
        "; ".join(filter(None, [details, note])),
    )


def substitutes(claim: Claim, methods: Methods[Any], rows: Rows) -> list[str]:
    """The methods that are put into the judged one's place: all others that were run on its tasks.

    Methods that are not of the paper are tried as well, and never change its verdict.
    """
    there = {
        name
        for pattern in claim.tasks
        for task in rows.unique("task")
        if fnmatch(task, pattern)
        for name in rows.of(task=task).unique("method")
    }
    left_out = {claim.method, *claim.against}
    return [name for name in methods if name in there and name not in left_out]


def judge(
    claim: Claim, methods: Methods[Any], rows: Rows, scale: str, plan: Plan
) -> dict[str, Any]:
    """Judge a claim of its method, then of every other method in its place.

    Returns:
        The claim's entry in ``results.json``.
    """
    tried: list[str] = []
    met: list[str] = []
    if scale == "smoke":
        result = Judgement(NOT_JUDGED, "smoke proves the wiring only")
    else:
        try:
            if claim.only and scale not in claim.only:
                raise NoResults(f"not judged at {scale}")
            result = claim.judge(rows, claim.method)
            tried, met = _others(claim, methods, rows)
        except NoResults as missing:
            result = _without_rows(claim, scale, plan, str(missing))
    without = [name for name in met if methods[name].role in WITHOUT_THE_CONTRIBUTION]
    if result.verdict == REPRODUCED and claim.specific and without:
        result = dataclasses.replace(result, verdict=NOT_SPECIFIC)
    return {
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "paper": claim.paper,
        "method": claim.method,
        "headline": claim.headline,
        "specific": claim.specific,
        "shared": claim.shared,
        "ours": result.ours,
        "details": result.details or result.ours,
        "tried": tried,
        "also_met_by": [marked(methods, name) for name in met],
        "verdict": result.verdict,
        "evidence": plain(dict(result.evidence)),
    }


def _others(claim: Claim, methods: Methods[Any], rows: Rows) -> tuple[list[str], list[str]]:
    """The methods that the judge could be asked of, and those that meet the claim."""
    tried, met = [], []
    for name in substitutes(claim, methods, rows):
        try:
            verdict = claim.judge(rows, name).verdict
        except NoResults:
            continue
        tried.append(name)
        if verdict == REPRODUCED:
            met.append(name)
    return tried, met


def marked(methods: Methods[Any], name: str) -> str:
    """A method's label; † for one that is told what it cannot know."""
    return methods.label(name) + ("†" if methods[name].role == "reference" else "")


def _without_rows(claim: Claim, scale: str, plan: Plan, missing: str) -> Judgement:
    """Inconclusive where this scale runs what is missing, else the scale that does."""
    if claim.possible(scale, plan):
        return Judgement(INCONCLUSIVE, missing)
    able = [name for name in SCALES if name != scale and claim.possible(name, plan)]
    smallest = (able or [*claim.only, "paper"])[0]
    return Judgement(f"needs {smallest}", "")


def judge_all(
    claims: Sequence[Claim], methods: Methods[Any], rows: Rows, scale: str, plan: Plan
) -> list[dict[str, Any]]:
    """Judge every claim at ``scale``; those whose rows are not there say what they need.

    A tuning chooses settings, on seeds of its own, and judges nothing.
    """
    if scale == "tuning":
        return []
    return [judge(claim, methods, rows, scale, plan) for claim in claims]


def plain(value: Any) -> Any:
    """Strict JSON form of evidence: NumPy scalars become numbers, what is not finite a string."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value


@dataclass
class ClaimsConfig:
    """Judge a paper's claims."""

    results: Path  # results.json with the rows
    scale: str = "default"  # scale the rows come from
    out: Path = Path("judged")  # folder for claims.json
    power: bool = False  # for each inconclusive claim: how many seeds would decide it (power.json)


def claims_cli(claims: Sequence[Claim], methods: Methods[Any]) -> None:
    """Command line of a paper's ``claims.py``: rows in, ``claims.json`` out."""
    folder = Path(sys.modules["__main__"].__file__ or ".").parent

    def run(cfg: ClaimsConfig) -> None:
        rows = Rows(files.read_json(cfg.results)["rows"])
        if cfg.power:
            from common.power import power_of_all

            files.write_json(cfg.out / "power.json", power_of_all(claims, rows))
            return
        judged = judge_all(claims, methods, rows, cfg.scale, plan_of(folder / "paper.toml"))
        files.write_json(cfg.out / "claims.json", {"claims": judged})

    run_cli(run, ClaimsConfig)


__all__ = [
    "CONTRADICTED",
    "INCONCLUSIVE",
    "NOT_JUDGED",
    "NOT_SPECIFIC",
    "REPRODUCED",
    "Claim",
    "Interval",
    "Judgement",
    "NoResults",
    "Plan",
    "Rows",
    "all_of",
    "by_interval",
    "claims_cli",
    "compare",
    "judge",
    "judge_all",
    "marked",
    "not_worse",
    "plain",
    "plan_of",
]
