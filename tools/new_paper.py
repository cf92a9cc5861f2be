"""Begin a paper: ``python -m tools.new_paper SLUG`` renders ``tools/template`` for it.

What comes out runs, is tested and judges two claims about an estimate of a mean: replace its parts
one by one.
"""

from __future__ import annotations

import argparse
import keyword
import re
from collections.abc import Sequence
from pathlib import Path

from common import files
from common.errors import UserError, guarded
from tools import tables
from tools.manifest import ROOT

TEMPLATE = Path(__file__).parent / "template"
LONGEST = 20  # characters of a slug; the template's lines hold no more


def render(slug: str, title: str, root: Path = ROOT) -> list[Path]:
    """Write the files of the paper ``slug``; returns their paths.

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
    targets = {
        **{path: paper / path.stem for path in sorted((TEMPLATE / "paper").iterdir())},
        TEMPLATE / "tests" / "test_paper.py.in": tests / f"test_{slug}.py",
    }
    for folder in (paper, tests):
        folder.mkdir(parents=True)
    for source, target in targets.items():
        text = source.read_text().replace("SLUG", slug)
        escaped = title.replace("\\", "\\\\").replace('"', '\\"')
        files.write_text(target, text.replace("TITLE", escaped if "toml" in source.name else title))
    return list(targets.values())


def cli(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.new_paper", description=__doc__)
    parser.add_argument("slug", help="name of the folder and package")
    parser.add_argument("--title", help="title of the paper; default: as planned, or the slug")
    options = parser.parse_args(arguments)

    def begin() -> None:
        title = options.title or dict(tables.planned()).get(options.slug, options.slug)
        for path in render(options.slug, title):
            print(path.relative_to(ROOT))
        print(f"next: make smoke PAPER={options.slug}")

    guarded(begin)


if __name__ == "__main__":
    cli()
