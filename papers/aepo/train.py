"""One run: one method's guidance (or policy) on one task, all seeds at once.

All methods go through the same loop, from the same behaviour, critic and data. What differs is the
loss of the network; methods that learn nothing have no steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.control.diffusion import noised
from common.control.iql import GaussianPolicy, advantage_weights, policy_loss
from common.run import Run
from common.stacked import adam, randint, randn, seed_generators
from common.torch_utils import setup
from papers.aepo.baselines import clean_target, contrastive_loss
from papers.aepo.config import Config, Setting, resolve
from papers.aepo.method import (
    EnergyNetwork,
    energy_loss,
    energy_target,
    isotropic_spread,
    local_spread,
    value_and_gradient,
)
from papers.aepo.methods import METHODS, Learns
from papers.aepo.pretrain import anneal, descend
from papers.aepo.prior import (
    SCHEDULE,
    Generators,
    Prior,
    drawn_steps,
    load_prior,
    prior_folder,
)

LOG_EVERY = 500


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    task, setting = resolve(cfg)
    method = METHODS[cfg.method]
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    folder = prior_folder(cfg, task, method.critic)
    prior = load_prior(folder, task, cfg.seed, device, method.by_norm)
    net = make_network(method.learns, prior, cfg.seed, setting).to(device)
    optimizer = adam([{"params": list(net.parameters())}], lr=setting.lr)
    drawing = seed_generators(cfg.seed, 3, device)
    kept = run.keep(net=net, optimizer=optimizer, drawing=drawing, seconds=0.0)
    began = time.process_time()
    supports = None
    if method.learns == "contrast" and not run.finished:
        supports = make_supports(prior, setting, seed_generators(cfg.seed, 4, device))
    if kept.seconds == 0.0:  # a run that goes on has counted them
        kept.seconds = time.process_time() - began

    for step in run.steps(0 if method.learns == "nothing" else setting.steps, drop=("optimizer",)):
        began = time.process_time()
        anneal(optimizer, setting.lr, step / setting.steps)
        if supports is not None:
            loss = contrastive(net, prior, supports, drawing, setting)
        elif isinstance(net, GaussianPolicy):
            loss = regression(net, prior, drawing, setting, temperatures(method.learns, setting.w))
        else:
            loss = energy(method.learns, net, prior, drawing, setting)
        descend(loss, optimizer)
        kept.seconds += time.process_time() - began
        if (step + 1) % LOG_EVERY == 0:
            run.log(step + 1, loss=loss.view(len(cfg.seed), -1).mean(1))


def make_network(
    learns: Learns, prior: Prior, seeds: tuple[int, ...], setting: Setting
) -> EnergyNetwork | GaussianPolicy:
    """E_Theta, or a Gaussian policy for each seed and temperature (stacked, seed by seed)."""
    obs_dim, action_dim = prior.data.obs.shape[-1], prior.data.action.shape[-1]
    if learns in ("policy", "clone"):
        several = [g for g in seed_generators(seeds, 6) for _ in temperatures(learns, setting.w)]
        return GaussianPolicy(several, obs_dim, action_dim, (setting.hidden, setting.hidden))
    generators = seed_generators(seeds, 6)
    return EnergyNetwork(generators, obs_dim, action_dim, (setting.hidden,) * setting.layers)


def temperatures(learns: Learns, w: tuple[float, ...]) -> tuple[float, ...]:
    """Of Gaussian policies, in units of beta: the guidance scales above 0; 0 of a clone's."""
    return tuple(x for x in w if x > 0) if learns == "policy" else (0.0,)


# -- losses ------------------------------------------------------------------------------------


def energy(
    learns: Learns, net: nn.Module, prior: Prior, generators: Generators, setting: Setting
) -> Tensor:
    """Regression of E_Theta on an energy at noisy actions of the data, Eq. 8. [S].

    The target of the clean action is one number however it is noised: it has one draw each.
    """
    draws = 1 if learns == "clean" else setting.draws
    obs, clean = prior.data.sample(generators, setting.batch // draws)
    n = drawn_steps(generators, setting.batch // draws, setting.noise)
    obs, clean, n = (x.repeat_interleave(draws, 1) for x in (obs, clean, n))
    a = noised(SCHEDULE, clean, randn(generators, *clean.shape[1:]), n)
    if learns == "clean":
        with torch.no_grad():
            target = clean_target(prior.critic(obs, clean), setting.beta)
    else:
        target = analytic(learns, prior, obs, a, n, setting.beta)
    return energy_loss(net(a, n, obs), target, draws)


@torch.no_grad()
def analytic(
    learns: Learns, prior: Prior, obs: Tensor, a: Tensor, n: Tensor, beta: float
) -> Tensor:
    """Eq. 7 with the isotropic or local variance, or without. [S, B].

    Q is asked at m in the box, and has no gradient outside of it: far from the data it means
    nothing, and m is unreliable while there is more noise than action.
    """
    m = prior.mean(a, n, obs)
    q, g = value_and_gradient(lambda x: prior.critic(obs, prior.data.clipped(x)), m)
    spread: Tensor | float = 0.0
    if learns == "analytic":
        rows = torch.arange(len(n), device=n.device).unsqueeze(1)
        spread = isotropic_spread(g, prior.variance[rows, n])
    elif learns == "local":
        alpha, sigma = (x.squeeze(-1) for x in SCHEDULE.rates(n, a))
        largest = prior.data.variance
        spread = local_spread(lambda x: prior.mean(x, n, obs), a, g, sigma**2 / alpha, largest)
    return energy_target(q, spread, beta)


def regression(
    net: GaussianPolicy,
    prior: Prior,
    generators: Generators,
    setting: Setting,
    factors: tuple[float, ...],
) -> Tensor:
    """Advantage-weighted regression at temperatures beta w, w in ``factors``. [S W]."""
    obs, action = prior.data.sample(generators, setting.batch)
    with torch.no_grad():
        advantage = prior.critic(obs, action)
    many = len(factors)
    scaled = advantage.repeat_interleave(many, 0) * torch.tensor(
        factors * len(advantage), device=advantage.device
    ).unsqueeze(1)
    weights = advantage_weights(scaled.unsqueeze(1), torch.zeros_like(scaled), setting.beta)
    repeated = (obs.repeat_interleave(many, 0), action.repeat_interleave(many, 0))
    return policy_loss(net.log_prob(*repeated), weights)


# -- contrastive energy prediction -------------------------------------------------------------


@dataclass(frozen=True)
class Supports:
    """M actions of the behaviour at P states.

    Attributes:
        obs: [S or 1, P, o].
        action: [S, P, M, d].
        q: of the actions. [S, P, M]
    """

    obs: Tensor
    action: Tensor
    q: Tensor


def make_supports(prior: Prior, setting: Setting, generators: Generators) -> Supports:
    """Support actions, made once: a bandit's data are its behaviour's samples."""
    several = setting.support
    if prior.task.bandit:
        count = prior.data.action.shape[1] // several
        action = prior.data.action[:, : count * several].unflatten(1, (count, several))
        obs = action[:, :, 0, :0]
    else:
        total = prior.data.obs.shape[1]
        wanted = total if setting.support_states < 0 else min(setting.support_states, total)
        index = randint(generators, total, wanted)
        obs = prior.data.picked(index)[0]
        repeated = obs.repeat_interleave(several, 1)
        action = prior.drawn(repeated, generators, setting.solver_steps)
        action = action.unflatten(1, (wanted, several))
    return Supports(obs, action, prior.values(obs, action))


def contrastive(
    net: nn.Module, prior: Prior, supports: Supports, generators: Generators, setting: Setting
) -> Tensor:
    """The contrastive loss over M actions of each state, all at one step of the diffusion. [S].

    A bandit's groups are put together anew each time; the actions of a state stay what they are.
    """
    obs, clean, q = _groups(prior, supports, generators, setting)
    shape = q.shape  # [S, B, M]
    n = drawn_steps(generators, shape[1], setting.noise).unsqueeze(2).expand(shape).flatten(1)
    noise = randn(generators, shape[1] * shape[2], clean.shape[-1])
    a = noised(SCHEDULE, clean.flatten(1, 2), noise, n)
    states = obs.unsqueeze(2).expand(*shape, obs.shape[-1]).flatten(1, 2)
    return contrastive_loss(net(a, n, states).view(shape), q, setting.beta)


def _groups(
    prior: Prior, supports: Supports, generators: Generators, setting: Setting
) -> tuple[Tensor, Tensor, Tensor]:
    """States [S, B, o], actions [S, B, M, d] and their Q [S, B, M] of a batch of groups."""
    S, P, M = supports.q.shape
    rows = torch.arange(S, device=supports.q.device).unsqueeze(1)
    if prior.task.bandit:
        index = randint(generators, P * M, setting.groups * M)
        clean = supports.action.flatten(1, 2)[rows, index].unflatten(1, (-1, M))
        return clean[:, :, 0, :0], clean, supports.q.flatten(1)[rows, index].unflatten(1, (-1, M))
    index = randint(generators, P, setting.groups)
    return supports.obs[rows, index], supports.action[rows, index], supports.q[rows, index]


def network_rows(learns: Learns, prior: Prior, setting: Setting) -> int:
    """Rows that went through networks (behaviour, critic, E_Theta) to train the guidance."""
    per_step = {
        "analytic": 3,
        "local": 4,
        "mean": 3,
        "clean": 2,
        "policy": 2,
        "clone": 1,
        "nothing": 0,
    }
    if learns != "contrast":
        return per_step[learns] * setting.batch * setting.steps
    made = 0
    if not prior.task.bandit:
        total = prior.data.obs.shape[1]
        states = total if setting.support_states < 0 else min(setting.support_states, total)
        made = states * setting.support * setting.solver_steps
    return made + setting.groups * setting.support * setting.steps


if __name__ == "__main__":
    run_cli(train, Config)
