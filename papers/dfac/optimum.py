"""The least quantile Huber loss that a factorisation can reach on a table of normal pay-offs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from papers.dfac.method import midpoints, quantile_huber

DRAWS = 400  # midpoint quantiles that stand for a pay-off's law


def least_loss(
    means: NDArray[np.float64],
    stds: NDArray[np.float64],
    *,
    free_mean: bool,
    kappa: float = 1.0,
    levels: int = 64,
) -> NDArray[np.float64]:
    """Quantile functions of two agents' cells at the minimum of the expected loss.

    Z_jt(tau) = M_ij + (a_i(tau) - mean a_i) + (b_j(tau) - mean b_j) with M of any table
    (``free_mean``: DMIX, where a monotonic mixer can represent the means), else a_i + b_j (DDN).

    Args:
        means, stds: of the pay-offs, a square of one state. [A, A].
        free_mean: see above.
        kappa: of the Huber loss.
        levels: midpoint levels tau.

    Returns:
        [A * A, levels].
    """
    A = len(means)
    tau = midpoints(levels).double()
    normal = torch.distributions.Normal(*(torch.tensor(x).unsqueeze(-1) for x in (means, stds)))
    y = normal.icdf(midpoints(DRAWS).double())  # [A, A, DRAWS]
    a, b = (torch.zeros(A, levels, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mean = torch.tensor(means, requires_grad=True)

    def law() -> Tensor:
        if not free_mean:
            return a[:, None] + b[None, :]
        centred = [x - x.mean(-1, keepdim=True) for x in (a, b)]
        return mean.unsqueeze(-1) + centred[0][:, None] + centred[1][None, :]

    optimizer = torch.optim.LBFGS(
        [a, b, mean], max_iter=400, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = quantile_huber(law(), tau.expand(A, A, -1), y, kappa).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return law().detach().reshape(A * A, levels).numpy()
