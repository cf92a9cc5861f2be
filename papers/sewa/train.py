"""Stage 2: the snapshots of one or several seeds become a model by one method.

All methods of a seed see the same snapshots, which stage 1 took of one training. What a choice
looks at is training data (of the oracle: test data); what it costs is logged beside it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.sewa.baselines import DRAWS, damaged
from papers.sewa.config import Config, TrajectoryConfig, of_training, selection_of, sizes
from papers.sewa.examples import Work
from papers.sewa.method import Average, Problem
from papers.sewa.methods import METHODS, Averaging
from papers.sewa.task import TASKS, trajectory_folder
from papers.sewa.trajectory import generators, problem_of
from papers.sewa.weights import finite, flat, megabytes, spread


@dataclass(frozen=True)
class Opened:
    """What stage 1 has left of a seed.

    Attributes:
        work: of its task, with batches of the choice's size.
        theta: snapshots, the latest last, damaged where the task says so. [k, P].
        smooth: moving average over every step. [P].
        hit: numbers of the damaged ones.
    """

    work: Work
    theta: Tensor
    smooth: Tensor
    hit: tuple[int, ...]


def opened(cfg: Config, seed: int, device: torch.device) -> Opened:
    """The training of a seed.

    Raises:
        UserError: if stage 1 has not been run.
    """
    method, task = METHODS[cfg.method], TASKS[cfg.task]
    if cfg.trajectories is not None:
        folder = cfg.trajectories / f"seed-{seed}"
    else:
        folder = trajectory_folder(cfg.out, cfg.task, method.trajectory, seed)
    stage = Run.load(folder)
    trained = of_training(stage.config(TrajectoryConfig))
    work = trained.make(trained, seed, device)
    final = stage.final()
    work.model.load_state_dict(final["model"])
    smooth = torch.cat([part.flatten() for part in final["smooth"]["averages"]]).to(device)
    rows, taken = final["window"]["rows"], int(final["window"]["taken"])
    theta = rows.roll(-(taken % len(rows)), 0).to(device)
    if method.trajectory != "plain":  # the window is used up; the model is what is left
        theta = flat(work.model)[None]
    hit: tuple[int, ...] = ()
    if task.damage:
        theta, hit = damaged(theta, task.damage, torch.Generator().manual_seed(1000 + seed))
    n = max(1, round(cfg.window * len(theta)))
    gone = len(theta) - n
    hit = tuple(i - gone for i in hit if i >= gone)
    return Opened(replace(work, batch=trained.select_batch), theta[gone:], smooth, hit)


def problem(cfg: Config, seed: int, K: int, found: Opened) -> Problem:
    """A method's problem; K is at most the number of snapshots."""
    method, work, draw = METHODS[cfg.method], found.work, generators(seed)
    data = {"train": work.train, "held": work.held, "test": work.test}[method.data]
    chosen_by = problem_of(replace(work, train=data), found.theta,
                           min(K, len(found.theta)), selection_of(cfg), draw)  # fmt: skip
    return replace(chosen_by, smooth=found.smooth)


def losses(work: Work, method: Averaging, asked: Problem, made: list[Average]) -> list[float]:
    """Training losses of the averages; of random ones of more, for the mean is a statistic."""
    found = [work.score(work.train, one.weights) for one in made]
    while method.draws > 1 and len(found) < DRAWS:
        found.append(work.score(work.train, method.way(asked).weights))
    return found


def train(cfg: Config) -> None:
    """Go through seeds and sizes, or go on from the last checkpoint.

    Raises:
        UserError: for what there is not, or a training that is not finished.
    """
    selection_of(cfg)
    method = METHODS[cfg.method]
    todo = [(seed, K) for seed in cfg.seed for K in sizes(cfg)]
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    kept = run.keep(weights={}, seconds={})  # seconds: no line of the log, which repeats
    for number in run.steps(len(todo)):
        seed, K = todo[number]
        found = opened(cfg, seed, device)
        asked = problem(cfg, seed, K, found)
        began = time.process_time()
        made = [method.way(asked) for _ in range(method.draws)]
        seconds = (time.process_time() - began) / method.draws
        each = losses(found.work, method, asked, made)
        first = made[0]
        picked = [len({*one.chosen} & {*found.hit}) / max(1, len(one.chosen)) for one in made]
        run.log(
            number + 1,
            seed=seed,
            K=K,
            train_loss=finite(sum(each) / len(each)),
            log_train_loss=sum(math.log(max(x, 1e-12)) for x in each) / len(each),
            picked=sum(picked) / len(picked),
            chosen=list(first.chosen),
            probabilities=[] if first.probabilities is None else first.probabilities.tolist(),
            trace_step=[step for step, *_ in first.trace],
            trace_count=[count for _, count, _ in first.trace],
            trace_gap=[gap for *_, gap in first.trace],
            iterations=first.iterations,
            calls=first.calls,
            megabytes=megabytes(found.theta),
            spread=spread(found.theta),
        )
        weights = torch.stack([one.weights for one in made]).cpu()
        kept.weights = {**kept.weights, f"{seed}-{K}": weights}
        kept.seconds = {**kept.seconds, f"{seed}-{K}": seconds}


if __name__ == "__main__":
    run_cli(train, Config)
