"""SeWA: which of the last snapshots of a training to average, learnt by a probabilistic mask.

Snapshots w_1 … w_k (all parameters of a network, flattened) of the last k saving points of one
training run. K of them are averaged (Section 3):

    Eq. 1   min F(w(m)) over m in {0, 1}^k with sum m = K,    w(m) = (1/K) sum_i m_i w_i
    Eq. 2   min E F(w(m)) over s in [0, 1]^k,                 m_i ~ Bernoulli(s_i), independent
    Eq. 3   m_i = 1[y_i > 1/2],  y_i = sigmoid((a_i + g_i1 - g_i0) / tau),  s_i = sigmoid(a_i)

g are Gumbel numbers, so that g_i1 - g_i0 is a logistic one and P(m_i = 1) = s_i for every tau.
Backwards m_i counts as y_i (straight-through). F is the training loss; the networks' weights are
constants, only the logits a are trained. The paper's equations are numbered here; it was read
through its abstract and pages about it (NOTES.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]  # of flat weights [M, P], on one mini-batch -> [M]
Noise = Literal["logistic", "gumbel"]
Norm = Literal["K", "count"]
Start = Literal["budget", "comb"]


@dataclass(frozen=True)
class Selection:
    """How a mask is learnt. Where the paper gives no value it is this project's (README)."""

    iterations: int = 300  # Adam steps on the logits (ours; not stated)
    samples: int = 4  # M, masks per step (ours; not stated; public code: 1)
    tau: float = 1.0  # temperature (public code)
    lr: float = 0.1  # Adam's, on the logits (ours; public code: 1e-4 to 1e-2, which moves nothing)
    noise: Noise = "logistic"  # the difference of two Gumbel numbers; "gumbel": one (public code)
    norm: Norm = "K"  # divide by K (paper), or by the number drawn
    start: Start = "budget"  # sum of probabilities K; "comb": every k/K-th at .001, others 0
    bound: float = 8.0  # logits stay within
    patience: int = 50  # iterations that the chosen set has to last before learning may end
    gap: float = 0.3  # smallest probability chosen less largest not chosen, likewise
    mixed: float = 0.0  # of the last snapshot in the result (public code: 0.1)


@dataclass(frozen=True)
class Problem:
    """What there is to choose from, and by what.

    Attributes:
        theta: snapshots, the latest last; constants. [k, P].
        K: how many to average.
        objective: draws a mini-batch of training data and gives the loss on it as a function of
            flat weights.
        score: loss of flat weights on all training data. Some baselines look at it.
        settings: of the mask.
        generator: of masks and draws, on the CPU.
        smooth: moving average over every step of the training, if one was kept. [P].
        examples: of the training data over those of a mini-batch: what ``score`` costs.
    """

    theta: Tensor
    K: int
    objective: Callable[[], Loss]
    score: Callable[[Tensor], float]
    settings: Selection
    generator: torch.Generator
    smooth: Tensor | None = None
    examples: float = 1.0


@dataclass(frozen=True)
class Average:
    """What comes out of a problem.

    Attributes:
        weights: of the model. [P].
        chosen: numbers of the snapshots in it, in order.
        probabilities: s of the mask, where one was learnt. [k].
        iterations: of learning.
        calls: forward passes of a mini-batch; a backward pass counts as two.
        trace: (iteration, expected count, gap) now and then.
    """

    weights: Tensor
    chosen: tuple[int, ...] = ()
    probabilities: Tensor | None = None
    iterations: int = 0
    calls: float = 0.0
    trace: list[tuple[int, float, float]] = field(default_factory=list)


def check(theta: Tensor, K: int) -> None:
    """Refuse numbers that make no sense.

    Raises:
        ValueError: if K is not one of 1 to k.
    """
    if not 1 <= K <= len(theta):
        raise ValueError(f"K is 1 to k = {len(theta)}, not {K}")


def noise(shape: tuple[int, ...], kind: Noise, generator: torch.Generator) -> Tensor:
    """g_1 - g_0 of Eq. 3: Logistic(0, 1) numbers log u - log(1 - u). float32 on the CPU.

    "gumbel": a single Gumbel number instead, as in the public code: P(m = 1 | a = 0) is then
    1 - 1/e and not 1/2.
    """
    u = torch.rand(shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    if kind == "gumbel":
        return -(-u.log()).log()
    return u.log() - (-u).log1p()


def mask_of(a: Tensor, g: Tensor, tau: float) -> Tensor:
    """A binary mask whose gradient is that of its relaxation. [..., k].

    Eq. 3: forwards 1[y > 1/2], backwards dy.
    """
    y = ((a + g) / tau).sigmoid()
    hard = (y > 0.5).to(y.dtype)
    return hard + (y - y.detach())  # in this order: exactly 0 or 1


def weighted(mask: Tensor, theta: Tensor, K: int, norm: Norm = "K") -> Tensor:
    """Eq. 1: w(m) = (1/K) sum_i m_i w_i. [..., k], [k, P] -> [..., P].

    The divisor is K whatever was drawn: a mask with too many ones gives weights that are too
    large, which is all that holds the count at K. "count" divides by the number drawn.
    """
    if norm == "count":
        return (mask @ theta) / mask.sum(-1, keepdim=True).clamp_min(1.0)
    return (mask @ theta) / K


def first_logits(k: int, K: int, start: Start = "budget") -> Tensor:
    """Logits to begin with. [k].

    "budget": log(K / (k - K)), so that the probabilities sum to K. "comb": those of the public
    code, whose masks have k/2 ones (with one Gumbel number .632 k).
    """
    if start == "budget":
        return torch.full((k,), math.log(K / (k - K)))
    a = torch.zeros(k)
    a[:: k // K] = 1e-3
    return a


def top(a: Tensor, K: int) -> tuple[int, ...]:
    """Numbers of the K largest logits, in order; of equal ones the earlier."""
    return tuple(sorted(a.argsort(descending=True, stable=True)[:K].tolist()))


def mean_of(theta: Tensor, chosen: tuple[int, ...]) -> Tensor:
    """Plain mean of the chosen snapshots: what is returned, never a soft one. [P]."""
    return theta[list(chosen)].mean(0)


def gap_of(s: Tensor, chosen: tuple[int, ...]) -> float:
    """Smallest probability that is chosen less the largest that is not."""
    inside = torch.zeros(len(s), dtype=torch.bool)
    inside[list(chosen)] = True
    return float(s[inside].min() - s[~inside].max())


def sewa(problem: Problem) -> Average:
    """Algorithm 1, its last part: learn a mask, average the K most probable snapshots.

    For K = k there is nothing to choose and the mean of all is returned.
    """
    theta, K, how = problem.theta, problem.K, problem.settings
    check(theta, K)
    k = len(theta)
    if k == K:
        return Average(theta.mean(0), tuple(range(k)))
    theta = theta.detach()
    a = first_logits(k, K, how.start).to(theta.device).requires_grad_()
    optimizer = torch.optim.Adam([a], how.lr)  # without weight decay
    chosen, since, done = top(a.detach(), K), 0, 0
    trace: list[tuple[int, float, float]] = []
    for iteration in range(how.iterations):
        loss = problem.objective()  # a fresh mini-batch
        drawn = noise((how.samples, k), how.noise, problem.generator).to(theta.device)
        optimizer.zero_grad()
        m = mask_of(a, drawn, how.tau)  # [M, k]
        loss(weighted(m, theta, K, how.norm)).mean().backward()  # Monte-Carlo estimate of Eq. 2
        optimizer.step()
        with torch.no_grad():
            a.clamp_(-how.bound, how.bound)
        done = iteration + 1
        s = a.detach().sigmoid().cpu()
        before, chosen = chosen, top(a.detach().cpu(), K)
        since = since + 1 if chosen == before else 0
        gap = gap_of(s, chosen)
        if done % 10 == 0 or done == how.iterations:
            trace.append((done, float(s.sum()), gap))
        if since >= how.patience and gap > how.gap:
            break
    weights = mean_of(theta, chosen)
    if how.mixed:  # public code: 0.9 mean + 0.1 last
        weights = torch.lerp(weights, theta[-1], how.mixed)
    calls = 3.0 * done * how.samples
    return Average(weights, chosen, a.detach().sigmoid().cpu(), done, calls, trace)


def configured(**changes: object) -> Callable[[Problem], Average]:
    """SeWA with other settings of its mask."""

    def way(problem: Problem) -> Average:
        return sewa(replace(problem, settings=replace(problem.settings, **changes)))  # type: ignore[arg-type]

    return way


class Window:
    """Deep copies of the weights at the last k saving points, the latest last.

    Every row is a copy: a list of a module's own tensors would hold the last weights k times.

    Attributes:
        rows: ring buffer. [k, P].
        taken: how often something was put in.
    """

    def __init__(self, k: int, P: int, device: torch.device | str = "cpu") -> None:
        self.rows, self.taken = torch.zeros(k, P, device=device), 0

    def push(self, weights: Tensor) -> None:
        """Copy weights in, over the oldest ones. [P]."""
        self.rows[self.taken % len(self.rows)].copy_(weights.detach())
        self.taken += 1

    @property
    def full(self) -> bool:
        """Whether k snapshots are there."""
        return self.taken >= len(self.rows)

    def ordered(self) -> Tensor:
        """The snapshots, the latest last. [k, P].

        Raises:
            ValueError: if there are fewer than k.
        """
        if not self.full:
            raise ValueError(f"{self.taken} snapshots of {len(self.rows)} were taken")
        return self.rows.roll(-(self.taken % len(self.rows)), 0)

    def clear(self) -> None:
        """Begin anew (online mode: after the model was replaced by an average)."""
        self.taken = 0

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"rows": self.rows.cpu(), "taken": self.taken}

    def load(self, state: dict[str, Tensor | int]) -> None:
        """What :meth:`state` gave."""
        self.rows.copy_(state["rows"])  # type: ignore[arg-type]
        self.taken = int(state["taken"])


__all__ = [
    "Average",
    "Loss",
    "Problem",
    "Selection",
    "Window",
    "check",
    "configured",
    "first_logits",
    "gap_of",
    "mask_of",
    "mean_of",
    "noise",
    "sewa",
    "top",
    "weighted",
]
