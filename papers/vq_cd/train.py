"""One run: one method on one sequence of tasks, all seeds at once.

All methods go through the same loop with as many updates and the same spaces and windows. What
differs: which weights act and move, what is added to the loss, and whose data a batch is of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.control.continual import Place, sequence
from common.control.diffusion import Schedule
from common.control.sparse import masked, partial_step
from common.ema import Ema
from common.run import Run
from common.stacked import adam, rand, randint, randn, seed_generators
from common.torch_utils import setup
from papers.vq_cd.baselines import FREE, Elastic, fisher, packed
from papers.vq_cd.config import Config, check
from papers.vq_cd.learning import (
    Batch,
    World,
    clean_part,
    diffused,
    identity,
    make_inverses,
    make_masks,
    make_net,
    make_world,
    run_with,
)
from papers.vq_cd.method import (
    Generators,
    Weights,
    condition,
    inverse_loss,
    maskable,
    noise_loss,
    schedule,
    share,
    sum_of,
)
from papers.vq_cd.methods import METHODS
from papers.vq_cd.task import sequence_of

DRAWING, REMEMBERING, MEASURING = range(6, 9)  # streams of random numbers
LOG_EVERY = 100


def rate(lr: float, progress: float) -> float:
    """Falls from ``lr`` to 0 by a cosine."""
    return 0.5 * lr * (1 + math.cos(math.pi * progress))


# -- batches ----------------------------------------------------------------------------------


def memory(world: World, task: int) -> Tensor:
    """The windows of a task that replay keeps, drawn without replacement: their numbers. [S, M]"""
    cfg, count = world.cfg, len(world.tasks[task].arrays.starts)
    kept = max(1, int(cfg.remembered * count))
    generators = seed_generators(cfg.seed, 100 * REMEMBERING + task)
    rows = [torch.randperm(count, generator=g)[:kept] for g in generators]
    return torch.stack(rows).to(world.tasks[task].states.device)


def draw(world: World, at: Place, memories: Sequence[Tensor], drawing: Generators) -> list[Batch]:
    """The windows of an update, task by task; as many for every method."""
    cfg, data = world.cfg, METHODS[world.cfg.method].data
    if data == "at once":  # an equal part of each task, the rest in turn
        n = len(world.tasks)
        order = [world.tasks[(at.step + i) % n] for i in range(n)]
        parts = [(task, share(cfg.batch, i, n)) for i, task in enumerate(order)]
        return [task.draw(drawing, count, cfg.horizon) for task, count in parts if count]
    if data == "replay" and at.task and at.step % 2:
        old = at.step // 2 % at.task
        return [world.tasks[old].draw(drawing, cfg.batch, cfg.horizon, memories[old])]
    return [world.tasks[at.task].draw(drawing, cfg.batch, cfg.horizon)]


def planner_loss(
    world: World, denoise: Any, batches: Sequence[Batch], drawing: Generators, noise: Schedule
) -> Tensor:
    """Eq. 1 of the batches together, returns dropped at random. [S]"""
    cfg = world.cfg
    x = torch.cat([diffused(cfg, batch) for batch in batches], 1)
    kept = (rand(drawing, x.shape[1]) >= cfg.dropout).to(x)
    told = [identity(cfg, batch.task, batch.returns) for batch in batches]
    named = torch.cat([t for t in told if t is not None], 1) if told[0] is not None else None
    given = condition(torch.cat([batch.returns for batch in batches], 1), kept, named)
    n = randint(drawing, len(noise), x.shape[1])
    epsilon = randn(drawing, *x.shape[1:])
    return noise_loss(denoise, x, n, epsilon, given, noise, clean=clean_part(cfg, world, x))


def information(world: World, net: nn.Module, task: int, noise: Schedule) -> dict[str, Tensor]:
    """Fisher information of the denoiser's parameters on a task, for EWC. By name"""
    cfg, of = world.cfg, world.tasks[task]
    looking = seed_generators(cfg.seed, 100 * MEASURING + task, of.states.device)

    def loss() -> Tensor:
        batch = of.draw(looking, cfg.batch, cfg.horizon)
        return planner_loss(world, net, [batch], looking, noise)

    return fisher(loss, dict(net.named_parameters()), cfg.fisher_batches)


def inverse_error(inverses: nn.ModuleList, batch: Batch) -> Tensor:
    """Eq. 3 of a batch. [S]"""
    after, actions = batch.states[:, :, 1:], batch.actions[:, :, :-1]
    return inverse_loss(inverses[batch.task], batch.before, after, actions)


# -- whose weights ----------------------------------------------------------------------------


class Weighing:
    """Which weights of the network act and which move, as tasks go by.

    Attributes:
        masks: SWA's, by task and name; none for other methods.
        owner: PackNet's, by name; none for other methods.
    """

    def __init__(self, cfg: Config, net: nn.Module, device: torch.device) -> None:
        self.cfg, self.net, self.kind = cfg, net, METHODS[cfg.method].masks
        self.masks: list[dict[str, Tensor]] = []
        self.owner: dict[str, Tensor] = {}
        if self.kind == "disjoint":
            on = [{n: m.to(device) for n, m in ms.items()} for ms in make_masks(cfg, net)]
            self.masks = on
        elif self.kind == "packed":
            weights = maskable(net)
            self.owner = {n: torch.full_like(w, FREE, dtype=torch.int8) for n, w in weights.items()}

    def denoise(self, at: Place) -> Any:
        """eps_theta as the task's updates see it (Eq. 5)."""
        parameters = dict(self.net.named_parameters())
        if self.kind == "disjoint":
            return run_with(self.net, {**parameters, **masked(parameters, self.masks[at.task])})
        if self.kind == "packed" and self._retraining(at):
            used = {n: o >= 0 for n, o in self.owner.items()}
            return run_with(self.net, {**parameters, **masked(parameters, used)})
        return self.net

    def step(self, optimizer: torch.optim.Optimizer, at: Place) -> None:
        """Adam's step: dense, as the paper's; PackNet's leaves what is not its to move."""
        if self.kind != "packed":
            optimizer.step()
            return
        parameters = dict(self.net.named_parameters())
        mine = at.task if self._retraining(at) else FREE
        partial_step(optimizer, [(parameters[n], o == mine) for n, o in self.owner.items()])

    def prune(self, at: Place) -> None:
        """PackNet: the task keeps its largest weights; the other free ones become 0."""
        parameters = dict(self.net.named_parameters())
        with torch.no_grad():
            for name, owner in self.owner.items():
                w = parameters[name]
                count = share(w[0].numel(), at.task, len(sequence_of(self.cfg.task)))
                owner.copy_(packed(w, owner, at.task, count))
                w.masked_fill_(owner == FREE, 0.0)

    def prunes_before(self, at: Place) -> bool:
        """Whether PackNet prunes before this update."""
        return self.kind == "packed" and at.step == self._first_again

    @property
    def _first_again(self) -> int:
        return self.cfg.steps - max(1, round(self.cfg.retraining * self.cfg.steps))

    def _retraining(self, at: Place) -> bool:
        return at.step >= self._first_again


def restart(cfg: Config, net: nn.Module, sizes: tuple[int, int], task: int) -> None:
    """Small networks: a fresh one for the task, in place."""
    fresh = dict(make_net(cfg, sizes, task).named_parameters())
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(fresh[name])


def leave(net: nn.Module, average: Ema, snapshot: Weights) -> None:
    """A task ends with its average, which is what the next one begins with and what acts."""
    with torch.no_grad():
        for parameter, mean in zip(average.parameters, average.averages, strict=True):
            parameter.copy_(mean)
        for name, parameter in net.named_parameters():
            snapshot[name].copy_(parameter)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    check(cfg)
    method, n_tasks = METHODS[cfg.method], len(sequence_of(cfg.task))
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    if method.kind == "behaviour":
        run.finish()
        return
    device = setup(cfg.device, 0)
    world, noise = make_world(cfg, device), schedule(cfg.diffusion_steps)
    net = make_net(cfg, world.sizes).to(device)
    inverses = make_inverses(cfg, world.sizes).to(device)
    parameters = dict(net.named_parameters())
    optimizer = adam([{"params": [*net.parameters(), *inverses.parameters()]}], lr=cfg.rate)
    average = Ema(net.parameters(), cfg.average)
    weighing, elastic = Weighing(cfg, net, device), Elastic(parameters)
    memories = [memory(world, i) for i in range(n_tasks)] if method.data == "replay" else []
    drawing = seed_generators(cfg.seed, DRAWING, device)
    empty = {name: p.detach().clone() for name, p in parameters.items()}
    kept = run.keep(
        **{"net": net, "inverses": inverses, "optimizer": optimizer, "average": average},
        **{"elastic": elastic, "owner": weighing.owner, "drawing": drawing},
        snapshots=[{name: p.clone() for name, p in empty.items()} for _ in range(n_tasks)],
        losses=torch.zeros(2, len(cfg.seed), device=device),  # summed since the log's last line
    )
    budgets = [cfg.steps] * n_tasks
    if method.data == "at once":
        budgets = [0] * (n_tasks - 1) + [cfg.steps * n_tasks]
    total = sum(budgets)

    for at in sequence(run.steps(total, drop=("optimizer", "net", "average", "elastic")), budgets):
        # 0. a task arrives
        if at.first:
            if method.small and at.task:
                restart(cfg, net, world.sizes, at.task)
            if method.fresh or method.small:
                optimizer.state.clear()
        if weighing.prunes_before(at):
            weighing.prune(at)
        if at.first or weighing.prunes_before(at):
            average.load_state_dict(
                {"averages": [p.detach() for p in net.parameters()], "updates": 0}
            )
        for group in optimizer.param_groups:
            group["lr"] = rate(cfg.rate, at.step / budgets[at.task])

        # 1. inverse dynamics of the task (Eq. 3) and the planner under its mask (Eqs. 1 and 5)
        batches = draw(world, at, memories, drawing)
        loss = torch.zeros(len(cfg.seed), device=device)
        if method.kind == "trained":
            loss = planner_loss(world, weighing.denoise(at), batches, drawing, noise)
        # what an earlier task has learned of its own stays: replay has no part in it
        mine = [b for b in batches if b.task == at.task or method.data == "at once"]
        errors = [] if method.diffuses_actions else mine
        inverse = sum_of(
            [torch.zeros_like(loss)] + [inverse_error(inverses, batch) for batch in errors]
        )
        optimizer.zero_grad(set_to_none=True)
        (loss + inverse).sum().backward()
        if cfg.strength and at.task:
            for name, gradient in elastic.gradient(parameters, cfg.strength).items():
                own = parameters[name].grad
                parameters[name].grad = gradient if own is None else own + gradient
        weighing.step(optimizer, at)
        average.update()

        # 2. the task ends: its checkpoint, and what EWC needs of it
        if at.last:
            leave(net, average, kept.snapshots[at.task])
            if cfg.strength:
                elastic.add(information(world, net, at.task, noise), parameters)

        kept.losses += torch.stack((loss.detach(), inverse.detach()))
        step = sum(budgets[: at.task]) + at.step + 1
        if step % LOG_EVERY == 0:
            of_planner, of_inverse = (kept.losses / LOG_EVERY).tolist()
            run.log(step, loss=of_planner, inverse_loss=of_inverse)
            kept.losses.zero_()


if __name__ == "__main__":
    run_cli(train, Config)
