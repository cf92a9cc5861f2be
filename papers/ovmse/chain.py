"""The exact chain as a run: a method's exploration and memory in tabular Q-learning."""

from __future__ import annotations

from dataclasses import replace

from common.cli import run_cli
from common.errors import UserError
from common.run import Run
from papers.ovmse.config import ChainConfig
from papers.ovmse.methods import METHODS
from papers.ovmse.tabular import Setting, summary
from papers.ovmse.task import CHAIN


def setting_of(cfg: ChainConfig) -> Setting:
    """What a method is on the chain.

    Raises:
        UserError: if it is nothing there.
    """
    method = METHODS[cfg.method]
    plain = method.stage == "online" and method.pretrained and not method.from_data
    if cfg.task != CHAIN or not plain or method.conserve or method.explore == "one":
        raise UserError(f"{cfg.method} on {cfg.task} isn't an experiment on the chain")
    return Setting(
        memory=0.0 if method.memory == "none" else cfg.memory,
        anneal=0 if method.memory == "fixed" else cfg.anneal,
        epsilon=cfg.epsilon * method.epsilon,
        sequential=method.explore == "sequential",
        episodes=cfg.episodes,
    )


def train(cfg: ChainConfig) -> None:
    """Learn with and without noise on the rewards; what came out is the last checkpoint."""
    setting = setting_of(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    found = {
        "exact": summary(setting, cfg.seed),
        "noisy": summary(replace(setting, noise=cfg.noise), cfg.seed),
    }
    run.finish({**found, "step": cfg.episodes})


if __name__ == "__main__":
    run_cli(train, ChainConfig)
