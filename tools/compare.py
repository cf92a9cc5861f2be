"""Results against the committed ones of the same scale: which verdicts differ, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import staleness, store
from tools.manifest import PAPERS

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What the committed results of the same scale say."""

    claims: dict[str, Mapping[str, Any]]  # committed claims by their id
    same: list[str]  # ids of claims with the same verdict
    differing: list[str]  # ids of claims with another verdict
    why: str  # what is different between the two, in one line

    def shown(self, claim: Mapping[str, Any]) -> str:
        """The committed verdict and number of a claim."""
        there = self.claims.get(claim["id"])
        return "–" if there is None else f"{there['verdict']}: {there['ours']}"

    @property
    def line(self) -> str:
        """How many verdicts agree, and what may explain those that differ."""
        count = len(self.same) + len(self.differing)
        text = f"{len(self.same)} of {count} verdicts as committed"
        if not self.differing:
            return text
        return f"{text}; {', '.join(self.differing)} differ: {self.why}"


def against(results: Results, papers: Path = PAPERS) -> Comparison | None:
    """Compare with ``results/<scale>.json`` of the paper's folder; None if there is none."""
    found = store.committed(results["paper"], papers).get(results["scale"])
    if found is None:
        return None
    there = {claim["id"]: claim for claim in found["claims"]}
    pairs = [
        (c["id"], c["verdict"] == there[c["id"]]["verdict"])
        for c in results["claims"]
        if c["id"] in there
    ]
    return Comparison(
        claims=there,
        same=[name for name, equal in pairs if equal],
        differing=[name for name, equal in pairs if not equal],
        why=differences(results, found),
    )


def differences(mine: Results, committed: Results) -> str:
    """What is different in where two results come from, in one line."""
    here, there = mine["provenance"], committed["provenance"]
    parts = []
    if mine.get("seeds") != committed.get("seeds"):
        parts.append(f"{mine.get('seeds')} seeds, not {committed.get('seeds')}")
    if here.get("seed_offset", 0) != there.get("seed_offset", 0):
        parts.append(f"other seeds (from {here.get('seed_offset', 0)})")
    if code := _code(here, there):
        parts.append(code)
    packages = [
        f"{name} {version} for {there['packages'][name]}"
        for name, version in here.get("packages", {}).items()
        if there.get("packages", {}).get(name, version) != version
    ]
    parts += [f"other packages ({_few(packages)})"] if packages else []
    machine = [
        f"{here.get(key)} for {there.get(key)}"
        for key in ("machine", "device", "gpu")
        if here.get(key) != there.get(key)
    ]
    parts += [f"another machine ({_few(machine)})"] if machine else []
    return "; ".join(parts) or "nothing that is recorded: these verdicts are close to a threshold"


def _code(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Which files differ, by their hashes where both have them."""
    ours = here.get("sources", {})
    theirs = staleness.recorded({"provenance": there})
    if ours and theirs:
        changed = [p for p in sorted(set(ours) & set(theirs)) if ours[p] != theirs[p]]
        return f"changed code ({_few(changed)})" if changed else ""
    if here.get("commit") != there.get("commit"):
        return f"code of another commit ({str(there.get('commit'))[:12]})"
    return "uncommitted code" if here.get("dirty") else ""


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
