"""The table of a paper's methods: one place for names, labels, roles, colours and what they need.

Training, evaluation, claims, tables and figures read it. An unknown name is refused everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from common.errors import choose

Role = Literal["method", "variant", "ablation", "baseline", "reference", "added"]

METHOD_COLOUR = "#D55E00"  # the paper's method, everywhere (Okabe and Ito's vermilion)
OTHER_COLOURS = (
    *("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31", "#7F7F7F"),
    *("#882255", "#F0E442", "#332288", "#AA4499"),
)
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Method:
    """A method of a paper's table. Papers add fields (a loss, a sampler, a network, …).

    Attributes:
        name: on the command line and in the rows.
        label: in tables and figures.
        role: ``method`` is the paper's own, ``variant`` another form of it with the contribution,
            ``ablation`` the paper's method without a part, ``baseline`` a rival without the
            contribution, ``reference`` one that is told what it cannot know, or the exact answer
            (marked † where claims name it), ``added`` one that is not of the paper: it is trained,
            evaluated and shown like the others and changes none of the paper's verdicts.
    """

    name: str
    label: str
    role: Role


M = TypeVar("M", bound=Method)


class Methods(Mapping[str, M], Generic[M]):
    """Methods by name, in the order of tables and colours.

    Args:
        methods: in order; the paper's own first.
        kind: what an unknown name is called in the message ("method", "loss", …).

    Raises:
        ValueError: if a name or a label occurs twice.
    """

    def __init__(self, *methods: M, kind: str = "method") -> None:
        self._kind = kind
        self._methods: dict[str, M] = {}
        for method in methods:
            self.add(method)

    def add(self, method: M) -> None:
        """Put one more method at the end of the table.

        Raises:
            ValueError: if its name or label is taken.
        """
        labels = {m.label for m in self._methods.values()}
        if method.name in self._methods or method.label in labels:
            raise ValueError(f"two methods are called {method.name!r} or {method.label!r}")
        self._methods[method.name] = method

    def __getitem__(self, name: str) -> M:
        """The method of that name.

        Raises:
            UserError: for an unknown name, with the nearest ones.
        """
        return self._methods[choose(self._kind, name, self._methods)]

    def __contains__(self, name: object) -> bool:
        return name in self._methods

    def get(self, name: str, default: Any = None) -> Any:
        """The method of that name, or ``default``."""
        return self._methods.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def having(self, *roles: Role) -> list[str]:
        """Names of the methods with one of these roles, in order."""
        return [m.name for m in self._methods.values() if m.role in roles]

    @property
    def of_the_paper(self) -> list[str]:
        """Names of all but the added methods, in order: what claims are about."""
        return [m.name for m in self._methods.values() if m.role != "added"]

    def label(self, name: str) -> str:
        """Label of a method.

        Raises:
            UserError: for an unknown name.
        """
        return self[name].label

    def colours(self) -> dict[str, str]:
        """A colour per method: the paper's own always the same, an added one changes no other."""
        mine = self.having("method")[:1]
        rest = [name for name in self if name not in mine]
        chosen = {name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(rest)}
        return {name: chosen.get(name, METHOD_COLOUR) for name in self}

    def dashes(self) -> dict[str, str]:
        """A line style per method, so that curves can be told apart without colour."""
        n = len(OTHER_COLOURS)
        return {name: _DASHES[(i // n + i) % len(_DASHES)] for i, name in enumerate(self)}


__all__ = ["METHOD_COLOUR", "OTHER_COLOURS", "Method", "Methods", "Role"]
