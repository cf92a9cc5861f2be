"""A run directory -> rows: errors of the energy and of the samples, or normalised scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from common.cli import run_cli
from common.control.scores import normalized
from common.run import Run
from common.stacked import randn, seed_generators
from common.torch_utils import setup
from papers.aepo.accuracy import finite, gradient_errors, known_energy, nonlinearity
from papers.aepo.config import Config, resolve
from papers.aepo.exact import FiniteData, Gaussian, Quadratic
from papers.aepo.method import energy_gradient, sample
from papers.aepo.methods import METHODS
from papers.aepo.prior import SCHEDULE
from papers.aepo.rollouts import returns
from papers.aepo.task import offline
from papers.aepo.train import network_rows
from papers.aepo.trained import Policy, load_policy

FAR = 1e3  # where samples that diverge are counted to be
EXACT_STEPS = 150  # of the solver, with networks that are known
KINDS = {"aepo": "analytic", "no-variance": "mean", "naive": "naive", "exact": "exact"}


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


# -- distances ---------------------------------------------------------------------------------


def gaussian_w2(samples: Tensor, mean: float, std: float) -> float:
    """W2 between the Gaussian of the samples' moments and N(mean, std^2 I). [B, d]."""
    x = near(samples).double().cpu().numpy()
    deviations = np.sqrt(np.linalg.eigvalsh(np.cov(x.T)).clip(min=0))
    return float(np.sqrt(np.square(x.mean(0) - mean).sum() + np.square(deviations - std).sum()))


def near(samples: Tensor) -> Tensor:
    """Samples no further than ``FAR`` in any dimension: some guidance diverges."""
    return samples.nan_to_num(FAR, FAR, -FAR).clamp(-FAR, FAR)


def empirical_w2(one: Tensor, other: Tensor) -> float:
    """W2 between two equally large sets of points, by the best assignment. [B, d] each."""
    cost = torch.cdist(near(one).double(), near(other).double()).square().cpu().numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(np.sqrt(cost[rows, columns].mean()))


# -- bandits -----------------------------------------------------------------------------------

Gradient = Callable[[Tensor, int], Tensor]


def sampled(policy: Policy, gradient: Gradient | None) -> Tensor:
    """Samples of a bandit's policy; the noise is the same for all methods. [S, B, 2]."""
    prior, setting = policy.prior, policy.setting
    generators = seed_generators(policy.seeds, 10, prior.data.action.device)
    noise = randn(generators, setting.samples, prior.data.action.shape[-1])
    return sample(
        lambda a, n: prior.behaviour.epsilon(a, n, a[..., :0]),
        *(gradient, noise, SCHEDULE),
        **{"steps": setting.solver_steps, "clip": None, "keep_norm": policy.method.keep_norm},
    )


def known_networks_w2(policy: Policy, name: str) -> np.ndarray:
    """W2 of a Gaussian bandit's samples with eps_phi and E known, a fine solver. [S]."""
    task, beta, mu = policy.prior.task, policy.setting.beta, Gaussian()
    q = Quadratic(curvature=task.curvature)
    energy = mu.energy(SCHEDULE, q, beta, KINDS[name])
    generators = seed_generators(policy.seeds, 10)
    noise = randn(generators, policy.setting.samples, 2).double()
    found = sample(
        lambda a, n: mu.epsilon(SCHEDULE, a, n),
        lambda a, n: energy_gradient(lambda x: energy(x, n), a),
        *(noise, SCHEDULE),
        **{"steps": EXACT_STEPS, "clip": None},
    )
    return np.array([gaussian_w2(x, *mu.target(q, beta)) for x in found])


def of_bandit(policy: Policy, add: Callable[..., None]) -> None:
    """Rows of a bandit: distance of the samples to the target, errors of the gradient."""
    prior, beta, name = policy.prior, policy.setting.beta, policy.method.acts
    drawing = seed_generators(policy.seeds, 12)
    gradient: Gradient | None = None
    if name == "exact":
        energy = known_energy(policy)
        gradient = lambda a, n: energy_gradient(lambda x: energy(x, n), a)  # noqa: E731
    elif name != "behaviour":
        gradient = lambda a, n: policy.gradient(a, n, a[..., :0])  # noqa: E731
        of_energy(policy, add)
    if prior.task.kind == "gaussian":
        q = Quadratic(curvature=prior.task.curvature)
        target = Gaussian().target(q, beta)
        add("w2", [gaussian_w2(x, *target) for x in sampled(policy, gradient)])
        if policy.method.name in KINDS:
            add("w2_known", known_networks_w2(policy, policy.method.name))
        return
    data, count = finite(policy), policy.setting.samples
    data = FiniteData(data.action.cpu(), data.q.cpu())
    truth = data.reweighted(drawing, beta, count)
    drawn = data.reweighted(drawing, beta, count)  # exact samples again: the floor of W2
    own = drawn if name == "exact" else sampled(policy, gradient).cpu()
    add("w2", [empirical_w2(x, y) for x, y in zip(own, truth, strict=True)])


def of_energy(policy: Policy, add: Callable[..., None]) -> None:
    """Rows of the energy that guides: its errors, and how far its assumption holds."""
    for metric, values in gradient_errors(policy).items():
        add(metric, values)
    if policy.method.name == "aepo":
        for metric, values in nonlinearity(policy).items():
            add(metric, values)


# -- control -----------------------------------------------------------------------------------


def of_control(policy: Policy, candidates: int, add: Callable[..., None]) -> None:
    """Normalised scores at every guidance scale, on the same starts for all."""
    scales = policy.scales
    source, episodes = offline(policy.prior.task.source), policy.setting.episodes
    S, W = len(policy.seeds), len(scales)
    drawing = seed_generators(policy.seeds, 13, policy.prior.data.action.device)

    def act(seen: np.ndarray, running: np.ndarray) -> np.ndarray:
        rows = seen.reshape(S, W * episodes, -1)
        found = policy.actions(rows, drawing, candidates)  # [S, W E, d]
        return found.reshape(S * W, episodes, -1)

    found = returns(source, act, S * W, episodes).mean(1).reshape(S, W)
    scores = normalized(found, source.low, source.high)
    for i, w in enumerate(scales):
        add("score", scores[:, i], w=w)
        add("return", found[:, i], w=w)
    if policy.method.acts in ("network", "predicted-q", "noisy-q"):
        of_energy(policy, add)
    elif policy.method.acts == "behaviour":  # what the data themselves return
        own = np.mean([episode.rewards.sum(dtype=float) for episode in source.episodes])
        add("data_score", [float(normalized(own, source.low, source.high))] * S)


# -- rows --------------------------------------------------------------------------------------


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    device = setup(cfg.device, 0)
    settings = run.config(Config)
    task, setting = resolve(settings)
    policy = load_policy(run, device)
    label: dict[str, Any] = {"method": settings.method, "task": settings.task}
    label["beta"] = setting.beta
    if settings.candidates > 1:
        label["candidates"] = settings.candidates
    if settings.support is not None:
        label["support"] = settings.support
    rows: list[dict[str, Any]] = []

    def add(metric: str, values: Sequence[float] | np.ndarray, **more: Any) -> None:
        """One row per seed."""
        for seed, value in zip(settings.seed, values, strict=True):
            found = {**label, "seed": seed, "metric": metric, "value": float(value)}
            rows.append({**found, **more})

    many = len(settings.seed)
    if METHODS[settings.method].learns != "nothing":
        add("seconds_guidance", [float(run.final()["seconds"]) / many] * many)
        rows_of_networks = network_rows(METHODS[settings.method].learns, policy.prior, setting)
        add("network_rows", [rows_of_networks] * many)
    if task.bandit:
        of_bandit(policy, add)
    else:
        of_control(policy, settings.candidates, add)
    run.write_eval(rows)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
