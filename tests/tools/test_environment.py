"""pyproject.toml, constraints.txt and environment.yml say the same."""

import ast
import importlib.metadata
import re
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import manifest
from tools.environment import FOR_IMPORTS

ROOT = Path(__file__).parents[2]
# What a person who knows the field expects to find in the conda file by name.
NAMED = {
    *("torch", "numpy", "gymnasium", "mujoco", "pettingzoo", "smacv2", "rdkit"),
    *("transformers", "diffusers", "pytest"),
}
FROM_REPOSITORY = {"smacv2"}  # on no package index
FOR_SMACV2 = {"pysc2", "s2clientprotocol", "protobuf"}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required():
    """Every requirement of pyproject.toml, by name."""
    found = {}
    for requirements in [project()["dependencies"], *project()["optional-dependencies"].values()]:
        for text in requirements:
            requirement = Requirement(text)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def lock_lines():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def locked():
    pairs = [line.split("==") for line in lock_lines()]
    return {canonicalize_name(name): version for name, version in pairs}


def conda():
    table = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in table["dependencies"] if isinstance(entry, dict)]
    return [entry for entry in table["dependencies"] if isinstance(entry, str)], pip


def test_the_lock_is_plain():
    lines = lock_lines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9_.]*", line) for line in lines)
    assert lines == sorted(lines, key=str.lower)
    assert len(locked()) == len(lines)
    assert locked()["torch"] == "2.13.0"


def test_the_lock_holds_what_is_required():
    for name, requirements in required().items():
        for requirement in requirements:
            assert requirement.specifier.contains(locked()[name]), requirement


def test_a_package_is_required_alike_everywhere():
    for requirements in required().values():
        assert len({str(requirement) for requirement in requirements}) == 1, requirements


def test_the_lock_holds_what_the_packages_require():
    """Of what is installed here, nothing asks for what the lock forbids."""
    lock = locked()
    for name in lock:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if Version(distribution.version).public != lock[name]:
            continue
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            version = lock.get(canonicalize_name(requirement.name))
            assert version is not None, f"{name} needs {requirement}, which is not locked"
            assert requirement.specifier.contains(version, prereleases=True), (name, text)


def test_conda_has_what_was_named():
    names = {canonicalize_name(Requirement(line).name) for line in conda()[1][1:]}
    assert names >= NAMED


def test_conda_has_the_same_packages_and_versions():
    packages, lines = conda()
    assert lines[0] == "--constraint constraints.txt"
    twins = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines[1:]}
    assert len(twins) == len(lines) - 1
    assert set(twins) == set(required()) | FROM_REPOSITORY
    for name in set(twins) - FROM_REPOSITORY:
        assert str(twins[name].specifier) == f"=={locked()[name]}"
        assert twins[name].extras == required()[name][0].extras
    python = next(line.split("=")[1] for line in packages if line.startswith("python="))
    assert Requirement(f"python{project()['requires-python']}").specifier.contains(python)


def test_the_lock_leaves_room_for_smacv2():
    assert set(locked()) >= FOR_SMACV2
    assert Version(locked()["protobuf"]) < Version("3.21")  # what its setup.py asks for


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the environment of make")
def test_what_is_installed_is_what_is_locked():
    lock = locked()
    # not all of sys.path: whoever imports setuptools has what that brings for itself there, too
    places = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = list(importlib.metadata.distributions(path=places))
    assert len(found) > 50
    for distribution in found:
        name = canonicalize_name(distribution.metadata["Name"])
        version = Version(distribution.version).public
        if name not in ("pip", "setuptools") and version != lock.get(name):
            # Torch's builds for CUDA bring packages of their own, pinned by itself.
            assert name.startswith(("nvidia-", "triton")), f"{name} {version}: {lock.get(name)}"


# -- what the papers import -------------------------------------------------------------------

# Distributions of modules that bear another name; of the other modules, the name is the same.
DISTRIBUTIONS = {
    "Bio": "biopython",
    "RNA": "ViennaRNA",
    "gfn": "torchgfn",
    "pyspiel": "open_spiel",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "PyYAML",
}
# Scripts that are started with the extra "peers" besides the paper's own.
WITH_PEERS = {"bench.py", "expert.py"}
# Modules of common that import a package only where it is asked for, or there already.
OPTIONAL = {ROOT / "common" / name for name in ("checkpoint.py", "kept.py", "track.py")}
OURS = {"common", "papers", "tools"}


def imported(path):
    """Modules that a file imports anywhere, by their full names."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            if node.module.split(".")[0] in OURS:  # may be a module of ours, or a name in one
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(paths):
    """The third-party modules that files import, themselves or through ``common``: where."""
    found, seen, left = {}, set(OPTIONAL), list(paths)
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported(path):
            top, *below = name.split(".")
            if top in OURS:
                file = ROOT.joinpath(top, *below)
                ours = (file.with_suffix(".py"), file / "__init__.py")
                left += [p for p in ours if p.is_file() and top == "common"]
            elif top not in sys.stdlib_module_names:
                found.setdefault(top, path.relative_to(ROOT))
    return found


def provided(*extras):
    """Distributions that the extras and the base name, and what those are known to bring."""
    table = project()["optional-dependencies"]
    texts = [*project()["dependencies"], *(text for extra in extras for text in table[extra])]
    names = {canonicalize_name(Requirement(text).name) for text in texts}
    return names | ({"h5py"} if "minari" in names else set())  # minari[hdf5]


@pytest.mark.parametrize("slug", manifest.slugs())
def test_an_extra_holds_what_its_paper_imports(slug):
    paper = manifest.load(slug)
    files = sorted((manifest.PAPERS / slug).rglob("*.py"))
    loaders = {d.loader: slug for s in paper.scales for d in paper.needs(s).data if d.loader}
    named = {m: slug for s in paper.scales for m in paper.needs(s).imports}
    always = {**reached(f for f in files if f.name not in WITH_PEERS), **loaders, **named}
    for module, where in always.items():
        name = canonicalize_name(DISTRIBUTIONS.get(module, module))
        extras = [paper.extra, *([FOR_IMPORTS[module]] if module in FOR_IMPORTS else [])]
        assert name in provided(*extras), f"{where} imports {module}; {extras} do not hold it"
    for module, where in reached(f for f in files if f.name in WITH_PEERS).items():
        name = canonicalize_name(DISTRIBUTIONS.get(module, module))
        held = provided(paper.extra, "peers")
        assert name in held, f"{where} imports {module}; {paper.extra} and peers do not hold it"


def test_what_only_some_scales_import_is_in_an_extra():
    for module, extra in FOR_IMPORTS.items():
        assert canonicalize_name(module) in provided(extra)
