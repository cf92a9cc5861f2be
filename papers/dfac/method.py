"""DFAC (Sun et al., ICML 2021 and JMLR 2023): factorising the law of the joint return.

Conventions. S seeds are stacked in front of everything; B episodes, T steps, n agents, A actions:
    Z_i(h_i, u_i), K samples of an agent's quantile function at omega [S, B, T, n, K]
    Q_i = E[Z_i], the mean of these samples [S, B, T, n] · Z_jt, the joint law [S, B, T, K]
    omega in (0, 1) [S, B, T, 1, K]: the same for all agents of a moment; [S, B, T, n, K] for DIQL

Agents are implicit quantile networks (IQN): z(omega, .) = W2 (h * phi(omega)) + b2. That is linear
in phi, so means over omega and the quantiles of one action need no table of all actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.marl.targets import masked
from common.stacked import StackedLinear
from papers.dfac.networks import Batch, Generators, Psi, Sizes, Trunk, rows


@dataclass(frozen=True)
class DFACConfig:
    """Hyperparameters of the loss; the defaults are those of the released code."""

    gamma: float = 0.99  # discount
    samples: int = 8  # N, of the online quantile functions (released: 1 for DIQL and DDN)
    target_samples: int = 8  # N', of the target's
    kappa: float = 1.0  # of the Huber loss, in units of the return
    acting: int = 32  # K, samples whose mean an agent maximises
    double_q: bool = False  # the next actions are the online network's instead of the target's
    penalty: float = 1e-3  # of QPLEX's attention logits


# --------------------------------------------------------------------------- quantile functions


def midpoints(n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """The middles of n equal parts of (low, high): levels at which a law is read. [n].

    The mean of a quantile function over (0, 1) is the expectation, over (0, alpha) the CVaR.
    """
    return low + (high - low) * (torch.arange(n, dtype=torch.float32) + 0.5) / n


def cosines(omega: Tensor, n: int) -> Tensor:
    """cos(pi j omega), j = 0, ..., n - 1; the first is constant. [..., K] -> [..., K, n]."""
    return torch.cos(math.pi * omega.unsqueeze(-1) * torch.arange(n, device=omega.device))


def crossing(z: Tensor) -> Tensor:
    """Share of neighbouring levels at which a quantile function decreases. [..., K] -> [...]."""
    return (z[..., 1:] < z[..., :-1]).float().mean(-1)


class QuantileHead(nn.Module):
    """From hidden states to the agents' quantile functions."""

    def __init__(self, generators: Generators, hidden: int, n_actions: int, features: int) -> None:
        super().__init__()
        self.features = features
        self.embedding = StackedLinear(generators, features, hidden)
        self.head = StackedLinear(generators, hidden, n_actions)

    def embed(self, omega: Tensor) -> Tensor:
        """phi(omega) = relu(W cos(pi j omega) + b). [S, B, T, 1 or n, K] -> [..., K, H]."""
        return F.relu(rows(self.embedding, cosines(omega, self.features)))

    def forward(self, h: Tensor, phi: Tensor) -> Tensor:
        """Z_i of all actions. [S, B, T, n, H], [S, B, T, 1 or n, K, H] -> [S, B, T, n, A, K]."""
        return rows(self.head, h.unsqueeze(-2) * phi).transpose(-1, -2)

    def mean(self, h: Tensor, phi: Tensor) -> Tensor:
        """Q_i of all actions: the mean of Z_i over the same omega. -> [S, B, T, n, A]."""
        return rows(self.head, h * phi.mean(-2))

    def taken(self, h: Tensor, phi: Tensor, actions: Tensor) -> Tensor:
        """Z_i of one action each. Actions [S, B, T, n] -> [S, B, T, n, K]."""
        weight, bias = self.head.weight, self.head.bias  # [S, H, A], [S, 1, A]
        chosen = F.one_hot(actions, weight.shape[-1]).to(h.dtype)
        flat = chosen.flatten(1, -2)
        scaled = h * (flat @ weight.transpose(1, 2)).view_as(h)  # h * w_a
        offset = (flat @ bias.transpose(1, 2)).view(*actions.shape, 1)
        if phi.shape[-3] == 1:  # one product for all agents of a moment
            return scaled @ phi.squeeze(-3).transpose(-1, -2) + offset
        return (scaled.unsqueeze(-2) @ phi.transpose(-1, -2)).squeeze(-2) + offset


# --------------------------------------------------------------------------- factorisation


def mean_shape(z: Tensor, psi: Callable[[Tensor], Tensor]) -> Tensor:
    """Theorem 2 with the quantile mixture of Theorem 3 as shape.

    Z_jt(omega) = Psi(Q_1, ..., Q_n | s) + sum_i (Z_i(omega) - Q_i), the same omega in every Z_i.

    Args:
        z: Z_i of the actions taken. [..., n, K].
        psi: from Q_i [..., n] to [...]; the joint actions that are best for it are the agents'
            best ones. The sum gives DDN, QMIX's mixer DMIX, QPLEX's DPLEX.

    Returns:
        [..., K]; its mean over K is Psi(Q).
    """
    q = z.mean(-1)
    shape = (z - q.unsqueeze(-1)).sum(-2)
    return psi(q).unsqueeze(-1) + shape


def per_quantile(z: Tensor, psi: Callable[[Tensor], Tensor]) -> Tensor:
    """What Theorem 1 excludes: Psi(Z_1(omega), ..., Z_n(omega) | s) for every omega by itself.

    Its mean is E[Psi(Z)], not Psi(E[Z]), so the agents' best actions need not be the best joint
    one. Arguments and result as in ``mean_shape``.
    """
    return psi(z.transpose(-1, -2))


# --------------------------------------------------------------------------- loss


def huber(u: Tensor, kappa: float) -> Tensor:
    """u^2 / 2 within kappa of 0, kappa (|u| - kappa / 2) beyond; divided by kappa."""
    size = u.abs()
    return torch.where(size <= kappa, 0.5 * u.square(), kappa * (size - 0.5 * kappa)) / kappa


def quantile_huber(theta: Tensor, tau: Tensor, y: Tensor, kappa: float = 1.0) -> Tensor:
    """sum_a mean_b |tau_a - 1{y_b <= theta_a}| Huber(y_b - theta_a).

    With kappa = 0 in the limit its minimiser is the quantile function; with kappa = 1 it is an
    expectile near the middle of the law, which is narrower.

    Args:
        theta: online samples, at ``tau``. [..., N].
        tau: [..., N].
        y: samples of the target. [..., N'].
    """
    u = y.unsqueeze(-2) - theta.unsqueeze(-1)  # [..., N, N']
    weight = (tau.unsqueeze(-1) - (u <= 0).to(u.dtype)).abs()
    return (weight * huber(u, kappa)).mean(-1).sum(-1)


def masked_mean_per_seed(x: Tensor, filled: Tensor) -> Tensor:
    """Mean over the steps that happened, by seed. [S, B, T] each -> [S]."""
    return (x * filled).sum((1, 2)) / filled.sum((1, 2))


class QuantileNet(nn.Module):
    """Agents with quantile functions, and Psi: DIQL, DDN, DMIX, DPLEX."""

    def __init__(
        self,
        psi: Psi,
        generators: Generators,
        sizes: Sizes,
        factorise: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] = mean_shape,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(generators, sizes.n_in, sizes.hidden)
        self.head = QuantileHead(generators, sizes.hidden, sizes.n_actions, sizes.features)
        self.psi, self.factorise = psi, factorise
        self.n_agents = sizes.n_agents

    def draws(self, h: Tensor, n: int, draw: Callable[..., Tensor]) -> Tensor:
        """n quantile fractions per moment, shared by the agents (but DIQL's). [S, B, T, 1, n]."""
        each = self.n_agents if self.psi.mean == "none" else 1
        return draw(*h.shape[1:3], each, n)

    def means(self, h: Tensor, omega: Tensor) -> Tensor:
        """What an agent maximises: the mean of Z_i over omega. [..., n, H] -> [..., n, A]."""
        return self.head.mean(h, self.head.embed(omega))

    def law(
        self, h: Tensor, omega: Tensor, actions: Tensor, state: Tensor, avail: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Z_jt of joint actions at omega, [S, B, T, K], and Psi's penalty, [S].

        Where the agents learn alone: every agent's own Z_i, [S, B, T, n, K].
        """
        phi = self.head.embed(omega)
        z = self.head.taken(h, phi, actions)  # [S, B, T, n, K]
        if self.psi.mean == "none":
            return z, z.new_zeros(len(z))
        best = torch.zeros_like(z[..., 0])
        if self.psi.mean == "qplex":  # max_u Q_i, no gradient
            best = masked(self.head.mean(h, phi), avail).amax(-1).detach()
        penalties = []

        def psi(q: Tensor) -> Tensor:
            value, penalty = self.psi(q, best, actions, state)
            penalties.append(penalty)
            return value

        joint = self.factorise(z, psi)
        return joint, torch.stack(penalties).mean(0)


def dfac_loss(
    net: QuantileNet,
    target: QuantileNet,
    batch: Batch,
    draw: Callable[..., Tensor],
    cfg: DFACConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The quantile Huber loss of y_b = r + gamma (1 - term) Z_jt^-(omega_b | s', u*).

    u*_i maximises the mean of the target's (double Q: the online) Z_i over omega_b.

    Args:
        draw: uniform numbers of a shape, every seed its own. (...) -> [S, ...].

    Returns:
        the loss by seed [S], and what is logged [S] each.
    """
    h_online = net.trunk(batch.inputs)
    tau = net.draws(h_online[:, :, :-1], cfg.samples, draw)
    now = (batch.actions, batch.state[:, :, :-1], batch.avail[:, :, :-1])
    theta, penalty = net.law(h_online[:, :, :-1], tau, *now)
    with torch.no_grad():
        h, avail = target.trunk(batch.inputs)[:, :, 1:], batch.avail[:, :, 1:]
        omega = target.draws(h, cfg.target_samples, draw)
        chooser, seen = (net, h_online[:, :, 1:]) if cfg.double_q else (target, h)
        best = masked(chooser.means(seen, omega), avail).argmax(-1)
        z, _ = target.law(h, omega, best, batch.state[:, :, 1:], avail)
        alone = (slice(None),) * 3 + (None,) * (z.dim() - 3)  # [S, B, T, 1 (, 1)]
        y = batch.reward[alone] + cfg.gamma * (1 - batch.terminated[alone]) * z
    levels = tau if z.dim() == 5 else tau.squeeze(-2)
    loss = quantile_huber(theta, levels, y, cfg.kappa)
    spread = theta.detach().std(-1, correction=0)
    if loss.dim() == 4:  # DIQL: a mean over agents
        loss, spread = loss.mean(-1), spread.mean(-1)
    found = masked_mean_per_seed(loss, batch.filled)
    value = theta.detach().mean(-1).reshape(*batch.filled.shape, -1).mean(-1)
    logged = {
        "value": masked_mean_per_seed(value, batch.filled),
        "spread": masked_mean_per_seed(spread, batch.filled),
    }
    return found + cfg.penalty * penalty, {"loss": found.detach(), **logged}
