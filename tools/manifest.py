"""A paper's manifest (``paper.toml``): what it says, checked, and the jobs of its scales.

Standard library only: it is read before anything is installed. A manifest is input like any other:
what it names becomes folders and command lines, so every key is checked when it is read.
"""

from __future__ import annotations

import collections
import itertools
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError, choose

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ROOT / "papers"
PLANNED = ROOT / "tools" / "planned.toml"
MOST_JOBS = 10_000  # of one scale; beyond that it is a slip of the keyboard
ANSWERS = ("yes", "partly", "no", "open")


@dataclass(frozen=True)
class Job:
    """One process (and its evaluation): a method on a task for one or several seeds."""

    paper: str
    scale: str
    stage: str
    module: str
    evaluated: bool
    method: str | None
    task: str | None
    seeds: tuple[int, ...]
    args: tuple[str, ...]
    threads: int
    gpus: float
    grid: tuple[str, ...] = ()  # "lr=0.0003", …: the combination of the stage's grid

    @property
    def name(self) -> str:
        """Path of the run directory below ``runs/<paper>/<scale>``."""
        parts = [self.stage, *(axis for axis in (self.task, self.method) if axis is not None)]
        parts += self.grid
        if self.seeds:
            ends = self.seeds[:1] if len(self.seeds) == 1 else (self.seeds[0], self.seeds[-1])
            parts.append("seed-" + "-".join(map(str, ends)))
        return "/".join(parts)

    @property
    def command(self) -> list[str]:
        """Arguments of the Python interpreter, without ``--out`` and ``--device``."""
        command = ["-m", f"papers.{self.paper}.{self.module}"]
        if self.method is not None:
            command += ["--method", self.method]
        if self.task is not None:
            command += ["--task", self.task]
        if self.seeds:
            command += ["--seed", *map(str, self.seeds)]
        return [*command, *self.args]


@dataclass(frozen=True)
class Data:
    """A file or folder that a scale reads."""

    path: str  # below $PAPERS_DATA
    size: str  # "170 MB"
    source: str  # where to get it, in what form
    loader: str = ""  # package that fetches it where it is not there
    made: str = ""  # path in the repository where `source` puts it, which serves as well


@dataclass(frozen=True)
class Needs:
    """What a scale needs besides processor cores."""

    imports: tuple[str, ...] = ()  # modules, the paper's own included
    data: tuple[Data, ...] = ()
    disk_gb: float = 0.2  # free, where the run directories go
    memory_gb: float = 0.0
    gpus: int = 0
    on: str = "2 cores"  # the machine that `minutes` is planned for


@dataclass(frozen=True)
class Scale:
    """A scale of a paper: stages in order, each a list of jobs that may run side by side."""

    name: str
    minutes: float
    stages: list[tuple[str, list[Job]]]
    needs: Needs = Needs()

    @property
    def jobs(self) -> list[Job]:
        """All jobs, in order."""
        return [job for _, jobs in self.stages for job in jobs]

    @property
    def plan(self) -> str:
        """What was planned: ``30 min on one GPU``."""
        return f"{span(self.minutes)} on {self.needs.on}"


class Answer(NamedTuple):
    """Whether the paper's headline held, and why, in words."""

    verdict: str  # one of ANSWERS
    reason: str  # at most 40 words


@dataclass(frozen=True)
class Manifest:
    """What ``paper.toml`` says."""

    slug: str
    title: str
    authors: str
    venue: str
    arxiv: str
    summary: str
    extra: str
    imports: tuple[str, ...]
    scales: dict[str, dict[str, Any]] = field(repr=False)
    bibtex: str = ""
    answer: Answer | None = None
    draft: bool = False  # in the making, without results

    def scale(self, name: str, seeds: int | None = None, seed_offset: int = 0) -> Scale:
        """Lay out the jobs of a scale.

        Args:
            name: one of ``scales``.
            seeds: number of seeds instead of the manifest's counts.
            seed_offset: added to every seed, so that others than the published ones are run.

        Raises:
            UserError: for an unknown scale, too many jobs or two of the same name.
        """
        choose(f"scale of {self.slug}", name, self.scales)
        table = self.scales[name]
        if seeds is not None and seeds < 1:
            raise UserError("SEEDS must be 1 or more")
        if seed_offset < 0:
            raise UserError("SEED_OFFSET must be 0 or more")
        grids = [
            _Grid.of(stage, table, seeds, seed_offset, f"{self.where(name)}, stage {number}")
            for number, stage in enumerate(table["stages"], 1)
        ]
        if (count := sum(grid.size for grid in grids)) > MOST_JOBS:
            raise UserError(
                f"{self.slug} at scale {name} would be {count} jobs, more than {MOST_JOBS}; "
                "choose fewer SEEDS"
            )
        stages: list[tuple[str, list[Job]]] = []
        for grid in grids:
            jobs = list(grid.jobs(self.slug, name))
            if stages and stages[-1][0] == grid.title:
                stages[-1][1].extend(jobs)
            else:
                stages.append((grid.title, jobs))
        _check_names([job.name for _, jobs in stages for job in jobs], self.where(name))
        return Scale(name, float(table["minutes"]), stages, self.needs(name))

    def where(self, scale: str) -> str:
        """Place in the manifest, for messages."""
        return f"papers/{self.slug}/paper.toml, scale {scale}"

    def needs(self, scale: str) -> Needs:
        """What a scale needs; GPUs as its stages ask for them, unless it says otherwise."""
        table = self.scales[scale]
        most = max((stage.get("gpus", 0) for stage in table["stages"]), default=0)
        gpus = int(table.get("gpus", math.ceil(most)))
        named = {0: "2 cores", 1: "one GPU"}.get(gpus, f"{gpus} GPUs")
        return Needs(
            imports=tuple(dict.fromkeys([*self.imports, *table.get("imports", ())])),
            data=tuple(Data(**entry) for entry in table.get("data", ())),
            disk_gb=table.get("disk_gb", Needs.disk_gb),
            memory_gb=table.get("memory_gb", Needs.memory_gb),
            gpus=gpus,
            on=table.get("on", named),
        )


@dataclass(frozen=True)
class _Grid:
    """A stage's axes: jobs are their product."""

    title: str
    stage: Mapping[str, Any]
    combinations: list[tuple[tuple[str, Any], ...]]
    first: int
    count: int
    per_job: int

    @classmethod
    def of(
        cls,
        stage: Mapping[str, Any],
        table: Mapping[str, Any],
        override: int | None,
        offset: int,
        where: str,
    ) -> _Grid:
        grid = stage.get("grid", {})
        if both := sorted(set(grid) & set(stage.get("args", {}))):
            raise UserError(f"{where}: '{both[0]}' stands in 'grid' and in 'args'")
        count = stage.get("seeds", table["seeds"])
        return cls(
            title=stage.get("name", "train"),
            stage=stage,
            combinations=list(
                itertools.product(*([(key, value) for value in grid[key]] for key in grid))
            ),
            first=stage.get("first_seed", table.get("first_seed", 0)) + offset,
            count=override if override is not None and count else count,
            per_job=stage.get("seeds_per_job", 1),
        )

    @property
    def size(self) -> int:
        """How many jobs there are."""
        axes = len(self.stage.get("methods", [None])) * len(self.stage.get("tasks", [None]))
        return axes * len(self.combinations) * max(1, math.ceil(self.count / self.per_job))

    def jobs(self, slug: str, scale: str) -> Iterator[Job]:
        """The jobs, method by method."""
        end = self.first + self.count
        groups: list[tuple[int, ...]] = [
            tuple(range(first, min(first + self.per_job, end)))
            for first in range(self.first, end, self.per_job)
        ] or [()]
        stage, module = self.stage, self.stage.get("module", "train")
        for method, task, combination, group in itertools.product(
            stage.get("methods", [None]), stage.get("tasks", [None]), self.combinations, groups
        ):
            yield Job(
                paper=slug,
                scale=scale,
                stage=self.title,
                module=module,
                evaluated=stage.get("eval", module == "train"),
                method=method,
                task=task,
                seeds=group,
                args=tuple(flags({**stage.get("args", {}), **dict(combination)})),
                threads=stage.get("threads", 1),
                gpus=stage.get("gpus", 0),
                grid=tuple(f"{key}={value}" for key, value in combination),
            )


def _check_names(names: list[str], where: str) -> None:
    """Each job has a run directory of its own, inside no other job's."""
    if twice := [name for name, n in collections.Counter(names).items() if n > 1]:
        raise UserError(f"{where}: two jobs named {twice[0]}")
    known = set(names)
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if (outer := "/".join(parts[:depth])) in known:
                raise UserError(f"{where}: the job {name} would lie inside the job {outer}")


def flags(args: Mapping[str, Any]) -> list[str]:
    """Command-line flags for a table of arguments, in tyro's form.

    ``{horizon = 10, warm = false, widths = [1, 2]}`` gives
    ``--horizon 10 --no-warm --widths 1 2``.
    """
    result = []
    for key, value in args.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            result.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            result += [f"--{name}", *map(str, value)]
        else:
            result += [f"--{name}", str(value)]
    return result


def span(minutes: float) -> str:
    """Minutes as a text: seconds, minutes, hours or days."""
    if minutes < 1:
        return f"{minutes * 60:.0f} s"
    if minutes < 180:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 3 * 1440 else f"{minutes / 1440:.0f} days"


# -- which papers there are -------------------------------------------------------------------


def slugs(papers: Path = PAPERS, *, drafts: bool = False) -> list[str]:
    """The papers that stand, sorted; with ``drafts`` those that say ``draft = true``, too.

    A draft has no results yet: it can be installed, tested and run by its name, and no page or
    table shows it.
    """
    found = [path for path in papers.glob("*/paper.toml") if drafts or not _is_draft(path)]
    return sorted(path.parent.name for path in found)


def _is_draft(path: Path) -> bool:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")).get("draft") is True
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return False  # whoever loads it says what is wrong


def planned() -> dict[str, str]:
    """Slug -> title of every paper that the project is to hold."""
    table = tomllib.loads(PLANNED.read_text(encoding="utf-8"))
    return {paper["slug"]: paper["title"] for paper in table["paper"]}


def choose_paper(slug: str, papers: Path = PAPERS) -> str:
    """``slug`` if that paper is here.

    Raises:
        UserError: if it is planned only, or unknown (with the nearest names).
    """
    here = slugs(papers, drafts=True)
    if slug not in here and slug in planned():
        raise UserError(f"{slug} is planned and not here yet; here are: {', '.join(here)}")
    return choose("paper", slug, here)


def listing(papers: Path = PAPERS) -> str:
    """A paper per line with its scales below: what each takes, on what machine."""
    lines = []
    for slug in slugs(papers):
        paper = load(slug, papers)
        lines.append(f"{slug:18} {paper.title}")
        for name in paper.scales:
            lines.append(f"{'':18}   SCALE={name:9} {paper.scale(name).plan}")
    return "\n".join(lines)


def load(slug: str, papers: Path = PAPERS) -> Manifest:
    """Read a paper's manifest.

    Raises:
        UserError: for an unknown paper (with the nearest names) or a manifest that is damaged or
            says what it must not (with the place).
    """
    choose_paper(slug, papers)
    where = f"papers/{slug}/paper.toml"
    try:
        table = tomllib.loads((papers / slug / "paper.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where} is damaged: {error}") from error
    except RecursionError:
        raise UserError(f"{where} is damaged: nested too deeply") from None
    _check(where, table, _PAPER, required=set(_PAPER) - {"bibtex", "answer", "draft"})
    if table["slug"] != slug:
        raise UserError(f"{where}: slug is '{table['slug']}', its folder is '{slug}'")
    for name, scale in table["scales"].items():
        if not (_is_name(name) and isinstance(scale, dict)):
            raise UserError(f"{where}: '{name}' is no scale; a table [scales.NAME] is expected")
        place = f"{where}, scale {name}"
        _check(place, scale, _SCALE, required={"seeds", "minutes", "stages"})
        for number, stage in enumerate(scale["stages"], 1):
            _check(f"{place}, stage {number}", stage, _STAGE)
        for number, entry in enumerate(scale.get("data", ()), 1):
            _check(
                f"{place}, data {number}", entry, _DATA, required=set(_DATA) - {"loader", "made"}
            )
    answer = None
    if "answer" in table:
        _check(f"{where}, answer", table["answer"], _ANSWER, required=set(_ANSWER))
        answer = Answer(**table["answer"])
    return Manifest(**{**table, "imports": tuple(table["imports"]), "answer": answer})


# -- what its keys may hold -------------------------------------------------------------------


class _Kind(NamedTuple):
    """What a key must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _check(
    where: str,
    table: Mapping[str, Any],
    kinds: Mapping[str, _Kind],
    required: set[str] | None = None,
) -> None:
    """Refuse a table with a missing or unknown key, or one of another kind."""
    if not isinstance(table, dict):
        raise UserError(f"{where}: a table is expected")
    if missing := sorted((required or set()) - set(table)):
        raise UserError(f"{where} lacks '{missing[0]}'; see tools/manifest.py for its keys")
    if unknown := sorted(set(table) - set(kinds)):
        raise UserError(
            f"{where} has an unknown key '{unknown[0]}'; see tools/manifest.py for its keys"
        )
    for key, value in table.items():
        if not kinds[key].holds(value):
            raise UserError(f"{where}: '{key}' must be {kinds[key].words}, not {value!r:.60}")


def _is_name(value: Any) -> bool:
    """Whether it can be a folder's name and a command line's word, and nothing else."""
    return isinstance(value, str) and bool(
        re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,79}", value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_module(value: Any) -> bool:
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, bool)) or _is_number(value)


def _is_flag(key: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", key)) and key not in _OWN_FLAGS


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not value or "\\" in value:
        return False
    return not value.startswith("/") and not {"", ".", ".."} & set(value.split("/"))


def _listed(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(holds, value))


_OWN_FLAGS = {"method", "task", "seed", "out", "device", "run"}  # those that the runner gives

_TEXT = _Kind("a text", lambda v: isinstance(v, str) and bool(v.strip()) and v.isprintable())
_LINES = _Kind("a text", lambda v: isinstance(v, str) and bool(v.strip()))
_NAME = _Kind("a name of letters, digits, _, ., + and -", _is_name)
_NAMES = _Kind("a list of names of letters, digits, _, ., + and -", _listed(_is_name))
_COUNT = _Kind("a whole number, 0 or more", _is_count)
_SOME = _Kind("a whole number, 1 or more", lambda v: _is_count(v) and v > 0)
_SIZE = _Kind("a number, 0 or more", lambda v: _is_number(v) and v >= 0)
_MINUTES = _Kind("a number above 0", lambda v: _is_number(v) and v > 0)
_MODULES = _Kind("a list of modules", lambda v: isinstance(v, list) and all(map(_is_module, v)))
_TABLES = _Kind("a list of tables", _listed(lambda v: isinstance(v, dict)))
_TABLE = _Kind("a table", lambda v: isinstance(v, dict))
_ARGS = _Kind(
    "a table of flags (none of the runner's own) with texts, numbers or lists of them",
    lambda v: (
        isinstance(v, dict)
        and all(map(_is_flag, v))
        and all(_is_scalar(x) or _listed(_is_scalar)(x) for x in v.values())
    ),
)
_LISTS = _Kind(
    "a table of flags (none of the runner's own) with a list of numbers or names each",
    lambda v: (
        isinstance(v, dict)
        and all(map(_is_flag, v))
        and all(
            _listed(lambda x: _is_number(x) or isinstance(x, bool) or _is_name(x))(x)
            for x in v.values()
        )
    ),
)

_PAPER = {
    **dict.fromkeys(("title", "authors", "venue", "arxiv", "summary"), _TEXT),
    "slug": _NAME,
    "extra": _NAME,
    "imports": _MODULES,  # checked before the first job
    "scales": _TABLE,
    "bibtex": _LINES,
    "answer": _TABLE,
    "draft": _Kind("true or false", lambda value: isinstance(value, bool)),
}
_ANSWER = {
    "verdict": _Kind(f"one of {', '.join(ANSWERS)}", lambda v: v in ANSWERS),
    "reason": _Kind(
        "a text of at most 40 words", lambda v: _TEXT.holds(v) and len(v.split()) <= 40
    ),
}
_SCALE = {
    "seeds": _COUNT,
    "first_seed": _COUNT,  # default: 0
    "minutes": _MINUTES,  # planned for all of it, on the machine `on`
    "on": _TEXT,  # default: "2 cores", or "one GPU" where a stage asks for one
    "stages": _TABLES,
    "imports": _MODULES,  # besides the paper's
    "data": _TABLES,
    "disk_gb": _SIZE,
    "memory_gb": _SIZE,
    "gpus": _COUNT,
}
_DATA = {
    "path": _Kind("a path below $PAPERS_DATA", _is_path),
    "size": _TEXT,
    "source": _TEXT,
    "loader": _Kind("a module", _is_module),
    "made": _Kind("a path in the repository", _is_path),
}
_STAGE = {
    "name": _NAME,  # default: "train"
    "module": _Kind("a module of the paper", lambda v: _is_module(v) and "." not in v),
    "eval": _Kind("true or false", lambda v: isinstance(v, bool)),
    "methods": _NAMES,
    "tasks": _NAMES,
    "grid": _LISTS,  # one job per combination
    "seeds": _COUNT,
    "first_seed": _COUNT,
    "seeds_per_job": _SOME,
    "args": _ARGS,
    "threads": _SOME,
    "gpus": _SIZE,
}
