"""From records to rows: the text, the columns that travel with it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedserve.errors import EmbedserveError
from embedserve.files.errors import BadRow
from embedserve.files.records import Wrong

DEFAULT_COLUMN = "text"
ID = "id"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are read.

    Attributes:
        text: where the text is; None: ``text`` if the file has columns at all.
        id: a column that names rows; it is never missing and goes out as ``id``.
        keep: columns that go out under their own names.
    """

    text: str | None = None
    id: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def carried(self) -> dict[str, str]:
        """Names in the output -> columns of the input."""
        named = {ID: self.id} if self.id is not None else {}
        return named | {name: name for name in self.keep}

    @property
    def wanted(self) -> list[str]:
        return list(dict.fromkeys([self.text or DEFAULT_COLUMN, *self.carried.values()]))

    def check(self, taken: Sequence[str]) -> None:
        """Refuse names that the output uses for its own. Raises EmbedserveError."""
        if twice := next((name for name in self.keep if self.keep.count(name) > 1), None):
            raise EmbedserveError(f"--keep names {twice!r} twice")
        ours = [*taken, ID] if self.id is not None else list(taken)
        if clash := next((name for name in self.keep if name in ours), None):
            raise EmbedserveError(
                f"--keep {clash}: the output has a column {clash!r} of its own: rename the one in the "
                "input, or leave it out"
            )


@dataclass(frozen=True, slots=True)
class Origin:
    """The file that a row came from.

    Attributes:
        name: as the caller wrote it.
        unit: what its places count: ``line`` or ``row``.
        carried: names of the carried columns in the output.
        types: Arrow types of those; empty if the file has none.
    """

    name: str
    unit: str
    carried: tuple[str, ...]
    types: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One text.

    Attributes:
        index: its number among all rows of the run, from 0.
        place: line or row in its file, from 1.
        text: None if it is missing: null or blank.
        carried: values of the carried columns, in their order.
    """

    index: int
    origin: Origin
    place: int
    text: str | None
    carried: tuple[Any, ...] = ()

    def reject(self, reason: str) -> BadRow:
        shown = {"text": self.text, **dict(zip(self.origin.carried, self.carried, strict=True))}
        return BadRow(self.index, self.origin.name, f"{self.origin.unit} {self.place}", reason, shown)


_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def describe_type(value: Any) -> str:
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def take_row(index: int, origin: Origin, place: int, value: Any, columns: Columns) -> Row | BadRow:
    """A record as a row, or what is wrong with it."""

    def bad(reason: str, shown: Any = value) -> BadRow:
        return BadRow(index, origin.name, f"{origin.unit} {place}", reason, shown)

    if isinstance(value, Wrong):
        return bad(value.reason, value.shown)
    if value is None:
        return Row(index, origin, place, None, (None,) * len(columns.carried))
    if isinstance(value, str):
        if columns.text is not None or columns.carried:
            return bad("is a text without columns: leave out --column, --id and --keep")
        return Row(index, origin, place, value if value.strip() else None)
    if not isinstance(value, dict):
        return bad(f"is {describe_type(value)}, it should be a text or an object with one")
    name = columns.text or DEFAULT_COLUMN
    for wanted, option in ((name, "--column"), *((each, "") for each in columns.carried.values())):
        if wanted not in value:
            return bad(describe_missing(wanted, list(value), option))
    text = value[name]
    if text is not None and not isinstance(text, str):
        return bad(f"has {describe_type(text)} under {name!r}, not a text")
    if columns.id is not None and (value[columns.id] is None or value[columns.id] == ""):
        return bad(f"has no id under {columns.id!r}")
    carried = tuple(value[each] for each in columns.carried.values())
    return Row(index, origin, place, text if text and text.strip() else None, carried)


def describe_missing(column: str, there: Sequence[str], option: str = "--column") -> str:
    listed = ", ".join(map(str, there))[:200] or "none"
    remedy = f" with {option}" if option else ""
    return f"has no column {column!r}: choose one of {listed}{remedy}"
