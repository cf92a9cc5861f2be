"""A paper's manifest (``paper.toml``) and the jobs that a scale of it consists of."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError, choose

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ROOT / "papers"


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

    @property
    def name(self) -> str:
        """Path of the run directory below ``runs/<paper>/<scale>``."""
        parts = [self.stage, *(axis for axis in (self.task, self.method) if axis is not None)]
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
class Scale:
    """A scale of a paper: stages in order, each a list of jobs that may run side by side."""

    name: str
    minutes: float
    stages: list[tuple[str, list[Job]]]

    @property
    def jobs(self) -> list[Job]:
        """All jobs, in order."""
        return [job for _, jobs in self.stages for job in jobs]


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

    def scale(self, name: str, seeds: int | None = None) -> Scale:
        """Lay out the jobs of a scale.

        Args:
            name: one of ``scales``.
            seeds: number of seeds instead of the manifest's counts.

        Raises:
            UserError: for an unknown scale or a manifest that does not make sense.
        """
        choose(f"scale of {self.slug}", name, self.scales)
        table = self.scales[name]
        stages: list[tuple[str, list[Job]]] = []
        for number, stage in enumerate(table["stages"]):
            where = f"papers/{self.slug}/paper.toml, scale {name}, stage {number + 1}"
            unknown = set(stage) - _STAGE_KEYS
            if unknown:
                raise UserError(f"{where}: unknown key '{sorted(unknown)[0]}'")
            title = stage.get("name", "train")
            jobs = list(_jobs(self.slug, name, title, stage, table["seeds"], seeds))
            if stages and stages[-1][0] == title:
                stages[-1][1].extend(jobs)
            else:
                stages.append((title, jobs))
        names = [job.name for _, jobs in stages for job in jobs]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise UserError(f"papers/{self.slug}/paper.toml, scale {name}: two jobs named {twice}")
        return Scale(name, float(table["minutes"]), stages)


_STAGE_KEYS = {
    *("name", "module", "eval", "methods", "tasks", "seeds"),
    *("seeds_per_job", "args", "threads", "gpus"),
}


def _jobs(
    slug: str, scale: str, title: str, stage: dict[str, Any], default: int, override: int | None
) -> Iterator[Job]:
    count = stage.get("seeds", default)
    if override is not None and count:
        count = override
    size = stage.get("seeds_per_job", 1)
    groups: list[tuple[int, ...]] = [
        tuple(range(first, min(first + size, count))) for first in range(0, count, size)
    ] or [()]
    module = stage.get("module", "train")
    for method, task, group in itertools.product(
        stage.get("methods", [None]), stage.get("tasks", [None]), groups
    ):
        yield Job(
            paper=slug,
            scale=scale,
            stage=title,
            module=module,
            evaluated=stage.get("eval", module == "train"),
            method=method,
            task=task,
            seeds=group,
            args=tuple(flags(stage.get("args", {}))),
            threads=stage.get("threads", 1),
            gpus=stage.get("gpus", 0),
        )


def flags(args: dict[str, Any]) -> list[str]:
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


def slugs(papers: Path = PAPERS) -> list[str]:
    """The papers that are here, sorted."""
    return sorted(path.parent.name for path in papers.glob("*/paper.toml"))


def load(slug: str, papers: Path = PAPERS) -> Manifest:
    """Read a paper's manifest.

    Raises:
        UserError: for an unknown paper (with the nearest names) or a damaged manifest (with the
            place).
    """
    choose("paper", slug, slugs(papers))
    path = papers / slug / "paper.toml"
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"papers/{slug}/paper.toml is damaged: {error}") from error
    names = {f.name for f in dataclasses.fields(Manifest)}
    missing, unknown = names - set(table), set(table) - names
    if missing or unknown:
        wrong = f"lacks '{sorted(missing)[0]}'" if missing else f"has '{sorted(unknown)[0]}'"
        raise UserError(f"papers/{slug}/paper.toml {wrong}; see tools/manifest.py for its keys")
    for name, scale in table["scales"].items():
        for key in ("seeds", "minutes", "stages"):
            if key not in scale:
                raise UserError(f"papers/{slug}/paper.toml, scale {name}: lacks '{key}'")
    return Manifest(**{**table, "imports": tuple(table["imports"])})
