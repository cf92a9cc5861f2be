"""Mirrors of the metrics for those who want them: ``TRACK=tensorboard`` or ``TRACK=wandb``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import choose


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


def tracker(folder: Path) -> Tracker | None:
    """The tracker that ``$TRACK`` asks for, or None.

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
        return Tracker(lambda name, value, step: writer.add_scalar(name, value, step), writer.close)
    import wandb

    session = wandb.init(project="papers", name="/".join(folder.parts[-4:]), dir=folder)
    return Tracker(
        lambda name, value, step: session.log({name: value, "step": step}), session.finish
    )
