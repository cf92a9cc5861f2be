"""A trained sampler of an enumerated task, with one seed picked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UserError
from common.gfn.nets import StackedMLP
from common.gfn.tabular_sampler import TabularSampler
from common.run import Run
from common.stacked import seed_generators
from common.trained import seed_index
from papers.rpe import method
from papers.rpe.config import Config
from papers.rpe.learners import learned_policy
from papers.rpe.methods import METHODS
from papers.rpe.task import ENUMERATED, make_dag, names_of


class Sampler(TabularSampler):
    """Samples objects in proportion to the reward, as well as the run has learned it.

    Args:
        config: of the run.
        final: its last checkpoint.
        index: which of its seeds.
    """

    def __init__(self, config: Config, final: dict[str, Any], index: int) -> None:
        self.config = config
        self.dag = make_dag(config.task, config.sizes)
        learner = METHODS[config.method]
        if learner.kind == "tables":
            self.log_policy = method.tabular_rpe(self.dag)[1]  # [N, A]
            return
        n_outputs = learner.n_outputs(self.dag.n_actions, self.dag.n_backward)
        sizes = (self.dag.input_dim, config.hidden, config.hidden, n_outputs)
        net = StackedMLP(seed_generators(config.seed, 0), sizes)
        net.load_state_dict(final["net"])
        log_g = method.log_path_factor(self.dag)
        self.log_policy = learned_policy(net, self.dag, learner, log_g)[0][index]

    def sample(self, n: int, seed: int = 0) -> list[str]:
        """``n`` objects as text: words, RNA strings, …"""
        rows = self.sample_rows(n, seed)
        return names_of(self.config.task, self.config.sizes, self.dag, rows)


def load_sampler(folder: Path, seed: int | None = None) -> Sampler:
    """See :func:`papers.rpe.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    if config.task not in ENUMERATED:
        raise UserError(f"load knows the tasks {', '.join(ENUMERATED)}, not {config.task}")
    return Sampler(config, run.final(), seed_index(folder, config.seed, seed))
