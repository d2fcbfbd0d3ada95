"""Refusals around files and jobs."""

from __future__ import annotations

import errno

from embedserve.accounts.errors import ends_the_work
from embedserve.errors import EmbedserveError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def refused(message: str, *, param: str | None = None, status: int = 400, code: str = "") -> EmbedserveError:
    """400 invalid_request_error as OpenAI's API words it; without a code where the original sends null."""
    return EmbedserveError(
        message, status=status, openai_code=code, openai_type="invalid_request_error", param=param
    )


def no_such(kind: str, id: str) -> EmbedserveError:
    """404; somebody else's looks the same as one that never was."""
    return EmbedserveError(
        f"No such {kind}: {id[:80]}",
        status=404,
        code="NotFound",
        openai_code="not_found",
        openai_type="invalid_request_error",
        param="id",
    )


class StorageFullError(EmbedserveError):
    """No room for more files: the quota is used up, or the disk is full."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            status=507,
            code="InternalError.StorageFull",
            openai_code="storage_full",
            openai_type="server_error",
        )


class GivenUpError(Exception):
    """The work is no longer wanted here: its job has ended, another worker has it, or this one is to stop."""


class PostponedError(Exception):
    """The engine has no room for this work now.

    Attributes:
        pause: seconds after which it may have.
    """

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause


def outlives_the_line(error: EmbedserveError) -> bool:
    """Whether an error is no answer to the line that met it: there is no room now (to be tried again), or
    the key or its money has ended (so that no other line can be run either)."""
    return error.status in (429, 503) or ends_the_work(error)


def is_full(error: OSError) -> bool:
    """Whether the operating system says that there is no room."""
    return error.errno in _FULL
