"""A run directory -> rows: likelihood, asymmetry, score error, samples and what they cost.

Each member of a stack is evaluated by itself: an adaptive solver chooses its steps for one model.
All methods see the same points, the same noise and the same starts. Rows carry "lam" and, where
they say something of it, "t" (noise level), "sampler" and "rtol", or "epsilon".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import digits, files
from common.cli import run_cli
from common.run import Run
from common.sample_metrics import mmd2, prdc
from common.score import hutchinson, jacobian, noise_level, parzen
from common.stacked import rademacher, randn, seed_generators
from common.torch_utils import setup
from common.ve_sde import Method, draw_noise, levels, ode_log_likelihood, ode_sample, pc_sample
from papers.qcsgm.config import Config, members
from papers.qcsgm.exact import mixture
from papers.qcsgm.method import (
    Network,
    asymmetry,
    jacobian_products,
    normalised_asymmetry,
    qc_estimate,
)
from papers.qcsgm.networks import make_network, make_score
from papers.qcsgm.task import IMAGE_LEVELS, SETTINGS, family, test_images, toy_points

N_SAMPLES = 2000
N_MMD = 1000  # samples of each side: the kernel is the dear part
N_LEVELS, N_POINTS = 10, 500  # noise levels, and noised points at each, of Asym and score error
PC_LEVELS = 100  # of the predictor-corrector sampler: two score calls each
SOLVERS: tuple[tuple[Method, float], ...] = (  # SciPy's method and rtol; atol 1e-5
    ("RK45", 1e-2),
    ("RK45", 1e-3),
    ("RK45", 1e-5),
    ("RK23", 1e-3),
    ("DOP853", 1e-3),
)
Rows = list[dict[str, Any]]


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


def midpoints(n: int) -> list[float]:
    """Times (i + 1/2) / n of the noise levels that averages over t are taken at."""
    return [(i + 0.5) / n for i in range(n)]


def curves(values: dict[str, list[float]], times: list[float]) -> Rows:
    """Mean over the noise levels, and the curve, of each quantity."""
    rows: Rows = []
    for name, value in values.items():
        rows.append({"metric": name, "value": float(np.mean(value))})
        rows.append({"metric": f"{name}_at", "step": times, "value": value})
    return rows


# -- Example 1 and the autoencoder ---------------------------------------------------------------


def gaussian_rows(cells: list[dict[str, Any]], seeds: list[int]) -> Rows:
    """Steps per seed, and the error's exact measures (seed -1: they have none)."""
    rows: Rows = []
    for cell in cells:
        epsilon = cell["epsilon"]
        for seed, steps in zip(seeds, cell["steps"], strict=True):
            rows.append({"seed": seed, "epsilon": epsilon, "metric": "steps", "value": steps})
        for name in ("error", "asym", "nasym"):
            rows.append({"seed": -1, "epsilon": epsilon, "metric": name, "value": cell[name]})
    return rows


def autoencoder_rows(lines: list[dict[str, Any]], seeds: list[int]) -> Rows:
    """What was followed, per seed, at every fifth logged step and at both ends."""
    kept = [x for x in lines if x["step"] % 500 == 0 or x is lines[-1]]
    names = ("loss", "gap", "untied", "nasym", "jacobian", "angle")
    return [
        {
            **{"seed": seed, "metric": name, "step": [x["step"] for x in kept]},
            "value": [x[name][i] for x in kept],
        }
        for i, seed in enumerate(seeds)
        for name in names
    ]


# -- score models ---------------------------------------------------------------------------------


def toy_oracle(task: str) -> tuple[list[float], list[Tensor], list[Tensor]]:
    """Times, noised points [1, N_POINTS, 2] and the smoothed training set's scores there."""
    setting, times = SETTINGS[task], midpoints(N_LEVELS)
    train, held_out = toy_points(task, "train"), toy_points(task, "test")[:N_POINTS]
    generator = seed_generators([0], 3)
    points, scores = [], []
    for t in times:
        sigma = noise_level(torch.tensor(t), setting.sigma_min, setting.sigma_max)
        x = held_out + sigma * randn(generator, *held_out.shape)
        points.append(x)
        scores.append(parzen(x[0].double(), train.double(), float(sigma))[1].float()[None])
    return times, points, scores


def toy_field_rows(
    task: str, score: Network, oracle: tuple[list[float], list[Tensor], list[Tensor]]
) -> Rows:
    """Asym, NAsym and score error 1/2 |s - oracle|^2 over the noise levels."""
    setting = SETTINGS[task]
    values: dict[str, list[float]] = {"asym": [], "nasym": [], "score_error": []}
    for t, x, exact in zip(*oracle, strict=True):
        sigma = noise_level(torch.tensor(t), setting.sigma_min, setting.sigma_max)
        J = jacobian(lambda at, sigma=sigma: score(at, sigma), x).double()
        values["asym"].append(float(asymmetry(J).mean()))
        values["nasym"].append(float(normalised_asymmetry(J).mean()))
        with torch.no_grad():
            error = (score(x, sigma) - exact).square().sum(-1) / 2
        values["score_error"].append(float(error.double().mean()))
    return curves(values, oracle[0])


def matched_std(task: str) -> float:
    """Width of the terminal density of a 2-D set: that of the data and of the largest noise.

    The authors' prior has the noise's alone (3, where the data have 3.4 to 4).
    """
    variance = float(toy_points(task, "train").var(0).mean())
    return math.sqrt(SETTINGS[task].sigma_max ** 2 + variance)


def likelihood_rows(task: str, score: Network) -> Rows:
    """NLL of held-out points in nats, by the ODE with the exact divergence.

    "nll" has the authors' prior N(0, sigma_max^2 I), "nll_matched" one of the terminal density's
    width, at the end of the same trajectories.
    """
    setting, std = SETTINGS[task], matched_std(task)
    x = toy_points(task, "test")[None]
    log_p, result = ode_log_likelihood(score, x, setting.sigma_min, setting.sigma_max)
    assert result.log_det is not None
    square = result.x.double().square().sum(-1)
    log_prior = -square / (2 * std**2) - math.log(2 * math.pi * std**2)
    return [
        {"metric": "nll", "value": -float(log_p.mean())},
        {"metric": "nfe", "sampler": "likelihood", "rtol": 1e-3, "value": result.n_evaluations},
        {"metric": "nll_matched", "value": -float((log_prior + result.log_det.double()).mean())},
    ]


def truth_rows(task: str) -> Rows:
    """NLL of the held-out points under the exact density at the smallest noise."""
    x = toy_points(task, "test")
    log_p = mixture(task).log_density(x, torch.tensor(SETTINGS[task].sigma_min))
    return [{"metric": "nll_truth", "value": -float(log_p.mean())}]


def sample_rows(task: str, score: Network, real: Tensor) -> tuple[Rows, Tensor]:
    """Quality and cost of samples by each sampler, one denoising step at the end of each.

    Returns:
        The rows, and the samples of RK45 at rtol 1e-3.
    """
    setting = SETTINGS[task]
    generators = seed_generators([0], 4)
    sigma_min = torch.tensor(setting.sigma_min)
    start = setting.sigma_max * randn(generators, len(real), real.shape[-1])
    rows: Rows = []
    drawn = torch.empty(0)

    def add(sampler: str, rtol: float | None, x: Tensor, nfe: int) -> None:
        quality = prdc(real, x[0], k=3)
        values = {
            **{"nfe": nfe, "precision": quality.precision, "recall": quality.recall},
            "mmd2": mmd2(real[:N_MMD], x[0, :N_MMD]),
        }
        label = {"sampler": sampler} | ({"rtol": rtol} if rtol is not None else {})
        rows.extend({**label, "metric": name, "value": v} for name, v in values.items())

    def solved(x: Tensor, method: Method, rtol: float) -> tuple[Tensor, int]:
        result = ode_sample(
            score, x, setting.sigma_min, setting.sigma_max, rtol=rtol, method=method
        )
        with torch.no_grad():
            x = result.x + sigma_min**2 * score(result.x, sigma_min)
        return x, result.n_evaluations + 1

    for method, rtol in SOLVERS:
        x, nfe = solved(start, method, rtol)
        add(method, rtol, x, nfe)
        if (method, rtol) == ("RK45", 1e-3):
            drawn = x[0]
    grid_of_levels = levels(setting.sigma_min, setting.sigma_max, PC_LEVELS)
    x = pc_sample(score, start, grid_of_levels, draw_noise(generators, *start.shape[1:]))
    add("PC", None, x, 2 * PC_LEVELS)
    if family(task) == "toy":
        x, nfe = solved(matched_std(task) / setting.sigma_max * start, "RK45", 1e-3)
        add("RK45, matched prior", 1e-3, x, nfe)
    return rows, drawn


def digits_field_rows(task: str, score: Network, n: int = 200) -> Rows:
    """Asym and NAsym over the noise levels, by exact Jacobians."""
    setting, times = SETTINGS[task], midpoints(N_LEVELS)
    clean = test_images(task, np.random.default_rng(0), 1)[None, :n]
    generators = seed_generators([0], 3)
    values: dict[str, list[float]] = {"asym": [], "nasym": []}
    for t in times:
        sigma = noise_level(torch.tensor(t), setting.sigma_min, setting.sigma_max)
        x = clean + sigma * randn(generators, *clean.shape[1:])
        J = jacobian(lambda at, sigma=sigma: score(at, sigma), x).double()
        values["asym"].append(float(asymmetry(J).mean()))
        values["nasym"].append(float(normalised_asymmetry(J).mean()))
    return curves(values, times)


def image_field_rows(
    task: str, score: Network, device: str, n_levels: int = IMAGE_LEVELS, n: int = 100
) -> Rows:
    """Asym and NAsym over the noise levels by one vector each, as the authors' on images.

    E[v^T J J^T v - v^T J J v] and E[1/2 of it / |J^T v|^2]: the latter is biased, the Jacobian is
    too large for anything else.
    """
    setting, times = SETTINGS[task], midpoints(n_levels)
    clean = test_images(task, np.random.default_rng(0), 1)[None, :n]
    generators = seed_generators([0], 3)
    values: dict[str, list[float]] = {"asym": [], "nasym": []}
    for t in times:
        sigma = noise_level(torch.tensor(t), setting.sigma_min, setting.sigma_max).to(device)
        x = clean.to(device) + sigma * randn(generators, *clean.shape[1:]).to(device)
        v = rademacher(generators, *clean.shape[1:]).to(device)
        _, JTv, Jv = jacobian_products(lambda at, sigma=sigma: score(at, sigma), x, v)
        estimate = qc_estimate(JTv, Jv).detach().double()
        values["asym"].append(float(estimate.mean()))
        size = JTv.detach().double().square().sum(-1)
        values["nasym"].append(float((estimate / (2 * size)).mean()))
    return curves(values, times)


def bits_rows(task: str, score: Network, device: str, draws: int, chunk: int) -> Rows:
    """NLL of test images in bits per dimension, by the ODE with Hutchinson's divergence."""
    setting = SETTINGS[task]
    x = test_images(task, np.random.default_rng(0), draws)[None]
    generators = seed_generators([0], 5)
    log_p, calls = [], []
    for part in x.split(chunk, dim=1):
        v = rademacher(generators, *part.shape[1:]).to(device)
        values, result = ode_log_likelihood(
            score,
            part.to(device),
            setting.sigma_min,
            setting.sigma_max,
            divergence=hutchinson(v),
        )
        log_p.append(values.flatten())
        calls.append(result.n_evaluations)
    nll = -float(torch.cat(log_p).mean())
    n_levels = digits.LEVELS if task == "digits" else 256
    bits = digits.bits_per_dim(nll, x.shape[-1], n_levels)
    return [
        {"metric": "bits", "value": bits},
        {"metric": "nfe", "sampler": "likelihood", "rtol": 1e-3, "value": float(np.mean(calls))},
    ]


def rotation_map(task: str, score: Network, t: float = 0.15, n: int = 48) -> list[list[float]]:
    """d s_2 / d x_1 - d s_1 / d x_2 on a grid over the data, for the figure. [n][n]."""
    setting = SETTINGS[task]
    axis = torch.linspace(-8, 8, n)
    sigma = noise_level(torch.tensor(t), setting.sigma_min, setting.sigma_max)
    x = torch.cartesian_prod(axis, axis)[None]
    J = jacobian(lambda at: score(at, sigma), x)[0]
    return np.round((J[:, 1, 0] - J[:, 0, 1]).view(n, n).numpy(), 2).tolist()


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    given = files.read_json(run.folder / "config.json")
    final = run.final()
    label = {"method": given["method"], "task": given["task"]}
    seeds = [seed + given["seed_offset"] for seed in given["seed"]]
    if label["task"] == "gaussian":
        rows = gaussian_rows(final["cells"], seeds)
    elif label["task"] == "autoencoder":
        rows = autoencoder_rows(run.metrics(), seeds)
    else:
        return evaluate_scores(cfg, run, run.config(Config), final)
    return run.write_eval([{**label, **row} for row in rows])


def evaluate_scores(cfg: EvalConfig, run: Run, train_cfg: Config, final: dict[str, Any]) -> None:
    """Rows and figures' data of every member."""
    task, kind = train_cfg.task, family(train_cfg.task)
    device = cfg.device if kind == "images" else "cpu"  # SciPy's solver lives there
    setup(device, 0)
    oracle = toy_oracle(task) if kind == "toy" else None
    rows: Rows = []
    extras: Rows = []
    for m, (seed, lam) in enumerate(members(train_cfg)):
        label = {"method": train_cfg.method, "task": task, "seed": seed, "lam": lam}
        if train_cfg.lr is not None:  # a grid's point, which is not the task's own
            label["lr"] = train_cfg.lr
        net = make_network(train_cfg, [seed], final.get("settings") or None)
        one = kind != "images"  # a stack's member
        net.load_state_dict({k: w[m : m + 1] if one else w for k, w in final["net"].items()})
        score = make_score(train_cfg, net.to(device).eval().requires_grad_(False))
        found: Rows = truth_rows(task) if train_cfg.model.exact else []
        if oracle is not None:
            real = toy_points(task, "test")[:N_SAMPLES]
            found += toy_field_rows(task, score, oracle) + likelihood_rows(task, score)
        elif kind == "digits":
            real = test_images(task, np.random.default_rng(0), 1)
            found += digits_field_rows(task, score) + bits_rows(task, score, device, 5, 1500)
        else:
            found += image_field_rows(task, score, device)
            found += bits_rows(task, score, device, 1, 250)
        if kind != "images":
            sampled, x = sample_rows(task, score, real)
            found += sampled
            first = seed == train_cfg.seed[0] + train_cfg.seed_offset and lam in (0.0, 0.1, 1e-2)
            if first and oracle is not None and train_cfg.model.drawn:
                extras.append({"name": "samples", **label, "data": shown(x[:600])})
                extras.append({"name": "rotation", **label, "data": rotation_map(task, score)})
            elif first and kind == "digits":
                extras.append({"name": "images", **label, "data": shown(x[:20])})
        rows += [{**label, **row} for row in found]
    run.write_eval(rows, extras)


def shown(x: Tensor) -> list[list[float]]:
    """Two decimals are enough for a figure."""
    return np.round(x.numpy().astype(float), 2).tolist()


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
