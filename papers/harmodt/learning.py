"""What training and evaluation share: the tasks' data on a device, batches, losses, gradients."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from common.control.decision_transformer import (
    DecisionTransformer,
    TransformerConfig,
    decision_transformer,
)
from common.control.sequences import (
    SequenceData,
    Windows,
    action_loss,
    concatenated,
    prompts,
    random_windows,
    sequence_data,
    windows_at,
)
from common.control.sparse import effective
from common.control.trajectories import best, joined
from common.control.windows import Standardizer
from papers.harmodt.baselines import surgery, with_identity
from papers.harmodt.config import Config
from papers.harmodt.method import clipped_gradients, flat, maskable, views
from papers.harmodt.methods import METHODS
from papers.harmodt.task import ACTION_DIM, OBS_DIM, SUITES, Demonstrations, demonstrations

Batch = tuple[Windows, Windows | None]  # windows and their prompts


@dataclass(frozen=True)
class Scales:
    """How a policy sees a task: of its own data, or of all tasks' where it is told nothing."""

    standardizer: Standardizer
    reward: float  # returns-to-go are divided by it; the target is 1


@dataclass(frozen=True)
class Task:
    """One task on a device."""

    name: str
    data: SequenceData
    best: SequenceData  # the episodes whose ends are prompts, the highest return first
    scales: Scales
    source: Demonstrations


@dataclass(frozen=True)
class World:
    """All tasks of a suite, in order."""

    tasks: list[Task]
    cfg: Config

    def draw(self, task: int, generator: torch.Generator, batch: int | None = None) -> Batch:
        """Windows of a task (a batch) and, where prompts tell the method, one for each."""
        cfg, found = self.cfg, self.tasks[task]
        batch = cfg.batch if batch is None else batch
        windows = random_windows(found.data, generator, batch, cfg.window)
        prompt = None
        if METHODS[cfg.method].told == "prompt":
            prompt = prompts(found.best, generator, batch, cfg.prompt, "end")
        return self.told(windows, task), prompt

    def draw_of_all(self, generator: torch.Generator) -> list[Batch]:
        """As many windows as a batch has, in equal parts of all tasks (rounded down)."""
        each = max(1, self.cfg.batch // len(self.tasks))
        return [self.draw(k, generator, each) for k in range(len(self.tasks))]

    def told(self, windows: Windows, task: int) -> Windows:
        """The windows with what tells the task in their states, if something does."""
        if METHODS[self.cfg.method].told != "one-hot":
            return windows
        return with_identity(windows, task, len(self.tasks))

    def prompt(self, task: Task, batch: int) -> Windows | None:
        """For acting: the end of the task's best episode."""
        if METHODS[self.cfg.method].told != "prompt":
            return None
        length = min(self.cfg.prompt, int(task.best.ends[0]))
        first = (task.best.ends[:1] - length).expand(batch)
        return windows_at(task.best, first, self.cfg.prompt)


def scales_of(sources: Sequence[Demonstrations]) -> Scales:
    """Statistics of states of all these tasks; the mean over tasks of their highest return."""
    states = np.concatenate([e.observations for s in sources for e in s.train])
    tops = [best(s.train, 1)[0].rewards.sum(dtype=np.float64) for s in sources]
    return Scales(Standardizer.fit(states), float(np.mean(tops)))


def make_world(cfg: Config, device: torch.device) -> World:
    """The tasks of the run's suite on a device; without a task identifier they share scales."""
    suite = SUITES[cfg.task]
    sources = [
        demonstrations(suite, name, cfg.first_goal, cfg.goals, cfg.episodes) for name in suite.tasks
    ]
    shared = scales_of(sources) if METHODS[cfg.method].told == "nothing" else None
    pairs = zip(suite.tasks, sources, strict=True)
    return World([make_task(cfg, name, source, shared, device) for name, source in pairs], cfg)


def make_task(
    cfg: Config, name: str, source: Demonstrations, shared: Scales | None, device: torch.device
) -> Task:
    """One task on a device, by its own scales where there are no shared ones."""
    scales = shared or scales_of([source])

    def on_device(episodes: Sequence) -> SequenceData:
        return sequence_data(
            joined(episodes),
            return_scale=scales.reward,
            standardizer=scales.standardizer,
            device=device,
        )

    prompting = on_device(best(source.train, cfg.prompt_episodes))
    return Task(name, on_device(source.train), prompting, scales, source)


# -- the network ----------------------------------------------------------------------------------


def make_net(cfg: Config) -> DecisionTransformer:
    """The transformer of a run, before training; on the CPU."""
    told, suite = METHODS[cfg.method].told, SUITES[cfg.task]
    config = TransformerConfig(
        OBS_DIM + len(suite.tasks) * (told == "one-hot"),
        ACTION_DIM,
        max_steps=suite.limit,
        prompted=told == "prompt",
        width=cfg.width,
        layers=cfg.layers,
        heads=cfg.heads,
        dropout=cfg.dropout,
    )
    return decision_transformer(config, cfg.seed)


def masked_copy(net: DecisionTransformer, mask: Tensor) -> DecisionTransformer:
    """A copy that acts with theta * M, in evaluation mode."""
    made = copy.deepcopy(net).eval().requires_grad_(False)
    theta = maskable(made)
    for name, part in views(mask, theta).items():
        theta[name].mul_(part)
    return made


# -- gradients ------------------------------------------------------------------------------------


def leaves_of(net: DecisionTransformer, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """theta * M_k as leaves, and all other parameters, by name."""
    parameters: dict[str, Tensor] = dict(net.named_parameters())
    return {**parameters, **effective(parameters, mask)}


def gradients_of(
    net: DecisionTransformer, mask: Mapping[str, Tensor], batch: Batch, norm: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and clipped gradients of a forward pass with theta * M_k (Eq. 2), dense in theta."""
    leaves = leaves_of(net, mask)
    windows, prompt = batch
    loss = action_loss(functional_call(net, leaves, (windows, prompt)), windows)
    return loss.detach(), clipped_gradients(loss, leaves, norm)


def mixture(parts: Sequence[Batch]) -> Batch:
    """One batch of several, all with prompts or none."""
    asked = [prompt for _, prompt in parts if prompt is not None]
    return concatenated([windows for windows, _ in parts]), concatenated(asked) if asked else None


def operated_gradients(
    net: DecisionTransformer,
    mask: Mapping[str, Tensor],
    parts: Sequence[Batch],
    norm: float,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss and PCGrad's gradient, of all parameters, of a batch per task.

    Args:
        norm: to which each task's gradient is clipped before.
        generator: of the order of projections, on the CPU.
    """
    found = [gradients_of(net, mask, part, norm) for part in parts]
    like = found[0][1]
    joint = surgery(torch.stack([flat(gradients, list(like)) for _, gradients in found]), generator)
    return torch.stack([loss for loss, _ in found]).mean(), views(joint, like)


def task_gradients(
    net: DecisionTransformer,
    masks: Tensor,
    groups: Tensor,
    world: World,
    generator: torch.Generator,
    batch: int,
) -> Tensor:
    """Dense gradients of all tasks on fresh batches, without dropout. [N, D]

    Args:
        masks: [number of masks, D].
        groups: which of them is each task's [N], on the CPU.
        batch: windows of each task.
    """
    was_training = net.training
    net.eval()
    theta = maskable(net)
    found = []
    for task, group in enumerate(groups.tolist()):
        drawn = world.draw(task, generator, batch)
        _, gradients = gradients_of(net, views(masks[group], theta), drawn, world.cfg.clip)
        found.append(flat(gradients, list(theta)))
    net.train(was_training)
    return torch.stack(found)


def conflict(gradients: Tensor) -> tuple[float, float]:
    """Share of pairs of tasks with a negative cosine, and the mean cosine of pairs.

    Args:
        gradients: [N, D].
    """
    unit = torch.nn.functional.normalize(gradients.double(), dim=1)
    cosine = unit @ unit.T
    i, j = torch.triu_indices(*cosine.shape, offset=1).unbind()
    pairs = cosine.cpu()[i, j]
    return float((pairs < 0).double().mean()), float(pairs.mean())
