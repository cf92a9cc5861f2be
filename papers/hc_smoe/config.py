"""The configurations of the stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class TrainingConfig:
    """Stages 1 and 2: a dense model, then a mixture of experts that starts from it (or not)."""

    method: str = "moe"  # dense or moe
    task: str = "mixtral"  # see task.FAMILIES; "dense" for the dense model
    seed: int = 0  # of weights and batches
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    dense: Path | None = None  # run of stage 1; default: of the same seed, the runner's place
    packages: tuple[str, ...] = ()  # whose sources are read besides the standard library's
    vocabulary: int = 1024  # tokens
    length: int = 128  # tokens of a window
    layers: int = 2
    width: int = 128  # D
    heads: int = 4
    experts: int | None = None  # n; default: the family's
    batch: int = 16  # windows of a step
    dense_steps: int = 300  # of stage 1: 0.6 M tokens
    steps: int = 400  # of stage 2: 0.8 M tokens; from scratch: both together
    lr: float = 1e-3  # peak of a cosine
    balance: float = 0.05  # weight of the load-balancing loss, per layer
    noise: float = 0.02  # of upcycled weights, of their own standard deviation (Mixtral's kind)
    redraw: float = 0.25  # share of an upcycled expert's neurons drawn anew (Qwen's kind)


@dataclass
class Config:
    """Stage 3: experts of a trained mixture are merged or left out, and the rest is evaluated."""

    method: str = "hc-avg"  # see methods.METHODS
    task: str = "mixtral"  # see task.FAMILIES and task.PRETRAINED
    seed: tuple[int, ...] = (0,)  # of the trained mixtures, and of all draws
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    trained: Path | None = None  # stage 2's folder of one task, with seed-S below it
    model: str | None = None  # folder or name of a pretrained model, instead of the task's own
    kept: tuple[float, ...] = (0.75, 0.5)  # shares r / n of the experts that are left
    calibration: int = 128  # windows of calibration tokens (paper: 32 of 2048 tokens)
    windows: int = 400  # of validation text: perplexity
    errors: int = 32  # of them: error of each layer's output
    items: int = 0  # multiple-choice questions, asked at the largest share that is kept
    most: int = 2000  # subsets that O-prune looks at, where there are more (paper: 100,000)
    batch: int = 32  # windows of a forward pass
