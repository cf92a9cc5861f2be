"""A run directory -> rows: likelihoods, divergences, gradient norms, imputations, timings.

All numbers are of the moving-average weights at the end of training, unless a row says otherwise
("raw": without the average; "best": the average at the best validation likelihood).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.cli import run_cli
from common.flows import Flow
from common.run import Run
from common.stacked import seed_generators
from common.torch_utils import setup
from papers.ebflow import baselines, method, models, task
from papers.ebflow.config import Config, Setting
from papers.ebflow.methods import trained
from papers.ebflow.train import INITIAL, SMOOTH, negative_log_likelihood

DRAWS = 5  # dequantisations of the test images, the same for every model
ALPHA = 0.5  # step of the Langevin imputation in logit space: its chains mix within 2000 steps
IMPUTED, SHOWN = 50, 8  # test images; of which are drawn
PROPOSALS = 10_000  # samples of the importance estimate of log Z


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


Values = Tensor | list[float]


class Found:
    """Collects the rows of a run, one per seed."""

    def __init__(self, cfg: Config) -> None:
        self.label: dict[str, Any] = {"method": cfg.method, "task": cfg.task}
        if cfg.lr is not None:  # a grid's point, which is not the task's own
            self.label["lr"] = cfg.lr
        self.seeds, self.rows, self.extras = cfg.seeds, [], []  # type: ignore[var-annotated]

    def add(self, metric: str, values: Values, **labels: Any) -> None:
        """A value per seed; what is not finite (a diverged run) becomes None."""
        for seed, value in zip(self.seeds, values, strict=True):
            number = float(value) if math.isfinite(value) else None
            row = {**self.label, "seed": seed, "metric": metric, "value": number}
            self.rows.append({**row, **labels})

    def extra(self, name: str, data: Any) -> None:
        """An array for a figure, of the first seed."""
        self.extras.append({**self.label, "name": name, "seed": self.seeds[0], "data": data})


def with_weights(flow: Flow, weights: list[Tensor]) -> Flow:
    """A copy of the model with other parameters, without gradients."""
    other = copy.deepcopy(flow).requires_grad_(False)
    with torch.no_grad():
        for parameter, value in zip(other.parameters(), weights, strict=True):
            parameter.copy_(value)
    return other


# --------------------------------------------------------------------------- images


def right_half(shape: tuple[int, int, int]) -> Tensor:
    """1 where a pixel is in the right half of the image. [D]."""
    missing = torch.zeros(shape)
    missing[..., shape[2] // 2 :] = 1.0
    return missing.flatten()


def rmse(x: Tensor, truth: Tensor, missing: Tensor) -> Tensor:
    """Root mean squared error over samples and missing pixels, in grey levels. [S]."""
    return (x - truth)[..., missing == 1].square().mean((1, 2)).sqrt()


def impute(
    flow: Flow, data: task.Images, seeds: tuple[int, ...], iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Langevin in logit space from the training mean.

    Returns:
        The truth [1, B, D], the last iterate and the mean over the second half of the iterations
        [S, B, D], in grey levels, and the mask [D].
    """
    before, after = method.match_after(flow, 2)
    truth = data.test[:IMPUTED].float()
    missing = right_half(data.shape)
    logits = before(truth[None] + 0.5)[0]
    start = before(data.train.float()[None] + 0.5)[0].mean(1, keepdim=True)
    x = torch.where(missing == 1, start, logits).expand(len(seeds), -1, -1)
    total = torch.zeros(len(seeds), *truth.shape)

    def watch(step: int, state: Tensor) -> None:
        if step >= iterations // 2:
            total.add_(before.inverse(state) - 0.5)

    last = method.langevin_impute(
        after,
        x,
        missing,
        seed_generators(seeds, 4),
        alpha=ALPHA,
        steps=iterations,
        watch=watch,
    )
    mean = total / (iterations - iterations // 2)
    return truth[None], before.inverse(last) - 0.5, mean, missing


def evaluate_images(
    out: Found,
    setting: Setting,
    flow: Flow,
    weights: dict[str, list[Tensor]],
    device: torch.device,
    langevin: int,
) -> None:
    """Likelihoods of the test images; on digits also imputation and importance sampling."""
    data = task.images(setting.data)
    per_bit = data.dim * math.log(2)
    for name, values in weights.items():
        model = with_weights(flow, values).to(device)
        nll = negative_log_likelihood(model, data.test.to(device), seed=11, draws=DRAWS).cpu()
        out.add("nll", nll, weights=name)
        out.add("bits_per_dim", nll / per_bit, weights=name)
    if setting.data != "digits":
        return
    model = with_weights(flow, weights["ema"])

    truth, last, mean, missing = impute(model, data, out.seeds, langevin)
    out.add("rmse_sample", rmse(last, truth, missing))
    out.add("rmse_mean", rmse(mean, truth, missing))
    shown = [truth[0, :SHOWN], last[0, :SHOWN], mean[0, :SHOWN]]
    out.extra("imputed", [x.clamp(0, 16).round().int().tolist() for x in shown])

    # log Z without a determinant: a Gaussian of the data's moments as proposal
    exact = copy.deepcopy(model).double()
    before, after = method.match_after(exact, 2)
    g = torch.Generator().manual_seed(13)
    logits = before(data.train.double()[None] + torch.rand(data.train.shape, generator=g))[0][0]
    proposal = baselines.Gaussian(logits)
    x = proposal.sample(PROPOSALS, g)
    parts = [part.expand(len(out.seeds), -1, -1) for part in x.split(1_000)]
    energies = torch.cat([method.energy(after, part) for part in parts], 1)
    estimate, effective = method.importance_log_Z(energies, proposal.log_prob(x))
    out.add("log_Z_error", estimate - method.log_Z(after)[:, 0])
    out.add("effective_samples", effective)


def reference_rows(name: str, data: task.Images) -> list[dict[str, Any]]:
    """Gaussians and means, what a flow should beat; they have no seed."""
    flow = Flow(models.preprocessing(data.shape, data.levels, 0.5)).double()
    g = torch.Generator().manual_seed(11)
    train = data.train.double()
    logits = flow((train + torch.rand(train.shape, generator=g))[None])[0][0]
    fitted = baselines.Gaussian(logits)
    nll = []
    for _ in range(DRAWS):
        x = (data.test + torch.rand(data.test.shape, generator=g, dtype=torch.float64))[None]
        y, log_det = flow(x)
        nll.append(-(fitted.log_prob(y) + log_det + flow.log_det_constant()).mean())
    value = float(torch.stack(nll).mean())
    missing = right_half(data.shape)
    truth = data.test[:IMPUTED].double()
    by_mean = baselines.mean_fill(truth, missing, train)
    by_gaussian = baselines.Gaussian(train).impute(truth, missing)
    numbers = {
        ("gaussian", "nll"): value,
        ("gaussian", "bits_per_dim"): value / (data.dim * math.log(2)),
        ("uniform", "bits_per_dim"): math.log2(data.levels),
        ("mean-fill", "rmse_mean"): float(rmse(by_mean[None], truth[None], missing)),
        ("gaussian", "rmse_mean"): float(rmse(by_gaussian[None], truth[None], missing)),
    }
    return [
        {"method": m, "task": name, "seed": 0, "metric": k, "value": v, "weights": "ema"}
        for (m, k), v in numbers.items()
    ]


# --------------------------------------------------------------------------- points


@torch.no_grad()
def evaluate_points(
    out: Found, setting: Setting, flow: Flow, weights: dict[str, list[Tensor]], references: bool
) -> None:
    """KL = E[log p_sigma - log q] and FD = E|grad log p_sigma - s|^2 / 2 on fresh points.

    With ``references`` the exact density is drawn beside the learnt one.
    """
    density = task.smoothed_density(setting.data, setting.sigma)
    g = torch.Generator().manual_seed(1)
    clean = task.points(setting.data, 987_654, task.FRESH)
    x = clean + setting.sigma * torch.randn(task.FRESH, 2, generator=g)
    log_p, true_score = density.log_prob_and_score(x)
    for name in ("ema", "raw"):
        model = with_weights(flow, weights[name]).double()
        here = x.double().expand(len(out.seeds), -1, -1)
        out.add("kl", (log_p - method.log_prob(model, here)).mean(1), weights=name)
        s = method.score(model, here)[0].detach()
        fisher = 0.5 * (true_score - s).square().sum(-1).mean(1)
        out.add("fisher", fisher, weights=name)
    width, height = task.EXTENTS[setting.data]
    rows, columns = (
        torch.linspace(height, -height, task.GRID),
        torch.linspace(-width, width, task.GRID),
    )
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).view(-1, 2)
    exact = density.log_prob_and_score(grid)[0].exp()
    model = with_weights(flow, weights["ema"]).double()
    learnt = method.log_prob(model, grid.double().expand(len(out.seeds), -1, -1))[0].exp()
    learnt = learnt.nan_to_num()  # where the flow overflows there is nothing to draw
    for name, p in (("exact", exact), ("learnt", learnt)):
        if name == "learnt" or references:
            grey = (255 * (p / exact.max()).clamp(0, 1)).round().int()
            out.extra(name, grey.view(task.GRID, task.GRID).tolist())


# --------------------------------------------------------------------------- all


def timing_rows(timings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per repeat of a run of cost.py."""
    return [
        {
            "method": timing["method"],
            "task": timing["model"],
            "seed": 0,
            "metric": "ms",
            "value": value,
            "dim": timing["size"] if timing["model"] == "fc" else timing["size"] ** 2,
            "batch": timing["batch"],
            "repeat": repeat,
        }
        for timing in timings
        for repeat, value in enumerate(timing["ms"])
    ]


def curve_rows(out: Found, checks: list[dict[str, Any]], dim: int) -> list[dict[str, Any]]:
    """Validation likelihoods along a run, in bits per dimension; none of a run that diverged."""
    curves = np.array([line["valid"] for line in checks], dtype=float) / (dim * math.log(2))
    steps = [line["step"] for line in checks]
    return [
        {
            **out.label,
            "seed": seed,
            "metric": "valid_bits_per_dim",
            "step": steps,
            "value": curves[:, i].tolist(),
        }
        for i, seed in enumerate(out.seeds)
        if np.isfinite(curves[:, i]).all()
    ]


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    final = run.final()
    if "timings" in final:
        run.write_eval(timing_rows(final["timings"]))
        return
    train_cfg = run.config(Config)
    loss, setting, seeds = trained(train_cfg.method), train_cfg.setting, train_cfg.seeds
    device = setup(cfg.device, 0)
    data = task.images(setting.data) if setting.is_image else None
    flow = models.build(setting, seed_generators(seeds, INITIAL), data)
    flow.load_state_dict(final["flow"])
    weights = {
        "ema": final["ema"]["averages"],
        "raw": [p.detach().clone() for p in flow.parameters()],
        "best": final["best_weights"],
    }
    out = Found(train_cfg)

    metrics = run.metrics()
    early = [line["gradient_norm"] for line in metrics if line["step"] <= SMOOTH]
    norms = np.array(early, dtype=float)  # None (not finite) becomes NaN
    out.add("gradient_norm", np.nanmedian(norms, axis=0).tolist())
    if data is None:
        evaluate_points(out, setting, flow, weights, loss.references)
    else:
        out.rows += curve_rows(out, [line for line in metrics if "valid" in line], data.dim)
        evaluate_images(out, setting, flow, weights, device, train_cfg.langevin)
        if loss.references and setting.data == "digits":
            out.rows += reference_rows(train_cfg.task, data)
    run.write_eval(out.rows, out.extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
