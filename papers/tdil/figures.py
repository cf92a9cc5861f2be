"""Drawings of TDIL by hand: reward maps, paths in the continuous maze, blind selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.plotting import Figure, panels
from common.rows import Rows
from papers.tdil.mazes import PATH, WALLS, continuous_demonstration, exact_reward
from papers.tdil.methods import METHODS

Extras = Sequence[Mapping[str, Any]]


def draw_blind(rows: Rows, tasks: Mapping[str, tuple[str, str]]) -> Figure:
    """Score against rho_rel, a panel per task; title and score of each."""
    figure, axes = panels(1, len(tasks), width=3.2, height=2.8)
    for axis, (task, (title, score)) in zip(axes[0], tasks.items(), strict=True):
        here = rows.of(task=task)
        for seed in here.unique("seed"):
            one = here.of(seed=seed).frame
            table = one.pivot_table(index="step", columns="metric", values="value", observed=True)
            names = ["rho_rel_curve", f"{score}_curve"]
            if set(names) <= set(table):
                axis.plot(*table[names].dropna().to_numpy().T, "o", markersize=3, alpha=0.7)
        axis.set(xlabel="ρ_rel", ylabel=score, title=title)
    return figure


def draw_maps(extras: Extras) -> Figure:
    """R_TDIL by cell, exact and learned, and the best action's D_g."""
    shown: list[tuple[str, Any]] = [("R_TDIL, exact", exact_reward(0.1).reshape(10, 10))]
    for extra in extras:
        name = "R_TDIL, learned" if extra["name"] == "cell_reward" else "GAIL-style, best action"
        shown.append((name, np.array(extra["data"], dtype=float)))
    figure, axes = panels(1, len(shown), width=2.9, height=2.9)
    for axis, (name, data) in zip(axes[0], shown, strict=True):
        image = axis.imshow(data, extent=(0, 10, 10, 0), cmap="viridis", vmin=0)
        draw_maze(axis, np.array(PATH) + 0.5)
        axis.set_title(name)
        figure.colorbar(image, ax=axis, shrink=0.7)
    return figure


def draw_paths(extras: Extras) -> Figure:
    """A panel per method, in the order of the table."""
    by_name = {extra["method"]: np.array(extra["data"], dtype=float) for extra in extras}
    there = [name for name in METHODS if name in by_name]
    figure, axes = panels(-(-len(there) // 3), 3, width=2.7, height=2.8)
    for axis in axes.flat[len(there) :]:
        axis.set_visible(False)
    demonstration = continuous_demonstration().next_observations * 10 + 5
    for axis, name in zip(axes.flat, there, strict=False):
        for path in by_name[name]:
            axis.plot(path[:, 1], path[:, 0], color="#0072B2", linewidth=0.8, alpha=0.7)
            axis.plot(path[0, 1], path[0, 0], "o", color="#0072B2", markersize=3)
        draw_maze(axis, demonstration)
        axis.set_title(METHODS.label(name), fontsize=8)
    return figure


def draw_maze(axis: Any, path: np.ndarray) -> None:
    """Walls, and the demonstration in the method's colour; rows go down."""
    for orthogonal, at, low, high in WALLS:
        ends = ([low, high], [at, at]) if orthogonal == 0 else ([at, at], [low, high])
        axis.plot(*ends, color="black", linewidth=1.5)
    axis.plot(path[:, 1], path[:, 0], color="#D55E00", linewidth=1.2, marker=".", markersize=3)
    axis.set(xlim=(-0.1, 10.1), ylim=(10.1, -0.1))
    axis.set_aspect("equal")
    axis.axis("off")
