"""Brings a database to the schema of this release.

An empty database gets the tables as :mod:`.tables` has them; an older one goes through the migrations, and
only then is Alembic imported: a first start would spend more time on it than on the model. A test holds that
both ways lead to the same schema.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from embedserve.errors import EmbedserveError
from embedserve.storage.tables import metadata

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger("embedserve.storage")

SCHEMA = "0004"
"""The newest revision in ``migrations/versions``; a test holds that it is."""

_LOCK = 0x656D6265647365  # "embedse": the advisory lock that keeps two starting servers apart


def alembic_config() -> Config:
    """Alembic's view of the migrations inside this package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def read_stamp(connection: Connection) -> str | None:
    """The revision a database is at, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(connection: Connection) -> bool:
    """Migrate inside the caller's write transaction; true when there was something to do.

    Raises:
        EmbedserveError: the database was written by a newer release.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    stamp = read_stamp(connection)
    if stamp == SCHEMA:
        return False
    if stamp is not None and stamp > SCHEMA:
        raise EmbedserveError(
            f"The database is at schema {stamp}, this release knows up to {SCHEMA}: start it with "
            "the release that wrote it, or give another --data-dir or --database-url.",
            status=500,
            code="InternalError",
        )
    log.info("the database goes from schema %s to %s", stamp or "(empty)", SCHEMA)
    if inspect(connection).get_table_names():
        run_migrations(connection)
    else:
        create_tables(connection)
    return True


def create_tables(connection: Connection) -> None:
    """The schema of this release in an empty database, stamped as Alembic would."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(
        text(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
            "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(text("INSERT INTO alembic_version VALUES (:schema)"), {"schema": SCHEMA})


def run_migrations(connection: Connection) -> None:
    """Every migration between the database's schema, or none, and this release's."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every plugin it loads
    from alembic import command

    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, SCHEMA)
