"""Pages: what is rendered, what is refused, and that every page has the form it ought to have."""

import re

import pytest

from common import files
from tools import manifest, pages, store, tables

SLUGS = manifest.slugs()
CLAIM = {
    "id": "c1",
    "statement": "A is better than B",
    "source": "Table 1",
    "paper": "2",
    "ours": "3 [2, 4]",
    "details": "3 [2, 4]; all seeds",
    "tried": ["b", "c"],
    "also_met_by": ["B"],
    "headline": True,
    "shared": "",
    "verdict": "reproduced",
    "evidence": {},
}


def results(**changes):
    origin = {
        "commit": "0" * 40,
        "dirty": False,
        "wall_seconds": 60.0,
        "cores": 2,
        "machine": "m",
        "device": "cpu",
        "python": "3.11",
        "started": "2026-01-01T00:00:00",
    }
    return {
        "paper": "x",
        "scale": "default",
        "seeds": 5,
        "provenance": origin,
        "rows": [],
        "extras": [],
        "claims": [CLAIM],
        "tables": [],
        "figures": [],
        **changes,
    }


@pytest.mark.parametrize("slug", SLUGS)
def test_a_page_has_its_form(slug):
    assert pages.check(slug, store.committed(slug)) == []


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "![x](http://example.invalid/x.png)",
        "[x](javascript:alert(1))",
        "</table>",
        "<!-- claims:end -->",
    ],
)
def test_what_a_claim_says_is_text_and_nothing_else(text):
    shown = pages.cell(text)
    assert not re.search(r"<[A-Za-z/!]", shown) and "](" not in shown
    page = "<!-- claims:begin -->\n<!-- claims:end -->\n"
    once = pages.replace(page, "claims", shown, "p")
    assert pages.replace(once, "claims", shown, "p") == once


def test_who_else_meets_a_claim():
    assert pages.also_met(CLAIM) == "B (1 of 2)"
    assert pages.also_met({**CLAIM, "also_met_by": []}) == "none of 2"
    assert pages.also_met({**CLAIM, "tried": [], "also_met_by": []}) == "–"


def test_a_claim_that_needs_more_is_shown_from_the_scale_that_decided_it():
    open_claim = {**CLAIM, "verdict": "needs gpu"}
    shown = pages.claims_shown(
        {"default": results(claims=[open_claim]), "gpu": results(scale="gpu", claims=[CLAIM])}
    )
    assert shown[0]["verdict"] == "reproduced" and shown[0]["ours"].endswith("(SCALE=gpu)")
    undecided = {"default": results(claims=[open_claim]), "gpu": results(claims=[open_claim])}
    assert pages.claims_shown(undecided)[0]["verdict"] == "needs gpu"


GOOD = "# T\n\n" + "\n\n".join(f"## {heading}\ntext" for heading in pages.HEADINGS) + "\n"


def test_length_and_headings_are_held():
    assert pages._form(GOOD) == []
    assert "at most 130" in pages._form(GOOD + "\n" * 130)[0]
    assert "11264" in pages._form(GOOD + "x" * 12_000)[0]
    swapped = GOOD.replace("## Use it", "## X").replace("## How to run", "## Use it")
    assert "headings" in pages._form(swapped)[0]
    assert any("twice" in w for w in pages._form(GOOD + "\n## The method\n"))
    assert pages._form(GOOD + "```\n## The method\n```\n") == []


def test_dead_links_are_found(tmp_path):
    (tmp_path / "NOTES.md").write_text("")
    text = "[a](NOTES.md) [b](https://example.invalid) ![c](results/none.png) [d](#here)"
    assert pages._links(tmp_path, text) == ["link to results/none.png, which is not there"]


def test_a_number_in_what_came_out_has_rows_behind_it(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "default.md").write_text("| 0.30 [0.20, 0.40] | -1.0 [-2.0, -0.5] |")
    said = GOOD.replace("## What came out\ntext", "## What came out\n0.30 [0.20, 0.40] {}")
    assert pages._numbers(tmp_path, said.format("and −1.0 [−2.0, −0.5]")) == []
    assert pages._numbers(tmp_path, said.format("and 0.31 [0.20, 0.40]")) == [
        "'0.31 [0.20, 0.40]' is in no results/*.md"
    ]


@pytest.mark.parametrize(
    ("answer", "verdict", "right"),
    [
        ("yes", "reproduced", True),
        ("yes", "reproduced, not specific", False),
        ("yes", "contradicted", False),
        ("no", "contradicted", True),
        ("no", "reproduced", False),
        ("partly", "reproduced, not specific", True),
        ("open", "inconclusive", True),
        ("open", "needs gpu", True),
        ("open", "reproduced", False),
        ("no", "needs gpu", False),
    ],
)
def test_the_answer_goes_by_the_headline(answer, verdict, right):
    paper = manifest.load(manifest.slugs()[0])
    object.__setattr__(paper, "bibtex", "@article{x}")
    object.__setattr__(paper, "answer", manifest.Answer(answer, "because"))
    found = {"default": results(claims=[{**CLAIM, "verdict": verdict}])}
    assert (pages._answer(paper, found) == []) is right


def test_an_answer_needs_one_headline_and_forty_words():
    paper = manifest.load(manifest.slugs()[0])
    object.__setattr__(paper, "bibtex", "@article{x}")
    object.__setattr__(paper, "answer", manifest.Answer("yes", "because " * 41))
    wrong = pages._answer(paper, {"default": results(claims=[{**CLAIM, "headline": False}])})
    assert len(wrong) == 2 and "40 words" in wrong[0] and "headline" in wrong[1]


def test_a_damaged_result_says_how_to_get_it_back(tmp_path):
    folder = tmp_path / "papers" / "x" / "results"
    folder.mkdir(parents=True)
    whole = results(rows=[{"value": 1.0}])
    whole["provenance"]["rows_sha256"] = files.rows_digest(whole)
    text = tables.compact(whole)
    (folder / "default.json").write_text(text)
    assert store.committed("x", tmp_path / "papers")["default"]["rows"] == [{"value": 1.0}]
    for damaged in ("[]", "{}", text[:-9], text.replace('"value":1.0', '"value":2.0'), "null"):
        (folder / "default.json").write_text(damaged)
        with pytest.raises(files.UserError, match="git checkout papers/x/results/default.json"):
            store.committed("x", tmp_path / "papers")
