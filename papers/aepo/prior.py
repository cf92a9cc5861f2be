"""What all methods of a task share: the behaviour's diffusion, the critic, and their data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.control.denoisers import ResidualMLP
from common.control.diffusion import noised, vp_schedule
from common.control.iql import Transitions, Value, locomotion_scale, transitions
from common.control.trajectories import joined
from common.control.windows import Standardizer
from common.errors import UserError
from common.run import Run
from common.sac import TwinCritic
from common.stacked import MLP, randint, randn, seed_generators
from papers.aepo.config import DIFFUSION_STEPS, Config, Noise, PriorConfig, resolve_prior
from papers.aepo.exact import Quadratic
from papers.aepo.method import (
    Steps,
    analytic_variance,
    posterior_mean,
    residual_variance,
    sample,
)
from papers.aepo.task import Task, bandit_data, offline

Generators = Sequence[torch.Generator]
SCHEDULE = vp_schedule(DIFFUSION_STEPS)
GRID, DRAWS = 50, 2_000  # steps and draws on which the posterior's variance is measured
BLOCKS = 2  # of the behaviour's network
AT_ONCE = 16_384  # rows of a network call without gradients


class Behaviour(nn.Module):
    """eps_phi(s, a_n, n) = sigma a_n + alpha V: the network predicts V = alpha eps - sigma a_0.

    So both eps_phi and m = alpha a_n - sigma V are well conditioned at every step; predicting eps
    itself would multiply its error by sigma / alpha = 150 in m at the last one.
    """

    def __init__(self, generators: Generators, obs_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = ResidualMLP(generators, action_dim, obs_dim, hidden, BLOCKS)

    def epsilon(self, a: Tensor, n: Steps, obs: Tensor) -> Tensor:
        """[S, B, d], n one number or [S, B], [S, B, o] -> [S, B, d]."""
        alpha, sigma = SCHEDULE.rates(n, a)
        return sigma * a + alpha * self.net(a, n, obs)

    def loss(self, clean: Tensor, noise: Tensor, n: Tensor, obs: Tensor) -> Tensor:
        """Mean of ||V - (alpha eps - sigma a_0)||^2 = ||eps_phi - eps||^2 / alpha^2. [S]."""
        alpha, sigma = SCHEDULE.rates(n, clean)
        wanted = alpha * noise - sigma * clean
        predicted = self.net(noised(SCHEDULE, clean, noise, n), n, obs)
        return (predicted - wanted).square().mean((1, 2))


class Labels(nn.Module):
    """Q(a) of a bandit, fitted to the energies of its data."""

    def __init__(self, generators: Generators, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = MLP(generators, [action_dim, hidden, hidden, 1], F.silu)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """[S, B, 0], [S, B, d] -> [S, B]."""
        return self.net(action).squeeze(-1)


class Formula(nn.Module):
    """Q(a) of a bandit, known."""

    def __init__(self, q: Quadratic) -> None:
        super().__init__()
        self.q = q

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """[S, B, 0], [S, B, d] -> [S, B]."""
        return self.q(action)


class Advantage(nn.Module):
    """(min_i Q_i(s, a) - V(s)) / scale of the target critics; scale: its mean size on the data.

    V(s) and the scale depend on no action: they make one beta serve all data sets and change no
    gradient's direction.
    """

    def __init__(self, generators: Generators, obs_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        sizes = (hidden, hidden)
        self.critic = TwinCritic(generators, obs_dim, action_dim, sizes)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.value = Value(generators, obs_dim, sizes)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(len(generators), 1))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """[S, B, o], [S, B, d] -> [S, B]."""
        return (self.target(obs, action).amin(1) - self.value(obs)) / self.scale

    @torch.no_grad()
    def rescale(self, data: Data, generators: Generators, count: int = 8_192) -> None:
        """Make the mean of |advantage| on the data 1."""
        self.scale.fill_(1.0)
        obs, action = data.sample(generators, count)
        self.scale.copy_(self(obs, action).abs().mean(1, keepdim=True).clamp(min=1e-6))


@dataclass(frozen=True)
class Data:
    """States and actions, of each seed or of all.

    Attributes:
        obs: [S or 1, N, o].
        action: [S or 1, N, d].
        labels: energies of a set's points. [S or 1, N]
        box: half the side of the box of actions; None: as far as the data reach.
    """

    obs: Tensor
    action: Tensor
    labels: Tensor
    box: float | None

    def picked(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States, actions and labels of [S, B] indices."""
        rows = torch.arange(len(self.action), device=index.device).unsqueeze(1)
        return self.obs[rows, index], self.action[rows, index], self.labels[rows, index]

    def sample(self, generators: Generators, batch: int) -> tuple[Tensor, Tensor]:
        """``batch`` states and actions per seed, with replacement."""
        return self.picked(randint(generators, self.action.shape[1], batch))[:2]

    def clipped(self, action: Tensor) -> Tensor:
        """Actions in the box, with a gradient of zero outside."""
        if self.box is not None:
            return action.clamp(-self.box, self.box)
        return action.maximum(self.action.amin(1, keepdim=True)).minimum(
            self.action.amax(1, keepdim=True)
        )

    @property
    def variance(self) -> Tensor:
        """Of the actions, a mean over dimensions. [S or 1, 1]"""
        return self.action.var(1).mean(-1, keepdim=True)


@dataclass
class Prior:
    """Behaviour and critic of a task.

    Attributes:
        task: what they are of.
        data: that they were trained on.
        behaviour, critic: networks; Q(s, a) = critic(s, a), less what depends on s alone.
        variance: v_n of every step (Eq. 5, or Eq. 4). [S, N]
        standardizer: of observations; None for bandits.
    """

    task: Task
    data: Data
    behaviour: Behaviour
    critic: Callable[[Tensor, Tensor], Tensor]
    variance: Tensor
    standardizer: Standardizer | None

    @property
    def clip(self) -> float | None:
        """The box that the sampler keeps to."""
        return self.data.box

    def mean(self, a: Tensor, n: Steps, obs: Tensor) -> Tensor:
        """m of Eq. 3, unclipped. [S, B, d]."""
        return posterior_mean(SCHEDULE, a, self.behaviour.epsilon(a, n, obs), n)

    def drawn(
        self, obs: Tensor, generators: Generators, steps: int, at_once: int = AT_ONCE
    ) -> Tensor:
        """An action of the behaviour for every row of ``obs``. [S, B, o] -> [S, B, d]."""
        found = []
        for part in obs.split(max(1, at_once // len(obs)), 1):
            noise = randn(generators, part.shape[1], self.data.action.shape[-1])
            found.append(self._sampled(part, noise, steps))
        return torch.cat(found, 1)

    @torch.no_grad()
    def values(self, obs: Tensor, action: Tensor, at_once: int = AT_ONCE) -> Tensor:
        """Q of M actions in every state. [S or 1, P, o], [S, P, M, d] -> [S, P, M].

        Args:
            obs: states.
            action: their actions.
            at_once: rows of a call of the critic: all pairs of published data do not fit a GPU.
        """
        M = action.shape[2]
        each = max(1, at_once // (M * len(action)))
        found = []
        for states, actions in zip(obs.split(each, 1), action.split(each, 1), strict=True):
            rows = states.expand(len(actions), -1, -1).repeat_interleave(M, 1)
            found.append(self.critic(rows, actions.flatten(1, 2)).unflatten(1, (-1, M)))
        return torch.cat(found, 1)

    def _sampled(self, obs: Tensor, noise: Tensor, steps: int) -> Tensor:
        return sample(
            lambda a, n: self.behaviour.epsilon(a, n, obs),
            *(None, noise, SCHEDULE),
            steps=steps,
            clip=self.clip,
        )


# -- data ----------------------------------------------------------------------------------------


def load_data(
    task: Task, seeds: tuple[int, ...], device: torch.device
) -> tuple[Data, Transitions | None, Standardizer | None]:
    """Everything that is learned from.

    Returns:
        States and actions; transitions with scaled rewards and the scale of observations, both
        None for bandits.
    """
    if task.bandit:
        action, labels = (x.to(device) for x in bandit_data(task, seeds))
        return Data(action[..., :0], action, labels, None), None, None
    source = offline(task.source)
    found = joined(source.episodes)
    standardizer = Standardizer.fit(found.observations)
    rewards = found.rewards + source.reward_shift
    scale = 1.0
    if not source.reward_shift:  # 1 per step between the best and the worst episode
        scale = locomotion_scale(found.returns) * float(found.lengths.mean()) / 1000
    table = transitions(found, standardizer=standardizer, device=device)
    reward = torch.from_numpy(rewards).to(device) * scale
    table = Transitions(table.obs, table.action, reward, table.next_obs, table.terminated)
    none = torch.zeros_like(reward).unsqueeze(0)
    return Data(table.obs[None], table.action[None], none, 1.0), table, standardizer


# -- the posterior's variance --------------------------------------------------------------------


@torch.no_grad()
def variance_table(
    behaviour: Behaviour, data: Data, generators: Generators
) -> tuple[Tensor, Tensor]:
    """v_n of every step by Eq. 5 and by Eq. 4, both no larger than the actions' variance.

    The expectations are measured at ``GRID`` steps and linear between them.

    Returns:
        [S, N] each.
    """
    steps = torch.linspace(0, len(SCHEDULE) - 1, GRID).round().long()
    losses, squares = [], []
    for n in steps.tolist():
        obs, clean = data.sample(generators, DRAWS)
        noise = randn(generators, *clean.shape[1:])
        epsilon = behaviour.epsilon(noised(SCHEDULE, clean, noise, n), n, obs)
        losses.append((noise - epsilon).square().mean((1, 2)))
        squares.append(epsilon.square().mean((1, 2)))
    every = torch.arange(len(SCHEDULE))
    found = []
    for form, values in ((residual_variance, losses), (analytic_variance, squares)):
        smooth = _between(torch.stack(values, 1), steps)
        found.append(form(SCHEDULE, smooth, every).minimum(data.variance))
    return found[0], found[1]


def _between(values: Tensor, steps: Tensor) -> Tensor:
    """Linear between ``steps``. [S, K] -> [S, N]."""
    n = torch.arange(len(SCHEDULE))
    right = torch.searchsorted(steps, n).clamp(min=1)
    left = right - 1
    weight = ((n - steps[left]) / (steps[right] - steps[left])).to(values)
    device = values.device
    return torch.lerp(values[:, left.to(device)], values[:, right.to(device)], weight)


# -- steps ---------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _nearest_steps(count: int = 4_096) -> Tensor:
    """The steps nearest to ``count`` values that are uniform in log(alpha / sigma)."""
    bar = torch.from_numpy(SCHEDULE.alphas_cumprod)
    level = torch.log(bar) - torch.log1p(-bar)  # falls
    wanted = torch.linspace(float(level[0]), float(level[-1]), count, dtype=level.dtype)
    middles = (level[1:] + level[:-1]) / 2
    return torch.searchsorted(-middles, -wanted)


def drawn_steps(generators: Generators, count: int, noise: Noise) -> Tensor:
    """Steps of the diffusion, uniform, or in log(alpha / sigma) like the solver's grid. [S, B].

    Control's behaviours are narrow: what to do is decided while sigma is below their deviation, in
    the first tenth of the steps, but a third of the solver's.
    """
    if noise == "uniform":
        return randint(generators, len(SCHEDULE), count)
    table = _nearest_steps()
    index = randint(generators, len(table), count)
    return table.to(index.device)[index]


# -- loading -------------------------------------------------------------------------------------


def make_critic(
    task: Task, generators: Generators, obs_dim: int, action_dim: int, hidden: int
) -> nn.Module:
    """The critic of a kind of task, untrained."""
    if task.kind == "gaussian":
        return Formula(Quadratic(curvature=task.curvature))
    if task.kind == "set":
        return Labels(generators, action_dim, hidden)
    return Advantage(generators, obs_dim, action_dim, hidden)


def prior_folder(cfg: Config, task: Task, stage: str) -> Path:
    """The run of pretraining that a run begins with, beside its own stage.

    Raises:
        UserError: if there is none.
    """
    if cfg.prior is not None:
        return cfg.prior
    ends = cfg.seed[:1] if len(cfg.seed) == 1 else (cfg.seed[0], cfg.seed[-1])
    name = Path(stage) / task.source / ("seed-" + "-".join(map(str, ends)))
    for parent in cfg.out.parents:
        if (parent / name / "config.json").is_file():
            return parent / name
    raise UserError(
        f"there is no behaviour of {task.source} for seeds {cfg.seed} in {name} beside {cfg.out}; "
        f"make it (python -m papers.aepo.pretrain --task {task.source}) and name it by --prior"
    )


def load_prior(
    folder: Path,
    task: Task,
    seeds: tuple[int, ...],
    device: torch.device,
    by_norm: bool = False,
) -> Prior:
    """Behaviour and critic of a finished run of pretraining; ``by_norm``: v_n is Eq. 4's.

    Raises:
        UserError: if it is not there, not finished, or of another source or other seeds.
    """
    run = Run.load(folder)
    cfg = run.config(PriorConfig)
    if (cfg.task, cfg.seed) != (task.source, seeds):
        raise UserError(
            f"{folder} holds {cfg.task}, seeds {cfg.seed}; needed is {task.source}, seeds {seeds}"
        )
    _, setting = resolve_prior(cfg)
    data, _, standardizer = load_data(task, seeds, device)
    final: Mapping[str, Any] = run.final()
    generators = seed_generators(seeds, 1)
    sizes = (data.obs.shape[-1], data.action.shape[-1], setting.hidden)
    behaviour = Behaviour(generators, *sizes)
    behaviour.load_state_dict(final["behaviour"])
    critic = make_critic(task, generators, *sizes)
    critic.load_state_dict(final["critic"] if task.kind != "gaussian" else {})
    for net in (behaviour, critic):
        net.to(device).requires_grad_(False)
    variance = final["variance_by_norm" if by_norm else "variance"].to(device)
    return Prior(task, data, behaviour, critic, variance, standardizer)
