"""A JSON file of any size, one element at a time: an array's elements, or values one after another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TextIO

from embedserve.files.decoding import find_wrong
from embedserve.files.errors import Unreadable
from embedserve.files.records import MAX_CHARACTERS, TOO_LONG, Record, Wrong, describe_byte, excerpt

_BLOCK = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def read_json(name: str, text: TextIO, encoding: str) -> Iterator[Record]:
    """Elements of the array that the file is, or the values in it, with the line each begins on.

    Raises:
        Unreadable: from the place on where it is no JSON, nobody can tell where the next element begins.
    """
    scan = _Scan(text)
    scan.skip_space()
    inside = scan.take("[")
    count = 0
    while True:
        scan.skip_space()
        if scan.at_end:
            if inside:
                raise Unreadable(f"{name}: the array is cut short: line {scan.line} ends without a ]")
            return
        if inside and scan.take("]"):
            scan.skip_space()
            if not scan.at_end:
                raise Unreadable(f"{name}: line {scan.line} goes on after the array")
            return
        if inside and count and not scan.take(","):
            raise Unreadable(f"{name}: line {scan.line} is not JSON: expected a comma or ]")
        scan.skip_space()
        line = scan.line
        try:
            source, value = scan.value()
        except ValueError as error:
            raise Unreadable(
                f"{name}: line {line} is not JSON ({str(error).partition(': line ')[0]})"
            ) from None
        count += 1
        if wrong := None if source.isascii() else find_wrong(source):
            value = Wrong(describe_byte(*wrong, encoding), excerpt(source))
        yield line, value


class _Scan:
    """A window over the text that grows until a value is whole."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._held = ""
        self._at = 0
        self._ended = False
        self.line = 1

    @property
    def at_end(self) -> bool:
        return self._ended and self._at >= len(self._held)

    def skip_space(self) -> None:
        while True:
            found = _SPACE.match(self._held, self._at)
            assert found
            self._pass(found.end())
            if self._at < len(self._held) or not self._more():
                return

    def take(self, character: str) -> bool:
        if self._held.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def value(self) -> tuple[str, object]:
        """The value that begins here, and how it is written. Raises ValueError if there is none."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._held, self._at)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            except ValueError:
                # Whether it is wrong or only not whole yet is seen at the end of the window.
                if len(self._held) - self._at > MAX_CHARACTERS:
                    raise ValueError(f"or its element {TOO_LONG}") from None
                if not self._more():
                    raise
                continue
            if end < len(self._held) or not self._more():  # a number could go on behind the window
                source = self._held[self._at : end]
                self._pass(end)
                return source, value

    def _pass(self, end: int) -> None:
        self.line += self._held.count("\n", self._at, end)
        self._at = end

    def _more(self) -> bool:
        """Read on, at least as much again as is held, so that long values are not scanned over and over."""
        held = self._held[self._at :]
        block = "" if self._ended else self._text.read(max(_BLOCK, len(held)))
        self._held, self._at = held + block, 0
        self._ended = not block
        return bool(block)
