"""Exact scores of the smoothed moons, and how far learned scores are from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from common.score import noise_level, parzen
from common.stacked import rand, randint, randn
from papers.dlsm.method import Network, cross_entropy, likelihood_score
from papers.dlsm.task import load

SIGMA = 7.5  # noise level of the evaluation [code]
SIDE, HALF_WIDTH, HALF_HEIGHT = 35, 40.0, 25.0  # the grid [paper]


@dataclass(frozen=True)
class Oracle:
    """Scores of p_sigma(x~) = (1/M) sum_i N(x~; x_i, sigma^2 I) and of its classes, exactly.

    By log-sum-exp: far from the data the densities underflow, their scores do not.
    """

    x: Tensor  # training data [M, D]
    y: Tensor  # [M]
    n_classes: int = 2

    def prior(self, at: Tensor, sigma: float) -> Tensor:
        """grad log p_sigma(x~). [N, D]."""
        return parzen(at.double(), self.x.double(), sigma)[1]

    def posterior(self, at: Tensor, sigma: float) -> Tensor:
        """grad log p_sigma(x~ | y) of every class. [C, N, D]."""
        return torch.stack([score for _, score in self._classes(at, sigma)])

    def likelihood(self, at: Tensor, sigma: float) -> Tensor:
        """grad log p_sigma(y | x~) of every class: posterior less prior score. [C, N, D]."""
        return self.posterior(at, sigma) - self.prior(at, sigma)

    def log_probability(self, at: Tensor, sigma: float) -> Tensor:
        """log p_sigma(y | x~) of every class, the Bayes classifier. [N, C]."""
        joint = [
            log_p + torch.log((self.y == c).double().mean())
            for c, (log_p, _) in enumerate(self._classes(at, sigma))
        ]
        return torch.log_softmax(torch.stack(joint, dim=-1), dim=-1)

    @cached_property
    def on_grid(self) -> tuple[Tensor, Tensor]:
        """Prior [N, D] and posterior scores [C, N, D] on the paper's grid at SIGMA."""
        points = grid()
        return self.prior(points, SIGMA), self.posterior(points, SIGMA)

    def _classes(self, at: Tensor, sigma: float) -> list[tuple[Tensor, Tensor]]:
        x = self.x.double()
        return [parzen(at.double(), x[self.y == c], sigma) for c in range(self.n_classes)]


@cache
def exact() -> Oracle:
    """The oracle of the training data."""
    return Oracle(*load("moons"))


def grid() -> Tensor:
    """The paper's evaluation points: 35 x 35 on [-40, 40] x [-25, 25]. [1225, 2]."""
    ticks = [torch.linspace(-h, h, SIDE) for h in (HALF_WIDTH, HALF_HEIGHT)]
    return torch.cartesian_prod(*ticks)


def distance(score: Tensor, truth: Tensor) -> Tensor:
    """Mean Euclidean distance between two fields: [..., N, D] -> [...]."""
    return (score.double() - truth).norm(dim=-1).mean(-1)


class Measures:
    """D_P, D_L and cross-entropy of stacked classifiers; the same points and draws at any time."""

    def __init__(
        self,
        oracle: Oracle,
        seeds: tuple[int, ...],
        draws: int = 20_000,
        device: torch.device | str = "cpu",
    ) -> None:
        self.oracle, self.seeds, self.draws, self.device = oracle, seeds, draws, device
        self.points, self.sigma = grid(), torch.tensor(SIGMA, device=device)
        self.true_prior, self.true_posterior = oracle.on_grid  # [N, D], [C, N, D]

    @property
    def true_likelihood(self) -> Tensor:
        """grad log p_sigma(y | x~) on the grid. [C, N, D]."""
        return self.true_posterior - self.true_prior

    def prior_error(self, prior: Network) -> Tensor:
        """Mean distance of s(x; phi) to the true prior score on the grid. [S]."""
        return distance(self.priors(prior), self.true_prior)

    def posterior_error(self, scores: Tensor) -> Tensor:
        """D_P of posterior scores [S, C, N, D] on the grid, by class. [S, C]."""
        return distance(scores, self.true_posterior)

    def errors(
        self, classifier: Network, prior: Network, alpha: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """D_L and D_P on the grid of alpha grad log p(y|x; theta), by class. [S, C] each."""
        likelihood = alpha * self.likelihoods(classifier)  # [S, C, N, D]
        d_l = distance(likelihood, self.true_likelihood)
        return d_l, self.posterior_error(likelihood + self.priors(prior).unsqueeze(1))

    def of(self, classifier: Network, prior: Network) -> dict[str, Tensor]:
        """What a training run logs: D_L and D_P, means of the classes, and cross-entropy. [S]."""
        d_l, d_p = (error.mean(-1) for error in self.errors(classifier, prior))
        return {"d_l": d_l, "d_p": d_p, "fresh_ce": self.cross_entropy(classifier)}

    def likelihoods(self, classifier: Network) -> Tensor:
        """grad log p(y|x; theta) of every class on the grid. [S, C, N, D]."""
        x = self.points.expand(len(self.seeds), -1, -1).to(self.device)
        fields = []
        for c in range(self.oracle.n_classes):
            labels = torch.full(x.shape[:-1], c, device=self.device)
            fields.append(likelihood_score(classifier, x, labels, self.sigma)[0])
        return torch.stack(fields, dim=1).cpu()

    @torch.no_grad()
    def priors(self, prior: Network) -> Tensor:
        """s(x; phi) on the grid. [S, N, D]."""
        return prior(self.points.expand(len(self.seeds), -1, -1).to(self.device), self.sigma).cpu()

    @cached_property
    def noisy(self) -> tuple[Tensor, Tensor, Tensor]:
        """Fresh (x~, y, sigma) over the training range of sigma, the same for all methods."""
        g = [torch.Generator().manual_seed(7_000_003 + seed) for seed in self.seeds]
        rows = randint(g, len(self.oracle.x), self.draws)
        sigma = noise_level(rand(g, self.draws, 1), 1e-3, 10.0)
        x = self.oracle.x[rows] + sigma * randn(g, self.draws, 2)
        return x.to(self.device), self.oracle.y[rows].to(self.device), sigma.to(self.device)

    @torch.no_grad()
    def cross_entropy(self, classifier: Network) -> Tensor:
        """Mean -log p(y | x~) over `noisy`. [S]."""
        x, y, sigma = self.noisy
        return cross_entropy(classifier(x, sigma), y).mean(-1).cpu()

    def bayes_cross_entropy(self, n: int = 5_000) -> Tensor:
        """What the Bayes classifier reaches on the first n draws of `noisy`. [S]."""
        data = self.oracle.x.to(self.device)
        first = self.oracle.y.to(self.device) == 0  # the classes are equally large
        losses = []
        for x, y, sigma in zip(*(part[:, :n].split(1) for part in self.noisy), strict=True):
            for at, label, level in zip(
                x[0].split(500), y[0].split(500), sigma[0].split(500), strict=True
            ):
                square = torch.cdist(at, data, compute_mode="donot_use_mm_for_euclid_dist").square()
                exponent = -square / (2 * level**2)
                classes = (exponent[:, first], exponent[:, ~first])
                logits = torch.stack([part.logsumexp(-1) for part in classes], dim=-1)
                losses.append(cross_entropy(logits, label))
        return torch.cat(losses).view(len(self.seeds), -1).mean(-1).cpu()

    @cached_property
    def dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draws of p_sigma(x~, y) at SIGMA and their true likelihood scores."""
        g = [torch.Generator().manual_seed(8_000_009 + seed) for seed in self.seeds]
        n = self.draws // 20
        rows = randint(g, len(self.oracle.x), n)
        x, y = self.oracle.x[rows] + SIGMA * randn(g, n, 2), self.oracle.y[rows]
        truth = self.oracle.likelihood(x.flatten(0, 1), SIGMA)
        truth = truth.gather(0, y.flatten()[None, :, None].expand(1, -1, 2))[0]
        return x, y, truth.view(x.shape)

    def dense_error(self, classifier: Network, alpha: float = 1.0) -> Tensor:
        """D_L where the data are: mean over (x~, y) ~ p_sigma, SIGMA. [S]."""
        x, y, truth = self.dense
        x, y = x.to(self.device), y.to(self.device)
        return distance(alpha * likelihood_score(classifier, x, y, self.sigma)[0].cpu(), truth)
