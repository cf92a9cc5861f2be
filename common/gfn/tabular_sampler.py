"""A trained sampler of an enumerated DAG, as a table of log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import terminating_distribution
from common.gfn.sampling import sample_from_table, uniforms


class TabularSampler:
    """Samples an enumerated DAG by one policy; what it samples is known exactly.

    Attributes:
        dag: states, actions and rewards.
        log_policy: log P_F of each state [N, A].
    """

    dag: EnumeratedDAG
    log_policy: Tensor

    def sample_rows(self, n: int, seed: int = 0) -> Tensor:
        """Rows of the DAG [n] at which ``n`` trajectories end."""
        u = uniforms([torch.Generator().manual_seed(seed)], (self.dag.max_length, n))
        return sample_from_table(self.dag, self.log_policy.unsqueeze(0), u).last[0]

    def distribution(self) -> Tensor:
        """Exact probability of each object [n_objects], in the order of the DAG's rows."""
        p = terminating_distribution(self.dag, self.log_policy)
        return p[torch.isfinite(self.dag.log_reward)]

    def target(self) -> Tensor:
        """What :meth:`distribution` should be: R/Z."""
        return self.dag.target()[torch.isfinite(self.dag.log_reward)]
