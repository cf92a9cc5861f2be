"""One run: one method, one task, all its seeds (and all their agents) in stacked networks.

    python -m papers.egfn.train --method egfn-db --task grid-l --seed 0 1 2 --out DIR

Methods: baselines.METHODS. Tasks: the hypergrids of task.GRIDS, ab10, qm9str; seh has its own
loop in molecules.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import UserError, choose
from common.gfn import metrics
from common.gfn.coordinates import sample_states
from common.gfn.exact import terminating_distribution
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import adam_with_log_Z
from common.gfn.sampling import uniforms
from common.run import Run
from common.stacked import generator_states, restore_generators, seed_generators
from common.torch_utils import setup
from papers.egfn import task as tasks
from papers.egfn.baselines import METHODS, renew
from papers.egfn.method import (
    Evolution,
    PrioritisedReplay,
    combined_loss,
    evolve,
    fitness,
    polluted_fitness,
)
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


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "egfn-db"  # a line of baselines.METHODS
    task: str = "grid-s"  # grid-s, grid-m, grid-l, grid-l3, map, ab10, qm9str, seh, ...
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2500  # gradient steps [code]
    batch: int = 16  # the star's own trajectories per step [code]
    replay: int = 16  # replayed trajectories per step [code]
    eval_every: int = 100  # steps between evaluations
    lr: float | None = None  # Adam; default 1e-3 (FM: 1e-4; seh: 5e-4) [code]
    lr_log_Z: float = 0.1  # of log Z (TB) [code]
    n_agents: int = 5  # K [code; antibody, molecules: 10]
    n_elites: int = 2  # protected copies [code]
    episodes: int = 4  # E, trajectories per agent and step [code; antibody: 10]
    tournament: int = 4  # ranks drawn per offspring [code]
    mutation: float = 0.9  # probability that a tensor is changed [code]
    strength: float = 1.0  # gamma, standard deviation of the noise [code]
    crossover: float = 0.1  # probability that two offspring are crossed [code]
    capacity: int = 1000  # of the buffer [code]
    percentile: float = 0.9  # where the buffer's top begins [code]
    top_share: float = 0.5  # of a draw from the top [code]
    table: str = "qm9str.npy"  # qm9str: rewards in $PAPERS_DATA/qm9
    fragments: str = "blocks_PDB_105.json"  # seh: fragment list in $PAPERS_DATA/seh
    proxy: str = "seh_proxy.npz"  # seh: proxy weights in $PAPERS_DATA/seh
    width: int = 256  # seh: width of the policy network [code]
    max_blocks: int = 8  # seh: fragments per molecule


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, tasks.TASKS)
    if cfg.task == "seh":
        from papers.egfn.molecules import train_molecules

        train_molecules(cfg)
        return
    method = METHODS[cfg.method]
    if method.objective == "fm" and cfg.task in tasks.STRING_TASKS:
        raise UserError("FM is there for the hypergrids only; choose a DB or TB method")
    table = tasks.qm9_table(cfg.table) if cfg.task == "qm9str" else None
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    env = make_env(cfg.task, table, device)
    evo = evolution(cfg)
    n_seeds = len(cfg.seed)
    batch = cfg.batch + evo.n_agents * evo.episodes if method.same_calls else cfg.batch

    # the star
    net = network(seed_generators(cfg.seed, 0), env).to(device)
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device)) if method.objective == "tb" else None
    lr = cfg.lr or (1e-4 if method.objective == "fm" else 1e-3)
    optimizer, _ = adam_with_log_Z(net, log_Z, lr=lr, lr_log_Z=cfg.lr_log_Z)
    # the population: initialised agent by agent from the seed's generator, and its weights
    generators = {name: seed_generators(cfg.seed, i, device) for i, name in enumerate(STREAMS, 1)}
    rngs = {
        name: [np.random.default_rng((i, seed)) for seed in cfg.seed]
        for i, name in enumerate(("select", "replay"))
    }
    population = None
    if method.population != "none" and evo.n_agents:
        births = [g for g in seed_generators(cfg.seed, 9) for _ in range(evo.n_agents)]
        population = network(births, env).to(device).requires_grad_(False)
    buffer = None
    if method.replay is not None and cfg.replay > 0:
        shape = env.initial(()).shape
        buffer = PrioritisedReplay(
            n_seeds,
            cfg.capacity,
            env.max_length,
            tuple(shape),
            rule=method.replay,
            ties=method.ties,
            percentile=cfg.percentile,
            top_share=cfg.top_share,
        )
    window = min(cfg.steps, max(WINDOW // batch, 1)) * batch
    codes = torch.zeros(n_seeds, window, dtype=torch.long)  # the star's samples
    rewards = torch.zeros(n_seeds, window, dtype=torch.float64)
    n_regions = 2**env.ndim if isinstance(env, HyperGrid) else 1
    found = {who: torch.zeros(n_seeds, n_regions, dtype=torch.bool) for who in ("star", "all")}
    dag = None
    if isinstance(env, HyperGrid) and env.n_states <= ENUMERABLE:
        dag = env.dag().to(device)
    calls, walked, scores = 0, 0.0, torch.zeros(n_seeds, evo.n_agents)

    step = 0
    state = run.restore()
    if state:
        step, calls, walked = state["step"], state["calls"], state["walked"]
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        if log_Z is not None:
            log_Z.data.copy_(state["log_Z"])
        if population is not None:
            population.load_state_dict(state["population"])
        if buffer is not None:
            buffer.load(state["buffer"])
        for name, states in state["generators"].items():
            restore_generators(generators[name], states)
        for name, states in state["rngs"].items():
            for rng, kept in zip(rngs[name], states, strict=True):
                rng.bit_generator.state = kept
        codes, rewards, scores = state["codes"], state["rewards"], state["scores"]
        found = dict(state["found"])

    def checkpoint() -> dict[str, object]:
        return {
            "step": step,
            "calls": calls,
            "walked": walked,
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "log_Z": None if log_Z is None else log_Z.data,
            "population": None if population is None else population.state_dict(),
            "buffer": None if buffer is None else buffer.state(),
            "generators": {name: generator_states(g) for name, g in generators.items()},
            "rngs": {name: [r.bit_generator.state for r in of] for name, of in rngs.items()},
            "codes": codes,
            "rewards": rewards,
            "scores": scores,
            "found": found,
        }

    def mark(objects: Tensor, *who: str) -> None:
        if isinstance(env, HyperGrid):
            for name in who:
                found[name] = metrics.mark_regions(found[name], env.region(objects).cpu())

    while step < cfg.steps:
        if population is not None:
            # 1. evaluate: every agent's own episodes
            shape = (evo.n_agents, env.max_length, evo.episodes)
            u = uniforms(generators["walks"], shape).flatten(0, 1)
            walks = by_seed(sample_states(population, env, u), n_seeds)  # [S, K*E, ...]
            reward = env.log_reward(walks.last).double().exp()
            own = reward.unflatten(1, (evo.n_agents, evo.episodes))
            scores = fitness(own)
            if method.polluted and buffer is not None and buffer.size.min() > 0:
                n = evo.n_agents * cfg.replay
                replayed = buffer.rewards(buffer.draw(rngs["replay"], n)).to(own.device)
                scores = polluted_fitness(own, replayed.unflatten(1, (evo.n_agents, cfg.replay)))
            if buffer is not None:
                buffer.insert(walks, reward)
            mark(walks.last, "all")
            calls += reward.shape[1]
            walked = float(walks.length.double().mean())
            # 2. evolve
            agents = [x for layer in population.weights() for x in layer]
            if method.population == "evolved":
                star = [x.detach() for layer in net.weights() for x in layer]
                evolve(
                    agents,
                    scores,
                    evo,
                    rngs["select"],
                    generators["evolve"],
                    star=star if method.feedback else None,
                )
            else:
                noise = evo if method.population == "noisy" else None
                renew(population, generators["evolve"], noise)

        # 3. the star's own trajectories
        traj = sample_states(net, env, uniforms(generators["star"], (env.max_length, batch)))
        reward = env.log_reward(traj.last).double().exp()
        calls += batch

        # 4. train it on them and on replayed ones
        batches = [traj]
        if buffer is not None:
            buffer.insert(traj, reward)
            replayed = buffer.trajectories(buffer.draw(rngs["replay"], cfg.replay), device)
            if method.objective == "fm":
                u = uniforms(generators["back"], (env.max_length, cfg.replay))
                replayed = walk_back(env, replayed.last, u.transpose(0, 1))
            batches.append(replayed)
        loss = combined_loss(
            [residual_parts(method.objective, net, env, each, log_Z) for each in batches]
        )
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()

        mark(traj.last, "star", "all")
        metrics.remember(codes, env.index(traj.last).cpu(), step)
        metrics.remember(rewards, reward.cpu(), step)
        step += 1
        if step % cfg.eval_every == 0 or step == cfg.steps:
            logged: dict[str, list[float]] = {}
            seen = min(step * batch, window)
            if isinstance(env, HyperGrid):
                logged["regions_star"] = found["star"].sum(-1).tolist()
                logged["regions_all"] = found["all"].sum(-1).tolist()
                if buffer is not None:
                    held = [torch.from_numpy(buffer.objects(s)) for s in range(n_seeds)]
                    logged["buffer_distinct"] = [len(x.unique(dim=0)) for x in held]
                    inside = [env.region(x.to(device)).unique() for x in held]
                    logged["buffer_regions"] = [int((x >= 0).sum()) for x in inside]
            else:
                logged |= string_metrics(cfg.task, codes[:, :seen], rewards[:, :seen], table)
            if dag is not None:
                log_pf = log_pf_of_all_states(net, env)
                logged["l1_sum_exact"] = metrics.l1_sum_exact(dag, log_pf).tolist()
            if log_Z is not None:
                logged["log_Z"] = log_Z.tolist()
            run.log(
                step,
                reward_calls=calls,
                loss=loss.tolist(),
                length_star=traj.length.double().mean(-1).tolist(),
                length_population=walked,
                fitness=scores.amax(-1).tolist() if population is not None else [],
                **logged,
            )
        if run.due(step):
            run.save(step, checkpoint())

    final = {"seen": min(cfg.steps * batch, window), "n_regions": n_regions}
    if isinstance(env, HyperGrid):
        final["l1_mean_empirical"] = empirical_l1(tasks.GRIDS[cfg.task], codes, rewards)
    if dag is not None and env.n_states <= 1024:
        log_pf = log_pf_of_all_states(net, env)
        final["p_terminal"] = terminating_distribution(dag, log_pf).float().cpu()
        final["target"] = dag.target().float().cpu()
    run.finish({**checkpoint(), **final})


STREAMS = ("star", "walks", "evolve", "back")  # uses of randomness, one generator each and seed


def make_env(task: str, table: np.ndarray | None, device: torch.device) -> Env:
    """The environment of a task (``table``: the rewards of qm9str)."""
    if task in tasks.GRIDS:
        return tasks.GRIDS[task].env(device)
    return tasks.ab10_env(device) if table is None else tasks.qm9_env(table, device)


def evolution(cfg: Config) -> Evolution:
    """The population's hyperparameters: the flags, and what the method leaves out."""
    method = METHODS[cfg.method]
    return Evolution(
        n_agents=cfg.n_agents,
        n_elites=cfg.n_elites,
        episodes=cfg.episodes,
        tournament=cfg.tournament,
        crossover=cfg.crossover if method.crossover else 0.0,
        fill_crossover=method.crossover,
        mutation=cfg.mutation if method.mutation else 0.0,
        strength=cfg.strength,
    )


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
