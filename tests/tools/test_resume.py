"""The pipeline can be killed at any moment and ends with the same rows."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

ARGUMENTS = ("toy", "--scale", "smoke", "--cores", "2")
OFTEN = {"PAPERS_CHECKPOINT_EVERY": "5"}  # steps: checkpoints are being written most of the time

# Moments by what is seen on disk, so that each phase is hit whatever the machine's speed …
PHASES = {
    "first files": "**/job.json",
    "begun": "**/config.json",
    "checkpoint being written": "**/.step-*.tmp",
    "checkpoints": "**/step-*.safetensors",
    "first training finished": "**/finished.json",
    "evaluation being written": "**/.eval.json.*",
    "first evaluation": "**/eval.json",
    "collecting": "smoke/judged",
}
# … and by the clock, as a share of an undisturbed run.
MOMENTS = random.Random(5)
SHARES = [round(MOMENTS.random(), 3) for _ in range(3)]


def start(repository, runs: Path) -> subprocess.Popen:
    return subprocess.Popen(
        repository.command("reproduce", *ARGUMENTS, "--runs", str(runs)),
        cwd=repository.root,
        env=repository.environment(**OFTEN),
        start_new_session=True,
        # A shell that starts a job in the background has it ignore SIGINT, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results(runs: Path) -> dict:
    return json.loads((runs / "toy" / "smoke" / "results.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(repository, tmp_path_factory):
    """Rows of an undisturbed run, and how long it took."""
    runs = tmp_path_factory.mktemp("undisturbed")
    begun = time.monotonic()
    process = start(repository, runs)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return results(runs), time.monotonic() - begun


def finish(repository, runs: Path, undisturbed) -> None:
    process = start(repository, runs)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    again = results(runs)
    assert again["rows"] == undisturbed["rows"] and len(again["rows"]) > 0
    assert again["extras"] == undisturbed["extras"]
    assert not list(runs.rglob("*.stale")), "a resumed run must not begin anew"


def kill(process: subprocess.Popen, whole_group: bool) -> None:
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:  # the runner alone: its jobs must end with it
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive, "jobs outlive the runner that was killed"
    process.communicate()


@pytest.mark.parametrize("share", SHARES)
def test_killed_at_a_random_moment(repository, tmp_path, undisturbed, share):
    expected, seconds = undisturbed
    process = start(repository, tmp_path)
    time.sleep(share * seconds)
    if process.poll() is None:
        kill(process, whole_group=True)
    finish(repository, tmp_path, expected)


@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_a_phase(repository, tmp_path, undisturbed, phase):
    process = start(repository, tmp_path)
    while process.poll() is None and not any((tmp_path / "toy").glob(PHASES[phase])):
        time.sleep(0.001)
    if process.poll() is None:
        kill(process, whole_group=phase != "checkpoints")
    else:  # too fast to be seen: only the rarest of files
        assert phase in ("checkpoint being written", "evaluation being written")
    finish(repository, tmp_path, undisturbed[0])


def test_killed_again_and_again(repository, tmp_path, undisturbed):
    expected, seconds = undisturbed
    moments = random.Random(6)
    for _ in range(4):
        process = start(repository, tmp_path)
        time.sleep(moments.uniform(0.3, 1.0) * seconds)
        if process.poll() is None:
            kill(process, whole_group=True)
    finish(repository, tmp_path, expected)


def test_interrupted_by_hand(repository, tmp_path, undisturbed):
    process = start(repository, tmp_path)
    while not any(tmp_path.rglob("config.json")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output.strip().splitlines()[-1].startswith("interrupted; the same command goes on")
    assert "Traceback" not in output
    finish(repository, tmp_path, undisturbed[0])


def test_two_runners_do_not_get_in_each_others_way(repository, tmp_path, undisturbed):
    first = start(repository, tmp_path)
    while not any(tmp_path.rglob("job.json")):
        time.sleep(0.01)
    second = start(repository, tmp_path)
    output, _ = second.communicate(timeout=60)
    if first.poll() is None or second.returncode:
        assert second.returncode == 2 and "is at work in" in output
    first.communicate(timeout=120)
    finish(repository, tmp_path, undisturbed[0])


def test_judging_ends_with_the_runner(own_repository, tmp_path):
    """A runner that is killed leaves nobody behind who writes into ``judged``."""
    root = own_repository.root
    for name in ("claims", "report"):
        path = root / "papers" / "toy" / f"{name}.py"
        lines = ["import time", "from common.cli import die_with_parent", "die_with_parent()"]
        lines += [f'open("judging-{name}", "w").close()', "time.sleep(60)", ""]
        head, tail = path.read_text().split('if __name__ == "__main__":\n    ')
        path.write_text(f'{head}if __name__ == "__main__":\n    ' + "\n    ".join(lines) + tail)
    process = start(own_repository, tmp_path)
    while process.poll() is None and len(list(root.glob("judging-*"))) < 2:
        time.sleep(0.05)
    assert process.poll() is None
    kill(process, whole_group=False)
