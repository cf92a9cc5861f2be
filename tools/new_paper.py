"""Begin a paper: ``python -m tools.new_paper SLUG [--kind torch]`` renders ``tools/template``.

What comes out runs, is tested and judges two claims: about an estimate of a mean (``numpy``), or
about a loss in a network with stacked seeds (``torch``). Replace its parts one by one.
"""

from __future__ import annotations

import argparse
import keyword
import re
from collections.abc import Sequence
from pathlib import Path

from common import files
from common.errors import UserError, choose, guarded
from tools import tables
from tools.manifest import ROOT

TEMPLATE = Path(__file__).parent / "template"
KINDS = ("numpy", "torch")
LONGEST = 20  # characters of a slug; the template's lines hold no more


NEXT = """next:
 1. make smoke PAPER={slug}                 it runs as it is; replace it part by part
 2. papers/{slug}/paper.toml                title, authors, arXiv, BibTeX, packages, scales and jobs
 3. papers/{slug}/method.py                 the equations by their numbers; oracles as tests first
 4. papers/{slug}/methods.py, baselines.py  the table of methods; baselines in the same loop
 5. papers/{slug}/claims.py                 statements and judges; one headline
 6. make test (or pytest tests/papers/{slug})  each claim can come out either way
 7. make reproduce PAPER={slug}             from a clean commit, then: make results PAPER={slug}
 8. papers/{slug}/README.md, NOTES.md       what came out, what did not hold, what differs
CONTRIBUTING.md has the whole list of what "done" means."""


def render(slug: str, title: str, root: Path = ROOT, kind: str = "numpy") -> list[Path]:
    """Write the files of the paper ``slug``; returns their paths.

    Args:
        slug: name of the folder and the package.
        title: of the paper.
        root: of the repository.
        kind: ``numpy``, or ``torch`` with stacked seeds, a network, an optimiser and a bench.

    Raises:
        UserError: if the slug is no name for a folder and a package, or taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", slug) or keyword.iskeyword(slug) or len(slug) > LONGEST:
        raise UserError(
            f"'{slug}' cannot be the name of a paper: lower-case letters, digits and _, a letter "
            f"first, at most {LONGEST} characters, no Python keyword"
        )
    paper, tests = root / "papers" / slug, root / "tests" / "papers" / slug
    for folder in (paper, tests):
        if folder.exists():
            raise UserError(f"{folder.relative_to(root)} is there already; choose another name")
    choose("kind of paper", kind, KINDS)
    sources = [*sorted((TEMPLATE / "shared").iterdir()), *sorted((TEMPLATE / kind).iterdir())]
    targets = {path: paper / path.stem for path in sources}
    targets[TEMPLATE / kind / "test_paper.py.in"] = tests / f"test_{slug}.py"
    for folder in (paper, tests):
        folder.mkdir(parents=True)
    for source, target in targets.items():
        text = files.read_text(source).replace("SLUG", slug)
        escaped = title.replace("\\", "\\\\").replace('"', '\\"')
        files.write_text(target, text.replace("TITLE", escaped if "toml" in source.name else title))
    return list(targets.values())


def cli(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.new_paper", description=__doc__)
    parser.add_argument("slug", help="name of the folder and package")
    parser.add_argument("--title", help="title of the paper; default: as planned, or the slug")
    parser.add_argument("--kind", default="numpy", help="numpy (the default) or torch")
    options = parser.parse_args(arguments)

    def begin() -> None:
        title = options.title or dict(tables.planned()).get(options.slug, options.slug)
        for path in render(options.slug, title, kind=options.kind):
            print(path.relative_to(ROOT))
        print(NEXT.format(slug=options.slug))

    guarded(begin)


if __name__ == "__main__":
    cli()
