"""Prompt Diffuser: a conditional diffusion over prompts, guided through a frozen policy.

A prompt of K* steps (state, action, reward) is a vector x; y is its condition, the returns-to-go
and time steps of K* steps of a demonstration. A small network learns to denoise prompts of the
task (L_DM); what it generates stands before the history of a frozen decision transformer, and the
error of the actions that follow (L_DT) is sent back through all denoising steps. The gradient of
L_DT is first projected onto what is orthogonal to that of L_DM. Equations are numbered as in
NOTES.md. States and rewards are standardised, actions in [-1, 1], returns over the task's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common.control.decision_transformer import DecisionTransformer, PromptTokens
from common.control.denoisers import sinusoids
from common.control.diffusion import Schedule, ddpm, noised, vp_schedule
from common.control.sequences import Windows, action_loss
from common.torch_utils import cumulative_sum

Rule = Literal["projection", "svd", "conflict", "sum", "denoising", "guidance"]
LAMBDA = 1.0  # weight of the guidance, for all tasks
ENERGY = 0.95  # share of squared singular values that spans a layer's space of L_DM ("svd")


# -- prompts as vectors ---------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptShape:
    """Eq. 2: x = [(s_1, a_1, r_1), ..., (s_K*, a_K*, r_K*)], D = K* (d_s + d_a + 1) numbers."""

    steps: int  # K*
    state_dim: int  # d_s
    action_dim: int  # d_a

    @property
    def dim(self) -> int:
        """D."""
        return self.steps * (self.state_dim + self.action_dim + 1)

    def vector(self, states: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """x of states [B, K*, d_s], actions [B, K*, d_a], rewards [B, K*]. [B, D]"""
        return torch.cat((states, actions, rewards.unsqueeze(-1)), -1).flatten(1)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States, actions and rewards of x [B, D]; the inverse of ``vector``."""
        states, actions, rewards = x.unflatten(1, (self.steps, -1)).split(
            (self.state_dim, self.action_dim, 1), -1
        )
        return states, actions, rewards.squeeze(-1)


@dataclass(frozen=True)
class Condition:
    """Eq. 3: y = (rhat_j, t_j) of K* steps; it tells the quality and the moment, not the task."""

    returns: Tensor  # [B, K*] returns-to-go over the task's scale
    timesteps: Tensor  # [B, K*] int64
    limit: int  # steps of the longest episode

    @property
    def vector(self) -> Tensor:
        """y as the networks see it, time steps over the limit. [B, 2 K*]"""
        return torch.cat((self.returns, self.timesteps / self.limit), -1)


def prompt_of(shape: PromptShape, x: Tensor, y: Condition) -> Windows:
    """The policy's prompt: states and actions of x (clamped to the box), the rest of y. [B, K*]

    The generated rewards are not used: the policy's tokens are returns-to-go.
    """
    states, actions, _ = shape.parts(x)
    real = torch.ones_like(y.timesteps, dtype=torch.bool)
    return Windows(y.returns, states, actions.clamp(-1.0, 1.0), y.timesteps, real)


# -- the conditional diffusion --------------------------------------------------------------------


def schedule(n: int = 10, beta_min: float = 0.1, beta_max: float = 10.0) -> Schedule:
    """The variance-preserving noise of N steps; at N = 10 8 % of x is left at the end.

    N is small because the guidance goes back through all of them. Not in the paper; the rates are
    those of Diffusion-QL (Wang et al. 2023).
    """
    return vp_schedule(n, beta_min, beta_max)


class NoisePredictor(nn.Module):
    """eps_theta(x, y, i): an MLP on x, a linear map of y and the embedded step.

    With K* = 5, 20 states, 6 actions: 164,775 parameters, the paper's 0.17 M.

    Args:
        shape: of the prompts.
        hidden: units of the two hidden layers.
        condition: units for y.
        embedding: units for the step.
    """

    def __init__(
        self, shape: PromptShape, hidden: int = 256, condition: int = 64, embedding: int = 32
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.condition = nn.Linear(2 * shape.steps, condition)
        self.step = nn.Sequential(
            *(nn.Linear(embedding, 2 * embedding), nn.SiLU()),
            nn.Linear(2 * embedding, embedding),
        )
        self.net = nn.Sequential(
            *(nn.Linear(shape.dim + condition + embedding, hidden), nn.SiLU()),
            *(nn.Linear(hidden, hidden), nn.SiLU()),
            nn.Linear(hidden, shape.dim),
        )

    def forward(self, x: Tensor, y: Tensor, i: Tensor | int) -> Tensor:
        """The noise in x. [B, D]

        Args:
            x: noisy prompts [B, D].
            y: their conditions [B, 2 K*].
            i: steps of the diffusion, from 0 to N - 1: one, or [B].
        """
        steps = torch.as_tensor(i, device=x.device).expand(len(x))
        embedded = self.step(sinusoids(steps, self.embedding).to(x.dtype))
        return self.net(torch.cat((x, self.condition(y), embedded), -1))


def noise_predictor(shape: PromptShape, seed: int, hidden: int = 256) -> NoisePredictor:
    """A new network on the CPU; its weights depend on the sizes and the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NoisePredictor(shape, hidden)


def denoising_loss(
    net: NoisePredictor, noise: Schedule, x0: Tensor, y: Tensor, i: Tensor, epsilon: Tensor
) -> Tensor:
    """Eq. 4: L_DM = E |eps - eps_theta(sqrt(abar_i) x0 + sqrt(1 - abar_i) eps, y, i)|^2 / D.

    Args:
        net: eps_theta.
        noise: the schedule.
        x0: prompts [B, D].
        y: their conditions [B, 2 K*].
        i: steps [B], uniform on 0 ... N - 1.
        epsilon: standard normal [B, D].
    """
    return (epsilon - net(noised(noise, x0, epsilon, i), y, i)).square().mean()


def generated(
    net: Callable[[Tensor, Tensor, int], Tensor],
    noise: Schedule,
    y: Tensor,
    x: Tensor,
    fresh: Callable[[], Tensor],
) -> Tensor:
    """Eq. 5: x^0 by all N ancestral steps from x^N = ``x``; gradients are kept. [B, D]

    Args:
        net: eps_theta.
        noise: the schedule.
        y: conditions [B, 2 K*].
        x: standard normal [B, D].
        fresh: more such draws, N - 1 of them.
    """
    return ddpm(lambda x_i, i: net(x_i, y, i), x, noise, fresh)


# -- guidance through the frozen policy -----------------------------------------------------------


def guidance_loss(
    policy: DecisionTransformer, windows: Windows, prompt: Windows | PromptTokens
) -> Tensor:
    """Eq. 6: L_DT = E (1 / K) sum_t |a_t - pi(prompt, history up to t)_t|^2 / d_a.

    Args:
        policy: frozen.
        windows: B of the task's demonstrations.
        prompt: B generated ones, with gradients.
    """
    return action_loss(policy(windows, prompt), windows)


# -- directions of both losses, combined ----------------------------------------------------------


def flat(gradients: Sequence[Tensor]) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([g.flatten() for g in gradients])


def inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """<one, other> over all parameters."""
    return flat(one) @ flat(other)


def off_the_line(gradients: Sequence[Tensor], along: Sequence[Tensor]) -> list[Tensor]:
    """Eq. 7: Proj(g) = g - (<g, d> / |d|^2) d, onto the complement of the line of d = ``along``.

    The paper's B B^T with B an orthonormal basis of that complement, without making one.
    """
    length = inner(along, along)
    share = torch.where(length > 0, inner(gradients, along) / length.clamp(min=1e-38), length)
    return [g - share * d for g, d in zip(gradients, along, strict=True)]


def off_the_space(
    gradients: Sequence[Tensor], of: Sequence[Tensor], energy: float = ENERGY
) -> list[Tensor]:
    """Eq. 7, layer by layer: Proj(G) = G - U U^T G, U the left singular vectors of L_DM's gradient.

    As many of them as hold ``energy`` of the squared singular values (gradient projection memory,
    Saha et al. 2021, with the gradient in the place of activations); a bias is a column.
    """
    found = []
    for g, d in zip(gradients, of, strict=True):
        columns = g.reshape(len(g), -1)
        U, S, _ = torch.linalg.svd(d.reshape(len(d), -1), full_matrices=False)
        held = cumulative_sum(S.square()) - S.square()  # by those before each
        basis = U * ((held < energy * S.square().sum()) & (S > 0))
        found.append((columns - basis @ (basis.T @ columns)).view_as(g))
    return found


def combined(
    rule: Rule, denoising: Sequence[Tensor], guidance: Sequence[Tensor], lam: float = LAMBDA
) -> list[Tensor]:
    """Eq. 8: the direction of descent g_DM + lambda Proj(g_DT), or an ablation of it.

    Args:
        rule: "projection" (on the complement of the line), "svd" (of each layer's space),
            "conflict" (only where <g_DT, g_DM> < 0, as PCGrad does), "sum" (no projection),
            "denoising" (g_DM alone), "guidance" (g_DT alone).
        denoising: g_DM, parameter by parameter.
        guidance: g_DT.
        lam: lambda.
    """
    if rule == "denoising":
        return list(denoising)
    if rule == "guidance":
        return list(guidance)
    if rule == "svd":
        moved = off_the_space(guidance, denoising)
    elif rule == "sum":
        moved = list(guidance)
    else:
        moved = off_the_line(guidance, denoising)
        if rule == "conflict":
            against = inner(guidance, denoising) < 0
            pairs = zip(moved, guidance, strict=True)
            moved = [torch.where(against, m, g) for m, g in pairs]
    return [d + lam * m for d, m in zip(denoising, moved, strict=True)]
