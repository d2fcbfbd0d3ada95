"""What a failed statement means for whoever waits: later, never, or a mistake of ours."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from embedserve.errors import EmbedserveError

_NOT_NOW = ("25006", "53100", "53200", "53300", "57P01", "57P02", "57P03")
"""SQLSTATEs outside OperationalError's: a server that is read-only for now, full, or going down."""


class DatabaseSilentError(SQLAlchemyError):
    """The time was over before the work was; nothing of it is committed."""


class UnstorableError(EmbedserveError):
    """A value that no database here can hold."""


def unanswered(retry_after: float = 1) -> EmbedserveError:
    return EmbedserveError(
        "The database did not answer in time, please try again later.",
        status=503,
        code="ModelServingError",
        retry_after=retry_after,
    )


def translate(error: SQLAlchemyError) -> EmbedserveError | None:
    """The refusal that an error of the database means; None for what must not happen."""
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeout, DatabaseSilentError)):
        return unanswered()
    if isinstance(error, DBAPIError):
        if error.connection_invalidated or name_cause(error) in _NOT_NOW:
            return unanswered()
        if type(error.orig).__name__ == "DatabaseError":  # sqlite3's word for a damaged file
            return unanswered(60)
        if isinstance(error, DataError):
            return UnstorableError("A value of this request is out of range.")
    return None


def name_cause(error: BaseException) -> str:
    """What a driver says went wrong, without its message: that may quote values. Empty if it does not."""
    cause = getattr(error, "orig", None) or error
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or "")
