"""The compiled rollout against the generic one, and its gradients against PyTorch's."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP
from common.gfn.rollout import revisit_compiled, sample_compiled
from common.gfn.sampling import MASKED, sample, uniforms
from common.gfn.strings import StringEnv
from common.stacked import seed_generators


def strings(mode: str) -> StringEnv:
    return StringEnv(mode, 5, 3, lambda s: torch.zeros(s.shape[:-1]))


ENVS = {
    "grid": HyperGrid(4, 8),
    "small-grid": HyperGrid(2, 3),
    "forced-stop": HyperGrid(3, 7, forced_stop=True),
    "slots": strings("slots"),
    "append": strings("append"),
    "prepend_append": strings("prepend_append"),
}


def network(env: HyperGrid | StringEnv, n_seeds: int, sharper: float = 4.0) -> StackedMLP:
    net = StackedMLP(seed_generators(range(n_seeds), 0), (env.input_dim, 32, 48, env.n_actions + 2))
    with torch.no_grad():
        for p in net.layers[-1].parameters():
            p.mul_(sharper)
    return net


def policy_of(env: HyperGrid | StringEnv, net: StackedMLP) -> Callable[[Tensor], Tensor]:
    return lambda states: net(env.encode(states))[..., : env.n_actions]


def away_from_borders(
    env: HyperGrid | StringEnv, net: StackedMLP, shape: tuple[int, int], epsilon: float
) -> Tensor:
    """Draws of both seeds that no rounding takes from one action to its neighbour. [2, T, B]."""
    u = uniforms(seed_generators((0, 1), 1), shape).clamp(1e-4, 1 - 1e-4)
    paths = []
    for change in (-1e-5, 1e-5):
        states = sample(env, policy_of(env, net), u + change, epsilon=epsilon).states
        padding = states[:, :, -1:].expand(-1, -1, env.max_length + 1 - states.shape[2], -1)
        paths.append(torch.cat([states, padding], 2))
    near = (paths[0] != paths[1]).flatten(2).any(-1)  # [2, B]
    assert near.float().mean() < 0.1
    kept = next(u[:, :, b] for b in range(shape[1]) if not near[:, b].any())
    return torch.where(near.unsqueeze(1), kept.unsqueeze(-1), u)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("name", ENVS)
def test_trajectories_equal_the_generic_ones(name: str, batch: int, epsilon: float) -> None:
    env = ENVS[name]
    net = network(env, 2)
    u = away_from_borders(env, net, (env.max_length, batch), epsilon)
    generic = sample(env, policy_of(env, net), u, epsilon=epsilon)
    moves = env.moves()
    ours = sample_compiled(moves, net.weights(), u, epsilon=epsilon)
    for field in ("states", "actions", "mask", "last"):
        assert torch.equal(getattr(ours, field), getattr(generic, field)), field
    # the rows lead back to the states
    taken = ours.states[..., :-1, :][ours.mask]
    rows = ours.rows[..., :-1]
    seed = torch.arange(2).view(2, 1, 1).expand_as(rows)
    assert torch.equal(ours.distinct[seed, rows][ours.mask], taken)
    for s in range(2):
        used = ours.distinct[s, : ours.n_distinct[s]]
        assert len(used.unique(dim=0)) == len(used)


@pytest.mark.parametrize("name", ENVS)
def test_probabilities_and_gradients(name: str) -> None:
    env = ENVS[name]
    net = network(env, 3)
    u = uniforms(seed_generators(range(3), 1), (env.max_length, 16))
    moves = env.moves()
    traj = sample_compiled(moves, net.weights(), u)
    real = torch.zeros(traj.distinct.shape[:2])
    for s, n in enumerate(traj.n_distinct):
        real[s, :n] = 1
    expected = net(env.encode(traj.distinct))
    out = traj.outputs(net.weights())
    mask = env.forward_mask(traj.distinct)

    def policy(x: torch.Tensor) -> torch.Tensor:
        return x[..., : env.n_actions].masked_fill(~mask, MASKED).softmax(-1) * real.unsqueeze(-1)

    assert (policy(out) - policy(expected)).abs().max() < 1e-5
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    weight = weight * real.unsqueeze(-1)
    ours = torch.autograd.grad((out.sin() * weight).sum(), list(net.parameters()))
    theirs = torch.autograd.grad((expected.sin() * weight).sum(), list(net.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-5 * (1 + b.abs().max())


@pytest.mark.parametrize("name", ENVS)
def test_replayed_trajectories_see_the_current_network(name: str) -> None:
    env = ENVS[name]
    old, net = network(env, 2), network(env, 2, sharper=1.0)
    u = uniforms(seed_generators((0, 1), 1), (env.max_length, 16))
    moves = env.moves()
    before = sample_compiled(moves, old.weights(), u)
    after = revisit_compiled(moves, net.weights(), before)
    assert after.n_distinct == before.n_distinct
    seed = torch.arange(2).view(2, 1, 1).expand_as(after.rows)
    there, then = after.distinct[seed, after.rows], before.distinct[seed, before.rows]
    assert torch.equal(there, then)
    expected = net(env.encode(after.distinct))
    for s, n in enumerate(after.n_distinct):
        assert (after.output[s, :n] - expected[s, :n]).abs().max() < 1e-5
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    for s, n in enumerate(after.n_distinct):
        weight[s, n:] = 0
    ours = torch.autograd.grad(
        (after.outputs(net.weights()).sin() * weight).sum(), list(net.parameters())
    )
    theirs = torch.autograd.grad((expected.sin() * weight).sum(), list(net.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-5 * (1 + b.abs().max())


def test_no_forbidden_action_from_a_broken_network() -> None:
    env = ENVS["slots"]
    net = network(env, 1)
    with torch.no_grad():
        net.layers[-1].weight.fill_(torch.nan)
    moves = env.moves()
    traj = sample_compiled(moves, net.weights(), torch.ones(1, env.max_length, 4))
    assert ((traj.states >= 0) & (traj.states <= env.empty)).all()
    assert (traj.last != env.empty).all()


def test_what_it_cannot_do() -> None:
    env = ENVS["grid"]
    moves = env.moves()
    u = torch.rand(1, env.max_length, 2)
    with pytest.raises(ValueError, match="float32"):
        sample_compiled(moves, network(env, 1).double().weights(), u)
    with pytest.raises(ValueError, match="fit"):
        sample_compiled(moves, network(ENVS["slots"], 1).weights(), u)
