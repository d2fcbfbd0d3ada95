"""Texts as programs have them: strings in whatever holds strings, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from embedserve.errors import EmbedserveError, NotTextError

Texts = str | Iterable[Any]
"""One string, or any iterable of strings: lists, generators, files opened as text, columns of pandas, polars
and pyarrow, arrays of NumPy, ``dict.values()``."""

_COLUMNS = ("columns", "column_names")
"""What tables have: iterating one gives its columns or their names, never what was meant."""


def read_rows(texts: Texts) -> Iterator[str]:
    """Each row as a string, as it is asked for.

    Raises:
        EmbedserveError: at once, for what holds no rows of text (bytes, a mapping, a table).
        NotTextError: at the first row that is missing or no string; names it.
    """
    if isinstance(texts, str):
        return iter([texts])
    if isinstance(texts, (bytes, bytearray, memoryview)):
        raise EmbedserveError(f"texts is {_name(texts)}: decode it first, e.g. texts.decode('utf-8')")
    if isinstance(texts, Mapping):
        raise EmbedserveError(f"texts is a {_name(texts)}: choose its .values() or its .keys()")
    if any(hasattr(texts, name) for name in _COLUMNS):
        raise EmbedserveError(f"texts is a {_name(texts)}: choose a column of it, e.g. table['text']")
    if getattr(texts, "ndim", 1) == 0 and hasattr(texts, "item"):
        return read_rows(texts.item())
    try:
        rows = iter(texts)
    except TypeError:
        raise EmbedserveError(
            f"texts is a {_name(texts)}, it should be a string or an iterable of strings"
        ) from None
    return (read_row(number, row) for number, row in enumerate(rows))


def read_row(number: int, row: Any) -> str:
    """A row as a string; pyarrow's scalars are unwrapped. Raises NotTextError, naming ``number``."""
    if isinstance(row, str):
        return row
    if hasattr(row, "as_py"):
        row = row.as_py()
        if isinstance(row, str):
            return row
    if isinstance(row, (bytes, bytearray, memoryview)):
        told = f"is {_name(row)}: decode it first, e.g. .decode('utf-8')"
    elif _is_missing(row):
        told = f"is {row!r}, a missing text: drop or fill such rows first"
    else:
        told = f"is of type {_name(row)}, it should be a string"
    raise NotTextError(f"row {number} {told}", row=number)


def _is_missing(row: Any) -> bool:
    """None, NaN, pandas' NA and NaT."""
    return row is None or (isinstance(row, float) and row != row) or _name(row) in ("NAType", "NaTType")


def _name(value: Any) -> str:
    return type(value).__name__
