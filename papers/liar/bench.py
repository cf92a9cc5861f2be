"""Speed: reconstruction against retraining, dense states remembered or run again, solvers.

    python -m papers.liar.bench [--json FILE]

A random BERT of the encoder's width, two layers. CPU time, one thread, medians of interleaved
repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from common import files
from common.cli import run_cli
from common.timing import alternately
from common.torch_utils import setup
from papers.liar import baselines, method
from papers.liar.architecture import Architecture, Batch, Dense, architecture
from papers.liar.method import Moments, Problem, Recipe, Ridge


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    texts: int = 32  # B
    length: int = 48  # T
    width: int = 384  # d
    hidden: int = 1536  # neurons
    steps: int = 50  # of retraining, as in the study
    repeats: int = 5  # interleaved


def model_of(cfg: BenchConfig) -> Architecture:
    """A BERT of two layers with random weights."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=1000,
        hidden_size=cfg.width,
        num_hidden_layers=2,
        num_attention_heads=max(1, cfg.width // 32),
        intermediate_size=cfg.hidden,
    )
    return architecture(transformers.BertModel(config))


def reconstructions(cfg: BenchConfig) -> dict[str, Callable[[], object]]:
    """The whole model, half of everything removed."""
    arch = model_of(cfg)
    ids = torch.randint(1000, (cfg.texts, cfg.length), generator=torch.Generator().manual_seed(0))
    batches = [Batch(part, torch.ones_like(part, dtype=torch.bool)) for part in ids.split(16)]
    units = [torch.arange(module.n_units // 2) for module in arch.modules]
    kept, anew = (Dense(arch, batches, remember=remember) for remember in (True, False))
    recipe = Recipe(method.liar)
    reconstructed = method.reconstruct(arch, batches, units, recipe, kept)
    pruned = arch.shrunk(units, [solution.linear for solution in reconstructed])
    wanted = [torch.randn(*part.shape, cfg.width) for part in ids.split(16)]
    return {
        f"{cfg.steps} steps of retraining": lambda: baselines.retrain(
            pruned, batches, wanted, steps=cfg.steps
        ),
        "dense states run again": lambda: method.reconstruct(arch, batches, units, recipe, anew),
        "dense states remembered": lambda: method.reconstruct(arch, batches, units, recipe, kept),
    }


def solvers(cfg: BenchConfig) -> dict[str, Callable[[], object]]:
    """A module: half of the neurons removed."""
    k, n = cfg.hidden // 2, cfg.texts * cfg.length
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, size, generator=generator) for size in (k, cfg.width))
    W = torch.randn(k, cfg.width, generator=generator, dtype=torch.float64)
    moments = Moments.zeros(k, cfg.width)
    moments.add(x, y)
    problem = Problem(moments, W, W[0])

    def counted() -> None:
        Moments.zeros(k, cfg.width).add(x, y)

    return {
        "moments": counted,
        "LIAR": lambda: method.liar(problem, Ridge()),
        "LIAR-Q": lambda: method.liar_q(problem, Ridge()),
        "mask tuning": lambda: baselines.mask_tuning(problem, Ridge()),
        "bias compensation": lambda: baselines.bias_compensation(problem, Ridge()),
    }


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds of each side."""
    setup("cpu", 0)
    result: dict[str, dict[str, float]] = {}
    for name, make in (("whole model", reconstructions), ("one module", solvers)):
        result[name] = alternately(make(cfg), cfg.repeats)
        text = ", ".join(f"{side} {value:.1f} ms" for side, value in result[name].items())
        print(f"{name}: {text}", flush=True)
    if cfg.json:
        files.write_json(cfg.json, result)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
