"""What an update costs: each way to tune, and what of Prompt Diffuser's is the diffusion's.

    python -m papers.prompt_diffuser.bench [--json FILE]

One test task of the point with an untrained policy. One thread, turns interleaved, medians of CPU
time. *The chain* is what the guidance's gradient through all denoising steps costs beside guidance
of a prompt's own numbers; *layer by layer* adds a singular value decomposition of every layer.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from common import files
from common.cli import run_cli
from common.timing import alternately
from common.torch_utils import setup
from papers.prompt_diffuser.config import Config, PolicyConfig
from papers.prompt_diffuser.learning import load_base
from papers.prompt_diffuser.methods import GRADIENTS, METHODS
from papers.prompt_diffuser.pretrain import train
from papers.prompt_diffuser.tuning import make_learner, update

GOAL = 67.5  # degrees


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    width: int = PolicyConfig.width  # of the transformer
    layers: int = PolicyConfig.layers  # of the transformer
    batch: int = Config.batch  # windows
    repeats: int = 15  # interleaved; medians are compared


def bench(cfg: BenchConfig) -> None:
    """Print milliseconds of CPU time of an update and its ratio to tuning a prompt's numbers."""
    device = setup("cpu", 0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "point" / "seed-0"
        policy = PolicyConfig(out=out, steps=1, prior_steps=1, pools=("random",), demonstrations=1)
        train(replace(policy, width=cfg.width, layers=cfg.layers))
        sides = {}
        for name, method in METHODS.items():
            if method.role == "reference" or method.tunes not in (*GRADIENTS, "search"):
                continue
            run = Config(name, "tune-random", policy=Path(folder), batch=cfg.batch)
            learner = make_learner(load_base(run, 0, device), run, GOAL)
            sides[METHODS.label(name)] = lambda learner=learner: update(learner)
        found = alternately(sides, cfg.repeats)
    for name, milliseconds in found.items():
        ratio = milliseconds / found[METHODS.label("gradient")]
        print(f"  {name:20s} {milliseconds:7.1f} ms  {ratio:5.2f} x")
    if cfg.json is not None:
        files.write_json(cfg.json, found)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
