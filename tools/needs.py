"""What a scale needs, looked for before its first job: one message names all that is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import UserError, choose
from tools.manifest import ROOT, Data, Manifest, Scale

GB = 1e9
DISTRIBUTIONS = {
    "Bio": "biopython",
    "RNA": "ViennaRNA",
    "pyspiel": "open_spiel",
    "sklearn": "scikit-learn",
}


def check(
    paper: Manifest,
    scale: Scale,
    root: Path,
    device: str,
    *,
    remote: bool = False,
    anyway: bool = False,
) -> dict[str, str]:
    """Refuse to begin when something is missing.

    Args:
        paper: the paper.
        scale: its scale that is to run.
        root: where its run directories go.
        device: "cpu" or "cuda".
        remote: the jobs run on other machines, whose devices and memory are not looked at.
        anyway: warn only, except of a device that cannot be used.

    Returns:
        What the results are to say of the device.

    Raises:
        UserError: naming everything that is missing, and what to do about each.
    """
    choose("DEVICE", device.split(":")[0], ["cpu", "cuda"])
    found, devices = {"device": device}, []
    lacking = [*packages(paper, scale.needs.imports), *data(scale.needs.data), *disk(scale, root)]
    if not remote:
        lacking += memory(scale)
    if device == "cpu":
        if scale.needs.gpus:
            lacking.append(f"a GPU: it is planned for {scale.needs.on} (DEVICE=cuda)")
    elif "torch" not in scale.needs.imports:
        devices.append(f"work for a GPU: {paper.slug} computes on the CPU (DEVICE=cpu)")
    elif not remote:
        name, problem = cuda()
        found["gpu"] = name
        devices += [problem] if problem else []
    missing = devices + lacking
    listed = "; ".join(f"({i}) {what}" for i, what in enumerate(missing, 1))
    said = (
        f"{paper.slug} at scale {scale.name} lacks " + (listed if missing[1:] else missing[0])
        if missing
        else ""
    )
    if devices or (missing and not anyway):
        raise UserError(said + ("" if devices else "; ANYWAY=1 begins all the same"))
    if missing:
        print(f"warning: {said}", file=sys.stderr)
    return found


def notes(scale: Scale) -> list[str]:
    """What is not here yet and will be fetched."""
    return [
        f"{entry.path} is not below $PAPERS_DATA: '{entry.loader}' fetches it ({entry.size})"
        for entry in scale.needs.data
        if entry.loader and not _there(entry)
    ]


def installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def packages(paper: Manifest, imports: Iterable[str]) -> list[str]:
    """The packages that are missing: those of the paper, then those of the scale."""
    absent = [name for name in imports if not installed(name)]
    own = [name for name in absent if name in paper.imports]
    others = [DISTRIBUTIONS.get(n, n.replace("_", "-")) for n in absent if n not in own]
    lines = []
    if own:
        lines.append(
            f"the package{'s' * (len(own) > 1)} {', '.join(own)} "
            f"('make setup PAPER={paper.slug}' installs what it needs)"
        )
    if others:
        names = " ".join(others)
        lines.append(
            f"the package{'s' * (len(others) > 1)} {', '.join(others)} "
            f"('.venv/bin/python -m pip install -c constraints.txt {names}')"
        )
    return lines


def _there(entry: Data) -> bool:
    if entry.made and (ROOT / entry.made).exists():
        return True
    root = os.environ.get("PAPERS_DATA")
    return bool(root) and (Path(root or "") / entry.path).exists()


def data(entries: Iterable[Data]) -> list[str]:
    """The data that are neither below ``$PAPERS_DATA`` nor fetched by a package that is here."""
    absent = [e for e in entries if not _there(e) and not (e.loader and installed(e.loader))]
    if not absent:
        return []
    root = os.environ.get("PAPERS_DATA")
    named = []
    for entry in absent:
        otherwise = f", or the package {entry.loader}, which fetches it" if entry.loader else ""
        named.append(f"{entry.path} ({entry.size}; {entry.source}{otherwise})")
    return [f"data below $PAPERS_DATA ({root or 'not set'}): {', '.join(named)}"]


def disk(scale: Scale, root: Path) -> Iterator[str]:
    """Free space where the run directories go."""
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free / GB
    if free < scale.needs.disk_gb:
        yield (
            f"space: {free:.1f} GB are free at {root}, {scale.needs.disk_gb:g} GB are needed "
            "(free some, or set PAPERS_RUNS to a folder on another disk)"
        )


def memory(scale: Scale) -> Iterator[str]:
    """Memory of this machine, or of the container that this is."""
    if (has := machine_memory()) < 0.9 * scale.needs.memory_gb:
        yield f"memory: this machine has {has:.1f} GB, {scale.needs.memory_gb:g} GB are needed"


def machine_memory() -> float:
    """GB that the processes of this machine, or container, may use."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")) / GB)
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(sizes)


_ASK = """
import sys
try:
    import torch
except ModuleNotFoundError:
    sys.exit("the package torch, without which no GPU is used")
if torch.version.cuda is None and torch.version.hip is None:
    sys.exit(f"a torch that can use a GPU: {torch.__version__} is built for the CPU alone")
if not torch.cuda.is_available():
    sys.exit("a CUDA device: torch finds none (use DEVICE=cpu, or look at nvidia-smi)")
print(torch.cuda.get_device_name())
"""


def cuda() -> tuple[str, str]:
    """Name of the CUDA device that torch finds, or what is missing."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired:
        return "", "a CUDA device that answers: torch waited for one for 5 minutes"
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = said[-1] if said else "a CUDA device: torch ended without a word"
    return (last, "") if said and done.returncode == 0 else ("", last)
