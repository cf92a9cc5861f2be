"""The environment: extras accumulate, nothing is done twice, a failure is one line and no stamp."""

import ast
import os
import re
import shutil
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


PYTHON = """#!/bin/sh
# Python, whose fresh environments are copies of one that it made.
[ "$1 $2 $#" = "-m venv 3" ] && exec cp -a "{made}/." "$3"
exec "{python}" "$@"
"""


@pytest.fixture(scope="session")
def quick_python(tmp_path_factory):
    """A Python that makes environments in a tenth of the time."""
    folder = tmp_path_factory.mktemp("python")
    python = getattr(sys, "_base_executable", "") or sys.executable
    subprocess.run([python, "-m", "venv", folder / "made"], check=True)
    script = folder / "python"
    script.write_text(PYTHON.format(made=folder / "made", python=python))
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def index(tmp_path, monkeypatch, quick_python):
    """A folder of wheels, the only place that pip looks at. (Processes of their own use Python.)"""
    monkeypatch.setattr(sys, "_base_executable", quick_python, raising=False)
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


UV = """#!/bin/sh
# Of uv only what is used here; the packages come by a pip that stands elsewhere.
echo "$@" >> "{log}"
case $1-$2 in
venv-*) exec "{python}" -m venv --without-pip "$6" ;;
pip-install) [ "$3" = --python ] || exit 1; target=$4; shift 4
    exec "{python}" -m pip --python "$target" install "$@" ;;
python-find) [ -n "$FOUND" ] && echo "$FOUND" ;;
*) echo "error: what is $1?" >&2; exit 2 ;;
esac
"""


@pytest.fixture
def uv(tmp_path, monkeypatch):
    """A uv on PATH; what it was asked for stands in the file that is returned."""
    folder, log = tmp_path / "uv", tmp_path / "uv.log"
    folder.mkdir()
    (folder / "uv").write_text(UV.format(log=log, python=sys.executable))
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return log


@pytest.fixture(autouse=True)
def no_other_uv(monkeypatch, tmp_path):
    """Whether this machine has a uv does not matter here."""
    folders = os.environ["PATH"].split(os.pathsep)
    without = [folder for folder in folders if not (Path(folder) / "uv").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(without))


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
        (
            "  × No solution found when resolving dependencies:\n  ╰─▶ Because x was not found in"
            " the\n      package registry, no.\n",
            "installed: Because x was not found in the package registry, no. ",
        ),
        (
            "error: No solution found when resolving dependencies\n  cause: Because x was not"
            " found.\n",
            "installed: Because x was not found. ",
        ),
        ("error: error sending request for url (…): dns error", "check the network"),
        ("error: Failed to build `x`\n  Caused by: y", "installed: Failed to build `x` "),
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


# -- environments of others --------------------------------------------------------------------


def test_an_environment_of_somebody_else_is_left_alone(root, index):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    before = sorted(root.rglob("*"))
    with pytest.raises(UserError, match=r"not made by make .* move it away, .*VENV=.*reproduce"):
        Environment(root).ensure(["one"])
    assert sorted(root.rglob("*")) == before
    Environment(root, folder="mine").ensure(["one"])
    assert (root / "mine/bin/python").exists() and sorted((root / ".venv").rglob("*")) == [
        path for path in before if (root / ".venv") in path.parents
    ]


@pytest.mark.parametrize("kind", ["file", "dangling link", "empty folder"])
def test_what_lies_where_the_environment_should(root, index, kind):
    folder = root / ".venv"
    if kind == "file":
        folder.write_text("mine")
    elif kind == "dangling link":
        folder.symlink_to(root / "nowhere")
    else:
        folder.mkdir()
        Environment(root).ensure([])
        return
    with pytest.raises(UserError, match="not made by make"):
        Environment(root).ensure([])
    assert folder.is_file() or folder.is_symlink()


def test_the_environment_of_another_checkout_is_left_alone(root, index, tmp_path):
    Environment(root).ensure(["one"])
    other = tmp_path / "other"
    other.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (other / name).write_text((root / name).read_text())
    (other / ".venv").symlink_to(root / ".venv")
    with pytest.raises(UserError, match="belongs to the checkout at .*repository; move it away"):
        Environment(other).ensure(["one"])
    assert Environment(root).missing(["one"]) == []


def test_an_environment_that_moved_with_its_checkout_is_made_anew(root, index, tmp_path):
    Environment(root).ensure(["one"])
    moved = root.rename(tmp_path / "moved")
    Environment(moved).ensure(["one"])
    assert Environment(moved).missing(["one"]) == []


# -- uv ---------------------------------------------------------------------------------------


def test_uv_makes_the_same_environment(root, index, uv):
    Environment(root, installer="uv").ensure(["two"])
    assert installed(root, "tiny", "little", "small") == ["1.0", "1.0", "1.0"]
    made, filled = uv.read_text().splitlines()
    assert made.startswith("venv") and f"--constraint {root / 'constraints.txt'}" in filled
    assert Environment(root, installer="pip").missing(["two"]) == []
    wheel(index, "little", "2.0")
    (root / "constraints.txt").write_text("tiny==1.0\nlittle==2.0\nsmall==1.0\n")
    Environment(root, installer="pip").ensure(["two"])  # it has no pip, and is given one
    assert installed(root, "little") == ["2.0"] and len(uv.read_text().splitlines()) == 2


def test_uv_is_chosen_unless_pip_was_told_where_to_look(root, index, uv, monkeypatch, tmp_path):
    assert Environment(root).installer() == "pip"  # the index of these tests
    assert Environment(root, installer="uv").installer() == "uv"
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    assert Environment(root).installer() == "uv"
    assert Environment(root, installer="pip").installer() == "pip"
    configuration = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    for line, installer in (
        ("timeout = 5", "uv"),
        ("find-links = /wheels", "pip"),
        ("index-url = https://example.invalid/simple", "pip"),
        ("extra-index-url = https://example.invalid/simple", "pip"),
    ):
        configuration.write_text(f"[global]\n{line}\n")
        assert Environment(root).installer() == installer


def test_without_uv_pip_is_chosen(root, index, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    assert Environment(root).installer() == "pip"
    with pytest.raises(UserError, match="no uv on PATH"):
        Environment(root, installer="uv").ensure([])
    with pytest.raises(UserError, match="unknown installer 'conda'"):
        Environment(root, installer="conda").ensure([])


def test_no_package_is_needed_before_the_installation():
    program = "import sys, tools.environment, tools.ci_matrix; tools.environment.cli(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, "--paper=uninf"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "error: unknown paper 'uninf'; did you mean uniinf?\n"


# -- old Pythons ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13), (3, 13, 0), (3, 14, 1)])
def test_an_unfit_python_is_told_which_is_needed(version):
    message = setup_env.unfit(version)
    assert "Python 3.11 or 3.12 is needed" in message and "PYTHON=" in message
    assert f"not {version[0]}.{version[1]};" in message and "\n" not in message


@pytest.mark.parametrize("module", ["tools.reproduce", "tools.tables", "tools.new_paper"])
def test_tools_tell_an_old_python_which_is_needed(module):
    program = (
        "import runpy, sys; sys.version_info = (3, 10, 13, 'final', 0); "
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "Python 3.11 or 3.12 is needed, not 3.10" in done.stderr


def test_windows_is_told_of_wsl():
    assert "WSL" in setup_env.unfit((3, 12, 0), "win32")


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
    (root / "tests").mkdir()
    names = ["Makefile", "pyproject.toml", "constraints.txt", "common/__init__.py"]
    names += ["common/errors.py"]
    names += [
        str(path.relative_to(ROOT)) for path in (ROOT / "tools").glob("*.*") if path.is_file()
    ]
    names += [str(path.relative_to(ROOT)) for path in (ROOT / "papers").glob("*/paper.toml")]
    for name in [*names, "common/files.py"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text((ROOT / name).read_text())
    return root


VARIABLES = (
    *("PAPER", "SCALE", "SEEDS", "SEED_OFFSET", "HOURS", "ANYWAY"),
    *("EXECUTOR", "DEVICE", "JOBS", "VENV", "PYTHON"),
)


def make(root, *arguments, **extra):
    dropped = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "INSTALLER", *VARIABLES)
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    return subprocess.run(
        ["make", *arguments], cwd=root, capture_output=True, text=True, env={**kept, **extra}
    )


def refused(root, *arguments, **extra):
    """The one line that make prints, besides its own."""
    done = make(root, *arguments, **extra)
    assert done.returncode == 2 and not (root / ".venv").exists()
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stdout + done.stderr
    return lines[0]


def test_make_alone_helps(copy):
    done = make(copy)
    assert done.returncode == 0
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), re.M)
    targets = set(phony.replace("\\\n", " ").split())
    assert targets > {"setup", "reproduce", "results", "judge", "power", "smoke-all", "list"}
    for target in targets - {"help"}:
        assert f"make {target}" in done.stdout
    for variable in (*VARIABLES, "INSTALLER"):
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


# What runs a foreign command where text is pasted into a recipe. OWNED must not come to be.
HOSTILE = [
    'x"; touch OWNED; "',
    "x; touch OWNED",
    "x\ntouch OWNED",
    "x' ; touch OWNED ; '",
    "`touch OWNED`",
    '"`touch OWNED`"',
    "$(touch OWNED)",
    "$$(touch OWNED)",
    "$(shell touch OWNED)",
    "${shell touch OWNED}",
    "$$(shell touch OWNED)",
    "x && touch OWNED",
    "x | touch OWNED",
    "x & touch OWNED #",
    "x > OWNED",
]
TARGETS = ("reproduce", "smoke", "results", "judge", "power", "bench", "expert", "setup", "list")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("variable", [*VARIABLES, "INSTALLER"])
def test_no_value_runs_a_command(copy, variable, value):
    given = {"PAPER": "uniinf", "PYTHON": sys.executable, variable: value}
    pairs = [f"{name}={text}" for name, text in given.items()]
    line = refused(copy, "reproduce", *pairs)
    assert f"error: {variable} takes" in line
    assert not list(copy.rglob("OWNED"))


@pytest.mark.parametrize("value", [HOSTILE[0], HOSTILE[2], "$(shell touch OWNED)"])
@pytest.mark.parametrize(
    "target", [*TARGETS, "tables", "lint", "unit", "test", "smoke-all", "clean"]
)
def test_no_target_runs_a_paper_s_name(copy, target, value):
    assert "error: PAPER takes" in refused(copy, target, f"PAPER={value}")
    assert "error: PAPER takes" in refused(copy, target, PAPER=value)  # from the environment
    assert not list(copy.rglob("OWNED"))


def test_what_has_good_characters_and_makes_no_sense_is_one_line(copy):
    python = f"PYTHON={sys.executable}"
    for paper in ("--help", "-x", "..", "all,x"):
        assert "unknown paper" in refused(copy, "reproduce", f"PAPER={paper}", python)
    for pair in (
        "SEEDS=-1",
        "SEEDS=two",
        "HOURS=1.2.3",
        "HOURS=-1",
        "JOBS=",
        "SEED_OFFSET=-1",
        "ANYWAY=;",
    ):
        assert "takes " in refused(copy, "reproduce", "PAPER=uniinf", pair, python)
    line = refused(copy, "expert", "PAPER=uniinf", python)
    assert "uniinf has no expert.py; PAPER= one of" in line
    assert "unknown installer 'pipp'" in refused(copy, "list", "INSTALLER=pipp", python)
    assert "no uv on PATH" in refused(copy, "list", "INSTALLER=uv", python)


def says(folder, name, *lines):
    """A program in a folder that is to stand first on PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (folder / name).chmod(0o755)


def recorder(root, folder):
    """An environment whose Python writes down its arguments instead of running them."""
    said = root / "said"
    says(folder, "python", f'echo "$@" >> "{said}"')
    (folder.parent / "stamps").mkdir()
    return said


def test_make_passes_on_what_is_given(copy, tmp_path):
    (tmp_path / "env" / "bin").mkdir(parents=True)
    said = recorder(tmp_path, tmp_path / "env" / "bin")

    def command(*arguments):
        said.unlink(missing_ok=True)
        done = make(copy, *arguments, f"VENV={tmp_path / 'env'}")
        assert done.returncode == 0, done.stderr
        first, *rest = said.read_text().splitlines()
        assert first.startswith(f"-m tools.setup_env --venv={tmp_path / 'env'}")
        (line,) = rest or [first]
        return line.removeprefix("-m tools.")

    default = "reproduce ofp --executor local --device cpu --scale"
    assert command("reproduce", "PAPER=ofp") == f"{default} default"
    assert command("smoke", "PAPER=ofp", "SCALE=paper") == f"{default} smoke"
    assert command("results", "PAPER=ofp", "SCALE=tuning") == f"{default} tuning --commit-results"
    assert command("judge", "PAPER=ofp") == "judging ofp --scale default"
    assert command("power", "PAPER=ofp", "SCALE=gpu") == "power ofp --scale gpu"
    assert command("bench", "PAPER=ofp") == "bench ofp" and command("bench") == "bench"
    assert command("list") == "tables --list"
    assert command("smoke-all", "JOBS=4") == "smoke_all --jobs 4"
    assert command("setup").endswith(" --all")
    assert command("reproduce", "PAPER=all", "HOURS=10") == (
        "reproduce all --hours 10 --executor local --device cpu --scale default"
    )
    assert command("reproduce", "PAPER=ofp", "SEED_OFFSET=100", "ANYWAY=1") == (
        "reproduce ofp --seed-offset 100 --anyway --executor local --device cpu --scale default"
    )
    assert command(
        "reproduce", "PAPER=ofp", "SEEDS=2", "DEVICE=cuda", "EXECUTOR=ray", "SCALE=gpu"
    ) == ("reproduce ofp --seeds 2 --executor ray --device cuda --scale gpu")


# -- finding a Python -------------------------------------------------------------------------


def without_pythons(folder, monkeypatch):
    """A PATH with the shell's programs only, and ``folder`` before them."""
    tools = folder.parent / "tools"
    tools.mkdir()
    for name in ("sh", "make", "git", "env", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{tools}")


OLD = ('[ "$1" = -m ] && exit 99', "case $2 in *print*) echo 3.13 ;; *) exit 1 ;; esac")


@pytest.mark.parametrize("name", ["python3", "python3.12", "python3.11", "python", "uv"])
def test_make_finds_a_python(copy, tmp_path, monkeypatch, name):
    folder = tmp_path / "bin"
    without_pythons(folder, monkeypatch)
    says(folder, "python3", *OLD)
    if name == "uv":
        says(folder, "uv", f'[ "$*" = "python find >=3.11,<3.13" ] && echo "{sys.executable}"')
    else:
        says(folder, name, f'exec "{sys.executable}" "$@"')
    assert "unknown paper 'uninf'" in refused(copy, "smoke", "PAPER=uninf")


def test_make_without_a_fit_python_is_one_line(copy, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    without_pythons(folder, monkeypatch)
    assert "python3 is missing" in refused(copy, "smoke", "PAPER=uniinf")
    says(folder, "python3", *OLD)
    line = refused(copy, "smoke", "PAPER=uniinf")
    assert "python3 is 3.13" in line and "PYTHON=" in line


def test_clean_removes_what_make_made_and_nothing_else(copy, tmp_path):
    foreign, own, link = tmp_path / "foreign", tmp_path / "own", tmp_path / "link"
    (foreign / "bin").mkdir(parents=True)
    (own / "stamps").mkdir(parents=True)
    link.symlink_to(own)
    for folder, stays in ((foreign, True), (link, True), (own, False), (own, False)):
        assert make(copy, "clean", f"VENV={folder}").returncode == 0
        assert folder.exists() == stays


def test_what_is_wanted(monkeypatch):
    def extras(*arguments):
        seen = []
        fake = type("", (), {"ensure": seen.append})
        monkeypatch.setattr(environment, "Environment", lambda **_: fake())
        environment.cli(arguments)
        return seen[0]

    assert extras("--paper", "uniinf") == ["bandits"]
    assert extras("--paper", "uniinf", "--executor", "ray") == ["bandits", "cluster"]
    assert extras("--paper", "uniinf", "--extra", "peers") == ["peers", "bandits"]
    assert extras("--paper", "dlsm", "--scale", "default") == ["generative"]
    assert extras("--paper", "dlsm", "--scale", "paper") == ["generative", "fid"]
    assert {"bandits", *environment.TOOLS} <= set(extras("--all"))
    assert {"bandits", "gfn"} <= set(extras("--paper", "all", "--scale", "default"))
    assert extras() == []
    monkeypatch.setenv("TRACK", "tensorboard")
    assert extras("--paper", "uniinf", "--executor", "local") == ["bandits", "track"]
    monkeypatch.setenv("TRACK", "wandb")
    assert extras("--paper", "uniinf", "--executor", "local") == ["bandits", "track"]


def test_a_paper_of_numpy_installs_no_torch():
    requirements = Environment(ROOT).requirements
    for extra in ("base", "bandits"):
        assert not any("torch" in requirement for requirement in requirements[extra])
