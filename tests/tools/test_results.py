"""What is committed as results is what the tools wrote, from a commit of this history."""

import importlib
import json
import subprocess
import sys

import pytest

import papers
from common import claims, report
from common.rows import Rows
from tools import manifest, tables
from tools.manifest import ROOT

RESULTS = [(slug, scale) for slug in manifest.slugs() for scale in tables.committed(slug)]


def test_readmes_show_their_results_and_every_claim_has_a_verdict():
    assert tables.check() == []


def test_every_planned_paper_is_in_the_overview():
    overview = tables.render_overview()
    planned = tables.planned()
    assert len(planned) == 38 and all(slug in overview for slug, _ in planned)
    here, missing = overview.split("Planned and not here yet: ")
    assert here.count("](papers/") == len(manifest.slugs())
    assert len(missing.split("; ")) == 38 - len(manifest.slugs())


@pytest.mark.parametrize(("slug", "scale"), RESULTS)
def test_results_come_from_a_commit_of_this_history(slug, scale):
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    results = tables.committed(slug)[scale]
    assert results["paper"] == slug and results["scale"] == scale
    commit = results["provenance"]["commit"]
    shallow = git("rev-parse", "--is-shallow-repository").stdout.strip() != "false"
    assert shallow or git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0


@pytest.mark.parametrize(("slug", "scale"), RESULTS)
def test_results_are_small_and_judge_what_the_paper_claims(slug, scale):
    assert (ROOT / "papers" / slug / "results" / f"{scale}.json").stat().st_size < 1_500_000
    results = tables.committed(slug)[scale]
    ids = [claim["id"] for claim in results["claims"]]
    assert len(ids) == len(set(ids)) > 0
    assert all(claim["statement"] and claim["paper"] for claim in results["claims"])


@pytest.fixture
def judges(monkeypatch, request):
    """Claims and report of a paper, imported anew: other tests may have changed a number there."""
    slug = request.getfixturevalue("slug")
    package = importlib.import_module(f"papers.{slug}")
    monkeypatch.setattr(papers, slug, package)  # to be put back in the end
    for name in [n for n in sys.modules if f"{n}.".startswith(f"papers.{slug}.")]:
        monkeypatch.delitem(sys.modules, name)
    return [importlib.import_module(f"papers.{slug}.{name}") for name in ("claims", "report")]


@pytest.mark.parametrize(("slug", "scale"), RESULTS)
def test_committed_verdicts_and_tables_are_what_the_judges_say(slug, scale, judges):
    results = tables.committed(slug)[scale]
    rows, (judging, showing) = Rows(results["rows"]), judges
    plan = claims.plan_of(ROOT / "papers" / slug / "paper.toml")
    judged = claims.judge_all(judging.CLAIMS, judging.METHODS, rows, scale, plan)
    assert json.loads(json.dumps(judged)) == results["claims"]
    shown = report.report(showing.tables(rows), {})
    assert json.loads(json.dumps(shown["tables"])) == results["tables"]
