"""Another processor's rounding, played on this one: ``pytest --rounding 3 tests/papers/dlsm``.

What a float32 matrix product or an exponential is to its last digits depends on the processor: on
the width of its registers, on whether it multiplies and adds in one instruction, on how a kernel
cuts a matrix up. So a run ends with the same numbers bit for bit on one machine, and on another
one with other last digits; training makes them visible, since Adam takes a step of full size for a
gradient that is rounding alone. A test that compares two ways to compute one thing has to hold
with every rounding. Here a part of the operations, drawn by their name, shapes and the number
given, is computed in float64 and rounded: one number stands for one processor, the same in every
run of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# whatever sums, or comes from a library of functions; a single addition rounds alike everywhere
_NAMES = """
    mm bmm addmm baddbmm convolution convolution_backward sum mean var std cumsum logcumsumexp
    logsumexp _softmax _log_softmax _softmax_backward_data _log_softmax_backward_data
    native_layer_norm native_layer_norm_backward native_group_norm native_group_norm_backward
    linalg_vector_norm _cdist_forward _cdist_backward exp exp_ expm1 log log_ log1p sin cos pow
    tanh tanh_ tanh_backward sigmoid sigmoid_ silu silu_ silu_backward elu elu_backward
    softplus softplus_backward gelu gelu_backward erf erfinv rsqrt _weight_norm_interface
"""
INEXACT = frozenset(_NAMES.split())


class Rounding(TorchDispatchMode):
    """Computes some of the inexact operations on float32 in float64. ``number``: which ones."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__  # type: ignore[attr-defined]
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        if (
            name not in INEXACT
            or "out" in kwargs
            or not any(x.dtype == torch.float32 for x in tensors)
            or any(isinstance(x, FakeTensor) or x.device.type != "cpu" for x in tensors)
            or not self._drawn(name, tensors)
        ):
            return func(*args, **kwargs)
        args, kwargs = tree_map(_widened, (args, kwargs))
        if name.endswith("_"):  # in place
            return tensors[0].copy_(func(*args, **kwargs))
        return tree_map(_rounded, func(*args, **kwargs))

    def _drawn(self, name: str, tensors: Sequence[torch.Tensor]) -> bool:
        key = f"{self.number} {name} {[tuple(x.shape) for x in tensors]}"
        return zlib.crc32(key.encode()) % 2 == 0


def _widened(x: Any) -> Any:
    if isinstance(x, torch.Tensor) and x.dtype == torch.float32:
        return x.double()
    return torch.float64 if x is torch.float32 else x


def _rounded(x: Any) -> Any:
    return x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.float64 else x
