"""Fréchet distance and inception score: of any features, and of FID's Inception network.

Inception itself is the package ``torch-fidelity``, of the extra ``fid`` that no default needs. Who
asks for FID without it is told so before anything is trained (``require_inception``).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError

WEIGHTS = "inception/weights-inception-2015-12-05-6726825d.pth"  # below $PAPERS_DATA

Inception = Callable[[Tensor], tuple[Tensor, Tensor]]  # images -> pool features, logits


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) between Gaussians fitted to features [N, F]."""
    m = [x.double().mean(0) for x in (real, fake)]
    c = [torch.cov(x.double().T) for x in (real, fake)]
    # tr (C C')^(1/2) = sum of the roots of the eigenvalues of C^(1/2) C' C^(1/2)
    values, vectors = torch.linalg.eigh(c[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ c[1] @ root).clamp(min=0).sqrt().sum()
    return float((m[0] - m[1]).square().sum() + c[0].trace() + c[1].trace() - 2 * cross)


def inception_score(logits: Tensor, splits: int = 10, seed: int = 2020) -> float:
    """exp E KL(p(class | image) || p(class)), the mean over splits of the images.

    The images are shuffled first: p(class) is that of a split, so the splits of samples that lie
    class after class would each hold one class and score 1 however good they are.

    Args:
        logits: [N, classes].
        splits: parts of which each is scored by itself.
        seed: of the shuffle.
    """
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    log_p = torch.log_softmax(logits[order.to(logits.device)].double(), dim=-1)
    scores = []
    for part in log_p.chunk(splits):
        marginal = part.exp().mean(0).log()
        scores.append((part.exp() * (part - marginal)).sum(-1).mean().exp())
    return float(torch.stack(scores).mean())


def require_inception() -> Path | None:
    """The file of Inception's weights in ``$PAPERS_DATA``; None if they are to be downloaded.

    Raises:
        UserError: if the package is not installed.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UserError(
            "FID and the inception score need the package torch-fidelity: "
            "'make setup PAPER=<paper> SCALE=paper' installs it (the extra 'fid'). It fetches "
            f"Inception's weights, 91 MB; without a network put them at $PAPERS_DATA/{WEIGHTS}"
        )
    path = Path(os.environ.get("PAPERS_DATA", "")) / WEIGHTS
    return path if path.is_file() else None


def inception(device: torch.device | str) -> Inception:
    """FID's Inception: images [N, 3 H W] in [0, 1], square, -> pool [N, 2048], logits [N, 1008].

    Pixels are cut to whole numbers of 0 … 255, as published evaluations do.

    Raises:
        UserError: if torch-fidelity is not installed or the weights can't be had.
    """
    weights = require_inception()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        net = FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=None if weights is None else str(weights),
        )
    except OSError as error:
        raise UserError(
            f"Inception's weights could not be fetched ({error}); put torch-fidelity's "
            f"{Path(WEIGHTS).name} at $PAPERS_DATA/{WEIGHTS}"
        ) from error
    net = net.to(device).eval()

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        images = (x.clamp(0, 1) * 255).to(torch.uint8)
        side = round((x.shape[-1] // 3) ** 0.5)
        pooled, logits = net(images.view(-1, 3, side, side))
        return pooled, logits

    return run


@torch.no_grad()
def inception_metrics(
    extract: Inception, train: Tensor, size: int = 100
) -> Callable[[Tensor], dict[str, float]]:
    """FID against all training images, as is usual, and the inception score.

    Args:
        extract: from ``inception``.
        train: training images [N, D] in [0, 1].
        size: images at a time.

    Returns:
        A function of samples [M, D] in [0, 1].
    """
    real = torch.cat([extract(part)[0] for part in train.split(size)])

    @torch.no_grad()
    def metrics(x: Tensor) -> dict[str, float]:
        pooled, logits = zip(*(extract(part) for part in x.split(size)), strict=True)
        return {
            "fid": frechet_distance(real, torch.cat(pooled)),
            "inception_score": inception_score(torch.cat(logits)),
        }

    return metrics
