"""What DLSM is compared with: the same networks, data, optimiser and number of steps.

Scaled guidance needs no training: it is method.posterior_score with the cross-entropy classifier
and alpha > 1. DLSM alone is method.total_loss with lambda_ce = 0.
"""

from __future__ import annotations

from torch import Tensor

from common.score import dsm
from papers.dlsm.method import Network, cross_entropy

Loss = tuple[Tensor, dict[str, Tensor]]


def cross_entropy_loss(classifier: Network, x: Tensor, y: Tensor, sigma: Tensor, z: Tensor) -> Loss:
    """The base method: L_CE of a noise-conditional classifier, the mean over samples. [S]."""
    ce = cross_entropy(classifier(x + sigma * z, sigma), y).mean(-1)
    return ce, {"ce": ce}


def score_loss(score: Network, x: Tensor, sigma: Tensor, z: Tensor, weight: float = 1.0) -> Loss:
    """Denoising score matching: E 1/2 ||sigma^w s(x~, sigma) + sigma^(w-1) z||^2. [S].

    On all data it is stage 1, the prior score that every classifier is combined with. On the data
    of one class, with a network of its own for each class, it is *posterior score matching*.
    """
    loss = dsm(score(x + sigma * z, sigma), sigma, z, weight).mean(-1)
    return loss, {"dsm": loss}
