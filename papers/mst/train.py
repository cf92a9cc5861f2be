"""One run: one method on one task, one seed.

All methods of a seed have the same batches; those of one width have the same first weights. In an
iteration that changes the topology nobody steps.
"""

from __future__ import annotations

from typing import Any

import torch

from common.cli import run_cli
from common.run import Run
from common.textlab.tokens import fixed_windows, random_windows
from common.textlab.training import descend
from common.torch_utils import setup
from papers.mst.baselines import ticket
from papers.mst.config import Config
from papers.mst.costs import Pass, counted, prunable
from papers.mst.learning import adamw, batch_of, forget, gradient, nll
from papers.mst.method import PHASES, Masks
from papers.mst.plan import Plan, patterns, plan_of
from papers.mst.task import model_of, text_of

STREAMS = ("windows", "corruption", "masks")  # of random numbers, on the CPU


def generators(seed: int) -> dict[str, torch.Generator]:
    """A stream for each purpose, so that none moves another."""
    return {
        name: torch.Generator().manual_seed(len(STREAMS) * seed + i)
        for i, name in enumerate(STREAMS)
    }


class Counter:
    """Operations so far, counted from the masks as they are.

    Attributes:
        spent: FLOPs by phase, dense gradients apart, and of the body (without the head) in all.
    """

    def __init__(self, plan: Plan, cfg: Config) -> None:
        self.spent = dict.fromkeys([*PHASES, "gradients", "body"], 0.0)
        self._pairs = [int(p.sum()) for p in patterns(plan.task, cfg.pattern)]
        self._plan, self._of, self._pass = plan, (-1, False), Pass(0.0, 0.0, 0.0, 0.0)

    def add(self, t: int, model: Any, masks: Masks) -> None:
        """Iteration t, before its update."""
        course, task = self._plan.course, self._plan.task
        cut, tokens = bool(course.cut[t]), task.batch * task.length
        if self._of != (masks.version, cut):
            self._of = (masks.version, cut)
            self._pass = counted(model, task.length, masks.densities(), self._pairs[cut])
        one = self._pass
        self.spent[self._plan.phase(t)] += 3 * one.whole * tokens
        self.spent["body"] += 3 * one.body * tokens
        if course.update[t] and self._plan.scheme.gradient:
            self.spent["gradients"] += (one.dense - one.whole) * tokens
            self.spent["body"] += (one.dense_body - one.body) * tokens

    @property
    def total(self) -> float:
        """All of it."""
        return sum(value for name, value in self.spent.items() if name != "body")

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return dict(self.spent)

    def load(self, state: dict[str, float]) -> None:
        """What :meth:`state` gave."""
        self.spent = dict(state)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    plan = plan_of(cfg)
    task, course, evolve = plan.task, plan.course, plan.scheme.evolve
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    text, draw = text_of(task), generators(cfg.seed)
    model = model_of(task, plan.width, plan.heads, cfg.seed).to(device)
    weights = prunable(model, head=task.mask_head)
    masks = Masks(weights, course.sparsity[0], draw["masks"], cfg.distribution)
    optimizer = adamw(model, masks, task.lr, cfg.decay)
    counter = Counter(plan, cfg)
    # what was there when the restoration began
    late = {name: torch.zeros_like(mask) for name, mask in masks.bits.items()}
    kept = run.keep(model=model, optimizer=optimizer, masks=masks, draw=draw, counter=counter,
                    late=late, loss=0.0)  # fmt: skip
    pattern = patterns(task, cfg.pattern)[1].to(device)[None, None]
    judged = fixed_windows(text.validation, task.length, cfg.windows)
    looks = {round((i + 1) * plan.steps / cfg.evaluations) for i in range(cfg.evaluations)}
    for t in run.steps(plan.steps, drop=("optimizer", "draw")):
        if t == plan.search > 0:  # the ticket is found: back to the first weights
            found = ticket(masks.weights, course.sparsity[t])
            model.load_state_dict(model_of(task, plan.width, plan.heads, cfg.seed).state_dict())
            masks.set(found)
            optimizer.state.clear()
        if course.phase[t] == 2 and course.phase[max(0, t - 1)] == 1:
            for name, mask in masks.bits.items():
                late[name].copy_(mask)

        attention = pattern if course.cut[t] else None

        # 1. gradient of the masked network, and what it takes
        windows = random_windows(text.train, task.batch, task.length, draw["windows"])
        inputs, targets = batch_of(task, windows, draw["corruption"])
        loss = float(gradient(model, task, inputs, targets, attention))
        counter.add(t, model, masks)

        # 2. the topology evolves, or the weights make a step
        if course.update[t] and evolve is not None:
            target, fraction = plan.target(t), plan.fraction(t, cfg)
            change = masks.evolve(target, fraction, masks.gradients(), draw["masks"], evolve)
            if cfg.reset_moments:
                forget(optimizer, masks, change.grown)
            run.log(t + 1, changed=change.changed, density=masks.density)
        else:
            masks.mask_gradients()
            descend(model, optimizer, plan.lr(t), cfg.clip)
            masks.mask_weights()

        # 3. now and then, the validation text
        kept.loss = loss if t == 0 else 0.95 * kept.loss + 0.05 * loss
        if t + 1 in looks:
            found = nll(model, task, judged, attention)
            run.log(t + 1, nll=found, flops=counter.total, loss=kept.loss, **counter.spent)


if __name__ == "__main__":
    run_cli(train, Config)
