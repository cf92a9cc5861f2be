"""Tasks whose states are all rows of a table: rollouts, the exact distribution, modes."""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn import metrics
from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import terminating_distribution
from common.gfn.nets import StackedMLP
from common.gfn.rows import sample_rows
from common.gfn.sampling import Trajectories, sample_from_table
from papers.rpe import method
from papers.rpe.learners import learned_policy
from papers.rpe.method import evaluate_rows
from papers.rpe.methods import Learner
from papers.rpe.task import Sizes, accuracy, make_dag, modes

SHOWN = ("words", "rna1-var")  # tasks whose distribution is kept for a figure


class EnumeratedTask:
    """A task's DAG with what training and evaluation ask of it (see ``large.LargeStrings``)."""

    def __init__(self, task: str, sizes: Sizes, device: torch.device) -> None:
        self.task, self.dag = task, make_dag(task, sizes).to(device)
        self.n_actions, self.n_backward = self.dag.n_actions, self.dag.n_backward
        self.input_dim, self.max_length = self.dag.input_dim, self.dag.max_length
        self._log_g = method.log_path_factor(self.dag)
        self._allowed = method.nth_allowed(self.dag)
        is_mode = modes(self.dag)
        self._n_modes = int(is_mode.sum())
        self._mode_number = torch.where(is_mode, is_mode.cumsum(0) - 1, -1)

    def no_modes(self, n_seeds: int) -> Tensor:
        """Which modes were found, none yet. [S, n_modes] bool."""
        device = self._mode_number.device
        return torch.zeros(n_seeds, self._n_modes, dtype=torch.bool, device=device)

    def rollout(
        self, net: StackedMLP, learner: Learner, u: Tensor
    ) -> tuple[Trajectories, EnumeratedDAG]:
        """Trajectories of row numbers and the DAG that the rows are of.

        RPE: of the uniform policy, by design; the others: of their own.
        """
        dag = self.dag
        if learner.kind == "rpe":
            return method.uniform_rollout(dag, self._allowed, u), dag

        def logits(rows: Tensor) -> Tensor:
            # softmax(Q/tau) of Munchausen DQN, softmax of the logits (tau = 1) of the others
            return evaluate_rows(net, dag, rows)[..., : dag.n_actions] * (1 - learner.alpha)

        return sample_rows(dag, logits, u), dag

    @torch.no_grad()
    def evaluate(
        self,
        net: StackedMLP,
        learner: Learner,
        u: Tensor,
        found: Tensor,
        log_Z: Tensor,
        log_c: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Exact numbers of the learned policy [S] each, and the modes found so far."""
        dag = self.dag
        log_pf, estimate = learned_policy(net, dag, learner, self._log_g)
        p_terminal = terminating_distribution(dag, log_pf)
        found = metrics.mark_regions(
            found, self._mode_number[sample_from_table(dag, log_pf, u).last]
        )
        values = {
            "l1_sum_exact": (p_terminal - dag.target()).abs().sum(-1),
            "accuracy": accuracy(p_terminal, dag.log_reward.exp()),
            "modes": found.sum(-1),
        }
        if learner.rectified:  # V(s_0) of the unrectified estimates no Z
            if learner.own_log_Z:
                estimate = log_Z.detach()
            elif learner.kind == "rpe":
                estimate = estimate + log_c
            values["log_Z_error"] = (estimate - dag.log_Z).abs()
        return values, found

    @torch.no_grad()
    def results(self, net: StackedMLP, learner: Learner, log_c: Tensor) -> dict[str, object]:
        """What evaluation wants to know of the last network."""
        final: dict[str, object] = {"n_modes": self._n_modes}
        if self.task in SHOWN:
            log_pf, _ = learned_policy(net, self.dag, learner, self._log_g)
            objects = torch.isfinite(self.dag.log_reward)
            final["p_objects"] = terminating_distribution(self.dag, log_pf)[:, objects].float()
        if learner.kind == "rpe" and learner.rectified:
            log_pf, _ = learned_policy(net, self.dag, learner, self._log_g, true_leaves=log_c)
            final["l1_true_leaves"] = metrics.l1_sum_exact(self.dag, log_pf)
        return final
