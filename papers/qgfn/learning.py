"""What the loop of train.py calls: the behaviour policy, both losses, and the count of rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.gfn import metrics
from common.gfn.objectives import Visited, loss_per_seed, training_pairs
from common.gfn.sampling import Trajectories, masked_log_softmax
from common.gfn.strings import StringEnv
from papers.qgfn.method import MIXTURES, double_estimate, n_step_targets, q_loss
from papers.qgfn.networks import Networks
from papers.qgfn.task import StringTask

TOP_K = 100  # distinct objects of the top-k mean reward


def behaviour(
    nets: Networks | None, env: StringEnv, mixture: str | None, p: float
) -> Callable[[Tensor], Tensor]:
    """log mu of states [S, ..., L]: the mixture at greediness p, P_F alone, or uniform."""

    def log_mu(states: Tensor) -> Tensor:
        mask = env.forward_mask(states)
        if nets is None:
            return torch.zeros(mask.shape, device=mask.device)
        logits, q, _ = nets(states)
        if mixture is None:
            assert logits is not None
            return logits
        assert q is not None
        if logits is None:  # Q alone: p-greedy at p = 1 does not look at P_F
            logits = torch.zeros_like(q)
        return MIXTURES[mixture](logits, q, mask, p)

    return log_mu


@dataclass
class Learned:
    """Losses per seed [S], and the outputs at the distinct states [S, U, A] (None: no network)."""

    policy_loss: Tensor | None
    value_loss: Tensor | None
    logits: Tensor | None
    q: Tensor | None
    place: Tensor  # [S, B, T] of the batch's states among the distinct ones

    def total(self) -> Tensor:
        """Sum of what there is; the two losses share no parameter."""
        parts = [x for x in (self.policy_loss, self.value_loss) if x is not None]
        return torch.stack(parts).sum()

    def pruned(self, mixture: str, p: float) -> Tensor:
        """Share of the batch's states whose most probable action under P_F mu never takes. [S]."""
        assert self.logits is not None and self.q is not None
        mask = torch.ones_like(self.q, dtype=torch.bool)
        log_mu = MIXTURES[mixture](self.logits, self.q, mask, p)
        best = log_mu.gather(-1, self.logits.argmax(-1, keepdim=True)).squeeze(-1)  # [S, U]
        return (best.gather(1, self.place.flatten(1)) == -torch.inf).double().mean(1)

    def logged(self, log_Z: Tensor, mixture: str | None, p: float) -> dict[str, list[float]]:
        """What there is to log; with a mixture also the share that it prunes."""
        line = {}
        if self.policy_loss is not None:
            line = {"policy_loss": self.policy_loss.tolist(), "log_Z": log_Z.tolist()}
        if self.value_loss is not None:
            line["value_loss"] = self.value_loss.tolist()
        if mixture is not None:
            line["pruned"] = self.pruned(mixture, p).tolist()
        return line


def learn(
    nets: Networks,
    lagged: Networks | None,
    env: StringEnv,
    traj: Trajectories,
    *,
    reward: Tensor,
    log_reward: Tensor,
    log_Z: Tensor,
    n: int,
    objective: str = "tb",
    lam: float = 0.99,
) -> Learned:
    """Both losses on the same trajectories. mu does not enter: both learners are off-policy.

    Args:
        reward: [S, B] raw R, which Q learns.
        log_reward: [S, B] log R^beta, which P_F learns.
        n: steps of the Q target; with n >= T there is no bootstrap and ``lagged`` may be None.
    """
    states, place = distinct(traj.states[..., :-1, :])  # [S, U, L], [S, B, T]
    mask = env.forward_mask(states)
    logits, q, log_flow = nets(states)
    policy_loss = value_loss = None
    if logits is not None:
        log_pf = at_edges(masked_log_softmax(logits, mask), place, traj.actions)  # never log mu
        log_pb = torch.full_like(log_pf, -math.log(env.n_backward))  # uniform over the in-edges
        if log_flow is not None:  # the object's flow is its reward, whatever stands there
            log_flow = log_flow.gather(1, place.flatten(1)).view(place.shape)
            log_flow = nn.functional.pad(log_flow, (0, 1))
        visited = Visited(log_pf, log_pb, log_flow, None, None, log_reward)
        pairs = training_pairs(
            objective, visited, traj.actions, traj.mask, stop=None, log_Z=log_Z, lam=lam
        )
        policy_loss = loss_per_seed(pairs)
    if q is not None:
        values = None
        if lagged is not None:
            with torch.no_grad():
                later = lagged(states)[1]
                assert later is not None
                values = double_estimate(q, later, mask)
                values = values.gather(1, place.flatten(1)).view(place.shape)
        target = n_step_targets(reward, traj.length, traj.mask.shape[-1], n, values)
        value_loss = q_loss(at_edges(q, place, traj.actions), target, traj.mask)
    return Learned(policy_loss, value_loss, logits, q, place)


def distinct(states: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct states of each seed, so that the networks see each once.

    Args:
        states: [S, B, T, L].
    Returns:
        states [S, U, L] (padded with one of them), and the place of every state there [S, B, T].
    """
    flat = states.flatten(1, 2)
    keys, order = hashed(flat).sort(-1)
    rank = nn.functional.pad((keys[:, 1:] != keys[:, :-1]).long().cumsum(-1), (1, 0))
    n_distinct = int(rank[:, -1].max()) + 1
    place = torch.empty_like(order).scatter_(1, order, rank)
    first = torch.zeros_like(order[:, :n_distinct]).scatter_reduce_(1, rank, order, "amax")
    index = first.unsqueeze(-1).expand(-1, -1, flat.shape[-1])
    return flat.gather(1, index), place.view(states.shape[:-1])


def hashed(states: Tensor) -> Tensor:
    """One number per string: products with fixed odd numbers, which wrap round. [..., L]."""
    odd = 2 * torch.randint(2**62, states.shape[-1:], generator=torch.Generator().manual_seed(0))
    return ((states + 1) * (odd + 1).to(states.device)).sum(-1)


def at_edges(table: Tensor, place: Tensor, actions: Tensor) -> Tensor:
    """table[s, place, action]. [S, U, A], [S, B, T], [S, B, T] -> [S, B, T]."""
    index = place * table.shape[-1] + actions
    return table.flatten(1).gather(1, index.flatten(1)).view(index.shape)


def decay(
    optimizer: torch.optim.Optimizer, rates: Sequence[tuple[float, float]], step: int
) -> None:
    """Sets the groups' learning rates: (rate at step 0, steps in which it halves or 0: never)."""
    for group, (rate, half_life) in zip(optimizer.param_groups, rates, strict=False):
        group["lr"] = rate * 0.5 ** (step / half_life) if half_life else rate


class Tally:
    """What is counted along training: rewards, modes found, the best distinct objects."""

    def __init__(self, n_seeds: int, task: StringTask, window: int, device: torch.device) -> None:
        self._count = task.count
        self.found = torch.zeros(n_seeds, task.n_hits, dtype=torch.bool, device=device)
        self.total = torch.zeros(n_seeds, dtype=torch.float64, device=device)
        self.keys = torch.zeros(n_seeds, window, dtype=torch.long, device=device)
        self.rewards = torch.zeros(n_seeds, window, device=device)
        self.best_keys = torch.arange(TOP_K, device=device).repeat(n_seeds, 1)
        self.best = torch.full((n_seeds, TOP_K), -torch.inf, device=device)

    def add(self, objects: Tensor, reward: Tensor, hits: Tensor, step: int) -> None:
        """Counts a step's objects: [S, B, L], [S, B], [S, B, M]."""
        self.found |= hits.any(-2)
        self.total += reward.double().mean(-1)
        metrics.remember(self.keys, hashed(objects), step)
        metrics.remember(self.rewards, reward, step)

    def close_window(self, n_objects: int, n_steps: int) -> dict[str, list[float]]:
        """Per seed: mean reward of the last steps, of the best distinct objects, modes so far."""
        for s in range(len(self.best)):
            keys = torch.cat([self.best_keys[s], self.keys[s, :n_objects]])
            rewards = torch.cat([self.best[s], self.rewards[s, :n_objects]])
            distinct, place = torch.unique(keys, return_inverse=True)
            value = torch.full((len(distinct),), -torch.inf, device=rewards.device)
            value.scatter_reduce_(0, place, rewards, "amax")  # equal keys, equal rewards
            top = value.topk(TOP_K).indices
            self.best[s], self.best_keys[s] = value[top], distinct[top]
        mean = self.total / n_steps
        self.total.zero_()
        known = torch.isfinite(self.best)
        top_mean = torch.where(known, self.best, 0).sum(-1) / known.sum(-1)
        return {
            "mean_reward": mean.tolist(),
            "top_reward": top_mean.tolist(),
            "modes": self._count(self.found).tolist(),
        }

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def load(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        for name, value in state.items():
            getattr(self, name).copy_(value)
