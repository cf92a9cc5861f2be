"""What is committed as results is what the tools wrote, from a commit of this history."""

import importlib
import json
import subprocess

import pytest

from common import claims, report
from common.rows import Rows
from tests.papers.kit import imported_anew
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
    begun = [s for s in manifest.slugs(drafts=True) if s not in manifest.slugs()]
    assert len(missing.split("; ")) == 38 - len(manifest.slugs()) - len(begun)
    assert not begun or f"without results: {', '.join(begun)}." in here


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
    assert len(ids) == len(set(ids))
    assert ids or scale == "tuning"  # which chooses, and claims nothing
    assert all(claim["statement"] and claim["paper"] for claim in results["claims"])


@pytest.mark.parametrize(("slug", "scale"), RESULTS)
def test_committed_verdicts_and_tables_are_what_the_judges_say(slug, scale):
    results = tables.committed(slug)[scale]
    rows = Rows(results["rows"])
    plan = claims.plan_of(ROOT / "papers" / slug / "paper.toml")
    with imported_anew(slug):  # other tests may have changed a number there
        judging = importlib.import_module(f"papers.{slug}.claims")
        showing = importlib.import_module(f"papers.{slug}.report")
        judged = claims.judge_all(judging.CLAIMS, judging.METHODS, rows, scale, plan)
        shown = report.report(showing.tables(rows), {})
    assert json.loads(json.dumps(judged)) == results["claims"]
    assert json.loads(json.dumps(shown["tables"])) == results["tables"]


@pytest.mark.parametrize("slug", manifest.slugs())
def test_rows_of_one_seed_are_judged_and_shown(slug):
    """``SEEDS=1``: too few for an interval, and no error."""
    first: dict[tuple[str, str], int] = {}
    few = []
    for row in tables.committed(slug)["default"]["rows"]:
        cell = row["task"], row["method"]
        if row["seed"] < 0 or row["seed"] == first.setdefault(cell, row["seed"]):  # -1: of no seed
            few.append(row)
    rows = Rows(few)
    plan = claims.plan_of(ROOT / "papers" / slug / "paper.toml")
    with imported_anew(slug):
        judging = importlib.import_module(f"papers.{slug}.claims")
        showing = importlib.import_module(f"papers.{slug}.report")
        judged = claims.judge_all(judging.CLAIMS, judging.METHODS, rows, "default", plan)
        assert all(claim["verdict"] for claim in judged) and len(judged) == len(judging.CLAIMS)
        assert report.report(showing.tables(rows), {})["tables"]
