"""Milliseconds per training step against dimension: score matching against maximum likelihood.

The peer is ML on the same model with the determinants it needs (``slogdet`` and its backward; of a
convolution that of its Toeplitz matrix), in the same process, the losses taking turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common import files
from common.cli import run_cli
from common.torch_utils import setup
from papers.ebflow.cost import growth, measure
from papers.ebflow.methods import METHODS, timed


@dataclass
class BenchConfig:
    """Compare speeds."""

    json: Path | None = None  # also write the numbers here
    device: str = "cpu"  # cpu or cuda
    batch: int = 20  # samples per step
    fc: tuple[int, ...] = (500, 1000, 2000)  # D of the FC model
    cnn: tuple[int, ...] = (8, 28)  # side of the CNN's images
    repeats: int = 3  # interleaved; medians are compared


def bench(cfg: BenchConfig) -> None:
    """Print a table of medians, exponents and ratios."""
    device = setup(cfg.device, 0)
    torch.set_num_threads(1)
    places = [("fc", d) for d in cfg.fc] + [("cnn", n) for n in cfg.cnn]
    medians = {
        place: {
            m: float(np.median(t))
            for m, t in measure(*place, cfg.batch, cfg.repeats, device).items()
        }
        for place in places
    }
    heads = [f"D = {d}" for d in cfg.fc] + [f"{n} x {n}" for n in cfg.cnn]
    print(f"ms per step, batch {cfg.batch}; FC, then CNN")
    print(f"{'':8}" + "".join(f"{head:>11}" for head in heads) + f"{'exponent':>11}{'ML / it':>11}")
    exponents, ratios = {}, {}
    for m in timed():
        exponents[m] = growth(list(cfg.fc), [medians["fc", d][m] for d in cfg.fc])
        ratios[m] = medians["fc", cfg.fc[-1]]["ml"] / medians["fc", cfg.fc[-1]][m]
        cells = "".join(f"{medians[place][m]:11.2f}" for place in places)
        print(f"{METHODS.label(m):8}{cells}{exponents[m]:11.2f}{ratios[m]:11.2f}")
    if cfg.json is not None:
        numbers = {
            "unit": f"ms per step, FC, D = {cfg.fc[-1]}, batch {cfg.batch}",
            "ours": medians["fc", cfg.fc[-1]]["dsm"],
            "peer": medians["fc", cfg.fc[-1]]["ml"],
            "ratio": ratios["dsm"],
            "exponent": exponents,
            "ms": {f"{model} {size}": times for (model, size), times in medians.items()},
        }
        files.write_json(cfg.json, numbers, indent=1)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
