"""run.keep and run.steps: named once, restored, saved when due, finished after the last step."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from common import checkpoint, files, kept
from common.errors import UserError
from common.kept import Kept
from common.run import Run
from common.torch_utils import GlobalRandom, setup

STEPS = 9


@dataclass
class Config:
    """A tiny training run."""

    seed: tuple[int, ...] = (0,)
    out: Path = Path("unused")
    steps: int = STEPS


class Walker:
    """An object with ``state`` and ``load``."""

    def __init__(self) -> None:
        self.at = np.zeros(2)

    def state(self):
        return {"at": self.at}

    def load(self, state):
        self.at = state["at"]


class Killed(BaseException):
    """The process ends here."""


def train(folder, stop=None, steps=STEPS, then=True, pause=0.0):
    """Everything that a loop may keep; ``stop``: killed in the body of that step."""
    run = Run.open(folder, Config(steps=steps))
    setup("cpu", 0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(net.parameters())
    log_Z = nn.Parameter(torch.zeros(2))
    draws = {"a": [torch.Generator().manual_seed(i) for i in range(2)], "b": (torch.Generator(),)}
    rng, walker, recent = np.random.default_rng(0), Walker(), torch.zeros(STEPS)
    table, best, window = np.zeros(3), {}, deque(maxlen=3)
    keeping = run.keep(
        net=net,
        optimizer=optimizer,
        log_Z=log_Z,
        draws=draws,
        rng=rng,
        globally=GlobalRandom(),
        walker=walker,
        recent=recent,
        table=table,
        best=best,
        window=window,
        found=torch.zeros(2, dtype=torch.bool),
        grown=torch.zeros(0),
        calls=0,
        name="x",
        nothing=None,
        late=None,
        pair=(1, [2.5, "y"]),
    )

    def results():
        return {"sum": keeping.grown.sum().item(), "found": keeping.found.tolist()}

    for step in run.steps(steps, then=results if then else None):
        if step == stop:
            run._release()
            raise Killed
        time.sleep(pause)
        x = torch.stack([torch.rand(3, generator=g) for g in draws["a"] + list(draws["b"])])
        loss = (net(x) - torch.rand(3, 1) + rng.normal()).square().mean()  # dropout: global draws
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            log_Z += rng.random()
        walker.at = walker.at + rng.normal(size=2)
        recent[step] = loss.item()
        table[step % 3] += 1
        best[f"{rng.integers(5)}"] = step
        window.append(step)
        keeping.found = keeping.found | torch.tensor([step == 3, step == 7])
        keeping.grown = torch.cat((keeping.grown, loss.detach().view(1)))
        keeping.calls += 3
        keeping.pair = (keeping.pair[0] + 1, keeping.pair[1])
        keeping.late = {"since": step, "z": log_Z.detach().clone()}
        run.log(step + 1, loss=loss.item(), seeds=torch.tensor([1.0, 2.0]))
    return run


def same(a, b):
    """Whether two trees are equal, bit for bit."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def outcome(folder):
    run = Run.load(folder)
    return run.final(), (folder / "metrics.jsonl").read_bytes()


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(folder)
    return outcome(folder)


def equal(found, expected):
    assert same(found[0], expected[0])
    assert found[1] == expected[1]


@pytest.mark.parametrize("every", ["1", "4"])
@pytest.mark.parametrize("stop", range(STEPS))
def test_killed_at_any_step_it_ends_with_the_same_numbers(
    tmp_path, undisturbed, stop, every, monkeypatch
):
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", every)
    with pytest.raises(Killed):
        train(tmp_path / "run", stop)
    train(tmp_path / "run")
    equal(outcome(tmp_path / "run"), undisturbed)


def test_killed_at_any_file(tmp_path, monkeypatch):
    """Killed before or after each renaming of a file, the last checkpoint and the mark included."""
    real, count, moment, steps = os.replace, 0, 0.0, 3

    def replace(source, target):
        nonlocal count
        count += 1
        if count == moment:
            raise Killed
        real(source, target)
        if count + 0.5 == moment:
            raise Killed

    monkeypatch.setattr(Run, "_take_lock", lambda self: lambda: None)  # a killed one has none
    monkeypatch.setattr(files.os, "replace", replace)
    train(tmp_path / "undisturbed", steps=steps)
    expected = outcome(tmp_path / "undisturbed")
    for number in range(60):
        folder, count, moment = tmp_path / f"run{number}", 0, 1 + number / 2
        try:
            train(folder, steps=steps)
        except Killed:
            moment = 0.0
            train(folder, steps=steps)
            equal(outcome(folder), expected)
        else:
            break
    assert number > 2 * steps  # every checkpoint was one of the moments


@pytest.mark.parametrize("seconds", [0.02, 0.23])
def test_killed_at_an_odd_moment(tmp_path, undisturbed, seconds):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "import test_kept\n"
        "print('ready', flush=True)\n"
        f"test_kept.train(Path({str(tmp_path / 'run')!r}), pause=0.05)\n"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        while not checkpoint.newest_first(tmp_path / "run") and process.poll() is None:
            time.sleep(0.002)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    train(tmp_path / "run")
    final, metrics = outcome(tmp_path / "run")
    equal((final, metrics), undisturbed)


def test_a_finished_run_has_no_steps_left(tmp_path, undisturbed):
    train(tmp_path / "run")
    before = (tmp_path / "run" / "finished.json").read_bytes()
    newest = checkpoint.newest_first(tmp_path / "run")[0]
    run = Run.open(tmp_path / "run", Config())
    keeping = run.keep(calls=0)
    assert list(run.steps(STEPS)) == [] and keeping.calls == 0
    run._release()
    train(tmp_path / "run", stop=0)
    equal(outcome(tmp_path / "run"), undisturbed)
    assert (tmp_path / "run" / "finished.json").read_bytes() == before
    assert checkpoint.newest_first(tmp_path / "run")[0] == newest


def test_finishing_what_is_finished_changes_nothing(tmp_path):
    train(tmp_path / "run")
    before = checkpoint.newest_first(tmp_path / "run")
    run = Run.open(tmp_path / "run", Config())
    run.keep(calls=0)
    run.finish(late=1)
    assert checkpoint.newest_first(tmp_path / "run") == before


def test_a_configuration_altered_while_the_run_goes_on_is_noticed(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    run.keep(x=1)
    for _ in run.steps(2):
        files.write_json(tmp_path / "run" / "config.json", {"seed": [3], "steps": STEPS})
    with pytest.raises(UserError, match="damaged"):
        Run.load(tmp_path / "run")


def test_the_last_checkpoint_holds_what_is_kept_the_step_and_what_then_returned(undisturbed):
    final = undisturbed[0]
    assert final["step"] == STEPS and final["calls"] == 3 * STEPS and final["name"] == "x"
    assert final["found"] == [True, True]  # then() stands in the place of the kept tensor
    assert final["sum"] == pytest.approx(final["grown"].sum().item())
    assert set(final["net"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert final["nothing"] is None and final["late"]["since"] == STEPS - 1


def test_the_last_file_carries_the_true_last_step(tmp_path):
    run = train(tmp_path / "run")
    newest = checkpoint.newest_first(run.folder)[0]
    assert checkpoint.step_of(newest) == STEPS and "-final-" in newest.name


def test_a_damaged_last_checkpoint_of_the_same_step_as_the_one_before(tmp_path, undisturbed):
    run = train(tmp_path / "run")
    final, before = checkpoint.newest_first(run.folder)
    assert checkpoint.step_of(final) == checkpoint.step_of(before) == STEPS
    final.write_bytes(final.read_bytes()[:-3])
    train(tmp_path / "run")
    equal(outcome(tmp_path / "run"), undisturbed)


def test_kept_names_are_read_after_they_were_rebound(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    keeping = run.keep(calls=0, found=torch.zeros(2))
    keeping.calls += 5
    keeping.found = torch.ones(3)
    assert keeping.calls == 5 and torch.equal(keeping.found, torch.ones(3))
    assert {"calls", "found"} <= set(dir(keeping))


def test_an_unknown_name_is_refused(tmp_path):
    keeping = Run.open(tmp_path / "run", Config()).keep(calls=0)
    with pytest.raises(AttributeError, match="nothing is kept as 'cals'"):
        keeping.cals = 1
    with pytest.raises(AttributeError, match="nothing is kept as 'cals'"):
        _ = keeping.cals


@pytest.mark.parametrize("name", ["step", "_things"])
def test_taken_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be called"):
        Run.open(tmp_path / "run", Config()).keep(**{name: 1})


def test_keep_is_called_once(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    run.keep(a=1)
    with pytest.raises(ValueError, match="in one call"):
        run.keep(b=1)


def test_leaving_by_break_finishes_nothing(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    run.keep(calls=0)
    for step in run.steps(5):
        if step == 2:
            break
    run._release()
    with pytest.raises(UserError, match="not finished"):
        Run.load(tmp_path / "run")
    run = Run.open(tmp_path / "run", Config())
    run.keep(calls=0)
    assert list(run.steps(5)) == [2, 3, 4]


@pytest.mark.parametrize("leave", [True, False])
def test_a_run_may_end_early(tmp_path, leave):
    run = Run.open(tmp_path / "run", Config())
    keeping = run.keep(calls=0)
    seen = []
    for step in run.steps(5, then=lambda: {"never": 1}):
        seen.append(step)
        keeping.calls += 1
        if step == 2:
            run.finish(why="converged")
            if leave:
                break
    assert seen == [0, 1, 2]
    assert Run.load(tmp_path / "run").final() == {"calls": 3, "step": 3, "why": "converged"}
    assert checkpoint.step_of(checkpoint.newest_first(tmp_path / "run")[0]) == 3


def test_steps_without_keep(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    assert list(run.steps(3, then=lambda: {"x": nn.Linear(1, 1)})) == [0, 1, 2]
    assert set(Run.load(tmp_path / "run").final()["x"]) == {"weight", "bias"}


def test_checkpoints_only_after_a_multiple_and_a_last_one_without_the_buffer(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    run.keep(net=nn.Linear(1, 1), buffer=torch.zeros(9))
    for step in run.steps(7, every=3, drop=("buffer",)):
        if step == 5:
            break
    paths = checkpoint.newest_first(tmp_path / "run")
    assert [checkpoint.step_of(p) for p in paths] == [3]
    assert "buffer" in checkpoint.load(paths[0])[1]
    run._release()
    run = Run.open(tmp_path / "run", Config())
    run.keep(net=nn.Linear(1, 1), buffer=torch.zeros(9))
    assert list(run.steps(7, every=3, drop=("buffer",))) == [3, 4, 5, 6]
    assert set(Run.load(tmp_path / "run").final()) == {"net", "step"}


class Pair(NamedTuple):
    """A named tuple of an array and a number."""

    x: np.ndarray
    n: int


def test_what_is_restored_in_place_and_what_as_a_value():
    array, tensor, table, counts = np.zeros(3), torch.zeros(2), {}, defaultdict(int)
    things = {
        "array": array,
        "tensor": tensor,
        "table": table,
        "counts": counts,
        "counter": Counter(a=1),
        "pair": Pair(array, 1),
        "frozen": np.zeros(1),
        "shape": torch.zeros(2),
        "many": [torch.zeros(1)],
    }
    things["frozen"].flags.writeable = False
    keeping = Kept(things)
    saved = {
        "array": np.array([1.0, 2.0, 3.0]),
        "tensor": torch.tensor([4.0, 5.0]),
        "table": {"b": 1, "a": 2},
        "counts": {"c": 3},
        "counter": {"b": 2},
        "pair": (np.array([1.0, 2.0, 3.0]), 7),
        "frozen": np.ones(1),
        "shape": torch.ones(3),
        "many": [torch.ones(1), torch.ones(2)],
    }
    kept.restore(keeping, saved)
    assert array.tolist() == [1, 2, 3] and keeping.array is array and keeping.pair.x is array
    assert tensor.tolist() == [4, 5] and keeping.tensor is tensor
    assert table == {"b": 1, "a": 2} and list(table) == ["b", "a"] and keeping.table is table
    assert counts["c"] == 3 and counts["d"] == 0 and keeping.counter == Counter(b=2)
    assert isinstance(keeping.pair, Pair) and keeping.pair.n == 7
    assert keeping.frozen.tolist() == [1] and keeping.shape.shape == (3,) and len(keeping.many) == 2


@pytest.mark.parametrize(
    ("thing", "saved", "words"),
    [
        (torch.Generator(), torch.zeros(16, dtype=torch.uint8), "another kind of device"),
        (nn.Parameter(torch.zeros(2)), torch.zeros(3), "is not the shape"),
        (nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, "Missing key"),
        ([nn.Linear(1, 1)], [], "0 of them, not 1"),
        ({"a": torch.Generator()}, {"b": 1}, "are not"),
        (np.random.default_rng(0), {"bit_generator": "none"}, "thing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_which_thing(thing, saved, words):
    with pytest.raises(UserError, match=r"does not fit 'thing'") as error:
        kept.restore(Kept({"thing": thing}), {"thing": saved})
    assert words in str(error.value)


def test_a_thing_that_the_checkpoint_lacks():
    with pytest.raises(UserError, match=r"does not fit 'b' \(it holds only a, step"):
        kept.restore(Kept({"b": 1}), {"a": 1, "step": 3})


def test_the_global_generator_comes_back():
    torch.manual_seed(3)
    there = GlobalRandom()
    state = there.state()
    expected = torch.rand(3)
    there.load(state)
    assert torch.equal(torch.rand(3), expected)
    there.load({**state, "cuda": [torch.zeros(16, dtype=torch.uint8)] if not state["cuda"] else []})


def test_things_stay_on_their_device():
    """Written on one device, restored on another ("meta" stands for one that is not the CPU)."""
    there = torch.zeros(2, device="meta")
    keeping = Kept({"tensor": there, "grown": torch.zeros(1, device="meta")})
    kept.restore(keeping, {"tensor": torch.ones(2), "grown": torch.ones(3)})
    assert keeping.tensor is there
    assert keeping.grown.device.type == "meta" and keeping.grown.shape == (3,)


def test_the_state_of_an_optimiser_moves_to_its_parameters():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    net(torch.ones(2)).sum().backward()
    optimizer.step()
    saved = kept.state(Kept({"net": net, "optimizer": optimizer}))
    with torch.device("meta"):
        far = nn.Linear(2, 1)
    moved = torch.optim.Adam(far.parameters())
    kept.restore(Kept({"optimizer": moved}), saved)
    assert {v["exp_avg"].device.type for v in moved.state.values()} == {"meta"}


def test_old_loops_and_their_last_step(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    assert run.restore() is None
    run.log(4, x=1.0)
    run.save(5, {"x": 1})
    run.finish({"x": 2, "step": 6})
    newest = checkpoint.newest_first(tmp_path / "run")[0]
    assert checkpoint.step_of(newest) == 6
    assert Run.load(tmp_path / "run").final() == {"x": 2, "step": 6}
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["step"] == 6
