"""Compiled sampling on a CPU: the whole rollout of MLP policies in one kernel.

The generic ``sampling.sample`` starts some twenty small PyTorch operations per time step, which
cost more than the arithmetic does. Here the environment is two small tables (``SlotMoves``) and the
network its weights, so one kernel serves every environment that can be written so (HyperGrid,
strings). Each state is evaluated once per rollout, however many trajectories pass through it, and
finished trajectories cost nothing. For the same uniforms the trajectories are those of ``sample``,
but for draws that fall within rounding (1e-6) of the border of two actions.

Matrix products are SciPy's BLAS, on as many threads as ``$OMP_NUM_THREADS`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.gfn.dag import APPEND, PREPEND, STOP, SlotMoves
from common.gfn.sampling import Trajectories

_STOP, _APPEND, _PREPEND = STOP, APPEND, PREPEND  # numba freezes them as constants


@njit(cache=True)
def _product(x, w, y):  # type: ignore[no-untyped-def]
    """y = x w. A few rows go one by one: BLAS repacks the whole of w for a matrix."""
    if x.shape[0] > 10:
        np.dot(x, w, y)
    else:
        for j in range(x.shape[0]):
            np.dot(x[j : j + 1], w, y[j : j + 1])


@njit(cache=True)
def _row(states, b, t, table, met_by, met_at, n_rows):  # type: ignore[no-untyped-def]
    """Row of the state states[b, t] in a hash table of states; n_rows if it was not met before."""
    n_places, last_slot = states.shape[2], len(table) - 1
    key = np.uint64(1469598103934665603)
    for k in range(n_places):
        key = (key ^ np.uint64(states[b, t, k])) * np.uint64(1099511628211)
    key ^= key >> np.uint64(29)
    slot = np.int64(key & np.uint64(last_slot))
    while True:
        row = table[slot]
        if row < 0:
            table[slot] = n_rows
            met_by[n_rows], met_at[n_rows] = b, t
            return n_rows
        same = True
        for k in range(n_places):
            if states[met_by[row], met_at[row], k] != states[b, t, k]:
                same = False
                break
        if same:
            return row
        slot = (slot + 1) & last_slot


@njit(cache=True)
def _empty_table(capacity):  # type: ignore[no-untyped-def]
    """A hash table for that many states, half full at most."""
    n_slots = 1
    while n_slots < 2 * capacity:
        n_slots *= 2
    return np.full(n_slots, -1, np.int64)


@njit(cache=True)
def _evaluate(  # type: ignore[no-untyped-def]
    states, met_by, met_at, n_before, n_rows, n_values, first, first_bias, layers, kept
):
    """The network on the rows n_before..n_rows-1; kept[layer] gets what each layer gives."""
    n_new, width, n_places = n_rows - n_before, first.shape[1], states.shape[2]
    x = kept[0][n_before:n_rows]
    # the first layer is a sum of rows, its inputs being zeros and ones
    for j in range(n_new):
        b, at = met_by[n_before + j], met_at[n_before + j]
        for h in range(width):
            x[j, h] = 0
        for k in range(n_places):
            active = k * n_values + states[b, at, k]
            for h in range(width):
                x[j, h] += first[active, h]
        for h in range(width):
            x[j, h] += first_bias[h]
    if n_new > 0:
        for n, (weight, bias) in enumerate(layers):
            for j in range(n_new):
                for h in range(x.shape[1]):
                    v = x[j, h]
                    x[j, h] = v if v > 0 else v * np.float32(0.01)
            y = kept[n + 1][n_before:n_rows]
            _product(x, weight, y)
            for j in range(n_new):
                for h in range(y.shape[1]):
                    y[j, h] += bias[h]
            x = y
    return x


@njit(cache=True)
def _rollout(  # type: ignore[no-untyped-def]  # numba compiles it
    place,
    becomes,
    source,
    blocking,
    first,
    first_bias,
    layers,
    u,
    epsilon,
    states,
    actions,
    mask,
    rows,
    kept,
):
    """One seed. Writes states [B, T+1, K], actions [B, T], mask [B, T], rows [B, T+1] and the
    activations kept[layer] [B*T, width]; returns the longest and the distinct states [U, K]."""
    max_length, batch = u.shape
    n_places, n_values = source.shape[0], becomes.shape[1]
    n_actions = place.shape[0]
    capacity = batch * max_length
    cdf = np.empty((capacity, n_actions), np.float32)  # of each distinct state met
    met_by = np.empty(capacity, np.int64)  # a trajectory and a time at which it was met
    met_at = np.empty(capacity, np.int64)
    table = _empty_table(capacity)
    allowed = np.empty(n_actions, np.bool_)
    raised = np.empty(n_actions, np.float32)
    running = np.arange(batch)
    row_of = np.empty(batch, np.int64)
    n_rows, n_running, longest = 0, batch, 0
    for b in range(batch):
        states[b, 0] = source
    for t in range(max_length):
        # distinct states that were not evaluated yet, and the network on them
        n_before = n_rows
        for i in range(n_running):
            b = running[i]
            row = _row(states, b, t, table, met_by, met_at, n_rows)
            if row == n_rows:
                n_rows += 1
            row_of[i] = row
            rows[b, t] = row
        x = _evaluate(
            states, met_by, met_at, n_before, n_rows, n_values, first, first_bias, layers, kept
        )
        # their policies
        for j in range(n_rows - n_before):
            row = n_before + j
            b, at = met_by[row], met_at[row]
            blocked = False
            for k in range(n_places):
                if states[b, at, k] == blocking:
                    blocked = True
            highest, n_allowed = np.float32(-np.inf), 0
            for a in range(n_actions):
                where = place[a]
                if where == _STOP:
                    allowed[a] = True
                elif blocked:
                    allowed[a] = False
                elif where >= 0:
                    allowed[a] = becomes[a, states[b, at, where]] >= 0
                else:  # letters fill the places from the left: is the last one free?
                    allowed[a] = states[b, at, n_places - 1] == source[n_places - 1]
                if allowed[a]:
                    n_allowed += 1
                    highest = max(highest, x[j, a])
            total = np.float32(0)
            for a in range(n_actions):
                raised[a] = np.exp(x[j, a] - highest) if allowed[a] else np.float32(0)
                total += raised[a]
            finite = 0 < total < np.inf
            summed = np.float64(0)
            for a in range(n_actions):
                if finite:
                    p = raised[a] / total
                else:  # nothing allowed, or a network that is not finite: uniform, never astray
                    p = np.float32(1 / n_allowed) if allowed[a] else np.float32(0)
                if epsilon > 0 and allowed[a]:
                    p = np.float32((1 - epsilon) * p + epsilon / n_allowed)
                summed += p
                cdf[row, a] = summed
        # draw and move; what has ended leaves
        n_left = 0
        for i in range(n_running):
            b, row = running[i], row_of[i]
            if not cdf[row, n_actions - 1] > 0:  # complete
                continue
            threshold = u[t, b] * cdf[row, n_actions - 1]
            action = 0
            while action < n_actions - 1 and cdf[row, action] <= threshold:
                action += 1
            while action > 0 and cdf[row, action] == cdf[row, action - 1]:
                action -= 1  # rounding at u = 1 must not reach a forbidden action
            actions[b, t], mask[b, t] = action, True
            longest = t + 1
            states[b, t + 1] = states[b, t]
            where = place[action]
            if where == _STOP:
                continue
            if where >= 0:
                states[b, t + 1, where] = becomes[action, states[b, t, where]]
            elif where == _APPEND:
                end = 0
                while states[b, t, end] != source[end]:
                    end += 1
                states[b, t + 1, end] = becomes[action, source[end]]
            else:
                for k in range(n_places - 1):
                    states[b, t + 1, k + 1] = states[b, t, k]
                states[b, t + 1, 0] = becomes[action, source[0]]
            running[n_left] = b
            n_left += 1
        n_running = n_left
        if n_running == 0:
            break
    for b in range(batch):  # padding repeats the last state
        for t in range(longest):
            if not mask[b, t]:
                states[b, t + 1] = states[b, t]
            if t > 0 and not mask[b, t]:
                rows[b, t] = rows[b, t - 1]
        rows[b, longest] = rows[b, longest - 1]
    distinct = np.empty((n_rows, n_places), np.int64)
    for row in range(n_rows):
        distinct[row] = states[met_by[row], met_at[row]]
    return longest, distinct


@njit(cache=True)
def _revisit(  # type: ignore[no-untyped-def]
    states, lengths, n_values, first, first_bias, layers, rows, kept
):
    """One seed: the network on the distinct states of given trajectories. Writes rows [B, T+1]
    and kept as ``_rollout`` does; returns the distinct states [U, K]."""
    batch, n_places = states.shape[0], states.shape[2]
    capacity = kept[0].shape[0]
    met_by = np.empty(capacity, np.int64)
    met_at = np.empty(capacity, np.int64)
    table = _empty_table(capacity)
    n_rows = 0
    for b in range(batch):
        for t in range(lengths[b]):
            row = _row(states, b, t, table, met_by, met_at, n_rows)
            if row == n_rows:
                n_rows += 1
            rows[b, t] = row
        rows[b, lengths[b] :] = row
    _evaluate(states, met_by, met_at, 0, n_rows, n_values, first, first_bias, layers, kept)
    distinct = np.empty((n_rows, n_places), np.int64)
    for row in range(n_rows):
        distinct[row] = states[met_by[row], met_at[row]]
    return distinct


@njit(cache=True)
def _gradients(grad, active, first_gradient, weights, kept, gradients):  # type: ignore[no-untyped-def]
    """Backward pass of one seed's network on its distinct states.

    grad [U, out]; active [U, K] positions of the ones; writes first_gradient [in, width] and the
    (weight, bias) gradients of the other layers, whose weights are given; returns the
    first bias's gradient.
    """
    n = grad.shape[0]
    for i in range(len(weights) - 1, -1, -1):
        x = kept[i][:n]
        np.dot(x.T, grad, gradients[i][0])
        for j in range(n):
            for h in range(grad.shape[1]):
                gradients[i][1][h] += grad[j, h]
        grad = np.dot(grad, weights[i].T)
        for j in range(n):
            for h in range(grad.shape[1]):
                if not x[j, h] > 0:
                    grad[j, h] *= np.float32(0.01)
    bias = np.zeros(grad.shape[1], np.float32)
    for j in range(n):
        for h in range(grad.shape[1]):
            bias[h] += grad[j, h]
        for k in range(active.shape[1]):
            row = active[j, k]
            for h in range(grad.shape[1]):
                first_gradient[row, h] += grad[j, h]
    return bias


class _Outputs(torch.autograd.Function):
    """The outputs that the rollout computed, as a function of the network's parameters."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, trajectories: CompiledTrajectories, *parameters: Tensor
    ) -> Tensor:
        ctx.trajectories = trajectories
        ctx.save_for_backward(*parameters)
        return trajectories.output.clone()  # so that the graph and they hold no cycle

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        t = ctx.trajectories
        weights = [x.detach().numpy() for x in ctx.saved_tensors[0::2]]
        result = [torch.zeros_like(x) for x in ctx.saved_tensors]
        arrays = [x.numpy() for x in result]
        offsets = np.arange(t.distinct.shape[-1]) * t.n_values
        for s, n in enumerate(t.n_distinct):
            arrays[1][s, 0] = _gradients(
                np.ascontiguousarray(grad[s, :n].numpy()),
                t.distinct[s, :n].numpy() + offsets,
                arrays[0][s],
                tuple(w[s] for w in weights[1:]),
                tuple(t.hidden[s]),
                tuple((w[s], b[s, 0]) for w, b in zip(arrays[2::2], arrays[3::2], strict=True)),
            )
        return (None, *result)


@dataclass
class CompiledTrajectories(Trajectories):
    """Trajectories that know their distinct states and what the network said about them."""

    distinct: Tensor  # [S, U, K]; seeds with fewer than U repeat the source
    rows: Tensor  # [S, B, T+1]: the state's number in ``distinct`` (after the end: the last one)
    output: Tensor  # [S, U, out] of the network at the time, without gradient
    hidden: list[list[np.ndarray]]  # per seed, activations of the hidden layers
    n_distinct: list[int]  # per seed
    n_values: int  # V

    def outputs(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """``output`` with gradient; ``layers`` must be unchanged since the sampling. [S, U, out].

        Saves the second forward pass, and a state is differentiated once, however often visited.
        """
        result: Tensor = _Outputs.apply(self, *(x for layer in layers for x in layer))
        return result


@torch.no_grad()
def sample_compiled(
    moves: SlotMoves,
    layers: Sequence[tuple[Tensor, Tensor]],
    u: Tensor,
    *,
    epsilon: float = 0.0,
) -> CompiledTrajectories:
    """``sampling.sample`` for LeakyReLU MLPs on the CPU whose inputs are one-hot places.

    Args:
        moves: the environment (``env.moves()``).
        layers: at least two (weight [S, in, out], bias [S, 1, out]), float32; the first outputs
            of the last one are the actions' logits (``StackedMLP.weights``).
        u: uniform numbers [S, T, B], T >= the longest trajectory.
        epsilon: probability of a uniformly random allowed action.

    Raises:
        ValueError: if a tensor is not on the CPU or not float32, or the shapes do not fit.
    """
    place, becomes, source = (x.numpy() for x in (moves.place, moves.becomes, moves.source))
    layers_of, widths = _layers(moves, layers, u)
    n_seeds, max_length, batch = u.shape
    states = np.empty((n_seeds, batch, max_length + 1, len(source)), np.int64)
    actions = np.zeros((n_seeds, batch, max_length), np.int64)
    mask = np.zeros((n_seeds, batch, max_length), np.bool_)
    rows = np.zeros((n_seeds, batch, max_length + 1), np.int64)
    lengths: list[int] = []
    distinct, kept = [], []
    for s, drawn in enumerate(u.numpy()):
        kept.append([np.empty((batch * max_length, n), np.float32) for n in widths])
        length, met = _rollout(
            place,
            becomes,
            source,
            moves.blocking,
            *layers_of[s],
            drawn,
            epsilon,
            states[s],
            actions[s],
            mask[s],
            rows[s],
            tuple(kept[s]),
        )
        distinct.append(met)
        lengths.append(length)
    longest = max(lengths)
    for s, length in enumerate(lengths):
        states[s, :, length + 1 : longest + 1] = states[s, :, length, None]
        rows[s, :, length + 1 : longest + 1] = rows[s, :, length, None]
    cut = torch.from_numpy(states)[:, :, : longest + 1]
    return _with_outputs(
        moves,
        Trajectories(
            states=cut,
            actions=torch.from_numpy(actions)[..., :longest],
            mask=torch.from_numpy(mask)[..., :longest],
            last=cut[:, :, -1],
        ),
        torch.from_numpy(rows)[..., : longest + 1],
        distinct,
        kept,
    )


@torch.no_grad()
def revisit_compiled(
    moves: SlotMoves, layers: Sequence[tuple[Tensor, Tensor]], traj: Trajectories
) -> CompiledTrajectories:
    """Trajectories from elsewhere (a replay buffer), with what the network says of them now.

    Args:
        moves, layers: as in ``sample_compiled``.
        traj: [S, B, ...]; every trajectory with one action or more.

    Raises:
        ValueError: as ``sample_compiled``.
    """
    layers_of, widths = _layers(moves, layers)
    states = traj.states.contiguous().numpy()
    lengths = traj.length.numpy()
    rows = np.zeros(states.shape[:-1], np.int64)
    distinct, kept = [], []
    for s, length in enumerate(lengths):
        kept.append([np.empty((length.sum(), n), np.float32) for n in widths])
        distinct.append(
            _revisit(
                states[s],
                length,
                moves.becomes.shape[1],
                *layers_of[s],
                rows[s],
                tuple(kept[s]),
            )
        )
    return _with_outputs(moves, traj, torch.from_numpy(rows), distinct, kept)


def _layers(
    moves: SlotMoves, layers: Sequence[tuple[Tensor, Tensor]], *others: Tensor
) -> tuple[list[tuple[Any, Any, Any]], list[int]]:
    """(first weight, first bias, the other layers) of each seed, and the layers' widths."""
    for tensor in (*others, *(x for layer in layers for x in layer)):
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            raise ValueError("the compiled rollout takes float32 tensors on the CPU")
    n_inputs, n_outputs = layers[0][0].shape[1], layers[-1][0].shape[2]
    fits = n_inputs == moves.becomes.shape[1] * len(moves.source)
    if len(layers) < 2 or not fits or n_outputs < len(moves.place):
        raise ValueError("the layers do not fit the environment's places and actions")
    arrays = [
        (np.ascontiguousarray(w.detach().numpy()), np.ascontiguousarray(b.detach().numpy()[:, 0]))
        for w, b in layers
    ]
    per_seed = []
    for s in range(len(layers[0][0])):
        (first, first_bias), *rest = ((w[s], b[s]) for w, b in arrays)
        per_seed.append((first, first_bias, tuple(rest)))
    return per_seed, [w.shape[2] for w, _ in layers]


def _with_outputs(
    moves: SlotMoves,
    traj: Trajectories,
    rows: Tensor,
    distinct: list[np.ndarray],
    kept: list[list[np.ndarray]],
) -> CompiledTrajectories:
    """Puts the seeds' distinct states and outputs side by side, padded with the source."""
    n_distinct = [len(met) for met in distinct]
    n_seeds, longest = len(distinct), max(n_distinct)
    all_distinct = np.tile(moves.source.numpy(), (n_seeds, longest, 1))
    output = np.zeros((n_seeds, longest, kept[0][-1].shape[1]), np.float32)
    for s, n in enumerate(n_distinct):
        all_distinct[s, :n], output[s, :n] = distinct[s], kept[s][-1][:n]
    return CompiledTrajectories(
        states=traj.states,
        actions=traj.actions,
        mask=traj.mask,
        last=traj.last,
        distinct=torch.from_numpy(all_distinct),
        rows=rows,
        output=torch.from_numpy(output),
        hidden=[arrays_of_seed[:-1] for arrays_of_seed in kept],
        n_distinct=n_distinct,
        n_values=moves.becomes.shape[1],
    )
