"""A CUDA device for machines without one: what it computes is exact, where it lives is checked.

Within ``fake_cuda()`` a tensor on "cuda" is a wrapper around a CPU tensor that says it is on
cuda:0. Every operation is computed on the CPU, so values, branches and loops are those of a real
run, and raises what a GPU would raise:

- tensors on different devices (zero-dimensional CPU tensors may join, as in PyTorch);
- a generator of another device than the tensor that is drawn;
- ``.numpy()`` of a tensor on the GPU;
- operations without a deterministic CUDA kernel while deterministic algorithms are asked for
  (``common.torch_utils.setup`` does).

So a training run and its evaluation with ``device="cuda"`` go through on a laptop, and their rows
are those of ``device="cpu"``. Not checked: memory, speed, CUDA's own rounding and random numbers,
and kernels that exist on the CPU alone.

PyTorch's own ``FakeTensorMode`` knows devices but no values: each ``if loss.isfinite()`` and each
sampled index ends it, and so would most of the loops here.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch._dynamo  # before anything is patched: it looks at all of torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
# what C++ sees: a PyTorch without CUDA can neither convert to "cuda" nor differentiate there
INSIDE = torch.device("meta")
aten = torch.ops.aten

# may read and write across devices
ACROSS = {aten.copy_.default, aten._to_copy.default, aten.is_same_size.default}
# take an index from the CPU too
INDEXING = {
    *(aten.index.Tensor, aten.index_put.default, aten.index_put_.default),
    aten._index_put_impl_.default,
}
# makes tensors of Python's numbers and of arrays
FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray}
INDEXED = {Tensor.__getitem__, Tensor.__setitem__}
SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]  # x.data = y
# no deterministic CUDA kernel: the list of torch.use_deterministic_algorithms, and kthvalue
NONDETERMINISTIC = {
    *("kthvalue", "histc", "put", "put_", "_ctc_loss_backward", "max_unpool2d", "max_unpool3d"),
    *("avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "fractional_max_pool2d_backward"),
    *(f"upsample_{kind}_backward" for kind in ("linear1d", "bilinear2d", "bicubic2d")),
    *(f"{kind}_pad{n}d_backward" for kind in ("reflection", "replication") for n in (1, 2, 3)),
    *("upsample_trilinear3d_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward"),
}
FLOATING_ONLY = {"cumsum", "cumsum_"}


class Cuda(Tensor):
    """A tensor that says it is on cuda:0; ``value`` is a CPU tensor."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> Cuda:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            layout=value.layout,
            device=INSIDE,
            requires_grad=value.requires_grad,
        )
        made.value = value
        return made

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"{self.value!r} on cuda:0"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


Cuda.__module__ = "torch"  # a tensor like any other, for those who look


class Generator(torch.Generator):
    """A CPU generator that says where it lives."""

    where = CPU

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        made.where = CUDA if torch.device(device).type == "cuda" else CPU
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """What it was made for."""
        return self.where


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: devices checked, computed on the CPU, the result put where it belongs."""
    leaves = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    on_cuda = [x for x in leaves if isinstance(x, Cuda)]
    name = func._schema.name.removeprefix("aten::")
    check_devices(func, name, args, leaves)
    device = kwargs.get("device")
    if device is not None:
        out_cuda = torch.device(device).type in ("meta", "cuda")
        kwargs = {**kwargs, "device": CPU} if out_cuda else kwargs
    else:
        out_cuda = bool(on_cuda)
    if func is aten.copy_.default:
        out_cuda = isinstance(args[0], Cuda)
    if on_cuda and torch.are_deterministic_algorithms_enabled():
        check_deterministic(name, args, kwargs, leaves)
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    unwrap = lambda x: x.value if isinstance(x, Cuda) else x  # noqa: E731
    found = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    if not out_cuda:
        return found
    found = tree_map(lambda x: Cuda(x) if isinstance(x, Tensor) else x, found)
    return return_and_correct_aliasing(func, args, kwargs, found)


def check_devices(func: Any, name: str, args: Any, leaves: list[Tensor]) -> None:
    """Raise what PyTorch raises for tensors that do not live together."""
    kinds = {isinstance(x, Cuda) for x in leaves}
    if len(kinds) < 2 or func in ACROSS:
        return
    if func in INDEXING:
        if not isinstance(args[0], Cuda):
            raise RuntimeError(f"indices should be on the CPU, as the indexed tensor is, in {name}")
        leaves = [args[0], *(x for x in args[2:3] if isinstance(x, Tensor))]  # and the values
    scalars = name not in ("cat", "stack")
    apart = [x for x in leaves if not isinstance(x, Cuda) and (x.dim() or not scalars)]
    mutated = [
        x
        for x, argument in zip(args, func._schema.arguments, strict=False)
        if isinstance(x, Tensor)
        and argument.alias_info is not None
        and argument.alias_info.is_write
    ]
    if apart or any(not isinstance(x, Cuda) for x in mutated):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu, in {name}"
        )


def check_deterministic(name: str, args: Any, kwargs: Any, leaves: list[Tensor]) -> None:
    """Raise what PyTorch raises for CUDA kernels that are not deterministic."""
    found = (
        name in NONDETERMINISTIC
        or (name in FLOATING_ONLY and leaves[0].is_floating_point())
        or (name == "median" and args[1:])
        or (name == "bincount" and len(leaves) > 1)
        or (name == "nll_loss2d_forward" and args[3])  # a mean or a sum
        or (name.startswith("scatter_reduce") and "prod" in (*args, *kwargs.values()))
    )
    if found:
        raise RuntimeError(
            f"{name} does not have a deterministic implementation on CUDA, but "
            "torch.use_deterministic_algorithms(True) is set"
        )


class _Calls(TorchFunctionMode):
    """Gives C++ the device that it knows; looks at generators.

    (Below, where ``dispatch`` is, a generator has lost its class.)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:  # its name for users
            return func(*args, **(kwargs or {}))
        if args and isinstance(args[0], Cuda):
            if func is Tensor.tolist:
                return args[0].value.tolist()
            if func in (Tensor.numpy, Tensor.__array__):
                raise TypeError(
                    "can't convert cuda:0 device type tensor to numpy; use .cpu() first"
                )
        if func in INDEXED and isinstance(args[0], Cuda):
            args = (args[0], indices(args[1]), *args[2:])
        named = lambda x: INSIDE if is_cuda(x) else x  # noqa: E731
        args = tuple(map(named, args))
        kwargs = {key: named(value) for key, value in (kwargs or {}).items()}
        if func in FROM_DATA and any(x is INSIDE for x in (*args, *kwargs.values())):
            # C++ makes and moves these below any dispatch
            kwargs.pop("device", None)
            return func(*(x for x in args if x is not INSIDE), **kwargs).to(INSIDE)
        found = func(*args, **kwargs)
        if func == SET_DATA and isinstance(args[0], Cuda):
            args[0].value = args[1].value
        if isinstance(found, Tensor):
            check_generators(found, [*args, *kwargs.values()])
        return found


def indices(index: Any) -> Any:
    """Lists and arrays of an index as tensors: C++ would make them on its own device, empty."""
    if isinstance(index, tuple):
        return tuple(map(indices, index))
    return torch.as_tensor(index) if isinstance(index, list | np.ndarray) else index


def is_cuda(x: Any) -> bool:
    """Whether x, an argument of a function, names the device."""
    if isinstance(x, str):
        return x in ("cuda", "cuda:0")
    return isinstance(x, torch.device) and x.type == "cuda"


def check_generators(drawn: Tensor, arguments: list[Any]) -> None:
    """Raise what PyTorch raises for a generator of another device than what is drawn."""
    for x in arguments:
        if isinstance(x, Generator) and x.device.type != drawn.device.type:
            raise RuntimeError(
                f"Expected a '{drawn.device.type}' device type for generator but found "
                f"'{x.device.type}'"
            )


class _Factories(TorchDispatchMode):
    """Catches what has no argument on the device: factories."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Within, "cuda" is there and works as the module's docstring says."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    nothing: Callable[..., None] = lambda *args, **kwargs: None  # noqa: E731
    cuda = {
        **{"is_available": lambda: True, "device_count": lambda: 1, "_lazy_init": nothing},
        **{"synchronize": nothing, "manual_seed_all": nothing, "manual_seed": nothing},
        **{"get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8)},
        **{"set_rng_state": nothing, "current_device": lambda: 0, "empty_cache": nothing},
        **{"get_device_name": lambda *_: "none", "is_initialized": lambda: True},
        **{"get_rng_state_all": lambda: [torch.zeros(16, dtype=torch.uint8)]},
        **{"max_memory_allocated": lambda *_: 0, "reset_peak_memory_stats": nothing},
    }
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters keep their identity
    try:
        with contextlib.ExitStack() as stack:
            for attribute, stand_in in cuda.items():
                stack.enter_context(mock.patch.object(torch.cuda, attribute, stand_in))
            stack.enter_context(mock.patch.object(torch, "Generator", Generator))
            stack.enter_context(_Factories())
            stack.enter_context(_Calls())
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)
        torch.use_deterministic_algorithms(deterministic)


# -- a paper's run on both devices --------------------------------------------------------------


def same_on_both(
    train: ModuleType,
    evaluation: ModuleType,
    cfg: Any,
    folder: Path,
    *,
    rtol: float = 1e-3,
    **options: Any,
) -> None:
    """A run and its evaluation with ``device="cuda"`` have the rows of ``device="cpu"``.

    But for what is measured in seconds, and for rounding: some operations (normalisations of
    groups) are put together from others off the CPU, and the CPU has compiled samplers of its own.

    Args:
        train, evaluation: modules with ``train`` and with ``evaluate`` and ``EvalConfig``.
        cfg: a short run's configuration; its ``out`` and ``device`` are replaced.
        folder: for the runs.
        rtol: relative difference that passes for rounding; Adam's first steps make much of it.
        options: of ``EvalConfig``.
    """
    rows = {}
    for device in ("cpu", "cuda"):
        run = replace(cfg, out=folder / device, device=device)
        with fake_cuda() if device == "cuda" else contextlib.nullcontext():
            train.train(run)
            evaluation.evaluate(evaluation.EvalConfig(run=run.out, device=device, **options))
        written = json.loads((run.out / "eval.json").read_text(encoding="utf-8"))["rows"]
        rows[device] = [row for row in written if not row["metric"].startswith("seconds")]
    assert len(rows["cpu"]) == len(rows["cuda"]) > 0
    for ours, theirs in zip(rows["cpu"], rows["cuda"], strict=True):
        label = {key: value for key, value in ours.items() if key != "value"}
        assert label == {key: value for key, value in theirs.items() if key != "value"}
        values = (np.array(row["value"], dtype=float) for row in (ours, theirs))
        np.testing.assert_allclose(*values, rtol=rtol, atol=1e-6, err_msg=str(label))
