"""The star agent and the population as networks: sampling, and residuals along trajectories.

The last layer of every network holds all heads: forward logits (FM: log edge flows), backward
logits, log F. Grids learn P_B, strings have the uniform one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.gfn.coordinates import visit_distinct, visit_states
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP
from common.gfn.objectives import Pair, Visited, training_pairs
from common.gfn.rollout import CompiledTrajectories, revisit_compiled
from common.gfn.rows import at_states, split_heads
from common.gfn.sampling import Trajectories, masked_log_softmax, sample_backward
from common.gfn.strings import StringEnv

HIDDEN = 256  # width of the two hidden layers [authors' code]
Env = HyperGrid | StringEnv


def network(generators: Sequence[torch.Generator], env: Env) -> StackedMLP:
    """One MLP with all heads per generator."""
    n_out = env.n_actions + env.n_backward + 1
    return StackedMLP(generators, (env.input_dim, HIDDEN, HIDDEN, n_out))


def by_seed(traj: Trajectories, n_seeds: int) -> Trajectories:
    """Trajectories of agents [S*K, E, ...] as those of seeds [S, K*E, ...]."""

    def regroup(x: Tensor) -> Tensor:
        return x.reshape(n_seeds, -1, *x.shape[2:])

    return Trajectories(*(regroup(x) for x in (traj.states, traj.actions, traj.mask, traj.last)))


def walk_back(env: Env, objects: Tensor, u: Tensor) -> Trajectories:
    """What FM replays: a walk from each object back through uniformly random parents."""
    return sample_backward(env, objects, u)


def residual_parts(
    objective: str, net: StackedMLP, env: Env, traj: Trajectories, log_Z: Tensor | None
) -> list[tuple[Pair, Tensor]]:
    """(pair, weights) of the star's objective on a batch, with the current weights.

    Own trajectories bring the rollout's forward pass along; replayed ones are evaluated anew. A
    stop that is forced is no decision: with it left out, the state before it is the object, whose
    flow is R.
    """
    mask = traj.mask
    if isinstance(env, StringEnv):
        visited = visit_strings(net, env, traj)
    elif objective == "fm" or not _compiled(net):
        visited = visit_states(net, env, traj, fm=objective == "fm")
    else:
        compiled = _with_outputs(net, env, traj)
        visited = visit_distinct(net, env, compiled, flow=objective == "db")
    if isinstance(env, HyperGrid) and objective != "fm":
        at_border = (traj.states[..., :-1, :] == env.height - 1).any(-1)
        mask = mask & ~at_border
    return training_pairs(objective, visited, traj.actions, mask, stop=env.stop, log_Z=log_Z)


def visit_strings(net: StackedMLP, env: StringEnv, traj: Trajectories) -> Visited:
    """What DB and TB need along complete strings, uniform P_B over in-edges."""
    if _compiled(net):
        compiled = _with_outputs(net, env, traj)
        out, rows, states = compiled.outputs(net.weights()), compiled.rows, compiled.distinct
    else:
        states = traj.states[:, :, :-1].flatten(1, 2)
        out = net.from_active_inputs(env.active_inputs(states))
        n_seeds, batch, length = traj.actions.shape
        rows = torch.arange(batch * length, device=out.device).view(1, batch, length)
        rows = torch.cat([rows, rows[..., -1:]], -1).expand(n_seeds, -1, -1)
    heads = split_heads(out, env.n_actions, env.n_backward)
    log_pf = masked_log_softmax(heads.logits, env.forward_mask(states))
    index = rows[..., :-1] * env.n_actions + traj.actions
    n_parents = env.backward_mask(traj.states[..., 1:, :]).sum(-1)
    return Visited(
        log_pf=log_pf.flatten(1).gather(1, index.flatten(1)).view(index.shape),
        log_pb=-n_parents.to(log_pf.dtype).log(),
        log_flow=at_states(heads.log_flow, rows),
        log_p_stop=None,
        log_reward=None,
        log_reward_last=env.log_reward(traj.last).to(log_pf.dtype),
    )


def _compiled(net: StackedMLP) -> bool:
    return next(net.parameters()).device.type == "cpu"


def _with_outputs(net: StackedMLP, env: Env, traj: Trajectories) -> CompiledTrajectories:
    if isinstance(traj, CompiledTrajectories):
        return traj
    return revisit_compiled(env.moves(), net.weights(), traj)


@torch.no_grad()
def log_pf_of_all_states(net: StackedMLP, env: HyperGrid) -> Tensor:
    """Policy on the whole grid (FM: in proportion to the edge flows, the same). [S, N, A]."""
    states = env.all_states()
    out = net.from_active_inputs(env.active_inputs(states).expand(_n_seeds(net), -1, -1))
    return masked_log_softmax(out[..., : env.n_actions], env.forward_mask(states))


def _n_seeds(net: StackedMLP) -> int:
    return net.weights()[0][0].shape[0]
