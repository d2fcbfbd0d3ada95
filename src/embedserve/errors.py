"""One error family for every door.

An :class:`EmbedserveError` says what went wrong once: the HTTP status, the code in the words of each wire
dialect, and a message. Each dialect renders it in exactly one place (``http/*/rendering.py``); the library
and the command line show the message. The texts that clients match on are quoted from the protocol
notes (docs/compatibility.md lists them with the test that holds each).
"""

from __future__ import annotations

from copy import copy
from typing import TypeVar

_Error = TypeVar("_Error", bound="EmbedserveError")


class EmbedserveError(Exception):
    """A request that cannot be answered.

    Args:
        message: what the caller reads; names the value, the limit and the remedy where the wire leaves room.
        status: HTTP status.
        code: DashScope-native code, e.g. ``InvalidParameter``.
        openai_code: code in OpenAI mode; the native one when omitted, null on the wire when empty.
        openai_type: type in OpenAI mode; the OpenAI code when omitted.
        openai_message, openai_status: in OpenAI mode, where they differ from the native ones.
        param: in OpenAI mode, the parameter at fault.
        engine: True for errors that the original's engine raises (bad input): they carry ``id`` as well as
            ``request_id`` in OpenAI mode.
        retry_after: seconds after which a repeat makes sense; sent as ``Retry-After``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "InvalidParameter",
        openai_code: str | None = None,
        openai_type: str | None = None,
        openai_message: str | None = None,
        openai_status: int | None = None,
        param: str | None = None,
        engine: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.openai_code = code if openai_code is None else openai_code
        self.openai_type = openai_type or self.openai_code
        self.openai_message = openai_message or message
        self.openai_status = openai_status or status
        self.param = param
        self.engine = engine
        self.retry_after = retry_after


class RowError(EmbedserveError):
    """One text of several that cannot be embedded.

    Attributes:
        row: its number from 0 in what was given.
        tokens, limit: how many it has and how many it may have; None where it is no text at all.
    """

    def __init__(
        self,
        message: str,
        *,
        row: int = 0,
        tokens: int | None = None,
        limit: int | None = None,
        engine: bool = False,
    ) -> None:
        super().__init__(message, engine=engine)
        self.row = row
        self.tokens = tokens
        self.limit = limit


class NotTextError(RowError, TypeError):
    """A row that is no string, for programs that call the library; over HTTP see :func:`not_text`."""


ENGINE_PREFIX = "<400> InternalError.Algo.InvalidParameter: "
"""What the original's gateway has put before engine messages since 2025-08, in both dialects."""


WRONG_URL = (
    "url error, please check url！ For details, see: "
    "https://help.aliyun.com/zh/model-studio/error-code#error-url"
)
"""A model of another kind than the endpoint's; the exclamation mark is full-width in the original."""


def invalid_input(message: str) -> EmbedserveError:
    """A value that the engine refuses (400 InvalidParameter, prefixed as the original does)."""
    return EmbedserveError(ENGINE_PREFIX + message, engine=True)


def too_many_rows(limit: int) -> EmbedserveError:
    return invalid_input(
        f"Value error, batch size is invalid, it should not be larger than {limit}.: input.contents"
    )


def not_text() -> EmbedserveError:
    return invalid_input("Value error, contents is neither str nor list of str.: input.contents")


def missing_field() -> EmbedserveError:
    """A field without which there is nothing to do."""
    return EmbedserveError(
        "Required parameter(s) missing or invalid, please check the request parameters.",
        openai_type="invalid_request_error",
    )


def bad_length(limit: int, row: int, tokens: int) -> RowError:
    """A row that is empty or longer than the model's limit; the original rejects, it does not truncate."""
    message = f"{ENGINE_PREFIX}Range of input length should be [1, {limit}]"
    return RowError(message, row=row, tokens=tokens, limit=limit, engine=True)


def in_plain_words(error: _Error, first: int = 0) -> _Error:
    """The error for who reads it as a person: without the wire's prefix, a row with its number and a remedy.

    Args:
        first: number of the first row that was given.
    """
    told = copy(error)
    told.message = error.message.removeprefix(ENGINE_PREFIX)
    if isinstance(told, RowError) and told.tokens is not None:
        told.row += first
        if told.tokens:
            what = f"has {told.tokens} tokens: shorten it, cut it into several, or pass truncate"
        else:
            what = "is blank: nothing of it is left to embed"
        told.message = f"row {told.row} {what} ({told.message})"
    told.args = (told.message,)
    return told


def internal() -> EmbedserveError:
    """A bug, as the caller sees it ("occured": the original's spelling, which clients may match on)."""
    return EmbedserveError(
        "An internal error has occured, please try again later or contact service support.",
        status=500,
        code="InternalError",
        openai_code="internal_error",
    )


class ModelLoadError(EmbedserveError):
    """Weights that are missing, damaged or not what the recipe says."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=503, code="ModelUnavailable", openai_code="model_unavailable")
