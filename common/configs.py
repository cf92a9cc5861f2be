"""Configurations: dataclasses to JSON values and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

C = TypeVar("C")


def plain_of(value: Any) -> Any:
    """JSON form of a configuration value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_of(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [plain_of(item) for item in value]
    return value


def _typed(value: Any, annotation: Any) -> Any:
    """Inverse of :func:`plain_of`, guided by a field's annotation."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return instance_of(value, annotation)
    if annotation is Path:
        return Path(value)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _typed(value, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        inner = [arguments[0]] * len(value) if len(arguments) == 2 else list(arguments)
        return tuple(_typed(item, kind) for item, kind in zip(value, inner, strict=False))
    if origin is list:
        return [_typed(item, arguments[0]) for item in value]
    if origin is Literal or origin is not None:
        return value
    return float(value) if annotation is float and value is not None else value


def instance_of(values: Mapping[str, Any], config: type[C]) -> C:
    """The dataclass ``config`` with ``values``, as :func:`plain_of` gave them."""
    hints = typing.get_type_hints(config)
    fields = dataclasses.fields(config)  # type: ignore[arg-type]
    return config(**{f.name: _typed(values[f.name], hints[f.name]) for f in fields})
