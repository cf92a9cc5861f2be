"""One run: one loss on one task, all training seeds at once.

The parameters of the seeds are stacked, so a step is a handful of batched products; each seed has
its own initial weights, order of the data and random numbers and is what it would be alone.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from common.cli import run_cli
from common.ema import Ema
from common.flows import Flow
from common.run import Run
from common.stacked import clip_grad_norm_per_seed, rand, randn, seed_generators
from common.torch_utils import setup
from papers.ebflow import method, models, task
from papers.ebflow.config import Config, Setting
from papers.ebflow.methods import Loss, trained

INITIAL, DATA, LOSS = 1, 2, 3  # streams of random numbers
SMOOTH = 1_000  # gradient norms are logged at each of the first so many steps (claim C3)


PREPROCESSING = 2  # layers that an image model begins with: scale and logit


def optimiser_of(parameters: list[Tensor], setting: Setting) -> torch.optim.Optimizer:
    """Adam, AdamW or RMSprop; element-wise, so stacked seeds do not see each other."""
    options: dict[str, Any] = {"lr": setting.lr, "weight_decay": setting.weight_decay}
    if setting.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, foreach=True, **options)
    kind = torch.optim.Adam if setting.optimiser == "adam" else torch.optim.AdamW
    return kind(parameters, fused=True, **options)


def learning_rate(setting: Setting, step: int, steps: int, per_epoch: int) -> float:
    """Divided by 10 after the share ``drop``; times ``decay`` per epoch, for some epochs."""
    dropped = 0.1 if step >= setting.drop * steps else 1.0
    return setting.lr * dropped * setting.decay ** min(step // per_epoch, setting.decay_epochs)


def loss_of(
    loss: Loss,
    flow: Flow,
    x: Tensor,
    generators: method.Generators,
    setting: Setting,
    channels: int,
) -> Tensor:
    """The training loss per seed. [S].

    Args:
        loss: one of the table that is trained.
        flow: the part of the model that is matched (all of it, or what MaP leaves).
        x: its input. [S, B, D]
        generators: random directions, one per seed.
        setting: noise, radius and weight of the energy.
        channels: of the images; 0 for points, whose losses are sums over D.
    """
    assert loss.objective is not None
    result = loss.objective(flow, x, generators, sigma=setting.sigma, xi=setting.xi)
    if not loss.matches or not channels:
        return result.loss.mean(1)
    weight = setting.energy_weight / (setting.xi**2 if loss.by_radius else channels)
    return method.per_dimension(result, x.shape[-1], weight).mean(1)


def step_of(
    flow: Flow, loss: Tensor, optimiser: torch.optim.Optimizer, ema: Ema, clip: float
) -> Tensor:
    """Backward pass, clipping, optimiser, moving average; the gradient norms per seed. [S].

    A seed whose gradient is not finite (a sample of SML's far outside overflows) sits the step
    out, with a gradient of zero.
    """
    parameters = list(flow.parameters())
    optimiser.zero_grad(set_to_none=True)
    loss.sum().backward()  # seeds share no parameters
    norm = clip_grad_norm_per_seed(parameters, clip, drop_overflow=True)
    optimiser.step()
    ema.update()
    return norm


@torch.no_grad()
def negative_log_likelihood(
    flow: Flow, x: Tensor, seed: int, draws: int = 1, chunk: int = 1_000
) -> Tensor:
    """Mean of -log p(x) in nats of dequantised integers, in float64. [S].

    Args:
        flow: the whole model, preprocessing included.
        x: integers [N, D]; the noise seed is the same for every model.
        seed: of the dequantisation noise.
        draws: number of noises that are averaged.
        chunk: samples at a time.
    """
    exact = copy.deepcopy(flow).double()
    g = torch.Generator().manual_seed(seed)
    log_Z = method.log_Z(exact)  # once per parameter setting
    energies = []
    for _ in range(draws):
        for part in x.split(chunk):
            noise = torch.rand(part.shape, generator=g, dtype=torch.float64).to(part.device)
            energies.append(method.energy(exact, (part + noise).expand(len(log_Z), -1, -1)))
    return torch.cat(energies, 1).mean(1) + log_Z[:, 0]


class Batches:
    """The data of a step: [S, B, D] before any preprocessing, a function of the step and draws."""

    def __init__(self, setting: Setting, seeds: tuple[int, ...], device: torch.device) -> None:
        self.setting, self.seeds, self.epoch = setting, seeds, -1
        self.images = task.images(setting.data) if setting.is_image else None
        if self.images is not None:
            self.data = self.images.train.to(device).unsqueeze(0)
        else:
            sets = [task.points(setting.data, seed, 50_000) for seed in seeds]
            self.data = torch.stack(sets).to(device)
        self.per_epoch = max(1, self.data.shape[1] // setting.batch)
        self.steps = setting.steps or setting.epochs * self.per_epoch

    def at(self, step: int, generators: method.Generators, *, smooth: bool) -> Tensor:
        """Dequantised images, or points with their smoothing noise unless the loss adds its own."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            order = task.epoch_order(self.seeds, epoch, self.data.shape[1])
            self.order = order.to(self.data.device)
        B = min(self.setting.batch, self.data.shape[1])
        rows = self.order[:, place * B : (place + 1) * B]  # [S, B]
        which = torch.arange(len(self.seeds), device=rows.device)[:, None] % len(self.data)
        x = self.data[which, rows].float()
        if self.images is None:
            return x + self.setting.sigma * randn(generators, *x.shape[1:]) if smooth else x
        if self.setting.flips:
            x = task.flip_and_shift(x, self.images.shape, rand(generators, B, 3))
        return x + rand(generators, *x.shape[1:])


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    loss, setting, seeds = trained(cfg.method), cfg.setting, cfg.seeds
    run = Run.open(cfg.out, cfg)
    device = setup(cfg.device, 0)
    batches = Batches(setting, seeds, device)
    images = batches.images
    channels = images.shape[0] if images is not None else 0

    flow = models.build(setting, seed_generators(seeds, INITIAL), images).to(device)
    # MaP: the score is that of the preprocessed data, unless the ablation asks for the pixels'
    k = PREPROCESSING if images is not None and loss.after_preprocessing else 0
    preprocess, matched = method.match_after(flow, k)
    draws, noise = seed_generators(seeds, DATA, device), seed_generators(seeds, LOSS, device)
    models.initialise(matched, preprocess(batches.at(0, draws, smooth=True))[0])
    parameters = list(flow.parameters())
    optimiser, ema = optimiser_of(parameters, setting), Ema(parameters, setting.ema)
    kept = run.keep(
        flow=flow,
        optimiser=optimiser,
        ema=ema,
        draws=draws,
        noise=noise,
        best=torch.full((len(seeds),), math.inf, dtype=torch.float64),  # validation likelihood
        best_weights=[p.detach().clone() for p in parameters],
    )
    every = max(1, batches.steps // cfg.evaluations)
    for step in run.steps(batches.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(setting, step, batches.steps, batches.per_epoch)
        with torch.no_grad():
            x = preprocess(batches.at(step, draws, smooth=not loss.adds_noise))[0]
        value = loss_of(loss, matched, x, noise, setting, channels)
        norm = step_of(flow, value, optimiser, ema, setting.clip)
        numbers: dict[str, Any] = {"loss": value, "gradient_norm": norm}
        done = step + 1
        if images is not None and (done % every == 0 or done == batches.steps):
            with ema.swapped():
                valid = negative_log_likelihood(flow, images.valid.to(device), seed=7).cpu()
            numbers["valid"] = valid
            better = valid < kept.best
            kept.best = torch.where(better, valid, kept.best)
            for held, average in zip(kept.best_weights, ema.averages, strict=True):
                held[better.to(device)] = average[better.to(device)]
        if done <= SMOOTH or done % 100 == 0 or "valid" in numbers:
            run.log(done, **numbers)


if __name__ == "__main__":
    run_cli(train, Config)
