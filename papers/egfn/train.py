"""One run: one method, one task, all its seeds (and all their agents) in stacked networks.

    python -m papers.egfn.train --method egfn-db --task grid-l --seed 0 1 2 --out DIR

Methods: methods.METHODS. Tasks: the hypergrids of task.GRIDS, ab10, qm9str; seh has its own loop in
molecules.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import UserError, choose
from common.gfn import metrics
from common.gfn.coordinates import sample_states
from common.gfn.exact import terminating_distribution
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP, adam_with_log_Z
from common.gfn.sampling import Trajectories, uniforms
from common.run import Run
from common.stacked import seed_generators
from common.torch_utils import setup
from papers.egfn import task as tasks
from papers.egfn.baselines import renew
from papers.egfn.config import Config, evolution
from papers.egfn.method import (
    Evolution,
    PrioritisedReplay,
    combined_loss,
    evolve,
    fitness,
    polluted_fitness,
)
from papers.egfn.methods import METHODS, Learner
from papers.egfn.star import (
    Env,
    by_seed,
    log_pf_of_all_states,
    network,
    residual_parts,
    walk_back,
)

ENUMERABLE = 10_000  # states up to which the exact L1 is computed
WINDOW = 200_000  # last training samples of the empirical metrics [paper]
STREAMS = ("star", "walks", "evolve", "back")  # uses of randomness, one generator each and seed


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    method = METHODS[cfg.method]
    choose("task", cfg.task, tasks.TASKS)
    if cfg.task == "seh":
        from papers.egfn.molecules import train_molecules  # needs RDKit

        train_molecules(cfg)
        return
    if method.objective == "fm" and cfg.task in tasks.STRING_TASKS:
        raise UserError("FM is there for the hypergrids only; choose a DB or TB method")
    table = tasks.qm9_table(cfg.table) if cfg.task == "qm9str" else None
    train_states(cfg, method, Run.open(cfg.out, cfg), table)


def train_states(cfg: Config, method: Learner, run: Run, table: np.ndarray | None) -> None:
    """The loop on hypergrids and strings."""
    device = setup(cfg.device, cfg.seed[0])
    env = make_env(cfg.task, table, device)
    evo, n_seeds = evolution(cfg), len(cfg.seed)
    batch = cfg.batch + evo.n_agents * evo.episodes if method.same_calls else cfg.batch
    parts = build(cfg, env, evo, device)
    net, log_Z, buffer, generators = parts.net, parts.log_Z, parts.buffer, parts.generators
    measured = Measured(cfg, env, table, n_seeds, batch)
    kept = run.keep(**vars(parts), **measured.kept(), calls=0, walked=0.0, scores=parts.scores(evo))

    for step in run.steps(cfg.steps, then=lambda: measured.results(net)):
        if parts.population is not None:
            # 1. evaluate every agent on its own episodes, and 2. evolve
            walks, reward, kept.scores = parts.walk(env, evo, method, cfg.replay)
            measured.mark(walks.last, "all")
            kept.calls += reward.shape[1]
            kept.walked = float(walks.length.double().mean())
            parts.next_generation(kept.scores, evo, method)

        # 3. the star's own trajectories
        traj = sample_states(net, env, uniforms(generators["star"], (env.max_length, batch)))
        reward = env.log_reward(traj.last).double().exp()
        kept.calls += batch

        # 4. train it on them and on replayed ones
        batches = [traj]
        if buffer is not None:
            buffer.insert(traj, reward)
            replayed = buffer.trajectories(buffer.draw(parts.rngs["replay"], cfg.replay), device)
            if method.objective == "fm":
                u = uniforms(generators["back"], (env.max_length, cfg.replay))
                replayed = walk_back(env, replayed.last, u.transpose(0, 1))
            batches.append(replayed)
        loss = combined_loss(
            [residual_parts(method.objective, net, env, each, log_Z) for each in batches]
        )
        parts.optimizer.zero_grad()
        loss.sum().backward()
        parts.optimizer.step()

        measured.mark(traj.last, "star", "all")
        measured.remember(traj.last, reward, step)
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            run.log(
                step + 1,
                reward_calls=kept.calls,
                loss=loss.tolist(),
                length_star=traj.length.double().mean(-1).tolist(),
                length_population=kept.walked,
                fitness=kept.scores.amax(-1).tolist() if parts.population is not None else [],
                **measured.so_far(step + 1, net, buffer, device),
                **({} if log_Z is None else {"log_Z": log_Z.tolist()}),
            )


# -- what is trained ----------------------------------------------------------------------------


@dataclass
class Parts:
    """The star, the population and the buffer, with their streams of randomness."""

    net: StackedMLP  # the star
    log_Z: nn.Parameter | None  # [S], TB
    optimizer: torch.optim.Optimizer
    population: StackedMLP | None  # [S K] agents that no gradient touches
    buffer: PrioritisedReplay | None
    generators: dict[str, list[torch.Generator]]
    rngs: dict[str, list[np.random.Generator]]

    def scores(self, evo: Evolution) -> Tensor:
        """Fitness before the first generation. [S, K]."""
        return torch.zeros(len(self.generators["star"]), evo.n_agents)

    def walk(
        self, env: Env, evo: Evolution, method: Learner, n_replayed: int
    ) -> tuple[Trajectories, Tensor, Tensor]:
        """Every agent's own episodes, into the buffer: walks, rewards [S, K E], fitness [S, K]."""
        assert self.population is not None
        shape = (evo.n_agents, env.max_length, evo.episodes)
        u = uniforms(self.generators["walks"], shape).flatten(0, 1)
        walks = by_seed(sample_states(self.population, env, u), len(self.generators["walks"]))
        reward = env.log_reward(walks.last).double().exp()
        own = reward.unflatten(1, (evo.n_agents, evo.episodes))
        scores, buffer = fitness(own), self.buffer
        if method.polluted and buffer is not None and buffer.size.min() > 0:
            n = evo.n_agents * n_replayed
            replayed = buffer.rewards(buffer.draw(self.rngs["replay"], n)).to(own.device)
            scores = polluted_fitness(own, replayed.unflatten(1, (evo.n_agents, n_replayed)))
        if buffer is not None:
            buffer.insert(walks, reward)
        return walks, reward, scores

    def next_generation(self, scores: Tensor, evo: Evolution, method: Learner) -> None:
        """Evolve the population, or draw it anew."""
        assert self.population is not None
        if method.population != "evolved":
            noise = evo if method.population == "noisy" else None
            renew(self.population, self.generators["evolve"], noise)
            return
        star = [x.detach() for layer in self.net.weights() for x in layer]
        evolve(
            [x for layer in self.population.weights() for x in layer],
            scores,
            evo,
            self.rngs["select"],
            self.generators["evolve"],
            star=star if method.feedback else None,
        )


def build(cfg: Config, env: Env, evo: Evolution, device: torch.device) -> Parts:
    """The star, the population (born agent by agent from the seed's generator) and the buffer."""
    method, n_seeds = METHODS[cfg.method], len(cfg.seed)
    net = network(seed_generators(cfg.seed, 0), env).to(device)
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device)) if method.objective == "tb" else None
    lr = cfg.lr or (1e-4 if method.objective == "fm" else 1e-3)
    optimizer, _ = adam_with_log_Z(net, log_Z, lr=lr, lr_log_Z=cfg.lr_log_Z)
    generators = {name: seed_generators(cfg.seed, i, device) for i, name in enumerate(STREAMS, 1)}
    rngs = {
        name: [np.random.default_rng((i, seed)) for seed in cfg.seed]
        for i, name in enumerate(("select", "replay"))
    }
    population = buffer = None
    if method.population != "none" and evo.n_agents:
        births = [g for g in seed_generators(cfg.seed, 9) for _ in range(evo.n_agents)]
        population = network(births, env).to(device).requires_grad_(False)
    if method.replay is not None and cfg.replay > 0:
        buffer = PrioritisedReplay(
            n_seeds,
            cfg.capacity,
            env.max_length,
            tuple(env.initial(()).shape),
            rule=method.replay,
            ties=method.ties,
            percentile=cfg.percentile,
            top_share=cfg.top_share,
        )
    return Parts(net, log_Z, optimizer, population, buffer, generators, rngs)


# -- what is measured ---------------------------------------------------------------------------


class Measured:
    """Regions found so far, and the star's last samples.

    Args:
        cfg: of the run.
        env: the environment.
        table: the rewards of qm9str.
        n_seeds: S.
        batch: the star's own trajectories per step.
    """

    def __init__(
        self, cfg: Config, env: Env, table: np.ndarray | None, n_seeds: int, batch: int
    ) -> None:
        self.cfg, self.env, self.table, self.batch = cfg, env, table, batch
        self.window = min(cfg.steps, max(WINDOW // batch, 1)) * batch
        self.codes = torch.zeros(n_seeds, self.window, dtype=torch.long)  # the star's samples
        self.rewards = torch.zeros(n_seeds, self.window, dtype=torch.float64)
        self.n_regions = 2**env.ndim if isinstance(env, HyperGrid) else 1
        self.found = {
            who: torch.zeros(n_seeds, self.n_regions, dtype=torch.bool) for who in ("star", "all")
        }
        self.dag = None
        if isinstance(env, HyperGrid) and env.n_states <= ENUMERABLE:
            self.dag = env.dag().to(env.device)

    def kept(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"codes": self.codes, "rewards": self.rewards, "found": self.found}

    def mark(self, objects: Tensor, *who: str) -> None:
        """Mark the regions that ``objects`` [S, B, D] lie in as found by ``who``."""
        if isinstance(self.env, HyperGrid):
            for name in who:
                marked = metrics.mark_regions(self.found[name], self.env.region(objects).cpu())
                self.found[name].copy_(marked)

    def remember(self, objects: Tensor, reward: Tensor, step: int) -> None:
        """Keep the star's samples of a step."""
        metrics.remember(self.codes, self.env.index(objects).cpu(), step)
        metrics.remember(self.rewards, reward.cpu(), step)

    def so_far(
        self, steps: int, net: StackedMLP, buffer: PrioritisedReplay | None, device: torch.device
    ) -> dict[str, list[float]]:
        """What is logged besides the loss."""
        logged: dict[str, list[float]] = {}
        seen = min(steps * self.batch, self.window)
        if isinstance(self.env, HyperGrid):
            logged["regions_star"] = self.found["star"].sum(-1).tolist()
            logged["regions_all"] = self.found["all"].sum(-1).tolist()
            if buffer is not None:
                held = [torch.from_numpy(buffer.objects(s)) for s in range(len(self.codes))]
                logged["buffer_distinct"] = [len(x.unique(dim=0)) for x in held]
                inside = [self.env.region(x.to(device)).unique() for x in held]
                logged["buffer_regions"] = [int((x >= 0).sum()) for x in inside]
        else:
            codes, rewards = self.codes[:, :seen], self.rewards[:, :seen]
            logged |= string_metrics(self.cfg.task, codes, rewards, self.table)
        if self.dag is not None:
            log_pf = log_pf_of_all_states(net, self.env)
            logged["l1_sum_exact"] = metrics.l1_sum_exact(self.dag, log_pf).tolist()
        return logged

    def results(self, net: StackedMLP) -> dict[str, Any]:
        """What is measured once at the end."""
        seen = min(self.cfg.steps * self.batch, self.window)
        final: dict[str, Any] = {"seen": seen, "n_regions": self.n_regions}
        if isinstance(self.env, HyperGrid):
            spec = tasks.GRIDS[self.cfg.task]
            final["l1_mean_empirical"] = empirical_l1(spec, self.codes, self.rewards)
        if self.dag is not None and self.env.n_states <= 1024:
            log_pf = log_pf_of_all_states(net, self.env)
            final["p_terminal"] = terminating_distribution(self.dag, log_pf).float().cpu()
            final["target"] = self.dag.target().float().cpu()
        return final


def make_env(task: str, table: np.ndarray | None, device: torch.device) -> Env:
    """The environment of a task (``table``: the rewards of qm9str)."""
    if task in tasks.GRIDS:
        return tasks.GRIDS[task].env(device)
    return tasks.ab10_env(device) if table is None else tasks.qm9_env(table, device)


def empirical_l1(spec: tasks.GridSpec, codes: Tensor, rewards: Tensor) -> list[float]:
    """Mean over all objects of |frequency - p*(x)| (objects not sampled count with p*). [S]."""
    result = []
    for of_seed, reward in zip(codes.numpy(), rewards.numpy(), strict=True):
        _, first, count = np.unique(of_seed, return_index=True, return_counts=True)
        target = reward[first] / spec.Z
        gap = np.abs(count / len(of_seed) - target).sum() + 1 - target.sum()
        result.append(float(gap / spec.n_objects))
    return result


def string_metrics(
    task: str, codes: Tensor, rewards: Tensor, table: np.ndarray | None
) -> dict[str, list[float]]:
    """Metrics of the star's samples so far (codes and rewards [S, n])."""
    logged: dict[str, list[float]] = {"mean_reward": rewards[:, -4000:].mean(-1).tolist()}
    top, hits = [], []
    threshold = 2 ** ((50 - tasks.STABLE) / 10) if table is None else np.quantile(table, 0.995)
    for of_seed, reward in zip(codes.numpy(), rewards.numpy(), strict=True):
        _, first = np.unique(of_seed, return_index=True)
        best = np.sort(reward[first])[::-1]
        top.append(float(best[:100].mean()))
        beyond = best > threshold if table is None else best >= threshold
        hits.append(float(beyond.sum()))
    logged["top100"], logged["stable" if table is None else "modes"] = top, hits
    if table is not None:
        expected = float((table**2).sum() / table.sum())
        logged["relative_mean_error"] = ((rewards.mean(-1) - expected).abs() / expected).tolist()
    return logged


if __name__ == "__main__":
    run_cli(train, Config)
