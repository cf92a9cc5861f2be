"""Stages 1 and 2: a dense language model, and a mixture of experts that starts from it.

A mixture from scratch is trained as long as both stages take together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.cli import run_cli
from common.errors import UserError
from common.run import Run
from common.textlab.evaluate import window_losses
from common.textlab.tokens import fixed_windows, random_windows
from common.textlab.training import adamw, cosine, descend, losses_of
from common.torch_utils import setup
from papers.hc_smoe.config import TrainingConfig
from papers.hc_smoe.method import selections
from papers.hc_smoe.methods import METHODS
from papers.hc_smoe.task import DENSE, FAMILIES, dense_folder, family_of, network, text
from papers.hc_smoe.upcycle import upcycle

LOG_EVERY, VALIDATION = 20, 64  # steps; windows
BATCHES, ROUTERS = 10_000, 20_000  # seeds of batches and of what upcycling draws


def balance_loss(logits: Tensor, k: int) -> Tensor:
    """Switch Transformer's load-balancing loss of one layer: n sum_i f_i p_i; 1 if balanced. [].

    f_i is the share of the top-k selections that goes to expert i, p_i its mean probability.
    """
    p = logits.float().softmax(-1)
    n = p.shape[-1]
    f = (selections(p.topk(k).indices, n) / (len(p) * k)).to(p.dtype)
    return n * (f * p.mean(0)).sum()


def balance_of(model: Any, routers: tuple[Tensor, ...]) -> Tensor:
    """Mean over layers of :func:`balance_loss`. (The library's own pools the layers.) []."""
    k = model.config.num_experts_per_tok
    return torch.stack([balance_loss(logits, k) for logits in routers]).mean()


def started(cfg: TrainingConfig) -> Any:
    """The network that training starts with: fresh, or upcycled.

    Raises:
        UserError: if the dense model is not there, or another one.
    """
    model = network(cfg)
    if cfg.task == DENSE or not family_of(cfg.task).upcycled:
        return model
    folder = dense_folder(cfg)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"there is no dense model in {folder}; train it (python -m papers.hc_smoe.pretrain "
            f"--method dense --task {DENSE} --seed {cfg.seed}) or name it by --dense"
        )
    run = Run.load(folder)
    before = run.config(TrainingConfig)
    for name in ("seed", "packages", "vocabulary", "length", "layers", "width", "heads"):
        if getattr(before, name) != getattr(cfg, name):
            raise UserError(
                f"the dense model in {folder} has {name} {getattr(before, name)}, this run "
                f"{getattr(cfg, name)}"
            )
    dense = network(before)
    dense.load_state_dict(run.final()["model"])
    upcycle(dense, model, noise=cfg.noise, redraw=cfg.redraw, seed=ROUTERS + cfg.seed)
    return model


def steps_of(cfg: TrainingConfig) -> int:
    """Steps of a run: those of its stage, or of both from scratch."""
    if cfg.task == DENSE:
        return cfg.dense_steps
    return cfg.steps if family_of(cfg.task).upcycled else cfg.dense_steps + cfg.steps


def train(cfg: TrainingConfig) -> None:
    """Train, or go on from the last checkpoint.

    Raises:
        UserError: for a method of another stage, or a method and a task that do not go together.
    """
    if METHODS[cfg.method].kind != "training":
        raise UserError(f"{cfg.method} is not trained; python -m papers.hc_smoe.train merges")
    if (cfg.method == DENSE) != (cfg.task == DENSE):
        raise UserError(f"--method dense goes with --task dense, moe with {', '.join(FAMILIES)}")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    parts = text(cfg.packages, cfg.vocabulary)
    ids = parts["train"].ids
    judged = fixed_windows(parts["validation"].ids, cfg.length, VALIDATION)
    model = started(cfg).to(device)
    optimizer = adamw(model, cfg.lr)
    generator = torch.Generator().manual_seed(BATCHES + cfg.seed)
    run.keep(model=model, optimizer=optimizer, generator=generator)
    total = steps_of(cfg)
    for step in run.steps(total, drop=("optimizer",)):
        windows = random_windows(ids, cfg.batch, cfg.length, generator).to(device)
        model.train()
        optimizer.zero_grad(set_to_none=True)
        balance = torch.zeros((), device=device)
        if cfg.task == DENSE:
            logits = model(input_ids=windows[:, :-1]).logits
        else:
            seen = model.base_model(input_ids=windows[:, :-1], output_router_logits=True)
            logits = model.lm_head(seen.last_hidden_state)
            balance = balance_of(model, seen.router_logits)
        loss = losses_of(logits, windows).mean()
        (loss + cfg.balance * balance).backward()
        descend(model, optimizer, cosine(step, total, cfg.lr))
        if (step + 1) % LOG_EVERY == 0 or step + 1 == total:
            run.log(step + 1, loss=float(loss.detach()), balance=float(balance.detach()))
        if (step + 1) % (5 * LOG_EVERY) == 0 or step + 1 == total:
            run.log(step + 1, validation=float(window_losses(model, judged).mean()))


def loaded(folder: Path, task: str, seed: int) -> tuple[Any, TrainingConfig]:
    """The mixture of a finished run, and the run's configuration.

    Raises:
        UserError: if it is not there, not finished, or another one.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"there is no trained mixture in {folder}; train it (python -m papers.hc_smoe.pretrain "
            f"--task {task} --seed {seed}) or name the folder that holds seed-{seed} by --trained"
        )
    run = Run.load(folder)
    cfg = run.config(TrainingConfig)
    if (cfg.task, cfg.seed) != (task, seed):
        raise UserError(f"{folder} holds {cfg.task}, seed {cfg.seed}; not {task}, seed {seed}")
    model = network(cfg)
    model.load_state_dict(run.final()["model"])
    return model.eval().requires_grad_(False), cfg


if __name__ == "__main__":
    run_cli(train, TrainingConfig)
