"""Tasks: which files there are, how they are described, which model reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from common.textlab import models

Data = Literal["library", "installed", "slimpajama", "normals", "timing"]
HARNESS = (  # of the LM Evaluation Harness; the paper's list of nine was not at hand
    *("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "piqa", "sciq"),
    *("winogrande", "race"),
)


@dataclass(frozen=True)
class Task:
    """Files, features and a model.

    Attributes:
        data: where files come from. "normals": small pools of random vectors; "timing": one batch
            of random vectors.
        features: of a file: minilm, contriever or hashed.
        pieces: word pieces of a file that its features see.
        files: N. (SlimPajama: 0, as many as there are.)
        batch, picks: b and k.
        target: domain of a targeted baseline.
        vocabulary, length, layers, width, heads, groups, hidden: of the Llama; ``groups`` of
            queries share keys and values.
        windows: of a step.
        micro: windows whose gradient is computed at once.
        steps: of AdamW: the same tokens for every selection.
        horizon: steps of the cosine; 0: ``steps``.
        lr: peak learning rate.
        end: last learning rate over the peak, at the horizon.
        warm_up: steps over which it rises.
        precision: of products; weights and sums are float32.
        evaluated: windows of each domain in the final evaluation.
        questions: of four continuations each, at the end.
        harness: tasks of the LM Evaluation Harness at the end.
    """

    data: Data = "library"
    features: str = "minilm"
    pieces: int = 48
    files: int = 16_384
    batch: int = 256
    picks: int = 16
    target: str = "test"
    vocabulary: int = 1024
    length: int = 128
    layers: int = 4
    width: int = 128
    heads: int = 4
    groups: int = 4
    hidden: int = 344
    windows: int = 8
    micro: int = 8
    steps: int = 450
    horizon: int = 0
    lr: float = 3e-3
    end: float = 0.1
    warm_up: int = 30
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluated: int = 64
    questions: int = 0
    harness: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """That a model is trained on."""
        return self.steps * self.windows * self.length


PUBLISHED: dict[str, Any] = {
    **{"data": "slimpajama", "features": "contriever", "pieces": 512, "files": 0},
    **{"batch": 1024, "picks": 16, "target": "RedPajamaWikipedia", "vocabulary": 32_000},
    **{"length": 2048, "windows": 512, "micro": 8, "horizon": 100_000, "lr": 4e-4},
    **{"warm_up": 500, "precision": "bfloat16", "evaluated": 128, "harness": HARNESS},
    **{"steps": 47_684},  # 50 B tokens
}
LARGE: dict[str, Any] = {
    **{"data": "installed", "files": 131_072, "batch": 1024, "picks": 64, "pieces": 128},
    **{"vocabulary": 4096, "length": 256, "layers": 8, "width": 512, "heads": 8, "groups": 8},
    **{"hidden": 1376, "windows": 64, "micro": 64, "steps": 1500, "lr": 1e-3, "warm_up": 150},
    **{"precision": "bfloat16", "questions": 400},
}
SIZES: dict[str, dict[str, Any]] = {
    "120m": {"layers": 12, "width": 768, "heads": 12, "groups": 1, "hidden": 2048},
    "560m": {"layers": 20, "width": 2048, "heads": 16, "groups": 1, "hidden": 2048},
    "1.1b": {"layers": 22, "width": 2048, "heads": 32, "groups": 4, "hidden": 5632},
}
TASKS: dict[str, Task] = {
    "library": Task(),
    "library-small": Task(
        features="hashed", files=1024, batch=128, picks=8, steps=30, warm_up=3, evaluated=8
    ),
    "library-large": Task(**LARGE),
    "normals": Task(data="normals", batch=12, picks=5),
    "timing": Task(data="timing", batch=1024, picks=16),
    **{f"tinyllama-{name}": Task(**PUBLISHED, **shape) for name, shape in SIZES.items()},
}


def model_of(task: Task, seed: int) -> Any:
    """A Llama with fresh weights."""
    settings = models.common_settings(
        task.vocabulary, task.length, task.layers, task.width, task.heads
    )
    shape = {"num_key_value_heads": task.groups, "intermediate_size": task.hidden}
    return models.made("Llama", seed, {**settings, **shape, "rms_norm_eps": 1e-5})


__all__ = ["HARNESS", "TASKS", "Data", "Task", "model_of"]
