"""What the operating system refuses, and Ctrl-C: one line, an exit status, no traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from common import files
from common.errors import UserError, explain, guarded
from common.run import Run

ROOT = Path(__file__).parents[2]


@dataclass
class Config:
    """A run of nothing."""

    out: Path = Path("unused")


def train(folder: Path) -> None:
    run = Run.open(folder, Config())
    run.keep(x=1)
    for step in run.steps(3):
        run.log(step, x=1.0)
        run.save(step + 1, {"step": step + 1, "x": 1})


def one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        guarded(lambda: train(folder))
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ")
    return err


def a_file(path: Path) -> Path:
    path.write_text("x")
    return path


def dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("nowhere") / "deep")
    return path


def around(path: Path) -> Path:
    path.symlink_to(path)
    return path


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (lambda p: a_file(p / "run"), "something else is in the place"),
        (lambda p: a_file(p / "run") / "inside", "something else is in the place"),
        (lambda p: dangling(p / "run"), "something else is in the place"),
        (lambda p: around(p / "run") / "inside", "something else is in the place"),
        (lambda p: p / ("x" * 300), "something else is in the place"),
        pytest.param(
            lambda p: Path("/proc/none/run"),
            "check the path",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's"),
        ),
        (lambda p: Path("/dev/null"), "something else is in the place"),
    ],
)
def test_a_place_where_no_run_can_be(tmp_path, capsys, place, words):
    assert words in one_line(place(tmp_path), capsys)


@pytest.mark.parametrize("name", ["config.json", "sources.json", "lock"])
def test_a_folder_in_the_place_of_a_file(tmp_path, capsys, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    assert "something else is in the place" in one_line(tmp_path / "run", capsys)


@pytest.mark.parametrize("name", ["finished.json", "metrics.jsonl"])
@pytest.mark.parametrize("evaluated_first", [True, False])
def test_a_folder_in_the_place_of_a_file_of_a_finished_run(tmp_path, name, evaluated_first):
    """It goes, and the run is finished anew."""
    train(tmp_path / "run")
    path = tmp_path / "run" / name
    before = path.read_bytes()
    path.unlink()
    (path / "inside").mkdir(parents=True)
    if evaluated_first and name == "metrics.jsonl":
        with pytest.raises(UserError, match="damaged"):
            Run.load(tmp_path / "run")
    elif evaluated_first:
        Run.load(tmp_path / "run")
    train(tmp_path / "run")
    Run.load(tmp_path / "run")
    assert path.is_file() and (name == "finished.json" or path.read_bytes() == before)


def test_a_binary_and_an_endless_file(tmp_path, capsys):
    for text in (b"\xff\xfe\x00", b"[" * 100_000, b"9" * 10_000):
        (tmp_path / "x.json").write_bytes(text)
        with pytest.raises(UserError, match="is damaged"):
            files.read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, "too many open files"),
        (errno.ENFILE, "too many open files"),
        (errno.EACCES, "no access to x"),
        (errno.EROFS, "no access to x"),
        (errno.EEXIST, "something else"),
        (errno.EISDIR, "something else"),
        (errno.ENOTDIR, "something else"),
        (errno.ENOENT, "check the path"),
    ],
)
def test_what_the_system_refuses(number, words):
    line, status = explain(OSError(number, os.strerror(number), "x"))
    assert words in line and status == 2 and "\n" not in line


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O error", "x"), OSError("no number"), FileNotFoundError()]
)
def test_other_faults_keep_their_traceback(error):
    with pytest.raises(OSError):
        explain(error)


def test_too_few_descriptors(tmp_path):
    code = (
        "import resource, sys\nfrom pathlib import Path\nimport test_errors as t\n"
        "from common.errors import guarded\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))\n"
        "guarded(lambda: t.train(Path(sys.argv[1])))\n"
    )
    path = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "too many open files" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def slow_paper(tmp_path, text):
    """A paper with the real papers/__init__.py, which comes before all that a command imports."""
    folder = tmp_path / "papers"
    (folder / "slow").mkdir(parents=True)
    (folder / "__init__.py").write_text((ROOT / "papers" / "__init__.py").read_text())
    (folder / "slow" / "__init__.py").write_text("")
    (folder / "slow" / "train.py").write_text(text)
    (tmp_path / "common").symlink_to(ROOT / "common")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_package\n", "error: the package 'no_such_package' is missing"),
        ("import errno\nraise OSError(errno.EMFILE, 'x')\n", "error: too many open files"),
        ("1 / 0\n", "Traceback"),
    ],
)
def test_what_goes_wrong_while_a_command_imports(tmp_path, text, words):
    slow_paper(tmp_path, text)
    command = [sys.executable, "-m", "papers.slow.train"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and words in done.stderr
    assert ("Traceback" in done.stderr) == (words == "Traceback")


def test_ctrl_c_while_a_command_imports(tmp_path):
    slow_paper(tmp_path, "import time\nprint('importing', flush=True)\ntime.sleep(30)\n")
    with subprocess.Popen(
        [sys.executable, "-m", "papers.slow.train"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode in (130, -signal.SIGINT)
    assert err.count("\n") == 1 and err.startswith("interrupted")


def test_an_import_in_a_program_of_ones_own_changes_nothing():
    code = "import sys; before = sys.excepthook; import papers; print(sys.excepthook is before)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


# -- locks ------------------------------------------------------------------------------------


def test_a_lock_is_held_once(tmp_path):
    with (
        files.locked(tmp_path / "deep" / "lock", "busy there"),
        pytest.raises(UserError, match="busy there"),
        files.locked(tmp_path / "deep" / "lock", "busy there"),
    ):
        pass
    with files.locked(tmp_path / "deep" / "lock", "busy"):
        pass


def test_a_killed_holders_lock_is_free_at_once_also_where_its_child_lives_on(tmp_path):
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom common import files\n"
        "lock = files.take_lock(Path(sys.argv[1]), 'busy')\n"
        "if (child := os.fork()) == 0:\n    time.sleep(60)\n    os._exit(0)\n"
        "print(child, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(UserError, match="busy"):
                files.take_lock(tmp_path / "lock", "busy")
            holder.kill()
            holder.wait()
            began = time.monotonic()
            files.take_lock(tmp_path / "lock", "busy", seconds=4.0).release(force=True)
            assert time.monotonic() - began < 1.0
            os.kill(child, 0)  # it is still there
        finally:
            os.kill(child, signal.SIGKILL)


def test_waiting_for_a_lock(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom common import files\n"
        "with files.locked(Path(sys.argv[1]), 'busy'):\n"
        "    print('held', flush=True)\n    time.sleep(0.5)\n    print('done', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with files.locked(tmp_path / "lock", "busy", wait=True):
            assert holder.stdout.readline() == "done\n"


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_cache_variable_counts_as_none(monkeypatch, value):
    monkeypatch.setenv("PAPERS_CACHE", value)
    assert files.cache_root() == ROOT / "runs" / "cache"
    monkeypatch.setenv("PAPERS_CACHE", "here")
    assert files.cache_root() == Path.cwd() / "here"


def test_json_is_read_as_utf8_whatever_the_locale(tmp_path):
    files.write_text(tmp_path / "x.json", '{"x": "…"}')
    code = f"from common import files; from pathlib import Path; \
print(ascii(files.read_json(Path({str(tmp_path / 'x.json')!r}))['x']))"
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "'\\u2026'"
