"""What a scale needs is looked for before its first job, and named in one message."""

import sys
from types import SimpleNamespace

import pytest

from common.errors import UserError
from tools import executors, manifest, needs
from tools.manifest import Data, Manifest

PAPER = {"seeds": 1, "minutes": 90, "stages": [{"methods": ["m"], "gpus": 0.5}]}


def paper(imports=("json",), **keys):
    table = {"gpu": {**PAPER, **keys}, "smoke": {**PAPER, "stages": [{"methods": ["m"]}]}}
    return Manifest("p", "t", "a", "v", "x", "s", "e", tuple(imports), table)


def refused(tmp_path, chosen, scale="gpu", device="cpu", **options):
    with pytest.raises(UserError) as caught:
        needs.check(chosen, chosen.scale(scale), tmp_path, device, **options)
    return str(caught.value)


def test_one_message_names_all_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    chosen = paper(
        imports=["json", "no_such_module"],
        data=[{"path": "a/b.npz", "size": "3 MB", "source": "from the authors"}],
        disk_gb=1e9,
        memory_gb=1e9,
    )
    chosen.scales["gpu"]["imports"] = ["stable_baselines9"]
    said = refused(tmp_path, chosen)
    assert "\n" not in said
    for words in (
        "the package no_such_module ('make setup PAPER=p'",
        "stable-baselines9 ('.venv/bin/python -m pip install",
        f"({tmp_path / 'data'}): a/b.npz (3 MB; from the authors)",
        "GB are free at",
        "1e+09 GB are needed",
        "it is planned for one GPU (DEVICE=cuda)",
    ):
        assert words in said, said


def test_anyway_warns_only(tmp_path, capsys):
    chosen = paper(memory_gb=1e9)
    found = needs.check(chosen, chosen.scale("gpu"), tmp_path, "cpu", anyway=True)
    assert found == {"device": "cpu"} and "lacks" in capsys.readouterr().err


def test_data_may_be_there_be_made_here_or_be_fetched(tmp_path, monkeypatch):
    entry = Data("set/x.npy", "1 MB", "there")
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    assert needs.data([entry]) and needs.data([Data("s", "1", "t", loader="no_such_module")])
    assert not needs.data([Data("set", "1 MB", "there", loader="json")])
    assert not needs.data([Data("set", "1 MB", "there", made="tools/needs.py")])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x.npy").touch()
    assert not needs.data([entry])
    scale = paper(data=[{"path": "y", "size": "2 MB", "source": "z", "loader": "json"}]).scale(
        "gpu"
    )
    assert needs.notes(scale) == ["y is not below $PAPERS_DATA: 'json' fetches it (2 MB)"]


def test_cuda_that_is_not_there_is_refused_even_anyway(tmp_path, monkeypatch):
    chosen = paper(imports=["json", "torch"])
    answers = iter([("", "a CUDA device: none"), ("NVIDIA X", "")])
    monkeypatch.setattr(needs, "cuda", lambda: next(answers))
    monkeypatch.setattr(needs, "installed", lambda name: True)
    assert "a CUDA device" in refused(tmp_path, chosen, "smoke", "cuda", anyway=True)
    found = needs.check(chosen, chosen.scale("smoke"), tmp_path, "cuda")
    assert found == {"device": "cuda", "gpu": "NVIDIA X"}
    nothing = paper()
    assert "work for a GPU" in refused(tmp_path, nothing, "smoke", "cuda", anyway=True)
    assert "unknown DEVICE 'cudda'" in refused(tmp_path, chosen, "smoke", "cudda")


def test_torch_is_asked_for_a_device():
    """The question itself runs: it answers by a name or by what is missing."""
    name, problem = needs.cuda()
    assert bool(name) != bool(problem)


def test_a_finished_cpu_job_is_not_done_for_cuda(tmp_path, monkeypatch):
    job = paper().scale("smoke").jobs[0]
    monkeypatch.setattr(executors, "trained", lambda folder: True)
    monkeypatch.setattr(executors, "unchanged", lambda sources: True)
    folder = tmp_path / "job"
    executors.prepare(job, folder, "cpu")
    from common import files

    evaluation = {"rows": [], "extras": []}
    evaluation |= {"digest": files.rows_digest(evaluation), "sources": {"a": "b"}}
    files.write_json(folder / "eval.json", evaluation)
    assert executors.done(job, folder, "cpu") and not executors.done(job, folder, "cuda")
    executors.prepare(job, folder, "cuda:0")
    assert (tmp_path / "job.stale" / "eval.json").exists()
    assert not (folder / "eval.json").exists()
    assert executors.made_for(folder) == executors.identity(job, "cuda")


def test_run_directories_from_before_devices_count_as_the_cpus(tmp_path):
    from common import files

    job = paper().scale("smoke").jobs[0]
    files.write_json(tmp_path / "job.json", {"command": job.command})
    assert executors.made_for(tmp_path) == executors.identity(job, "cpu")


def test_plans_say_on_what():
    chosen = paper()
    assert chosen.scale("gpu").plan == "90 min on one GPU"
    assert chosen.scale("smoke").plan == "90 min on 2 cores"
    assert paper(on="4 H100").scale("gpu").plan == "90 min on 4 H100"
    assert paper(gpus=4).needs("gpu").on == "4 GPUs"
    listed = manifest.listing()
    assert "SCALE=default" in listed and "min on 2 cores" in listed


@pytest.mark.skipif(sys.platform != "linux", reason="looks at control groups")
def test_memory_is_the_containers(monkeypatch):
    class Fake(SimpleNamespace):
        def read_text(self, **_):
            return "2000000000\n"

    monkeypatch.setattr(needs, "Path", lambda *parts: Fake())
    assert needs.machine_memory() == pytest.approx(2.0)
