"""The log: text or JSON, one record a line, and in no record a text or a key of a caller.

Messages of exceptions quote what they stumbled over, so a traceback here is frames and types without them.
Other libraries speak from level warning on: what they say at debug is not ours to vouch for.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal

LogFormat = Literal["text", "json"]

_OURS = "embedserve"
_TERSE = ("asyncio", "py.warnings")
"""Loggers that append what they found, ``repr`` of a caller's data included, below their first line."""


def configure_logs(level: str, form: LogFormat) -> None:
    """Everything that this process says from now on, threads and warnings included, goes this way."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log = logging.getLogger(_OURS)
    log.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(max(log.level, logging.INFO))
    logging.captureWarnings(True)

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("stopped by an error", exc_info=(kind, error, trace))

    def tell_thread(given: threading.ExceptHookArgs) -> None:
        if given.exc_value is not None:
            log.error("a thread stopped", exc_info=(given.exc_type, given.exc_value, given.exc_traceback))

    def tell_unraisable(given: Any) -> None:
        if given.exc_value is not None:
            log.error(
                "an error nobody waits for", exc_info=(given.exc_type, given.exc_value, given.exc_traceback)
            )

    sys.excepthook = tell
    threading.excepthook = tell_thread
    sys.unraisablehook = tell_unraisable


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO embedserve.access: GET /health 200 ms=0.3 id=…``"""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_moment(record)} {record.levelname} {record.name}: {_message(record)}"
        for name, value in _access(record):
            if name not in ("method", "route", "status"):  # in the message already
                line += f" {name}={value}"
        if error := _error(record):
            line += "\n" + "".join(describe(error)).rstrip()
        return line


class JSONFormatter(logging.Formatter):
    """The same as an object a line; a traceback is the text ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        told |= dict(_access(record))
        if error := _error(record):
            told["traceback"] = "".join(describe(error)).rstrip()
        return json.dumps(told)


def describe(error: BaseException) -> Iterator[str]:
    """Frames and types of an error and of those behind it, the first one first; no message."""
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if behind is not None:
        yield from describe(behind)
        yield "then\n"
    if error.__traceback__ is not None:
        yield from traceback.format_tb(error.__traceback__)
    code = next((c for name in ("sqlstate", "errno") if (c := getattr(error, name, None)) is not None), "")
    yield f"{type(error).__module__}.{type(error).__qualname__} {code}".rstrip() + "\n"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from describe(inner)


def _moment(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.name.startswith(_TERSE):
        return message.partition("\n")[0]
    return message.replace("\r", "").rstrip().replace("\n", " / ")


def _access(record: logging.LogRecord) -> list[tuple[str, Any]]:
    return list(getattr(record, "access", {}).items())


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None
