"""What SeWA is compared with, in the signature of ``method.sewa``: a problem in, an average out.

All of them look at the same snapshots of the same run. LAWA, SWA and EMA follow rules, a random
choice follows none; greedy soup, random search and TWA look at the training loss like SeWA.
"""

from __future__ import annotations

import torch
from torch import Tensor

from papers.sewa.method import Average, Problem, check, mean_of

DRAWS = 50  # random subsets of which statistics are taken


def last(problem: Problem) -> Average:
    """The last iterate: no averaging."""
    return Average(problem.theta[-1].clone(), (len(problem.theta) - 1,))


def lawa(problem: Problem) -> Average:
    """LAWA (Kaddour, 2022): mean of the latest K."""
    check(problem.theta, problem.K)
    k = len(problem.theta)
    chosen = tuple(range(k - problem.K, k))
    return Average(mean_of(problem.theta, chosen), chosen)


def swa(problem: Problem) -> Average:
    """SWA (Izmailov et al., 2018) with K points: every (k/K)-th of the window, the latest first."""
    check(problem.theta, problem.K)
    k, K = len(problem.theta), problem.K
    chosen = tuple(sorted(k - 1 - i * (k // K) for i in range(K)))
    return Average(mean_of(problem.theta, chosen), chosen)


def all_of_them(problem: Problem) -> Average:
    """SWA with every point: mean of the window."""
    return Average(problem.theta.mean(0), tuple(range(len(problem.theta))))


def ema(problem: Problem) -> Average:
    """Moving average over the snapshots from the first one on, decay 1 - 1/K: K points' memory."""
    check(problem.theta, problem.K)
    slow = problem.theta[0].clone()
    for w in problem.theta[1:]:
        slow.lerp_(w, 1 / problem.K)
    return Average(slow)


def ema_of_steps(problem: Problem) -> Average:
    """Moving average over every step of the training, decay .999.

    Raises:
        ValueError: if the training kept none.
    """
    if problem.smooth is None:
        raise ValueError("the training kept no moving average")
    return Average(problem.smooth.clone())


def random(problem: Problem) -> Average:
    """Mean of K random snapshots; each call draws anew."""
    check(problem.theta, problem.K)
    chosen = subset(len(problem.theta), problem.K, problem.generator)
    return Average(mean_of(problem.theta, chosen), chosen)


def subset(k: int, K: int, generator: torch.Generator) -> tuple[int, ...]:
    """K of k numbers, each set equally often."""
    return tuple(sorted(torch.randperm(k, generator=generator)[:K].tolist()))


def search(problem: Problem) -> Average:
    """Random search (ours): the best by training loss of as many subsets as SeWA's calls pay for.

    The same objective as SeWA's, and no mask: what a probabilistic mask has to beat.
    """
    check(problem.theta, problem.K)
    how = problem.settings
    budget = 3.0 * how.iterations * how.samples
    tries = max(1, int(budget / problem.examples))
    found: tuple[float, tuple[int, ...]] | None = None
    for _ in range(tries):
        chosen = subset(len(problem.theta), problem.K, problem.generator)
        loss = problem.score(mean_of(problem.theta, chosen))
        if found is None or loss < found[0]:
            found = (loss, chosen)
    assert found is not None
    calls = tries * problem.examples
    return Average(mean_of(problem.theta, found[1]), found[1], iterations=tries, calls=calls)


def greedy(problem: Problem) -> Average:
    """Greedy soup (Wortsman et al., 2022): from the best single one on, keep what helps the mean.

    Judged by the loss on all training data; how many there are is its own choice.
    """
    theta = problem.theta
    losses = [problem.score(w) for w in theta]
    order = sorted(range(len(theta)), key=losses.__getitem__)
    chosen: tuple[int, ...] = (order[0],)
    best = losses[order[0]]
    for i in order[1:]:
        tried = tuple(sorted((*chosen, i)))
        loss = problem.score(mean_of(theta, tried))
        if loss <= best:
            chosen, best = tried, loss
    calls = (2 * len(theta) - 1) * problem.examples
    return Average(mean_of(theta, chosen), chosen, calls=calls)


def twa(problem: Problem) -> Average:
    """TWA (Li et al., 2023): free coefficients of the snapshots, trained by Adam from 1/k on.

    As many forward and backward passes as SeWA has; the rate is SeWA's over k, since a
    coefficient is of the size of 1/k. The result is no mean of K snapshots.
    """
    how, theta = problem.settings, problem.theta.detach()
    k = len(theta)
    c = torch.full((k,), 1 / k, device=theta.device, requires_grad=True)
    optimizer = torch.optim.Adam([c], how.lr / k)
    passes = how.iterations * how.samples
    for _ in range(passes):
        optimizer.zero_grad()
        problem.objective()((c @ theta)[None]).sum().backward()
        optimizer.step()
    return Average((c @ theta).detach(), iterations=passes, calls=3.0 * passes)


def damaged(theta: Tensor, kind: str, generator: torch.Generator) -> tuple[Tensor, tuple[int, ...]]:
    """Snapshots of a training that has come to harm, and the numbers of those that have.

    A quarter of them, three fifths of that among the latest tenth of twice the size (six of the
    last ten of forty or fifty).

    Args:
        kind: "spoiled": noise of 1.5 times a snapshot's norm is added; "negated": the sign is
            turned; "aliased": every one is the last one, as in the public code, which keeps
            references.
    """
    k = len(theta)
    if kind == "aliased":
        return theta[-1:].expand(k, -1).clone(), ()
    n, recent = max(1, k // 4), min(10, k // 2)
    late = min(n, max(1, round(0.6 * recent)))
    hit = {k - recent + i for i in subset(recent, late, generator)}
    hit |= set(subset(k - recent, n - late, generator))
    theta = theta.clone()
    for i in sorted(hit):
        if kind == "negated":
            theta[i].neg_()
            continue
        add = torch.randn(theta.shape[1], generator=generator).to(theta.device)
        theta[i] += 1.5 * theta[i].norm() * add / add.norm()
    return theta, tuple(sorted(hit))


__all__ = [
    "DRAWS",
    "all_of_them",
    "damaged",
    "ema",
    "ema_of_steps",
    "greedy",
    "last",
    "lawa",
    "random",
    "search",
    "subset",
    "swa",
    "twa",
]
