"""From manifest to verdicts: what is run, skipped, refused; damage between two runs."""

import json
import shutil
import sys
import time

import pytest

from common import files
from common.errors import UserError
from tools import executors, manifest, tables
from tools.manifest import flags

SMOKE = ("toy", "--scale", "smoke")


def one_line(done, *words):
    """The tool failed with one clear line."""
    assert done.returncode != 0
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert all(word in lines[0] for word in words), lines[0]


@pytest.fixture
def copy(finished, tmp_path):
    """Run directories of a finished smoke run, to be damaged."""
    return finished.copy(tmp_path)


def rows(folder):
    return json.loads((folder / "results.json").read_text())["rows"]


def again(repository, folder):
    runs = folder.parents[1]
    return repository.tool("reproduce", *SMOKE, "--runs", str(runs), check=True)


def test_results_hold_what_the_design_says(finished, repository):
    results = finished.results
    assert {"paper", "scale", "provenance", "rows", "claims"} <= set(results)
    origin = results["provenance"]
    assert origin["commit"] == repository.git("rev-parse", "HEAD").strip()
    assert origin["dirty"] is False and origin["wall_seconds"] > 0 and origin["cores"] >= 1
    assert {"python", "packages", "machine", "device", "started"} <= set(origin)
    assert {"method", "task", "seed", "metric", "value"} <= set(results["rows"][0])
    claim = results["claims"][0]
    assert {"id", "statement", "source", "verdict", "evidence"} <= set(claim)
    assert "toy at scale smoke" in finished.printed


def test_what_is_finished_is_skipped(repository, copy):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*.safetensors")}
    done = again(repository, copy)
    assert "jobs are finished" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*.safetensors")} == before


def one(folder, name):
    return sorted(folder.rglob(name))[0]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damages",  # each to another job
    [
        [
            lambda job: flip(job / "eval.json"),
            lambda job: (job / "eval.json").write_text('{"rows": ['),
            lambda job: (job / "eval.json").unlink(),
            lambda job: (job / "job.json").write_text(""),
        ],
        [
            lambda job: (job / "finished.json").unlink(),
            lambda job: (job / "sources.json").write_text("{"),
            shutil.rmtree,
        ],
        [lambda job: (job.parents[3] / "results.json").write_text("{")],
    ],
    ids=["evaluations", "marks", "results"],
)
def test_damage_is_repaired(repository, finished, copy, damages):
    jobs = sorted(path.parent for path in copy.rglob("eval.json"))
    assert (copy / "results.json").is_file() and jobs[0].parents[3] == copy
    for job, damage in zip(jobs, damages, strict=False):
        damage(job)
    again(repository, copy)
    assert rows(copy) == finished.results["rows"]


def test_a_digit_changed_in_an_evaluation_is_noticed(repository, finished, copy):
    path = one(copy, "eval.json")
    evaluation = json.loads(path.read_text())
    evaluation["rows"][0]["value"] = 123.0
    path.write_text(json.dumps(evaluation))
    again(repository, copy)
    assert rows(copy) == finished.results["rows"]


def test_changed_code_runs_again_and_changed_claims_do_not(own_repository, tmp_path):
    runs = tmp_path / "runs"
    own_repository.tool("reproduce", *SMOKE, "--runs", str(runs), check=True)
    paper = own_repository.root / "papers" / "toy"
    with open(paper / "claims.py", "a") as file:
        file.write("\n# a remark\n")
    done = own_repository.tool("reproduce", *SMOKE, "--runs", str(runs), check=True)
    assert "jobs are finished" in done.stdout and "uncommitted changes" in done.stdout
    with open(paper / "method.py", "a") as file:
        file.write("\n# a remark\n")
    done = own_repository.tool("reproduce", *SMOKE, "--runs", str(runs), check=True)
    assert "jobs are finished" not in done.stdout
    assert list(runs.rglob("*.stale"))


def test_a_failing_job_is_one_line_and_the_rest_is_kept(own_repository, tmp_path):
    train = own_repository.root / "papers" / "toy" / "train.py"
    text = train.read_text()
    train.write_text(
        text.replace(
            "run = Run.open", "assert cfg.method != 'sample_mean', 'broken'\n    run = Run.open"
        )
    )
    done = own_repository.tool("reproduce", *SMOKE, "--runs", str(tmp_path / "runs"))
    one_line(done, "failed", "broken", "log.txt")
    whole = {path.parent.parent.name for path in tmp_path.rglob("eval.json")}
    assert whole and "sample_mean" not in whole


def test_bad_input_is_one_line(repository, tmp_path):
    one_line(repository.tool("reproduce", "toi"), "unknown paper 'toi'", "did you mean toy")
    one_line(repository.tool("reproduce", "toy", "--scale", "smok"), "did you mean smoke")
    one_line(repository.tool("reproduce", "toy", "--seeds", "0"), "SEEDS must be 1")
    one_line(repository.tool("bench", "toi"), "did you mean toy")


def test_an_unknown_method_is_one_line(repository, tmp_path):
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "papers.toy.train", "--method", "no-such", "--out", str(tmp_path)],
        cwd=repository.root,
        env=repository.environment(),
        capture_output=True,
        text=True,
    )
    one_line(done, "unknown method 'no-such'")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("slug =", "slug "), ("paper.toml is damaged", "line")),
        (("title =", "titel ="), ("paper.toml lacks 'title'",)),
        (("methods =", "method ="), ("unknown key 'method'",)),
        (('slug = "toy"', 'slug = "yot"'), ("slug is 'yot', its folder is 'toy'",)),
        (('["median_of_means", "sample_mean"]', '["../../../x"]'), ("stage 1: 'methods' must be",)),
        (("imports = [", 'imports = ["no_such_package", '), ("no_such_package", "make setup")),
    ],
)
def test_a_damaged_manifest_is_one_line(own_repository, change, words):
    path = own_repository.root / "papers" / "toy" / "paper.toml"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    one_line(own_repository.tool("reproduce", *SMOKE), *words)


HOSTILE = [
    {"methods": [3]},
    {"methods": ["--out"]},
    {"methods": ["/x"]},
    {"methods": [".."]},
    {"methods": []},
    {"methods": "m"},
    {"tasks": ["a/../../b"]},
    {"name": "../../.."},
    {"name": ""},
    {"module": "../x"},
    {"module": "os.path"},
    {"seeds": "3"},
    {"seeds": -1},
    {"seeds": True},
    {"first_seed": -5},
    {"seeds_per_job": 0},
    {"threads": "two"},
    {"threads": 0},
    {"gpus": "one"},
    {"eval": "yes"},
    {"args": ["--out", "x"]},
    {"args": {"out": "x"}},
    {"args": {"--out": "x"}},
    {"args": {"x": {"y": 1}}},
    {"args": {"x": float("nan")}},
    {"grid": {"lr": []}},
    {"grid": {"lr": 0.1}},
    {"grid": {"lr": ["../x"]}},
    {"grid": {"seed": [1]}},
]


@pytest.mark.parametrize("stage", HOSTILE, ids=str)
def test_a_hostile_stage_is_refused(stage):
    with pytest.raises(UserError, match="^here"):
        manifest._check("here", stage, manifest._STAGE)


@pytest.mark.parametrize(
    ("kinds", "table"),
    [
        ("_PAPER", {"slug": "../.."}),
        ("_PAPER", {"imports": 3}),
        ("_PAPER", {"imports": ["no such"]}),
        ("_PAPER", {"title": ""}),
        ("_PAPER", {"summary": "a\x1b[2Jb"}),
        ("_SCALE", {"minutes": "x"}),
        ("_SCALE", {"minutes": 0}),
        ("_SCALE", {"stages": {}}),
        ("_SCALE", {"stages": []}),
        ("_SCALE", {"disk_gb": -1}),
        ("_DATA", {"path": "../x"}),
        ("_DATA", {"path": "/etc/passwd"}),
        ("_ANSWER", {"verdict": "maybe"}),
        ("_ANSWER", {"reason": "word " * 41}),
    ],
)
def test_a_hostile_manifest_is_refused(kinds, table):
    with pytest.raises(UserError, match="^here"):
        manifest._check("here", table, getattr(manifest, kinds))


PLAIN = """
slug = "plain"
title = "t"
authors = "a"
venue = "v"
arxiv = "x"
summary = "s"
extra = "base"
imports = []
scales = {default = {seeds = 1, minutes = 1, stages = [{methods = ["m"]}]}}
"""


def test_answer_and_bibtex(tmp_path):
    (tmp_path / "plain").mkdir()
    path = tmp_path / "plain" / "paper.toml"
    path.write_text(PLAIN)
    assert manifest.load("plain", tmp_path).answer is None
    keys = 'bibtex = """@article{x,\n}"""\nanswer = {verdict = "partly", reason = "Some do."}\n'
    path.write_text(keys + PLAIN)
    loaded = manifest.load("plain", tmp_path)
    assert loaded.answer == ("partly", "Some do.") and loaded.bibtex.startswith("@article{x,")
    path.write_text('answer = {verdict = "partly"}\n' + PLAIN)
    with pytest.raises(UserError, match="answer lacks 'reason'"):
        manifest.load("plain", tmp_path)


def test_a_planned_paper_is_named_as_such(tmp_path):
    for planned in manifest.planned():  # in a folder that holds none of them
        with pytest.raises(UserError, match=f"{planned} is planned and not here yet"):
            manifest.load(planned, tmp_path)


# -- committing results -----------------------------------------------------------------------


def test_results_are_committed_and_rendered(own_repository, tmp_path):
    arguments = ("toy", "--runs", str(tmp_path / "runs"), "--commit-results")
    own_repository.tool("reproduce", *arguments, check=True)
    paper = own_repository.root / "papers" / "toy"
    assert json.loads((paper / "results" / "default.json").read_text())["claims"]
    assert (paper / "results" / "default.md").is_file()
    assert "**Does it hold?" in (paper / "README.md").read_text()
    assert "(papers/toy/README.md)" in (own_repository.root / "README.md").read_text()
    one_line(own_repository.tool("tables", "--check"), "it answers 'open'")
    answered = (paper / "paper.toml").read_text().replace('verdict = "open"', 'verdict = "yes"')
    (paper / "paper.toml").write_text(answered)
    own_repository.tool("tables", "--write", check=True)
    own_repository.tool("tables", "--check", check=True)

    text = (paper / "README.md").read_text()
    (paper / "README.md").write_text(text.replace("**Does it hold?", "**Did it?"))
    one_line(own_repository.tool("tables", "--check"), "differs from its results")
    own_repository.tool("tables", "--write", check=True)
    own_repository.tool("tables", "--check", check=True)

    path = paper / "results" / "default.json"
    saved = path.read_text()
    path.write_text(saved.replace('"dirty": false', '"dirty": true'))
    one_line(own_repository.tool("tables", "--check"), "uncommitted code")
    results = json.loads(saved)
    results["claims"][0]["verdict"] = ""
    path.write_text(json.dumps(results))
    own_repository.tool("tables", "--write", check=True)
    one_line(own_repository.tool("tables", "--check"), "has no verdict")


def test_results_of_uncommitted_code_are_refused(own_repository, tmp_path):
    (own_repository.root / "papers" / "toy" / "extra.txt").write_text("x")
    arguments = ("toy", "--runs", str(tmp_path / "runs"), "--commit-results")
    done = own_repository.tool("reproduce", *arguments)
    one_line(done, "results of uncommitted code", "results are kept")


def test_a_results_folder_that_cannot_be_written_loses_nothing(finished, monkeypatch, tmp_path):
    results = {**finished.results, "scale": "default"}
    (tmp_path / "toy").mkdir()

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "write_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot write into .*nothing is lost"):
        tables.commit(results, finished.folder, tmp_path)


# -- laying out jobs --------------------------------------------------------------------------


def test_flags_have_tyros_form():
    assert flags({"horizon": 10, "warm_start": False, "deep": True, "w": [1, 2]}) == [
        *("--horizon", "10", "--no-warm-start", "--deep", "--w", "1", "2")
    ]


def paper(stages, seeds=5):
    table = {"default": {"seeds": seeds, "minutes": 1, "stages": stages}}
    return manifest.Manifest("p", "t", "a", "v", "x", "s", "e", (), table)


def test_jobs_are_a_grid_with_groups_of_seeds():
    scale = paper(
        [
            {"name": "data", "module": "demos", "tasks": ["a"], "seeds": 0},
            {"methods": ["m", "n"], "tasks": ["a", "b"], "seeds_per_job": 2, "args": {"k": 1}},
            {"name": "train", "methods": ["m"], "tasks": ["c"], "seeds": 1},
        ]
    ).scale("default")
    assert [name for name, _ in scale.stages] == ["data", "train"]
    (data,) = scale.stages[0][1]
    assert data.command == ["-m", "papers.p.demos", "--task", "a"] and not data.evaluated
    train = scale.stages[1][1]
    assert len(train) == 2 * 2 * 3 + 1 and all(job.evaluated for job in train)
    assert train[0].name == "train/a/m/seed-0-1" and train[2].name == "train/a/m/seed-4"
    assert train[0].command == [
        *("-m", "papers.p.train", "--method", "m", "--task", "a"),
        *("--seed", "0", "1", "--k", "1"),
    ]


def test_seeds_override_every_count():
    stages = [
        {"methods": ["m"], "seeds": 20, "seeds_per_job": 20},
        {"name": "data", "module": "demos", "seeds": 0},
    ]
    scale = paper(stages).scale("default", seeds=2)
    assert scale.jobs[0].seeds == (0, 1) and scale.jobs[1].seeds == ()


def test_two_jobs_of_one_name_are_refused():
    with pytest.raises(UserError, match="two jobs named"):
        paper([{"methods": ["m"]}, {"methods": ["m"], "args": {"k": 2}}]).scale("default")


def test_longer_jobs_share_the_cores_out(tmp_path, monkeypatch):
    """Jobs times threads never exceeds the cores."""
    running = peak = 0

    class Fake:
        def __init__(self, job, folder, device, threads, cache, gpu, share, nurseries):
            nonlocal running, peak
            self.job, self.threads, self.gpu, self.process = job, threads, gpu, None
            running += threads
            peak = max(peak, running)
            self.polls = 0

        def poll(self):
            nonlocal running
            self.polls += 1
            if self.polls < 3:
                return None
            running -= self.threads
            return executors.Outcome(self.job, True, 0.0)

    monkeypatch.setattr(executors, "Running", Fake)
    scale = paper(
        [
            {"methods": ["m"], "threads": 2},
            {"name": "train", "methods": ["n"], "threads": 1},
            {"name": "train", "methods": ["o"], "threads": 8},
        ]
    ).scale("default")
    seen = []

    class Looking:
        def running(self, jobs):
            seen.append(len(jobs))

        def fits(self, job):
            return job.method != "o" or job.seeds != (4,)

    local = executors.Local(tmp_path, cores=3)
    outcomes = list(local.run(scale.jobs, "cpu", Looking()))
    assert len(outcomes) == 14 and peak == 3 and max(seen) == 2


def test_too_many_jobs_are_refused_at_once():
    begun = time.monotonic()
    for count in (10**5, 10**9):
        with pytest.raises(UserError, match="more than 10000; choose fewer SEEDS"):
            paper([{"methods": ["m"]}]).scale("default", seeds=count)
    assert time.monotonic() - begun < 1


def test_a_job_inside_another_is_refused():
    with pytest.raises(UserError, match="train/seed-0/seed-0 would lie inside"):
        paper([{}, {"tasks": ["seed-0"]}]).scale("default")


def test_a_grid_is_one_job_per_combination():
    stage = {"methods": ["m"], "seeds_per_job": 3, "first_seed": 1000, "args": {"steps": 5}}
    stage["grid"] = {"lr": [1e-4, 3e-4], "norm": [True, False]}
    jobs = paper([stage], seeds=3).scale("default").jobs
    assert [job.name for job in jobs] == [
        "train/m/lr=0.0001/norm=True/seed-1000-1002",
        "train/m/lr=0.0001/norm=False/seed-1000-1002",
        "train/m/lr=0.0003/norm=True/seed-1000-1002",
        "train/m/lr=0.0003/norm=False/seed-1000-1002",
    ]
    assert jobs[2].command[-5:] == ["--steps", "5", "--lr", "0.0003", "--norm"]
    stage["args"]["lr"] = 1
    with pytest.raises(UserError, match="'lr' stands in 'grid' and in 'args'"):
        paper([stage]).scale("default")


def test_other_seeds():
    stages = [{"methods": ["m"], "seeds_per_job": 3}, {"name": "data", "seeds": 0}]
    scale = paper(stages).scale("default", seed_offset=100)
    assert [job.seeds for job in scale.jobs] == [(100, 101, 102), (103, 104), ()]
    assert scale.jobs[0].name == "train/m/seed-100-102"
