"""What a run is to do in each iteration, and the sparsity at which rivals cost as much as MST."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import scipy.optimize
import torch
from torch import Tensor

from common.errors import UserError
from common.textlab import training
from papers.mst.config import Config, task_of, variation_of
from papers.mst.costs import Costs, costs_of
from papers.mst.method import (
    PHASES,
    Course,
    Floats,
    Pattern,
    Phase,
    Variation,
    attention_pattern,
    course,
    drop_fraction,
)
from papers.mst.methods import METHODS, Scheme
from papers.mst.task import Task, model_of

MOST = 0.999  # sparsity that is looked at


@dataclass(frozen=True)
class Plan:
    """A method on a task.

    Attributes:
        task, scheme: what is trained how.
        steps: iterations of this run.
        width, heads: of its model.
        variation: its sparsity.
        course: what holds in each iteration.
        costs: of its model.
        search: iterations that look for a lottery ticket.
        budget: what MST takes on this task, per token of an iteration and summed. [FLOP].
        dense: what the dense model takes on this task, likewise.
    """

    task: Task
    scheme: Scheme
    steps: int
    width: int
    heads: int
    variation: Variation
    course: Course
    costs: Costs
    search: int
    budget: float
    dense: float

    @property
    def flops(self) -> Floats:
        """Per token, of each iteration. [T]."""
        return self.costs.training(self.course, gradient=self.scheme.gradient)

    def lr(self, t: int) -> float:
        """Learning rate of iteration t; a ticket's training begins anew after its search."""
        step, steps = t, self.task.steps if t < self.search else self.steps
        if self.search and t >= self.search:
            step, steps = t - self.search, self.steps - self.search
        rate = {"level": training.level, "cosine": training.cosine}[self.task.schedule]
        return rate(step, steps, self.task.lr, self.task.warm_up)

    def fraction(self, t: int, cfg: Config) -> float:
        """Eq. 3: share of the connections that iteration t drops."""
        ends = [0.0, cfg.warm_up, cfg.restore, cfg.restored]
        i = min(int(self.course.phase[t]), 2) if cfg.stepwise else 0
        begin, end = (ends[i], ends[i + 1]) if cfg.stepwise else (0.0, cfg.restored)
        return drop_fraction(t, begin * self.steps, end * self.steps, cfg.zeta)

    def target(self, t: int) -> float:
        """Eq. 6: sparsity after the update of iteration t."""
        return self.variation.sparsity(t / self.steps)

    def phase(self, t: int) -> Phase:
        """Of MST's three phases, which this one would be."""
        return PHASES[int(self.course.phase[t])]


def patterns(task: Task, kind: Pattern) -> tuple[Tensor, Tensor]:
    """Full and sparse attention of a task. [T, T] bool each."""
    causal = task.kind == "gpt2"
    whole = attention_pattern("full", task.length, task.stride, causal=causal)
    return whole, attention_pattern(kind, task.length, task.stride, causal=causal)


@functools.lru_cache(maxsize=256)
def costs(task: Task, width: int, heads: int, kind: Pattern) -> Costs:
    """Of the task's model at some width."""
    with torch.device("meta"):
        model = model_of(task, width, heads, 0)
    full, sparse = patterns(task, kind)
    return costs_of(model, task.length, sparse, full, mask_head=task.mask_head)


def plan_of(cfg: Config) -> Plan:
    """The plan of a run; what stands for MST at its own cost costs as much in all.

    Raises:
        UserError: for numbers that make no sense, or a budget that cannot be met.
    """
    task, scheme = task_of(cfg), METHODS[cfg.method]
    if task.every * math.ceil(cfg.restored * task.steps / task.every) >= task.steps:
        raise UserError(
            f"--steps {task.steps} are too few for updates every {task.every}: none would end the "
            "restoration; give a smaller --every"
        )
    own = costs(task, task.width, task.heads, cfg.pattern)
    varied = variation_of(cfg)
    phases = course(task.steps, task.every, varied, evolves=True, cuts=True)
    budget, dense = float(own.training(phases, gradient=True).sum()), own.whole * task.steps
    steps, width, heads, search = task.steps, task.width, task.heads, 0
    if scheme.cheaper == "short":
        steps = max(1, round(budget / own.whole))
    if scheme.cheaper == "narrow":
        heads = task.narrow_heads
        width = narrower(task, cfg.pattern, budget / steps)
        own = costs(task, width, heads, cfg.pattern)
    if scheme.search:
        search = round(scheme.search * steps)

    def planned(variation: Variation) -> Course:
        evolves, cuts = scheme.evolve is not None, scheme.cuts
        made = course(steps, task.every, variation, evolves=evolves, cuts=cuts)
        made.sparsity[:search] = 0.0
        return made

    def at(sparsity: float) -> Variation:
        if scheme.sparsity == "constant":
            return replace(varied, start=sparsity, peak=sparsity, end=sparsity)
        end = varied.end if scheme.sparsity == "varied" else sparsity
        return replace(varied, peak=sparsity, end=end)

    def excess(sparsity: float) -> float:
        took = own.training(planned(at(sparsity)), gradient=scheme.gradient)
        return float(took.sum()) - budget

    if scheme.sparsity == "dense":
        variation = replace(varied, start=0.0, peak=0.0, end=0.0)
    elif cfg.method == "mst":
        variation = varied
    else:
        variation = at(solved(excess, cfg.method))
    sizes = (steps, width, heads, variation, planned(variation), own, search)
    return Plan(task, scheme, *sizes, budget, dense)


def solved(excess: Callable[[float], float], method: str) -> float:
    """The sparsity at which a training costs what it may.

    Raises:
        UserError: if there is none.
    """
    if not excess(0.0) >= 0 >= excess(MOST):
        raise UserError(
            f"no sparsity of {METHODS.label(method)} costs as much as MST with these numbers; "
            "change --peak or the phases"
        )
    return float(scipy.optimize.brentq(excess, 0.0, MOST, xtol=1e-10))


def narrower(task: Task, kind: Pattern, per_step: float) -> int:
    """The width at which a dense model's iteration comes nearest to a cost per token."""
    heads = task.narrow_heads
    low, high = 1, max(1, task.width // heads)  # width of a head
    while low < high:  # the first that costs as much
        middle = (low + high) // 2
        if costs(task, middle * heads, heads, kind).whole < per_step:
            low = middle + 1
        else:
            high = middle
    near = [n * heads for n in (low - 1, low) if n > 0]
    return min(near, key=lambda w: abs(costs(task, w, heads, kind).whole - per_step))


__all__ = ["Plan", "costs", "narrower", "patterns", "plan_of", "solved"]
