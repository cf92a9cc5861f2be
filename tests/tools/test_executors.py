"""Jobs that fail, are damaged or come back damaged: what is tried again, refused, said."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest

from common import files
from common.errors import UserError
from tools import executors, manifest, provenance

SMOKE = ("toy", "--scale", "smoke")


def job(method="m", seeds=(0,)):
    return manifest.Job("toy", "smoke", "train", "train", True, method, "t", seeds, (), 1, 0)


# -- failures ---------------------------------------------------------------------------------


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """Runs Python texts in the place of a job's training and evaluation, to its outcome."""

    def run(train, evaluate="pass"):
        def commands(job, folder, device):
            finished = (folder / "finished.json").is_file()
            return ([] if finished else [["-c", train]]) + [["-c", evaluate, ".eval"]]

        monkeypatch.setattr(executors, "commands", commands)
        monkeypatch.setattr(
            executors.Running, "_is_evaluation", staticmethod(lambda command: ".eval" in command)
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(executors, "ROOT", tmp_path)
        item = executors.Running(job(), tmp_path / "job", "cpu", 1, tmp_path / "cache")
        while (outcome := item.poll()) is None:
            time.sleep(0.01)
        return outcome

    return run


BROKEN = "import os; assert 'NUMBA_CACHE_DIR' in os.environ, 'numba/core/caching EOFError'"


def test_a_damaged_numba_cache_is_replaced_for_good(scripted, tmp_path):
    count = "open('tries', 'a').write('x'); "
    assert scripted(count + BROKEN).ok
    assert Path("tries").read_text() == "xx" and (tmp_path / "cache").is_dir()
    assert scripted(count + BROKEN).ok  # the new cache is used from the beginning
    assert Path("tries").read_text() == "xxx"


def test_it_is_tried_once_only(scripted):
    outcome = scripted("raise EOFError('numba: EOFError')")
    assert not outcome.ok and "EOFError" in outcome.message


def test_damaged_machine_code_is_tried_with_another_cache(scripted):
    crash = "import os; 'NUMBA_CACHE_DIR' in os.environ or os.kill(os.getpid(), 11)"
    assert scripted(crash).ok


def test_an_evaluation_that_takes_the_mark_away_is_trained_and_tried_again(scripted, tmp_path):
    train = "open('tries', 'a').write('t'); open('job/finished.json', 'w').write('{}')"
    evaluate = (
        "import os; t = open('tries').read(); open('tries', 'a').write('e'); "
        "t == 't' and (os.unlink('job/finished.json'), exit('damaged'))"
    )
    assert scripted(train, evaluate).ok
    assert Path("tries").read_text() == "tete"


def test_an_evaluation_that_fails_otherwise_is_not(scripted):
    train = "open('job/finished.json', 'w').write('{}')"
    outcome = scripted(train, "open('tries', 'a').write('e'); exit('wrong')")
    assert outcome.message == "wrong" and Path("tries").read_text() == "e"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("exit(28)", "no space left on the disk"),
        ("exit(3)", "it ended with status 3 and printed nothing"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?)"),
        ("print('a'); exit('b')", "b"),
    ],
)
def test_why_a_job_failed(scripted, code, message):
    assert scripted(code).message == message


def test_a_message_is_of_this_try(scripted):
    assert scripted("exit('first')").message == "first"
    assert "printed nothing" in scripted("exit(3)").message


def test_a_file_in_the_place_of_a_run_directory_is_one_line(tmp_path):
    (tmp_path / "job").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("job", "dangling"):
        with pytest.raises(UserError, match="is no folder; remove it"):
            executors.prepare(job(), tmp_path / name, "cpu")


def test_a_run_whose_configuration_is_unreadable_is_trained_again(tmp_path):
    folder = tmp_path / "job"
    executors.prepare(job(), folder, "cpu")
    source = {"tools/manifest.py": files.sha256((manifest.ROOT / "tools/manifest.py").read_bytes())}
    files.write_json(folder / "sources.json", source)
    files.write_json(folder / "finished.json", {"seconds": 1})
    files.write_json(folder / "config.json", {"seed": [0]})
    assert executors.trained(folder)
    (folder / "config.json").write_text("{")
    assert not executors.trained(folder)
    executors.prepare(job(), folder, "cpu")
    assert not (folder / "config.json").exists() and (tmp_path / "job.stale").is_dir()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"seconds": "x"}', '{"seconds": true}', "3"])
def test_a_damaged_statistic_counts_as_nothing(tmp_path, text):
    path = tmp_path / "finished.json"
    path.write_text(text)
    assert provenance.seconds(path) == 0 and provenance.seconds(tmp_path / "none") == 0


# -- the whole pipeline -----------------------------------------------------------------------


def test_damaged_runs_whose_evaluations_are_due_recover(repository, finished, tmp_path):
    root = finished.copy(tmp_path)
    names = ["step-*.safetensors", "metrics.jsonl", "config.json"]  # each of another run
    for path, name in zip(sorted(root.rglob("eval.json")), names, strict=False):
        path.unlink()
        damaged = sorted(path.parent.glob(name))[-1]
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    repository.tool("reproduce", *SMOKE, "--runs", str(tmp_path), check=True)
    assert len(list(root.rglob("eval.json"))) > len(names)
    assert json.loads((root / "results.json").read_text())["rows"] == finished.results["rows"]


def test_a_relative_runs_folder_is_the_callers(repository, tmp_path):
    command = repository.command("reproduce", *SMOKE)
    environment = repository.environment(PAPERS_RUNS="mine")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "toy" / "smoke" / "results.json").is_file()
    assert not (repository.root / "mine").exists()
    done = repository.tool("reproduce", *SMOKE, PAPERS_RUNS="")
    assert done.returncode == 2 and done.stderr.startswith("error: PAPERS_RUNS is empty")


def test_ctrl_c_while_importing_is_one_line(repository):
    done = subprocess.run(
        [sys.executable, "-c", "import tools; raise KeyboardInterrupt"],
        cwd=repository.root,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and done.stderr.startswith("interrupted; ")
    assert "Traceback" not in done.stderr


# -- Ray's nodes ------------------------------------------------------------------------------


def archive(*members):
    """A packed run directory of (name, content) and tar members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def link(name, to, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


@pytest.mark.parametrize(
    "data",
    [
        archive(("a", bytes(2 << 20)))[:-300],
        b"no archive",
        b"",
        archive(("../outside", b"x")),
        archive(link("a", "/etc/passwd", tarfile.SYMTYPE)),
        archive(("a", bytes(3 << 20))),
        archive(*[(f"a{i}", b"") for i in range(5000)]),
    ],
    ids=["cut", "none", "empty", "outside", "link", "bomb", "many"],
)
def test_a_bad_shipment_is_one_line_and_leaves_nothing(tmp_path, data):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(UserError):
        executors.unpack(data, folder, largest=2 << 20)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["job", "mine"]


def test_a_good_shipment_arrives(tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "x.json").write_text("{}")
    executors.unpack(executors.pack(tmp_path / "from"), tmp_path / "to")
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["x.json"]


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node's temporary folder."""
    monkeypatch.setattr(executors.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(executors.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_nodes_folder_is_ours_alone(node):
    expected = node / f"papers-{os.getuid()}"
    assert executors.own_folder() == expected and expected.stat().st_mode & 0o777 == 0o700
    assert executors.own_folder() == expected
    expected.chmod(0o755)
    assert executors.own_folder() != expected
    expected.rmdir()
    expected.symlink_to(node)
    assert executors.own_folder() != expected


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder to somebody else")
def test_a_folder_of_somebody_else_is_left_alone(node):
    expected = node / f"papers-{os.getuid()}"
    expected.mkdir(mode=0o700)
    os.chown(expected, 65534, 65534)
    assert executors.own_folder() != expected


@pytest.mark.parametrize("ok", [True, False])
def test_a_shipped_job_is_checked_and_leaves_nothing_on_the_node(node, monkeypatch, ok):
    """A folder of another job in its place is not taken for its own work."""
    script = "open('eval.json', 'w').write('mine')" + ("" if ok else "; exit('broken')")
    (node / "work").mkdir()
    executors.prepare(job(), node / "work", "cpu")
    data = executors.pack(node / "work")
    made = []

    def commands(job, folder, device):
        made.append(folder)
        return [["-c", f"import os; os.chdir({str(folder)!r}); {script}"]]

    monkeypatch.setattr(executors, "commands", commands)
    arguments = (job(), data, "cpu")
    executors.run_shipped(*arguments)
    executors.prepare(job("another"), made[0], "cpu")  # somebody puts it there beforehand
    (made[0] / "rows-of-another").touch()
    fine, _, message, back = executors.run_shipped(*arguments)
    assert fine is ok and message == ("" if ok else "broken")
    executors.unpack(back, node / "back")
    assert executors.made_for(node / "back") == executors.identity(job(), "cpu")
    assert (node / "back" / "eval.json").read_text() == "mine"
    assert not (node / "back" / "rows-of-another").exists() and not made[0].exists()


def test_stopping_ends_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "commands", lambda *_: [["-c", "import time; time.sleep(60)"]])
    local = executors.Local(tmp_path, cores=2)
    children = []
    begun = time.monotonic()

    class Looking:
        def running(self, jobs):
            if len(jobs) == 2 and time.monotonic() > begun + 0.5:
                children.extend(child.pid for child in psutil.Process().children())
                raise KeyboardInterrupt

        def fits(self, job):
            return True

    with pytest.raises(KeyboardInterrupt):
        list(local.run([job("a"), job("b"), job("c")], "cpu", Looking()))
    assert time.monotonic() - begun < 10
    assert len(children) == 2 and not any(map(psutil.pid_exists, children))
