"""One run of DrQ (Kostrikov et al. 2021) on DeepMind Control from pixels: one method, one seed.

Soft actor-critic on shifted images. Convolutions, projections and last layers are dense; the other
layers of actor and critics are what grows (authors' code). One step of ``run.steps`` is an episode.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common import sac
from common.cli import run_cli
from common.run import Run
from common.stacked import MLP, StackedLinear, adam, rand, randn, seed_generators
from common.td3 import critic_loss
from common.torch_utils import setup
from papers.ne.agent import narrow_width
from papers.ne.baselines import redo, reset
from papers.ne.config import POLICY_DELAY, expansion
from papers.ne.learning import changed, descend, is_dormant, per_seed
from papers.ne.method import (
    Change,
    NEConfig,
    Topology,
    fau,
    hidden_activations,
    inactive,
    share_of,
)
from papers.ne.methods import METHODS
from papers.ne.pixels import Convolutions, FrameBuffer, PixelBatch, Projection, make, shifted
from papers.ne.review import review_threshold, reviewing

ALPHA, LOG_STD = 0.1, (-10.0, 2.0)  # first temperature, range of log standard deviations
TEST_SEED = 50_000
DENSE = 1  # last layers of a trunk that stay dense


@dataclass
class DrQConfig:
    """One run of DrQ; the defaults are the authors' for DeepMind Control."""

    method: str = "ne"  # see methods.METHODS
    task: str = "pixels-cheetah_run"  # see pixels.TASKS
    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    labels: tuple[str, ...] = ()  # of SWEPT, those whose values the rows carry (a grid's)
    device: str = "cpu"  # cpu or cuda
    training: int = 1_000  # training episodes of 1,000 frames
    warm_up: int = 1_000  # random actions before the first update
    eval_every: int = 10  # episodes between two evaluations
    episodes: int = 10  # of an evaluation
    batch: int = 128  # transitions of an update
    capacity: int = 100_000  # frames in the buffer
    size: int = 84  # pixels of a side
    hidden: int = 1_024  # units of the two hidden layers
    feature: int = 50  # of the projection
    lr: float = 1e-3  # Adam's learning rate
    gamma: float = 0.99  # discount
    tau: float = 0.01  # polyak step of the targets, with every second update
    interval: int = 10_000  # gradient steps between changes of the topology
    redo_every: int = 10_000  # gradient steps between ReDo's recyclings
    start_sparsity: float = NEConfig.start_sparsity  # S_0 of what is sparse
    end_sparsity: float = NEConfig.end_sparsity  # S_1 of what grows
    omega: float = NEConfig.omega  # most connections pruned, of those grown
    early: float = 0.3  # oldest share of the buffer, which is reviewed
    floor: float = 0.5  # least threshold of the review


class DrQ(nn.Module):
    """Convolutions shared by both, a projection and a trunk each, their targets, a temperature."""

    def __init__(self, cfg: DrQConfig, action_dim: int) -> None:
        super().__init__()
        self.convolutions, width = Convolutions(cfg.size), cfg.hidden
        f, A = cfg.feature, action_dim
        if METHODS[cfg.method].narrow:
            share = 1 - cfg.start_sparsity
            width = narrow_width([f, *[f + A] * 2], [2 * A, 1, 1], width, share)
        self.actor_projection = Projection(self.convolutions.features, f)
        self.critic_projection = Projection(self.convolutions.features, f)
        self.actor = sac.Actor(seed_generators([cfg.seed], 1), f, A, (width, width))
        self.critic = sac.TwinCritic(seed_generators([cfg.seed], 2), f, A, (width, width))
        slow = (self.convolutions, self.critic_projection, self.critic)
        self.slow = nn.ModuleList(copy.deepcopy(slow)).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((1,), ALPHA).log())

    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Both critics. [B, 9, size, size], [1, B, A] -> [1, 2, B]."""
        return self.critic(self.seen(obs)[None], action)

    def seen(self, obs: Tensor) -> Tensor:
        """What the critics' trunks see. [B, feature]."""
        return self.critic_projection(self.convolutions(obs))

    def slow_q(self, obs: Tensor, action: Tensor) -> Tensor:
        """The targets. [1, 2, B]."""
        convolutions, projection, critic = self.slow
        return critic(projection(convolutions(obs))[None], action)

    def acts_on(self, obs: Tensor) -> Tensor:
        """What the actor's trunk sees; it does not train the convolutions. [1, B, feature]."""
        return self.actor_projection(self.convolutions(obs).detach())[None]

    def policy(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-probabilities. [1, B, A], [1, B]."""
        mean, log_std = self.actor.net(self.acts_on(obs)).chunk(2, dim=-1)
        return sac.squash(mean, log_std.clamp(*LOG_STD), noise)

    def mode(self, obs: Tensor) -> Tensor:
        """Deterministic actions. [1, B, A]."""
        return torch.tanh(self.actor.net(self.acts_on(obs)).chunk(2, dim=-1)[0])


@dataclass(frozen=True)
class Learner:
    """Networks, optimisers and topologies of one run."""

    nets: DrQ
    optimizers: dict[str, torch.optim.Adam]
    topologies: dict[str, Topology]

    def layers(self, name: str) -> list[StackedLinear]:
        """Of a trunk: "actor" or "critic"."""
        net: MLP = getattr(self.nets, name).net
        return list(net.layers)  # type: ignore[arg-type]

    @torch.no_grad()
    def hidden(self, name: str, obs: Tensor, action: Tensor) -> list[Tensor]:
        """Hidden activations of a trunk. [G, B, n] each."""
        if name == "actor":
            return hidden_activations(self.layers(name), self.nets.acts_on(obs))
        x = torch.cat((self.nets.seen(obs)[None], action), -1).repeat_interleave(2, dim=0)
        return hidden_activations(self.layers(name), x)


def make_learner(cfg: DrQConfig, action_dim: int, updates: int, device: torch.device) -> Learner:
    """Everything as training begins.

    Args:
        cfg: of the run.
        action_dim: of the task.
        updates: T_end of the topologies.
        device: of everything.
    """
    method, nets = METHODS[cfg.method], DrQ(cfg, action_dim).to(device)
    moving = seed_generators([cfg.seed], 6, device)
    ne = expansion(method.changes, cfg, cfg.interval)
    still = replace(ne, growth="none", prune="none")
    configs = {"actor": ne if method.actor else still, "critic": ne}
    topologies = {
        name: Topology(list(getattr(nets, name).net.layers), config, updates, moving, DENSE)
        for name, config in configs.items()
    }
    of = {
        "critic": [nets.convolutions, nets.critic_projection, nets.critic],
        "actor": [nets.actor_projection, nets.actor],
    }
    parameters: dict[str, list[Any]] = {
        name: [p for part in parts for p in part.parameters()] for name, parts in of.items()
    }
    parameters["alpha"] = [nets.log_alpha]
    optimizers = {name: adam([{"params": p}], lr=cfg.lr) for name, p in parameters.items()}
    return Learner(nets, optimizers, topologies)


# -- the loop ---------------------------------------------------------------------------------


def train(cfg: DrQConfig) -> None:
    """Train, or go on from the last checkpoint."""
    method, first = METHODS[cfg.method], make(cfg.task, cfg.seed, cfg.size)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    updates = cfg.training * first.length - cfg.warm_up
    learner = make_learner(cfg, first.action_dim, updates, device)
    drawing, gating = (seed_generators([cfg.seed], k, device) for k in (4, 5))
    renewing = seed_generators([cfg.seed], 7)  # on the CPU, as initialisation
    frames = cfg.training * (first.length + 1)
    buffer = FrameBuffer(min(cfg.capacity, frames), first.action_dim, cfg.size, device)
    kept = run.keep(
        **{"nets": learner.nets, "optimizers": learner.optimizers, "buffer": buffer},
        **{"topologies": learner.topologies, "drawing": drawing, "gating": gating},
        moving=learner.topologies["critic"].generators,
        **{"renewing": renewing, "acted": 0},
        **{"ratios": torch.zeros(0, 1, device=device), "threshold": torch.ones(1, device=device)},
        tally=torch.zeros(2, 1, device=device),  # updates, reviewed ones
    )
    for episode in run.steps(cfg.training, drop=("buffer",)):
        env = make(cfg.task, 1_000_000 * (cfg.seed + 1) + episode, cfg.size)
        buffer.begin(env.reset())
        for _ in range(env.length):
            # 1. act
            explore(learner.nets, env, buffer, drawing, warm=kept.acted < cfg.warm_up)
            kept.acted += 1
            t = kept.acted - cfg.warm_up
            if t < 1:
                continue
            # 2. a batch, reviewed or not
            reviewed = reviewing(
                method.review,
                kept.threshold,
                gating,
                lambda: activated(learner, buffer, cfg, gating),
            )
            early = reviewed is not None and bool(reviewed)
            batch = buffer.sample(drawing[0], cfg.batch, cfg.early if early else 1.0)
            kept.tally += torch.tensor([[1.0], [float(early)]], device=device)
            # 3. an update of weights or topologies, and what mends dense networks
            if checked := t % cfg.interval == 0:
                looked = buffer.sample(gating[0], cfg.batch)  # never a reviewed batch
                hidden = learner.hidden("critic", looked.obs, looked.action[None])
                ratio = per_seed(share_of(is_dormant, hidden), 1)
                kept.ratios = torch.cat((kept.ratios, ratio[None]))
                kept.threshold = review_threshold(kept.ratios, floor=cfg.floor)
            changes = update(learner, batch, cfg, drawing, t)
            mend(learner, batch, method.remedy, cfg, renewing, t, updates)
            if checked:
                run.log(episode + 1, threshold=kept.threshold, **changed(changes, 1))
        # 4. test episodes
        if (episode + 1) % cfg.eval_every == 0 or episode + 1 == cfg.training:
            seen = looked_at(learner, buffer, cfg)
            seen |= dict(zip(("updates", "reviewed"), kept.tally, strict=True))
            run.log(episode + 1, forward=[test_return(learner.nets, cfg)], **seen)
            kept.tally = torch.zeros_like(kept.tally)


@torch.no_grad()
def explore(nets: DrQ, env: Any, buffer: FrameBuffer, drawing: Any, warm: bool) -> None:
    """One step, at random in the warm-up."""
    if warm:
        action = 2 * rand(drawing, 1, env.action_dim) - 1
    else:
        action = nets.policy(buffer.latest(), randn(drawing, 1, env.action_dim))[0]
    frame, reward = env.step(action[0, 0].cpu().numpy())
    buffer.add(action[0, 0], reward, frame)


@torch.no_grad()
def test_return(nets: DrQ, cfg: DrQConfig) -> float:
    """Mean return of deterministic test episodes, the same every time."""
    device, total = nets.log_alpha.device, 0.0
    for i in range(cfg.episodes):
        env = make(cfg.task, TEST_SEED + i, cfg.size)
        stack = FrameBuffer(env.length + 1, env.action_dim, cfg.size, device)
        stack.begin(env.reset())
        for _ in range(env.length):
            action = nets.mode(stack.latest())[0, 0]
            frame, reward = env.step(action.cpu().numpy())
            stack.add(action, reward, frame)
            total += reward
    return total / cfg.episodes


# -- updates ----------------------------------------------------------------------------------


def activated(learner: Learner, buffer: FrameBuffer, cfg: DrQConfig, gating: Any) -> Tensor:
    """The critics' FAU on a uniform batch. [1]."""
    looked = buffer.sample(gating[0], cfg.batch)
    return per_seed(fau(learner.hidden("critic", looked.obs, looked.action[None])), 1)


def update(
    learner: Learner, batch: PixelBatch, cfg: DrQConfig, drawing: Any, t: int
) -> dict[str, Change | None]:
    """One update of DrQ: targets and losses are means over two shifts of the images (K = M = 2)."""
    nets, optimizers, topologies = learner.nets, learner.optimizers, learner.topologies
    shape, alpha = batch.action[None].shape[1:], nets.log_alpha.detach().exp()
    obs = [shifted(batch.obs, drawing[0]) for _ in range(2)]
    over = torch.zeros_like(batch.reward)[None]  # episodes of the suite never terminate
    targets = []
    with torch.no_grad():
        for _ in range(2):
            following = shifted(batch.next_obs, drawing[0])
            action, log_prob = nets.policy(following, randn(drawing, *shape))
            q = nets.slow_q(following, action)
            paid = batch.reward[None]
            targets.append(sac.critic_target(paid, over, q, log_prob, alpha, cfg.gamma))
    y = torch.stack(targets).mean(0)
    taken = batch.action[None]
    loss = torch.stack([critic_loss(nets.q(o, taken), y) for o in obs]).sum(0)
    changes = {
        "critic": descend(
            *(loss, topologies["critic"], optimizers["critic"], t),
            lambda: learner.hidden("critic", obs[0], taken),
        )
    }
    if changes["critic"] is not None:
        topologies["critic"].mask(list(nets.slow[2].net.layers))
    if t % POLICY_DELAY:
        return changes
    with sac.frozen(nets.critic):
        action, log_prob = nets.policy(obs[0], randn(drawing, *shape))
        q = nets.critic(nets.seen(obs[0]).detach()[None], action)
        changes["actor"] = descend(
            *(sac.actor_loss(q, log_prob, alpha), topologies["actor"], optimizers["actor"], t),
            lambda: learner.hidden("actor", obs[0], taken),
        )
    optimizers["alpha"].zero_grad(set_to_none=True)
    entropy = -float(shape[-1])
    sac.temperature_loss(nets.log_alpha, log_prob, entropy).sum().backward()
    optimizers["alpha"].step()
    followed = (nets.convolutions, nets.critic_projection, nets.critic)
    for slow, fast in zip(nets.slow, followed, strict=True):
        sac.polyak(slow, fast, cfg.tau)
    return changes


def mend(
    learner: Learner,
    batch: PixelBatch,
    remedy: str,
    cfg: DrQConfig,
    renewing: Any,
    t: int,
    updates: int,
) -> None:
    """ReDo, or a reset of the trunks' last layers in the middle of training."""
    for name in ("critic", "actor"):
        layers, optimizer = learner.layers(name), learner.optimizers[name]
        if remedy == "redo" and t % cfg.redo_every == 0:
            redo(layers, learner.hidden(name, batch.obs, batch.action[None]), optimizer, renewing)
        if remedy == "reset" and t == updates // 2:
            slow = list(learner.nets.slow[2].net.layers) if name == "critic" else layers
            reset(layers, slow, optimizer, renewing)


@torch.no_grad()
def looked_at(learner: Learner, buffer: FrameBuffer, cfg: DrQConfig) -> dict[str, Tensor]:
    """Inactive and dormant shares, FAU and density of both trunks. [1] each."""
    generator = seed_generators([cfg.seed], 8, buffer.first.device)[0]
    looked = buffer.sample(generator, cfg.batch)
    found = {}
    for name in ("critic", "actor"):
        hidden = learner.hidden(name, looked.obs, looked.action[None])
        each = {"inactive": share_of(inactive, hidden), "dormant": share_of(is_dormant, hidden)}
        each |= {"fau": fau(hidden), "density": learner.topologies[name].density}
        found |= {f"{name}_{key}": per_seed(x, 1) for key, x in each.items()}
    return found


if __name__ == "__main__":
    run_cli(train, DrQConfig)
