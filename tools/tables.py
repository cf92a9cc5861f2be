"""READMEs' generated blocks: ``python -m tools.tables --write | --check | --list``.

Everything between ``<!-- results:begin -->`` and ``<!-- results:end -->`` is rendered from the
committed results, never written by hand.
"""

from __future__ import annotations

import collections
import json
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import files
from common.errors import UserError, guarded
from tools import manifest
from tools.manifest import PAPERS, ROOT

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
VERDICTS = ("reproduced", "inconclusive", "contradicted")
FIRST = ("default", "gpu", "paper", "study")  # order of the scales in a README


def duration(seconds: float) -> str:
    """Minutes, or seconds below two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def cell(value: Any) -> str:
    """A value as the text of a Markdown table's cell."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(cell, columns)) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines)


# -- results in a paper's folder --------------------------------------------------------------


def committed(slug: str, papers: Path = PAPERS) -> dict[str, dict[str, Any]]:
    """Committed results of a paper: scale -> content of ``results/<scale>.json``."""
    found = {path.stem: path for path in (papers / slug / "results").glob("*.json")}
    order = [s for s in FIRST if s in found] + sorted(set(found) - set(FIRST))
    return {scale: files.read_json(found[scale]) for scale in order}


def commit(results: dict[str, Any], root: Path, papers: Path = PAPERS) -> None:
    """Copy results and figures into the paper's folder and render the READMEs.

    Raises:
        UserError: if the results come from uncommitted code, are of the smoke scale, or the
            folder can't be written.
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
    try:
        folder.mkdir(exist_ok=True)
        files.write_text(folder / f"{scale}.json", compact(results))
        for old in folder.glob(f"{scale}_*.png"):
            old.unlink()
        for name in results["figures"]:
            shutil.copyfile(root / "judged" / f"{name}.png", folder / f"{scale}_{name}.png")
    except PermissionError as error:
        raise UserError(
            f"cannot write into {folder} ({error.strerror}); make it writable and run the same "
            f"command again (nothing is lost: {root / 'results.json'})"
        ) from error
    write(papers)


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


# -- rendering --------------------------------------------------------------------------------


def render_paper(slug: str, papers: Path = PAPERS) -> str:
    """The generated block of a paper's README."""
    blocks = []
    everything = committed(slug, papers)
    if not everything:
        return f"No results yet: `make reproduce PAPER={slug}`."
    for scale, results in everything.items():
        suffix = "" if scale == "default" else f" SCALE={scale}"
        origin = results["provenance"]
        blocks.append(f"### Scale `{scale}`")
        if any(not claim["verdict"].startswith("needs") for claim in results["claims"]):
            rows = [
                [
                    f"**{claim['id']}** {claim['statement']} ({claim['source']})",
                    claim["paper"],
                    claim["ours"],
                    f"**{claim['verdict']}**",
                ]
                for claim in results["claims"]
            ]
            blocks.append(markdown(["claim", "paper", "ours", "verdict"], rows))
        for name in results["figures"]:
            blocks.append(f"![{name.replace('_', ' ')}](results/{scale}_{name}.png)")
        for table in results["tables"]:
            blocks.append(f"**{table['title']}**\n\n{markdown(table['columns'], table['rows'])}")
        blocks.append(
            f"`make reproduce PAPER={slug}{suffix}`: up to {results['seeds']} seeds, "
            f"{duration(origin['wall_seconds'])} on {origin['cores']} cores "
            f"({origin['machine']}, {origin['device']}), Python {origin['python']}, "
            f"{origin['started'][:10]}, commit {origin['commit'][:12]}."
        )
    return "\n\n".join(blocks)


def verdicts(results: dict[str, Any]) -> str:
    """ "3 reproduced, 1 contradicted" """
    counts = collections.Counter(claim["verdict"] for claim in results["claims"])
    order = [v for v in VERDICTS if v in counts] + sorted(set(counts) - set(VERDICTS))
    return ", ".join(f"{counts[v]} {v}" for v in order)


def render_overview(papers: Path = PAPERS) -> str:
    """The generated block of the top-level README: the papers here, then those planned."""
    rows: list[list[Any]] = []
    here = manifest.slugs(papers)
    for slug in here:
        paper = manifest.load(slug, papers)
        results = committed(slug, papers).get("default")
        link = f"[{slug}](papers/{slug}/README.md)"
        title = f"{paper.title} ({paper.venue})"
        rows.append(
            [
                link,
                title,
                paper.summary,
                verdicts(results) if results else "not judged yet",
                duration(results["provenance"]["wall_seconds"]) if results else "–",
            ]
        )
    rows += [[slug, title, "", "not yet", ""] for slug, title in planned() if slug not in here]
    return markdown(["paper", "title", "what is claimed", "verdicts", "wall time"], rows)


def planned() -> list[tuple[str, str]]:
    """Slug and title of every paper that the project is to hold."""
    table = tomllib.loads((ROOT / "tools" / "planned.toml").read_text())
    return [(paper["slug"], paper["title"]) for paper in table["paper"]]


def replace_block(text: str, block: str, where: Path) -> str:
    """``text`` with the generated block replaced.

    Raises:
        UserError: if the markers are missing.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise UserError(f"{where} needs one pair of markers {BEGIN} and {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n{block}\n{END}", text)


def rendered(papers: Path = PAPERS) -> dict[Path, str]:
    """Each README with what it ought to say."""
    wanted = {
        papers / slug / "README.md": render_paper(slug, papers) for slug in manifest.slugs(papers)
    }
    top = papers.parent / "README.md"
    wanted[top] = render_overview(papers)
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing; a paper needs a README with markers")
    return {path: replace_block(path.read_text(), block, path) for path, block in wanted.items()}


def write(papers: Path = PAPERS) -> None:
    """Render every README that differs."""
    for path, text in rendered(papers).items():
        if path.read_text() != text:
            files.write_text(path, text)
            print(f"rendered {path.relative_to(papers.parent)}")


def check(papers: Path = PAPERS) -> list[str]:
    """What is wrong with the committed results and READMEs; empty if nothing."""
    wrong = [
        f"{path.relative_to(papers.parent)} differs from its results; run 'make tables'"
        for path, text in rendered(papers).items()
        if path.read_text() != text
    ]
    for slug in manifest.slugs(papers):
        for scale, results in committed(slug, papers).items():
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
                f"{name}: figure {figure} is missing"
                for figure in results["figures"]
                if not (papers / slug / "results" / f"{scale}_{figure}.png").is_file()
            ]
    return wrong


def listing(papers: Path = PAPERS) -> str:
    """One line per paper that is here: slug, scales, title."""
    lines = []
    for slug in manifest.slugs(papers):
        paper = manifest.load(slug, papers)
        lines.append(f"{slug:18} {paper.title}")
        for name, scale in paper.scales.items():
            lines.append(f"{'':18}   SCALE={name:8} about {scale['minutes']:g} min")
    return "\n".join(lines)


@dataclass
class Options:
    """Render the READMEs' generated blocks, check them, or list the papers."""

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
        print(listing())


if __name__ == "__main__":
    import tyro

    guarded(lambda: main(tyro.cli(Options)))
