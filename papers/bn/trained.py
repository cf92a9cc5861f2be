"""A trained sampler of an enumerated task, with one seed picked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import UserError
from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import uniform_log_pf
from common.gfn.nets import StackedMLP
from common.gfn.tabular_sampler import TabularSampler
from common.run import Run
from common.stacked import seed_generators
from common.trained import seed_index
from papers.bn.baselines import make_network
from papers.bn.config import Config
from papers.bn.method import BifurcatedNet
from papers.bn.methods import METHODS
from papers.bn.task import ROW_TASKS, problem
from papers.bn.train import log_pf_of_all_rows


def restore_network(
    config: Config, dag: EnumeratedDAG, final: dict[str, Any]
) -> BifurcatedNet | StackedMLP:
    """The trained networks of all seeds of a run."""
    sizes = (dag.input_dim, dag.n_actions, dag.n_backward, config.width)
    net = make_network(config.method, seed_generators(config.seed, 0), *sizes)
    net.load_state_dict(final["net"])
    return net


class Sampler(TabularSampler):
    """Samples objects in proportion to the reward, as well as the run has learned it.

    Args:
        config: of the run.
        final: its last checkpoint.
        index: which of its seeds.
    """

    def __init__(self, config: Config, final: dict[str, Any], index: int) -> None:
        self.config = config
        self._problem = problem(config.task, **config.sizes())
        self.dag = self._problem.dag
        if METHODS[config.method].objective is None:
            self.log_policy = uniform_log_pf(self.dag)  # [N, A]
        else:
            net = restore_network(config, self.dag, final)
            self.log_policy = log_pf_of_all_rows(net, self.dag)[index]

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` objects [n, k]: coordinates of a grid, a 0 or 1 per item of a set, or letters."""
        rows = self.sample_rows(n, seed)
        assert self.dag.active is not None
        active = self.dag.active[rows]  # one input of each place is one
        return active % (self.dag.input_dim // active.shape[-1])


def load_sampler(folder: Path, seed: int | None = None) -> Sampler:
    """See :func:`papers.bn.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    if config.task not in ROW_TASKS:
        raise UserError(f"load knows the tasks {', '.join(ROW_TASKS)}, not {config.task}")
    return Sampler(config, run.final(), seed_index(folder, config.seed, seed))
