"""One run: one method on all test tasks of a task, with the policies of one or several seeds.

All methods go through the same loop, from the same policies, with the same windows of the same few
episodes and as many calls of the policy. What differs is what is tuned, and along which direction.
Test tasks know nothing of each other; they take their updates in turn.
"""

from __future__ import annotations

import time

import torch

from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.prompt_diffuser.config import Config, check
from papers.prompt_diffuser.learning import load_base
from papers.prompt_diffuser.task import task_of
from papers.prompt_diffuser.tuning import make_learner, update

LOG_EVERY = 10
CURVES = ("guidance", "denoising", "cosine", "ratio")


def train(cfg: Config) -> None:
    """Tune, or go on from the last checkpoint."""
    check(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    bases = [load_base(cfg, seed, device) for seed in cfg.seed]
    learners = [make_learner(base, cfg, g) for base in bases for g in task_of(cfg.task).test]
    tuned = [learner for learner in learners if learner.module is not None]
    kept = run.keep(
        modules=[learner.module for learner in tuned],
        optimizers=[learner.optimizer for learner in tuned],
        streams=[learner.streams for learner in tuned],
        seconds=0.0,
    )

    for step in run.steps(cfg.updates, drop=("optimizers", "streams")):
        began = time.process_time()
        said = [update(learner) for learner in learners]
        kept.seconds += time.process_time() - began
        if (step + 1) % LOG_EVERY == 0 or step + 1 == cfg.updates:
            # of each seed, the mean over its test tasks
            means = {name: torch.stack([s[name] for s in said]) for name in said[0]}
            run.log(
                step + 1, **{k: v.view(len(bases), -1).mean(1).tolist() for k, v in means.items()}
            )


if __name__ == "__main__":
    run_cli(train, Config)
