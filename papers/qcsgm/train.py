"""One run: a method on an experiment, all seeds and all weights of the regulariser stacked.

Members of the stack that share a seed share initial weights, data, noise and sign vectors; they
differ in lambda alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.cli import run_cli
from common.ema import Ema
from common.errors import UserError, choose
from common.run import Run
from common.score import noise_level
from common.stacked import (
    adam,
    clip_grad_norm_per_seed,
    generator_states,
    rademacher,
    rand,
    randn,
    restore_generators,
    seed_generators,
)
from common.torch_utils import setup
from papers.qcsgm import rotation
from papers.qcsgm.autoencoder import Autoencoder, grid
from papers.qcsgm.baselines import constrained, constrained_output
from papers.qcsgm.method import Network, asymmetry, dsm_loss, qc_loss, unconstrained
from papers.qcsgm.networks import DigitsNetwork, NCSNpp, ToyNetwork
from papers.qcsgm.task import IMAGES, SETTINGS, TASKS, TOY, Data, pretrained

AUTOENCODER_LR, AUTOENCODER_STEPS = 1e-4, 10_001  # authors' code
QC = ("qc", "qc_est")  # exact trace, Hutchinson's estimate
METHODS = {
    "gaussian": ("radial", "rotational"),
    "autoencoder": ("qc",),
    **dict.fromkeys(TOY, ("u", "c", "c_act", *QC)),
    **dict.fromkeys(("digits", *IMAGES), ("u", "c", *QC)),
}


@dataclass
class Config:
    """One training run."""

    method: str = "qc"  # u, c, c_act (C with the authors' output activation), qc, qc_est
    task: str = "8gaussians"  # 8gaussians, spirals, checkerboard, digits, gaussian, autoencoder, …
    seed: tuple[int, ...] = (0,)  # trained together
    seed_offset: int = 0  # added to each seed; pilots use 100, the claims 0
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    lam: tuple[float, ...] = ()  # weights of L_QC, trained together; empty: the task's
    steps: int = 0  # gradient steps; 0: the task's (autoencoder: 10,001)
    batch: int = 0  # points a step; 0: the task's
    regularise_after: int = -1  # steps of plain U before L_QC sets in; -1: the task's
    slices: int = 1  # K, sign vectors per point of the estimate
    clip: float = 1.0  # largest gradient norm, of every member by itself (authors' code)
    pretrained: bool = True  # images: start from U's weights in $PAPERS_DATA, else from nothing


def members(cfg: Config) -> list[tuple[int, float]]:
    """(seed, lambda) of every network of the stack; lambda is 0 without a regulariser."""
    lams = (cfg.lam or SETTINGS[cfg.task].lam) if cfg.method in QC else (0.0,)
    return [(seed + cfg.seed_offset, lam) for lam in lams for seed in cfg.seed]


def make_network(cfg: Config, seeds: list[int]) -> nn.Module:
    """The network f of every member.

    Raises:
        UserError: if several are asked for at once where the network cannot be stacked.
    """
    if cfg.task in TOY:
        output = {"8gaussians": "leaky_relu"}.get(cfg.task, "elu")
        activation = output if cfg.method == "c_act" else "none"
        return ToyNetwork(seed_generators(seeds, 0), activation)  # type: ignore[arg-type]
    if cfg.task == "digits":
        return DigitsNetwork(seed_generators(seeds, 0))
    if len(seeds) > 1:
        raise UserError(f"{cfg.task} trains one network at a time; give one seed and one --lam")
    torch.manual_seed(seeds[0])
    return NCSNpp(pretrained(cfg.task) if cfg.pretrained else None)


def make_score(cfg: Config, f: nn.Module) -> Network:
    """s(x, sigma) of a method with network f."""
    if cfg.method.startswith("c"):
        return constrained(f) if cfg.task in TOY else constrained_output(f)
    return unconstrained(f) if cfg.task in TOY else f


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    choose("task", cfg.task, TASKS)
    choose(f"method on {cfg.task}", cfg.method, METHODS[cfg.task])
    if cfg.task == "gaussian":
        count_steps(cfg)
    elif cfg.task == "autoencoder":
        train_autoencoder(cfg)
    else:
        train_score(cfg)


def train_score(cfg: Config) -> None:
    """L_Total = L_SM + lambda sigma^2 L_QC on a data set."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    setting = SETTINGS[cfg.task]
    steps, B = cfg.steps or setting.steps, cfg.batch or setting.batch
    after = setting.regularise_after if cfg.regularise_after < 0 else cfg.regularise_after
    stack = members(cfg)
    seeds = [seed for seed, _ in stack]
    lam = torch.tensor([lam for _, lam in stack], device=device)

    data = Data(cfg.task, device)
    net = make_network(cfg, seeds).to(device)
    score = make_score(cfg, net)
    parameters = [p for p in net.parameters() if p.requires_grad]
    # NCSN++ is no stack: its parameters have no leading axis of members
    clip = nn.utils.clip_grad_norm_ if cfg.task in IMAGES else clip_grad_norm_per_seed
    optimiser = adam([{"params": parameters}], lr=setting.lr)
    ema = Ema(parameters, setting.ema, warm_up=setting.ema > 0)
    draws = seed_generators(seeds, 1)  # data, noise levels, noise
    signs = seed_generators(seeds, 2)  # v alone, so that lambda = 0 is U

    step = 0
    if state := run.restore():
        step = state["step"]
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        ema.load_state_dict(state["ema"])
        restore_generators(draws, state["draws"])
        restore_generators(signs, state["signs"])

    while step < steps:
        if setting.warm_up:
            for group in optimiser.param_groups:
                group["lr"] = setting.lr * min(1.0, (step + 1) / setting.warm_up)
        x_0 = data.batch(draws, B)  # [S, B, D]
        t = setting.t_min + (1 - setting.t_min) * rand(draws, B, 1)
        sigma = noise_level(t, setting.sigma_min, setting.sigma_max).to(device)
        z = randn(draws, B, data.dim).to(device)
        x = x_0 + sigma * z

        if cfg.method in QC and step >= after:
            v = None
            if cfg.method == "qc_est":
                v = rademacher(signs, cfg.slices, B, data.dim).to(device)
            s, regulariser = qc_loss(score, x, sigma, v)
        else:
            s, regulariser = score(x, sigma), torch.zeros(len(stack), B, device=device)
        matching = setting.matching * dsm_loss(s, sigma, z).mean(-1)  # L_SM [S]
        regulariser = regulariser.mean(-1)  # sigma^2 L_QC [S]
        loss = matching + lam * regulariser

        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        norm = clip(parameters, cfg.clip)
        optimiser.step()
        ema.update()
        step += 1
        if step % 100 == 0 or step == steps:
            run.log(step, matching=matching, regulariser=regulariser, gradient_norm=norm)
        if run.due(step):
            tree = {"step": step, "net": net.state_dict(), "optimiser": optimiser.state_dict()}
            tree |= {"draws": generator_states(draws), "signs": generator_states(signs)}
            run.save(step, {**tree, "ema": ema.state_dict()})
    with ema.swapped():
        run.finish({"net": net.state_dict()})


def train_autoencoder(cfg: Config) -> None:
    """L_QC alone, exactly, over the grid."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    seeds = [seed + cfg.seed_offset for seed in cfg.seed]
    net = Autoencoder(seed_generators(seeds, 0)).to(device)
    parameters = list(net.parameters())
    optimiser = adam([{"params": parameters}], lr=AUTOENCODER_LR)
    x, steps = grid().to(device), cfg.steps or AUTOENCODER_STEPS

    step = 0
    if state := run.restore():
        step = state["step"]
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])

    while True:
        if step % 100 == 0 or step == steps:
            with torch.no_grad():
                run.log(step, **net.measures(x))
        if step == steps:
            break
        loss = asymmetry(net.jacobian(x)).mean(-1)  # L_QC [S]
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        clip_grad_norm_per_seed(parameters, cfg.clip)
        optimiser.step()
        step += 1
        if run.due(step):
            tree = {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
            run.save(step, {"step": step, **tree})
    run.finish({"net": net.state_dict()})


def count_steps(cfg: Config) -> None:
    """Steps to the mode of a Gaussian under an erring score: nothing is learnt."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    run.restore()
    seeds = [seed + cfg.seed_offset for seed in cfg.seed]
    kind: rotation.Kind = "radial" if cfg.method == "radial" else "rotational"
    cells = []
    for epsilon in rotation.EPSILONS:
        steps = [rotation.ascend(rotation.starts(seed), epsilon, kind) for seed in seeds]
        cells.append({"epsilon": epsilon, "steps": steps, **rotation.measures(epsilon, kind)})
    run.finish({"cells": cells})


if __name__ == "__main__":
    run_cli(train, Config)
