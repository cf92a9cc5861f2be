"""The house's rules: who imports whom, what a folder holds, what no file contains."""

import ast
import graphlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools import manifest, pages

ROOT = Path(__file__).parents[2]
REQUIRED = (
    *("__init__.py", "README.md", "NOTES.md", "paper.toml", "method.py", "methods.py"),
    *("baselines.py", "task.py", "train.py", "trained.py", "eval.py", "claims.py", "report.py"),
)
CODE = ("papers", "common", "tools")
TEXT = {".py", ".in", ".md", ".toml", ".txt", ".yml", ".json", ""}
SLUGS = manifest.slugs()


def sources(*folders):
    """Python files, templates included."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.name.endswith((".py", ".py.in")):
                yield path


def texts():
    """Every text file of the repository that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if path.is_file() and path.suffix in TEXT:
            yield path


# -- who imports whom -------------------------------------------------------------------------


def lint_imports(root):
    command = [sys.executable, "-c", "import sys; from importlinter import cli; "]
    command[-1] += "sys.exit(cli.lint_imports(no_cache=True))"
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_four_rules_hold():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("papers/one/method.py", "from papers.two import method"),
        ("papers/two/train.py", "def f():\n    import papers.one.task"),
        ("papers/one/task.py", "from tools import manifest"),
        ("common/run.py", "from papers.one import method"),
        ("common/deep/inner.py", "import tools.manifest"),
        ("tools/manifest.py", "import papers.one.method"),
    ],
)
def test_a_broken_rule_is_noticed(tmp_path, file, line):
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    for name in ("papers/one/method", "papers/one/task", "papers/two/method", "papers/two/train"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").write_text("")
    for name in ("common/run", "common/deep/inner", "tools/manifest"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").write_text("")
    for folder in ("papers", "papers/one", "papers/two", "common", "common/deep", "tools"):
        (tmp_path / folder / "__init__.py").write_text("")
    done = lint_imports(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / file).write_text(line + "\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and "1 broken" in done.stdout, done.stdout + done.stderr


# -- what a folder holds ----------------------------------------------------------------------


@pytest.mark.parametrize("slug", SLUGS)
def test_a_folder_is_complete(slug):
    folder = ROOT / "papers" / slug
    assert [name for name in REQUIRED if not (folder / name).is_file()] == []
    assert list((ROOT / "tests" / "papers" / slug).glob("test_*.py")), "it has no tests"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for block in pages.BLOCKS:
        for mark in (f"<!-- {block}:begin -->", f"<!-- {block}:end -->"):
            assert readme.count(mark) == 1
    assert f"make reproduce PAPER={slug}" in readme


@pytest.mark.parametrize("slug", SLUGS)
def test_judging_and_showing_stay_short(slug):
    files = [ROOT / "papers" / slug / name for name in ("claims.py", "report.py")]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 450


def imports_of(folder, package):
    """Module -> the modules of its own folder that it imports, wherever in its text."""
    names = {path.stem for path in folder.glob("*.py")}
    found = {}
    for path in folder.glob("*.py"):
        here = found.setdefault(path.stem, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
                inside = (node.module or "").removeprefix(package).strip(".").split(".")[0]
                here |= {inside} if inside else {a.name for a in node.names if a.name in names}
            elif isinstance(node, ast.Import):
                dotted = [a.name.split(".") for a in node.names if a.name.startswith(package + ".")]
                here |= {parts[package.count(".") + 1] for parts in dotted}
    return found


def circle(imports):
    """Modules that import each other in a circle; none: empty."""
    try:
        list(graphlib.TopologicalSorter(imports).static_order())
    except graphlib.CycleError as found:
        return found.args[1]
    return []


@pytest.mark.parametrize("slug", SLUGS)
def test_nothing_in_a_folder_imports_in_a_circle(slug):
    assert circle(imports_of(ROOT / "papers" / slug, f"papers.{slug}")) == []


def test_a_circle_is_noticed(tmp_path):
    (tmp_path / "train.py").write_text("from papers.x import task\n")
    (tmp_path / "task.py").write_text("def f():\n    from papers.x.train import g\n")
    assert set(circle(imports_of(tmp_path, "papers.x"))) == {"task", "train"}
    (tmp_path / "task.py").write_text("import papers.x.eval, numpy\n")
    (tmp_path / "eval.py").write_text("")
    assert circle(imports_of(tmp_path, "papers.x")) == []


def long_functions(path):
    """Functions of more than 80 lines; compiled kernels, which cannot be divided, apart."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef):
            continue
        compiled = any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)
        if node.end_lineno - node.lineno >= 80 and not compiled:
            yield f"{path.relative_to(ROOT)}: {node.name}"


def test_no_function_is_long():
    assert [name for path in sources(*CODE) for name in long_functions(path)] == []


LONGER = {"mast": 45, "ovmse": 45}  # minutes: eleven methods; data, offline and online training


@pytest.mark.parametrize("slug", SLUGS)
def test_a_manifest_makes_sense(slug):
    paper = manifest.load(slug)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert paper.slug == slug
    assert paper.extra in {"base", *extras["optional-dependencies"]}
    assert {"smoke", "default"} <= set(paper.scales)
    assert paper.scales["smoke"]["minutes"] <= 0.5
    assert paper.scales["default"]["minutes"] <= LONGER.get(slug, 30)
    for name in paper.scales:
        for job in paper.scale(name).jobs:
            assert (ROOT / "papers" / slug / f"{job.module}.py").is_file()


def cells(scale):
    """(method, task, seed) of every job, with the seeds that its arguments add."""
    for job in scale.jobs:
        args = list(job.args)
        added = int(args[args.index("--seed-offset") + 1]) if "--seed-offset" in args else 0
        yield from ((job.method, job.task, seed + added) for seed in job.seeds)


def unfair(paper):
    """What is wrong with how the methods of a paper were tuned or studied; empty if nothing."""
    wrong = []
    claimed = set(cells(paper.scale("default")))
    for name in {"tuning", "study"} & set(paper.scales):
        if met := sorted(map(str, claimed & set(cells(paper.scale(name))))):
            wrong.append(f"{name} uses seeds of default: {met[0]}")
    if "tuning" not in paper.scales:
        return wrong
    tried: dict = {}
    for job in paper.scale("tuning").jobs:
        of_task = tried.setdefault((job.stage, job.task), {})
        of_task.setdefault(job.method, {}).setdefault(job.args, set()).update(job.seeds)
    for (_, task), methods in tried.items():
        first = next(iter(methods.values()))
        wrong += [f"{task}: {m} has another grid" for m in methods if set(methods[m]) != set(first)]
        seeds = {m: list(methods[m].values()) for m in methods}
        wrong += [
            f"{task}: {m} has other seeds, or fewer than 3"
            for m in seeds
            if any(s != next(iter(first.values())) or len(s) < 3 for s in seeds[m])
        ]
    return wrong


@pytest.mark.parametrize("slug", SLUGS)
def test_tuning_is_fair_and_apart_from_the_claims(slug):
    assert unfair(manifest.load(slug)) == []


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ([{"methods": ["m", "n"], "grid": {"lr": [1, 2]}, "first_seed": 4}], "seeds of default"),
        ([{"methods": ["m", "n"], "grid": {"lr": [1, 2]}, "seeds": 2}], "fewer than 3"),
        ([{"methods": ["m"], "grid": {"lr": [1, 2]}}, {"methods": ["n"]}], "n has another grid"),
        ([{"methods": ["m"]}, {"methods": ["n"], "seeds": 4}], "n has other seeds"),
        ([{"methods": ["m"], "first_seed": 0, "args": {"seed_offset": 3}}], "seeds of default"),
        ([{"methods": ["m", "n"], "grid": {"lr": [1, 2]}}, {"methods": ["o"], "tasks": ["x"]}], ""),
    ],
)
def test_unfair_tuning_is_noticed(tuning, words):
    scales = {
        "default": {"seeds": 5, "minutes": 1, "stages": [{"methods": ["m"]}]},
        "tuning": {"seeds": 3, "first_seed": 1000, "minutes": 1, "stages": tuning},
    }
    found = unfair(manifest.Manifest("p", "t", "a", "v", "x", "s", "e", (), scales))
    assert words in "; ".join(found) and bool(found) is bool(words), found


def test_every_folder_has_a_manifest():
    folders = [path for path in (ROOT / "papers").iterdir() if any(path.glob("*.py"))]
    assert sorted(path.name for path in folders) == manifest.slugs(drafts=True)


def test_a_draft_is_not_shown_and_can_be_run(tmp_path):
    for slug, line in (("stands", ""), ("begun", "draft = true\n")):
        (tmp_path / slug).mkdir()
        (tmp_path / slug / "paper.toml").write_text(f'slug = "{slug}"\n{line}')
    assert manifest.slugs(tmp_path) == ["stands"]
    assert manifest.slugs(tmp_path, drafts=True) == ["begun", "stands"]
    assert manifest.choose_paper("begun", tmp_path) == "begun"


def test_planned_papers():
    planned = tomllib.loads((ROOT / "tools" / "planned.toml").read_text())["paper"]
    slugs = [paper["slug"] for paper in planned]
    assert len(slugs) == len(set(slugs))
    assert set(SLUGS) <= set(slugs)
    assert all(paper["title"] and set(paper) == {"slug", "title"} for paper in planned)


# -- what no file contains --------------------------------------------------------------------

# Compiled code is code: numba's cache, in the clone or beside it, is as trustworthy as the sources
# that it lies beside. Nothing else is read by it.
COMPILED = {("common/jit.py", "pickle")}
EXECUTING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def dotted(node):
    """``a.b.c`` as text, or what is known of it."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def executes_code(tree):
    """Calls and imports by which loading a file may execute code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from ((node.lineno, n) for n in names if n.split(".")[0] in EXECUTING)
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        wrong = (
            name in ("eval", "exec", "torch.save", "yaml.load", "yaml.unsafe_load")
            or (name == "torch.load" and given.get("weights_only") is not True)
            or (name in ("np.load", "numpy.load") and given.get("allow_pickle") is not False)
            or given.get("allow_pickle") is True
            or given.get("trust_remote_code") is True
        )
        if wrong:
            yield node.lineno, name


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import pickle", True),
        ("from cloudpickle import dumps", True),
        ("x = torch.load(f)", True),
        ("x = torch.load(f, weights_only=False)", True),
        ("x = torch.load(f, weights_only=True)", False),
        ("x = np.load(f)", True),
        ("x = np.load(f, allow_pickle=True)", True),
        ("x = np.load(f, allow_pickle=False)", False),
        ("eval(text)", True),
        ("model.eval()", False),
        ("def evaluate(): pass", False),
    ],
)
def test_the_search_for_executing_loads(line, found):
    assert bool(list(executes_code(ast.parse(line)))) is found


#: Compiled code is code, whatever its file is called: numba's cache holds machine code in pickles,
#: written and read on this machine only. No data, run directory or result goes through it.
COMPILED = {ROOT / "common" / "jit.py"}


def test_loading_a_file_never_executes_code():
    found = []
    for path in sorted(set(sources(*CODE)) - COMPILED):
        tree = ast.parse(path.read_text().replace("SLUG", "slug"))
        found += [
            f"{path.relative_to(ROOT)}:{line} {what}"
            for line, what in executes_code(tree)
            if (path.relative_to(ROOT).as_posix(), what) not in COMPILED
        ]
    assert found == []


def matches(pattern, paths):
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number} {line.strip()[:100]}")
    return found


def test_nothing_is_left_unfinished():
    words = ("NotImplemented" + "Error", "TO" + "DO", "FIX" + "ME", "XX" + "X")
    pattern = re.compile(r"\b(" + "|".join(words) + r")\b")
    assert matches(pattern, sources(*CODE, "tests")) == []


def test_nothing_depends_on_one_machine():
    """No absolute path of somebody's machine, no folder beside the repository."""
    absolute = r"(^|[\s\"'`(=:,])/(work|root|home|opt|tmp|mnt|Users)/\w"
    beside = re.escape("../" + "sha" + "red")
    pattern = re.compile(f"{absolute}|{beside}")
    assert matches(pattern, texts()) == []
