"""pyproject.toml, constraints.txt and environment.yml say the same."""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        version = Version(distribution.version).public
        if name not in ("pip", "setuptools") and version != lock.get(name):
            # Torch's builds for CUDA bring packages of their own, pinned by itself.
            assert name.startswith(("nvidia-", "triton")), f"{name} {version}: {lock.get(name)}"
