"""Prune a model in several settings, reconstruct it, measure it.

Every method prunes the same units, sees the same calibration texts and is measured on the same
evaluation texts of its seed; only ``recipe.solve`` (or what stands in its place) differs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.liar.architecture import Architecture, Batch, Dense, Stream, rows_of
from papers.liar.baselines import retrain
from papers.liar.config import Config, recipe_of, settings_of
from papers.liar.criteria import choose_units, unit_scores
from papers.liar.method import (
    Linear,
    Moments,
    Problem,
    Recipe,
    Ridge,
    Solution,
    reconstruct,
    relative_error,
    weights_of,
)
from papers.liar.methods import METHODS, Reconstruction
from papers.liar.sparse import sparsify
from papers.liar.task import Setting
from papers.liar.work import work_of
from papers.liar.working import Work

REMEMBERED = 2e9  # bytes of the unpruned model's states that are kept between settings


class Pruned(NamedTuple):
    """A pruned model.

    Attributes:
        model: whole, smaller than it was (or with zeros, where single weights were removed).
        units: kept ones of each module.
        solutions: of each module.
        losses: of retraining.
    """

    model: Any
    units: list[Tensor]
    solutions: list[Solution]
    losses: list[float]


def dense_of(work: Work) -> Dense:
    """The unpruned model's states on the calibration texts."""
    width = work.arch.start(work.batches[0]).shape[-1]
    size = 8 * len(work.arch.modules) * width * sum(b.ids.numel() for b in work.batches)
    return Dense(work.arch, work.batches, remember=size < REMEMBERED)


def untrained(arch: Architecture, seed: int) -> Any:
    """A copy with random layers, drawn as the library draws them."""
    model = copy.deepcopy(arch.model)
    std = model.config.initializer_range
    layers = type(arch)(model).layers
    generator = torch.Generator().manual_seed(seed)
    for parameter in layers.parameters():
        if parameter.dim() == 2:
            drawn = torch.randn(parameter.shape, generator=generator) * std
            parameter.data.copy_(drawn.to(parameter.device))
    return model


def last_states(work: Work, dense: Dense) -> list[Tensor]:
    """The unpruned model's last hidden states. [B, T, d] each."""
    received, given = list(dense)[-1]
    index = len(work.arch.modules) - 1
    return [work.arch.after(index, h, y).clone() for h, y in zip(received, given, strict=True)]


def pruned(
    work: Work, dense: Dense, setting: Setting, method: Reconstruction, cfg: Config
) -> Pruned:
    """Prune and put right in one setting."""
    arch, recipe = work.arch, recipe_of(cfg)
    if method.kind == "dense":
        return Pruned(arch.model, [], [], [])
    if method.kind == "untrained":
        return Pruned(untrained(arch, cfg.seed), [], [], [])
    if setting.of_weights:
        way: Any = method.way or "none"
        # SparseGPT's updates know the local target only: so it is everybody's, unless it is named
        ridge, local = recipe.ridge or Ridge(), cfg.target in (None, "local")
        model, found = sparsify(arch, work.batches, setting, way, ridge, dense, local)
        return Pruned(model, [], found, [])
    scores = unit_scores(arch, setting.criterion, dense, cfg.seed, work.loss, work.batches)
    units = choose_units(arch, scores, setting.ratio, setting.parts, setting.everywhere)
    found = reconstruct(arch, work.batches, units, recipe, dense)
    model = arch.shrunk(units, [solution.linear for solution in found])
    losses: list[float] = []
    if method.kind == "retrain":
        wanted = last_states(work, dense)
        losses = retrain(model, work.batches, wanted, steps=cfg.steps, lr=cfg.lr, seed=cfg.seed)
    return Pruned(model, units, found, losses)


@torch.inference_mode()
def alone(work: Work, units: Sequence[Tensor], recipe: Recipe) -> list[float]:
    """Relative error on held-out texts of each module when it alone is pruned.

    Its inputs are the unpruned model's, the same for every method.
    """

    def moments(batches: Sequence[Batch], index: int, stream: Stream, kept: Tensor) -> Moments:
        last = work.arch.modules[index].last
        found = Moments.zeros(len(kept), last.out_features, work.arch.device)
        for i, batch in enumerate(batches):
            x = stream.features(index, i)
            y = last(x)
            found.add(rows_of(x[..., kept], batch), rows_of(y, batch))
            stream.advance(index, i, y)
        return found

    seen, unseen = (Stream(work.arch, texts) for texts in (work.batches, work.held_out))
    errors = []
    for index, module in enumerate(work.arch.modules):
        kept = module.inputs_of(units[index])
        W, b = weights_of(work.arch, index)
        affine = module.last.bias is not None or recipe.add_bias
        own = moments(work.batches, index, seen, kept)
        problem = Problem(own, W[kept], b, module.unit, affine)
        linear: Linear = recipe.solve(problem, recipe.ridge or Ridge())
        errors.append(relative_error(moments(work.held_out, index, unseen, kept), linear))
    return errors


def train(cfg: Config) -> None:
    """Go through the settings, or go on from the last checkpoint.

    Raises:
        UserError: for what there is not, or a decoder that is not trained.
    """
    settings, method = settings_of(cfg), METHODS[cfg.method]
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    work = work_of(cfg, setup(cfg.device, cfg.seed))
    kept = run.keep(weights={}, seconds=[])
    began = time.monotonic()
    dense = dense_of(work)
    once = time.monotonic() - began  # one pass of the unpruned model
    whole, before = work.measure(work.arch.model), work.arch.layer_parameters
    for number in run.steps(len(settings)):
        setting = settings[number]
        began = time.monotonic()
        found = pruned(work, dense, setting, method, cfg)
        kept.seconds = [*kept.seconds, time.monotonic() - began + once]
        quality = work.measure(found.model)
        logged: dict[str, Any] = {f"dense_{name}": value for name, value in whole.items()}
        if found.solutions:
            logged["errors"] = [solution.error for solution in found.solutions]
            logged["ridges"] = [solution.ridge for solution in found.solutions]
        if found.units and method.kind == "closed" and setting.name in cfg.compare:
            logged["alone"] = alone(work, found.units, recipe_of(cfg))
        if found.losses:
            logged["losses"] = found.losses
        linears = [solution.linear for solution in found.solutions]
        arch = type(work.arch)(found.model)
        run.log(
            number + 1,
            **quality,
            **logged,
            parameters=arch.layer_parameters,
            parameters_before=before,
            nonzero=sum(
                int((p != 0).sum()) for p in type(work.arch)(found.model).layers.parameters()
            ),
            tokens=work.tokens,
            inference=float(bool(linears) and all(x.weight.is_inference() for x in linears)),
        )
        if found.solutions and setting.name == (cfg.keep or settings[0].name):
            state = arch.layers.state_dict()
            kept.weights = {name: tensor.cpu() for name, tensor in state.items()}


if __name__ == "__main__":
    run_cli(train, Config)
