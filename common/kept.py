"""What a run keeps between steps, under the names that training and evaluation use.

Things that are made once and then changed are restored *in place*, so that the names a loop holds
them by stay good: modules and optimisers (``state_dict``, ``load_state_dict``), objects with
``state()`` and ``load(state)``, random generators of PyTorch and NumPy, tensors and arrays of the
same shape and type (on their own device), and lists, tuples and dicts of these. Everything else
(numbers, strings, None, a tensor whose shape has changed) is a *value*, read and rebound as an
attribute of :class:`Kept`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.errors import UserError

RESERVED = "step"  # the number of steps done goes by this name into every checkpoint


class Kept:
    """The things that :meth:`common.run.Run.keep` was given, as attributes.

    ``kept.NAME`` is the thing as it is now; ``kept.NAME = value`` rebinds it, and the next
    checkpoint holds the new one.

    Raises:
        AttributeError: for a name that was not given to ``keep``.
    """

    _things: dict[str, Any]

    def __init__(self, things: Mapping[str, Any]) -> None:
        for name in things:
            if name == RESERVED or name.startswith("_"):
                raise ValueError(f"a kept thing cannot be called '{name}'")
        object.__setattr__(self, "_things", dict(things))

    def __getattr__(self, name: str) -> Any:
        things = self.__dict__.get("_things", {})
        if name not in things:
            raise AttributeError(f"nothing is kept as '{name}'; there is {', '.join(things)}")
        return things[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._things:
            raise AttributeError(
                f"nothing is kept as '{name}'; name it in run.keep(...), "
                f"beside {', '.join(self._things)}"
            )
        self._things[name] = value

    def __dir__(self) -> list[str]:
        return list(self._things)


def state(kept: Kept) -> dict[str, Any]:
    """What a checkpoint holds of ``kept``: one entry per name."""
    return {name: state_of(thing) for name, thing in kept._things.items()}


def restore(kept: Kept, saved: Mapping[str, Any]) -> None:
    """Set everything to what :func:`state` gave.

    Raises:
        UserError: if what was saved does not fit, with the name of the thing.
    """
    for name, thing in kept._things.items():
        if name not in saved:
            raise UserError(_unfit(name, f"it holds only {', '.join(saved)}"))
        try:
            kept._things[name] = restored(thing, saved[name])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise UserError(_unfit(name, " ".join(str(error).split())[:200])) from error


def _unfit(name: str, why: str) -> str:
    return (
        f"the checkpoint does not fit '{name}' ({why}); it was written on another kind of device "
        "or by other packages: go on there, or choose another --out"
    )


def _pair(thing: Any, *names: str) -> bool:
    return all(callable(getattr(thing, name, None)) for name in names)


def _is_torch(thing: Any, kind: str) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, getattr(torch, kind))


def state_of(thing: Any) -> Any:
    """The state of an object that has one, else the thing itself; containers item by item."""
    if _is_torch(thing, "Tensor") or isinstance(thing, np.ndarray):
        return thing
    if _is_torch(thing, "Generator"):
        return thing.get_state()
    if isinstance(thing, np.random.Generator):
        return thing.bit_generator.state
    if _pair(thing, "state_dict", "load_state_dict"):
        return thing.state_dict()
    if _pair(thing, "state", "load"):
        return thing.state()
    if isinstance(thing, dict):
        return {key: state_of(item) for key, item in thing.items()}
    if isinstance(thing, tuple):
        return tuple(state_of(item) for item in thing)
    if isinstance(thing, (list, deque)):
        return [state_of(item) for item in thing]
    return thing


def restored(thing: Any, saved: Any) -> Any:
    """``thing`` with the state ``saved``: itself where it can be set in place, else ``saved``."""
    if _is_torch(thing, "Tensor"):
        return _tensor(thing, saved)
    if isinstance(thing, np.ndarray):
        same = isinstance(saved, np.ndarray) and (thing.shape, thing.dtype) == (
            saved.shape,
            saved.dtype,
        )
        if not same or not thing.flags.writeable:
            return saved
        thing[...] = saved
        return thing
    if _is_torch(thing, "Generator"):
        thing.set_state(saved)
    elif isinstance(thing, np.random.Generator):
        thing.bit_generator.state = saved
    elif _pair(thing, "state_dict", "load_state_dict"):
        thing.load_state_dict(saved)
    elif _pair(thing, "state", "load"):
        thing.load(saved)
    elif isinstance(thing, (dict, list, tuple, deque)):
        return _container(thing, saved)
    else:
        return saved
    return thing


def _tensor(thing: Any, saved: Any) -> Any:
    """A tensor filled in place; one of another shape or type moves to the same device."""
    import torch

    if not isinstance(saved, torch.Tensor):
        return saved
    if thing.shape == saved.shape and thing.dtype == saved.dtype:
        with torch.no_grad():
            return thing.copy_(saved)
    if isinstance(thing, torch.nn.Parameter):
        raise ValueError(f"{tuple(saved.shape)} is not the shape {tuple(thing.shape)}")
    return saved.to(thing.device)


def _container(thing: Any, saved: Any) -> Any:
    """A list, dict or deque filled in place, so that other names of it see it; a tuple anew."""
    if isinstance(thing, dict):
        if not isinstance(saved, dict):
            return saved
        if set(thing) != set(saved) and any(map(_holds_objects, thing.values())):
            raise ValueError(f"{sorted(map(str, saved))} are not {sorted(map(str, thing))}")
        items = {k: restored(thing[k], v) if k in thing else v for k, v in saved.items()}
        thing.clear()
        for key, item in items.items():  # in the order of the checkpoint
            thing[key] = item
        return thing
    if not isinstance(saved, (list, tuple)):
        return saved
    if len(thing) == len(saved):
        filled = [restored(old, new) for old, new in zip(thing, saved, strict=True)]
    elif any(map(_holds_objects, thing)):
        raise ValueError(f"{len(saved)} of them, not {len(thing)}")
    else:
        filled = list(saved)
    if isinstance(thing, tuple):
        return type(thing)._make(filled) if hasattr(thing, "_make") else tuple(filled)
    thing.clear()
    thing.extend(filled)
    return thing


def _holds_objects(thing: Any) -> bool:
    """Whether there is something in it that only its own state can restore."""
    if isinstance(thing, dict):
        return any(map(_holds_objects, thing.values()))
    if isinstance(thing, (list, tuple, deque)):
        return any(map(_holds_objects, thing))
    if _is_torch(thing, "Tensor") or isinstance(thing, np.ndarray):
        return False
    return (
        _is_torch(thing, "Generator")
        or isinstance(thing, np.random.Generator)
        or _pair(thing, "state_dict", "load_state_dict")
        or _pair(thing, "state", "load")
    )
