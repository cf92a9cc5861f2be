"""Stage 3: the experts of trained mixtures are merged (or pruned), and what is left is evaluated.

One method on one task: every seed's mixture, every share of experts that is kept. All methods get
the same calibration tokens, the same number of experts and the same evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from common.torch_utils import setup
from papers.hc_smoe.config import Config
from papers.hc_smoe.diagnosis import block_outputs, described, layer_error, of_original
from papers.hc_smoe.layers import install
from papers.hc_smoe.methods import METHODS, Reduction
from papers.hc_smoe.reduction import joins, reduced
from papers.hc_smoe.subjects import Subject, subject_of
from papers.hc_smoe.task import FAMILIES, PRETRAINED, share_of


def random_of(seed: int, share: float, draw: int) -> np.random.Generator:
    """Of a method's draws: the same for every method, another one for every cell."""
    return np.random.default_rng([seed, round(1000 * share), draw])


def cells(cfg: Config, method: Reduction) -> Iterator[tuple[int, float]]:
    """(seed, share of experts that is kept) of a run; the original keeps all."""
    for share in cfg.kept:
        share_of(share, 1)
    for seed in cfg.seed:
        yield from ((seed, s) for s in ((1.0,) if method.kind == "none" else cfg.kept))


def mean_of(found: list[dict[str, float]]) -> dict[str, float]:
    """Means over draws; how far apart the losses lie, where there are several."""
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    if len(found) > 1 and "nll" in means:
        means["nll_range"] = float(np.ptp([one["nll"] for one in found]))
    return means


def train(cfg: Config) -> None:
    """Merge and evaluate, or go on from the last checkpoint.

    Raises:
        UserError: if a trained mixture is not there, or the method is of another stage.
    """
    method = METHODS[cfg.method]
    choose("task", cfg.task, (*FAMILIES, *PRETRAINED))
    if method.kind == "training":
        raise UserError(f"{method.name} is no way to merge; python -m papers.hc_smoe.pretrain")
    todo = list(cells(cfg, method))
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    subject: Subject | None = None
    loaded = -1
    kept = run.keep(groups={}, joins={})
    for step in run.steps(len(todo)):
        seed, share = todo[step]
        if subject is None or loaded != seed:
            subject, loaded = subject_of(cfg, seed, device), seed
            whole = block_outputs(subject.model, subject.held)
        found = []
        for draw in range(method.draws):
            # 1. to 4. representation, groups, one expert each: from the unmerged model alone
            layers = reduced(method, subject, share, cfg.most, random_of(seed, share, draw))
            # 5. the same model with fewer experts
            numbers = described(subject, layers)
            with install(subject.model, layers):
                numbers |= subject.quality(share >= max(cfg.kept))
                numbers["error"] = layer_error(subject.model, subject.held, whole)
            found.append(numbers)
        if method.kind == "none":
            found[0] |= of_original(subject)
        if layers is not None:
            groups = [one.labels if one.kept is None else one.kept for one in layers]
            kept.groups = {**kept.groups, f"{seed}/{share:g}": groups}
        if method.name == "hc-avg" and str(seed) not in kept.joins:
            kept.joins = {**kept.joins, str(seed): joins(method, subject)}
        run.log(step + 1, seed=seed, kept=share, **mean_of(found))


if __name__ == "__main__":
    run_cli(train, Config)
