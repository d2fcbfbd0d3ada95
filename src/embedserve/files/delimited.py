"""CSV and TSV, strictly: a quote that nothing closes and a field too many are errors with their line."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from embedserve.files.errors import Unreadable
from embedserve.files.records import MAX_CHARACTERS, Record, Wrong, excerpt, numbered_lines

DELIMITERS = {"tab": "\t", "\\t": "\t"}


def read_delimited(
    name: str, text: TextIO, encoding: str, delimiter: str, *, header: bool = True
) -> Iterator[Record]:
    """Rows as objects of strings. The first item is the header's (line, names), whatever else comes.

    Args:
        delimiter: one character.
        header: whether the first row names the columns; without one they are called ``1``, ``2``, …

    Raises:
        Unreadable: the header cannot be read, or names a column twice.
    """
    rows = _Rows(text, encoding, delimiter)
    names: list[str] | None = None
    for line, fields in rows:
        if names is None:
            if isinstance(fields, Wrong):
                raise Unreadable(f"{name}: line {line} {fields.reason}")
            names = fields if header else [str(number) for number in range(1, len(fields) + 1)]
            if twice := next((each for each in names if names.count(each) > 1), None):
                raise Unreadable(f"{name}: line {line} names the column {twice!r} twice: rename one of them")
            yield line, names
            if header:
                continue
        if isinstance(fields, Wrong):
            yield line, fields
        elif len(fields) != len(names):
            told = "the header" if header else "the first row"
            reason = (
                f"has {len(fields)} fields, {told} has {len(names)}: a field with {_show(delimiter)}, a "
                "quote or a line end in it must stand in quotes"
            )
            yield line, Wrong(reason, rows.shown)
        else:
            yield line, dict(zip(names, fields, strict=True))


def _show(delimiter: str) -> str:
    return {",": "a comma", "\t": "a tab"}.get(delimiter, repr(delimiter))


class _Rows:
    """(line it begins on, fields) of each row; empty lines are none.

    Python's parser takes its lines from a queue here. When a quote turns out to be open, the line that opened
    it is given up, and the others go back to the queue: they are rows of their own.
    """

    def __init__(self, text: TextIO, encoding: str, delimiter: str) -> None:
        csv.field_size_limit(MAX_CHARACTERS)
        self._lines = numbered_lines(text, encoding)
        self._returned: deque[tuple[int, str | Wrong]] = deque()
        self._used: list[tuple[int, str]] = []
        self._broken: tuple[int, Wrong] | None = None
        self._delimiter = delimiter

    @property
    def shown(self) -> str:
        """The lines of the row that was given last."""
        return excerpt("".join(line for _, line in self._used))

    def __iter__(self) -> Iterator[tuple[int, list[str] | Wrong]]:
        while True:
            parser = csv.reader(self._feed(), delimiter=self._delimiter, strict=True)
            try:
                while True:
                    self._used.clear()
                    fields = next(parser)
                    if fields:
                        yield self._used[0][0], fields
            except StopIteration:
                pass
            except csv.Error as error:
                (number, line), *others = self._used
                self._returned.extendleft(reversed(others))
                yield number, Wrong(_explain(error, others), excerpt(line))
                continue
            if self._broken is None:
                return
            yield self._broken
            self._broken = None

    def _feed(self) -> Iterator[str]:
        """Lines for one parser; it ends before a line that cannot be read."""
        size = 0
        while True:
            number, line = self._returned.popleft() if self._returned else next(self._lines, (0, ""))
            if not line:
                return
            if isinstance(line, Wrong):
                if self._used:  # inside of quotes: the row that they began is wrong first
                    self._returned.appendleft((number, line))
                else:
                    self._broken = number, line
                return
            size = len(line) + (size if self._used else 0)
            if size > MAX_CHARACTERS:
                self._returned.appendleft((number, line))
                return
            self._used.append((number, line))
            yield line


def _explain(error: csv.Error, others: list[tuple[int, str]]) -> str:
    if "unexpected end of data" in str(error):
        return "opens a quote that nothing closes"
    if "line contains NUL" in str(error):
        return "has a zero byte in it"
    if "field larger than" in str(error):
        return "has a field that is too long, or opens a quote that nothing closes"
    where = f", and line {others[-1][0]} closes it in the middle of a field" if others else ""
    return (
        f"has a quote in the wrong place{where} ({error}): a quote inside of a quoted field is written twice"
    )
