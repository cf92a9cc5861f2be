"""MEow (Chao, Feng et al., arXiv 2405.13629): one flow that is soft Q, soft V and policy.

Conventions. S seeds are stacked in front of everything, B is the batch:
    state [S, B, obs] · action in (-1, 1) [S, B, A] · Q, V, log pi [S, B] · shifts b_k [S, B, K]
The flow runs from actions to noise, z = g(a|s). S_l are its layers whose Jacobian does not depend
on the action (it may depend on the state), S_n the others; `common.flows` tells them apart.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.flows import AdditiveCoupling, AffineCoupling, Atanh, Flow, Scale
from common.sac import Batch, polyak
from common.stacked import (
    MLP,
    Initialiser,
    StackedLayerNorm,
    StackedLinear,
    Swish,
    adam,
    clip_grad_norm_per_seed,
    rand,
    zeros,
)

Generators = Sequence[torch.Generator]


@dataclass(frozen=True)
class MEowConfig:
    """Hyperparameters; the defaults are those that all of the authors' MuJoCo runs share."""

    alpha: float = 0.25  # temperature, constant (HalfCheetah; per environment in task.py)
    gamma: float = 0.99  # discount
    tau: float = 0.005  # step of the slow copy per update (per environment in task.py)
    lr: float = 1e-3  # Adam
    clip: float = 30.0  # largest gradient norm
    log_sigma: tuple[float, float] = (-5.0, -0.3)  # range of log sigma (per environment)
    shifts: int = 2  # K: 2 LRS and SCDQ (MEow); 1 LRS only; 0 neither ("vanilla")
    coupling: Literal["additive", "affine"] = "additive"  # affine: the ablation of Fig. A1
    couplings: int = 4  # coupling layers
    hidden: int = 64  # width of the nets of couplings and log sigma
    hidden_shift: int = 256  # width of the nets of the reward shifts
    dropout: float = 0.1  # in the couplings, while training only


# --------------------------------------------------------------------------- networks


class Dropout(nn.Module):
    """Dropout whose masks come from one generator per seed."""

    def __init__(self, generators: Generators, p: float) -> None:
        super().__init__()
        self.generators, self.p = generators, p

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, width]; the identity in eval mode."""
        if not self.training or self.p == 0:
            return x
        return x * (rand(self.generators, *x.shape[1:]) >= self.p).to(x.dtype) / (1 - self.p)


class CouplingNet(nn.Module):
    """t(masked action, state): two hidden layers with layer norm, Swish and dropout."""

    def __init__(
        self,
        generators: Generators,
        dropout: Generators,
        obs: int,
        dim: int,
        cfg: MEowConfig,
        last_init: Initialiser = nn.init.orthogonal_,
    ) -> None:
        super().__init__()
        S, width = len(generators), cfg.hidden

        def block(n_in: int) -> list[nn.Module]:
            linear = StackedLinear(generators, n_in, width, nn.init.orthogonal_)
            swish = Swish(S, width)
            return [linear, StackedLayerNorm(S, width), swish, Dropout(dropout, cfg.dropout)]

        last = StackedLinear(generators, width, dim, last_init)
        self.layers = nn.Sequential(*block(dim + obs), *block(width), last)

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, A + obs] -> [S, B, A]."""
        return self.layers(x)


class LogSigma(nn.Module):
    """log sigma(s) in [low, high]; the same for all states at first (zero weights)."""

    def __init__(self, generators: Generators, obs: int, dim: int, cfg: MEowConfig) -> None:
        super().__init__()
        sizes = [obs, cfg.hidden, cfg.hidden, dim]
        self.net = MLP(generators, sizes, "swish", weight_init=zeros)
        self.low, self.high = cfg.log_sigma

    def forward(self, state: Tensor) -> Tensor:
        """[S, B, obs] -> [S, B, A]."""
        half = 0.5 * (self.high - self.low)
        return self.low + half * (torch.tanh(self.net(state)) + 1)


class Shifts(nn.Module):
    """The K reward shifts alpha MLP_k(s); zero weights at first."""

    def __init__(self, generators: Generators, obs: int, cfg: MEowConfig) -> None:
        super().__init__()
        sizes = [obs, cfg.hidden_shift, cfg.hidden_shift, 1]
        self.nets = nn.ModuleList(
            MLP(generators, sizes, "swish", weight_init=zeros) for _ in range(cfg.shifts)
        )
        self.alpha = cfg.alpha

    def forward(self, state: Tensor) -> Tensor:
        """[S, B, obs] -> [S, B, K]."""
        return self.alpha * torch.cat([net(state) for net in self.nets], dim=-1)


# --------------------------------------------------------------------------- the policy


class EnergyFlow(nn.Module):
    """pi(a|s) = exp(Q(s,a)/alpha) / exp(V(s)/alpha), with all three from one flow (Section 2.1)."""

    def __init__(
        self, generators: Generators, dropout: Generators, obs: int, dim: int, cfg: MEowConfig
    ) -> None:
        super().__init__()
        self.alpha, self.dim = cfg.alpha, dim
        even = 1.0 - torch.arange(dim) % 2  # the mask m = (1, 0, 1, 0, ...)

        def coupling(mask: Tensor) -> AdditiveCoupling | AffineCoupling:
            shift = CouplingNet(generators, dropout, obs, dim, cfg)
            if cfg.coupling == "additive":
                return AdditiveCoupling(mask, shift)
            log_scale = CouplingNet(generators, dropout, obs, dim, cfg, last_init=zeros)
            return AffineCoupling(mask, shift, log_scale)

        # generation is [scale, coupling m, 1 - m, m, 1 - m, tanh]; the flow is the other direction
        generation = [coupling(even if i % 2 == 0 else 1 - even) for i in range(cfg.couplings)]
        scale = Scale(LogSigma(generators, obs, dim, cfg))
        self.flow = Flow([Atanh(margin=1e-5), *reversed(generation), scale])
        self.shifts = Shifts(generators, obs, cfg) if cfg.shifts else None

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) = alpha log(p_z(g(a|s)) prod_{S_n} |det J_i|), without shift. [S, B]."""
        z, log_det_n = self.flow(action, state)
        return self.alpha * (log_normal(z) + log_det_n)

    def v(self, state: Tensor) -> Tensor:
        """V(s) = -alpha log prod_{S_l} |det J_i(s)| = alpha sum_i log sigma_i(s). [S, B]."""
        return -self.alpha * self.flow.log_det_constant(state).expand(state.shape[:2])

    def b(self, state: Tensor) -> Tensor:
        """Learnable reward shifts b_k(s); one of zeros without LRS. [S, B, K]."""
        if self.shifts is None:
            return torch.zeros(*state.shape[:2], 1, dtype=state.dtype, device=state.device)
        return self.shifts(state)

    def q_clip(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) + min_k b_k(s): the Q that belongs to v_clip. [S, B]."""
        return self.q(state, action) + self.b(state).amin(-1)

    def v_clip(self, state: Tensor) -> Tensor:
        """SCDQ: V^clip(s) = V(s) + min_k b_k(s) = alpha log int exp(q_clip / alpha) da. [S, B]."""
        return self.v(state) + self.b(state).amin(-1)

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        """log pi(a|s) = (Q(s, a) - V(s)) / alpha; every shift cancels. [S, B]."""
        return (self.q(state, action) - self.v(state)) / self.alpha

    def sample(self, state: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """a = g^{-1}(z|s) and log pi(a|s), from standard normal z [S, B, A].

        log pi = log p_z(z) + sum log|det dg/da|, that is *minus* the log-determinants of the
        inverse. (The authors' code adds these.) It is computed from the action, as the density of
        the policy that is trained: beyond the atanh's margin of 1e-5 actions count as clipped.
        """
        action = self.flow.inverse(z, state)
        return action, self.log_prob(state, action)

    def mode(self, state: Tensor) -> Tensor:
        """g^{-1}(0|s): the evaluation's deterministic action. [S, B, A].

        With additive couplings it is the mode of the *pre-tanh* density (Prop. 2); the tanh's
        Jacobian makes the mode of Q over actions another one.
        """
        return self.flow.inverse(torch.zeros(*state.shape[:2], self.dim).to(state), state)

    def act(self, state: Tensor, z: Tensor) -> Tensor:
        """a = g^{-1}(z|s) alone. [S, B, A]."""
        return self.flow.inverse(z, state)


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I), summed over the last axis."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


# --------------------------------------------------------------------------- loss and update


@torch.no_grad()
def bellman_target(target: EnergyFlow, batch: Batch, gamma: float) -> Tensor:
    """y = r + gamma (1 - d) (V'(s') + min_k b'_k(s')), d only for terminations. [S, B].

    One flow gives V; the minimum is over the shifts alone.
    """
    return batch.reward + gamma * (1 - batch.terminated) * target.v_clip(batch.next_obs)


def soft_bellman_loss(policy: EnergyFlow, batch: Batch, y: Tensor) -> Tensor:
    """L = mean over the batch of sum_k 1/2 (Q + b_k - y)^2, NaN as 0. [S].

    With K = 2 it is the mean over the 2 B concatenated squared errors, as in the authors' code.
    """
    q = policy.q(batch.obs, batch.action).unsqueeze(-1) + policy.b(batch.obs)  # [S, B, K]
    error = 0.5 * (q - y.unsqueeze(-1)).square()
    return torch.where(error.isnan(), 0.0, error).sum(-1).mean(-1)


class MEow:
    """Algorithm 1 for S seeds: the policy, its slow copy, and one gradient step on one loss."""

    def __init__(
        self,
        generators: Generators,
        dropout: Generators,
        obs_dim: int,
        action_dim: int,
        cfg: MEowConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.cfg, self.noise = cfg, dropout
        self.policy = EnergyFlow(generators, dropout, obs_dim, action_dim, cfg).to(device).eval()
        memo = {id(dropout): dropout}  # the copy, always in eval mode, shares the generators
        self.target = copy.deepcopy(self.policy, memo).requires_grad_(False)
        self.parameters = list(self.policy.parameters())
        self.optimizer = adam([{"params": self.parameters}], lr=cfg.lr)

    @torch.no_grad()
    def act(self, state: Tensor, noise: Tensor | None) -> Tensor:
        """Actions for `noise` ~ N(0, I) [S, B, A], without dropout; None: the deterministic one."""
        return self.policy.mode(state) if noise is None else self.policy.act(state, noise)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Lines 3 and 4: one step on the soft Bellman error, and one of the slow copy."""
        y = bellman_target(self.target, batch, self.cfg.gamma)
        self.policy.train()  # dropout on
        loss = soft_bellman_loss(self.policy, batch, y)
        self.policy.eval()
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        norm = clip_grad_norm_per_seed(self.parameters, self.cfg.clip)
        self.optimizer.step()
        polyak(self.target, self.policy, self.cfg.tau)
        return {"loss": loss.detach(), "gradient_norm": norm, "target": y.mean(-1)}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "policy": self.policy.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restores what `state` gave."""
        self.policy.load_state_dict(state["policy"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
