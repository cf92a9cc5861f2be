"""What the paper compares with: the squared loss, and the untrained uniform policy as a floor.

The baseline runs through the same loop as the method with ``--method quadratic``; only g differs.
"""

from __future__ import annotations

from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import uniform_log_pf
from common.gfn.metrics import l1_sum_exact
from papers.gfn_losses.method import QUADRATIC

BASELINE = QUADRATIC.name  # g(t) = t^2/2, the loss of the literature (reverse KL)


def uniform_policy_l1(dag: EnumeratedDAG) -> float:
    """Exact L1 of the policy that is uniform over allowed actions (1.944 on D=2, H=16, hard)."""
    return float(l1_sum_exact(dag, uniform_log_pf(dag)))
