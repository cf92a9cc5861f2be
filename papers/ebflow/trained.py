"""A trained flow, for use outside of the experiments: samples, densities, scores, imputation."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.flows import Flow
from common.run import Run
from common.stacked import seed_generators
from papers.ebflow import method, models, task
from papers.ebflow.config import Config
from papers.ebflow.train import INITIAL, PREPROCESSING


class Trained:
    """The flow of one seed with its averaged weights.

    Attributes:
        flow: the whole model, preprocessing included, for one stacked seed.
        dim: D, of what goes in and comes out: pixels in grey levels, or points.
        data: the images that it was trained on (None: points).
    """

    def __init__(self, flow: Flow, data: task.Images | None) -> None:
        self.flow = flow.requires_grad_(False)
        self.data = data
        self.dim = data.dim if data is not None else 2

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """x = g^{-1}(u): n samples; of images the dequantised pixels in [0, levels]. [n, D]."""
        return method.sample(self.flow, n, self.dim, seed_generators((seed,), 0))[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats of dequantised pixels, or points. x [n, D] -> [n]."""
        return method.log_prob(self.flow, x[None])[0]

    def score(self, x: Tensor) -> Tensor:
        """Gradient of log p(x) in x. x [n, D] -> [n, D]."""
        return method.score(self.flow, x[None])[0][0].detach()

    def impute(
        self, x: Tensor, missing: Tensor, *, steps: int = 2_000, alpha: float = 0.5, seed: int = 0
    ) -> Tensor:
        """A sample of the missing pixels given the others, by Langevin in logit space. [n, D].

        Args:
            x: pixels 0 .. levels - 1; what stands where they are missing is the start. [n, D]
            missing: 1 where a pixel is missing. [D]
            steps: iterations of the chain.
            alpha: their step size.
            seed: of the noise.

        Raises:
            UserError: if the model is one of points.
        """
        if self.data is None:
            raise UserError("points have no half to impute; this model is for sample and score")
        before, after = method.match_after(self.flow, PREPROCESSING)
        start = before(x[None].float() + 0.5)[0]
        noise = seed_generators((seed,), 4)
        last = method.langevin_impute(after, start, missing, noise, alpha=alpha, steps=steps)
        return before.inverse(last)[0] - 0.5


def load(run_directory: str | PathLike[str], seed: int | None = None) -> Trained:
    """See ``papers.ebflow.load``."""
    run = Run.load(Path(run_directory))
    cfg, final = run.config(Config), run.final()
    if "flow" not in final:
        raise UserError(f"{run_directory} holds timings, not a trained flow")
    if seed is not None and seed not in cfg.seeds:
        raise UserError(f"the run has seeds {', '.join(map(str, cfg.seeds))}, not {seed}")
    place = cfg.seeds.index(seed) if seed is not None else 0
    data = task.images(cfg.setting.data) if cfg.setting.is_image else None
    flow = models.build(cfg.setting, seed_generators(cfg.seeds[place : place + 1], INITIAL), data)
    with torch.no_grad():
        for parameter, values in zip(flow.parameters(), final["ema"]["averages"], strict=True):
            parameter.copy_(values[place : place + 1])
    return Trained(flow, data)
