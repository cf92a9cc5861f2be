"""The configurations of the three stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class Learning:
    """What all three stages share: QMIX as in PyMARL2, a quarter of its batch."""

    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    batch: int = 32  # episodes of an update (CFCQL's code: 128)
    lr: float = 1e-3  # Adam's learning rate
    gamma: float = 0.99  # discount
    lam: float = 0.6  # of TD(lambda)
    clip: float = 10.0  # norm of gradients
    hidden: int = 64  # width of the agents
    embed: int = 32  # width of the mixing layer
    hypernet: int = 64  # width of its hypernetworks
    envs: int = 16  # environments that are stepped together
    episodes: int = 64  # of an evaluation, greedy


@dataclass
class DataConfig(Learning):
    """Stage 1: a behaviour is trained, and what it does is written down."""

    method: str = "qmix"  # see methods.METHODS
    task: str = "3m"  # map, see task.MAPS
    until: Literal["medium", "expert"] = "medium"  # end at the medium data, or make all four sets
    steps: int = 120_000  # environment steps at most
    updates: int = 4  # after each round of ``envs`` episodes
    copy_every: int = 50  # updates between copies into the target network (200 episodes)
    buffer: int = 5_000  # episodes
    epsilon: float = 0.05  # exploration at the end
    anneal: int = 30_000  # environment steps over which it falls from 1
    evaluate_every: int = 3_000  # environment steps
    low: float = 0.3  # win rates at which a behaviour is called medium
    high: float = 0.5
    size: int = 1_000  # episodes of a data set (CFCQL's: 5000)
    data_epsilon: float = 0.05  # exploration in the data


@dataclass
class OfflineConfig(Learning):
    """Stage 2: a value function (or a policy) from a data set alone."""

    method: str = "cfcql"  # see methods.METHODS
    task: str = "3m-medium"  # MAP-QUALITY, see task.MAPS and task.QUALITIES
    data: Path | None = None  # data set; default: of the same seed, where the runner puts it
    clone: Path | None = None  # run of behaviour cloning (moderate form); default: likewise
    updates: int = 1_500  # gradient updates
    copy_every: int = 200  # updates between copies into the target network
    alpha: float = 2.0  # weight of the conservative term, at rewards as task.Task scales them
    temperature: float = 0.5  # of the agents' weights in the moderate form
    samples: int = 100  # joint actions that MACQL draws
    evaluate_every: int = 150  # updates
    check_every: int = 20  # updates between checks whether cloning still improves
    patience: int = 20  # checks without a new minimum


@dataclass
class Config(Learning):
    """Stage 3: online training, from the offline value function or from nothing."""

    method: str = "ovmse"  # see methods.METHODS
    task: str = "3m-medium"  # MAP-QUALITY
    offline: Path | None = None  # run of stage 2; default: of the same seed, the runner's place
    data: Path | None = None  # data set, as in stage 2
    learner: str = "cfcql"  # offline method whose run is taken
    steps: int = 40_000  # environment steps
    updates: int = 4  # after each round of ``envs`` episodes
    copy_every: int = 50  # updates between copies into the target network (200 episodes)
    buffer: int = 5_000  # episodes
    epsilon: float | None = None  # exploration at the start (the method's own)
    epsilon_end: float = 0.05  # and at the end
    explore_over: float = 0.4  # share of the steps over which it falls
    memory: float = 0.9  # lambda_0 (the paper's wasn't found)
    memory_over: float = 0.5  # share of the steps over which lambda_m falls to 0
    evaluations: int = 20  # besides the one at the start, evenly
    episodes: int = 128  # of an evaluation, greedy
    dip_until: float = 0.25  # share of the steps in which unlearning is looked for
    dip_episodes: int = 256  # of the evaluations there
    probe: int = 64  # episodes of the data set on which values are followed


@dataclass
class ChainConfig:
    """The exact chain (papers.ovmse.tabular): all seeds at once."""

    method: str = "ovmse"  # one of the third stage, see methods.METHODS
    task: str = "chain"  # there is no other
    seed: tuple[int, ...] = (0,)  # seeds, side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # computed on the CPU
    epsilon: float = 0.2  # exploration; a tenth of it for those that hardly explore
    memory: float = 0.9  # lambda_0
    episodes: int = 60
    anneal: int = 30  # episodes over which lambda_m falls to 0
    noise: float = 0.3  # of rewards, in the second experiment
