"""What training and evaluation share: tasks as latents on a device, batches, networks, weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.control.denoisers import TemporalUNet
from common.control.sparse import masked
from common.control.windows import Standardizer
from common.errors import UserError
from common.run import Run
from common.stacked import MLP, randint, seed_generators
from papers.vq_cd.baselines import (
    ContinuousSpace,
    PaddedSpace,
    ScaledSpace,
    WindowMLP,
    nearest_width,
    small_unet,
    weights_of,
)
from papers.vq_cd.config import AlignConfig, Config
from papers.vq_cd.method import (
    Generators,
    LearnedSpace,
    Paper,
    Preconditioned,
    QuantizedSpace,
    Space,
    Weights,
    assembled,
    draw_masks,
    maskable,
    observed,
)
from papers.vq_cd.methods import METHODS, Acts
from papers.vq_cd.task import Domain, Offline, aligned, offline, sequence_of

ALIGNING, SPACES, NETWORK, INVERSE, MASKS = range(1, 6)  # streams of random numbers
EVERY_TENTH = 10  # episode is held out
LARGEST = 5.0  # differences, in their standard deviations


# -- spaces -----------------------------------------------------------------------------------


def make_spaces(cfg: AlignConfig, dims: Sequence[tuple[int, int]]) -> list[LearnedSpace]:
    """States' and actions' spaces of each task in turn, before training; on the CPU."""
    made: list[LearnedSpace] = []
    for task, pair in enumerate(dims):
        generators = seed_generators(cfg.seed, 100 * SPACES + task)
        for dim, latents in zip(pair, (Paper.state_latents, Paper.action_latents), strict=True):
            if cfg.kind == "vq":
                made.append(
                    QuantizedSpace(generators, dim, latents, codes=cfg.codes, hidden=cfg.hidden)
                )
            else:
                size = latents * Paper.code_dim
                space = ContinuousSpace(
                    generators,
                    dim,
                    size,
                    hidden=cfg.hidden,
                    kind=cfg.kind,  # type: ignore[arg-type]
                )
                made.append(space)
    return made


def spaces_folder(cfg: Config) -> Path:
    """The run of alignment that a run begins with, beside its own stage.

    Raises:
        UserError: if there is none.
    """
    if cfg.spaces is not None:
        return cfg.spaces
    kind = METHODS[cfg.method].align
    ends = cfg.seed[:1] if len(cfg.seed) == 1 else (cfg.seed[0], cfg.seed[-1])
    name = Path(kind) / cfg.task / ("seed-" + "-".join(map(str, ends)))
    for parent in cfg.out.parents:
        if (parent / name / "config.json").is_file():
            return parent / name
    raise UserError(
        f"there are no {kind} latents of {cfg.task}, seeds {cfg.seed}, in {name} beside {cfg.out}; "
        f"make them (python -m papers.vq_cd.align --task {cfg.task} --kind {kind}), and name them "
        "by --spaces"
    )


def load_spaces(cfg: Config, dims: Sequence[tuple[int, int]]) -> list[Space]:
    """Frozen spaces of all tasks, states' and actions' in turn.

    Raises:
        UserError: if the run of alignment is not there, or of another sequence, kind or seeds.
    """
    kind = METHODS[cfg.method].align
    if not aligned(cfg.task) or kind == "pad":
        largest = [max(d[i] for d in dims) for i in range(2)]
        return [PaddedSpace(dim, largest[i]) for pair in dims for i, dim in enumerate(pair)]
    folder = spaces_folder(cfg)
    run = Run.load(folder)
    made_with = run.config(AlignConfig)
    wanted = (cfg.task, kind, cfg.seed)
    if (made_with.task, made_with.kind, made_with.seed) != wanted:
        raise UserError(
            f"{folder} holds {made_with.kind} latents of {made_with.task}, seeds {made_with.seed}; "
            f"needed are {kind} latents of {cfg.task}, seeds {cfg.seed}"
        )
    spaces = make_spaces(made_with, dims)
    nn.ModuleList(spaces).requires_grad_(False).load_state_dict(run.final()["spaces"])
    return list(spaces)


# -- tasks on a device ------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrays:
    """A task's steps, episode after episode, and where windows may begin.

    Attributes:
        states: standardised over the training episodes. [N, d_s]
        actions: in [-1, 1]. [N, d_a]
        starts, worth: of the training windows: their first steps [W], R scaled to [0, 1].
        held, held_worth: of windows of held-out episodes. [H]
        training: boolean [N], steps of the training episodes.
        followed: boolean [N], those of them but the last of each episode.
        standardizer: of the states.
    """

    states: Tensor
    actions: Tensor
    starts: Tensor
    worth: Tensor
    held: Tensor
    held_worth: Tensor
    training: Tensor
    followed: Tensor
    standardizer: Standardizer


def arrays_of(source: Offline, horizon: int) -> Arrays:
    """A task's data; every tenth episode is held out. Windows lie within an episode.

    Raises:
        UserError: if no window fits into an episode.
    """
    lengths = np.array([len(e) for e in source.episodes])
    out = np.arange(len(lengths)) % EVERY_TENTH == EVERY_TENTH - 1
    if not out.any():
        out[-1] = True
    states = np.concatenate([e.observations[:-1] for e in source.episodes])
    actions = np.concatenate([e.actions for e in source.episodes])
    worth = np.concatenate(source.worth)
    ends = np.repeat(np.cumsum(lengths), lengths)
    held_out = np.repeat(out, lengths)
    fits = (np.arange(len(worth)) + horizon <= ends) & np.isfinite(worth)
    if not (fits & ~held_out).any() or not (fits & held_out).any():
        raise UserError(f"no window of {horizon} states fits into the episodes")
    low, high = worth[fits & ~held_out].min(), worth[fits & ~held_out].max()
    scaled = (worth - low) / max(high - low, 1e-12)
    standardizer = Standardizer.fit(states[~held_out])

    def picked(where: np.ndarray) -> tuple[Tensor, Tensor]:
        at = np.flatnonzero(where)
        return torch.from_numpy(at), torch.from_numpy(scaled[at].clip(0, 1).astype(np.float32))

    return Arrays(
        *(torch.from_numpy(standardizer(states)), torch.from_numpy(actions.astype(np.float32))),
        *(*picked(fits & ~held_out), *picked(fits & held_out)),
        torch.from_numpy(~held_out),
        torch.from_numpy(~held_out & (np.arange(len(worth)) + 1 < ends)),
        standardizer,
    )


@dataclass(frozen=True)
class Batch:
    """Windows of one task.

    Attributes:
        states: what a plan tells of them: the first state and those after, or its differences to
            come. [S, B, T, c]
        before: their states but the last, as they are. [S, B, T - 1, c]
        actions: [S, B, T, a]
        returns: [S, B]
        task: its number.
    """

    states: Tensor
    before: Tensor
    actions: Tensor
    returns: Tensor
    task: int


@dataclass(frozen=True)
class Task:
    """One task on a device.

    Attributes:
        name, number: of the sequence.
        states, actions: latents of all steps. [S, N, c], [S, N, a]
        after: what a plan tells of the state after each step: its latents, or its difference from
            the one before, standardised and within ``LARGEST``. [S, N, c]
        arrays: everything else.
        spaces: of states and of actions.
        clip: of x_0: rho, or the largest value that is diffused.
    """

    name: str
    number: int
    states: Tensor
    actions: Tensor
    after: Tensor
    arrays: Arrays
    spaces: tuple[Space, Space]
    clip: float

    def windows(self, at: Tensor, horizon: int, *, held: bool = False) -> Batch:
        """Windows of the training, or the held-out ones, by their numbers ``at`` [S, B]."""
        of = self.arrays
        starts, worth = (of.held, of.held_worth) if held else (of.starts, of.worth)
        steps = starts[at].unsqueeze(-1) + torch.arange(horizon, device=at.device)  # [S, B, T]
        rows = torch.arange(len(at), device=at.device).view(-1, 1, 1)
        before, after = self.states[rows, steps[..., :-1]], self.after[rows, steps[..., :-1]]
        states = torch.cat((before[:, :, :1], after), 2)
        return Batch(states, before, self.actions[rows, steps], worth[at], self.number)

    def draw(
        self, generators: Generators, batch: int, horizon: int, among: Tensor | None = None
    ) -> Batch:
        """``batch`` training windows drawn uniformly, of ``among`` [S, M] where given."""
        if among is None:
            return self.windows(randint(generators, len(self.arrays.starts), batch), horizon)
        return self.windows(among.gather(1, randint(generators, among.shape[1], batch)), horizon)


@dataclass(frozen=True)
class World:
    """All tasks of a sequence, in order."""

    tasks: list[Task]
    domains: tuple[Domain, ...]
    cfg: Config

    @property
    def sizes(self) -> tuple[int, int]:
        """Of the latents of states and of actions."""
        return self.tasks[0].states.shape[-1], self.tasks[0].actions.shape[-1]


@torch.no_grad()
def make_task(
    cfg: Config, number: int, domain: Domain, spaces: tuple[Space, Space], device: Any
) -> Task:
    """One task on a device, encoded by its frozen spaces."""
    arrays = arrays_of(offline(domain), cfg.horizon)
    latents = []
    for space, values in zip(spaces, (arrays.states, arrays.actions), strict=True):
        stacked = values.expand(len(cfg.seed), *values.shape)
        parts = [space.encode(part) for part in stacked.split(4096, 1)]
        latents.append(torch.cat(parts, 1))
    scaled: list[Space] = list(spaces)
    if METHODS[cfg.method].standardised:
        for i, z in enumerate(latents):
            training = z[:, arrays.training]
            mean, std = training.mean(1, keepdim=True), training.std(1, keepdim=True).clamp(1e-3)
            scaled[i] = ScaledSpace(spaces[i], mean, std)
            latents[i] = (z - mean) / std
    after = following(latents[0], arrays.followed) if cfg.differences else latents[0].roll(-1, 1)
    shown = [latents[0], after, *latents[1 : 1 + METHODS[cfg.method].diffuses_actions]]
    clip = max(float(z.abs().max()) for z in shown)
    codes = isinstance(spaces[0], QuantizedSpace) and not METHODS[cfg.method].standardised
    if codes and not cfg.differences:
        clip = Paper.bound
    moved = {
        name: value.to(device)
        for name, value in vars(arrays).items()
        if isinstance(value, Tensor) and name not in ("states", "actions", "training", "followed")
    }
    return Task(
        domain.name,
        number,
        states=latents[0].to(device),
        actions=latents[1].to(device),
        after=after.to(device),
        arrays=Arrays(**{**vars(arrays), **moved}),
        spaces=(scaled[0].to(device), scaled[1].to(device)),
        clip=clip,
    )


def following(z: Tensor, followed: Tensor) -> Tensor:
    """The difference of the next step's latents from each step's, over its spread. [S, N, c]

    Where states hardly change from step to step, plans of states tell little of the action. What
    follows the last step of an episode means nothing; no window holds it, and the spread must not
    either: a jump to the next episode's start is worth a hundred steps.

    Args:
        z: [S, N, c].
        followed: boolean [N], steps that the spread is measured on.
    """
    moves = z.roll(-1, 1) - z
    spread = moves[:, followed].std(1, keepdim=True).clamp(min=1e-3)
    return (moves / spread).clamp(-LARGEST, LARGEST)


def make_world(cfg: Config, device: torch.device) -> World:
    """The tasks of a run's sequence on a device."""
    domains = sequence_of(cfg.task)
    spaces = load_spaces(cfg, [offline(d).dims for d in domains])
    tasks = [
        make_task(cfg, i, d, (spaces[2 * i], spaces[2 * i + 1]), device)
        for i, d in enumerate(domains)
    ]
    return World(tasks, domains, cfg)


# -- networks ---------------------------------------------------------------------------------


def make_net(cfg: Config, sizes: tuple[int, int], task: int = 0) -> nn.Module:
    """The denoiser before training; on the CPU. Small networks of other tasks are other draws."""
    net = bare_net(cfg, sizes, task)
    return Preconditioned(net, cfg.diffusion_steps) if cfg.preconditioned else net


def bare_net(cfg: Config, sizes: tuple[int, int], task: int) -> nn.Module:
    """The network that :func:`make_net` wraps."""
    method, n_tasks = METHODS[cfg.method], len(sequence_of(cfg.task))
    generators = seed_generators(cfg.seed, 100 * NETWORK + task)
    channels = sum(sizes) if method.diffuses_actions else sizes[0]
    given = 2 + (n_tasks if method.told else 0)
    if method.small:
        return small_unet(generators, channels, given, cfg.width, cfg.multipliers, n_tasks)

    def unet(of: Generators) -> nn.Module:
        return TemporalUNet(of, channels, given, cfg.width, cfg.multipliers)

    if method.backbone == "unet":
        return unet(generators)
    one = [torch.Generator()]
    with torch.device("meta"):  # sizes alone
        width = nearest_width(
            lambda w: WindowMLP(one, cfg.horizon, channels, given, w),
            weights_of(unet(one)),
            range(16, 4 * cfg.width * max(cfg.multipliers) + 1, 16),
        )
    return WindowMLP(generators, cfg.horizon, channels, given, width)


def make_inverses(cfg: Config, sizes: tuple[int, int]) -> nn.ModuleList:
    """Inverse dynamics f_inv in latent space, one per task for every method; on the CPU."""
    layers = [2 * sizes[0], cfg.inverse_hidden, cfg.inverse_hidden, sizes[1]]
    return nn.ModuleList(
        MLP(seed_generators(cfg.seed, 100 * INVERSE + i), layers, F.relu)
        for i in range(len(sequence_of(cfg.task)))
    )


def make_masks(cfg: Config, net: nn.Module) -> list[dict[str, Tensor]]:
    """SWA's masks of all tasks, the same for every method of a seed; on the CPU."""
    generators = seed_generators(cfg.seed, MASKS)
    weights = maskable(net, convolutions_only=METHODS[cfg.method].convolutions_only)
    return draw_masks(weights, len(sequence_of(cfg.task)), generators)


def own_names(cfg: Config, net: nn.Module) -> frozenset[str]:
    """Names of biases and norms, where each task keeps its own."""
    if not METHODS[cfg.method].own_vectors:
        return frozenset()
    return frozenset(dict(net.named_parameters())) - frozenset(maskable(net))


def run_with(net: nn.Module, weights: Weights) -> Any:
    """eps_theta with other parameters. (x, n, condition) -> noise."""
    return lambda x, n, given: functional_call(net, dict(weights), (x, n, given))


def identity(cfg: Config, task: int, like: Tensor) -> Tensor | None:
    """The task's one-hot vector where the network is told, beside returns [S, B]. [S, B, I]"""
    if not METHODS[cfg.method].told:
        return None
    vector = like.new_zeros(*like.shape, len(sequence_of(cfg.task)))
    vector[..., task] = 1.0
    return vector


def diffused(cfg: Config, batch: Batch) -> Tensor:
    """What is diffused: state latents, or states' and actions'. [S, B, T, C]"""
    if METHODS[cfg.method].diffuses_actions:
        return torch.cat((batch.states, batch.actions), -1)
    return batch.states


def clean_part(cfg: Config, world: World, x: Tensor) -> Tensor | None:
    """What stays clean in training windows [T, C]; None: nothing."""
    return observed(x, world.sizes[0]) if cfg.in_painted else None


# -- whose weights ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Shares:
    """Which parameters of the denoiser are whose, and what each task left behind.

    Attributes:
        cfg: of the run.
        masks: SWA's, by task and name; none elsewhere.
        owner: PackNet's, by name; none elsewhere.
        own: names of the parameters of which each task keeps a copy of its own.
        snapshots: all parameters of the denoiser at the end of each task, by name.
    """

    cfg: Config
    masks: Sequence[Weights]
    owner: Weights
    own: frozenset[str]
    snapshots: Sequence[Weights]

    def at(self, after: int, task: int, acts: Acts | None = None) -> dict[str, Tensor]:
        """The parameters that act on ``task`` once task ``after`` was learned.

        Args:
            after, task: from 0, task <= after.
            acts: with whose weights; default: as the method does.
        """
        method = METHODS[self.cfg.method]
        acts = acts or method.acts
        if acts == "own":
            return dict(self.snapshots[task])
        last = self.snapshots[after]
        found = {name: self.snapshots[task if name in self.own else after][name] for name in last}
        if method.masks == "disjoint":
            whole: Weights = {name: last[name] for name in self.masks[0]}
            if acts == "assembled":
                parts = [{n: c[n] for n in self.masks[0]} for c in self.snapshots[: after + 1]]
                whole = assembled(self.masks[: after + 1], parts)
            found.update(masked(whole, self.masks[task]))
        elif method.masks == "packed":
            used = {name: (o >= 0) & (o <= task) for name, o in self.owner.items()}
            found.update(masked(last, used))
        return found
