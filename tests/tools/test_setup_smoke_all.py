"""All papers' smoke runs are tried, side by side, and counted."""


def test_all_are_tried_and_those_that_fail_are_named(own_repository, tmp_path):
    own_repository.tool("new_paper", "another", check=True)
    (own_repository.root / "papers" / "another" / "train.py").write_text("raise OSError('mine')\n")
    runs = tmp_path / "runs"
    done = own_repository.tool("smoke_all", "--runs", str(runs))
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("smoke: 1 passed, 1 failed: another (logs: ")
    assert sum(line.startswith("ok     toy (") for line in lines) == 1
    assert sum(line.startswith("FAILED another (") for line in lines) == 1
    assert any(line.startswith("  | ") for line in lines)
    assert "toy at scale smoke" in (runs / "smoke-all" / "toy.log").read_text()
    assert (runs / "toy" / "smoke" / "results.json").is_file()


def test_when_all_pass_the_last_line_says_so(repository, tmp_path):
    done = repository.tool("smoke_all", "--jobs", "3", "--runs", str(tmp_path), check=True)
    assert done.stdout.splitlines()[-1] == "smoke: 1 passed, 0 failed"


def test_no_jobs_is_refused(repository):
    done = repository.tool("smoke_all", "--jobs", "0")
    assert done.returncode == 2 and done.stderr == "error: JOBS must be 1 or more\n"
