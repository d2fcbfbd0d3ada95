"""The one gate before the database: no value reaches a driver that one of the databases cannot hold.

PostgreSQL has no NUL in texts, neither has halves of surrogate pairs, and whole numbers have 64 bits. A
caller can send any of them in an id, a filter, a name. Looking for such a value finds nothing; keeping it
is refused; and it is the same on both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from embedserve.storage.failures import UnstorableError

_NUMBERS = range(-(2**63), 2**63)


def is_storable(value: object) -> bool:
    if isinstance(value, str):
        if "\0" in value:
            return False
        if value.isascii():
            return True
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    return value in _NUMBERS if isinstance(value, int) else True


def guard_values(engine: Engine) -> None:
    """From now on an unfit value is an UnstorableError: 404 where it was looked for, 400 where written."""

    @sa.event.listens_for(engine, "before_cursor_execute")
    def check(
        connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        for values in parameters if isinstance(parameters, list) else (parameters,):
            if not all(map(is_storable, _values(values))):
                writes = context is not None and (context.isinsert or context.isupdate)
                raise _refuse_writing() if writes else _refuse_finding()


def _values(parameters: Any) -> Iterable[object]:
    return parameters.values() if isinstance(parameters, Mapping) else parameters or ()


def _refuse_writing() -> UnstorableError:
    return UnstorableError(
        "A text of this request holds U+0000 or half a surrogate pair, or a number has more than 64 bits: "
        "that cannot be stored, leave it out.",
        openai_type="invalid_request_error",
    )


def _refuse_finding() -> UnstorableError:
    return UnstorableError(
        "Not found! No name here holds U+0000, half a surrogate pair or a number of more than 64 bits.",
        status=404,
        code="NotFound",
        openai_code="not_found",
        openai_type="invalid_request_error",
    )
