"""The paper's fragment experiment (scale ``paper``): sEH binding, p-greedy, p-quantile, p-of-max.

Needs two files of the first GFlowNet release in $PAPERS_DATA/seh (see the notes); the MDP, the
proxy and its reward are in ``common.gfn.fragments``. Raw reward for Q: the proxy's score over 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.gfn.fragments import (
    FragmentEnv,
    Fragments,
    ProxyReward,
    SEHProxy,
    data_file,
    load_fragments,
    load_proxy,
    mean_similarity,
)
from common.gfn.objectives import Visited, loss_per_seed, training_pairs
from common.gfn.sampling import Trajectories, masked_log_softmax, sample, uniforms
from common.run import Run
from common.stacked import adam, seed_generators
from common.torch_utils import setup
from papers.qgfn.config import Config, exponent, rates
from papers.qgfn.learning import decay
from papers.qgfn.method import (
    MIXTURES,
    double_estimate,
    n_step_targets,
    q_loss,
    ramp,
    update_lagged,
)
from papers.qgfn.methods import METHODS, Learner

BETA = 32.0  # reward exponent [code]
N_STEP = 25  # steps of the Q target [code: 25-30]; molecules end earlier
EPSILON = 0.01  # random actions where no mixture is active [code]
MODE_REWARD, MODE_SIMILARITY = 0.9, 0.7  # a mode: reward above, Tanimoto below [code]


class FragmentTransformer(nn.Module):
    """Graph transformer on the fragment tree (4 layers, 8 heads) with a virtual node.

    Attention between two fragments is biased by whether they are the same, bonded, or neither.
    Heads: (stem, fragment) for adding, the virtual node for stopping and log F.
    """

    def __init__(
        self, env: FragmentEnv, width: int = 128, n_layers: int = 4, n_heads: int = 8
    ) -> None:
        super().__init__()
        self.env, self.n_heads = env, n_heads
        self.block = nn.Embedding(env.n_true_blocks + 2, width)  # also: empty, virtual
        self.stem = nn.Embedding(env.n_stem_types + 1, width)
        self.bias = nn.Embedding(4, n_heads)  # same, bonded, not bonded, virtual
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, n_heads, 4 * width, dropout=0.0, batch_first=True)
            for _ in range(n_layers)
        )
        self.add = nn.Sequential(
            nn.Linear(2 * width, width), nn.LeakyReLU(), nn.Linear(width, env.n_blocks)
        )
        self.whole = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 2))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States [..., K, 3] -> one output per action [..., A], log F [...]."""
        env = self.env
        lead = states.shape[:-2]
        flat = states.reshape(-1, env.max_blocks, 3)
        block, parent, used = flat.unbind(-1)
        n, k = block.shape
        slot = torch.arange(k, device=flat.device)
        hung = parent.unsqueeze(-1) == slot  # [n, child, parent]
        relation = torch.where(hung | hung.transpose(1, 2), 1, 2)
        relation = torch.where(torch.eye(k, dtype=torch.bool, device=flat.device), 0, relation)
        relation = nn.functional.pad(relation, (1, 0, 1, 0), value=3)
        empty = nn.functional.pad(block == env.n_blocks, (1, 0), value=False)
        bias = self.bias(relation).permute(0, 3, 1, 2)
        bias = bias.masked_fill(empty[:, None, None, :], -1e9).flatten(0, 1)  # [n * heads, ...]
        virtual = torch.full_like(block[:, :1], env.n_true_blocks + 1)
        x = self.block(torch.cat([virtual, env.true_block[block]], 1))
        first = nn.functional.pad(env.stem_type[block, used.clamp(min=0)], (1, 0))
        x = x + self.stem(first) * nn.functional.pad(parent >= 0, (1, 0)).unsqueeze(-1)
        for layer in self.layers:
            x = layer(x, src_mask=bias)
        types = env.stem_type[block]  # [n, K, R]
        begin = (block[:, 0] == env.n_blocks).view(-1, 1, 1)
        types = torch.where(begin, torch.full_like(types, env.n_stem_types), types)
        places = x[:, 1:].masked_fill(empty[:, 1:].unsqueeze(-1), 0.0)
        per_stem = torch.cat(
            [places.unsqueeze(2).expand(-1, -1, env.n_stems, -1), self.stem(types)], -1
        )
        both = self.whole(x[:, 0])
        out = torch.cat([self.add(per_stem).flatten(1), both[:, :1]], -1)
        return out.view(*lead, -1), both[:, 1].view(lead)


class Modes:
    """Molecules above a reward whose similarity to all earlier modes is below a bound."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._prints: list[object] = []

    def add(self, names: Iterable[str], rewards: Iterable[float]) -> None:
        """Counts the new ones."""
        from rdkit import Chem
        from rdkit.DataStructs import BulkTanimotoSimilarity

        for name, reward in zip(names, rewards, strict=True):
            if reward < MODE_REWARD or name in self.names:
                continue
            print_ = Chem.RDKFingerprint(Chem.MolFromSmiles(name))
            if max(BulkTanimotoSimilarity(print_, self._prints), default=0) < MODE_SIMILARITY:
                self.names.append(name)
                self._prints.append(print_)

    def state(self) -> list[str]:
        """What a checkpoint keeps."""
        return list(self.names)

    def load(self, state: Iterable[str]) -> None:
        """From a checkpoint."""
        self.__init__()  # type: ignore[misc]
        names = list(state)
        self.add(names, [MODE_REWARD] * len(names))


@dataclass
class Models:
    """The networks of a run: P_F, Q, Q's lagged copy, and the copy of P_F that samples."""

    env: FragmentEnv
    method: Learner
    policy: FragmentTransformer
    q: FragmentTransformer
    lagged: FragmentTransformer
    follower: FragmentTransformer

    @classmethod
    def of(cls, cfg: Config, env: FragmentEnv) -> Models:
        """Freshly initialised on the environment's device."""
        made = [FragmentTransformer(env, cfg.width).to(env.device) for _ in range(4)]
        models = cls(env, METHODS[cfg.method], *made)
        models.lagged.load_state_dict(models.q.state_dict())
        models.follower.load_state_dict(models.policy.state_dict())
        return models

    def named(self) -> dict[str, FragmentTransformer]:
        """By the names of the checkpoints."""
        return {
            "policy": self.policy,
            "q": self.q,
            "lagged": self.lagged,
            "follower": self.follower,
        }

    def behaviour(self, mixture: str | None, p: float) -> Callable[[Tensor], Tensor]:
        """log mu of states: the mixture at greediness p, or P_F alone (uniform without one)."""

        def log_mu(states: Tensor) -> Tensor:
            mask = self.env.forward_mask(states)
            logits = torch.zeros(mask.shape, device=mask.device)
            if self.method.learns_pf:
                logits = self.follower(states)[0]
            return (
                logits if mixture is None else MIXTURES[mixture](logits, self.q(states)[0], mask, p)
            )

        return log_mu


def epsilon_of(method: Learner) -> float:
    """Random actions: of a mixture its own, of a GFlowNet alone those of the fragment task."""
    return method.epsilon if method.mixture is not None else EPSILON


def user_files(cfg: Config) -> tuple[Fragments, SEHProxy]:
    """The fragment list and the proxy.

    Raises:
        UserError: if one is missing, with what to obtain.
    """
    return load_fragments(data_file(cfg.fragments)), load_proxy(data_file(cfg.proxy))


def setting(
    cfg: Config, fragments: Fragments, weights: SEHProxy, device: torch.device
) -> tuple[FragmentEnv, ProxyReward]:
    """The MDP and its reward on a device."""
    env = FragmentEnv(fragments, max_blocks=cfg.max_blocks, device=device)
    return env, ProxyReward(env, weights.to(device))


def raw_reward(proxy: ProxyReward, scores: Tensor) -> Tensor:
    """R: the proxy's score, from below at ``r_min``, over 8."""
    return scores.clamp(min=proxy.r_min) / proxy.norm


def loss_of(
    models: Models, traj: Trajectories, reward: Tensor, log_Z: Tensor, cfg: Config
) -> Tensor:
    """Sum of P_F's and Q's losses on the same trajectories; ``reward`` is raw, [1, B]."""
    env, method = models.env, models.method
    before, after = traj.states[..., :-1, :, :], traj.states[..., 1:, :, :]
    mask = env.forward_mask(before)
    loss = torch.zeros((), device=reward.device)
    if method.learns_pf:
        logits, log_flow = models.policy(before)
        log_pf = masked_log_softmax(logits, mask)
        log_pf = log_pf.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
        n_parents = env.leaves(after).sum(-1).clamp(min=1)
        log_pb = torch.where(traj.actions == env.stop, 0.0, -n_parents.float().log())
        log_flow = nn.functional.pad(log_flow, (0, 1))
        log_reward = exponent(cfg, BETA) * reward.log()
        visited = Visited(log_pf, log_pb, log_flow, None, None, log_reward)
        pairs = training_pairs(
            *(cfg.objective, visited, traj.actions, traj.mask),
            stop=env.stop,
            log_Z=log_Z,
            lam=cfg.lam,
        )
        loss = loss + loss_per_seed(pairs).sum()
    if method.learns_q:
        q = models.q(before)[0]
        with torch.no_grad():
            values = double_estimate(q, models.lagged(before)[0], mask)
        n = cfg.n or method.n or N_STEP
        target = n_step_targets(reward, traj.length, traj.mask.shape[-1], n, values)
        taken = q.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
        loss = loss + q_loss(taken, target, traj.mask).sum()
    return loss


def train_molecules(cfg: Config) -> None:
    """The loop of train.train_strings on the fragment MDP, one seed."""
    if len(cfg.seed) != 1:
        raise UserError("the molecule task trains one seed per run; give one --seed")
    method = METHODS[cfg.method]
    if not (method.learns_pf or method.learns_q):
        raise UserError(f"the molecule task does not know the method {cfg.method}")
    found = user_files(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    env, proxy = setting(cfg, *found, device)
    models = Models.of(cfg, env)
    log_Z = nn.Parameter(torch.zeros(1, device=device))
    both = [*models.policy.parameters(), *models.q.parameters()]
    groups: list[dict[str, Any]] = [{"params": both}, {"params": [log_Z], "lr": cfg.lr_log_Z}]
    optimizer = adam(groups, weight_decay=cfg.weight_decay, lr=rates(cfg)[0][0])
    generators = seed_generators(cfg.seed, 1, device)
    modes = Modes()
    greediness = method.p if cfg.p is None else cfg.p
    ramp_steps = round(cfg.ramp_share * cfg.steps) if method.ramps else 0
    kept = run.keep(
        **models.named(),
        optimizer=optimizer,
        log_Z=log_Z,
        generators=generators,
        modes=modes,
        rewards=[],  # since the last logged line
        proxy=proxy,
    )

    for step in run.steps(cfg.steps):
        mu = models.behaviour(method.mixture, ramp(greediness, step, ramp_steps))
        u = uniforms(generators, (env.max_length, cfg.batch))
        traj = sample(env, mu, u, epsilon=epsilon_of(method))
        scores, names = proxy(traj.last[0])
        reward = raw_reward(proxy, scores).unsqueeze(0)
        optimizer.zero_grad()
        loss_of(models, traj, reward, log_Z, cfg).backward()
        for model in (models.policy, models.q):
            nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
        decay(optimizer, rates(cfg), step)
        optimizer.step()
        update_lagged(models.lagged.parameters(), models.q.parameters(), cfg.tau_q)
        update_lagged(models.follower.parameters(), models.policy.parameters(), cfg.sampling_tau)

        kept.rewards += reward[0].tolist()
        modes.add(names, reward[0].tolist())
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            run.log(
                step + 1,
                mean_reward=[sum(kept.rewards) / len(kept.rewards)],
                modes=[len(modes.names)],
                reward_calls=[proxy.calls],
            )
            kept.rewards = []


class MoleculePolicies:
    """What the trained pair of a run samples, with any mixture at any p."""

    def __init__(self, cfg: Config, final: dict[str, Any], device: torch.device) -> None:
        self.cfg = cfg
        self.env, self.proxy = setting(cfg, *user_files(cfg), device)
        self.models = Models.of(cfg, self.env)
        for name, model in self.models.named().items():
            model.load_state_dict(final[name])
            # not eval(): there are no dropouts, and PyTorch's fused layers of that mode sampled
            # actions here that the mask forbids
            model.requires_grad_(False)
        self.proxy.load_state_dict(final["proxy"])

    @torch.no_grad()
    def sample(
        self, mixture: str | None, p: float, n: int, *, epsilon: float = 0.0, stream: int = 3
    ) -> Trajectories:
        """``n`` trajectories, with the same random numbers for every policy."""
        generators = seed_generators(self.cfg.seed, stream, self.env.device)
        u = uniforms(generators, (self.env.max_length, n))
        return sample(self.env, self.models.behaviour(mixture, p), u, epsilon=epsilon)

    def measure(
        self, mixture: str | None, p: float, epsilon: float = 0.0
    ) -> dict[str, list[float]]:
        """Mean raw reward, mean pairwise Tanimoto distance and modes of the samples. One seed."""
        objects = self.sample(mixture, p, self.cfg.samples, epsilon=epsilon).last[0]
        scores, names = self.proxy(objects)
        rewards = raw_reward(self.proxy, scores).double()
        modes = Modes()
        modes.add(names, rewards.tolist())
        return {
            "reward": [float(rewards.mean())],
            "distance": [1 - mean_similarity(names)],
            "modes": [len(modes.names)],
        }

    def gap_at_zero(self, mixture: str) -> float:
        """Largest |mu - P_F| at p = 0, over the states of a rollout."""
        states = self.sample(None, 0.0, 20, stream=4).states[..., :-1, :, :]
        mask = self.env.forward_mask(states)
        mu = self.models.behaviour(mixture, 0.0)(states).exp()
        pf = masked_log_softmax(self.models.behaviour(None, 0.0)(states), mask).exp()
        return float((mu - pf)[mask.any(-1)].abs().max())
