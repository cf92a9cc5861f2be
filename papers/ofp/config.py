"""The configuration of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import choose
from papers.ofp.method import OFPConfig
from papers.ofp.methods import METHODS
from papers.ofp.task import TASKS


@dataclass
class Config:
    """One training run."""

    method: str = "ofp"  # see methods.METHODS
    task: str = "point-mass"  # experiment: point-mass (A), metaworld (B), pointcloud (C), dp3-*
    seed: tuple[int, ...] = (0,)  # training seeds, trained together
    seed_offset: int = 0  # added to each seed; the study uses 100, the claims 0
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 10_000  # gradient steps, equal for all methods
    batch: int = 128  # windows per step and seed (DP3 family)
    lr: float = 1e-3  # AdamW's learning rate (DP3 family: 1e-4 for its U-Net)
    lr_hold: float = 0.75  # share of the steps at full rate before the cosine to 0 (study)
    weight_decay: float = 1e-6  # AdamW (DP3 family)
    clip: float = 1.0  # largest gradient norm, per seed
    ema: float = 0.7  # decay of the teacher, which is also what is evaluated (study)
    second_time: str = "gap"  # second time input of the network: gap (r - t) or end (r)
    frequencies: int = 3  # sine and cosine of 2^k pi t, k < frequencies, for both times
    pairs: int = 100_000  # noise and endpoint of a trained flow, where these are the data (study)
    pair_calls: int = 20  # Euler steps to an endpoint
    episodes: int = 0  # evaluation: episodes per network (and sub-task); 0: 200 on A, else 20
    nfe: tuple[int, ...] = ()  # evaluation: network calls per chunk; empty: all of the method's
    labels: tuple[str, ...] = ()  # evaluation: fields whose values its rows carry (a grid's)
    ofp: OFPConfig = field(default_factory=OFPConfig)  # the method's own hyperparameters

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds with their offset."""
        return tuple(seed + self.seed_offset for seed in self.seed)

    @property
    def network(self) -> dict[str, Any]:
        """What the configuration says of the network."""
        return {"second_time": self.second_time, "frequencies": self.frequencies}


def resolve(cfg: Config) -> Config:
    """The configuration with what its method changes.

    Raises:
        UserError: for an unknown method or task.
    """
    changes = METHODS[cfg.method].changes
    choose("task", cfg.task, TASKS)
    own: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in changes.items():
        if key.startswith("ofp."):
            own[key.removeprefix("ofp.")] = value
        elif key.startswith("x "):
            name = key.removeprefix("x ")
            rest[name] = round(getattr(cfg, name) * value)
        else:
            rest[key] = value
    return replace(cfg, ofp=replace(cfg.ofp, **own), **rest)
