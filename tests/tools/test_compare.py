"""A run against what is committed, all papers in the time there is, and READMEs' examples."""

import copy
import json
import time

import pytest
from rich.console import Console

from common.errors import UserError
from tools import compare, everything, executors, manifest, progress, reproduce, snippets

ORIGIN = {
    "commit": "a" * 40,
    "dirty": False,
    "machine": "Linux, X",
    "device": "cpu",
    "packages": {"numpy": "1.26", "torch": "2.13"},
    "sources": {"papers/p/train.py": "1", "common/run.py": "2"},
    "wall_seconds": 60.0,
}


def results(**verdicts):
    claims = [{"id": k, "verdict": v, "ours": f"{k}=1"} for k, v in verdicts.items()]
    return {
        **{"paper": "p", "scale": "default", "seeds": 5, "provenance": copy.deepcopy(ORIGIN)},
        **{"claims": claims, "rows": [], "extras": [], "tables": [], "figures": []},
    }


@pytest.fixture
def papers(tmp_path):
    folder = tmp_path / "papers"
    (folder / "p" / "results").mkdir(parents=True)
    committed = results(a="reproduced", b="contradicted")
    (folder / "p" / "results" / "default.json").write_text(json.dumps(committed))
    return folder


def test_the_same_verdicts_agree(papers):
    compared = compare.against(results(a="reproduced", b="contradicted"), papers)
    assert compared.line == "2 of 2 verdicts as committed" and not compared.differing
    assert compared.shown({"id": "a"}) == "reproduced: a=1" and compared.shown({"id": "c"}) == "–"
    assert compare.against({**results(), "scale": "gpu"}, papers) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(seeds=2), "2 seeds, not 5"),
        (lambda r: r["provenance"].update(seed_offset=100), "other seeds (from 100)"),
        (lambda r: r["provenance"]["packages"].update(torch="3"), "(torch 3 for 2.13)"),
        (lambda r: r["provenance"].update(machine="Y"), "another machine (Y for Linux, X)"),
        (lambda r: r["provenance"].update(gpu="G"), "another machine (G for None)"),
        (
            lambda r: r["provenance"]["sources"].update({"papers/p/train.py": "9"}),
            "changed code (papers/p/train.py)",
        ),
        (
            lambda r: r["provenance"].update(sources={}, commit="b" * 40),
            "code of another commit (aaaaaaaaaaaa)",
        ),
        (lambda r: None, "nothing that is recorded"),
    ],
)
def test_a_verdict_that_differs_is_explained(papers, change, words):
    mine = results(a="inconclusive", b="contradicted")
    change(mine)
    compared = compare.against(mine, papers)
    assert compared.differing == ["a"]
    assert compared.line.startswith("1 of 2 verdicts as committed; a differ: ")
    assert words in compared.line and "\n" not in compared.line


def test_the_table_has_a_column_with_what_is_committed(papers, monkeypatch, capsys):
    real = compare.against
    monkeypatch.setattr(compare, "against", lambda results: real(results, papers))
    console = Console(width=200, highlight=False)
    monkeypatch.setattr(reproduce, "console", console)
    mine = results(a="inconclusive", b="contradicted")
    for claim in mine["claims"]:
        claim |= {"statement": "holds [or not]", "paper": "[1, 2]"}
    mine["provenance"]["busy"] = None
    with console.capture() as captured:
        reproduce.show(mine, papers)
    shown = captured.get()
    assert "committed" in shown and "differs reproduced: a=1" in shown
    assert "holds [or not]" in shown and "[1, 2]" in shown


# -- all papers -------------------------------------------------------------------------------


MINIMAL = """
slug = "{slug}"
title = "t"
authors = "a"
venue = "v"
arxiv = "x"
summary = "s"
extra = "base"
imports = []
[scales.default]
seeds = 1
minutes = {minutes}
[[scales.default.stages]]
methods = ["m", "n"]
"""


def test_all_papers_go_on_from_the_shortest_and_end_in_one_table(papers):
    for slug, minutes in (("p", 3), ("q", 1), ("r", 2), ("z", 9)):
        (papers / slug).mkdir(exist_ok=True)
        text = MINIMAL.format(slug=slug, minutes=minutes)
        (papers / slug / "paper.toml").write_text(text)
    begun = []

    def begin(paper):
        begun.append(paper.slug)
        if paper.slug == "q":
            raise UserError("a package is missing")
        if paper.slug == "z":
            raise everything.OutOfTime("2 jobs do not fit")
        return {**results(a="reproduced", b="contradicted"), "paper": paper.slug}

    console = Console(width=120)
    with console.capture() as captured, pytest.raises(UserError, match="^q failed; the same"):
        everything.run(begin, "default", console, papers)
    shown = captured.get()
    assert begun == ["q", "r", "p", "z"]
    for words in (
        "a package is missing",
        "nothing of this scale is committed",
        "2 of 2 verdicts as committed",
        "2 jobs do not fit",
        "1 papers are not at their end",
    ):
        assert words in shown, shown
    with pytest.raises(UserError, match="no paper has a scale gpu"):
        everything.run(begin, "gpu", console, papers)


def scale(minutes):
    stages = [{"methods": ["m", "n"]}]
    table = {"default": {"seeds": 2, "minutes": minutes, "stages": stages}}
    return manifest.Manifest("p", "t", "a", "v", "x", "s", "e", (), table).scale("default")


def scripted(monkeypatch, code):
    monkeypatch.setattr(executors, "commands", lambda *_: [["-c", code]])
    monkeypatch.setattr(executors, "done", lambda job, folder, device: (folder / "ok").exists())


def test_a_job_that_would_not_fit_is_not_begun(monkeypatch, tmp_path):
    scripted(monkeypatch, "open('never', 'w')")
    executor = executors.Local(tmp_path, 2)
    assert reproduce.planned_seconds(scale(4), 2) == 120
    with pytest.raises(everything.OutOfTime, match="4 jobs of stage train do not fit"):
        reproduce.run_stages(scale(4), executor, tmp_path, "cpu", time.monotonic() + 100)
    assert not list(tmp_path.iterdir())


def test_jobs_are_stopped_when_the_time_is_over(monkeypatch, tmp_path):
    scripted(monkeypatch, "import time; time.sleep(60)")
    executor, begun = executors.Local(tmp_path, 2), time.monotonic()
    with pytest.raises(everything.OutOfTime, match="the time is over"):
        reproduce.run_stages(scale(0.001), executor, tmp_path, "cpu", begun + 1)
    assert time.monotonic() - begun < 15


def test_hours_end_in_one_line(repository, tmp_path):
    arguments = ("toy", "--scale", "smoke", "--runs", str(tmp_path), "--hours", "0.0001")
    done = repository.tool("reproduce", *arguments, check=True)
    assert "do not fit" in done.stdout and done.stdout.strip().endswith("the same command goes on")
    done = repository.tool("reproduce", "all", "--hours", "-1")
    assert done.returncode == 2 and "--hours must be" in done.stderr


def test_all_goes_on_where_it_was(repository, tmp_path):
    arguments = ("all", "--scale", "smoke", "--runs", str(tmp_path))
    done = repository.tool("reproduce", *arguments, "--hours", "1", check=True)
    assert "toy: done" in done.stdout
    assert "4 of 4 jobs are finished" in repository.tool("reproduce", *arguments, check=True).stdout


def test_other_seeds_have_folders_of_their_own(repository, tmp_path):
    arguments = ("toy", "--scale", "smoke", "--runs", str(tmp_path))
    repository.tool("reproduce", *arguments, "--seed-offset", "100", check=True)
    found = json.loads((tmp_path / "toy/smoke-seeds-from-100/results.json").read_text())
    assert {row["seed"] for row in found["rows"]} == {100, 101}
    assert found["provenance"]["seed_offset"] == 100
    jobs = found["jobs"]
    assert jobs[0]["seeds"] == [100, 101] and jobs[0]["seconds"] > 0 and jobs[0]["threads"] == 1
    assert {"name", "stage", "task", "method"} <= set(jobs[0])
    sources = found["provenance"]["sources"]
    assert "papers/toy/eval.py" in sources and "common/run.py" in sources


# -- what is seen of running jobs ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (
            {"step": 1200, "total": 4000, "loss": 0.12, "rate": 310.0},
            "step 1200/4000, loss 0.12, 310 steps/s, 9 s left",
        ),
        ({"step": 5, "total": None, "loss": None, "rate": 0}, "step 5"),
        ({"step": "x", "total": [], "rate": {}}, ""),
        ({}, ""),
    ],
)
def test_what_a_running_job_says(said, text):
    assert progress.sentence(said) == text


@pytest.mark.parametrize("terminal", [True, False])
def test_running_jobs_are_shown(tmp_path, monkeypatch, terminal):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 0)
    job = scale(1).jobs[0]
    folder = tmp_path / job.name
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text('{"step": 30, "total": 40, "loss": 1.5, "rate": 10}')
    console = Console(
        width=160, force_terminal=terminal, force_interactive=terminal, highlight=False
    )
    with console.capture() as captured, progress.reporter(console, "train", 4, tmp_path) as seen:
        seen.watch([job])
        time.sleep(0.3)  # the bar is drawn ten times a second
        seen.ended(executors.Outcome(job, False, 2.0, "it [broke]"))
        seen.watch([])
    shown = captured.get()
    for words in ("step 30/40, loss 1.5, 10 steps/s, 1 s left", "it [broke]", job.name, "1/4"):
        assert words in shown, shown


# -- examples ---------------------------------------------------------------------------------

README = """# A paper
```python
raise SystemExit("not this one")
```
## Use it
Words.
```python
from pathlib import Path
print(Path("runs/p/smoke/x").read_text() + '.')
{extra}
```
## Next
```python
raise SystemExit("nor this one")
```
"""


def test_the_example_is_the_first_block_under_its_heading():
    code = snippets.example(README.format(extra=""))
    assert code.startswith("from pathlib") and "SystemExit" not in code
    assert snippets.example("# A\n## Use it\nwords\n## B\n```python\nx\n```\n") is None
    assert snippets.example("# A\n```python\nx\n```\n") is None
    assert snippets.located("a('runs/x', \"runs/y\", 'myruns/z')", "/r") == (
        "a('/r/x', \"/r/y\", 'myruns/z')"
    )


def test_the_example_runs_and_fails_as_it_should(tmp_path):
    runs, papers = tmp_path / "rü 'ns", tmp_path / "papers"
    (runs / "p" / "smoke").mkdir(parents=True)
    (runs / "p" / "smoke" / "x").write_text("here")
    (papers / "p").mkdir(parents=True)
    assert not snippets.check("p", runs, papers)
    readme = papers / "p" / "README.md"
    readme.write_text(README.format(extra="import common"), encoding="utf-8")
    assert snippets.check("p", runs, papers)
    readme.write_text(README.format(extra="1 / 0"), encoding="utf-8")
    with pytest.raises(UserError, match=r"the example under 'Use it' .* fails: ZeroDivisionError"):
        snippets.check("p", runs, papers)


def test_an_example_that_fails_fails_the_smoke(own_repository, tmp_path):
    readme = own_repository.root / "papers" / "toy" / "README.md"
    arguments = ("toy", "--scale", "smoke", "--runs", str(tmp_path / "runs"))
    block = "\n## Use it\n```python\nimport os; os.listdir('runs/toy/smoke/train'){}\n```\n"
    text = readme.read_text().replace("## Use it", "## Used")
    readme.write_text(text + block.format(""))
    done = own_repository.tool("reproduce", *arguments, check=True)
    line = done.stdout.strip().splitlines()[-1]
    assert line.startswith("wiring works; ") and "claims not judged; " in line
    assert "the example runs" in line
    readme.write_text(text + block.format("; wrong"))
    done = own_repository.tool("reproduce", *arguments)
    assert done.returncode == 2 and "the example under 'Use it'" in done.stderr
