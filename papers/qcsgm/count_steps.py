"""Example 1 as a run: steps to the mode of a Gaussian under an erring score; nothing is learnt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.cli import run_cli
from common.run import Run
from papers.qcsgm import rotation
from papers.qcsgm.methods import entry


@dataclass
class Config:
    """One run."""

    method: str = "rotational"  # the error: rotational or radial
    task: str = "gaussian"
    seed: tuple[int, ...] = (0,)  # of the starts
    seed_offset: int = 0  # added to each seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # there is no other


def count(cfg: Config) -> None:
    """Count the steps for every size of the error."""
    kind = entry(cfg.method, cfg.task, "gaussian").error
    assert kind is not None
    run = Run.open(cfg.out, cfg)
    seeds = [seed + cfg.seed_offset for seed in cfg.seed]
    kept = run.keep(cells=[])
    for number in run.steps(len(rotation.EPSILONS)):
        epsilon = rotation.EPSILONS[number]
        steps = [rotation.ascend(rotation.starts(seed), epsilon, kind) for seed in seeds]
        kept.cells.append({"epsilon": epsilon, "steps": steps, **rotation.measures(epsilon, kind)})


if __name__ == "__main__":
    run_cli(count, Config)
