"""Public weights, tokenizers and data sets by their names on the Hugging Face hub.

A name's place is ``$PAPERS_DATA/NAME``, as ``hf download NAME --local-dir $PAPERS_DATA/NAME`` fills
it; a data set may as well be JSON Lines there, ``[CONFIG/]SPLIT.jsonl``. What is not there comes
from the hub.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from common import files
from common.errors import UserError

Found = TypeVar("Found")


def place(name: str) -> Path | None:
    """``$PAPERS_DATA/name`` (or ``name`` itself, if it is a folder) where that is there."""
    root = os.environ.get("PAPERS_DATA")
    if Path(name).is_absolute() or root:
        path = Path(root or "/") / name
        return path if path.exists() else None
    return None


def obtained(name: str, read: Callable[[str], Found], *, data: bool = False) -> Found:
    """What ``read`` makes of a name's folder, else of the name on the hub.

    Args:
        name: on the hub, or a folder.
        read: takes a folder's path or a name on the hub.
        data: whether it is a data set; for the message.

    Raises:
        UserError: if it can be had from neither; the message says how to download it.
    """
    there = place(name)
    try:
        return read(str(there or name))
    except UserError:
        raise
    except Exception as error:  # the hub's libraries, and theirs, have many kinds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what, how = ("data set", " --repo-type dataset") if data else ("model", "")
        state = f"is damaged in {there}" if there else "is not in $PAPERS_DATA, nor to be had"
        raise UserError(
            f"the {what} {name} {state} ({first}); "
            f"hf download {name}{how} --local-dir $PAPERS_DATA/{name}"
        ) from error


def model(kind: str, name: str, **options: Any) -> Any:
    """A model of the class ``AutoModelFor<kind>`` of ``transformers`` (``CausalLM``, ...).

    Raises:
        UserError: if it cannot be had.
    """
    import transformers

    return obtained(
        name,
        lambda where: getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
            where, **options
        ),
    )


def tokenizer(name: str) -> Any:
    """A model's tokenizer.

    Raises:
        UserError: if it cannot be had.
    """
    import transformers

    return obtained(name, transformers.AutoTokenizer.from_pretrained)


def data_set(
    name: str,
    config: str | None = None,
    split: str = "train",
    *,
    columns: Sequence[str] = (),
    **options: Any,
) -> Any:
    """A split of a data set, a table of ``datasets``.

    Args:
        config: which of the data set's configurations, where it has several.
        columns: that it has to have.
        options: of ``datasets.load_dataset``, such as ``data_files``.

    Raises:
        UserError: if it cannot be had, or lacks a column.
    """
    import datasets

    there = place(name)

    def read(where: str) -> Any:
        chosen = {} if config is None else {"name": config}
        if there is not None and config and (there / config).is_dir():
            where, chosen = str(there / config), {}
        kept = {"cache_dir": str(files.cache_root() / "huggingface")} if there is not None else {}
        lines = Path(where) / f"{split}.jsonl"
        if there is not None and lines.is_file() and not options:
            return datasets.load_dataset("json", data_files=str(lines), split="train", **kept)
        return datasets.load_dataset(where, split=split, **chosen, **kept, **options)

    table = obtained(name, read, data=True)
    if missing := set(columns) - set(table.column_names):
        raise UserError(f"{there or name} has no column {min(missing)!r}: {table.column_names}")
    return table


def parts(name: str, pattern: str) -> list[str]:
    """Paths of a data set's files, sorted, to be read as a stream.

    Args:
        pattern: such as ``train/**/*.jsonl*``.

    Raises:
        UserError: if there are none.
    """
    there = place(name)

    def read(where: str) -> list[str]:
        if there is not None:
            return sorted(str(path) for path in there.glob(pattern))
        import huggingface_hub

        found = huggingface_hub.HfFileSystem().glob(f"datasets/{where}/{pattern}")
        return [f"hf://{path}" for path in sorted(map(str, found))]

    found = obtained(name, read, data=True)
    if not found:
        raise UserError(f"{there or name} holds no file {pattern}")
    return found


__all__ = ["data_set", "model", "obtained", "parts", "place", "tokenizer"]
