"""What a file holds, record by record, before anybody asks for columns.

Every reader here yields ``(place, value)``: the line or row, counted from 1, and a text, an object of
columns, None for what is missing, or :class:`Wrong` for a record that cannot be read. What is wrong with the
whole file raises :class:`~embedserve.files.errors.Unreadable` and ends the reading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import orjson

from embedserve.files.decoding import find_wrong, show

MAX_CHARACTERS = 16 * 2**20
"""Of one record: a line, a CSV row, an element of a JSON array. Thousands of pages; it bounds the memory."""
TOO_LONG = f"is longer than {MAX_CHARACTERS >> 20} million characters: cut it into texts first"


@dataclass(frozen=True, slots=True)
class Wrong:
    """A record that cannot be read: why, and what was there."""

    reason: str
    shown: Any = None


Record = tuple[int, Any]
_LONG_NUMBER = re.compile(r"\d{19}")
SHOWN = 2000
"""Characters of a wrong line that are kept to be looked at."""


def excerpt(line: str) -> str:
    return show(line[:SHOWN]).rstrip("\r\n")


def numbered_lines(text: TextIO, encoding: str) -> Iterator[tuple[int, str | Wrong]]:
    """Lines with their ends, from 1; LF, CRLF and CR end one, nothing else does.

    Args:
        encoding: how the file was decoded, for the words about wrong bytes.
    """
    number, rest = 0, ""
    while line := text.readline(MAX_CHARACTERS):
        number += 1
        if len(line) >= MAX_CHARACTERS and line[-1] not in "\r\n":
            while (rest := text.readline(MAX_CHARACTERS)) and rest[-1] not in "\r\n":
                pass
            yield number, Wrong(TOO_LONG, excerpt(line))
        elif wrong := None if line.isascii() else find_wrong(line):
            yield number, Wrong(describe_byte(*wrong, encoding), excerpt(line))
        else:
            yield number, line


def describe_byte(byte: int, after: int, encoding: str) -> str:
    if encoding.startswith("utf-8"):
        remedy = "if the file is in another encoding, say so, e.g. --encoding-in gb18030, latin-1 or utf-16"
        return f"is not UTF-8 (byte 0x{byte:02x} after {after} characters): {remedy}"
    return f"is not {encoding} (byte 0x{byte:02x} after {after} characters): give the right --encoding-in"


def read_texts(lines: Iterable[tuple[int, str | Wrong]]) -> Iterator[Record]:
    """One text a line."""
    for number, line in lines:
        yield number, line if isinstance(line, Wrong) else line.rstrip("\r\n")


def read_json_lines(lines: Iterable[tuple[int, str | Wrong]]) -> Iterator[Record]:
    """One JSON value a line; a blank line is a missing one."""
    for number, line in lines:
        if isinstance(line, Wrong):
            yield number, line
        elif not line.strip():
            yield number, None
        else:
            try:
                yield number, parse_json(line)
            except ValueError as error:
                reason = str(error).partition(": line ")[0]
                yield number, Wrong(f"is not JSON ({reason})", excerpt(line))


def parse_json(line: str) -> Any:
    """As requests are read: lone halves of surrogate pairs pass, numbers keep all their digits.

    Raises:
        ValueError: not JSON.
    """
    try:
        value = orjson.loads(line)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        try:
            return json.loads(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
    if _LONG_NUMBER.search(line):
        return json.loads(line)  # orjson makes floats of integers over 64 bits
    return value
