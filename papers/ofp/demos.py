"""Make the demonstrations of an experiment before anything is trained on them.

Training makes what is missing by itself; as a stage of its own the jobs of the next stage find the
data ready instead of waiting for one another. What it reports is the expert's success rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.cli import run_cli
from common.errors import choose
from common.run import Run
from papers.ofp.task import TASKS, make_task


@dataclass
class Config:
    """The demonstrations of one experiment for some training seeds."""

    task: str = "metaworld"  # experiment: metaworld (B), pointcloud (C), dp3-metaworld, …
    seed: tuple[int, ...] = (0,)  # training seeds; each has demonstrations of its own
    seed_offset: int = 0  # added to each seed, as in training
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # not used: simulators run on the CPU


def make(cfg: Config) -> None:
    """Generate what is not in the cache; one line of metrics per training seed."""
    choose("task", cfg.task, TASKS)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    rates = {}
    for number, seed in enumerate(cfg.seed):
        task = make_task(cfg.task, (seed + cfg.seed_offset,))
        rates[seed] = getattr(task, "expert_success", {}).get(seed + cfg.seed_offset, {})
        flat = {
            f"expert_success/{sub}/gain-{gain}": rate
            for sub, by_gain in rates[seed].items()
            for gain, rate in by_gain.items()
        }
        for name, rate in flat.items():
            print(f"seed {seed}  {name}  {rate:.2f}")
        run.log(number + 1, **flat)
        task.close()
    run.finish({"expert_success": rates})


if __name__ == "__main__":
    run_cli(make, Config)
