"""The paper's fragment molecules (scale ``paper``): DB with and without EGFN on the sEH task.

Needs two files of the first GFlowNet release in $PAPERS_DATA/seh (see the README); the MDP, the
proxy and its reward are in ``common.gfn.fragments``. The loop is that of ``train.py`` with
fragment trees for states and a message-passing network; one seed per run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.gfn.fragment_nets import FragmentNetworks
from common.gfn.fragments import FragmentEnv, ProxyReward, data_file, load_fragments, load_proxy
from common.gfn.objectives import Pair, Visited, training_pairs
from common.gfn.sampling import Trajectories, masked_log_softmax, sample, uniforms
from common.run import Run
from common.stacked import (
    adam,
    seed_generators,
)
from common.torch_utils import setup
from papers.egfn.method import Evolution, PrioritisedReplay, combined_loss, evolve, fitness
from papers.egfn.methods import METHODS
from papers.egfn.star import by_seed

if TYPE_CHECKING:
    from papers.egfn.config import Config

LR = 5e-4  # Adam [authors' code]
TOP_K = 100  # molecules of the top-k metric


def residual_parts(
    net: FragmentNetworks, traj: Trajectories, log_reward: Tensor
) -> list[tuple[Pair, Tensor]]:
    """DB along trajectories [1, B, ...], uniform P_B over the fragments that may have come last."""
    env = net.env
    before, after = traj.states[:, :, :-1], traj.states[:, :, 1:]
    logits, log_flow = net(before.flatten(1, 2))
    shape = traj.actions.shape
    log_pf = masked_log_softmax(logits.view(*shape, -1), env.forward_mask(before))
    log_pf = log_pf.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
    log_pb = -env.leaves(after).sum(-1).clamp(min=1).float().log()
    log_pb = torch.where(traj.actions == env.stop, 0.0, log_pb)
    visited = Visited(
        log_pf=log_pf,
        log_pb=log_pb,
        log_flow=nn.functional.pad(log_flow.view(shape), (0, 1)),
        log_p_stop=None,
        log_reward=None,
        log_reward_last=log_reward.float(),
    )
    return training_pairs("db", visited, traj.actions, traj.mask, stop=env.stop)


def evolution(cfg: Config) -> Evolution:
    """The population's settings, with mutations per weight."""
    return Evolution(
        n_agents=cfg.n_agents,
        n_elites=cfg.n_elites,
        episodes=cfg.episodes,
        tournament=cfg.tournament,
        crossover=cfg.crossover,
        mutation=cfg.mutation,
        per_weight=True,
    )


def rewards_of(reward: ProxyReward, traj: Trajectories) -> tuple[Tensor, Tensor, list[str]]:
    """Rewards [1, n] in float64, proxy scores [n] and SMILES of the finished molecules."""
    of_objects, names = reward(traj.last[0])
    return reward.log_reward(of_objects).double().exp().unsqueeze(0), of_objects, names


def best_of(found: dict[str, float]) -> dict[str, float]:
    """The best of what was found, once that is ten times what is asked for."""
    if len(found) <= 10 * TOP_K:
        return found
    return dict(sorted(found.items(), key=lambda kv: -kv[1])[: 5 * TOP_K])


def train_molecules(cfg: Config) -> None:
    """DB, DB + PRB or EGFN-DB on fragment molecules."""
    method = METHODS[cfg.method]
    if len(cfg.seed) != 1:
        raise UserError("the molecule task trains one seed per run; give one --seed")
    if method.objective != "db" or method.polluted or method.same_calls:
        raise UserError("the molecule task is there for DB, DB + PRB and EGFN-DB")
    fragments = load_fragments(data_file(cfg.fragments))
    proxy = load_proxy(data_file(cfg.proxy))
    run = Run.open(cfg.out, cfg)
    device = setup(cfg.device, cfg.seed[0])
    env = FragmentEnv(fragments, max_blocks=cfg.max_blocks, device=device)
    reward = ProxyReward(env, proxy.to(device))
    evo = evolution(cfg)
    star = FragmentNetworks(seed_generators(cfg.seed, 0), env, cfg.width).to(device)
    optimizer = adam([{"params": list(star.parameters())}], lr=cfg.lr or LR)
    population = None
    if method.population == "evolved":
        births = [g for g in seed_generators(cfg.seed, 9) for _ in range(evo.n_agents)]
        population = FragmentNetworks(births, env, cfg.width).to(device).requires_grad_(False)
    buffer = None
    if method.replay is not None:
        shape = (env.max_blocks, 3)
        buffer = PrioritisedReplay(1, cfg.capacity, env.max_length, shape, rule=method.replay)
    generators = {
        name: seed_generators(cfg.seed, i, device) for i, name in enumerate(("own", "walks"), 1)
    }
    generators["evolve"] = seed_generators(cfg.seed, 3, device)
    rngs = {
        name: [np.random.default_rng((i, cfg.seed[0]))]
        for i, name in enumerate(("select", "replay"))
    }
    learnt = {"star": star, "optimizer": optimizer, "population": population, "buffer": buffer}
    random = {"generators": generators, "rngs": rngs}
    # The star's best distinct molecules (SMILES -> proxy score); scores since the last evaluation.
    kept = run.keep(**learnt, **random, proxy=reward, best={}, scores=[])

    for step in run.steps(cfg.steps):
        if population is not None and buffer is not None:
            u = uniforms(generators["walks"], (evo.n_agents, env.max_length, evo.episodes))
            walks = by_seed(sample(env, lambda s: population(s)[0], u.flatten(0, 1)), 1)
            values, _, _ = rewards_of(reward, walks)
            buffer.insert(walks, values)
            evolve(
                list(population.parameters()),
                fitness(values.unflatten(1, (evo.n_agents, evo.episodes))),
                evo,
                rngs["select"],
                generators["evolve"],
                star=[p.detach() for p in star.parameters()] if method.feedback else None,
            )
        u = uniforms(generators["own"], (env.max_length, cfg.batch))
        traj = sample(env, lambda s: star(s)[0], u)
        values, of_objects, names = rewards_of(reward, traj)
        parts = [residual_parts(star, traj, values.log())]
        if buffer is not None:
            buffer.insert(traj, values)
            places = buffer.draw(rngs["replay"], cfg.replay)
            replayed = buffer.trajectories(places, device)
            parts.append(residual_parts(star, replayed, buffer.rewards(places).log().to(device)))
        loss = combined_loss(parts)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()

        kept.scores = kept.scores + of_objects.tolist()
        kept.best = best_of(kept.best | dict(zip(names, of_objects.tolist(), strict=True)))
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            top = sorted(kept.best.values(), reverse=True)[:TOP_K]
            run.log(
                step + 1,
                mean_score=[sum(kept.scores) / len(kept.scores)],
                top_score=[sum(top) / len(top)],
                reward_calls=reward.calls,
                loss=loss.tolist(),
            )
            kept.scores = []
