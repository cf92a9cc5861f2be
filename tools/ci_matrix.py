"""The papers as a GitHub Actions matrix: ``python -m tools.ci_matrix`` prints one line of JSON.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import guarded
from tools import manifest


def matrix(papers: Path = manifest.PAPERS) -> dict[str, list[dict[str, str]]]:
    """One smoke job per folder, with the extra that it installs."""
    jobs = [manifest.load(slug, papers) for slug in manifest.slugs(papers)]
    return {"include": [{"paper": paper.slug, "extra": paper.extra} for paper in jobs]}


if __name__ == "__main__":
    guarded(lambda: print("matrix=" + json.dumps(matrix())))
