"""A trained classifier with the score model that it guides, for use outside of the experiments."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import ve_sde
from common.errors import UserError
from common.run import Run
from common.stacked import seed_generators
from common.trained import seed_index
from papers.dlsm.config import Config, of_run, resolve
from papers.dlsm.eval import EPSILON
from papers.dlsm.method import guided, langevin, posterior_score
from papers.dlsm.models import load_prior, network
from papers.dlsm.moons import SIGMA
from papers.dlsm.task import Task


class Trained:
    """A classifier of one seed and its frozen score model.

    Attributes:
        dim: D, of points and scores (images: pixels in [0, 1], channel first).
        n_classes: number of classes.
    """

    def __init__(self, classifier: nn.Module, prior: nn.Module, task: Task) -> None:
        self._classifier, self._prior, self._task = classifier, prior, task
        self.dim, self.n_classes = task.dim, task.n_classes

    def log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """log p(y | x) of every class at noise level sigma. x [n, D] -> [n, C]."""
        with torch.no_grad():
            return F.log_softmax(self._classifier(x[None], torch.tensor(sigma))[0], dim=-1)

    def score(self, x: Tensor, y: Tensor | int, sigma: float, alpha: float = 1.0) -> Tensor:
        """alpha grad log p(y | x) + s(x). x [n, D], y [n] or one class for all -> [n, D]."""
        at = torch.tensor(sigma)
        labels = torch.as_tensor(y).expand(1, len(x))
        return posterior_score(self._classifier, self._prior, x[None], labels, at, alpha)[0]

    def sample(
        self, n: int, y: int, seed: int = 0, alpha: float = 1.0, steps: int | None = None
    ) -> Tensor:
        """n samples of class y. [n, D].

        Moons: Langevin at sigma = 7.5, the noise of the experiment stays on them. Images:
        predictor-corrector from sigma_max down.
        """
        task = self._task
        noise = ve_sde.draw_noise(seed_generators((seed,), 1), n, task.dim)
        start, score = task.sigma_max * noise(), guided(self._classifier, self._prior, y, alpha)
        count = steps or task.sampler_steps
        if task.name == "moons":
            sigma = torch.tensor(SIGMA)
            return langevin(score, start, sigma, noise, epsilon=EPSILON, steps=count)[0]
        sigmas = ve_sde.levels(task.sigma_min, task.sigma_max, count)
        return ve_sde.pc_sample(score, start, sigmas, noise)[0].clamp(0.0, 1.0)


def load(run_directory: str | PathLike[str], seed: int | None = None) -> Trained:
    """See ``papers.dlsm.load``."""
    folder = Path(run_directory)
    run = Run.load(folder)
    cfg = of_run(run)
    if not isinstance(cfg, Config):
        raise UserError(f"{folder} holds score models; name a run of a classifier (stage 2)")
    member, task = seed_index(folder, cfg.seed, seed), resolve(cfg)
    net = network(cfg, task)
    net.load_state_dict(run.final()["net"])
    prior = load_prior(cfg, task, torch.device("cpu"))
    stacked = task.name in ("moons", "digits")
    classifier, score = (only(part, member) if stacked else part for part in (net, prior))
    return Trained(classifier.eval().requires_grad_(False), score, task)


def only(net: nn.Module, member: int) -> nn.Module:
    """One member of a stack of networks, as a stack of one."""
    for parameter in net.parameters():
        parameter.data = parameter.data[member : member + 1].clone()
    return net
