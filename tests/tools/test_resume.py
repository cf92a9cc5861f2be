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

# Moments by what is seen on disk, so that each phase is hit whatever the machine's speed: one after
# the other in the same run directories, the rarest of files in directories of their own.
CHAINS = {
    "chain": [
        "**/job.json",
        "**/config.json",
        "**/step-*.safetensors",
        "**/finished.json",
        "**/eval.json",
        "smoke/judged",
    ],
    "checkpoint being written": ["**/.step-*.tmp"],
    "evaluation being written": ["**/.eval.json.*"],
}


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


def finish(repository, runs: Path, finished) -> None:
    process = start(repository, runs)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    again = json.loads((runs / "toy" / "smoke" / "results.json").read_text())
    assert again["rows"] == finished.results["rows"] and len(again["rows"]) > 0
    assert again["extras"] == finished.results["extras"]
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


def end(process: subprocess.Popen, *, whole_group: bool) -> bool:
    """Kill a runner that is at work; one that has ended must have ended well. Whether it was."""
    if process.poll() is None:
        kill(process, whole_group)
        return True
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return False


@pytest.mark.parametrize("chain", CHAINS)
def test_killed_in_every_phase(repository, tmp_path, finished, chain):
    killed = 0
    for number, phase in enumerate(CHAINS[chain]):
        process = start(repository, tmp_path)
        while process.poll() is None and not any((tmp_path / "toy").glob(phase)):
            time.sleep(0.001)
        killed += end(process, whole_group=number % 2 == 0)
    assert killed or chain != "chain"  # the rarest may be too fast to be seen
    finish(repository, tmp_path, finished)


def test_killed_at_random_moments(repository, tmp_path, finished):
    moments = random.Random(6)
    for _ in range(6):
        process = start(repository, tmp_path)
        time.sleep(moments.random() * finished.seconds)
        end(process, whole_group=True)
    finish(repository, tmp_path, finished)


def test_interrupted_by_hand(repository, tmp_path, finished):
    process = start(repository, tmp_path)
    while not any(tmp_path.rglob("config.json")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output.strip().splitlines()[-1].startswith("interrupted; the same command goes on")
    assert "Traceback" not in output
    finish(repository, tmp_path, finished)


def test_two_runners_do_not_get_in_each_others_way(repository, tmp_path, finished):
    first = start(repository, tmp_path)
    while not any(tmp_path.rglob("job.json")):
        time.sleep(0.01)
    second = start(repository, tmp_path)
    output, _ = second.communicate(timeout=60)
    if first.poll() is None or second.returncode:
        assert second.returncode == 2 and "is at work in" in output
    first.communicate(timeout=120)
    finish(repository, tmp_path, finished)


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
