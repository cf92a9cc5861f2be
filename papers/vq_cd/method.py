"""VQ-CD: a diffusion planner in quantised spaces whose weights are shared out among tasks.

Tasks i = 1 … I arrive one after the other, with states and actions of their own dimensions. QSA
gives each task vector-quantised latents of one size (Eq. 4); a U-Net diffuses windows of state
latents under a return (Eq. 1), and inverse dynamics in latent space tell the action (Eq. 3). SWA
gives each task a disjoint share of the U-Net's weights by a random mask (Eq. 5); after training,
checkpoints are assembled by addition. Equations are numbered as in the paper (NOTES.md). All seeds
are stacked on the first axis [S, ...]; losses are per seed [S].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.control.denoisers import StackedConv1d
from common.control.diffusion import Schedule, cosine_schedule, ddim, guided, noised
from common.control.sparse import random_mask
from common.stacked import MLP, StackedLinear, randn

Generators = Sequence[torch.Generator]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Paper:
    """Table 3 of the paper."""

    code_dim: int = 2  # of a code
    state_latents: int = 10  # codes of a state
    action_latents: int = 5  # codes of an action
    codes: int = 512  # of a codebook
    space_hidden: int = 256  # units of QSA's layers
    commitment: float = 0.25
    bound: float = 3.0  # rho, of the codes
    space_lr: float = 1e-3  # QSA's, falls to a tenth
    horizon: int = 8  # T_e, states of a window
    diffusion_steps: int = 200  # K
    acting_steps: int = 10  # DDIM's, stride 20
    lr: float = 3e-4
    dropout: float = 0.25  # of the return condition
    omega: float = 1.2  # guidance
    target: float = 0.95  # return that acting is conditioned on (Algorithm 2: .8)
    gamma: float = 0.99
    steps: int = 500_000  # updates of a task, QSA's and SWA's each
    batch: int = 32


# -- QSA: quantised spaces --------------------------------------------------------------------


def nearest(points: Tensor, codes: Tensor) -> Tensor:
    """Index of each point's nearest code (Euclidean); ties go to the lower one. [S, P], int64.

    Args:
        points: [S, P, c].
        codes: [S, n, c].
    """
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points.detach(), codes.detach(), compute_mode=exact).argmin(-1)


def straight_through(z_e: Tensor, z_q: Tensor) -> Tensor:
    """z_q whose gradient goes to z_e as it is."""
    return z_e + (z_q - z_e).detach()


def space_loss(
    x: Tensor, decoded: Tensor, z_e: Tensor, z_q: Tensor, commitment: float = Paper.commitment
) -> Tensor:
    """Eq. 4: |x - D(z_q)|^2 + |sg(z_e) - z_q|^2 + commitment |z_e - sg(z_q)|^2, means. [S]

    Args:
        x, decoded: [S, B, d].
        z_e, z_q: [S, B, c].
    """
    terms = (
        (x - decoded).square().mean((1, 2)),
        (z_e.detach() - z_q).square().mean((1, 2)),
        (z_e - z_q.detach()).square().mean((1, 2)),
    )
    return terms[0] + terms[1] + commitment * terms[2]


class Space(nn.Module, ABC):
    """Latents of one task's states or actions.

    Args:
        dim: of the states or actions.
        size: of the latents.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.dim, self.size = dim, size

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Latents. [S, B, dim] -> [S, B, size]; ValueError for vectors of another task's size."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """[S, B, size] -> [S, B, dim]."""

    def checked(self, x: Tensor) -> Tensor:
        """x itself, if it is of this space's size."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"this task's vectors have {self.dim} dimensions, not {x.shape[-1]}")
        return x


class LearnedSpace(Space):
    """A space that is fitted to its task's data before it is frozen."""

    @abstractmethod
    def loss(self, x: Tensor, generators: Generators) -> tuple[Tensor, Tensor]:
        """Of a batch [S, B, dim]: the loss [S], and its latents [S, B, size] for ``revive``."""

    def after_update(self) -> None:
        """What has to hold after each update."""

    def revive(self, z: Tensor, generators: Generators) -> None:
        """What is done now and then, before the space is frozen."""


class QuantizedSpace(LearnedSpace):
    """One task's states or actions as codes: encoder, codebook, decoder, nothing shared.

    Args:
        generators: one per seed, on the CPU.
        dim: d of the states or actions.
        latents: codes of a vector; latents are [..., latents * code_dim].
        codes: of the codebook.
        hidden: units of the two hidden layers of encoder and decoder.
        bound: rho; codes are clipped to [-rho, rho] after each update.
    """

    def __init__(
        self,
        generators: Generators,
        dim: int,
        latents: int,
        *,
        codes: int = Paper.codes,
        code_dim: int = Paper.code_dim,
        hidden: int = Paper.space_hidden,
        bound: float = Paper.bound,
    ) -> None:
        super().__init__(dim, latents * code_dim)
        self.code_dim, self.bound = code_dim, bound
        self.encoder = MLP(generators, [dim, hidden, hidden, self.size], F.leaky_relu)
        self.decoder = MLP(generators, [self.size, hidden, hidden, dim], F.leaky_relu)
        self.codes = nn.Parameter(randn(generators, codes, code_dim))

    def quantized(self, z_e: Tensor) -> tuple[Tensor, Tensor]:
        """Each c-vector by its nearest code: z_q [S, B, size] and the codes' indices [S, B n]."""
        points = z_e.unflatten(-1, (-1, self.code_dim)).flatten(1, 2)  # [S, B n, c]
        index = nearest(points, self.codes)
        rows = torch.arange(len(index), device=index.device).unsqueeze(1)
        return self.codes[rows, index].view(z_e.shape), index

    def encode(self, x: Tensor) -> Tensor:
        """Quantised latents z_q; see :class:`Space`."""
        return self.quantized(self.encoder(self.checked(x)))[0]

    def decode(self, z: Tensor) -> Tensor:
        """See :class:`Space`; z need not be quantised."""
        found: Tensor = self.decoder(z)
        return found

    def loss(self, x: Tensor, generators: Generators) -> tuple[Tensor, Tensor]:
        """Eq. 4, and z_e."""
        z_e = self.encoder(self.checked(x))
        z_q, _ = self.quantized(z_e)
        decoded = self.decode(straight_through(z_e, z_q))
        return space_loss(x, decoded, z_e, z_q), z_e.detach()

    @torch.no_grad()
    def after_update(self) -> None:
        """The constraint of Eq. 4: |code| <= rho, which bounds what the U-Net diffuses."""
        self.codes.clamp_(-self.bound, self.bound)

    @torch.no_grad()
    def revive(self, z: Tensor, generators: Generators) -> None:
        """Put codes that nothing in a batch uses on encodings of it, drawn at random.

        Args:
            z: z_e of the batch. [S, B, size]
            generators: one per seed, on the codes' device.
        """
        points = z.unflatten(-1, (-1, self.code_dim)).flatten(1, 2)
        used = nearest(points, self.codes)
        for s, generator in enumerate(generators):
            dead = torch.ones(self.codes.shape[1], dtype=torch.bool, device=points.device)
            dead[used[s]] = False
            drawn = torch.randint(
                points.shape[1], (len(dead),), generator=generator, device=points.device
            )
            fresh = points[s, drawn].clamp(-self.bound, self.bound)
            self.codes[s] = torch.where(dead.unsqueeze(1), fresh, self.codes[s])


def perplexity(index: Tensor, codes: int) -> Tensor:
    """exp of the entropy of how often codes are used. [S, P] -> [S], from 1 to ``codes``."""
    share = F.one_hot(index, codes).double().mean(1)
    return torch.special.entr(share).sum(-1).exp()


# -- SWA: shares of the weights ---------------------------------------------------------------


def maskable(net: nn.Module, *, convolutions_only: bool = False) -> dict[str, Tensor]:
    """Weights [S, ...] that masks are over, by name: all matrices, or convolution kernels alone.

    The paper masks "the one-dimensional convolution kernels" and is silent on the rest. Biases and
    norms are vectors, and each task keeps its own.
    """
    kernels = {
        f"{name}.map" for name, part in net.named_modules() if isinstance(part, StackedConv1d)
    }
    return {
        f"{name}.weight": part.weight
        for name, part in net.named_modules()
        if isinstance(part, StackedLinear) and (name in kernels or not convolutions_only)
    }


def share(size: int, task: int, n_tasks: int) -> int:
    """Weights of a tensor that a task gets: a mask rate of 1 / I, the first tasks the remainder."""
    return size // n_tasks + (task < size % n_tasks)


def draw_mask(free: Tensor, task: int, n_tasks: int, generators: Generators) -> Tensor:
    """M_i of one tensor: uniform without replacement from the free positions. Boolean [S, ...]

    Args:
        free: positions that no earlier task has. [S, ...]
        task: i from 0.
        n_tasks: I.
        generators: one per seed, on the CPU.
    """
    count = share(free[0].numel(), task, n_tasks)
    return torch.stack(
        [random_mask(part, count, g) for part, g in zip(free, generators, strict=True)]
    )


def draw_masks(weights: Weights, n_tasks: int, generators: Generators) -> list[dict[str, Tensor]]:
    """The masks of all tasks in turn: disjoint, and together everything. By task and name."""
    free = {name: torch.ones(w.shape, dtype=torch.bool) for name, w in weights.items()}
    masks = []
    for task in range(n_tasks):
        drawn = {name: draw_mask(f, task, n_tasks, generators) for name, f in free.items()}
        free = {name: f & ~drawn[name] for name, f in free.items()}
        masks.append(drawn)
    return masks


def assembled(masks: Sequence[Weights], checkpoints: Sequence[Weights]) -> dict[str, Tensor]:
    """W = sum over i of M_i * W[i Omega], by name.

    Args:
        masks: of the tasks so far.
        checkpoints: masked tensors as they were at the end of each of these tasks.
    """
    pairs = list(zip(masks, checkpoints, strict=True))
    return {name: sum_of([m[name] * c[name] for m, c in pairs]) for name in masks[0]}


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Their sum, from the first on."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


# -- the planner ------------------------------------------------------------------------------

Denoiser = Callable[[Tensor, Tensor | int, Tensor], Tensor]  # x [S, B, T, C], n, c [S, B, c]


def schedule(steps: int = Paper.diffusion_steps) -> Schedule:
    """The cosine schedule of K steps; k of the paper is n + 1."""
    return cosine_schedule(steps)


class Preconditioned(nn.Module):
    """eps = sqrt(1 - abar) x + sqrt(abar) net(x): what is known of eps without learning, and a net.

    The first term is the best guess of a linear map for data of variance 1. Without it a network
    has first to learn to copy its input, which takes it longer than a short run lasts: at the last
    step (abar = 6e-8) x_0 = (x - eps) / sqrt(abar) turns any error into the clamp's bounds. The
    loss stays that of Eq. 1. (Salimans and Ho 2022: the net tells v.)

    Args:
        net: (x, n, condition), as :data:`Denoiser`.
        steps: K.
    """

    def __init__(self, net: nn.Module, steps: int) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("abar", torch.from_numpy(schedule(steps).alphas_cumprod).float())

    def forward(self, x: Tensor, n: Tensor | int, given: Tensor) -> Tensor:
        """eps of x [S, B, T, C]; n is one number or [S, B]."""
        abar = self.abar[torch.as_tensor(n, device=x.device)]
        abar = abar.view(*abar.shape, *[1] * (x.ndim - abar.ndim))
        found: Tensor = (1 - abar).sqrt() * x + abar.sqrt() * self.net(x, n, given)
        return found


def condition(returns: Tensor, kept: Tensor, identity: Tensor | None = None) -> Tensor:
    """b R, b and, for a network that all tasks share, the task's one-hot vector. [S, B, c]

    Args:
        returns: in [0, 1]. [S, B]
        kept: b, 1 or 0. [S, B]
        identity: [S, B, I], never dropped.
    """
    parts = [(kept * returns).unsqueeze(-1), kept.unsqueeze(-1)]
    return torch.cat(parts if identity is None else [*parts, identity], -1)


def observed(x: Tensor, states: int) -> Tensor:
    """Where the current state stands in windows [..., T, C]: step 0 of the first channels."""
    where = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
    where[0, :states] = True
    return where


def noise_loss(
    denoise: Denoiser,
    x: Tensor,
    n: Tensor,
    noise: Tensor,
    given: Tensor,
    schedule: Schedule,
    *,
    clean: Tensor | None = None,
) -> Tensor:
    """Eq. 1: mean of |eps - eps_theta(tau^k, k, b R)|^2. [S]

    Args:
        denoise: eps_theta.
        x: windows of latents. [S, B, T, C]
        n: k - 1. [S, B]
        noise: eps, as ``x``.
        given: the condition. [S, B, c]
        clean: boolean [T, C]: what acting overwrites by the current state is clean in training as
            well, and has no loss; None: Eq. 1 to the letter.
    """
    noisy = noised(schedule, x, noise, n)
    if clean is not None:
        noisy = torch.where(clean, x, noisy)
    error = (denoise(noisy, n, given) - noise).square()
    if clean is None:
        return error.mean((1, 2, 3))
    return (error * ~clean).sum((1, 2, 3)) / (len(error[0]) * (~clean).sum())


def inverse_loss(inverse: nn.Module, z: Tensor, after: Tensor, actions: Tensor) -> Tensor:
    """Eq. 3: mean of |z^a_t - f_inv(z_t, z_{t+1})|^2 over steps of windows. [S]

    Args:
        z: state latents. [S, B, P, c]
        after: those of the next step, as a plan tells them. [S, B, P, c]
        actions: action latents. [S, B, P, a]
    """
    return (actions - inverse(torch.cat((z, after), -1))).square().mean((1, 2, 3))


def plan(
    denoise: Denoiser,
    z: Tensor,
    noise: Tensor,
    given: Tensor,
    nothing: Tensor,
    schedule: Schedule,
    *,
    steps: int = Paper.acting_steps,
    omega: float = Paper.omega,
    clip: float = Paper.bound,
) -> Tensor:
    """Algorithm 2: windows that begin with the current state, by DDIM. [S, B, T, C]

    eps = eps(nothing) + omega (eps(R) - eps(nothing)); x_0 is clamped to [-clip, clip]; the current
    state is written over the first one before the first step and after each.

    Args:
        z: the current state's latents. [S, B, c]
        noise: tau^K. [S, B, T, C], C >= c
        given, nothing: the condition, with the return and with it dropped. [S, B, k]
    """
    B = noise.shape[1]
    both = torch.cat((given, nothing), 1)

    def epsilon(x: Tensor, n: int) -> Tensor:
        found = denoise(torch.cat((x, x), 1), n, both)  # one call for both
        return guided(found[:, B:], found[:, :B], omega)

    def project(x: Tensor) -> Tensor:
        first = torch.cat((z, x[:, :, 0, z.shape[-1] :]), -1).unsqueeze(2)
        return torch.cat((first, x[:, :, 1:]), 2)

    return ddim(epsilon, noise, schedule, steps, clip=clip, project=project)
