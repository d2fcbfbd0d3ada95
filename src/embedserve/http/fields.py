"""Checks of single fields that both dialects share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from embedserve.errors import EmbedserveError, invalid_input, not_text

BEIJING = timezone(timedelta(hours=8))
"""The original's clock."""
_STAMP = re.compile(r"[0-9]{14}")


def check_rows(given: Any, *, lenient: bool) -> Sequence[str | Sequence[int]]:
    """The rows of ``input`` as a list: one string is one row; lenient mode also takes arrays of token ids.

    Raises:
        EmbedserveError: 400 in the original's words for anything else.
    """
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise not_text()
    kinds = set(map(type, given))  # of lists that may be long: a loop would take its time
    if not kinds <= ({str, list} if lenient else {str}):
        raise not_text()
    if list in kinds and not all(is_ids(row) for row in given if type(row) is list):
        raise not_text()
    return given


def is_ids(row: Any) -> bool:
    """Whether a value is an array of token ids, not empty."""
    return isinstance(row, list) and set(map(type, row)) == {int}


def show(value: Any) -> str:
    """A value for an error message: short, whatever a caller sent."""
    if isinstance(value, (dict, list)):
        return "an array" if isinstance(value, list) else "an object"
    return repr(value[:40] if isinstance(value, str) else value)[:44]


def choice(fields: Mapping[str, Any], name: str, allowed: Sequence[str], default: Any) -> Any:
    """A field with a few legal values; null counts as absent. Raises EmbedserveError (400)."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or value not in allowed:
        raise invalid_input(
            f"Value error, {name} is {show(value)}, it should be one of {', '.join(allowed)}.: {name}"
        )
    return value


def integer(fields: Mapping[str, Any], name: str) -> int | None:
    """A whole number or nothing; 1024.0 counts as 1024. Raises EmbedserveError (400)."""
    value = fields.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise invalid_input(f"Value error, {name} is {show(value)}, it should be an integer.: {name}")


def stamp(given: str | None, name: str) -> float | None:
    """``yyyyMMddHHmmss`` in Beijing time, or Unix seconds."""
    if not given:
        return None
    if _STAMP.fullmatch(given):
        try:
            return datetime.strptime(given, "%Y%m%d%H%M%S").replace(tzinfo=BEIJING).timestamp()
        except ValueError:
            pass
    elif given.isascii() and given.isdigit() and len(given) <= 11:
        return float(given)
    raise EmbedserveError(
        f"'{name}' is {given[:20]!r}, it should be yyyyMMddHHmmss",
        openai_code="",
        openai_type="invalid_request_error",
        param=name,
    )
