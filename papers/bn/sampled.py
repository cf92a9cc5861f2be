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
from common.gfn.dag import EnumeratedDAG
from common.gfn.fragments import FragmentEnv, ProxyReward, data_file, load_fragments, load_proxy
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
    def local_dag(self, states: Tensor, objects: Tensor, log_reward: Tensor) -> Local: ...
    def summary(self, known: dict[str, float]) -> float: ...


class LocalStates:
    """The distinct states among those visited and their parents, and who is whose parent.

    Args:
        states: [n, *state], the visited ones.
        parents: [n, A_b, *state], parent_mask [n, A_b], parent_actions [n, A_b].
    """

    def __init__(
        self,
        states: Tensor,
        parents: Tensor,
        parent_mask: Tensor,
        parent_actions: Tensor,
    ) -> None:
        shape = states.shape[1:]
        n_backward = parent_mask.shape[1]
        every = torch.cat([states.flatten(1), parents[parent_mask].flatten(1)])
        distinct, place = torch.unique(every, dim=0, return_inverse=True)
        self.states = distinct.view(-1, *shape)  # [N, *state]
        self.visited = place[: len(states)]  # [n] rows of the visited states
        self.parents = torch.full((len(distinct), n_backward), -1, device=states.device)
        self.parent_actions = torch.zeros_like(self.parents)
        mine = torch.full_like(parent_mask, -1, dtype=torch.long)
        mine[parent_mask] = place[len(states) :]
        self.parents[self.visited] = mine
        self.parent_actions[self.visited] = parent_actions.masked_fill(~parent_mask, 0)

    def dag(
        self,
        forward_mask: Tensor,
        backward_index: Tensor,
        stop: int | None,
        objects: Tensor,
        log_reward: Tensor,
    ) -> EnumeratedDAG:
        """As the losses read it: no children. ``objects`` [m] among the n visited, log R [m]."""
        rewards = torch.full((len(self.states),), -torch.inf, dtype=torch.float64)
        rewards = rewards.to(self.states.device)
        rewards[self.visited[objects]] = log_reward.double()
        return EnumeratedDAG(
            children=torch.full_like(backward_index, -1),
            forward_mask=forward_mask,
            parents=self.parents,
            parent_actions=self.parent_actions,
            backward_index=backward_index,
            log_reward=rewards,
            level=torch.zeros_like(self.parents[:, 0]),
            stop=stop,
        )


Local = tuple[LocalStates, EnumeratedDAG]


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

    def local_dag(self, states: Tensor, objects: Tensor, log_reward: Tensor) -> Local:
        env = self.env
        back = torch.arange(2, device=states.device).expand(len(states), -1)
        twice = states.unsqueeze(1).expand(-1, 2, -1)
        local = LocalStates(
            states,
            env.backward_step(twice, back),
            env.backward_mask(states),
            env.forward_action(twice, back),
        )
        actions = torch.arange(env.n_actions, device=states.device).expand(len(local.states), -1)
        index = env.backward_action(actions).contiguous()
        return local, local.dag(env.forward_mask(local.states), index, None, objects, log_reward)

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


def fragment_parents(env: FragmentEnv, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All parents of fragment molecules: one per removable fragment (see ``env.leaves``).

    Slots are filled in the order of addition, and a fragment's slot is above its parent's. Removing
    slot j > 0 closes the gap. Removing the root (slot 0, if one fragment hangs on it) makes that
    fragment the root, whose stem 0 the old root is then added to; it must be attached by the atom
    that held the bond, so the action is another entry of the library: the same SMILES with that
    atom first. Without such an entry the MDP has no such edge.

    Args:
        states: [n, K, 3].
    Returns:
        parents [n, K, K, 3], mask [n, K], the actions that lead back [n, K].
    """
    n, n_slots, _ = states.shape
    block, parent, used = states.unbind(-1)
    slot = torch.arange(n_slots, device=states.device)
    mask = env.leaves(states).clone()
    removed = slot.view(1, -1, 1)  # j, against the slots of the result
    source = (slot + (slot >= removed)).expand(n, -1, -1)  # [n, K, K] which slot moves here
    inside = source < n_slots
    source = source.clamp(max=n_slots - 1)
    index = source.unsqueeze(-1).expand(-1, -1, -1, 3)
    moved = states.unsqueeze(1).expand(-1, n_slots, -1, -1).gather(2, index)
    empty = torch.tensor([env.n_blocks, -1, -1], device=states.device)
    moved = torch.where(inside.unsqueeze(-1), moved, empty)
    above = moved[..., 1]
    moved[..., 1] = torch.where(above > removed, above - 1, above)
    # the root went: what was in slot 1 is the root now
    new_root = moved[:, 0, 0, 0]
    nothing = torch.full_like(new_root, -1)
    moved[:, 0, 0] = torch.stack([new_root, nothing, nothing], -1)
    where = torch.where(slot == 0, torch.zeros_like(parent), parent.clamp(min=0))
    stem = torch.where(slot == 0, torch.zeros_like(used), used.clamp(min=0))
    new_block = block.clamp(max=env.n_blocks - 1).clone()
    several = env.n_placed(states) > 1
    # the entry with the root's SMILES that attaches by the atom at which slot 1 hangs
    attaching = attaching_entries(env)[new_block[:, 0], used[:, 1].clamp(min=0)]
    new_block[:, 0] = torch.where(several, attaching.clamp(min=0), new_block[:, 0])
    mask[:, 0] &= ~several | (attaching >= 0)
    action = (where * env.n_stems + stem) * env.n_blocks + new_block
    return moved, mask, action


def attaching_entries(env: FragmentEnv) -> Tensor:
    """[n_blocks, R]: the entry of the same SMILES whose first stem is that atom, or -1."""
    first = {}
    for b, (smi, stems) in enumerate(zip(env.fragments.smiles, env.fragments.stems, strict=True)):
        first.setdefault((smi, stems[0]), b)
    table = torch.full((env.n_blocks, env.n_stems), -1)
    for b, (smi, stems) in enumerate(zip(env.fragments.smiles, env.fragments.stems, strict=True)):
        for r, atom in enumerate(stems):
            table[b, r] = first.get((smi, atom), -1)
    return table.to(env.device)


class FragmentNet(nn.Module):
    """Message passing over the fragment tree (the trunk), then one stream per head.

    Outputs: fragment per stem, stop, K unused backward logits (db, tb, stb: P_B is uniform), log F.
    """

    def __init__(self, env: FragmentEnv, method: str, width: int = 256, rounds: int = 10) -> None:
        super().__init__()
        self.env, self.kind, self.rounds = env, METHODS[method], rounds
        self.block = nn.Embedding(env.n_true_blocks + 1, width)
        self.stem = nn.Embedding(env.n_stem_types + 1, width)
        self.bond = nn.Embedding(env.n_stem_types, width)
        self.message = nn.Linear(width, width)
        self.own = nn.Linear(width, width)
        self.gru = nn.GRUCell(width, width)
        self.add = nn.Sequential(
            nn.Linear(2 * width, width), nn.LeakyReLU(), nn.Linear(width, env.n_blocks)
        )
        self.stop = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1))
        self.flow = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1))

    def forward(self, states: Tensor) -> Tensor:
        """[n, K, 3] -> [n, outputs]."""
        env = self.env
        block, parent, used = states.unbind(-1)
        real = block != env.n_blocks
        real[:, 0] = True  # the empty molecule is one special node
        hung, above = (parent >= 0).unsqueeze(-1), parent.clamp(min=0)
        h = self.block(env.true_block[block])  # [n, K, width]
        index = above.unsqueeze(-1).expand_as(h)
        bond = self.bond(env.stem_type[block.gather(1, above), used.clamp(min=0)] * hung[..., 0])
        for _ in range(self.rounds):
            down = torch.where(hung, h.gather(1, index) * bond, 0)
            up = torch.zeros_like(h).scatter_add(1, index, torch.where(hung, h * bond, 0))
            m = nn.functional.leaky_relu(self.message(down + up) + self.own(h))
            h = self.gru(m.flatten(0, 1), h.flatten(0, 1)).view_as(h)
        types = torch.where(
            (block[:, 0] == env.n_blocks).view(-1, 1, 1), env.n_stem_types, env.stem_type[block]
        )
        at_stems = torch.cat([h.unsqueeze(2).expand(-1, -1, env.n_stems, -1), self.stem(types)], -1)
        pooled = (h * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True)
        logits = torch.cat([self.add(at_stems).flatten(1), self.stop(pooled)], -1)
        heads = [logits]
        if self.kind.backward:
            heads.append(logits.new_zeros(len(logits), env.n_backward))
        if self.kind.flow:
            heads.append(self.flow(pooled))
        return torch.cat(heads, -1)


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
        torch.manual_seed(generators[0].initial_seed())
        self.net = FragmentNet(self.env, cfg.method, cfg.width).to(device)

    def outputs(self, states: Tensor) -> Tensor:
        lead = states.shape[:-2]
        return self.net(states.reshape(-1, *states.shape[-2:])).view(*lead, -1)

    def sample(self, u: Tensor) -> Trajectories:
        env = self.env
        traj = sample(env, lambda s: self.outputs(s)[..., : env.n_actions], u, epsilon=self.epsilon)
        return with_last_stop(traj, env.stop)

    def score(self, objects: Tensor) -> tuple[list[float], list[str], Tensor]:
        scores, names = self.reward(objects)
        return scores.tolist(), names, self.reward.log_reward(scores)

    def local_dag(self, states: Tensor, objects: Tensor, log_reward: Tensor) -> Local:
        env = self.env
        local = LocalStates(states, *fragment_parents(env, states))
        mask = env.forward_mask(local.states)
        mask[:, env.stop] |= ~mask.any(-1)  # ended by itself: the one action left is to stop
        newest = env.n_placed(local.states).clamp(max=env.max_blocks - 1)
        index = newest.unsqueeze(-1).expand(-1, env.n_actions).contiguous()
        return local, local.dag(mask, index, env.stop, objects, log_reward)

    def summary(self, known: dict[str, float]) -> float:
        """Mean pairwise Tanimoto similarity of the best molecules (RDKit fingerprints)."""
        from rdkit import Chem
        from rdkit.DataStructs import BulkTanimotoSimilarity

        names = sorted(known, key=lambda s: -known[s])[:TOP_K]
        prints = [Chem.RDKFingerprint(Chem.MolFromSmiles(s)) for s in names]
        pairs: list[float] = []
        for i in range(1, len(prints)):
            pairs += BulkTanimotoSimilarity(prints[i], prints[:i])
        return float(np.mean(pairs)) if pairs else 0.0


def with_last_stop(traj: Trajectories, stop: int) -> Trajectories:
    """Gives the trajectories that ended by themselves a stop action, which moves nothing."""
    actions = nn.functional.pad(traj.actions, (0, 1))
    mask = nn.functional.pad(traj.mask, (0, 1))
    length = traj.length
    open_end = ~((traj.actions == stop) & traj.mask).any(-1)
    at = length.unsqueeze(-1)
    actions = torch.where(open_end.unsqueeze(-1), actions.scatter(-1, at, stop), actions)
    mask = torch.where(open_end.unsqueeze(-1), mask.scatter(-1, at, True), mask)
    states = torch.cat([traj.states, traj.states[:, :, -1:]], 2)
    return Trajectories(states=states, actions=actions, mask=mask, last=traj.last)


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
        shape = traj.mask.shape[1], traj.mask.shape[2] + 1
        visited = traj.states[0].flatten(0, 1)  # [B * (T+1), *state]
        ends = torch.arange(shape[0], device=device) * shape[1] + shape[1] - 1
        local, dag = world.local_dag(visited, ends, log_reward)
        rows = local.visited.view(1, *shape)
        traj = Trajectories(states=rows, actions=traj.actions, mask=traj.mask, last=rows[..., -1])
        out = world.outputs(local.states.unsqueeze(0))  # each distinct state once
        pairs = pairs_of(cfg.method, dag, whole(), out, traj, log_Z, learned_pb=world.learned_pb)
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
