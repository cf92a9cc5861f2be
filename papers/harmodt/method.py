"""HarmoDT: a mask of the shared transformer per task, learned from how the tasks' gradients agree.

N tasks share parameters theta in R^D (those of the transformer's blocks; embeddings and the head
are shared by all). Task k acts with theta * M_k. The lower level trains theta under the masks, the
upper level moves ones of the masks to where a task agrees with the others. G-HarmoDT finds groups
of tasks and learns a mask for each; a gate tells the group from states. Equations are numbered as
in NOTES.md. Masks are boolean; D-vectors hold the maskable parameters one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from common.control.sparse import er_densities, largest, partial_step

Importance = Literal["fisher", "magnitude"]
MASKABLE = "blocks."  # all of the transformer's blocks, biases and layer norms included


# -- the maskable coordinates ---------------------------------------------------------------------


def maskable(net: nn.Module) -> dict[str, nn.Parameter]:
    """theta by name: the parameters that masks are over."""
    return {n: p for n, p in net.named_parameters() if n.startswith(MASKABLE)}


def flat(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Tensors of these names as one vector. [D]"""
    return torch.cat([tensors[name].detach().flatten() for name in names])


def views(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vector [D] as tensors with the names and shapes of ``like``."""
    parts = vector.split([t.numel() for t in like.values()])
    return {n: part.view(t.shape) for (n, t), part in zip(like.items(), parts, strict=True)}


def initial_masks(
    theta: Mapping[str, Tensor], sparsity: float, n: int, generator: torch.Generator
) -> Tensor:
    """Eq. 1: independent Bernoulli masks with ERK layer densities of an overall sparsity. [n, D]

    Args:
        theta: gives the shapes.
        sparsity: S, share that is absent in expectation.
        n: number of masks.
        generator: on the CPU.
    """
    densities = er_densities([tuple(t.shape) for t in theta.values()], sparsity)
    sizes = torch.tensor([t.numel() for t in theta.values()])
    density = torch.tensor(densities, dtype=torch.float64).repeat_interleave(sizes)  # [D]
    draws = torch.rand(n, len(density), generator=generator, dtype=torch.float64)
    return draws < density


# -- scores ---------------------------------------------------------------------------------------


def agreement(gradients: Tensor) -> Tensor:
    """Eq. 3: A_k = g_k * g_bar with g_bar = mean_k g_k; negative where a task conflicts. [N, D]

    Args:
        gradients: dense ones [N, D], Eq. 2: of L_k with respect to the effective weights.
    """
    return gradients * gradients.mean(0)


def harmony(gradients: Tensor, theta: Tensor, importance: Importance, lam: float) -> Tensor:
    """Eq. 5: H_k = I_k + lambda A_k with Eq. 4: I_k = g_k^2 (HarmoDT-F) or |theta| (-M). [N, D]

    Args:
        gradients: [N, D].
        theta: [D].
        importance: of a coordinate to a task.
        lam: lambda.
    """
    own = gradients.square() if importance == "fisher" else theta.abs().expand_as(gradients)
    return own + lam * agreement(gradients)


# -- the upper level ------------------------------------------------------------------------------


def flips(progress: float, most: int, least: int = 0) -> int:
    """Eq. 6: eta = floor(most + (least - most) (1 + cos 2 pi progress) / 2): 0, most, 0.

    Args:
        progress: t / T in [0, 1].
        most: eta_max, at half time.
        least: eta_min, at both ends.
    """
    wave = 0.5 * (least - most) * (1 + math.cos(2 * math.pi * progress))
    return math.floor(most + wave + 1e-9)  # what is whole stays whole


def updated_masks(masks: Tensor, harmony: Tensor, agreement: Tensor, count: int) -> Tensor:
    """Eq. 7: every mask drops ``count`` ones of least H_k and gains as many zeros of largest A_k.

    Both are chosen from the old mask, so no coordinate is dropped and recovered at once; the number
    of ones of a mask stays. Where fewer ones or zeros are there, so many fewer flip.

    Args:
        masks: [N, D].
        harmony: [N, D].
        agreement: [N, D].
        count: eta.
    """
    ones = masks.sum(1)
    counts = torch.minimum(ones, masks.shape[1] - ones).clamp(max=count)  # [N]
    dropped = largest(-harmony, masks, counts)
    recovered = largest(agreement, ~masks, counts)
    return (masks & ~dropped) | recovered


def vote(masks: Tensor, least: int) -> Tensor:
    """Eq. 9: the mask of an unseen task has the coordinates that ``least`` masks have. [D]"""
    return masks.sum(0) >= least


# -- the lower level ------------------------------------------------------------------------------


def clipped_gradients(loss: Tensor, leaves: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """d loss / d leaves by name, scaled to a global norm of at most ``norm``.

    Args:
        loss: of a forward pass with these leaves.
        leaves: effective weights theta * M_k and all other parameters.
        norm: of the dense gradient, before any mask.
    """
    found = torch.autograd.grad(loss, list(leaves.values()))
    scale = (norm / (nn.utils.get_total_norm(found) + 1e-6)).clamp(max=1.0)
    return {name: scale * g for name, g in zip(leaves, found, strict=True)}


def descend(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradients: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
) -> None:
    """Eq. 8: theta <- theta - M_k * AdamW(g_k * M_k); coordinates outside M_k stay bit for bit.

    One optimiser for all tasks: outside M_k its moments see a zero gradient and decay. Embeddings
    and the head take its plain step.

    Args:
        gradients: of all parameters, clipped.
        mask: M_k by name.
    """
    parameters = dict(net.named_parameters())
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].clone()
    partial_step(optimizer, [(parameters[name], m) for name, m in mask.items()])


# -- G-HarmoDT: groups of tasks and a gate --------------------------------------------------------


def groups_of(gradients: Tensor, n: int) -> Tensor:
    """Eq. 10: n groups of tasks by average linkage of the cosine distances of their gradients. [N]

    Args:
        gradients: [N, D], each task's mean over the warm-up.
        n: number of groups.

    Returns:
        The group of each task, on the CPU; groups are numbered by their first task.
    """
    from sklearn.cluster import AgglomerativeClustering

    if n >= len(gradients):
        return torch.arange(len(gradients))
    clustering = AgglomerativeClustering(n, metric="cosine", linkage="average")
    labels = clustering.fit_predict(gradients.double().cpu().numpy()).tolist()
    order = list(dict.fromkeys(labels))
    return torch.tensor([order.index(label) for label in labels])


def default_groups(n_tasks: int, most: int = 5) -> int:
    """Half of the tasks, rounded up, at most five."""
    return min(most, math.ceil(n_tasks / 2))


def group_gradients(gradients: Tensor, groups: Tensor) -> Tensor:
    """Eq. 11: g_c = mean of its members' gradients; it takes g_k's place in Eqs. 3–5. [n_g, D]

    Args:
        gradients: [N, D].
        groups: [N] from 0 on, none empty.
    """
    member = nn.functional.one_hot(groups).to(gradients)  # [N, n_g]
    return (member.T @ gradients) / member.sum(0).unsqueeze(1)


class Gate(nn.Module):
    """Eq. 12: log q(c | s), logits of an MLP on the mean of the last states.

    Args:
        state_dim: of globally standardised states.
        n_groups: n_g.
        hidden: units of the two hidden layers.
        states: that are averaged, at most.
    """

    def __init__(self, state_dim: int, n_groups: int, hidden: int = 128, states: int = 10) -> None:
        super().__init__()
        self.states = states
        self.net = nn.Sequential(
            *(nn.Linear(state_dim, hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.ReLU()),
            nn.Linear(hidden, n_groups),
        )

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """Log-probabilities of the groups. [B, n_g]

        Args:
            states: [B, K, s].
            real: [B, K] bool, False where it is padding.
        """
        states, weight = states[:, -self.states :], real[:, -self.states :].unsqueeze(-1)
        mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.net(mean).log_softmax(-1)


class Belief:
    """Eq. 13: in an episode the log-probabilities of all steps so far add up."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.total: Tensor | None = None  # [B, n_g]

    def __call__(self, states: Tensor, real: Tensor) -> Tensor:
        """The likeliest group of each of B episodes after one more step. [B]"""
        found = self.gate(states, real)
        self.total = found if self.total is None else self.total + found
        return self.total.argmax(-1)
