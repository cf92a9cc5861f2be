"""The DAG around a batch of strings is a part of the DAG of all strings."""

from __future__ import annotations

import pytest
import torch

from common.gfn.local_dag import strings_around
from common.gfn.sampling import sample, uniforms
from common.gfn.strings import StringEnv
from common.stacked import seed_generators


@pytest.mark.parametrize("children", [False, True])
def test_strings_around_a_batch(children: bool) -> None:
    env = StringEnv("prepend_append", 4, 3, lambda x: 0.3 * x.double().sum(-1))
    whole = env.dag()
    u = uniforms(seed_generators((0,), 1), (4, 8))
    traj = sample(env, lambda s: torch.zeros(*s.shape[:-1], env.n_actions), u)
    visited = traj.states[0].flatten(0, 1)
    objects = torch.arange(8) * 5 + 4
    local = strings_around(env, visited, env.log_reward(traj.last[0]), objects, children=children)
    dag, rows = local.dag, env.index(local.states)  # row of the whole DAG, of each row here
    assert len(torch.unique(rows)) == len(rows) and len(rows) < whole.n_states
    assert torch.equal(local.states[local.visited], visited)
    for name in ("forward_mask", "backward_mask", "parent_actions", "backward_index", "level"):
        assert torch.equal(getattr(dag, name), getattr(whole, name)[rows]), name
    assert dag.active is not None and whole.active is not None
    assert torch.equal(dag.active, whole.active[rows])
    # at the visited states every in-edge is there, and out-edges if asked for
    at = local.visited
    exists = dag.backward_mask[at]
    assert torch.equal(rows[dag.parents[at]][exists], whole.parents[rows[at]][exists])
    exists = whole.children[rows[at]] >= 0
    if children:
        assert torch.equal(rows[dag.children[at]][exists], whole.children[rows[at]][exists])
    known = dag.children >= 0
    assert torch.equal(rows[dag.children[known]], whole.children[rows][known])
    assert torch.equal(dag.log_reward[at[objects]], env.log_reward(traj.last[0]))
    assert torch.equal(torch.isfinite(dag.log_reward), torch.isfinite(whole.log_reward)[rows])
    along = local.along(traj)
    assert torch.equal(rows[along.states], env.index(traj.states))
    assert torch.equal(rows[along.last], env.index(traj.last))
