"""``embedserve backup``: a copy of the accounts while servers run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedserve.cli.database import DatabaseUrl, DataDir, open_database
from embedserve.errors import EmbedserveError
from embedserve.storage.backup import back_up


def backup(
    file: Annotated[Path, typer.Argument(help="Where the copy goes: a file that does not exist yet.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Copy keys, usage and jobs to a file, as they are at one moment; servers go on meanwhile."""
    with open_database(data_dir, database_url, must_exist=True) as database:
        source = database.path
        if source is None:
            raise EmbedserveError(
                f"The accounts are in PostgreSQL, which has a tool of its own: pg_dump --format=custom "
                f"--file={file} {database.shown_url.replace('+psycopg', '')}"
            )
        size = back_up(source, file)
    print(f"{file}: {size} bytes. docs/accounts.md says how to restore it.", file=sys.stderr)
