"""Dendrograms of the joins that HC-SMoE makes in each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import dendrogram

from common import report


def dendrograms(extras: list[dict[str, Any]], titles: Mapping[str, str]) -> Any | None:
    """The joins of the first seed of each task, a panel per layer."""
    shown: dict[str, tuple[str, Any]] = {}
    for extra in sorted(extras, key=lambda e: e["seed"]):
        if extra["name"] == "joins" and extra["task"] in titles:
            for layer, joins in enumerate(extra["data"][:2]):
                title = f"{titles[extra['task']]}, layer {layer + 1}"
                shown.setdefault(f"{extra['task']}/{layer}", (title, np.array(joins)))
    if not shown:
        return None
    figure, axes = report.axes_for(len(shown), 2, 4.2, 2.2)
    for ax, (title, joins) in zip(axes, shown.values(), strict=True):
        dendrogram(joins, ax=ax, color_threshold=0, above_threshold_color="#D55E00")
        ax.set(title=title, ylabel="distance")
        ax.grid(False)
    return figure
