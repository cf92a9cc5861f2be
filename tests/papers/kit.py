"""What the papers' tests share: judges that can fail, scales on stand-ins, an added method."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import papers
from common import files
from common.claims import CONTRADICTED, INCONCLUSIVE, REPRODUCED, judge, judge_all, plan_of
from common.methods import Methods
from common.report import report
from common.rows import Rows
from tools import manifest
from tools.manifest import ROOT, Job

VERDICTS = (REPRODUCED, f"{REPRODUCED}, not specific", CONTRADICTED, INCONCLUSIVE)


# -- rows to judge ------------------------------------------------------------------------------


def rows_of(slug: str, scale: str = "default") -> Rows:
    """The committed rows of a paper."""
    path = ROOT / "papers" / slug / "results" / f"{scale}.json"
    return Rows(json.loads(path.read_text(encoding="utf-8"))["rows"])


def made(**cells: Mapping[tuple[str, ...], Sequence[float]]) -> Rows:
    """Rows from ``metric={(task, method): [value of seed 0, of seed 1, …]}``."""
    return Rows(
        [
            {"metric": metric, "task": task, "method": method, "seed": seed, "value": float(value)}
            for metric, table in cells.items()
            for (task, method), values in table.items()
            for seed, value in enumerate(values)
        ]
    )


def edited(rows: Rows, change: Callable[[pd.Series], pd.Series], **labels: Any) -> Rows:
    """A copy of ``rows`` in which the values with these labels are changed.

    ``change`` gets the values (a series) and gives as many.
    """
    frame = rows.frame.copy()
    at = rows.of(**labels).frame.index
    assert len(at), f"no rows with {labels}"
    frame.loc[at, "value"] = change(frame.loc[at, "value"]).to_numpy()
    return Rows(frame)


def swapped(rows: Rows, one: str, other: str) -> Rows:
    """A copy of ``rows`` in which two methods have changed names."""
    frame = rows.frame.copy()
    names = {one: other, other: one}
    frame["method"] = frame["method"].astype(str).map(lambda name: names.get(name, name))
    return Rows(frame)


def check_judges(slug: str, cases: Mapping[str, tuple[Rows | Sequence[Rows], Rows | None]]) -> None:
    """Each claim of a paper can come out contradicted and inconclusive.

    Args:
        slug: the paper.
        cases: by claim: rows (or several) that contradict it, and rows that leave it open; None
            for a claim without sampling error, which cannot be left open.
    """
    module = importlib.import_module(f"papers.{slug}.claims")
    assert {claim.id for claim in module.CLAIMS} == set(cases), "one case per claim"
    for claim in module.CLAIMS:
        against, undecided = cases[claim.id]
        for rows in [against] if isinstance(against, Rows) else against:
            verdict = claim.judge(rows, claim.method).verdict
            assert verdict == CONTRADICTED, f"{claim.id}: {verdict}, not contradicted"
        if undecided is not None:
            verdict = claim.judge(undecided, claim.method).verdict
            assert verdict == INCONCLUSIVE, f"{claim.id}: {verdict}, not inconclusive"


def tensors(tree: Any) -> list[Any]:
    """All tensors of a checkpoint's tree, in order."""
    if isinstance(tree, dict):
        return [x for part in tree.values() for x in tensors(part)]
    if isinstance(tree, (list, tuple)):
        return [x for part in tree for x in tensors(part)]
    return [tree] if hasattr(tree, "requires_grad") else []


def judged(slug: str, rows: Rows, scale: str = "default") -> dict[str, dict[str, Any]]:
    """All claims of a paper judged on ``rows``, by id."""
    module = importlib.import_module(f"papers.{slug}.claims")
    plan = plan_of(ROOT / "papers" / slug / "paper.toml")
    return {claim.id: judge(claim, module.METHODS, rows, scale, plan) for claim in module.CLAIMS}


# -- scales on stand-ins ------------------------------------------------------------------------


def run_job(job: Job, folder: Path, tiny: Sequence[str]) -> dict[str, Any]:
    """Train and evaluate a job by its command line, in this process; its evaluation.

    Args:
        job: of a manifest.
        folder: the run directory.
        tiny: further flags; they win over the job's own.
    """
    words = _last_of_each([*job.command[2:], *tiny, "--out", str(folder)])
    run_module(f"papers.{job.paper}.{job.module}", words)
    if not job.evaluated:
        return {"rows": [], "extras": []}
    run_module(f"papers.{job.paper}.eval", ["--run", str(folder)])
    return dict(files.read_json(folder / "eval.json"))


def run_module(name: str, words: Sequence[str]) -> None:
    """``python -m name words`` in this process, so that stand-ins can be patched in."""
    before = sys.argv
    sys.argv = [name, *words]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*found in sys.modules", module="runpy")
            runpy.run_module(name, run_name="__main__", alter_sys=True)  # types are looked up there
    except SystemExit as end:
        assert not end.code, f"{name} {' '.join(words)} ended with {end.code}; see its error line"
    finally:
        sys.argv = before


def _last_of_each(words: Sequence[str]) -> list[str]:
    """Command-line words in which a flag that comes again has replaced the earlier one."""
    flags: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--no-") if word.startswith("--no-") else word[2:]
            flags.pop(name, None)
            flags[name] = [word]
        else:
            flags[name].append(word)
    return [word for group in flags.values() for word in group]


def run_scale(
    slug: str,
    scale: str,
    folder: Path,
    tiny: Callable[[Job], Sequence[str] | None],
    *,
    seeds: int = 2,
) -> dict[str, Any]:
    """Every stage of a scale on stand-ins, through training, evaluation, claims, tables, figures.

    Args:
        slug: the paper.
        scale: one of its manifest.
        folder: for the run directories.
        tiny: flags that make a job small (None: the job is left out; say why in the test).
        seeds: at most so many of the manifest's, of each method, task and setting.

    Returns:
        ``{"rows", "claims", "tables", "figures"}``. Every claim that the scale can decide is
        judged, the others are judged or say what they need; every table has rows, every figure a
        caption.
    """
    rows: list[Any] = []
    extras: list[Any] = []
    jobs = manifest.load(slug).scale(scale).jobs
    for job in _with_few_seeds(_two_settings(jobs) if scale == "tuning" else jobs, seeds):
        flags = tiny(job)
        if flags is not None:
            evaluation = run_job(job, folder / job.name, flags)
            rows += evaluation["rows"]
            extras += evaluation["extras"]
    assert rows, f"{scale} of {slug} gives no rows"
    claims = importlib.import_module(f"papers.{slug}.claims")
    shown = importlib.import_module(f"papers.{slug}.report")
    frame = Rows(rows)
    scales = plan_of(ROOT / "papers" / slug / "paper.toml")
    judged = judge_all(claims.CLAIMS, claims.METHODS, frame, scale, scales)
    assert bool(judged) is (scale != "tuning"), "a tuning judges nothing, every other scale does"
    for claim, entry in zip(claims.CLAIMS if judged else [], judged, strict=True):
        able = claim.possible(scale, scales)
        right = entry["verdict"] in VERDICTS
        right = right or (not able and entry["verdict"].startswith("needs "))
        assert right, f"{claim.id} at {scale}: {entry['verdict']} ({entry['ours']})"
    drawn = shown.figures(frame, extras)
    made = report(shown.tables(frame), drawn)
    json.dumps(made, allow_nan=False)
    assert all(figure["caption"] for figure in made["figures"])
    assert made["tables"] and all(table["rows"] for table in made["tables"]), "an empty table"
    _close_figures()
    return {"rows": rows, "claims": judged, **made}


def _two_settings(jobs: Sequence[Job]) -> list[Job]:
    """Of a tuning's grid the first and the last setting of each method and task."""
    settings: dict[Any, list[Any]] = {}
    for job in jobs:
        found = settings.setdefault((job.stage, job.task, job.method), [])
        found += [job.args] if job.args not in found else []
    kept = {cell: (found[0], found[-1]) for cell, found in settings.items()}
    return [job for job in jobs if job.args in kept[job.stage, job.task, job.method]]


def _with_few_seeds(jobs: Sequence[Job], most: int) -> Iterator[Job]:
    """The jobs with the first ``most`` seeds of each cell."""
    taken: dict[Any, int] = {}
    for job in jobs:
        cell = (job.stage, job.module, job.task, job.method, job.args)
        kept = job.seeds[: most - taken.get(cell, 0)]
        taken[cell] = taken.get(cell, 0) + len(kept)
        if kept or not job.seeds:
            yield dataclasses.replace(job, seeds=kept)


# -- an added method ----------------------------------------------------------------------------


@contextlib.contextmanager
def imported_anew(slug: str) -> Iterator[None]:
    """Within, a paper's modules are imported anew; afterwards they are those from before."""
    package = importlib.import_module(f"papers.{slug}")

    def taken() -> dict[str, Any]:
        names = [name for name in sys.modules if f"{name}.".startswith(f"papers.{slug}.")]
        return {name: sys.modules.pop(name) for name in names}

    before = taken()
    try:
        yield
    finally:
        taken()
        sys.modules.update(before)
        setattr(papers, slug, package)


def check_added_method(
    slug: str, folder: Path, *, like: str | None = None, flags: Sequence[str] = ()
) -> None:
    """A method that somebody adds is trained, evaluated and shown, and changes no verdict.

    Args:
        slug: the paper.
        folder: for run directories.
        like: the method whose entry it copies under the name "dummy"; default: the paper's own.
        flags: that make the smoke job smaller still.
    """
    with imported_anew(slug):  # the table of methods of other tests stays what it is
        methods: Methods[Any] = importlib.import_module(f"papers.{slug}.methods").METHODS
        like = like or methods.having("method")[0]
        entry = dataclasses.replace(methods[like], name="dummy", label="Dummy", role="added")
        methods.add(entry)
        job = next(j for j in manifest.load(slug).scale("smoke", 2).jobs if j.method == like)
        evaluation = run_job(dataclasses.replace(job, method="dummy"), folder / "added", flags)
        assert {row["method"] for row in evaluation["rows"]} == {"dummy"}

        path = ROOT / "papers" / slug / "results" / "default.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        # rows of an added method that is as good as the paper's own: they look like its own
        twins = [{**row, "method": "dummy"} for row in results["rows"] if row["method"] == like]
        rows = Rows([*results["rows"], *twins])
        claims = importlib.import_module(f"papers.{slug}.claims")
        shown = importlib.import_module(f"papers.{slug}.report")
        plan = plan_of(ROOT / "papers" / slug / "paper.toml")
        judged = judge_all(claims.CLAIMS, claims.METHODS, rows, "default", plan)
        made = report(shown.tables(rows), shown.figures(rows, results["extras"]))
        _close_figures()
    before = {claim["id"]: claim["verdict"] for claim in results["claims"]}
    assert {claim["id"]: claim["verdict"] for claim in judged} == before
    assert any("Dummy" in json.dumps(table) for table in made["tables"]), "no table shows it"


def _close_figures() -> None:
    import matplotlib.pyplot as plt

    plt.close("all")
