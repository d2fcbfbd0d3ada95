from __future__ import annotations

import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from embedserve.errors import EmbedserveError
from embedserve.storage.database import FILE_NAME, Database
from embedserve.storage.migrate import SCHEMA, alembic_config, read_stamp, run_migrations
from embedserve.storage.tables import metadata, stamps

quick = pytest.mark.quick


@quick
def test_a_new_folder_gets_a_database_for_its_owner_alone(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "data")
    path = tmp_path / "data" / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with database.read() as connection:
        assert read_stamp(connection) == SCHEMA
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
    database.close()


def describe_schema(connection: sa.Connection) -> object:
    """All that the database itself says of its tables, comparable."""
    looked = sa.inspect(connection)
    described = {}
    for table in looked.get_table_names():
        columns = [{**column, "type": str(column["type"])} for column in looked.get_columns(table)]
        described[table] = repr(
            [
                columns,
                looked.get_pk_constraint(table),
                looked.get_foreign_keys(table),
                sorted(looked.get_indexes(table), key=str),
                sorted(looked.get_unique_constraints(table), key=str),
                looked.get_table_comment(table) if connection.dialect.supports_comments else None,
            ]
        )
    return described


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(tmp_path: Path, database_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    database = Database.open(tmp_path, database_url)  # empty: made from the tables
    with database.write() as connection:
        created = describe_schema(connection)
        metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")
        run_migrations(connection)
        assert describe_schema(connection) == created
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert read_stamp(connection) == SCHEMA
    database.close()
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [SCHEMA]


@quick
def test_opening_a_new_or_current_database_does_not_import_alembic(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from embedserve.storage.database import Database;"
        "Database.open(Path(sys.argv[1])).close(); assert 'alembic' not in sys.modules"
    )
    for _ in ("new", "current"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


@quick
def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(EmbedserveError, match="schema 9999"):
        Database.open(tmp_path)


@quick
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:hidden@h/d", "use sqlite"),
        ("hidden", "no URL"),
        ("sqlite:////nowhere/at/all.db", "cannot be used"),
    ],
)
def test_an_unusable_url_is_refused_without_repeating_its_password(
    tmp_path: Path, url: str, message: str
) -> None:
    with pytest.raises(EmbedserveError, match=message) as caught:
        Database.open(tmp_path, url)
    assert "hidden" not in str(caught.value)


def test_a_server_that_is_not_there_is_an_error_in_bounded_time(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    from real_servers import free_port

    started = time.monotonic()
    with pytest.raises(EmbedserveError, match="cannot be used"):
        Database.open(tmp_path, f"postgresql://u:hidden@127.0.0.1:{free_port()}/d", timeout=1)
    assert time.monotonic() - started < 10


def test_concurrent_writers_wait_for_each_other(tmp_path: Path, database_url: str) -> None:
    """Read-modify-write from two pools at once loses nothing where it locks the row first."""
    first, second = Database.open(tmp_path, database_url), Database.open(tmp_path, database_url)
    with first.write() as connection:
        connection.execute(sa.insert(stamps).values(name="n", value=0))

    def count(database: Database) -> None:
        for _ in range(50):
            with database.write() as connection:
                query = sa.select(stamps.c.value).where(stamps.c.name == "n").with_for_update()
                value = connection.execute(query).scalar()
                assert value is not None
                connection.execute(sa.update(stamps).values(value=value + 1))

    threads = [threading.Thread(target=count, args=(database,)) for database in (first, second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with second.read() as connection:
        assert connection.execute(sa.select(stamps.c.value)).scalar() == 150
    first.close()
    second.close()


def test_several_processes_may_open_an_empty_database_at_once(tmp_path: Path, database_url: str) -> None:
    program = (
        "import sys; from pathlib import Path; from embedserve.storage.database import Database;"
        "Database.open(Path(sys.argv[1]), sys.argv[2], timeout=20).close()"
    )
    command = [sys.executable, "-c", program, str(tmp_path), database_url]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]


@quick
def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(sa.insert(stamps), [{"name": "n", "value": 0}, {"name": "n", "value": 0}])
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(stamps)).scalar() == 0
    database.close()


def test_the_log_is_folded_back_by_a_thread_and_not_by_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedserve.storage.checkpoint.LOG_BYTES", 2**20)
    monkeypatch.setattr("embedserve.storage.checkpoint._LOOK_SECONDS", 0.05)
    database = Database.open(tmp_path)
    path, log = tmp_path / FILE_NAME, tmp_path / f"{FILE_NAME}-wal"

    def write(count: int) -> None:
        for _ in range(count):
            with database.write() as connection:
                name = f"{time.monotonic_ns()}-{'x' * 4000}"
                statement = database.upsert(stamps).values(name=name, value=1)
                connection.execute(statement.on_conflict_do_nothing())

    before = path.stat().st_size
    write(1100)  # far beyond what SQLite would have left in the log
    assert path.stat().st_size == before
    assert log.stat().st_size > 4 * 2**20
    database.start()
    until = time.monotonic() + 30
    while log.stat().st_size > 2**20:
        write(1)  # the next commit after it starts the log over
        assert time.monotonic() < until
        time.sleep(0.05)
    assert path.stat().st_size > 4 * 2**20
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(stamps)).scalar_one() >= 1100
    database.close()
