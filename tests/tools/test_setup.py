"""The environment: extras accumulate, nothing is done twice, a failure is one line and no stamp."""

import ast
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from common.errors import UserError
from tools import environment, setup_env
from tools.environment import Environment, explained

ROOT = Path(__file__).parents[2]

PROJECT = """
[project]
dependencies = ["tiny>=1"]
[project.optional-dependencies]
one = ["little>=1"]
two = ["little>=1", "small>=1"]
three = ["nowhere>=1"]
"""


def wheel(folder, name, version):
    """A wheel with one module, for an index that is a folder."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels, the only place that pip looks at."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("tiny", "little", "small"):
        wheel(folder, name, "1.0")
    for variable in [v for v in os.environ if v.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "constraints.txt").write_text("tiny==1.0\nlittle==1.0\nsmall==1.0\n")
    return folder


def installed(root, *names):
    """Versions of the modules there are in the environment."""
    program = (
        "import importlib, sys; print(*(importlib.import_module(n).version for n in sys.argv[1:]))"
    )
    done = subprocess.run(
        [root / ".venv/bin/python", "-c", program, *names],
        cwd=root / ".venv",
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


def forbid(*_args, **_kwargs):
    raise AssertionError("something was started")


def test_extras_accumulate_and_nothing_is_done_twice(root, index, monkeypatch):
    Environment(root).ensure([])
    assert installed(root, "tiny") == ["1.0"] and installed(root, "little") == []
    Environment(root).ensure(["one"])
    Environment(root).ensure(["two", "one"])
    assert installed(root, "tiny", "little", "small") == ["1.0", "1.0", "1.0"]

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", forbid)
        patch.setattr(subprocess, "Popen", forbid)
        for extras in ([], ["one"], ["two"], ["one", "two"]):
            Environment(root).ensure(extras)

    # A new lock brings the new versions, and only where it is asked for.
    wheel(index, "little", "2.0")
    (root / "constraints.txt").write_text("tiny==1.0\nlittle==2.0\nsmall==1.0\n")
    assert Environment(root).missing(["one", "two"]) == ["base", "one", "two"]
    Environment(root).ensure(["one"])
    assert installed(root, "little") == ["2.0"]
    assert Environment(root).missing(["one", "two"]) == ["two"]

    # Other parts of pyproject.toml don't matter.
    (root / "pyproject.toml").write_text(PROJECT + "\n[tool.ruff]\nline-length = 100\n")
    assert Environment(root).missing(["one"]) == []

    # The repository's packages can be imported from everywhere.
    (root / "common.py").write_text("version = 'here'\n")
    assert installed(root, "common") == ["here"]


def test_a_failed_installation_leaves_no_stamp(root, index):
    with pytest.raises(UserError, match=r"no version of nowhere>=1 .*install\.log") as error:
        Environment(root).ensure(["three"])
    assert "\n" not in str(error.value)
    assert Environment(root).missing(["three"]) == ["base", "three"]
    wheel(index, "nowhere", "1.0")
    Environment(root).ensure(["three"])
    assert installed(root, "nowhere") == ["1.0"]


def test_no_network_is_one_line(root, index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UserError, match="index cannot be reached; check the network") as error:
        Environment(root).ensure(["three"])
    assert "\n" not in str(error.value)
    assert Environment(root).missing([]) == ["base"]


def test_a_killed_installation_is_begun_anew(root, index):
    started = root / "started"
    program = (
        "import sys, time; from pathlib import Path; from tools.environment import Environment; "
        "e = Environment(Path(sys.argv[1])); "
        "e._watch = lambda c: (Path(sys.argv[2]).touch(), time.sleep(60)); e.ensure(['one'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(root), str(started)], cwd=ROOT, stdout=subprocess.PIPE
    )
    while not started.exists() and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    junk = root / ".venv/lib/half-written"
    junk.touch()
    assert Environment(root).missing(["one"]) == ["base", "one"]
    Environment(root).ensure(["one"])
    assert installed(root, "tiny", "little") == ["1.0", "1.0"]
    assert not junk.exists()


def test_a_broken_environment_is_made_anew(root, index):
    Environment(root).ensure(["one"])
    (root / ".venv/bin/python").unlink()
    assert Environment(root).missing(["one"]) == ["base", "one"]
    Environment(root).ensure(["one"])
    assert installed(root, "little") == ["1.0"]


def test_two_installations_take_turns(root, index):
    program = (
        "import sys; from pathlib import Path; from tools.environment import Environment; "
        "Environment(Path(sys.argv[1])).ensure(['two'])"
    )
    command = [sys.executable, "-c", program, str(root)]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(output.count("installed two") for output in outputs) == [0, 1]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ERROR: [Errno 28] No space left on device: 'x'", "no space left on the disk .*TMPDIR"),
        ("WARNING: Temporary failure in name resolution\nERROR: No matching", "check the network"),
        ("Read timed out. ReadTimeoutError", "check the network"),
        ("noise\nERROR: No matching distribution found for x==9\n", "No matching .* x==9"),
    ],
)
def test_what_pip_says_becomes_one_line(tmp_path, said, line):
    message = str(explained(said, tmp_path / ".venv", tmp_path / "log"))
    assert "\n" not in message
    with pytest.raises(UserError, match=line):
        raise UserError(message)


def test_a_python_without_venv_is_one_line(root, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ensurepip is not available' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match="apt install python3-venv"):
        Environment(root, str(python)).ensure([])


# -- old Pythons ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13), (3, 13, 0), (3, 14, 1)])
def test_an_unfit_python_is_told_which_is_needed(version):
    message = setup_env.unfit(version)
    assert "Python 3.11 or 3.12 is needed" in message and "PYTHON=" in message
    assert f"not {version[0]}.{version[1]};" in message and "\n" not in message


def test_a_fit_python_is_taken():
    assert setup_env.unfit((3, 11, 0)) is None and setup_env.unfit((3, 12, 9)) is None


def test_old_pythons_understand_the_check():
    source = Path(setup_env.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 4))
    for node in ast.walk(tree):
        assert not isinstance(node, (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign, ast.Match))
        if isinstance(node, ast.FunctionDef):  # annotations are a syntax error in Python 2
            assert node.returns is None and all(a.annotation is None for a in node.args.args)
    imported = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    top = [node for node in imported if node in tree.body]
    assert [alias.name for node in top for alias in node.names] == ["sys"]
    assert (ROOT / "tools" / "__init__.py").read_text().isascii()


# -- make -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """What make needs before it installs, without an environment."""
    root = tmp_path_factory.mktemp("make")
    names = ["Makefile", "pyproject.toml", "constraints.txt", "common/__init__.py"]
    names += ["common/errors.py"]
    names += [str(path.relative_to(ROOT)) for path in (ROOT / "tools").glob("*.py")]
    names += [str(path.relative_to(ROOT)) for path in (ROOT / "papers").glob("*/paper.toml")]
    for name in [*names, "common/files.py"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text((ROOT / name).read_text())
    return root


def make(root, *arguments):
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    kept = {k: v for k, v in kept.items() if k not in ("PAPER", "SCALE", "SEEDS", "PYTHON")}
    return subprocess.run(["make", *arguments], cwd=root, capture_output=True, text=True, env=kept)


def refused(root, *arguments):
    """The one line that make prints, besides its own."""
    done = make(root, *arguments)
    assert done.returncode == 2 and not (root / ".venv").exists()
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stdout + done.stderr
    return lines[0]


def test_make_alone_helps(copy):
    done = make(copy)
    assert done.returncode == 0
    for target in ("setup", "reproduce", "smoke", "bench", "list", "tables", "test", "lint"):
        assert f"make {target}" in done.stdout
    for variable in ("PAPER", "SCALE", "SEEDS", "EXECUTOR", "DEVICE", "PYTHON"):
        assert f"{variable}=" in done.stdout


@pytest.mark.parametrize("target", ["reproduce", "smoke"])
def test_make_without_a_paper_lists_them(copy, target):
    line = refused(copy, target, f"PYTHON={sys.executable}")
    assert "which paper?" in line and "uniinf" in line


def test_make_with_a_mistake_says_the_nearest_name(copy):
    python = f"PYTHON={sys.executable}"
    assert "did you mean uniinf" in refused(copy, "reproduce", "PAPER=uninf", python)
    assert "did you mean uniinf" in refused(copy, "setup", "PAPER=uninf", python)
    line = refused(copy, "reproduce", "PAPER=uniinf", "SCALE=defualt", python)
    assert "unknown scale of uniinf 'defualt'; did you mean default" in line
    line = refused(copy, "reproduce", "PAPER=uniinf", "EXECUTOR=slurm", python)
    assert "unknown executor 'slurm'" in line


def test_make_without_a_python_names_the_variable(copy):
    assert "PYTHON=" in refused(copy, "reproduce", "PAPER=uniinf", "PYTHON=python-that-is-not")


def test_what_is_wanted(monkeypatch):
    def extras(*arguments):
        seen = []
        monkeypatch.setattr(
            environment, "Environment", lambda: type("", (), {"ensure": seen.append})()
        )
        environment.cli(arguments)
        return seen[0]

    assert extras("--paper", "uniinf") == ["bandits"]
    assert extras("--paper", "uniinf", "--executor", "ray") == ["bandits", "cluster"]
    assert extras("--paper", "uniinf", "--extra", "peers") == ["peers", "bandits"]
    assert {"bandits", *environment.TOOLS} <= set(extras("--all"))
    assert extras() == []
    monkeypatch.setenv("TRACK", "tensorboard")
    assert extras("--paper", "uniinf", "--executor", "local") == ["bandits", "track"]


def test_a_paper_of_numpy_installs_no_torch():
    requirements = Environment(ROOT).requirements
    for extra in ("base", "bandits"):
        assert not any("torch" in requirement for requirement in requirements[extra])
