"""One run: stage 1 (a score model) or stage 2 (a classifier, the score model frozen), all seeds.

The parameters of the seeds are stacked; each seed has its own initial weights, batches and noise
and is what it would be alone. All methods of stage 2 read the score model of the same seeds from
the run directory of stage 1, and draw the same batches and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.ema import Ema
from common.errors import UserError, choose
from common.image_judges import require_inception
from common.run import Run
from common.score import noise_level
from common.stacked import (
    adam,
    generator_states,
    rand,
    randn,
    restore_generators,
    seed_generators,
)
from common.torch_utils import setup
from papers.dlsm.baselines import cross_entropy_loss, score_loss
from papers.dlsm.method import total_loss
from papers.dlsm.moons import Measures, exact
from papers.dlsm.task import (
    TASKS,
    ImageNetworks,
    Task,
    as_float,
    classifier_network,
    load,
    make_task,
    score_network,
)

SCORE_METHODS = ("score", "posterior")  # stage 1; posterior: one score model per class
CLASSIFIERS = ("base", "dlsm", "total")  # stage 2: CE, L_DLSM' alone, L_DLSM' + lambda CE
METHODS = (*SCORE_METHODS, *CLASSIFIERS)

# streams of random numbers: stage 1 and the posterior models have their own, classifiers share
SCORE, CLASSIFIER, POSTERIOR = 1, 11, 101


@dataclass
class Config:
    """One training run. A hyperparameter that is 0 or None here is the task's (see task.py)."""

    method: str = "total"  # score (stage 1), posterior (baseline), base, dlsm or total (stage 2)
    task: str = "moons"  # moons, digits, cifar10 or cifar100
    seed: tuple[int, ...] = (0,)  # training seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    prior: Path | None = None  # run directory of stage 1; None: where the runner has put it
    weights: str = ""  # score on CIFAR: a diffusers UNet2DModel in $PAPERS_DATA instead of training
    steps: int = 0  # gradient steps
    batch: int = 0  # points per step and seed
    lr: float = 0.0  # Adam's learning rate
    weight: float | None = None  # exponent w of the loss' noise-level weight sigma^(2w)
    lambda_ce: float | None = None  # weight of cross-entropy in total
    log_every: int = 250  # steps between two lines of metrics
    samples: int = 0  # evaluation: generated points per class
    sampler_steps: int = 0  # evaluation: noise levels (PC) or Langevin steps (moons)
    cas_steps: int = 0  # evaluation: training steps of the network that is trained on samples
    draws: int = 20_000  # evaluation on moons: fresh noisy points for the cross-entropy
    sample_batch: int = 500  # evaluation: images generated at a time
    inception: bool = False  # evaluation on CIFAR: FID, IS, features by Inception (torch-fidelity)
    images: ImageNetworks = field(default_factory=ImageNetworks)  # sizes of CIFAR's networks


def resolve(cfg: Config) -> Task:
    """The task with the configuration's hyperparameters.

    Raises:
        UserError: for an unknown method or task, or one that does not fit the other.
    """
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    if cfg.method == "posterior" and cfg.task != "moons":
        raise UserError("posterior score matching (a score model per class) is for moons only")
    if cfg.task.startswith("cifar") and len(cfg.seed) > 1:
        raise UserError("CIFAR trains one seed per job; networks this large are not stacked")
    if (cfg.weights or cfg.inception) and not cfg.task.startswith("cifar"):
        raise UserError("--weights and --inception are for CIFAR")
    if cfg.weights and cfg.method != "score":
        raise UserError("--weights are those of the score model: --method score")
    task = make_task(cfg.task)
    stage = "score_" if cfg.method in SCORE_METHODS else ""
    given: dict[str, Any] = {
        f"{stage}{name}": getattr(cfg, name) for name in ("steps", "batch", "lr")
    }
    given |= {name: getattr(cfg, name) for name in ("samples", "sampler_steps", "cas_steps")}
    changes = {name: value for name, value in given.items() if value}
    if cfg.weight is not None:
        changes[f"{stage}weight"] = cfg.weight
    if cfg.lambda_ce is not None:
        changes["lambda_ce"] = cfg.lambda_ce
    return replace(task, **changes)


def prior_folder(cfg: Config) -> Path:
    """Run directory of the score model: as given, or the runner's: <scale>/prior/<task>/score/…"""
    if cfg.prior is not None:
        return cfg.prior
    out = cfg.out.absolute()
    return out.parents[3] / "prior" / cfg.task / "score" / out.name


def load_prior(cfg: Config, task: Task, device: torch.device) -> nn.Module:
    """The frozen score model of the same seeds, in evaluation mode (no dropout).

    Raises:
        UserError: if it is not there, not finished, or of other seeds or another task.
    """
    folder = prior_folder(cfg)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"there is no score model in {folder}; train it (--method score) or name it (--prior)"
        )
    run = Run.load(folder)
    made = run.config(Config)
    if (made.method, made.task, made.seed) != ("score", cfg.task, cfg.seed):
        raise UserError(
            f"{folder} holds {made.method} of {made.task}, seeds {made.seed}; "
            f"this run needs the score model of {cfg.task}, seeds {cfg.seed}"
        )
    net = network(made, task)
    net.load_state_dict(run.final()["net"])
    return net.to(device).eval().requires_grad_(False)


def network(cfg: Config, task: Task) -> nn.Module:
    """What this run trains, with its initial weights; classifiers start from the same ones."""
    if cfg.weights:
        from papers.dlsm.networks_large import pretrained

        return pretrained(cfg.weights)
    if cfg.method == "posterior":
        return score_network(task, class_generators(cfg.seed, task, POSTERIOR))
    if cfg.method == "score":
        return score_network(task, seed_generators(cfg.seed, SCORE), cfg.images)
    return classifier_network(task, seed_generators(cfg.seed, CLASSIFIER), cfg.images)


def class_generators(
    seeds: tuple[int, ...], task: Task, stream: int, device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One generator per seed and class, seeds first: the posterior models are [S * C] networks."""
    every_class = range(stream, stream + task.n_classes)
    return [seed_generators([seed], number, device)[0] for seed in seeds for number in every_class]


def learning_rate(task: Task, stage_1: bool, step: int) -> float:
    """Adam's rate at a step: linear warm-up, then constant or a cosine to 0."""
    if not stage_1:
        return task.lr * min(1.0, step / task.warm_up if task.warm_up else 1.0)
    rate = task.score_lr
    if task.score_warm_up:
        rate *= min(1.0, step / task.score_warm_up)
    if task.score_cosine:
        rate *= 0.5 * (1.0 + math.cos(math.pi * step / task.score_steps))
    return rate


def draw(
    x: Tensor, pools: list[Tensor], generators: list[torch.Generator], batch: int, task: Task
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch of every network: rows [S, B], x [S, B, D], sigma [S, B, 1], z [S, B, D].

    Args:
        x: all data [N, D].
        pools: the rows that each network learns from.
    """
    rows = torch.stack(
        [
            pool[torch.randint(len(pool), (batch,), generator=g, device=g.device)]
            for pool, g in zip(pools, generators, strict=True)
        ]
    )
    t = task.t_min + (1.0 - task.t_min) * rand(generators, batch, 1)
    sigma = noise_level(t, task.sigma_min, task.sigma_max)
    return rows, as_float(x[rows]), sigma, randn(generators, batch, task.dim)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    task = resolve(cfg)
    if cfg.inception:
        require_inception()  # before weeks of training, not after
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])  # the global generator serves dropout alone (CIFAR)
    x, y = (part.to(device) for part in load(task.name))
    stage_1 = cfg.method in SCORE_METHODS
    steps, batch = (task.score_steps, task.score_batch) if stage_1 else (task.steps, task.batch)
    if cfg.weights:
        steps = 0  # trained already
    net = network(cfg, task).to(device)
    prior = nn.Identity() if stage_1 else load_prior(cfg, task, device)
    every = torch.arange(len(x), device=device)
    if cfg.method == "posterior":
        generators = class_generators(cfg.seed, task, POSTERIOR + task.n_classes, device)
        pools = [every[y == c] for _ in cfg.seed for c in range(task.n_classes)]
    else:
        generators = seed_generators(cfg.seed, (SCORE if stage_1 else CLASSIFIER) + 1, device)
        pools = [every] * len(cfg.seed)
    parameters = list(net.parameters())
    optimiser = adam([{"params": parameters}])
    ema = Ema(parameters, task.score_ema) if stage_1 and task.score_ema else None
    measures = None
    if task.name == "moons" and not stage_1:
        measures = Measures(exact(), cfg.seed, cfg.draws, device)

    step = 0
    if state := run.restore():
        step = state["step"]
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        restore_generators(generators, state["generators"])
        torch.set_rng_state(state["global"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"])
        if ema is not None:
            ema.load_state_dict(state["ema"])

    def tree() -> dict[str, Any]:
        return {
            "step": step,
            "net": net.state_dict(),
            "optimiser": optimiser.state_dict(),
            "generators": generator_states(generators),
            "global": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if device.type == "cuda" else None,
            "ema": None if ema is None else ema.state_dict(),
        }

    def log(**parts: Tensor) -> None:
        if measures is not None:  # D_L and D_P on the grid, cross-entropy on fresh noise, by seed
            d_l, d_p = (error.mean(-1) for error in measures.errors(net, prior))
            parts |= {"d_l": d_l, "d_p": d_p, "fresh_ce": measures.cross_entropy(net)}
        run.log(step, **{name: part.detach() for name, part in parts.items()})

    net.train()
    if step == 0 and measures is not None:
        log()  # before any training
    while step < steps:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(task, stage_1, step)
        rows, clean, sigma, z = draw(x, pools, generators, batch, task)
        if stage_1:
            if task.flip:
                clean = mirrored(clean, generators)
            loss, parts = score_loss(net, clean, sigma, z, task.score_weight)
        elif cfg.method == "base":
            loss, parts = cross_entropy_loss(net, clean, y[rows], sigma, z)
        else:
            lambda_ce = task.lambda_ce if cfg.method == "total" else 0.0
            loss, parts = total_loss(
                net, prior, clean, y[rows], sigma, z, weight=task.weight, lambda_ce=lambda_ce
            )
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()  # seeds share no parameters
        if task.clip:
            nn.utils.clip_grad_norm_(parameters, task.clip)  # CIFAR: one seed
        optimiser.step()
        if ema is not None:
            ema.update()
        step += 1
        if step % cfg.log_every == 0 or step == steps:
            log(loss=loss, **parts)
        if run.due(step):
            run.save(step, tree())
    if ema is not None:
        with ema.swapped():
            run.finish({"net": net.state_dict()})
    else:
        run.finish({"net": net.state_dict()})


def mirrored(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Images [S, B, 3072], each flipped left to right with probability 1/2."""
    flip = rand(generators, x.shape[1], 1) < 0.5
    return torch.where(flip, x.unflatten(-1, (3, 32, 32)).flip(-1).flatten(-3), x)


if __name__ == "__main__":
    run_cli(train, Config)
