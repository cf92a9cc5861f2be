"""Tasks too large to be enumerated (scale ``paper``): RNA strings of length 14, sEH fragments.

A batch is turned into a small DAG of its own: the states that its trajectories visit and all their
parents. Losses and baselines are then those of the enumerated tasks (method.py, baselines.py).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.gfn.fragment_nets import FragmentNetworks
from common.gfn.fragments import (
    FragmentEnv,
    ProxyReward,
    data_file,
    load_fragments,
    load_proxy,
    mean_similarity,
)
from common.gfn.local_dag import LocalDAG, fragments_around, strings_around, with_last_stop
from common.gfn.nets import StackedMLP, adam_with_log_Z
from common.gfn.objectives import loss_per_seed
from common.gfn.rows import whole
from common.gfn.sampling import Trajectories, sample, uniforms
from common.gfn.strings import StringEnv
from common.run import Run
from common.stacked import seed_generators
from common.torch_utils import setup
from papers.bn.baselines import make_network, pairs_of, used_rate
from papers.bn.config import Config
from papers.bn.method import BifurcatedNet
from papers.bn.methods import METHODS

TOP_K = 100  # objects of the top-k metrics
MODE_SHARE = 0.9995  # an RNA mode scores above this quantile of uniform strings ...
MODE_DISTANCE = 2  # ... and differs from every other mode in more than this many letters
PROXY_EXPONENT = 4.0  # sEH: R = (score/8)^4 [public code, methods with a backward policy]


class World(Protocol):
    """An environment with its network and its reward."""

    max_length: int
    epsilon: float
    learned_pb: bool
    net: nn.Module

    def sample(self, u: Tensor) -> Trajectories: ...
    def outputs(self, states: Tensor) -> Tensor: ...
    def score(self, objects: Tensor) -> tuple[list[float], list[str], Tensor]: ...
    def local_dag(self, states: Tensor, objects: Tensor, log_reward: Tensor) -> LocalDAG: ...
    def summary(self, known: dict[str, float]) -> float: ...


# -- RNA ------------------------------------------------------------------------------------------


class RNAWorld:
    """RNA strings under prepend and append, folded when they are met."""

    learned_pb = True
    epsilon = 0.01

    def __init__(
        self, cfg: Config, generators: list[torch.Generator], device: torch.device
    ) -> None:
        from common.gfn import rna

        length = cfg.length or 14
        self.rna, self.fitness = rna, rna.Fitness("RNA1", length)
        self.env = StringEnv("prepend_append", length, 4, lambda x: x, device=device)
        self.max_length = length
        self.threshold, self.best = self._of_uniform_strings(length, cfg.uniform_samples)
        self.net: BifurcatedNet | StackedMLP = make_network(
            cfg.method, generators, self.env.input_dim, 8, 2, cfg.width
        ).to(device)

    def _of_uniform_strings(self, length: int, n: int) -> tuple[float, float]:
        """(fitness a mode must exceed, largest fitness) of n uniform strings."""
        import RNA

        from common.gfn.tables import cached_table

        def compute() -> np.ndarray:
            strings = np.random.default_rng(0).integers(0, 4, (n, length))
            return self.fitness.of_letters(torch.from_numpy(strings)).numpy()

        name = f"rna-uniform-RNA1-{length}-{n}-{RNA.__version__}"
        values = cached_table(name, compute, n)
        return float(np.quantile(values, MODE_SHARE)), float(values.max())

    def sample(self, u: Tensor) -> Trajectories:
        return sample(
            self.env, lambda s: self.outputs(s)[..., : self.env.n_actions], u, epsilon=self.epsilon
        )

    def outputs(self, states: Tensor) -> Tensor:
        return self.net(self.env.encode(states))

    def score(self, objects: Tensor) -> tuple[list[float], list[str], Tensor]:
        fitness = self.fitness.of_letters(objects)
        log_reward = self.rna.log_reward(fitness, 8.0, top=self.best)
        names = ["".join(self.rna.LETTERS[i] for i in row) for row in objects.tolist()]
        return fitness.tolist(), names, log_reward.to(objects.device)

    def local_dag(self, states: Tensor, objects: Tensor, log_reward: Tensor) -> LocalDAG:
        return strings_around(self.env, states, log_reward, objects, children=False)

    def summary(self, known: dict[str, float]) -> float:
        """Modes found: good strings, best first, that differ enough from those counted before."""
        good = sorted((s for s in known if known[s] > self.threshold), key=lambda s: -known[s])
        modes = np.zeros((0, self.max_length), np.uint8)
        for name in good:
            letters = np.frombuffer(name.encode(), np.uint8)
            if ((modes != letters).sum(1) > MODE_DISTANCE).all():
                modes = np.concatenate([modes, letters[None]])
        return float(len(modes))


# -- sEH fragments --------------------------------------------------------------------------------


class SEHWorld:
    """Fragment molecules scored by the user's proxy. A full molecule is given a stop action too."""

    learned_pb = False
    epsilon = 0.05

    def __init__(
        self, cfg: Config, generators: list[torch.Generator], device: torch.device
    ) -> None:
        if not METHODS[cfg.method].molecules:
            raise UserError(f"--task seh has no method {cfg.method}")
        self.env = FragmentEnv(
            load_fragments(data_file(cfg.fragments)), max_blocks=cfg.max_blocks, device=device
        )
        proxy = load_proxy(data_file(cfg.proxy)).to(device)
        self.reward = ProxyReward(self.env, proxy, exponent=PROXY_EXPONENT)
        self.max_length = self.env.max_length
        self.kind = METHODS[cfg.method]
        self.net = FragmentNetworks(generators, self.env, cfg.width, own_flow=True).to(device)

    def outputs(self, states: Tensor) -> Tensor:
        """Fragment per stem and stop, unused backward logits (P_B is uniform), log F."""
        logits, log_flow = self.net(states)
        heads = [logits]
        if self.kind.backward:
            heads.append(logits.new_zeros(*logits.shape[:-1], self.env.n_backward))
        if self.kind.flow:
            heads.append(log_flow.unsqueeze(-1))
        return torch.cat(heads, -1)

    def sample(self, u: Tensor) -> Trajectories:
        env = self.env
        traj = sample(env, lambda s: self.outputs(s)[..., : env.n_actions], u, epsilon=self.epsilon)
        return with_last_stop(traj, env.stop)

    def score(self, objects: Tensor) -> tuple[list[float], list[str], Tensor]:
        scores, names = self.reward(objects)
        return scores.tolist(), names, self.reward.log_reward(scores)

    def local_dag(self, states: Tensor, objects: Tensor, log_reward: Tensor) -> LocalDAG:
        return fragments_around(self.env, states, log_reward, objects)

    def summary(self, known: dict[str, float]) -> float:
        """Mean pairwise Tanimoto similarity of the best molecules; 0 below two."""
        names = sorted(known, key=lambda s: -known[s])[:TOP_K]
        return mean_similarity(names) if len(names) > 1 else 0.0


class Scores(dict[str, float]):
    """Every object met by name, with its score; in a checkpoint one text and one tensor."""

    def state(self) -> dict[str, Any]:
        return {
            "names": " ".join(self),
            "scores": torch.tensor(list(self.values()), dtype=torch.float64),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.clear()
        self.update(zip(state["names"].split(), state["scores"].tolist(), strict=True))


def train_sampled(cfg: Config) -> None:
    """On-policy training of one seed; the exact distance is not to be had."""
    if len(cfg.seed) != 1:
        raise UserError(f"--task {cfg.task} trains one seed per run; give one --seed")
    kind = METHODS[cfg.method]
    if kind.objective is None:
        raise UserError(f"--task {cfg.task} has no method {cfg.method}")
    device = setup(cfg.device, cfg.seed[0])
    make = RNAWorld if cfg.task == "rna-long" else SEHWorld
    world: World = make(cfg, seed_generators(cfg.seed, 0), device)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    net = world.net
    log_Z = nn.Parameter(torch.zeros(1, device=device)) if kind.own_log_Z else None
    lr = used_rate(cfg.method, cfg.task, cfg.lr)
    optimizer, _ = adam_with_log_Z(net, log_Z, lr=lr, lr_log_Z=cfg.lr_log_Z)
    generators = seed_generators(cfg.seed, 1, device)
    known = Scores()
    recent: list[float] = []  # scores since the last evaluation
    run.keep(
        net=net,
        optimizer=optimizer,
        log_Z=log_Z,
        generators=generators,
        known=known,
        recent=recent,
    )

    for step in run.steps(cfg.steps, then=lambda: {"summary": world.summary(known)}):
        u = uniforms(generators, (world.max_length, cfg.batch))
        traj = world.sample(u)
        scores, names, log_reward = world.score(traj.last[0])
        n, length = traj.mask.shape[1], traj.mask.shape[2] + 1
        visited = traj.states[0].flatten(0, 1)  # [B * (T+1), *state]
        ends = torch.arange(n, device=device) * length + length - 1
        local = world.local_dag(visited, ends, log_reward)
        out = world.outputs(local.states.unsqueeze(0))  # each distinct state once
        traj = local.along(traj)
        pairs = pairs_of(
            cfg.method, local.dag, whole(), out, traj, log_Z, learned_pb=world.learned_pb
        )
        loss = loss_per_seed(pairs)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()

        known.update(zip(names, scores, strict=True))
        recent += scores
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            top = sorted(known.values(), reverse=True)[:TOP_K]
            run.log(
                step + 1,
                mean_score=sum(recent) / len(recent),
                top_score=sum(top) / len(top),
                reward_calls=len(known),
                loss=loss.item(),
            )
            recent.clear()
