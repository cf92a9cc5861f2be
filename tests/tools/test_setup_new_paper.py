"""A scaffolded paper passes lint, its tests and smoke at once; a bad name is refused."""

import subprocess
import sys

import pytest
import yaml

from tools import ci_matrix, manifest
from tools.new_paper import LONGEST


def run(repository, *command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=repository.root,
        env=repository.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_scaffold_passes_lint_tests_and_smoke(own_repository, tmp_path, kind):
    longest = "x" * LONGEST
    words = ("new_paper", longest, "--title", 'A "title"', "--kind", kind)
    done = own_repository.tool(*words, check=True)
    assert f" 1. make smoke PAPER={longest}" in done.stdout
    run(own_repository, "ruff", "check", "papers", "tests")
    run(own_repository, "ruff", "format", "--check", "papers", "tests")
    run(own_repository, "pytest", "-q", "-p", "no:cacheprovider", f"tests/papers/{longest}")
    done = own_repository.tool(
        "reproduce", longest, "--scale", "smoke", "--runs", str(tmp_path), check=True
    )
    assert "not judged" in done.stdout and 'A "title"' in done.stdout
    assert manifest.load(longest, own_repository.root / "papers").title == 'A "title"'


def test_the_scaffold_judges_its_claims(repository, tmp_path):
    done = repository.tool("reproduce", "toy", "--runs", str(tmp_path), check=True)
    assert done.stdout.count("reproduced") == 2


def test_a_planned_paper_gets_its_title(own_repository):
    own_repository.tool("new_paper", "dws", check=True)
    text = (own_repository.root / "papers" / "dws" / "README.md").read_text()
    assert text.startswith("# Pre-Trained Video Generative Models as World Simulators\n")


@pytest.mark.parametrize("slug", ["2x", "Toy", "a-b", "", "../x", "class", "x" * 40, "toy"])
def test_a_bad_name_is_refused(repository, slug):
    before = sorted(path for path in repository.root.rglob("*") if "__pycache__" not in path.parts)
    done = repository.tool("new_paper", slug)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    after = sorted(path for path in repository.root.rglob("*") if "__pycache__" not in path.parts)
    assert after == before


def test_the_matrix_of_ci_has_a_job_per_paper(own_repository):
    own_repository.tool("new_paper", "another", check=True)
    jobs = ci_matrix.matrix(own_repository.root / "papers")["include"]
    assert jobs == [{"paper": "another", "extra": "base"}, {"paper": "toy", "extra": "base"}]
    line = own_repository.tool("ci_matrix", check=True).stdout
    assert line.startswith("matrix={") and line.count("\n") == 1


def test_ci_uses_the_matrix():
    path = manifest.ROOT / ".github" / "workflows" / "ci.yml"
    jobs = yaml.safe_load(path.read_text())["jobs"]
    assert jobs["papers"]["outputs"]["matrix"] == "${{ steps.list.outputs.matrix }}"
    assert jobs["smoke"]["strategy"]["matrix"] == "${{ fromJSON(needs.papers.outputs.matrix) }}"
    assert jobs["smoke"]["steps"][-1]["run"] == "make smoke PAPER=${{ matrix.paper }}"
    assert jobs["test"]["steps"][-1]["run"] == ".ci/run"
