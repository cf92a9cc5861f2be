"""Mirrors of the metrics for those who want them: ``TRACK=tensorboard`` or ``TRACK=wandb``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import choose

PAPERS = Path(__file__).resolve().parents[1] / "papers"


class Tracker:
    """Sends each logged line to a tracking tool."""

    def __init__(self, send: Callable[[str, float, int], None], close: Callable[[], None]) -> None:
        self._send = send
        self.close = close

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Send the metrics of ``step``; a list is sent as one series per element (seed)."""
        for name, value in metrics.items():
            values = value.tolist() if hasattr(value, "tolist") else value
            if isinstance(values, (list, tuple)):
                for index, item in enumerate(values):
                    self._send(f"{name}/{index}", item, step)
            else:
                self._send(name, values, step)


def tracker(folder: Path, config: Mapping[str, Any] | None = None) -> Tracker | None:
    """The tracker that ``$TRACK`` asks for, or None.

    Args:
        folder: the run directory.
        config: the run's configuration: wandb's ``config``, a text in tensorboard.

    Raises:
        UserError: if ``$TRACK`` names none of tensorboard and wandb.
        ModuleNotFoundError: if its package is not installed.
    """
    kind = os.environ.get("TRACK")
    if not kind:
        return None
    choose("TRACK", kind, ["tensorboard", "wandb"])
    if kind == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder / "tensorboard"))
        shown = json.dumps(dict(config or {}), indent=2)
        writer.add_text("configuration", f"```json\n{shown}\n```")
        return Tracker(lambda name, value, step: writer.add_scalar(name, value, step), writer.close)
    import wandb

    group, name = group_and_name(folder)
    session = wandb.init(
        project="papers", group=group, name=name, dir=folder, config=dict(config or {})
    )
    return Tracker(
        lambda name, value, step: session.log({name: value, "step": step}), session.finish
    )


def group_and_name(folder: Path) -> tuple[str, str]:
    """``"paper/scale"`` and the rest of a run directory's path; outside a runner's, its parent."""
    parts = folder.absolute().parts
    for i in range(len(parts) - 3, 0, -1):
        if (PAPERS / parts[i] / "paper.toml").is_file():
            return "/".join(parts[i : i + 2]), "/".join(parts[i + 2 :])
    return folder.absolute().parent.name, folder.name
