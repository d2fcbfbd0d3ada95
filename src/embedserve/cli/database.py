"""What commands on the accounts' database share: where it is, how it is opened, how rows are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError

from embedserve import configuration
from embedserve.errors import EmbedserveError
from embedserve.settings import Settings
from embedserve.storage.database import Database

DataDir = Annotated[Path | None, typer.Option(help="Where keys, usage and jobs are kept.")]
DatabaseUrl = Annotated[
    str | None, typer.Option(help="postgresql://…; better given as EMBEDSERVE_DATABASE_URL.")
]


def read_settings(data_dir: Path | None, database_url: str | None) -> Settings:
    given: dict[str, Any] = {"data_dir": data_dir, "database_url": database_url}
    return configuration.read_settings(**given)


@contextmanager
def open_database(
    data_dir: Path | None, database_url: str | None, *, must_exist: bool = False
) -> Iterator[Database]:
    """The database that the options and settings name.

    Args:
        must_exist: make none where there is none; for commands that only read or change.

    Raises:
        EmbedserveError: it cannot be used, or is not there.
    """
    settings = read_settings(data_dir, database_url)
    url = settings.database_url.get_secret_value() if settings.database_url else None
    database = Database.open(
        settings.data_dir,
        url,
        timeout=settings.database_timeout,
        sync=settings.database_sync,
        must_exist=must_exist,
    )
    try:
        yield database
    except SQLAlchemyError as error:
        raise EmbedserveError(
            f"The database {database.shown_url} did not do it ({type(error).__name__}): is another process "
            "holding it for long, or its disk full? Nothing was changed.",
            status=503,
        ) from error
    finally:
        database.close()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; what a terminal would obey is shown escaped."""
    shown = [[cell if cell.isprintable() else ascii(cell) for cell in row] for row in rows]
    widths = [max(len(header[i]), *(len(row[i]) for row in shown), 0) for i in range(len(header))]
    for cells in (header, *shown):
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
