"""The networks of a run with their initial weights, and the frozen score model of stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from common.errors import UserError
from common.run import Run
from common.stacked import seed_generators
from papers.dlsm.config import Config, ScoreConfig
from papers.dlsm.networks import DigitsNet, ToyNet
from papers.dlsm.task import ImageNetworks, Task

# streams of random numbers: stage 1 and the models per class have their own, classifiers share;
# a stream's weights are drawn by its number, its batches by the next free one
SCORE, CLASSIFIER, POSTERIOR = 1, 11, 101


def score_network(
    task: Task, generators: Sequence[torch.Generator], sizes: ImageNetworks | None = None
) -> nn.Module:
    """s(x, sigma; phi), one per generator."""
    if task.name == "moons":
        return ToyNet(generators, 2, 2)
    if task.name == "digits":
        return DigitsNet(generators, 64, 64, task.sigma_min, task.sigma_max, divide_by_sigma=True)
    from papers.dlsm.networks_large import ncsnpp

    return ncsnpp(generators, sizes or ImageNetworks())


def classifier_network(
    task: Task, generators: Sequence[torch.Generator], sizes: ImageNetworks | None = None
) -> nn.Module:
    """Logits of p(y | x; theta) at noise level sigma, one network per generator."""
    if task.name == "moons":
        return ToyNet(generators, 2, 2)
    if task.name == "digits":
        return DigitsNet(generators, 64, 10, task.sigma_min, task.sigma_max, divide_by_sigma=False)
    from papers.dlsm.networks_large import noisy_resnet

    return noisy_resnet(generators, task.n_classes, sizes or ImageNetworks())


def network(cfg: Config | ScoreConfig, task: Task) -> nn.Module:
    """What a run trains, with its initial weights; classifiers start from the same ones."""
    if isinstance(cfg, Config):
        return classifier_network(task, seed_generators(cfg.seed, CLASSIFIER), cfg.images)
    if cfg.weights:
        from papers.dlsm.networks_large import pretrained

        return pretrained(cfg.weights)
    if cfg.model.per_class:
        return score_network(task, class_generators(cfg.seed, task, POSTERIOR))
    return score_network(task, seed_generators(cfg.seed, SCORE), cfg.images)


def class_generators(
    seeds: tuple[int, ...], task: Task, stream: int, device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One generator per seed and class, seeds first: the models per class are [S * C] networks."""
    every_class = range(stream, stream + task.n_classes)
    return [seed_generators([seed], number, device)[0] for seed in seeds for number in every_class]


def prior_folder(cfg: Config) -> Path:
    """Run directory of the score model: as given, or the runner's: <scale>/prior/<task>/score/…"""
    if cfg.prior is not None:
        return cfg.prior
    out = cfg.out.absolute()
    name = out.name if cfg.prior_seed is None else f"seed-{cfg.prior_seed}"
    # a grid puts one folder more between the scale and the run
    places = [at / "prior" / cfg.task / "score" / name for at in out.parents[3:6]]
    return next((place for place in places if place.is_dir()), places[0])


def load_prior(cfg: Config, task: Task, device: torch.device) -> nn.Module:
    """The frozen score model of the same seeds, in evaluation mode (no dropout).

    Raises:
        UserError: if it is not there, not finished, or of other seeds or another task.
    """
    folder = prior_folder(cfg)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"there is no score model in {folder}; train it (python -m papers.dlsm.train_score) or "
            "name it (--prior)"
        )
    run = Run.load(folder)
    made = run.config(ScoreConfig)
    seeds = cfg.seed if cfg.prior_seed is None else (cfg.prior_seed,)
    if (made.model.per_class, made.task, made.seed) != (False, cfg.task, seeds):
        raise UserError(
            f"{folder} holds {made.method} of {made.task}, seeds {made.seed}; "
            f"this run needs the score model of {cfg.task}, seeds {seeds}"
        )
    net = network(made, task)
    net.load_state_dict(run.final()["net"])
    return net.to(device).eval().requires_grad_(False)
