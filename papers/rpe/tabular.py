"""The exact experiment: what the tables of a task say, without any learning."""

from __future__ import annotations

from typing import Any

import torch

from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import exact_log_flows, terminating_distribution
from papers.rpe import baselines, method


def exact_results(dag: EnumeratedDAG) -> dict[str, Any]:
    """L1 of policy evaluation and its relatives, path factors, and distributions over the objects.

    Where the path factors depend on the path, the largest and the smallest one of every state are
    tried in the place of the invariant one.
    """
    target = dag.target()
    objects = torch.isfinite(dag.log_reward)
    low, high = method.path_factor_range(dag)
    spread = method.path_dependence(dag)
    numbers = {
        "n_objects": float(objects.sum()),
        "n_inner": float((~objects).sum()),
        "log_path_dependence": float(spread.max()),
        "l1_uniform": baselines.uniform_policy_l1(dag),
    }
    p = {"target": target}
    log_flow, _ = exact_log_flows(dag)
    policies = {
        "l1_flow_iteration": method.sampling_policy(dag, log_flow),
        "l1_unrectified": method.tabular_unrectified(dag)[1],
    }
    if numbers["log_path_dependence"] < 1e-9:
        log_v, policies["l1_rectified"] = method.tabular_rpe(dag)
        numbers["log_Z_error"] = abs(float(log_v[dag.source]) - dag.log_Z)
        numbers["value_error"] = float((log_v - log_flow - low).abs().max())
    else:
        for name, one_path in (("smallest", low), ("largest", high)):
            log_v, policies[f"l1_{name}_factor"] = method.tabular_rpe(dag, log_g=one_path)
            numbers[f"value_over_Z_{name}_factor"] = float((log_v[dag.source] - dag.log_Z).exp())
    for name, log_pf in policies.items():
        p[name] = terminating_distribution(dag, log_pf)
        numbers[name] = float((p[name] - target).abs().sum())
    return {
        "numbers": numbers,
        "level": dag.level[objects],
        "p": {name: values[objects] for name, values in p.items()},
        "path_dependence": spread[objects],
    }
