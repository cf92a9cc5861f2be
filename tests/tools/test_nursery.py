"""A forked job is what a job of its own process is: numbers, statuses, output, end."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from common.cli import PARENT_VARIABLE
from tools import executors, judging, manifest, nursery

pytestmark = pytest.mark.skipif(not nursery.possible("cpu"), reason="forks on Linux only")

JOB = """
import sys
beforehand = "numpy" in sys.modules
import numpy, os, signal, time
print("out", sys.argv[1:], os.environ["GIVEN"], beforehand, __name__)
print("err", file=sys.stderr)
what = sys.argv[1]
if what == "fail":
    raise ValueError("broken")
if what == "exit":
    sys.exit("a word")
if what == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "wait":
    open("begun", "w").close()
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the module ``jobs`` beside this repository's tools."""
    (tmp_path / "jobs.py").write_text(JOB)
    (tmp_path / "threads.py").write_text("import threading, time\n" + THREAD)
    (tmp_path / "tools").symlink_to(manifest.ROOT / "tools")
    monkeypatch.chdir(tmp_path)
    return tmp_path


THREAD = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"


@pytest.fixture
def begun(place):
    made = nursery.Nursery(["jobs"], executors.job_environment(1), place)
    yield made
    made.close()


def start(made, place, what):
    environment = {**executors.job_environment(1), "GIVEN": "yes"}
    return made.start(["-m", "jobs", what, "--x", "1"], place / "log.txt", environment)


@pytest.mark.parametrize(
    ("what", "status", "last"),
    [
        ("go", 0, "err"),
        ("fail", 1, "ValueError: broken"),
        ("exit", 1, "a word"),
        ("kill", -9, None),
    ],
)
def test_a_forked_job_ends_as_a_process_does(begun, place, what, status, last):
    assert start(begun, place, what).wait(30) == status
    if last is None:
        return
    said = (place / "log.txt").read_text().splitlines()
    assert f"out ['{what}', '--x', '1'] yes True __main__" in said and last in said
    environment = {**os.environ, "GIVEN": "yes"}
    command = [sys.executable, "-m", "jobs", what, "--x", "1"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == status and done.stderr.splitlines()[-1] == last


def test_jobs_run_side_by_side_and_can_be_stopped(begun, place):
    first, second = start(begun, place, "wait"), start(begun, place, "go")
    assert second.wait(30) == 0 and first.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(0.1)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == -signal.SIGTERM
    first.send_signal(signal.SIGTERM)  # nothing is left to be sent to


def test_jobs_end_with_their_nursery(begun, place):
    item = start(begun, place, "wait")
    while not (place / "begun").exists():
        time.sleep(0.01)
    (child,) = psutil.Process(begun.pid).children()
    os.kill(begun.pid, signal.SIGKILL)
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() and item.wait(10) == nursery.LOST and not begun.alive


def job():
    return manifest.Job("toy", "smoke", "train", "train", False, None, None, (), (), 1, 0)


def test_a_job_whose_nursery_is_lost_is_started_by_itself(place, monkeypatch):
    monkeypatch.setattr(executors, "ROOT", place)
    monkeypatch.setattr(executors, "commands", lambda *_: [["-m", "jobs", "go"]])
    monkeypatch.setenv("GIVEN", "yes")
    nurseries = executors.Nurseries(["jobs"])
    assert nurseries.start(["-c", "pass"], place / "log.txt", 1, {}) is None
    item = executors.Running(job(), place / "job", "cpu", 1, place / "c", nurseries=nurseries)
    item.poll()
    for each in nurseries._by_threads.values():
        os.kill(each.pid, signal.SIGKILL)
    while (outcome := item.poll()) is None:
        time.sleep(0.01)
    nurseries.close()
    assert outcome.ok, outcome.message
    assert nurseries.start(["-m", "jobs"], place / "log.txt", 1, {}) is None


def test_a_process_with_threads_is_not_forked(place):
    (place / "one.py").write_text("import threads\n")
    code = (
        "from tools import nursery; nursery.BEFOREHAND['threads'] = ('threads',); "
        "print(nursery.prepare(['jobs', 'no_such']), nursery.prepare(['one']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_no_package_that_is_imported_beforehand_begins_a_thread(place):
    lines = [f"import {name}" for name in nursery.BEFOREHAND]
    (place / "all.py").write_text("\n".join(lines))
    code = "from tools import nursery; print(nursery.prepare(['all']))"
    environment = {**executors.job_environment(1), **nursery.QUIET}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["True"], done.stderr


def test_what_modules_import_is_read_not_run(tmp_path):
    (tmp_path / "common").mkdir()
    for name, text in {
        "jobs": "import numpy as np, json\nfrom common import one\ndef f():\n    import torch.nn\n",
        "common/__init__": "import tyro\n",
        "common/one": "from scipy import stats\nfrom common.two import T\nraise SystemExit\n",
        "common/two": "import common.one, elsewhere.part\nif 1:\n    import torch\n",
        "broken": "import (",
        "elsewhere": "import numba",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    found = nursery.imported_by(["jobs", "broken", "no_such"], tmp_path)
    assert found == {
        *("numpy", "json", "common", "common.one", "scipy", "scipy.stats", "common.two"),
        *("common.two.T", "elsewhere.part", "tyro"),
    }
    more = nursery.imported_by(["jobs"], tmp_path, ["torch", "tyro"])
    assert more == found | {"torch", "torch.nn"}


@pytest.mark.parametrize("forked", [True, False])
def test_commands_side_by_side(place, monkeypatch, forked):
    monkeypatch.setattr(judging, "ROOT", place)
    monkeypatch.setattr(nursery, "possible", lambda device: forked)
    monkeypatch.setenv("GIVEN", "yes")
    (place / "jobs.py").write_text(f"import pandas, matplotlib.pyplot\n{JOB}")
    if forked:
        monkeypatch.setattr(judging, "subprocess", None)  # neither package begins a thread
    logs = [place / "one", place / "two"]
    commands = [["-m", "jobs", "go"], ["-m", "jobs", "exit"]]
    assert judging.side_by_side(commands, logs) == [0, 1]
    assert "['go']" in logs[0].read_text() and logs[1].read_text().endswith("a word\n")


def test_rows_and_recorded_code_are_the_same(repository, finished, tmp_path):
    arguments = ("toy", "--scale", "smoke", "--runs", str(tmp_path))
    repository.tool("reproduce", *arguments, check=True, PAPERS_NURSERY="0")
    plain = json.loads((tmp_path / "toy/smoke/results.json").read_text())
    forked = finished.results
    assert plain["rows"] == forked["rows"] and plain["extras"] == forked["extras"]
    assert plain["provenance"]["sources"] == forked["provenance"]["sources"]


def test_a_job_knows_its_parent(place, monkeypatch):
    monkeypatch.setattr(executors, "ROOT", place)
    (place / "jobs.py").write_text(f"import os; print(os.environ['{PARENT_VARIABLE}'])")
    nurseries = executors.Nurseries(["jobs"])
    item = nurseries.start(["-m", "jobs"], place / "log.txt", 1, executors.job_environment(1))
    assert item.wait(30) == 0
    assert int((place / "log.txt").read_text()) == nurseries._by_threads[1].pid
    nurseries.close()
