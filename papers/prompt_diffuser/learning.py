"""What training and evaluation share: episodes on a device, scales, the frozen policy, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.control.decision_transformer import (
    DecisionTransformer,
    TransformerConfig,
    decision_transformer,
)
from common.control.diffusion import Schedule
from common.control.episodes import Episode
from common.control.sequences import SequenceData, Where, Windows, sequence_data, windows_at
from common.control.trajectories import joined
from common.control.windows import Standardizer
from common.errors import UserError
from common.run import Run
from papers.prompt_diffuser.config import Config, PolicyConfig
from papers.prompt_diffuser.method import (
    Condition,
    NoisePredictor,
    PromptShape,
    noise_predictor,
    schedule,
)
from papers.prompt_diffuser.methods import METHODS
from papers.prompt_diffuser.task import WORLDS, Task, World, task_of

STAGE = "policy"  # where the runner puts runs of pretrain.py


def stream(seed: int, use: int, goal: float = 0.0) -> torch.Generator:
    """A generator of random numbers of a seed, a use and a test task, on the CPU."""
    key = np.random.SeedSequence([seed, use, round(1000 * goal)])
    return torch.Generator().manual_seed(int(key.generate_state(1)[0]))


# -- episodes of several tasks --------------------------------------------------------------------


@dataclass(frozen=True)
class Scales:
    """How the policy sees numbers; from an expert at the training tasks alone."""

    standardizer: Standardizer  # of states
    reward_mean: float
    reward_std: float
    returns: float  # what returns-to-go are divided by
    target: float  # return asked for in acting

    @classmethod
    def fit(cls, world: World, episodes: Sequence[Sequence[Episode]]) -> Scales:
        """Of the experts' episodes, by training task."""
        every = [e for of in episodes for e in of]
        states = np.concatenate([e.observations for e in every])
        rewards = np.concatenate([e.rewards for e in every]).astype(np.float64)
        tops = [max(e.rewards.sum(dtype=np.float64) for e in of) for of in episodes]
        target = float(np.mean(tops)) if world.target is None else world.target
        spread = max(float(rewards.std()), 1e-3)
        return cls(Standardizer.fit(states), float(rewards.mean()), spread, world.scale, target)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "standardizer"}
        return {**numbers, "mean": self.standardizer.mean, "std": self.standardizer.std}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Scales:
        """What ``state`` gave."""
        numbers = {k: float(v) for k, v in state.items() if k not in ("mean", "std")}
        parts = (np.asarray(state[k], np.float32) for k in ("mean", "std"))
        return cls(Standardizer(*parts), **numbers)


@dataclass(frozen=True)
class Steps:
    """Episodes of several tasks, one after the other, as the policy sees them."""

    data: SequenceData
    rewards: Tensor  # [N], standardised
    lengths: Tensor  # [E] int64 steps of each episode, on the CPU
    tasks: Tensor  # [T + 1] int64 first episode of each task, on the CPU

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.tasks) - 1

    def windows(
        self, generator: torch.Generator, batch: int, length: int, of: Tensor | None = None
    ) -> Windows:
        """Windows that begin at a step drawn uniformly from each row's task. [B, length]

        Args:
            generator: on the CPU.
            batch: B.
            length: K.
            of: task of each row [B], on the CPU; None: the first task.
        """
        of = torch.zeros(batch, dtype=torch.long) if of is None else of
        borders = torch.cat((self.data.starts, torch.tensor([len(self.data.ends)])))
        begin, end = borders[self.tasks[of]], borders[self.tasks[of + 1]]
        share = torch.rand(batch, generator=generator, dtype=torch.float64)
        return windows_at(self.data, begin + (share * (end - begin)).long(), length)

    def prompts(
        self,
        generator: torch.Generator,
        batch: int,
        length: int,
        where: Where,
        of: Tensor | None = None,
    ) -> tuple[Windows, Tensor]:
        """Segments of episodes drawn uniformly, and their rewards. [B, length]

        Args:
            where: a random segment, or the end of the episode.
            of: task of each row [B]; None: tasks are drawn uniformly.
        """
        if of is None:
            of = torch.randint(self.n_tasks, (batch,), generator=generator)
        share = torch.rand(2, batch, generator=generator, dtype=torch.float64)
        count = self.tasks[of + 1] - self.tasks[of]
        episode = self.tasks[of] + (share[0] * count).long()
        room = (self.lengths[episode] - length).clamp(min=0)
        offset = room if where == "end" else (share[1] * (room + 1)).long()
        first = self.data.starts[episode] + offset
        return self.at(first, length)

    def at(self, first: Tensor, length: int) -> tuple[Windows, Tensor]:
        """The segments that begin at these steps [B] of episodes long enough, and their rewards."""
        index = first.unsqueeze(1) + torch.arange(length)
        rewards = self.rewards[index.to(self.rewards.device)]
        return windows_at(self.data, first, length), rewards

    def every(self, length: int) -> tuple[Windows, Tensor]:
        """All segments of all episodes."""
        pairs = zip(self.data.starts.tolist(), self.lengths.tolist(), strict=True)
        first = [torch.arange(s, s + n - length + 1) for s, n in pairs]
        return self.at(torch.cat(first), length)


def on_device(episodes: Sequence[Sequence[Episode]], scales: Scales, device: torch.device) -> Steps:
    """Episodes by task as :class:`Steps`."""
    every = [e for of in episodes for e in of]
    trajectories = joined(every)
    rewards = (trajectories.rewards - scales.reward_mean) / scales.reward_std
    data = sequence_data(
        trajectories,
        return_scale=scales.returns,
        standardizer=scales.standardizer,
        device=device,
    )
    return Steps(
        data,
        torch.from_numpy(rewards.astype(np.float32)).to(device),
        torch.from_numpy(trajectories.lengths.astype(np.int64)),
        torch.tensor(np.cumsum([0, *map(len, episodes)]), dtype=torch.long),
    )


# -- the policy and its generators ----------------------------------------------------------------


def shape_of(cfg: PolicyConfig) -> PromptShape:
    """Of the prompts of a world."""
    suite = WORLDS[cfg.task].suite
    return PromptShape(cfg.prompt, suite.state_dim, suite.action_dim)


def make_policy(cfg: PolicyConfig) -> DecisionTransformer:
    """The policy before training; on the CPU."""
    suite = WORLDS[cfg.task].suite
    config = TransformerConfig(
        *(suite.state_dim, suite.action_dim, cfg.max_steps or suite.limit),
        prompted=True,
        width=cfg.width,
        layers=cfg.layers,
        heads=cfg.heads,
        dropout=cfg.dropout,
    )
    return decision_transformer(config, cfg.seed)


def make_generators(cfg: PolicyConfig) -> dict[str, NoisePredictor]:
    """Networks "POOL-KIND" before training, all alike; on the CPU."""
    names = [f"{pool}-{kind}" for pool in cfg.pools for kind in cfg.kinds]
    return {name: noise_predictor(shape_of(cfg), cfg.seed, cfg.hidden) for name in names}


@dataclass(frozen=True)
class Base:
    """What everything is tuned with: a frozen policy, its scales, generators of prompts."""

    cfg: PolicyConfig
    world: World
    scales: Scales
    shape: PromptShape
    noise: Schedule
    policy: DecisionTransformer
    generators: dict[str, NoisePredictor]
    device: torch.device

    def episodes(self, goals: Sequence[float], quality: Any, role: Any, count: int) -> Steps:
        """Episodes of these goals on the device; each seed has other ones of the test tasks."""
        draw = self.cfg.seed if role in ("few", "full") else 0
        found = self.world.suite.episodes(goals, quality, role, count, draw)
        return on_device(found, self.scales, self.device)

    def training_prompts(self) -> Steps:
        """An expert's episodes at the training tasks."""
        count = self.cfg.demonstrations or self.world.demonstrations
        return self.episodes(self.world.train, "expert", "train", count)

    def condition(self, windows: Windows) -> Condition:
        """y of segments."""
        return Condition(windows.returns, windows.timesteps, self.world.suite.limit)

    def generator(self, pool: str, kind: str) -> NoisePredictor:
        """The network of a pool and kind.

        Raises:
            UserError: if the policy's run has trained none.
        """
        name = f"{pool}-{kind}"
        if name not in self.generators:
            raise UserError(
                f"the policy of {self.cfg.task} was trained with generators "
                f"{', '.join(self.generators) or 'of no kind'}, without {name}; "
                "train it anew with --pools and --kinds"
            )
        return self.generators[name]


def policy_folder(cfg: Config, task: Task, seed: int) -> Path:
    """The run of pretraining of a seed: below ``--policy``, or beside the run's own stage.

    Raises:
        UserError: if there is none.
    """
    name = Path(task.world) / f"seed-{seed}"
    if cfg.policy is not None:
        return cfg.policy / name
    for parent in cfg.out.parents:
        if (parent / STAGE / name / "config.json").is_file():
            return parent / STAGE / name
    raise UserError(
        f"there is no policy of {task.world} for seed {seed} in {STAGE / name} beside {cfg.out}; "
        f"make it (python -m papers.prompt_diffuser.pretrain --task {task.world} --seed {seed} "
        f"--out POLICIES/{name}) and say --policy POLICIES"
    )


def load_base(cfg: Config, seed: int, device: torch.device) -> Base:
    """The frozen policy of a seed.

    Raises:
        UserError: if its run is not there, not finished, or of another world or seed.
    """
    task = task_of(cfg.task)
    folder = policy_folder(cfg, task, seed)
    run = Run.load(folder)
    found = run.config(PolicyConfig)
    if (found.task, found.seed) != (task.world, seed):
        raise UserError(
            f"{folder} holds {found.task}, seed {found.seed}; needed is {task.world}, seed {seed}"
        )
    final = run.final()
    policy = make_policy(found)
    policy.load_state_dict(final["policy"])
    generators = make_generators(found)
    for name, net in generators.items():
        net.load_state_dict(final["generators"][name])
        net.to(device).requires_grad_(False)
    return Base(
        found,
        WORLDS[found.task],
        Scales.of(final["scales"]),
        shape_of(found),
        schedule(found.diffusion_steps),
        policy.to(device).eval().requires_grad_(False),
        generators,
        device,
    )


def prompting(base: Base, cfg: Config, goal: float) -> Steps | None:
    """The episodes that a method's prompts for a test task are drawn from, if from any."""
    method, task = METHODS[cfg.method], task_of(cfg.task)
    if method.prompts in ("none", "generated"):
        return None
    if method.prompts == "random":
        return base.training_prompts()
    if method.prompts == "wrong":
        far = base.world.suite.distances(goal, base.world.train)
        worst = base.world.train[int(np.argmax(far))]
        return base.episodes((worst,), "expert", "reference", cfg.few)
    quality = "expert" if method.prompts == "right" else task.pool
    return base.episodes((goal,), quality, "few", cfg.few)
