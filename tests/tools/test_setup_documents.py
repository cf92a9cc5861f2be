"""Workflows, issue forms and documents: they parse, and what they name exists."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tools import manifest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.y*ml"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / ".github" / "pull_request_template.md"]


def targets():
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))


def variables():
    """The variables that the Makefile takes."""
    return set(re.findall(r"^([A-Z]+)\s*\?=", (ROOT / "Makefile").read_text(), re.M))


def made(text):
    """(target, variables) of each call of make in a text."""
    for call in re.findall(r"\bmake ((?:[A-Z]+=\S+ +)*[a-z][a-z-]*(?: +[A-Z]+=\S+)*)", text):
        words = call.split()
        given = [word.split("=")[0] for word in words if "=" in word]
        yield next(word for word in words if "=" not in word), given


def unknown(text):
    """Calls of make in a text that the Makefile does not know."""
    return [
        (target, given)
        for target, given in made(text)
        if target not in targets() or not set(given) <= variables()
    ]


def test_the_calls_of_make_are_found():
    text = "`make smoke PAPER=x`, make reproduce  PAPER=a SCALE=b; make PAPER=x list"
    assert list(made(text)) == [
        ("smoke", ["PAPER"]),
        ("reproduce", ["PAPER", "SCALE"]),
        ("list", ["PAPER"]),
    ]
    assert unknown("make smok PAPER=x") and unknown("make smoke SPEED=9")


def code(text):
    """The code of a Markdown text: what stands in back-quotes."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.S))


def steps(path):
    """Name of the job, job and step, for all steps of a workflow."""
    for name, job in yaml.safe_load(path.read_text("utf-8"))["jobs"].items():
        for step in job["steps"]:
            yield name, job, step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_is_whole(path):
    table = yaml.safe_load(path.read_text("utf-8"))
    assert table["name"] and table[True]  # YAML takes the key "on" for a truth value
    assert table["permissions"] == {"contents": "read"}
    for name, job in table["jobs"].items():
        assert {"runs-on", "steps"} <= set(job), name
        assert set([job.get("needs")] if job.get("needs") else []) <= set(table["jobs"])
        assert name == "papers" or job["timeout-minutes"] <= 120
    for name, _, step in steps(path):
        assert ("uses" in step) != ("run" in step), (name, step)
        assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_runs_what_exists(path):
    called = 0
    for name, _, step in steps(path):
        run = step.get("run", "")
        assert not unknown(run), (name, run)
        called += len(list(made(run)))
        for script in re.findall(r"^\.\S+", run, re.M):
            assert (ROOT / script).stat().st_mode & 0o100, script
        for module in re.findall(r"python -m (tools\.\w+)", run):
            assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
    assert called >= 3


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_uses_what_its_matrix_has(path):
    for name, job in yaml.safe_load(path.read_text("utf-8"))["jobs"].items():
        matrix = job.get("strategy", {}).get("matrix", {})
        if isinstance(matrix, str):  # made by tools/ci_matrix.py
            keys = {"paper", "extra"}
        else:
            rows = matrix.get("include", [])
            keys = set(matrix) - {"include"} | {key for row in rows for key in row}
            assert all(set(row) == set(rows[0]) for row in rows)
        used = set(re.findall(r"\$\{\{ matrix\.(\w+) \}\}", yaml.safe_dump(job)))
        assert used <= keys, name


def test_ci_covers_what_is_promised():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert {os.split("-")[0] for os in matrix["os"]} == {"ubuntu", "macos"}
    assert matrix["python"] == ["3.11", "3.12"]
    rows = jobs["numerics"]["strategy"]["matrix"]["include"]
    for key, values in {
        "kernels": {"default", "avx2", "avx512"},
        "mkl": {"COMPATIBLE", "AVX2"},
        "threads": {"1", "2"},
    }.items():
        assert {row[key] for row in rows} == values
    for one, other in (("kernels", "mkl"), ("kernels", "threads"), ("mkl", "threads")):
        pairs = {(row[one], row[other]) for row in rows}
        assert len(pairs) == len({a for a, _ in pairs}) * len({b for _, b in pairs})
    environment = jobs["numerics"]["steps"][-1]["env"]
    assert set(environment) == {"ATEN_CPU_CAPABILITY", "MKL_CBWR", "OMP_NUM_THREADS"}


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.name)
def test_an_issue_form_is_whole(path):
    form = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) >= 3
    for field in form["body"]:
        assert field["type"] in ("markdown", "input", "textarea", "checkboxes", "dropdown")
        assert "label" in field["attributes"] or field["type"] == "markdown"
    assert not unknown(code(path.read_text("utf-8")))


def test_there_are_forms_for_what_is_asked_for():
    assert {p.stem for p in FORMS} >= {"numbers_differ", "baseline_unfair", "new_paper"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_a_document_names_what_exists(path):
    text = path.read_text("utf-8")
    assert not unknown(code(text))
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not re.match(r"https?:", link):
            assert (path.parent / link).exists(), link
    for module in re.findall(r"python3? -m (tools\.\w+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    before, _, rest = text.partition("<!-- results:begin -->")
    assert len((before + rest.partition("<!-- results:end -->")[2]).splitlines()) <= 110


def test_data_that_a_scale_needs_has_its_line():
    lines = (ROOT / "DATA.md").read_text("utf-8").splitlines()
    named = [
        (pattern, line)
        for line in lines
        if line.startswith("| `")
        for pattern in re.findall(r"`([^`]+)`", line.split("|")[1])
    ]
    for slug in manifest.slugs():
        paper = manifest.load(slug)
        for entry in {entry for scale in paper.scales for entry in paper.needs(scale).data}:
            rows = [row for pattern, row in named if fnmatch.fnmatch(entry.path, pattern)]
            assert rows, f"{slug}: {entry.path} is not in DATA.md"
            assert any(re.search(rf"\b{slug}\b", row) for row in rows), f"{slug}: {entry.path}"


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == version and citation["cff-version"] == "1.2.0"
    assert {"title", "authors", "message", "license"} <= set(citation)
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert version in headings
