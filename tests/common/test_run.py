"""Run directories: what is saved comes back, damage is noticed, nothing is lost."""

import dataclasses
import errno
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from common import checkpoint, files
from common.errors import UserError, choose, guarded
from common.run import Run


@dataclass
class Config:
    """A tiny training run."""

    seed: tuple[int, ...] = (0,)
    out: Path = Path("unused")
    rate: float = 1.0
    width: int | None = None
    steps: int = 30


def train(folder: Path, stop: int | None = None, steps: int = 30) -> Run:
    """A random walk: stops without a word at ``stop``, as a killed process does."""
    run = Run.open(folder, Config(steps=steps))
    if run.finished:
        return run
    rng, x, step = np.random.default_rng(0), 0.0, 0
    if state := run.restore():
        rng.bit_generator.state = state["rng"]
        x, step = state["x"], state["step"]
    while step < steps:
        if step == stop:
            run._release()
            return run
        x += rng.normal()
        step += 1
        run.log(step, x=x)
        if run.due(step):
            run.save(step, {"step": step, "x": x, "rng": rng.bit_generator.state})
    run.finish({"x": x})
    return run


@pytest.fixture(autouse=True)
def every_seven_steps(monkeypatch):
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "7")


@pytest.fixture
def undisturbed(tmp_path):
    run = train(tmp_path / "undisturbed")
    return run.final()["x"], (run.folder / "metrics.jsonl").read_bytes()


def outcome(run):
    return run.final()["x"], (run.folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("stop", [0, 1, 6, 7, 8, 20, 29])
def test_an_interrupted_run_ends_with_the_same_numbers(tmp_path, undisturbed, stop):
    train(tmp_path / "run", stop)
    assert outcome(train(tmp_path / "run")) == undisturbed


def test_many_interruptions(tmp_path, undisturbed):
    for stop in (3, 8, 9, 15, 22, 28):
        train(tmp_path / "run", stop)
    assert outcome(train(tmp_path / "run")) == undisturbed


def newest(folder):
    return checkpoint.newest_first(folder)[0]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


def folder_instead(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


@pytest.mark.parametrize("damage", [flip, truncate, empty, folder_instead])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(
    tmp_path, undisturbed, damage, capsys
):
    run = train(tmp_path / "run", 20)
    assert len(checkpoint.newest_first(run.folder)) == 2
    damage(newest(run.folder))
    assert outcome(train(tmp_path / "run")) == undisturbed
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "is damaged; the checkpoint before it is used" in lines[0]


def test_all_checkpoints_damaged_begins_anew(tmp_path, undisturbed):
    run = train(tmp_path / "run", 20)
    for path in checkpoint.newest_first(run.folder):
        flip(path)
    assert outcome(train(tmp_path / "run")) == undisturbed


def test_a_damaged_last_checkpoint_makes_a_finished_run_unfinished(tmp_path, undisturbed):
    run = train(tmp_path / "run")
    run._release()
    flip(newest(run.folder))
    with pytest.raises(UserError, match="is damaged; run its training again"):
        Run.load(run.folder)
    assert not (run.folder / "finished.json").exists()  # the next command trains
    assert outcome(train(tmp_path / "run")) == undisturbed


def test_killed_between_the_last_checkpoint_and_the_mark(tmp_path, undisturbed):
    run = train(tmp_path / "run")
    (run.folder / "finished.json").unlink()
    before = newest(run.folder)
    assert outcome(train(tmp_path / "run")) == undisturbed
    assert newest(run.folder) == before and (run.folder / "finished.json").is_file()


def test_a_half_written_line_of_metrics_is_cut(tmp_path, undisturbed):
    run = train(tmp_path / "run", 20)
    with open(run.folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 21, "x": 0.1')
    assert outcome(train(tmp_path / "run")) == undisturbed


@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
def test_damaged_metrics_go_back_to_where_they_were_whole(tmp_path, undisturbed, damage):
    run = train(tmp_path / "run", 14)
    damage(run.folder / "metrics.jsonl")
    assert outcome(train(tmp_path / "run")) == undisturbed


def test_a_deleted_run_directory_begins_anew(tmp_path, undisturbed):
    run = train(tmp_path / "run", 20)
    for path in run.folder.iterdir():
        path.unlink()
    run.folder.rmdir()
    assert outcome(train(tmp_path / "run")) == undisturbed


def test_another_configuration_is_refused(tmp_path):
    train(tmp_path / "run", 10)
    with pytest.raises(UserError, match=r"holds a run with steps=30, not 31; choose another"):
        train(tmp_path / "run", 10, steps=31)


def test_a_run_begun_by_other_code_is_put_aside(tmp_path, undisturbed):
    run = train(tmp_path / "run", 20)
    sources = json.loads((run.folder / "sources.json").read_text())
    assert "common/run.py" in sources
    files.write_json(run.folder / "sources.json", {**sources, "common/run.py": "0" * 64})
    assert outcome(train(tmp_path / "run")) == undisturbed
    assert (tmp_path / "run.stale" / "metrics.jsonl").exists()


def test_two_processes_never_write_into_one_directory(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    with pytest.raises(UserError, match="another process is at work"):
        Run.open(tmp_path / "run", Config())
    run._release()


def cut_json(path):
    path.write_text('{"seed": [0')


def other_json(path):
    path.write_text("[1, 2]")


def altered(path):
    path.write_text(path.read_text().replace('"rate": 1.0', '"rate": 3.0'))


def deep(path):
    path.write_text("[" * 100_000)


DAMAGES = [flip, truncate, empty, cut_json, other_json, altered, deep, Path.unlink]


@pytest.mark.parametrize("stop", [0, 10, None])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_configuration_is_written_anew(tmp_path, undisturbed, damage, stop):
    """From the command, where the checkpoints were made with the same or there are none."""
    run = train(tmp_path / "run", stop)
    run._release()
    before = (run.folder / "config.json").read_bytes()
    damage(run.folder / "config.json")
    if damage is altered and stop == 0:  # it may be somebody else's run, just begun
        with pytest.raises(UserError, match=r"holds a run with rate=3.0, not 1.0"):
            train(tmp_path / "run")
        return
    assert outcome(train(tmp_path / "run")) == undisturbed
    assert (run.folder / "config.json").read_bytes() == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_configuration_does_not_hide_another_run(tmp_path, damage):
    train(tmp_path / "run", 10, steps=20)
    damage(tmp_path / "run" / "config.json")
    if damage is Path.unlink:  # what was removed by hand holds nothing back
        assert train(tmp_path / "run").final()["x"] == train(tmp_path / "new").final()["x"]
        return
    with pytest.raises(UserError, match=r"config.json is damaged .*remove it|holds a run with|is "):
        train(tmp_path / "run")


@pytest.mark.parametrize("damage", [*DAMAGES, "checkpoint", "metrics"])
def test_a_finished_run_that_is_damaged_recovers_while_its_evaluation_is_due(
    tmp_path, undisturbed, damage
):
    """Evaluation never uses what is damaged and takes the mark away, so that training is due."""
    run = train(tmp_path / "run")
    run._release()
    if damage == "checkpoint":
        flip(newest(run.folder))
    elif damage == "metrics":
        flip(run.folder / "metrics.jsonl")
    else:
        damage(run.folder / "config.json")
    with pytest.raises(UserError, match="is damaged; run its training again|no run directory"):
        Run.load(run.folder)
    assert not (run.folder / "finished.json").exists()
    assert outcome(train(tmp_path / "run")) == undisturbed
    assert outcome(Run.load(run.folder)) == undisturbed


def test_damage_between_opening_and_reading_is_noticed(tmp_path):
    run = train(tmp_path / "run")
    flip(newest(run.folder))
    with pytest.raises(UserError, match="damaged; train again"):
        run.final()
    assert not (run.folder / "finished.json").exists()


@pytest.mark.parametrize("every", ["0", "-3", "x", "1.5", "\u00b2"])
def test_a_senseless_number_of_steps_between_checkpoints(tmp_path, monkeypatch, every):
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", every)
    with pytest.raises(UserError, match="PAPERS_CHECKPOINT_EVERY"):
        train(tmp_path / "run")


def test_an_empty_number_of_steps_between_checkpoints_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", " ")
    train(tmp_path / "run")


def test_configuration_comes_back_typed(tmp_path):
    config = Config(seed=(1, 2), rate=0.5, width=3)
    run = Run.open(tmp_path / "run", config)
    assert run.config(Config) == dataclasses.replace(config, out=tmp_path / "run")


# -- disk full, interruption, read-only -------------------------------------------------------


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "ckpt")


def test_a_full_disk_ends_in_one_line_and_loses_nothing(tmp_path, undisturbed, monkeypatch, capsys):
    run = train(tmp_path / "run", 13)
    before = [path.name for path in checkpoint.newest_first(run.folder)]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full_disk)
        with pytest.raises(SystemExit) as stop:
            guarded(lambda: train(tmp_path / "run"))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 28
    assert len(lines) == 1 and "no space left" in lines[0] and "same command again" in lines[0]
    assert [path.name for path in checkpoint.newest_first(run.folder)] == before
    assert not list(run.folder.glob("*.tmp")) and not list(run.folder.glob(".*.tmp"))


def test_a_run_goes_on_after_the_disk_was_full(tmp_path, undisturbed):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from common import files\n"
        "from common.errors import guarded\n"
        "import errno\n"
        "import tests_run as t\n"
        "def full(*_): raise OSError(errno.ENOSPC, 'No space left on device', 'x')\n"
        "real = os.replace\n"
        "def replace(a, b):\n"
        "    if '000014' in str(b): full()\n"
        "    real(a, b)\n"
        "files.os.replace = replace\n"
        "guarded(lambda: t.train(Path(sys.argv[1])))\n"
    )
    root = Path(__file__).parents[2]
    (tmp_path / "tests_run.py").write_bytes(Path(__file__).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 28 and "Traceback" not in done.stderr
    assert outcome(train(tmp_path / "run")) == undisturbed


def test_an_interruption_is_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        guarded(interrupted)
    assert stop.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_package_is_one_line(capsys):
    def missing():
        import no_such_package  # noqa: F401

    with pytest.raises(SystemExit) as stop:
        guarded(missing)
    assert stop.value.code == 2
    assert "'no_such_package' is missing" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 / 0)


def test_choose_names_the_nearest():
    assert choose("method", "a", ["a", "b"]) == "a"
    with pytest.raises(UserError, match="unknown method 'uninf'; did you mean uniinf"):
        choose("method", "uninf", ["uniinf", "htinf"])
    with pytest.raises(UserError, match="choose among: a, b"):
        choose("method", "zzz", ["a", "b"])


# -- checkpoints ------------------------------------------------------------------------------

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(
        lambda x: np.array(x, np.float32)
    ),
    st.lists(st.integers(-5, 5), max_size=3).map(lambda x: torch.tensor(x, dtype=torch.int64)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=3),
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(trees)
def test_any_tree_comes_back(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("tree")
    step, back, note = checkpoint.load(checkpoint.save(folder, 3, tree, {"n": 1}))
    assert (step, note) == (3, {"n": 1}) and same(tree, back)


def test_optimizer_and_generator_states_come_back(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    rng = np.random.default_rng(0)
    path = checkpoint.save(
        tmp_path, 1, [optimizer.state_dict(), rng.bit_generator.state, torch.get_rng_state()], {}
    )
    _, (state, bits, torch_bits), _ = checkpoint.load(path)
    other = torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
    other.load_state_dict(state)
    assert same(optimizer.state_dict(), other.state_dict())
    again = np.random.default_rng(1)
    again.bit_generator.state = bits
    assert again.normal() == rng.normal()
    torch.set_rng_state(torch_bits)
    expected = torch.rand(3)
    torch.set_rng_state(torch_bits)
    assert torch.equal(torch.rand(3), expected)


def forged(folder, data, step=20, name=None):
    """A file with the checksum of ``data`` in its name."""
    digest = files.sha256(data)[:16]
    (folder / (name or f"step-{step:012d}-{digest}.safetensors")).write_bytes(data)


def with_header(header):
    """A safetensors file whose checkpoint header is ``header``."""
    return safetensors.numpy.save({}, {"checkpoint": json.dumps(header)})


HOSTILE = {
    "pickle": pickle.dumps({"x": 1}),
    "nothing": b"",
    "no header": safetensors.numpy.save({"x": np.zeros(2)}),
    "foreign header": with_header([1, 2]),
    "text": with_header({"tree": {}, "step": "x", "note": {}}),
    "huge length": b"\xff" * 8 + b"{}",
    "deep": with_header({"step": 20, "note": {}}).replace(b"x", b"y")[:8] + b"[" * 100_000,
    "deep tree": safetensors.numpy.save(
        {}, {"checkpoint": '{"step": 20, "note": {}, "tree": ' + "[" * 50_000 + "]" * 50_000 + "}"}
    ),
    "no note": with_header({"tree": {"x": 1}, "step": 20}),
    "note without keys": with_header({"tree": {"x": 1}, "step": 20, "note": {"final": True}}),
    "note of text": with_header({"tree": {"x": 1}, "step": 20, "note": "final"}),
    "tensor that is not there": with_header({"tree": {"$torch": "x"}, "step": 20, "note": {}}),
    "tuple of nothing": with_header({"tree": {"$tuple": 3}, "step": 20, "note": {}}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_is_no_checkpoint_is_passed_over(tmp_path, undisturbed, what, capsys):
    run = train(tmp_path / "run", 15)
    forged(run.folder, HOSTILE[what])
    assert outcome(train(tmp_path / "run")) == undisturbed
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "step-.safetensors",
        "step-x-0123456789abcdef.safetensors",
        "step-000000000020-.safetensors",
        "step-000000000020-zzzzzzzzzzzzzzzz.safetensors",
        "step-99999999999999999999999999-0123456789abcdef.safetensors",
    ],
)
def test_a_file_with_a_senseless_name_is_passed_over(tmp_path, undisturbed, name):
    run = train(tmp_path / "run", 15)
    forged(run.folder, b"x", name=name)
    assert outcome(train(tmp_path / "run")) == undisturbed


def test_tensors_are_named_by_their_path(tmp_path):
    tree = {
        "net": {"0.weight": torch.ones(2), "a": [np.zeros(1), (torch.zeros(3),)]},
        "net/a": {"0": torch.full((1,), 7.0)},
        "__metadata__": torch.zeros(1),
        "state": {0: torch.zeros(2)},
        "\ud800": torch.zeros(1),
    }
    path = checkpoint.save(tmp_path, 1, tree, {})
    assert same(tree, checkpoint.load(path)[1])
    names = safetensors.numpy.load_file(path)
    assert names["net/0.weight"].tolist() == [1, 1] and names["net/a/0~2"].tolist() == [7]
    assert {"net/a/0", "net/a/1/0", "__metadata__~2", "state/0", "?"} < set(names)


def test_a_checkpoint_of_unnamed_tensors_still_loads(tmp_path):
    header = {"step": 3, "note": {"n": 1}, "tree": {"w": {"$torch": "0"}, "a": {"$numpy": "1"}}}
    data = safetensors.numpy.save(
        {"0": np.ones(2, np.float32), "1": np.arange(3)}, {"checkpoint": json.dumps(header)}
    )
    forged(tmp_path, data, step=3)
    (path,) = checkpoint.newest_first(tmp_path)
    expected = {"w": torch.ones(2), "a": np.arange(3)}
    step, tree, note = checkpoint.load(path)
    assert step == 3 and note == {"n": 1} and same(tree, expected)


def test_a_run_of_the_form_before_goes_on(tmp_path, undisturbed):
    """Its checkpoints have no names for tensors and no checksum of the configuration."""
    run = train(tmp_path / "run", 15)
    for path in checkpoint.newest_first(run.folder):
        data = path.read_bytes().replace(b"config_sha256", b"another_thing")
        forged(run.folder, data, checkpoint.step_of(path))
        path.unlink()
    assert outcome(train(tmp_path / "run")) == undisturbed


def test_only_the_last_two_are_kept(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path, step, {"step": step}, {})
    assert [checkpoint.load(p)[0] for p in checkpoint.newest_first(tmp_path)] == [4, 3]


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(TypeError, match="cannot hold a function"):
        checkpoint.save(tmp_path, 0, {"f": lambda: 0}, {})


# -- evaluation -------------------------------------------------------------------------------

ROW = {"method": "m", "task": "t", "seed": 0, "metric": "x"}


def test_rows_are_checked(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    run.finish({})
    for bad in (
        {**ROW, "value": float("nan")},
        {**ROW, "value": [1.0, float("inf")], "step": [1, 2]},
        {**ROW, "value": [1.0], "step": [1, 2]},
        {"method": "m", "value": 1.0},
    ):
        with pytest.raises(ValueError):
            run.write_eval([bad])
    (tmp_path / "run" / "eval.json" / "inside").mkdir(parents=True)  # it goes
    run.write_eval(
        [
            {**ROW, "value": np.float32(0.5)},
            {**ROW, "value": None},
            {**ROW, "value": 3},
            {**ROW, "value": np.array([1 / 3, 2.0]), "step": np.array([1, 2])},
        ]
    )
    saved = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert [row["value"] for row in saved["rows"]] == [0.5, None, 3.0, [0.3333333, 2.0]]
    assert saved["digest"] == files.rows_digest(saved)
