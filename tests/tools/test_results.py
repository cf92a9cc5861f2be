"""What is committed as results is what the tools wrote, from a commit of this history."""

import subprocess

import pytest

from tools import manifest, tables
from tools.manifest import ROOT

RESULTS = [(slug, scale) for slug in manifest.slugs() for scale in tables.committed(slug)]


def test_readmes_show_their_results_and_every_claim_has_a_verdict():
    assert tables.check() == []


def test_every_planned_paper_is_in_the_overview():
    overview = tables.render_overview()
    planned = tables.planned()
    assert len(planned) == 38 and all(slug in overview for slug, _ in planned)
    assert overview.count("not yet") == 38 - len(manifest.slugs())


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
