"""One run: one method on one suite of tasks, one seed.

All methods go through the same loop. What differs: what tells the network its task, which masks
it acts with, and whether these are moved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.cli import run_cli
from common.control.decision_transformer import DecisionTransformer, adamw
from common.run import Run
from common.torch_utils import GlobalRandom, setup
from papers.harmodt.config import Config, check
from papers.harmodt.learning import (
    World,
    conflict,
    gradients_of,
    make_net,
    make_world,
    mixture,
    operated_gradients,
    task_gradients,
)
from papers.harmodt.method import (
    Gate,
    agreement,
    default_groups,
    descend,
    flat,
    flips,
    group_gradients,
    groups_of,
    harmony,
    initial_masks,
    maskable,
    updated_masks,
    views,
)
from papers.harmodt.methods import METHODS
from papers.harmodt.task import OBS_DIM, SUITES

DRAWING, SCORING, MASKING, LOOKING, GATING, MOVING = range(1, 7)  # streams of random numbers
LOG_EVERY = 100  # iterations


def stream(seed: int, use: int) -> torch.Generator:
    """A generator of a run, on the CPU."""
    return torch.Generator().manual_seed(1_000_003 * use + seed)


def fresh_masks(cfg: Config, net: DecisionTransformer, n: int) -> Tensor:
    """The masks that a run begins with, the same for every method of a seed. [n, D], on the CPU."""
    return initial_masks(maskable(net), cfg.sparsity, n, stream(cfg.seed, MASKING))


def first_masks(cfg: Config, net: DecisionTransformer) -> tuple[Tensor, Tensor]:
    """Masks [M, D] and the mask of each task [N]; G-HarmoDT begins with one mask of ones."""
    n, method = len(SUITES[cfg.task].tasks), METHODS[cfg.method]
    if method.masks == "none" or method.groups:
        size = sum(p.numel() for p in maskable(net).values())
        return torch.ones(1, size, dtype=torch.bool), torch.zeros(n, dtype=torch.long)
    return fresh_masks(cfg, net, n), torch.arange(n)


def make_gate(cfg: Config) -> Gate:
    """G-HarmoDT's gate before training; on the CPU."""
    n_groups = default_groups(len(SUITES[cfg.task].tasks))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return Gate(OBS_DIM, n_groups)


def mask_gradients(
    net: DecisionTransformer,
    masks: Tensor,
    groups: Tensor,
    world: World,
    generator: torch.Generator,
) -> Tensor:
    """Dense gradients of the tasks' fresh batches, of groups where masks are theirs. [M, D]"""
    found = task_gradients(net, masks, groups, world, generator, world.cfg.batch)
    if METHODS[world.cfg.method].groups:
        return group_gradients(found, groups.to(found.device))
    return found


def moved(
    cfg: Config,
    masks: Tensor,
    gradients: Tensor,
    theta: Tensor,
    progress: float,
    generator: torch.Generator,
) -> Tensor:
    """One step of the upper level. [M, D]

    With masked gradients (authors' code) no absent coordinate has a score: which of them are
    recovered is drawn.
    """
    method = METHODS[cfg.method]
    if not method.dense:
        gradients = gradients * masks
    pull = agreement(gradients)
    if not method.dense:
        draws = torch.rand(pull.shape, generator=generator).to(pull)
        pull = torch.where(masks, pull, draws)
    score = harmony(gradients, theta, method.importance, cfg.lam)
    count = flips(progress, round(cfg.flip_share * masks.shape[1]))
    return updated_masks(masks, score, pull, count)


def repeats(
    cfg: Config, masks: Tensor, pair: list[Tensor], theta: Tensor, generator: torch.Generator
) -> dict[str, float]:
    """Shares of what one batch's scores flip, eta_max coordinates, that another batch's do, too.

    Were scores noise, they would be eta_max / (ones of a mask) and eta_max / (zeros).

    Args:
        pair: gradients of two batches [M, D].
    """
    one, other = (moved(cfg, masks, g, theta, 0.5, generator) for g in pair)
    found = {}
    dropped, recovered = (masks & ~one, masks & ~other), (one & ~masks, other & ~masks)
    for name, (a, b) in (("drop", dropped), ("recover", recovered)):
        found[f"repeat_{name}"] = float((a & b).sum() / a.sum().clamp(min=1))
    return found


def teach_gate(
    gate: Gate,
    optimizer: torch.optim.Optimizer,
    world: World,
    groups: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """A step of the gate's cross-entropy on windows of all tasks, labelled by their groups."""
    cfg = world.cfg
    drawn = [world.draw(k, generator, cfg.gate_batch)[0] for k in range(len(groups))]
    states, real = torch.cat([w.states for w in drawn]), torch.cat([w.real for w in drawn])
    labels = groups.repeat_interleave(cfg.gate_batch).to(states.device)
    loss = torch.nn.functional.nll_loss(gate(states, real), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def schedule(step: int, cfg: Config) -> float:
    """Share of the rate: it rises over the warm-up, stays, and falls to 0 at the end."""
    left = (cfg.steps - step) / max(cfg.cool_down * cfg.steps, 1.0)
    return min((step + 1) / cfg.warm_up, 1.0, left)


def conflicts(gradients: Tensor, masks: Tensor) -> dict[str, float]:
    """Conflict of the tasks' dense gradients and of those under their masks, both [N, D]."""
    found = {}
    for name, of in (("dense", gradients), ("masked", gradients * masks)):
        found[f"conflict_{name}"], found[f"conflict_{name}_cosine"] = conflict(of)
    return found


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    check(cfg)
    method = METHODS[cfg.method]
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    net = make_net(cfg).to(device).train()
    theta = maskable(net)
    n_tasks = len(SUITES[cfg.task].tasks)
    optimizer = adamw(net.parameters(), cfg.rate, cfg.weight_decay)
    gate = make_gate(cfg).to(device)
    gate_optimizer = torch.optim.Adam(gate.parameters(), cfg.gate_lr)
    masks, groups = first_masks(cfg, net)
    size = masks.shape[1] if method.groups else 0
    drawing, scoring, looking = (stream(cfg.seed, k) for k in (DRAWING, SCORING, LOOKING))
    gating, moving = stream(cfg.seed, GATING), stream(cfg.seed, MOVING)
    kept = run.keep(
        **{"net": net, "optimizer": optimizer, "gate": gate, "gate_optimizer": gate_optimizer},
        **{"drawing": drawing, "scoring": scoring, "looking": looking, "gating": gating},
        **{"moving": moving, "dropout": GlobalRandom(), "groups": groups},
        masks=masks.to(device),
        gradients=torch.zeros(n_tasks, size, device=device),  # sums of the warm-up, of each task
        losses=torch.zeros((), device=device),  # summed since the last line of the log
    )
    total = 0 if method.kind != "trained" else cfg.steps
    world = make_world(cfg, device) if total else World([], cfg)
    grouped = max(n_tasks, int(cfg.grouping * total))  # every task was seen
    quarters = {total * k // 4 - 1 for k in range(1, 5)}

    for step in run.steps(total, drop=("optimizer", "gate_optimizer", "gradients", "dropout")):
        # 0. G-HarmoDT, after the warm-up: groups by their gradients, masks (Eqs. 10 and 1)
        if method.groups and step == grouped:
            groups.copy_(groups_of(kept.gradients, default_groups(n_tasks)))
            kept.masks = fresh_masks(cfg, net, int(groups.max()) + 1).to(device)

        # 1. the lower level: a batch of one task under its mask (Eqs. 2 and 8)
        k = step % n_tasks
        mask = views(kept.masks[groups[k]], theta)
        if method.surgery:
            parts = world.draw_of_all(drawing)
            loss, gradients = operated_gradients(net, mask, parts, cfg.clip, moving)
        else:
            batch = mixture(world.draw_of_all(drawing)) if method.mixed else world.draw(k, drawing)
            loss, gradients = gradients_of(net, mask, batch, cfg.clip)
        kept.losses += loss
        for group in optimizer.param_groups:
            group["lr"] = cfg.rate * schedule(step, cfg)
        if method.groups and step < grouped:
            kept.gradients[k] += flat(gradients, list(theta))
        descend(net, optimizer, gradients, mask)

        # 2. G-HarmoDT: the gate learns beside it (Eq. 12)
        if method.groups and step >= grouped:
            gate_loss = teach_gate(gate, gate_optimizer, world, groups, gating)

        # 3. the upper level: masks move (Eqs. 3 to 7; of groups: Eq. 11)
        ready = not method.groups or step >= grouped
        if method.masks == "learned" and ready and (step + 1) % cfg.interval == 0:
            scored = mask_gradients(net, kept.masks, groups, world, scoring)
            now = flat(theta, list(theta))
            kept.masks = moved(cfg, kept.masks, scored, now, step / total, moving)

        # 4. at every quarter: how much the tasks' gradients conflict, whether scores are noise
        if step in quarters:
            of_tasks = task_gradients(net, kept.masks, groups, world, looking, cfg.conflict_batch)
            run.log(step + 1, **conflicts(of_tasks, kept.masks[groups]))
            if method.masks == "learned" and ready:
                pair = [mask_gradients(net, kept.masks, groups, world, looking) for _ in range(2)]
                now = flat(theta, list(theta))
                run.log(step + 1, **repeats(cfg, kept.masks, pair, now, looking))
        if (step + 1) % LOG_EVERY == 0:
            extra = {"gate_loss": gate_loss} if method.groups and step >= grouped else {}
            run.log(step + 1, loss=kept.losses / LOG_EVERY, **extra)
            kept.losses.zero_()


if __name__ == "__main__":
    run_cli(train, Config)
