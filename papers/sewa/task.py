"""The tasks at all scales: what is trained, how long, and which snapshots are kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from papers.sewa import cloning, images, texts
from papers.sewa.examples import Work

Make = Callable[["Task", int, torch.device], Work]
DAMAGES = ("", "spoiled", "negated", "aliased")


@dataclass(frozen=True)
class Task:
    """A training and its last snapshots.

    Attributes:
        make: the work of a seed.
        steps, batch, lr, decay: of the training.
        k, interval: snapshots, and steps between two.
        K: how many are averaged.
        select_batch: examples of a mini-batch of mask learning.
        examples: of training (episodes, where there are demonstrations).
        wrong: share of the labels.
        width, layers, heads, vocabulary, length: of the network.
        episodes, limit: of the test, and their steps.
        source, environment, target, scale, warm_up: of D4RL.
        damage: done to a quarter of the snapshots (see ``baselines.damaged``).
        of: the task whose training is used.
    """

    make: Make
    steps: int
    batch: int
    lr: float
    k: int
    interval: int
    K: int = 10
    decay: float = 0.0
    select_batch: int = 64
    examples: int = 0
    wrong: float = 0.0
    width: int = 128
    layers: int = 0
    heads: int = 4
    vocabulary: int = 0
    length: int = 0
    episodes: int = 0
    limit: int = 1000
    source: str = ""
    environment: str = ""
    target: float = 0.0
    scale: float = 1000.0
    warm_up: int = 10_000
    damage: str = ""
    of: str = ""


def _digits(wrong: float = 0.2, **more: str) -> Task:
    # 300 steps: at 1,000 the wrong labels are learnt by heart and every average is the same
    return Task(images.digits_work, 300, 64, 0.1, 50, 5, examples=600, wrong=wrong, width=16,
                decay=5e-4, **more)  # type: ignore[arg-type]  # fmt: skip


def _gym(name: str, target: float) -> Task:
    return Task(cloning.dt_work, 100_000, 128, 1e-4, 100, 1, width=128, length=20, episodes=20,
                source=f"mujoco/{name}/medium-v0", environment=f"{name.capitalize()}-v5",
                target=target)  # fmt: skip


def _cifar(blocks: int) -> Task:
    return Task(images.cifar_work, 39_100, 128, 0.1, 50, 1, decay=5e-4, layers=blocks, width=64,
                select_batch=128)  # fmt: skip


TASKS: dict[str, Task] = {
    "bc-hopper": Task(
        cloning.hopper_work, 3000, 64, 1e-3, 100, 10, examples=3, episodes=30, width=128
    ),
    "digits": _digits(),
    "digits-clean": _digits(wrong=0.0),
    "digits-spoiled": _digits(damage="spoiled", of="digits"),
    "digits-negated": _digits(damage="negated", of="digits"),
    "digits-aliased": _digits(damage="aliased", of="digits"),
    "text": Task(
        texts.snippets_work, 600, 32, 1e-3, 50, 5, select_batch=32, examples=2000, width=64,
        layers=2, vocabulary=512, length=64,
    ),
    "bc-d4rl-hopper": _gym("hopper", 3600.0),
    "bc-d4rl-walker2d": _gym("walker2d", 5000.0),
    "cifar100-1": _cifar(1),
    "cifar100-3": _cifar(3),
    "cifar100-5": _cifar(5),
    "ag-news": Task(
        texts.news_work, 18_375, 32, 1e-3, 50, 1, select_batch=32, width=128, layers=4,
        length=512,
    ),
}  # fmt: skip


def trajectory_folder(out: Path, task: str, training: str, seed: int) -> Path:
    """The run of the first stage: SCALE/trajectory/TASK/TRAINING/seed-S, beside the run ``out``.

    Where the run is a cell of a grid, there is one folder more between it and the scale.
    """
    own = TASKS[task].of or task
    parts = ("trajectory", own, training, f"seed-{seed}")
    places = [at.joinpath(*parts) for at in out.absolute().parents[2:6]]
    return next((found for found in places if found.is_dir()), places[1])


__all__ = ["DAMAGES", "TASKS", "Task", "trajectory_folder"]
