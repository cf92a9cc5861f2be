"""One run: one method on one stream of tasks, one seed.

All methods go through the same loop: a warm-up, the updates, a look at how well the task is done.
What differs: which weights are a task's own, what it has from earlier tasks, and what protects or
rehearses these.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.control.continual import Place, due, sequence, unknown
from common.control.decision_transformer import adamw
from common.run import Run
from common.torch_utils import GlobalRandom, setup
from papers.compoformer.baselines import Consolidation, Gaussian, corrected
from papers.compoformer.config import Config, check
from papers.compoformer.learning import (
    DRAWING,
    NOISE,
    RECALLING,
    Sources,
    World,
    held_out_actions,
    make_net,
    make_world,
    outcomes,
    stream,
)
from papers.compoformer.method import sufficient, taken
from papers.compoformer.methods import METHODS
from papers.compoformer.network import Continual, flat, learned, views
from papers.compoformer.updates import (
    Batch,
    consolidate,
    decided_weights,
    descend,
    loss_of,
    penalty_of,
    recall_loss,
    set_shared_gradient,
    shared_gradient,
    walked,
    warm_up_loss,
)

LOG_EVERY = 100  # updates
Optimizers = list[torch.optim.Optimizer]
Generators = dict[str, torch.Generator]


class Work:
    """All that an update needs. What is not kept is made anew wherever a run goes on."""

    def __init__(
        self, cfg: Config, net: Continual, world: World, past: Consolidation, posterior: Gaussian
    ) -> None:
        self.cfg, self.net, self.world, self.past = cfg, net, world, past
        self.posterior, self.sources = posterior, Sources()
        self.place: tuple[int, bool] | None = None
        self.pools: dict[int, Tensor] = {}
        self.memories: dict[int, Tensor] = {}

    def enter(self, k: int, learning: bool, free: list[nn.Parameter]) -> None:
        """Let gradients go to what is learned now; ask the sources once for a task's windows."""
        if self.place == (k, learning):
            return
        self.net.requires_grad_(False)
        for p in free:
            p.requires_grad_(True)
        if self.place is None or self.place[0] != k:
            self.pools = {k: self.world.pool(k)}
            if self.net.method.composes and self.net.sources(k):
                self.sources.prepare(self.net, self.world, k, self.pools[k])
        self.place = (k, learning)
        self.net.train()

    def draw(self, k: int, generator: torch.Generator, batch: int) -> Batch:
        """Windows of a task's pool, drawn evenly."""
        if k not in self.pools:
            self.pools[k] = self.world.pool(k)
        drawn = torch.randint(len(self.pools[k]), (batch,), generator=generator)
        return Batch(self.world.windows(k, self.pools[k][drawn]), drawn)

    def recall(self, k: int, generator: torch.Generator, batch: int) -> Tensor:
        """Error on windows of the memory of a task before k; task and windows drawn evenly."""
        j = int(torch.randint(k, (1,), generator=generator))
        if j not in self.memories:
            self.memories[j] = self.world.memory(j, self.net.method.memory)
        drawn = torch.randint(len(self.memories[j]), (batch,), generator=generator)
        return recall_loss(self.net, j, self.world.windows(j, self.memories[j][drawn]))


def make_optimizers(
    cfg: Config, net: Continual, posterior: Gaussian
) -> tuple[Optimizers, Optimizers]:
    """Adam of every task's warm-up and AdamW of its updates; empty until they are used."""
    warm: Optimizers = []
    main: Optimizers = []
    for k in range(len(cfg.budgets())):
        heads = net.heads if net.method.joint else net.heads[k]
        metas = net.metas[k].parameters() if len(net.metas) else ()
        warm.append(torch.optim.Adam([*heads.parameters(), *metas], cfg.meta_lr))
        mine = [*learned(net, k), *(posterior.parameters() if net.method.penalty == "vcl" else ())]
        main.append(adamw(mine, cfg.rate, cfg.weight_decay))
    return warm, main


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """What it moves."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def rate(step: int, steps: int, cool_down: float) -> float:
    """Share of AdamW's rate: 1, and from 1 to 0 over the end of a task's updates."""
    return min(1.0, (steps - step) / max(cool_down * steps, 1.0))


def decide(work: Work, k: int) -> float:
    """After the warm-up: weights stay; is the composed policy the task's own? (Eq. 3)

    Returns:
        Its success in the sufficiency test; NaN: there was none.
    """
    cfg, net, world = work.cfg, work.net, work.world
    sources = net.sources(k)
    if not (net.method.composes and sources):
        return math.nan
    with torch.no_grad():
        net.alpha[k, sources] = decided_weights(net, k, world, work.sources, work.pools[k])
        net.decided[k] = True
    if not net.method.reuse:
        return math.nan
    success = float(outcomes(net, world, k, cfg.test_goal).success.mean())
    net.reused[k] = sufficient(success, cfg.eta)
    net.train()
    return success


@torch.no_grad()
def take_weights(net: Continual, k: int, share: float, last: bool) -> None:
    """Masks: the task takes its part of the free weights, the others become 0 (Eq. 7)."""
    theta = net.maskable()
    net.owner.copy_(taken(flat(theta), net.owner, k, share, last))
    free = views(net.owner < 0, theta)
    for name, p in theta.items():
        p.masked_fill_(free[name], 0.0)


def update(
    work: Work, optimizer: torch.optim.Optimizer, at: Place, generators: Generators, chosen: bool
) -> Tensor:
    """One step on a task: its loss, what is recalled, the penalty; then AdamW.

    Args:
        chosen: with masks, whether the task has taken its weights.
    """
    cfg, net, past, posterior = work.cfg, work.net, work.past, work.posterior
    method, theta, k = net.method, net.base(), at.task
    j = at.step % len(work.world.tasks) if method.joint else k
    recalling = bool(method.memory and k)
    rehearsed = recalling and not method.projected  # half of the windows are of the memory
    size = cfg.batch // 2 if rehearsed else cfg.batch
    batch = work.draw(j, generators["drawing"], size)
    reference, weights = None, None
    if recalling:
        recalled = work.recall(k, generators["recalling"], size)
        if method.projected:
            optimizer.zero_grad(set_to_none=True)
            recalled.backward()
            reference = shared_gradient(net)
    if method.penalty == "vcl":
        noise = torch.randn(len(posterior.log_sigma), generator=generators["noise"])
        weights = views(posterior.sampled(flat(theta), noise.to(net.alpha.device)), theta)
    loss = loss_of(net, j, batch, work.sources, weights)
    optimizer.zero_grad(set_to_none=True)
    ((loss + recalled) / 2 if rehearsed else loss).backward()
    walking = method.penalty == "rwalk"
    if reference is not None:
        set_shared_gradient(net, corrected(shared_gradient(net), reference))
    if walking:
        gradient, before = shared_gradient(net), flat(theta).detach()
    steps = len(work.world.tasks[k].data.ends)
    held = penalty_of(net, k, cfg, batch, past, posterior, steps)
    if held.requires_grad:
        held.backward()
    descend(net, optimizer, k, cfg, chosen)
    if walking:
        walked(past, gradient, flat(theta).detach() - before)
    return loss.detach()


def look(work: Work, k: int, kept: Any) -> None:
    """Success and action errors after a task: of it and the next one; of all after the last."""
    cfg, net, world = work.cfg, work.net, work.world
    K = len(world.tasks)
    last = K - 1 if net.method.joint else k
    for j in due(last, K, following=True):
        kept.scores[last + 1, j] = outcomes(net, world, j, cfg.first_goal).success.mean()
        if j > last:
            continue
        actions, error = held_out_actions(net, world, j)
        kept.errors[last + 1, j] = error
        if j == last and not net.method.joint:
            kept.said[str(j)] = actions.cpu()
        if last == K - 1 and str(j) in kept.said:
            kept.drift[j] = float((actions.cpu() - kept.said[str(j)]).square().mean().sqrt())
    net.train()


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    check(cfg)
    method = METHODS[cfg.method]
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    net = make_net(cfg).to(device)
    size = sum(p.numel() for p in net.base().values())
    posterior = Gaussian(size * (method.penalty == "vcl")).to(device)
    past = Consolidation.of(method.penalty, size, device)
    warm, main = make_optimizers(cfg, net, posterior)
    uses = {"drawing": DRAWING, "recalling": RECALLING, "noise": NOISE}
    generators = {name: stream(cfg.seed, use) for name, use in uses.items()}
    K = len(net.texts)
    kept = run.keep(
        **{"net": net, "posterior": posterior, "past": past, "warm": warm, "main": main},
        **{"generators": generators, "dropout": GlobalRandom()},
        scores=unknown(K),  # success after each task, see common.control.continual
        errors=unknown(K),  # action errors likewise
        composed=unknown(K)[0],  # action error of a task's policy when its warm-up is over
        tests=unknown(K)[0],  # success in sufficiency tests
        drift=unknown(K)[0],  # root mean square by which a task's actions have moved in the end
        said={},  # actions on held-out windows when a task was learned
        losses=torch.zeros((), device=device),  # summed since the last line of the log
    )
    budgets = cfg.budgets() if method.kind == "trained" else [0]
    world = make_world(cfg, device) if method.kind == "trained" else World([], cfg)
    work = Work(cfg, net, world, past, posterior)
    drop = ("posterior", "past", "warm", "main", "generators", "dropout", "said")

    for at in sequence(run.steps(sum(budgets), drop=drop), budgets):
        k, steps, since = at.task, budgets[at.task] - cfg.warm_up, at.step - cfg.warm_up
        if k == 0 and at.first:  # before anything is learned
            for j in due(-1, K, following=True):
                kept.scores[0, j] = outcomes(net, world, j, cfg.first_goal).success.mean()

        # 1. warm-up: the meta-policy learns to mix the sources' actions (Eqs. 1 and 2), or a head
        if since < 0:
            work.enter(k, False, parameters_of(warm[k]))
            j = at.step % K if method.joint else k
            batch = work.draw(j, generators["drawing"], cfg.batch)
            loss = warm_up_loss(net, j, batch, work.sources)
            if loss.requires_grad:
                warm[k].zero_grad(set_to_none=True)
                loss.backward()
                warm[k].step()
            continue

        # 2. is the composed policy good enough? (Eq. 3)
        work.enter(k, True, parameters_of(main[k]))
        if since == 0:
            kept.tests[k] = decide(work, k)
            if net.decided[k] and method.composition != "own":
                kept.composed[k] = held_out_actions(net, world, k)[1]
                net.train()

        # 3. if not: parameters of its own (Eqs. 4 to 7)
        if not net.reused[k]:
            choosing = steps - 1 if k == K - 1 else int(cfg.choose_at * steps)
            for group in main[k].param_groups:
                group["lr"] = cfg.rate * rate(since, steps, cfg.cool_down)
            kept.losses += update(work, main[k], at, generators, chosen=since > choosing)
            if method.growth == "masks" and since == choosing:
                take_weights(net, k, cfg.given_back, k == K - 1)

        # 4. the end of a task: what it has stays, what protects it is remembered
        if at.last:
            net.grown[k] = not net.reused[k]
            consolidate(net, k, cfg, world, work.pools[k], past)
            if method.penalty == "vcl":
                posterior.settle(flat(net.base()))
            warm[k].state.clear()
            main[k].state.clear()
            look(work, k, kept)
        if (since + 1) % LOG_EVERY == 0 and not net.reused[k]:
            run.log(sum(budgets[:k]) + at.step + 1, loss=kept.losses / LOG_EVERY)
            kept.losses.zero_()


if __name__ == "__main__":
    run_cli(train, Config)
