"""Committed results: ``papers/<slug>/results/<scale>.json`` with its figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from common import files
from common.errors import UserError
from tools.manifest import PAPERS

FIRST = ("default", "gpu", "paper", "study", "tuning")  # order of the scales


def committed(slug: str, papers: Path = PAPERS) -> dict[str, dict[str, Any]]:
    """Committed results of a paper: scale -> content of ``results/<scale>.json``.

    Raises:
        UserError: if one of them is damaged; the message says how to get it back.
    """
    found = {path.stem: path for path in (papers / slug / "results").glob("*.json")}
    order = [s for s in FIRST if s in found] + sorted(set(found) - set(FIRST))
    return {scale: _whole(found[scale], papers.parent) for scale in order}


def _whole(path: Path, root: Path) -> dict[str, Any]:
    """Results whose parts are there and whose rows are those that were written."""
    back = f"get it back with 'git checkout {path.relative_to(root)}'"
    try:
        results = json.loads(files.read_text(path))
        origin = results["provenance"]
        sound = (
            all(isinstance(results[key], list) for key in ("rows", "claims", "tables", "figures"))
            and all(isinstance(row, dict) for row in results["rows"])
            and isinstance(origin["commit"], str)
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); {back}") from error
    if not sound:
        raise UserError(f"{path} is damaged (parts of it are missing); {back}")
    if origin.get("rows_sha256", files.rows_digest(results)) != files.rows_digest(results):
        raise UserError(f"{path} is damaged (its rows are not those that were written); {back}")
    return dict(results)


def put(results: dict[str, Any], root: Path, papers: Path = PAPERS) -> None:
    """Write results and the figures of ``root/judged`` into the paper's folder.

    Raises:
        UserError: if they come from uncommitted code, are of the smoke scale, or the folder can't
            be written.
    """
    slug, scale = results["paper"], results["scale"]
    if results["provenance"]["dirty"]:
        raise UserError(
            "results of uncommitted code are not for the README; commit, then run the same "
            f"command again (the results are kept in {root / 'results.json'})"
        )
    if scale == "smoke":
        raise UserError("smoke proves the wiring only; its results are not for the README")
    folder = papers / slug / "results"
    results["provenance"]["rows_sha256"] = files.rows_digest(results)
    names = [figure["name"] for figure in results["figures"]]
    try:
        folder.mkdir(exist_ok=True)
        files.write_text(folder / f"{scale}.json", compact(results))
        for old in folder.glob(f"{scale}_*.png"):
            old.unlink()
        for name in names:
            shutil.copyfile(root / "judged" / f"{name}.png", folder / f"{scale}_{name}.png")
    except PermissionError as error:
        raise UserError(
            f"cannot write into {folder} ({error.strerror}); make it writable and run the same "
            f"command again (nothing is lost: {root / 'results.json'})"
        ) from error


def compact(results: dict[str, Any]) -> str:
    """JSON with one row per line, so that changes can be read in a diff."""
    parts = []
    for key, value in results.items():
        if key in ("rows", "extras") and value:
            lines = ",\n".join(json.dumps(item, separators=(",", ":")) for item in value)
            parts.append(f"{json.dumps(key)}: [\n{lines}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, indent=1, allow_nan=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
