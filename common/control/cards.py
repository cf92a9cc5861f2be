"""What a data set of episodes is, in figures: for its metadata and for a reader."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.control.episodes import Episode


def digest(episodes: Sequence[Episode]) -> str:
    """SHA-256 of all arrays: names, types, shapes and values, episode by episode."""
    found = hashlib.sha256()
    for episode in episodes:
        arrays = {**{k: v for k, v in vars(episode).items() if k != "infos"}, **episode.infos}
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            found.update(array.tobytes())
    return found.hexdigest()


def statistics(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Counts, returns and, where ``infos`` tell it, success of episodes; and their digest."""
    returns = np.array([e.rewards.sum(dtype=np.float64) for e in episodes])
    found: dict[str, Any] = {
        "episodes": len(episodes),
        "steps": sum(map(len, episodes)),
        "terminated": sum(bool(e.terminations[-1]) for e in episodes),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "sha256": digest(episodes),
    }
    if all("success" in e.infos for e in episodes):
        found["success_rate"] = float(np.mean([e.infos["success"].any() for e in episodes]))
    return found


def card(metadata: Mapping[str, Any], title: str = "") -> str:
    """A data set on a few lines of Markdown: who acted, with what noise, how well, which hash.

    Args:
        metadata: of :func:`common.control.episodes.cached_episodes`, with :func:`statistics`
            under "statistics" and a sentence under "behaviour".
        title: heads the table.
    """
    found = metadata["statistics"]
    lines = [
        ("behaviour", str(metadata["behaviour"])),
        ("size", f"{found['episodes']:,} episodes, {found['steps']:,} steps"),
        ("ended by themselves", f"{found['terminated']:,}"),
        (
            "return",
            f"{found['return_mean']:.1f} ± {found['return_std']:.1f} "
            f"({found['return_min']:.1f} … {found['return_max']:.1f})",
        ),
    ]
    if "success_rate" in found:
        lines.append(("success", f"{found['success_rate']:.2f}"))
    lines += [(name, f"{value:.2f}") for name, value in metadata.get("references", {}).items()]
    lines += [
        ("generated in", f"{metadata['environment_steps']:,} environment steps"),
        ("made by", ", ".join(f"{k} {v}" for k, v in sorted(metadata["libraries"].items()))),
        ("configuration", f"`{metadata['config_hash']}`"),
        ("SHA-256 of the arrays", f"`{found['sha256']}`"),
    ]
    head = f"### {title}\n\n" if title else ""
    body = "\n".join(f"| {name} | {value} |" for name, value in lines)
    return f"{head}| | |\n| --- | --- |\n{body}\n"
