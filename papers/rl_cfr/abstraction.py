"""Action abstractions of a public state: fixed, learned or random sets of raise sizes.

The base set AA_base = {fold, check/call, all-in} belongs to every abstraction; an abstraction adds
raises. Sizes are in units of the pot after the call. An RL action a in [-1, 1]^{2K} is K pairs
(x_i, y_i): raise i is in the abstraction iff y_i >= 0, and has the size f(x_i).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.random_bits import GOLDEN, mix64
from papers.rl_cfr.solver import jit

Float = NDArray[np.float64]

FIXED, LEARNED, RANDOM = 0, 1, 2
DEFAULT_SIZES = (1.0, 2.0)  # AA_def
FINE_SIZES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
LEAKY = 0.05  # slope of LeakyReLU (repository)
LAYER_NORM_EPS = 1e-5  # PyTorch's


class Abstraction(NamedTuple):
    """What decides the raises of a public state; one type, so that code is compiled once."""

    kind: int  # FIXED, LEARNED or RANDOM
    sizes: Float  # [k] sizes of FIXED, in pots
    n_pairs: int  # K of LEARNED and RANDOM
    key: int  # stream of RANDOM
    share_of_stack: bool  # the repository's f instead of the paper's
    weights: tuple[Float, ...]  # of LEARNED: (W, b, scale, shift) twice, then (W, b) [in, out]


_NONE = np.zeros((0, 0))


def fixed(sizes: Sequence[float]) -> Abstraction:
    """The same raises everywhere, sizes in pots."""
    return Abstraction(FIXED, np.array(sizes, float), 0, 0, False, (_NONE,) * 10)


def random(n_pairs: int, seed: int) -> Abstraction:
    """a ~ U[-1, 1]^{2K}, drawn anew (from a hash) for every public state."""
    return Abstraction(RANDOM, np.zeros(0), n_pairs, seed + 1, False, (_NONE,) * 10)


def learned(weights: Mapping[str, Any], share_of_stack: bool = False) -> Abstraction:
    """The noiseless policy of an actor, from its ``state_dict`` (tensors or arrays)."""
    arrays = [np.atleast_2d(np.asarray(w, float)) for w in weights.values()]
    flat = tuple(np.ascontiguousarray(w.T if w.shape[0] > 1 else w) for w in arrays)
    return Abstraction(LEARNED, np.zeros(0), flat[-1].size // 2, 0, share_of_stack, flat)


@jit
def size_of(x: float, share_of_stack: bool, most: float) -> float:
    """f(x): the paper's 2.5 (x + 1) pots, or the repository's 0.5 pot + (x+1)/2 (max - 0.5 pot).

    ``most`` is the all-in raise in pots. Clipping to legal raises is done where the tree grows.
    """
    if share_of_stack:
        return 0.5 + 0.5 * (x + 1.0) * (most - 0.5)
    return 2.5 * (x + 1.0)


@jit
def chosen_sizes(action: Float, share_of_stack: bool, most: float) -> Float:
    """Sizes of the raises that an RL action [2K] puts into the abstraction: those with y >= 0."""
    sizes = np.empty(action.size // 2)
    count = 0
    for i in range(action.size // 2):
        if action[2 * i + 1] >= 0.0:
            sizes[count] = size_of(action[2 * i], share_of_stack, most)
            count += 1
    return sizes[:count]


@jit
def _normalised(x: Float, scale: Float, shift: Float) -> Float:
    """LayerNorm, then LeakyReLU."""
    mean, variance = 0.0, 0.0
    for v in x:
        mean += v
    mean /= x.size
    for v in x:
        variance += (v - mean) * (v - mean)
    inverse = 1.0 / np.sqrt(variance / x.size + LAYER_NORM_EPS)
    for j in range(x.size):
        v = (x[j] - mean) * inverse * scale[0, j] + shift[0, j]
        x[j] = v if v >= 0.0 else LEAKY * v
    return x


@jit
def _linear(x: Float, weight: Float, bias: Float) -> Float:
    """x [in] through weight [in, out] and bias [1, out]."""
    out = bias[0].copy()
    for i in range(x.size):
        for j in range(out.size):
            out[j] += x[i] * weight[i, j]
    return out


@jit
def act(weights: tuple[Float, ...], features: Float) -> Float:
    """The actor's action [2K] for a public state: ``method.Actor`` without PyTorch."""
    w1, b1, scale1, shift1, w2, b2, scale2, shift2, w3, b3 = weights
    x = _normalised(_linear(features, w1, b1), scale1, shift1)
    x = _normalised(_linear(x, w2, b2), scale2, shift2)
    return np.tanh(_linear(x, w3, b3))


@jit
def random_action(key: int, features: Float, n_pairs: int) -> Float:
    """Uniform action [2K] that is a pure function of the stream and of the public state."""
    state = mix64(np.uint64(key))
    for v in features:
        state = mix64(state + np.uint64(np.int64(v * 1e6) + np.int64(1 << 40)))
    action = np.empty(2 * n_pairs)
    for j in range(2 * n_pairs):
        state = mix64(state + GOLDEN)
        action[j] = np.float64(state >> np.uint64(11)) * 2.0**-52 - 1.0
    return action


@jit
def sizes_at(abstraction: Abstraction, features: Float, most: float) -> Float:
    """Raise sizes in pots of an abstraction at a public state; ``most`` is all-in, in pots."""
    if abstraction.kind == FIXED:
        return abstraction.sizes.copy()
    if abstraction.kind == LEARNED:
        action = act(abstraction.weights, features)
    else:
        action = random_action(abstraction.key, features, abstraction.n_pairs)
    return chosen_sizes(action, abstraction.share_of_stack, most)
