"""Backward sampling: a policy that is given, the stop action, objects at different depths."""

import torch

from common.gfn.hypergrid import HyperGrid
from common.gfn.sampling import sample_backward
from common.gfn.strings import StringEnv

GRID = HyperGrid(2, 5)


def test_objects_at_different_depths() -> None:
    objects = torch.tensor([[[0, 0], [3, 1]], [[4, 4], [0, 2]]])
    u = torch.rand(8, 2, 2, generator=torch.Generator().manual_seed(0))
    traj = sample_backward(GRID, objects, u)
    assert torch.equal(traj.length, objects.sum(-1) + 1)
    assert (traj.states[:, :, 0] == 0).all() and torch.equal(traj.last, objects)
    state = traj.states[:, :, 0]
    for t in range(traj.actions.shape[-1]):
        taken = traj.mask[..., t]
        state = torch.where(taken.unsqueeze(-1), GRID.step(state, traj.actions[..., t]), state)
        assert torch.equal(state, traj.states[:, :, t + 1])
        ends = traj.length == t + 1
        assert ((traj.actions[..., t] == GRID.stop) == ends).all()
    assert torch.equal(state, objects)  # padding repeats the object
    assert not traj.actions[~traj.mask].any()


def test_the_source_alone() -> None:
    traj = sample_backward(GRID, torch.zeros(3, 2, dtype=torch.long), torch.rand(8, 3))
    assert traj.actions.tolist() == [[2]] * 3 and traj.mask.all()
    assert traj.states.shape == (3, 2, 2)


def test_the_given_policy_is_followed() -> None:
    """P_B = (1/4, 3/4) where both coordinates can be lowered."""
    objects = torch.tensor([2, 2]).expand(4000, -1)
    u = torch.rand(8, 4000, generator=torch.Generator().manual_seed(1))
    logits = torch.tensor([0.25, 0.75]).log()
    traj = sample_backward(GRID, objects, u, lambda s: logits.expand(*s.shape[:-1], 2))
    last_move = traj.actions[:, -2]  # before the stop
    assert abs(float((last_move == 1).float().mean()) - 0.75) < 0.03
    uniform = sample_backward(GRID, objects, u)
    assert abs(float((uniform.actions[:, -2] == 1).float().mean()) - 0.5) < 0.03


def test_strings_have_no_stop() -> None:
    env = StringEnv("prepend_append", 3, 2, lambda x: torch.zeros(x.shape[:-1]))
    objects = torch.tensor([[0, 1, 1], [1, 0, 0]])
    first = torch.tensor([-50.0, 50.0])  # always remove the first letter: all letters prepended
    traj = sample_backward(env, objects, torch.rand(3, 2), lambda s: first.expand(*s.shape[:-1], 2))
    assert traj.mask.all() and traj.actions.tolist() == [[3, 3, 2], [2, 2, 3]]
