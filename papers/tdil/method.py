"""TDIL (Chiang et al., arXiv 2402.01057): expert proximity as a surrogate reward.

Shapes. S training seeds are stacked in front of everything; B is a batch of the agent's
transitions, T the length of the demonstration, d the width of a state.
    s, s_next [S, B, d] · expert_next [S, T, d] · rewards [S, B] · losses [S], mean per seed
The environment's reward appears nowhere: the agent sees states, and one demonstration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.stacked import MLP, rand

Probability = Callable[[Tensor, Tensor], Tensor]  # D(s, s') of pairs: 2 x [S, N, d] -> [S, N]


@dataclass(frozen=True)
class TDILConfig:
    """Hyperparameters; the defaults are the authors' for MuJoCo, task.py has those of a task."""

    gamma: float = 0.99  # discount; terminal states bootstrap like any other (authors' code)
    tau: float = 1e-4  # polyak step of the target critics (authors' code)
    tau_n: float = 1e-4  # polyak step of the discriminator that pays the reward (authors' code)
    kappa: float = 0.99  # weight of the positives; random pairs weigh 1 - kappa (authors' code)
    hard_negatives: bool = True  # reversed pairs (s', s) as negatives, with weight 1
    rho: float = 10.0  # the actor learns where r < rho mean(r*) (authors' code: policy threshold)
    filtered: bool = True  # False: the actor learns everywhere
    bc: bool = True  # behaviour cloning with the actor's optimiser
    expert_critic: bool = True  # a second critic step, on the demonstration
    beta: float = 0.0  # share of the GAIL-style reward: R = (1 - beta) R_TDIL + beta R_IRL
    batch: int = 256  # transitions, and demonstration rows, per update and seed
    hidden: int = 256  # units of the three hidden layers of every network
    lr: float = 3e-4  # Adam's learning rate of every network
    expert_states: int = 0  # expert states per reward, drawn anew each step; 0: all of them (ours)
    warm_up: int = 2_000  # steps of the untrained policy before the first update


# ------------------------------------------------------------------ transition discriminator


class TransitionDiscriminator(nn.Module):
    """D(s, s') in (0, 1): can s' follow s in one step? An MLP on both states, ReLU, sigmoid."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        obs_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
    ) -> None:
        super().__init__()
        self.net = MLP(generators, (2 * obs_dim, *hidden, 1), F.relu)

    def logit(self, s: Tensor, s_next: Tensor) -> Tensor:
        """Log-odds of D. 2 x [S, N, d] -> [S, N]."""
        return self.net(torch.cat((s, s_next), dim=-1)).squeeze(-1)

    def forward(self, s: Tensor, s_next: Tensor) -> Tensor:
        """D(s, s'). 2 x [S, N, d] -> [S, N]."""
        return torch.sigmoid(self.logit(s, s_next))


def transition_pairs(s: Tensor, s_next: Tensor, hard_negatives: bool) -> tuple[Tensor, Tensor]:
    """The pairs that the discriminator is shown: [S, 2B or 3B, d] first and second states.

    In blocks of B: (s_i, s'_i) happened; (s_i, s'_{i-1}), next states rolled by one within the
    batch, are random; (s'_i, s_i) are reversed, the hard negatives. The random ones are draws of
    the product of the marginals only if the batch was drawn independently, with replacement.
    """
    first, second = [s, s], [s_next, s_next.roll(1, dims=1)]
    if hard_negatives:
        first.append(s_next)
        second.append(s)
    return torch.cat(first, dim=1), torch.cat(second, dim=1)


def discriminator_loss(
    logit: Probability,
    s: Tensor,
    s_next: Tensor,
    *,
    kappa: float = 0.99,
    hard_negatives: bool = True,
) -> Tensor:
    """L_phi, [S]: the weighted cross-entropy over all pairs, on the agent's transitions alone.

    -1/(3B) sum_i [ kappa log D(s_i, s'_i) + (1-kappa) log(1 - D(s_i, s'_{i-1}))
                    + log(1 - D(s'_i, s_i)) ],
    without hard negatives the first two terms over 2B. Its optimum, for densities p+ of
    consecutive pairs, p_r of random and p_h of reversed ones: kappa p+ / (kappa p+ +
    (1-kappa) p_r + p_h).

    Args:
        logit: log-odds of D.
        s, s_next: transitions of the agent, drawn i.i.d. from its buffer. [S, B, d]
        kappa: weight of the positives.
        hard_negatives: show the reversed pairs.
    """
    log_odds = logit(*transition_pairs(s, s_next, hard_negatives))
    positive, *negative = log_odds.split(s.shape[1], dim=1)
    loss = kappa * F.softplus(-positive) + (1 - kappa) * F.softplus(negative[0])
    if hard_negatives:
        loss = loss + F.softplus(negative[1])
    return loss.mean(dim=1) / (3 if hard_negatives else 2)


# ------------------------------------------------------------------ surrogate reward


def surrogate_reward(
    discriminator: Probability,
    s_next: Tensor,
    expert_next: Tensor,
    *,
    scale: float = 1.0,
    rows: int = 262_144,
) -> Tensor:
    """R_TDIL(s, a) = sum_i D(s', s*_i), [S, B]: from how many expert states s' is one step away.

    A sum, not a mean or a maximum: it may exceed 1. Scored at the observed next state s', against
    the expert's next states s*_1, ..., s*_T, with the *target* discriminator in training.

    Args:
        discriminator: D.
        s_next: next states. [S, B, d]
        expert_next: next states of the demonstration, or a draw of `expert_subset`. [S, T, d]
        scale: factor of the sum, for a draw of the expert states.
        rows: at most so many pairs at once, for memory.
    """
    S, B, d = s_next.shape
    T = expert_next.shape[1]
    chunks = []
    for part in s_next.split(max(1, rows // T), dim=1):
        n = part.shape[1]
        reached = part.unsqueeze(2).expand(S, n, T, d).reshape(S, n * T, d)
        expert = expert_next.unsqueeze(1).expand(S, n, T, d).reshape(S, n * T, d)
        chunks.append(discriminator(reached, expert).view(S, n, T).sum(dim=2))
    return scale * torch.cat(chunks, dim=1)


def expert_subset(
    expert_next: Tensor, generators: Sequence[torch.Generator], n: int
) -> tuple[Tensor, float]:
    """n of the T expert states, drawn without replacement, and T/n: the reward stays unbiased.

    Ours, for long demonstrations on a CPU; n = 0 or n >= T takes all.
    """
    S, T, _ = expert_next.shape
    if n == 0 or n >= T:
        return expert_next, 1.0
    chosen = rand(generators, T).argsort(dim=1)[:, :n]  # [S, n]
    seeds = torch.arange(S, device=expert_next.device).unsqueeze(1)
    return expert_next[seeds, chosen], T / n


def total_reward(r_tdil: Tensor | None, r_irl: Tensor | None, beta: float) -> Tensor:
    """R = (1 - beta) R_TDIL + beta R_IRL; a part with weight 0 need not be computed."""
    parts = [
        weight * r for weight, r in ((1 - beta, r_tdil), (beta, r_irl)) if weight and r is not None
    ]
    return torch.stack(parts).sum(dim=0)


# ------------------------------------------------------------------ the agent's additions


def below_threshold(r: Tensor, r_expert: Tensor, rho: float) -> Tensor:
    """States from which the actor learns: r < rho mean(r*), strictly. [S, B] -> [S, B] bool.

    Near the demonstration the reward is at its height and every policy that stays is optimal:
    there, behaviour cloning and the expert's critic step decide.
    """
    return r < rho * r_expert.mean(dim=1, keepdim=True)


def masked_mean(x: Tensor, kept: Tensor) -> Tensor:
    """Mean over the kept entries of each seed, 0 where none is kept. [S, B] -> [S]."""
    return (x * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


def bc_loss(action: Tensor, expert_action: Tensor) -> Tensor:
    """Mean squared error of tanh(mean) against a*, continuous actions. [S, B, A] -> [S]."""
    return (action - expert_action).square().mean(dim=(1, 2))


def bc_loss_discrete(logits: Tensor, expert_action: Tensor) -> Tensor:
    """Cross-entropy of the logits against a*. [S, B, A], [S, B] -> [S]."""
    each = F.cross_entropy(logits.transpose(1, 2), expert_action, reduction="none")
    return each.mean(dim=1)


# ------------------------------------------------------------------ blind model selection


def relative_reward(agent: Tensor, expert: Tensor) -> Tensor:
    """rho_rel = mean over test episodes of sum_t R_TDIL / the demonstration's sum. [S].

    Blind: needs no reward of the environment. Not normalised by length, so lingering beside the
    demonstration beats finishing it.

    Args:
        agent: rewards of the test episodes under the current (not the target) discriminator, 0
            after an episode's end. [S, E, L]
        expert: rewards of the demonstration's own next states. [S, T]
    """
    return agent.sum(dim=2).mean(dim=1) / expert.sum(dim=1)
