"""The same rows on Ray as on this machine, also when a worker dies in the middle."""

import json
import subprocess
import time

import psutil
import pytest

ray = pytest.importorskip("ray", reason="the extra 'cluster' is not installed")

SMOKE = ("toy", "--scale", "smoke", "--cores", "2")


def workers(process):
    """Ray workers that are at a job of ours."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "run_shipped" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_ray_gives_the_same_rows_after_a_worker_was_killed(repository, finished, tmp_path):
    process = subprocess.Popen(
        repository.command("reproduce", *SMOKE, "--executor", "ray", "--runs", str(tmp_path)),
        cwd=repository.root,
        env=repository.environment(PAPERS_CHECKPOINT_EVERY="5", RAY_USAGE_STATS_ENABLED="0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline, killed = time.monotonic() + 90, False
    while process.poll() is None and time.monotonic() < deadline and not killed:
        for worker in workers(process):
            worker.kill()
            killed = True
            break
        time.sleep(0.02)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert killed, "no worker was seen at work"
    rows = json.loads((tmp_path / "toy" / "smoke" / "results.json").read_text())["rows"]
    assert rows == finished.results["rows"]
