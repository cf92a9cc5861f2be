"""A run directory -> rows: distances to the exact scores (moons), quality of samples (images).

Scaled guidance is evaluated with the classifier of `base`: its rows are made by that run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common import image_judges, ve_sde
from common.cli import run_cli
from common.run import Run
from common.sample_metrics import prdc
from common.stacked import randint, randn, seed_generators
from common.torch_utils import setup
from papers.dlsm import judges
from papers.dlsm.config import Config, ScoreConfig, labels, of_run, resolve
from papers.dlsm.method import guided, langevin, likelihood_score
from papers.dlsm.methods import served
from papers.dlsm.models import load_prior, network
from papers.dlsm.moons import SIGMA, Measures, Oracle, distance, exact
from papers.dlsm.task import Task, as_float, load

SAMPLES, REFERENCE = 1_001, 2_001  # streams of random numbers; the class is added
EPSILON = 3.5  # Langevin's step on moons [code]


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


class Rows:
    """Rows and extras of one run, one value per seed at a time."""

    def __init__(self, cfg: Config | ScoreConfig) -> None:
        self.cfg, self.rows, self.extras = cfg, [], []
        self._labels = labels(cfg)

    def add(self, method: str, metric: str, values: Any, **more: Any) -> None:
        """One row per seed; fewer values than seeds belong to the first ones."""
        for seed, value in zip(self.cfg.seed, values, strict=False):
            key = {"method": method, "task": self.cfg.task, "seed": seed, "metric": metric}
            number = value if isinstance(value, list) else float(value)
            self.rows.append({**key, "value": number, **more, **self._labels})

    def keep(self, method: str, name: str, data: Tensor, digits: int) -> None:
        """An array of the first seed for a figure."""
        key = {"method": method, "task": self.cfg.task, "seed": self.cfg.seed[0], "name": name}
        rounded = torch.round(data.double().cpu() * 10**digits) / 10**digits
        self.extras.append({**key, "data": rounded.tolist(), **self._labels})


# --------------------------------------------------------------------------- moons


def evaluate_moon_scores(
    cfg: ScoreConfig, task: Task, net: nn.Module, device: torch.device
) -> Rows:
    """Score models: the prior's error and what the exact answer gets; D_P of those per class."""
    out = Rows(cfg)
    oracle = exact()
    measures = Measures(oracle, cfg.seed, cfg.draws, device)
    if cfg.model.per_class:
        nets = [one_class(net, c, task.n_classes) for c in range(task.n_classes)]
        scores = torch.stack([measures.priors(score) for score in nets], dim=1)
        by_class(out, cfg.method, "d_p", measures.posterior_error(scores))
        chains = [run_langevin(score, c, cfg, task, device) for c, score in enumerate(nets)]
        moons_samples(out, cfg.method, chains, task)
        return out
    out.add(cfg.method, "prior_error", measures.prior_error(net))
    out.add("oracle", "fresh_ce", measures.bayes_cross_entropy())
    moons_samples(out, "oracle", [exact_samples(oracle, c, cfg, task) for c in (0, 1)], task)
    out.keep("oracle", "likelihood", measures.true_likelihood[0], 3)
    return out


def evaluate_moons(cfg: Config, task: Task, net: nn.Module, device: torch.device, run: Run) -> Rows:
    """Classifiers: D_L, D_P, cross-entropy, samples at SIGMA; curves from the run's metrics."""
    out = Rows(cfg)
    measures = Measures(exact(), cfg.seed, cfg.draws, device)
    prior = load_prior(cfg, task, device)
    for method, alpha in served(cfg.method, task.name).items():
        d_l, d_p = measures.errors(net, prior, alpha)
        by_class(out, method, "d_l", d_l)
        by_class(out, method, "d_p", d_p)
        out.add(method, "dense_d_l", measures.dense_error(net, alpha))
        scores = [guided(net, prior, c, alpha) for c in range(task.n_classes)]
        chains = [run_langevin(score, c, cfg, task, device) for c, score in enumerate(scores)]
        moons_samples(out, method, chains, task)
        out.keep(method, "likelihood", alpha * measures.likelihoods(net)[0, 0], 3)
    out.add(cfg.method, "fresh_ce", measures.cross_entropy(net))
    lines = run.metrics()
    steps = [line["step"] for line in lines]
    for metric in ("d_l", "d_p", "fresh_ce"):
        curves = torch.tensor([line[metric] for line in lines]).T
        out.add(cfg.method, f"{metric}_curve", curves.tolist(), step=steps)
    return out


def one_class(net: nn.Module, c: int, n_classes: int) -> nn.Module:
    """The score models of one class, [S], out of the stack [S * C] (seeds first)."""
    single = copy.deepcopy(net)
    for parameter in single.parameters():
        parameter.data = parameter.data[c::n_classes].clone()
    return single


def by_class(out: Rows, method: str, metric: str, values: Tensor) -> None:
    """Rows of each class (its number as label) and of their mean (label -1). values: [S, C]."""
    for c, column in enumerate(values.T):
        out.add(method, metric, column, label=c)
    out.add(method, metric, values.mean(-1), label=-1)


def run_langevin(
    score: Callable[[Tensor, Tensor], Tensor],
    c: int,
    cfg: Config | ScoreConfig,
    task: Task,
    device: torch.device,
) -> Tensor:
    """Langevin samples of one class at SIGMA, from N(0, sigma_max^2). [S, N, 2]."""
    generators = seed_generators(cfg.seed, SAMPLES + c, device)
    noise = ve_sde.draw_noise(generators, task.samples, task.dim)
    sigma = torch.tensor(SIGMA, device=device)
    start = task.sigma_max * noise()
    steps = task.sampler_steps
    return langevin(score, start, sigma, noise, epsilon=EPSILON, steps=steps).cpu()


def exact_samples(
    oracle: Oracle, c: int, cfg: Config | ScoreConfig, task: Task, stream: int = SAMPLES
) -> Tensor:
    """Points of class c with noise SIGMA, what the samplers should give. [S, N, 2]."""
    x = oracle.x[oracle.y == c]
    generators = seed_generators(cfg.seed, stream + c)
    rows = torch.stack([torch.randint(len(x), (task.samples,), generator=g) for g in generators])
    return x[rows] + SIGMA * randn(generators, task.samples, 2)


def moons_samples(out: Rows, method: str, samples: list[Tensor], task: Task) -> None:
    """Precision and recall against fresh noisy points; share of samples on the wrong side."""
    oracle = exact()
    values: dict[str, list[Tensor]] = {}
    for c, x in enumerate(samples):
        reference = exact_samples(oracle, c, out.cfg, task, REFERENCE)
        metrics = [vars(prdc(real, fake, task.k)) for real, fake in zip(reference, x, strict=True)]
        for name in metrics[0]:
            values.setdefault(name, []).append(torch.tensor([part[name] for part in metrics]))
        log_p = oracle.log_probability(x.flatten(0, 1), SIGMA)[:, c].view(x.shape[:-1])
        swapped = (log_p < torch.log(torch.tensor(0.5))).double().mean(-1)
        values.setdefault("swap_rate", []).append(swapped)
    for name, columns in values.items():
        by_class(out, method, name, torch.stack(columns, dim=-1))
    out.keep(method, "samples", torch.stack([x[0, :250] for x in samples]), 1)


# --------------------------------------------------------------------------- images


def evaluate_images(
    cfg: Config | ScoreConfig, task: Task, net: nn.Module, device: torch.device
) -> Rows:
    """Class-conditional samples of every seed, judged; in stage 1, real images judged alike."""
    out = Rows(cfg)
    extract = image_judges.inception(device) if cfg.inception else None
    judge = make_judge(cfg, task, device, extract)
    fid = None
    if extract is not None:
        fid = image_judges.inception_metrics(extract, as_float(load(task.name)[0]).to(device))
    if isinstance(cfg, ScoreConfig):
        x, y = (part.to(device) for part in load(task.name))
        picked = torch.cat([torch.where(y == c)[0][: task.samples] for c in range(task.n_classes)])
        report(out, "real", [as_float(x[picked])], y[picked], judge, fid)
        out.add("real", "judge_accuracy", [judges.accuracy(judge.classifier, judge.x, judge.y)])
        return out
    prior = load_prior(cfg, task, device)
    if task.name == "digits":
        digits_errors(out, net, cfg, task, device)
    y = torch.arange(task.n_classes, device=device).repeat_interleave(task.samples)
    for method, alpha in served(cfg.method, task.name).items():
        x = torch.cat(list(sample_classes(net, prior, alpha, cfg, task, device)), dim=1)
        x = x.clamp(0.0, 1.0)  # [S, C * N, D]
        report(out, method, list(x), y, judge, fid)
        shown = x[0].view(task.n_classes, task.samples, task.dim)[:10, :8]
        out.keep(method, "images", shown * (16 if task.name == "digits" else 255), 0)
    return out


def digits_errors(out: Rows, net: nn.Module, cfg: Config, task: Task, device: torch.device) -> None:
    """Mean distance of alpha grad log p(y|x~) to the exact score, over the exact score's size.

    Exact means that of the smoothed training images, at (x~, y) drawn from them.
    """
    x, y = load(task.name)
    oracle = Oracle(x, y, task.n_classes)
    generators = seed_generators(cfg.seed, REFERENCE)
    for sigma in (0.5, 1.0, 2.0):
        rows = randint(generators, len(x), 400)
        noisy, labels = x[rows] + sigma * randn(generators, 400, task.dim), y[rows]
        truth = oracle.likelihood(noisy.flatten(0, 1), sigma)  # [C, S * 400, D]
        at = labels.flatten()[None, :, None].expand(1, -1, task.dim)
        truth = truth.gather(0, at)[0].view(noisy.shape)
        level = torch.tensor(sigma, device=device)
        found, _ = likelihood_score(net, noisy.to(device), labels.to(device), level)
        size = truth.norm(dim=-1).mean(-1)
        for method, alpha in served(cfg.method, task.name).items():
            error = distance(alpha * found.cpu(), truth) / size
            out.add(method, f"relative_d_l@{sigma:g}", error)


def sample_classes(
    net: nn.Module, prior: nn.Module, alpha: float, cfg: Config, task: Task, device: torch.device
) -> Iterator[Tensor]:
    """Samples [S, N, D] of one class after the other, so that step sizes are a class' own.

    Predictor-corrector: snr 0.16, one corrector step, the denoised mean of the last step.
    """
    sigmas = ve_sde.levels(task.sigma_min, task.sigma_max, task.sampler_steps)
    for c in range(task.n_classes):
        generators = seed_generators(cfg.seed, SAMPLES + c, device)
        parts = []
        for first in range(0, task.samples, cfg.sample_batch):
            count = min(cfg.sample_batch, task.samples - first)
            noise = ve_sde.draw_noise(generators, count, task.dim)
            start = task.sigma_max * noise()
            parts.append(ve_sde.pc_sample(guided(net, prior, c, alpha), start, sigmas, noise))
        yield torch.cat(parts, dim=1)


def make_judge(
    cfg: Config | ScoreConfig,
    task: Task,
    device: torch.device,
    extract: image_judges.Inception | None,
) -> judges.Judge:
    """Real images and the networks trained on them; the same for every method and seed."""
    x, y = (part.to(device) for part in load(task.name))
    held_x, held_y = (part.to(device) for part in load(task.name, "held-out"))
    x, held_x = as_float(x), as_float(held_x)
    digits = task.name == "digits"
    lr, batch = (1e-3, 64) if digits else (2e-4, 150)
    width = cfg.images.width
    classifier = judges.fit(
        lambda: judges.judge_network(task.name, task.n_classes, width, cas=False),
        x,
        y,
        steps=min(task.cas_steps, 20_000),
        lr=lr,
        batch=batch,
        seed=12_345,
    )
    features = classifier.features
    if extract is not None:
        features = lambda images: extract(images)[0]  # noqa: E731
    cas = (task.cas_steps, lr, batch, width)
    return judges.Judge(
        task.name, task.n_classes, held_x, held_y, classifier, features, task.k, cas
    )


def report(
    out: Rows,
    method: str,
    samples: list[Tensor],
    y: Tensor,
    judge: judges.Judge,
    fid: Callable[[Tensor], dict[str, float]] | None,
) -> None:
    """Rows of the samples of each seed; `real` images count once, for the first seed."""
    values: dict[str, list[float]] = {}
    for seed, x in zip(out.cfg.seed, samples, strict=False):
        metrics = judge.metrics(x, y, seed)
        if fid is not None:
            metrics |= fid(x)
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
    for name, column in values.items():
        out.add(method, name, column)


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    made = of_run(run)
    task = resolve(made)
    device = setup(cfg.device, 0)
    net = network(made, task)
    net.load_state_dict(run.final()["net"])
    net = net.to(device).eval().requires_grad_(False)
    if task.name != "moons":
        out = evaluate_images(made, task, net, device)
    elif isinstance(made, ScoreConfig):
        out = evaluate_moon_scores(made, task, net, device)
    else:
        out = evaluate_moons(made, task, net, device, run)
    run.write_eval(out.rows, out.extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
