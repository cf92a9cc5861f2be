"""The paper's molecule experiment (scale ``paper``): STB(0.99) on the sEH fragment MDP.

Needs two files of the first GFlowNet release in $PAPERS_DATA/seh (see the README); the MDP, the
proxy and its reward are in ``common.gfn.fragments``.
"""

from __future__ import annotations

import torch
from torch import nn

from common.errors import UserError
from common.gfn import objectives as flows
from common.gfn.fragment_nets import FragmentNetworks
from common.gfn.fragments import (
    FragmentEnv,
    ProxyReward,
    data_file,
    load_fragments,
    load_proxy,
    mean_similarity,
)
from common.gfn.sampling import masked_log_softmax, sample, uniforms
from common.run import Run
from common.stacked import seed_generators
from common.torch_utils import setup
from papers.gfn_losses.config import Config
from papers.gfn_losses.method import objective
from papers.gfn_losses.methods import METHODS

LAMBDA = 0.99  # STB [paper]
EPSILON = 0.05  # uniformly random actions [paper]
LR = 5e-4  # Adam [paper]
SLOPE_CLIP_MOLECULES = 10.0  # c of the surrogate [code]
TOP_K = 100  # molecules of the top-k metrics


def top(scores: dict[str, float], k: int = TOP_K) -> list[str]:
    """The names of the k highest scores, best first."""
    return sorted(scores, key=lambda name: -scores[name])[:k]


def train_molecules(cfg: Config) -> None:
    """On-policy (eps = 0.05) STB with uniform P_B over the removable fragments."""
    if len(cfg.seed) != 1:
        raise UserError("the molecule task trains one seed per run; give one --seed")
    fragments = load_fragments(data_file(cfg.fragments))
    proxy = load_proxy(data_file(cfg.proxy))
    loss = METHODS[cfg.method].loss
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    clip = SLOPE_CLIP_MOLECULES if cfg.slope_clip is None else cfg.slope_clip
    env = FragmentEnv(fragments, max_blocks=cfg.max_blocks, device=device)
    reward = ProxyReward(env, proxy.to(device))
    policy = FragmentNetworks(seed_generators(cfg.seed, 0), env, cfg.width).to(device)
    optimizer = torch.optim.Adam(policy.parameters(), lr=LR)
    generators = seed_generators(cfg.seed, 1, device)
    kept = run.keep(
        policy=policy,
        optimizer=optimizer,
        generators=generators,
        best={},  # the best unique molecules so far: SMILES -> proxy score
        rewards=[],  # scores since the last evaluation
        proxy=reward,
    )

    def results() -> dict[str, object]:
        return {"similarity": mean_similarity(top(kept.best))}

    for step in run.steps(cfg.steps, then=results):
        u = uniforms(generators, (env.max_length, cfg.batch))
        traj = sample(env, lambda s: policy(s)[0], u, epsilon=EPSILON)
        scores, names = reward(traj.last[0])
        log_reward = reward.log_reward(scores).unsqueeze(0)  # [1, B]
        before, after = traj.states[..., :-1, :, :], traj.states[..., 1:, :, :]
        logits, log_flow = policy(before)
        mask = env.forward_mask(before)
        log_pf = masked_log_softmax(logits, mask).gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
        n_parents = env.leaves(after).sum(-1).clamp(min=1)
        stopping = traj.actions == env.stop
        log_pb = torch.where(stopping, 0.0, -n_parents.float().log())
        log_flow = flows.with_reward(nn.functional.pad(log_flow, (0, 1)), log_reward, traj.length)
        pair = flows.subtrajectory_balance(log_flow, log_pf, log_pb, traj.mask)
        weights = flows.subtrajectory_weights(traj.length, traj.mask.shape[-1], LAMBDA)
        surrogate, logged = objective(pair, weights / cfg.batch, loss, clip)
        optimizer.zero_grad()
        surrogate.sum().backward()
        optimizer.step()

        kept.rewards += scores.tolist()
        kept.best.update(zip(names, scores.tolist(), strict=True))
        if len(kept.best) > 10 * TOP_K:
            kept.best = {name: kept.best[name] for name in top(kept.best, 5 * TOP_K)}
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            best_scores = [kept.best[name] for name in top(kept.best)]
            run.log(
                step + 1,
                mean_score=sum(kept.rewards) / len(kept.rewards),
                top_score=sum(best_scores) / len(best_scores),
                reward_calls=reward.calls,
                loss=logged.item(),
            )
            kept.rewards = []
