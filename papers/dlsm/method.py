"""Denoising likelihood score matching (Chao et al., arXiv 2203.14206): losses and guidance.

Noise: x~ = x + sigma z. By Bayes' rule a posterior score is a likelihood score plus a prior score,
    grad log p_sigma(x~ | y) = grad log p_sigma(y | x~) + grad log p_sigma(x~),
the first from a classifier theta, the second from a score model phi, trained before and frozen.

Shapes: S training seeds are stacked in front of everything; seeds and samples are independent.
    x, z, scores [S, B, D] · sigma [S, B, 1] or a scalar · y, losses [S, B] · logits [S, B, C]
A network is called with (x, sigma): a classifier gives logits, a score model scores.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.score import dsm

Network = Callable[[Tensor, Tensor], Tensor]

# --------------------------------------------------------------------------- scores


def likelihood_score(
    classifier: Network, x: Tensor, y: Tensor, sigma: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """grad_x log p(y | x; theta) at noise level sigma, and the logits it comes from.

    Args:
        classifier: theta.
        x: noisy points [S, B, D].
        y: the class whose likelihood is meant [S, B]; in training the label of the clean point.
        sigma: [S, B, 1] or a scalar.
        create_graph: keep the score differentiable in theta; without it both are detached.

    Returns:
        scores [S, B, D], logits [S, B, C].
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = classifier(x, sigma)
        log_p = F.log_softmax(logits, dim=-1).gather(-1, y.unsqueeze(-1))
        (score,) = torch.autograd.grad(log_p.sum(), x, create_graph=create_graph)
    return (score, logits) if create_graph else (score, logits.detach())


def posterior_score(
    classifier: Network, prior: Network, x: Tensor, y: Tensor, sigma: Tensor, alpha: float = 1.0
) -> Tensor:
    """alpha grad_x log p(y | x; theta) + s(x; phi): the decomposition; alpha = 1 is Bayes' rule.

    alpha > 1 is the scaled guidance of the baseline.
    """
    likelihood, _ = likelihood_score(classifier, x, y, sigma)
    with torch.no_grad():
        return alpha * likelihood + prior(x, sigma)


# --------------------------------------------------------------------------- losses


def elsm_loss(likelihood: Tensor, true_likelihood: Tensor) -> Tensor:
    """L_ELSM, per sample: 1/2 ||grad log p(y|x~; theta) - grad log p_sigma(y|x~)||^2. [S, B].

    Explicit likelihood score matching needs the true score: an oracle, never a training loss here.
    """
    return 0.5 * (likelihood - true_likelihood).square().sum(-1)


def dlsm_loss(
    likelihood: Tensor, prior: Tensor, sigma: Tensor | float, z: Tensor, weight: float = 0.0
) -> Tensor:
    """L_DLSM, per sample: 1/2 ||grad log p(y|x~; theta) + s + z/sigma||^2 sigma^(2w). [S, B].

    s is the prior score: the true one gives L_DLSM = L_ELSM + constant (w = 0, one sigma), the
    frozen score model gives L_DLSM', the loss that is trained. z/sigma = -grad log p_sigma(x~|x).

    Args:
        likelihood: grad log p(y|x~; theta) for y the label of the clean point, with its graph.
        prior: s(x~; phi); no gradient flows to phi.
        sigma: standard deviation of the noise.
        z: the standard normal noise in x~ = x + sigma z.
        weight: exponent w; 0 on CIFAR, 2 on moons.
    """
    return dsm(likelihood + prior.detach(), sigma, z, weight)


def total_loss(
    classifier: Network,
    prior: Network,
    x: Tensor,
    y: Tensor,
    sigma: Tensor,
    z: Tensor,
    *,
    weight: float = 0.0,
    lambda_ce: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_Total = L_DLSM' + lambda L_CE of a batch, the mean over samples. [S].

    L_DLSM' is a mean over the D dimensions here, as the published lambdas (1 on CIFAR, 0.125 on
    moons) are relative to that; lambda_ce = 0 is DLSM alone.

    Args:
        classifier: theta, gets the gradient.
        prior: phi, frozen.
        x: clean points [S, B, D].
        y: their labels [S, B].
        sigma: [S, B, 1].
        z: standard normal [S, B, D].
        weight: exponent w of the noise-level weight sigma^(2w) of L_DLSM'; L_CE has none.
        lambda_ce: lambda.

    Returns:
        the loss [S] (sum it over seeds, then differentiate), and its parts [S].
    """
    noisy = x + sigma * z
    with torch.no_grad():
        s = prior(noisy, sigma)
    # the loss is differentiated through this gradient once more: double backward
    likelihood, logits = likelihood_score(classifier, noisy, y, sigma, create_graph=True)
    dlsm = dlsm_loss(likelihood, s, sigma, z, weight).mean(-1) / x.shape[-1]
    ce = cross_entropy(logits, y).mean(-1)
    return dlsm + lambda_ce * ce, {"dlsm": dlsm, "ce": ce}


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """L_CE, per sample: -log p(y | x~; theta). [S, B]."""
    return -F.log_softmax(logits, dim=-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)


# --------------------------------------------------------------------------- sampling


def guided(
    classifier: Network, prior: Network, y: int | Tensor, alpha: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """The posterior score of one class as a function (x, sigma) -> score, for the samplers.

    Predictor-corrector sampling (common/ve_sde.py) uses it in both its halves.
    """

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        labels = torch.as_tensor(y, device=x.device).expand(x.shape[:-1])
        return posterior_score(classifier, prior, x, labels, sigma, alpha)

    return score


@torch.no_grad()
def langevin(
    score: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigma: Tensor,
    noise: Callable[[], Tensor],
    *,
    epsilon: float = 3.5,
    steps: int = 1000,
) -> Tensor:
    """Langevin dynamics at one noise level: x <- x + epsilon^2/2 score + epsilon z (moons).

    Args:
        score: (x, sigma) -> score of the smoothed density p_sigma.
        x: start [S, B, D].
        sigma: the noise level, a scalar tensor.
        noise: gives fresh standard normal draws of the shape of x.
        epsilon: step size; epsilon^2/2 must be small against 2 sigma^2.
        steps: number of steps.
    """
    for _ in range(steps):
        x = x + 0.5 * epsilon**2 * score(x, sigma) + epsilon * noise()
    return x
