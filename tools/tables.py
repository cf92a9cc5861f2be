"""What is generated from results: ``python -m tools.tables --write | --check | --list``.

Each paper's page and ``results/<scale>.md``, and the overview of the top-level README.
"""

from __future__ import annotations

import collections
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import files
from common.errors import UserError, guarded
from tools import manifest, pages, store
from tools.manifest import PAPERS, ROOT
from tools.pages import duration, markdown
from tools.store import committed, compact

VERDICTS = ("reproduced", "reproduced, not specific", "inconclusive", "contradicted")
MOST_FIGURES = 3_000_000  # bytes of a paper's committed figures


def commit(results: dict[str, Any], root: Path, papers: Path = PAPERS) -> None:
    """Copy results and figures into the paper's folder and render what follows from them.

    Raises:
        UserError: see :func:`tools.store.put`.
    """
    store.put(results, root, papers)
    write(papers)


# -- rendering --------------------------------------------------------------------------------


def verdicts(results: dict[str, Any]) -> str:
    """ "3 reproduced, 1 contradicted" """
    counts = collections.Counter(claim["verdict"] for claim in results["claims"])
    order = [v for v in VERDICTS if v in counts] + sorted(set(counts) - set(VERDICTS))
    return "; ".join(f"{counts[v]} {v}" for v in order)


def render_overview(papers: Path = PAPERS) -> str:
    """The generated block of the top-level README: the papers here, drafts, then those planned."""
    rows: list[list[Any]] = []
    here = manifest.slugs(papers)
    for slug in here:
        paper = manifest.load(slug, papers)
        results = committed(slug, papers)
        shown = {"claims": pages.claims_shown(results)}
        default = results.get("default")
        wall = duration(default["provenance"]["wall_seconds"]) if default else "–"
        answer = f"**{paper.answer.verdict}**: {paper.answer.reason}" if paper.answer else "–"
        rows.append(
            [
                f"[{slug}](papers/{slug}/README.md)",
                f"{paper.title} ({paper.venue})",
                answer if results else "not judged yet",
                verdicts(shown) if results else "–",
                wall,
            ]
        )
    lines = [_links(markdown(["paper", "title", "does it hold?", "claims", "wall time"], rows))]
    begun = [slug for slug in manifest.slugs(papers, drafts=True) if slug not in here]
    if begun:
        lines.append(f"In the making, tested and without results: {', '.join(begun)}.")
    missing = [f"{slug} ({title})" for slug, title in planned() if slug not in (*here, *begun)]
    if missing:
        lines.append(f"Planned and not here yet: {'; '.join(missing)}.")
    return "\n\n".join(lines)


def _links(table: str) -> str:
    """A table of ours, whose links are meant."""
    return table.replace("]\\(papers/", "](papers/")


def planned() -> list[tuple[str, str]]:
    """Slug and title of every paper that the project is to hold."""
    table = tomllib.loads(files.read_text(ROOT / "tools" / "planned.toml"))
    return [(paper["slug"], paper["title"]) for paper in table["paper"]]


def rendered(papers: Path = PAPERS) -> dict[Path, str]:
    """Each generated file with what it ought to say."""
    wanted: dict[Path, str] = {}
    for slug in manifest.slugs(papers):
        path = papers / slug / "README.md"
        if not path.is_file():
            raise UserError(f"{path} is missing; a paper needs a README with markers")
        results = committed(slug, papers)
        wanted[path] = pages.render_page(slug, results, papers)
        for scale, found in results.items():
            target = papers / slug / "results" / f"{scale}.md"
            wanted[target] = pages.render_results(slug, scale, found, papers)
    top = papers.parent / "README.md"
    wanted[top] = pages.replace(files.read_text(top), "results", render_overview(papers), top)
    return wanted


def _differs(path: Path, text: str) -> bool:
    return not path.is_file() or files.read_text(path) != text


def write(papers: Path = PAPERS) -> None:
    """Render every generated file that differs."""
    for path, text in rendered(papers).items():
        if _differs(path, text):
            files.write_text(path, text)
            print(f"rendered {path.relative_to(papers.parent)}")


def check(papers: Path = PAPERS) -> list[str]:
    """What is wrong with the committed results and pages; empty if nothing."""
    wrong = [
        f"{path.relative_to(papers.parent)} differs from its results; run 'make tables'"
        for path, text in rendered(papers).items()
        if _differs(path, text)
    ]
    for slug in manifest.slugs(papers):
        everything = committed(slug, papers)
        wrong += pages.check(slug, everything, papers)
        for scale, results in everything.items():
            name = f"papers/{slug}/results/{scale}.json"
            if results["provenance"]["dirty"] is not False:
                wrong.append(f"{name} comes from uncommitted code")
            if not results["claims"] and scale == "default":
                wrong.append(f"{name} judges no claim")
            wrong += [
                f"{name}: claim {claim.get('id')} has no verdict"
                for claim in results["claims"]
                if not claim.get("verdict") or claim["verdict"] == "not judged"
            ]
            wrong += [
                f"{name}: figure {figure['name']} is missing"
                for figure in results["figures"]
                if not (papers / slug / "results" / f"{scale}_{figure['name']}.png").is_file()
            ]
    return wrong


@dataclass
class Options:
    """Render what is generated from results, check it, or list the papers."""

    write: bool = False  # render what differs
    check: bool = False  # exit 1 if something differs
    list: bool = False  # print the papers that are here


def main(options: Options) -> None:
    """Do what the options ask."""
    if options.write:
        write()
    if options.check and (wrong := check()):
        raise UserError("; ".join(wrong))
    if options.list:
        print(manifest.listing())


__all__ = ["check", "commit", "committed", "compact", "planned", "write"]


if __name__ == "__main__":
    import tyro

    guarded(lambda: main(tyro.cli(Options)))
