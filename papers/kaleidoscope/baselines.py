"""What Kaleidoscope is compared with: other ways for agents to share a network.

Every layer has ``effective() -> (weights [G, in, out], bias [G or 1, 1, out])``, as
``method.MaskedLinear``: G = 1 where all agents have the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.marl.episodes import Episode
from common.stacked import StackedLinear


class PlainLinear(StackedLinear):
    """One network (FuPS), or one for each agent (NoPS, the heads of MultiH)."""

    def effective(self) -> tuple[Tensor, Tensor]:
        """[G, in, out], [G, 1, out]."""
        return self.weight, self.bias


class PrunedLinear(nn.Module):
    """SNP: one weight under random masks that stay as they are drawn at first.

    Args:
        n_in, n_out: widths.
        n_masks: M.
        share: of the weights that each mask cuts.
        generator: of weights and masks.
    """

    def __init__(
        self, n_in: int, n_out: int, n_masks: int, share: float, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        bound = n_in**-0.5
        weight = torch.empty(n_in, n_out).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(1, 1, n_out).uniform_(-bound, bound, generator=generator)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        drawn = torch.rand(n_masks, n_in, n_out, generator=generator) >= share
        self.register_buffer("mask", drawn.to(weight.dtype))

    def effective(self) -> tuple[Tensor, Tensor]:
        """[M, in, out], [1, 1, out]."""
        return self.weight * self.get_buffer("mask"), self.bias


# --------------------------------------------------------------------------- SePS


class Describer(nn.Module):
    """Predicts (o_{t+1}, r_t) of (o_t, a_t) and a latent that stands for the agent alone.

    The auto-encoder of SePS (Christianos et al. 2021): its latents tell agents apart whose
    observations or rewards follow other laws.
    """

    def __init__(
        self, n_agents: int, obs_dim: int, n_actions: int, latent: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.mean = nn.Parameter(0.1 * torch.randn(n_agents, latent, generator=generator))
        self.log_variance = nn.Parameter(torch.zeros(n_agents, latent))
        sizes = (latent + obs_dim + n_actions, 64, 64, obs_dim + 1)
        self.layers = nn.ModuleList(
            StackedLinear([generator], sizes[i], sizes[i + 1]) for i in range(3)
        )

    def loss(self, x: Tensor, agent: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """Squared error, and 1e-4 of the divergence of the latents from N(0, I). []."""
        spread = (0.5 * self.log_variance).exp()
        z = self.mean[agent] + spread[agent] * noise
        h = torch.cat([z, x], -1).unsqueeze(0)
        for i, layer in enumerate(self.layers):
            h = layer(h if i == 0 else F.relu(h))
        divergence = 0.5 * (self.mean.square() + spread.square() - 1 - self.log_variance).sum(-1)
        return (h[0] - y).square().mean() + 1e-4 * divergence.mean()


def describe(
    episodes: Sequence[Episode], n_actions: int, seed: int, updates: int = 1_000, latent: int = 5
) -> NDArray[np.float32]:
    """Latents of the agents, learned from episodes of random play. [N, latent]."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.from_numpy(np.concatenate([e["obs"][:-1] for e in episodes]))  # [steps, N, O]
    after = torch.from_numpy(np.concatenate([e["obs"][1:] for e in episodes]))
    actions = torch.from_numpy(np.concatenate([e["actions"] for e in episodes]))
    reward = torch.from_numpy(np.concatenate([e["reward"] for e in episodes]))
    steps, N, O = obs.shape  # noqa: E741
    x = torch.cat([obs, F.one_hot(actions, n_actions).float()], -1).flatten(0, 1)
    y = torch.cat([after, reward[:, None, None].expand(-1, N, 1)], -1).flatten(0, 1)
    y = (y - y.mean(0)) / (y.std(0) + 1e-6)
    agent = torch.arange(N).repeat(steps)
    net = Describer(N, O, n_actions, latent, generator)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    for _ in range(updates):
        rows = torch.randint(len(x), (128,), generator=generator)
        noise = torch.randn(128, latent, generator=generator)
        optimizer.zero_grad(set_to_none=True)
        net.loss(x[rows], agent[rows], y[rows], noise).backward()
        optimizer.step()
    return np.asarray(net.mean.detach().numpy())


def clusters(latents: NDArray[np.float32], k: int, seed: int) -> list[list[int]]:
    """The agents of each cluster, by k-means of their latents; as many as are not empty.

    Raises:
        UserError: for more clusters than agents, or none.
    """
    if not 1 <= k <= len(latents):
        raise UserError(f"--clusters {k}: {len(latents)} agents make 1 to {len(latents)}")
    _, label = kmeans2(latents.astype(np.float64), k, minit="++", rng=np.random.default_rng(seed))
    groups = [np.flatnonzero(label == i).tolist() for i in range(k)]
    return sorted(group for group in groups if group)
