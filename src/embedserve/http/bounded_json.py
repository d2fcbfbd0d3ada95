"""JSON of any size: nothing is built before it is counted, and no step holds the interpreter's lock for long.

``orjson`` reads 64 KB in two milliseconds at worst, and 32 MB in seconds, with everybody waiting. So a longer
document is walked here: brackets, commas and keys one by one, and what lies between them (runs of numbers,
pieces of strings) goes to ``orjson`` in windows of 64 KB. Between two windows other threads get their turn.

It also knows what ``orjson`` refuses and clients send: halves of surrogate pairs, which become U+FFFD, and a
byte order mark.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Final

import orjson

SMALL: Final = 64 * 1024
"""Bytes that are read in one step."""
MAX_DEPTH: Final = 500
MAX_PARTS: Final = 100_000
"""Strings, keys, arrays and objects of one document: each takes a step."""
MAX_SCALARS: Final = 1_000_000
"""Numbers and the like: 2,048 rows of 488 token ids."""
MAX_STRING: Final = 4 * 2**20
"""Characters of one string: many times what a model reads of a text."""
_WINDOW: Final = 64 * 1024
_LONGEST_SCALAR: Final = 1_000

_SPACE = re.compile(rb"[ \t\n\r]*+")
_SCALAR = re.compile(rb'[^ \t\n\r,:"\[\]{}]*+')
_SCALARS = re.compile(rb'[^"\[\]{}]*+')
_CHARACTERS = re.compile(
    rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*+"
)
"""What a string may hold, up to a quote, a half of a surrogate pair, or a mistake."""
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")

_SCALAR_BYTES: Final = 40
_CONTAINER_BYTES: Final = 240
"""What a value takes in memory, rounded up; strings are asked."""
_TOLD_BYTES: Final = 1 << 20


class JSONError(ValueError):
    """Not JSON, or more of it than is read here; the message says why and quotes nothing."""


class StringTooLongError(JSONError):
    """A string of more than MAX_STRING characters."""

    def __init__(self) -> None:
        super().__init__(f"it has a string of more than {MAX_STRING} characters")


def parse_json(document: bytes | bytearray, build: Callable[[int], None] | None = None) -> Any:
    """The value of a document in UTF-8.

    Of a key that comes twice the last one counts. A document of more than SMALL bytes should be read in a
    thread: it takes as long as it takes, but others run in between.

    Args:
        build: told of about every MiB that is going to be built; what it raises ends the reading.

    Raises:
        JSONError: no JSON, nested more than MAX_DEPTH deep, of more values than are read here, or with a
            string longer than MAX_STRING.
    """
    if len(document) <= SMALL:
        try:
            return orjson.loads(document)
        except orjson.JSONDecodeError:
            pass  # perhaps it is one of the two things that orjson is stricter about
    return _Reader(document, build or _ignore).read()


def _ignore(size: int) -> None:
    pass


def _load(piece: bytes | bytearray) -> Any:
    try:
        return orjson.loads(piece)
    except orjson.JSONDecodeError:
        raise JSONError("it is no valid JSON") from None


class _Reader:
    """One document on its way; every method takes a position and returns the next one."""

    def __init__(self, document: bytes | bytearray, build: Callable[[int], None]) -> None:
        self._text = document
        self._build = build
        self._parts = 0
        self._scalars = 0
        self._untold = 0
        self._stack: list[list[Any] | dict[str, Any]] = []
        self._keys: list[str] = []
        self._result: Any = None

    def read(self) -> Any:
        text = self._text
        at = self._skip(3 if text.startswith(b"\xef\xbb\xbf") else 0)
        at = self._value(at)
        while self._stack:
            at = self._skip(at)
            mark, inside = text[at : at + 1], self._stack[-1]
            if mark == b",":
                at = self._skip(at + 1)
                at = self._value(at) if isinstance(inside, list) else self._member(at)
            elif mark == (b"]" if isinstance(inside, list) else b"}"):
                self._stack.pop()
                if self._stack and isinstance(self._stack[-1], dict):
                    self._keys.pop()
                at += 1
            else:
                raise JSONError("it is no valid JSON")
        if self._skip(at) != len(text):
            raise JSONError("something follows the JSON")
        return self._result

    def _value(self, at: int) -> int:
        """Read a scalar or string, or open a container and read what comes first in it."""
        text = self._text
        while True:
            mark = text[at : at + 1]
            if mark == b'"':
                value, at = self._string(at)
                self._add(value)
                return at
            if mark == b"[":
                at = self._skip(self._open([], at))
                if text[at : at + 1] == b"]":
                    return at
            elif mark == b"{":
                at = self._skip(self._open({}, at))
                if text[at : at + 1] == b"}":
                    return at
                at = self._key(at)
            elif self._stack and isinstance(self._stack[-1], list):
                return self._run(at)
            else:
                return self._scalar(at)

    def _member(self, at: int) -> int:
        return self._value(self._key(at))

    def _key(self, at: int) -> int:
        """Read a key and its colon; its value is added when it comes."""
        if self._text[at : at + 1] != b'"':
            raise JSONError("it is no valid JSON")
        key, at = self._string(at)
        self._keys.append(key)
        at = self._skip(at)
        if self._text[at : at + 1] != b":":
            raise JSONError("it is no valid JSON")
        return self._skip(at + 1)

    def _open(self, container: list[Any] | dict[str, Any], at: int) -> int:
        self._step(_CONTAINER_BYTES)
        if len(self._stack) == MAX_DEPTH:
            raise JSONError(f"it is nested more than {MAX_DEPTH} deep")
        self._put(container)
        self._stack.append(container)
        return at + 1

    def _add(self, value: Any) -> None:
        """A value that is complete."""
        self._put(value)
        if self._stack and isinstance(self._stack[-1], dict):
            self._keys.pop()

    def _put(self, value: Any) -> None:
        if not self._stack:
            self._result = value
        elif isinstance(inside := self._stack[-1], list):
            inside.append(value)
        else:
            inside[self._keys[-1]] = value

    def _scalar(self, at: int) -> int:
        end = self._window(_SCALAR, at).end()
        if end - at > _LONGEST_SCALAR:
            raise JSONError("it has a number that is too long")
        self._account_scalars(1)
        self._add(_load(self._text[at:end]))
        return end

    def _run(self, at: int) -> int:
        """Numbers and the like in an array, all of one window at once; ends before a comma or a bracket."""
        text, inside = self._text, self._stack[-1]
        end = self._window(_SCALARS, at).end()
        if text[end : end + 1] != b"]":  # the last value belongs to what follows, or to the next window
            end = text.rfind(b",", at, end)
            if end < 0:
                raise JSONError("it is no valid JSON")
        piece = text[at:end]
        self._account_scalars(piece.count(b",") + 1)
        values = _load(b"[" + piece + b"]")
        if not values:
            raise JSONError("it is no valid JSON")
        assert isinstance(inside, list)
        inside += values
        return end

    def _string(self, at: int) -> tuple[str, int]:
        text, start = self._text, at + 1
        end = self._window(_CHARACTERS, start).end()
        if text[end : end + 1] == b'"':
            value: str = _load(text[at : end + 1])
            self._step(sys.getsizeof(value))
            return value, end + 1
        pieces: list[str] = []
        size = 0
        while True:
            if end > start:
                end = self._whole_characters(start, end)
                pieces.append(_load(b'"' + text[start:end] + b'"'))
                self._account(sys.getsizeof(pieces[-1]))
            elif _HALF.match(text, end):
                pieces.append("\ufffd")
                self._step(_SCALAR_BYTES)
                end += 6
            else:
                raise JSONError("it has a string that does not end, or a mistake in one")
            size += len(pieces[-1])
            if size > MAX_STRING:
                raise StringTooLongError
            if text[end : end + 1] == b'"':
                self._step(max(map(_width, pieces)) * size)
                return "".join(pieces), end + 1
            start = end
            end = self._window(_CHARACTERS, start).end()

    def _whole_characters(self, start: int, end: int) -> int:
        """``end``, or a little before it where a window cut a character in two."""
        text = self._text
        for cut in range(end, max(start, end - 4), -1):
            if text[cut : cut + 1] < b"\x80" or text[cut : cut + 1] >= b"\xc0":
                return cut
        return end  # no UTF-8: told when it is decoded

    def _window(self, pattern: re.Pattern[bytes], at: int) -> re.Match[bytes]:
        match = pattern.match(self._text, at, at + _WINDOW)
        assert match is not None  # every pattern matches nothing, too
        return match

    def _skip(self, at: int) -> int:
        """Past white space."""
        if self._text[at : at + 1] > b" ":
            return at
        while (end := self._window(_SPACE, at).end()) - at == _WINDOW:
            at = end
        return end

    def _step(self, size: int) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise JSONError(f"it has more than {MAX_PARTS} strings, arrays and objects")
        self._account(size)

    def _account_scalars(self, count: int) -> None:
        self._scalars += count
        if self._scalars > MAX_SCALARS:
            raise JSONError(f"it has more than {MAX_SCALARS} numbers")
        self._account(count * _SCALAR_BYTES)

    def _account(self, size: int) -> None:
        self._untold += size
        if self._untold >= _TOLD_BYTES:
            told, self._untold = self._untold, 0
            self._build(told)


def _width(text: str) -> int:
    """Bytes a character of this string takes."""
    return min(4, max(1, (sys.getsizeof(text) - 74) // len(text)))
