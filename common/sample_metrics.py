"""How good and how varied samples are, without a downloaded network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PRDC:
    """Shares between 0 and 1, density excepted."""

    precision: float  # fakes inside some real k-NN ball
    recall: float  # reals inside some fake k-NN ball
    density: float  # real balls around a fake, over k
    coverage: float  # real balls that hold a fake


def prdc(real: Tensor, fake: Tensor, k: int) -> PRDC:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Balls reach to the k-th nearest neighbour among the others of the same set.

    Args:
        real: [N, D].
        fake: [M, D].
        k: number of neighbours, fewer than N and M.

    Raises:
        ValueError: if there are not more points than neighbours.
    """
    if k >= min(len(real), len(fake)):
        raise ValueError(f"{k} neighbours among {min(len(real), len(fake))} points")
    real, fake = real.double(), fake.double()

    def radius(x: Tensor) -> Tensor:
        exact = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(x, x, compute_mode=exact)
        # kthvalue has no deterministic kernel on a GPU
        return distance.topk(k + 1, dim=1, largest=False).values.amax(1)

    r_real, r_fake = radius(real), radius(fake)
    distance = torch.cdist(real, fake, compute_mode="donot_use_mm_for_euclid_dist")  # [N, M]
    in_real = distance < r_real.unsqueeze(1)
    return PRDC(
        precision=in_real.any(0).double().mean().item(),
        recall=(distance < r_fake).any(1).double().mean().item(),
        density=in_real.double().sum(0).mean().item() / k,
        coverage=(distance.amin(1) < r_real).double().mean().item(),
    )


def mmd2(real: Tensor, fake: Tensor, scales: tuple[float, ...] = (0.5, 1.0, 2.0)) -> float:
    """Unbiased squared maximum mean discrepancy, a sum of Gaussian kernels.

    k(x, y) = sum_c exp(-|x - y|^2 / (2 (c m)^2)) with m the median distance among the reals. May
    be negative.
    """
    real, fake = real.double(), fake.double()
    n, m = len(real), len(fake)
    real_real, fake_fake = torch.cdist(real, real), torch.cdist(fake, fake)
    upper = torch.triu_indices(n, n, 1)
    median = real_real[upper[0], upper[1]].median()

    def kernel(distance: Tensor) -> Tensor:
        return torch.stack([(-0.5 * (distance / (c * median)) ** 2).exp() for c in scales]).sum(0)

    k_rr, k_ff = kernel(real_real), kernel(fake_fake)
    within_real = (k_rr.sum() - k_rr.diagonal().sum()) / (n * (n - 1))
    within_fake = (k_ff.sum() - k_ff.diagonal().sum()) / (m * (m - 1))
    return (within_real + within_fake - 2 * kernel(torch.cdist(real, fake)).mean()).item()
