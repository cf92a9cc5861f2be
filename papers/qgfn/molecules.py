"""The paper's fragment experiment (scale ``paper``): sEH binding, p-greedy, p-quantile, p-of-max.

Needs two files of the first GFlowNet release in $PAPERS_DATA/seh (see the README); the MDP, the
proxy and its reward are in ``common.gfn.fragments``. Raw reward for Q: the proxy's score over 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.gfn.fragments import (
    FragmentEnv,
    ProxyReward,
    data_file,
    load_fragments,
    load_proxy,
    mean_similarity,
)
from common.gfn.objectives import Visited, loss_per_seed, training_pairs
from common.gfn.sampling import masked_log_softmax, sample, uniforms
from common.run import Run
from common.stacked import adam, seed_generators
from common.torch_utils import setup
from papers.qgfn.baselines import METHODS
from papers.qgfn.learning import decay
from papers.qgfn.method import (
    MIXTURES,
    double_estimate,
    n_step_targets,
    q_loss,
    ramp,
    update_lagged,
)

if TYPE_CHECKING:
    from papers.qgfn.train import Config

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

    def add(self, names: list[str], rewards: list[float]) -> None:
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


def train_molecules(cfg: Config) -> None:
    """The loop of train.train_strings on the fragment MDP, one seed."""
    if len(cfg.seed) != 1:
        raise UserError("the molecule task trains one seed per run; give one --seed")
    method = METHODS[cfg.method]
    if not (method.learns_pf or method.learns_q):
        raise UserError(f"the molecule task does not know the method {cfg.method}")
    fragments = load_fragments(data_file(cfg.fragments))
    proxy = load_proxy(data_file(cfg.proxy))
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    env = FragmentEnv(fragments, max_blocks=cfg.max_blocks, device=device)
    reward_of = ProxyReward(env, proxy.to(device))
    beta = method.beta or method.beta_factor * (cfg.beta or BETA)
    greediness = method.p if cfg.p is None else cfg.p
    ramp_steps = round(cfg.ramp_share * cfg.steps) if method.ramps else 0
    epsilon = method.epsilon if method.mixture is not None else EPSILON
    n = cfg.n or method.n or N_STEP

    policy, q_net, lagged, follower = (
        FragmentTransformer(env, cfg.width).to(device) for _ in range(4)
    )
    lagged.load_state_dict(q_net.state_dict())
    follower.load_state_dict(policy.state_dict())
    log_Z = nn.Parameter(torch.zeros(1, device=device))
    both = [*policy.parameters(), *q_net.parameters()]
    groups: list[dict[str, Any]] = [{"params": both}, {"params": [log_Z], "lr": cfg.lr_log_Z}]
    optimizer = adam(groups, weight_decay=cfg.weight_decay, lr=cfg.lr)
    rates = ((cfg.lr, cfg.lr_half_life), (cfg.lr_log_Z, cfg.log_Z_half_life))
    generators = seed_generators(cfg.seed, 1, device)
    modes = Modes()
    rewards: list[float] = []
    models = {"policy": policy, "q": q_net, "lagged": lagged, "follower": follower}

    step = 0
    state = run.restore()
    if state:
        step = state["step"]
        for name, model in models.items():
            model.load_state_dict(state[name])
        optimizer.load_state_dict(state["optimizer"])
        log_Z.data.copy_(state["log_Z"])
        generators[0].set_state(state["generator"])
        modes.add(list(state["modes"]), [1.0] * len(state["modes"]))
        rewards = list(state["rewards"])
        reward_of.load_state_dict(state["proxy"])

    def checkpoint() -> dict[str, object]:
        return {
            **{name: model.state_dict() for name, model in models.items()},
            "step": step,
            "optimizer": optimizer.state_dict(),
            "log_Z": log_Z.data,
            "generator": generators[0].get_state(),
            "modes": list(modes.names),
            "rewards": rewards,
            "proxy": reward_of.state_dict(),
        }

    def log_mu(states: Tensor) -> Tensor:
        mask = env.forward_mask(states)
        logits = follower(states)[0] if method.learns_pf else torch.zeros(mask.shape, device=device)
        if method.mixture is None:
            return logits
        return MIXTURES[method.mixture](logits, q_net(states)[0], mask, p)

    while step < cfg.steps:
        p = ramp(greediness, step, ramp_steps)
        u = uniforms(generators, (env.max_length, cfg.batch))
        traj = sample(env, log_mu, u, epsilon=epsilon)
        scores, names = reward_of(traj.last[0])
        reward = scores.clamp(min=reward_of.r_min).unsqueeze(0) / reward_of.norm  # [1, B], raw R
        before, after = traj.states[..., :-1, :, :], traj.states[..., 1:, :, :]
        mask = env.forward_mask(before)
        loss = torch.zeros((), device=device)
        if method.learns_pf:
            logits, log_flow = policy(before)
            log_pf = masked_log_softmax(logits, mask)
            log_pf = log_pf.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
            n_parents = env.leaves(after).sum(-1).clamp(min=1)
            log_pb = torch.where(traj.actions == env.stop, 0.0, -n_parents.float().log())
            log_flow = nn.functional.pad(log_flow, (0, 1))
            visited = Visited(log_pf, log_pb, log_flow, None, None, beta * reward.log())
            pairs = training_pairs(
                cfg.objective,
                visited,
                traj.actions,
                traj.mask,
                stop=env.stop,
                log_Z=log_Z,
                lam=cfg.lam,
            )
            loss = loss + loss_per_seed(pairs).sum()
        if method.learns_q:
            q = q_net(before)[0]
            with torch.no_grad():
                values = double_estimate(q, lagged(before)[0], mask)
            target = n_step_targets(reward, traj.length, traj.mask.shape[-1], n, values)
            taken = q.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
            loss = loss + q_loss(taken, target, traj.mask).sum()
        optimizer.zero_grad()
        loss.backward()
        for model in (policy, q_net):
            nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
        decay(optimizer, rates, step)
        optimizer.step()
        update_lagged(lagged.parameters(), q_net.parameters(), cfg.tau_q)
        update_lagged(follower.parameters(), policy.parameters(), cfg.sampling_tau)

        rewards += reward[0].tolist()
        modes.add(names, reward[0].tolist())
        step += 1
        if step % cfg.eval_every == 0 or step == cfg.steps:
            run.log(
                step,
                mean_reward=[sum(rewards) / len(rewards)],
                modes=[len(modes.names)],
                reward_calls=[reward_of.calls],
            )
            rewards = []
        if run.due(step):
            run.save(step, checkpoint())

    p = greediness
    u = uniforms(seed_generators(cfg.seed, 3, device), (env.max_length, cfg.samples))
    scores, names = reward_of(sample(env, log_mu, u, epsilon=epsilon).last[0])
    final = {
        "similarity": mean_similarity(names),
        "sample_reward": float((scores.clamp(min=reward_of.r_min) / reward_of.norm).mean()),
    }
    run.finish({**checkpoint(), **final})
