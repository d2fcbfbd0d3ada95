"""A backup under load is the accounts at one moment, and a server starts on it."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from embedserve.errors import EmbedserveError
from embedserve.storage.backup import back_up
from embedserve.storage.database import FILE_NAME, Database
from embedserve.storage.tables import stamps, usage_daily, usage_requests
from forked import ForkedServer
from real_servers import find_program


def backup(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedserve", "backup", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def ledger(database: Database) -> tuple[set[str], tuple[int, int]]:
    """Ids of requests, and (requests, tokens) by day."""
    with database.read() as connection:
        ids = set(connection.execute(sa.select(usage_requests.c.request_id)).scalars())
        days = sa.select(sa.func.sum(usage_daily.c.requests), sa.func.sum(usage_daily.c.tokens))
        requests, tokens = connection.execute(days).one()
    return ids, (int(requests or 0), int(tokens or 0))


def test_a_backup_under_load_is_the_ledger_at_one_moment(tmp_path: Path) -> None:
    running, restored = tmp_path / "running", tmp_path / "restored"
    copy = tmp_path / "copy.db"
    answered: list[tuple[str, float, float]] = []  # id, asked at, answered at
    with ForkedServer(data_dir=running) as server:
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                asked = time.monotonic()
                reply = server.embed()
                assert reply.status_code == 200
                answered.append((reply.headers["x-request-id"], asked, time.monotonic()))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 50:
            time.sleep(0.01)
        began = time.monotonic()
        done = backup(str(copy), "--data-dir", str(running))
        ended = time.monotonic()
        count = len(answered)
        while len(answered) < count + 20:  # the others went on
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [copy.name]  # no log, no draft
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600

    restored.mkdir()
    shutil.copy(copy, restored / FILE_NAME)
    database = Database.open(restored)
    ids, days = ledger(database)
    database.close()
    assert {i for i, _, at in answered if at < began} <= ids
    assert ids.isdisjoint({i for i, asked, _ in answered if asked > ended})
    assert days[0] == len(ids)
    with ForkedServer(data_dir=restored) as server:
        assert server.embed().status_code == 200
    database = Database.open(restored)
    after, sums = ledger(database)
    assert (len(after), sums[0]) == (len(ids) + 1, len(ids) + 1)
    database.close()


@pytest.mark.quick
def test_a_backup_overwrites_nothing_and_says_what_is_wrong(tmp_path: Path) -> None:
    Database.open(tmp_path).close()
    taken = tmp_path / "taken"
    taken.write_text("something else")
    for target, words in (
        (taken, "exists already"),
        (tmp_path / FILE_NAME, "exists already"),
        (tmp_path / "nowhere" / "copy.db", "No such file"),
    ):
        with pytest.raises(EmbedserveError, match=words):
            back_up(tmp_path / FILE_NAME, target)
    assert taken.read_text() == "something else"
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes((tmp_path / FILE_NAME).read_bytes()[:30_000] + b"\xff" * 60_000)
    with pytest.raises(EmbedserveError, match="cannot be made"):
        back_up(damaged, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    nothing = backup(str(tmp_path / "copy.db"), "--data-dir", str(tmp_path / "nope"))
    assert nothing.returncode == 2
    assert "There is no database at" in nothing.stderr
    assert not (tmp_path / "nope").exists()


def test_a_backup_of_postgresql_is_made_by_its_own_tool(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the refusal says it, and a server starts on what pg_restore brings back."""
    with ForkedServer(data_dir=tmp_path, database_url=postgres_url) as server:
        ids = {server.embed().headers["x-request-id"] for _ in range(5)}
        told = backup(str(tmp_path / "copy"), "--database-url", postgres_url)
        assert told.returncode == 2
        words = told.stderr.strip().partition("pg_dump ")[2].split()
        program = find_program("pg_dump")
        if not program:
            pytest.skip("needs pg_dump")
        subprocess.run([program, *words], check=True, timeout=60)
        ids.add(server.embed().headers["x-request-id"])
    import psycopg

    base, _, name = postgres_url.rpartition("/")
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}_restored")
    fresh = f"{base}/{name}_restored"
    restore = find_program("pg_restore")
    assert restore
    subprocess.run([restore, f"--dbname={fresh}", str(tmp_path / "copy")], check=True, timeout=60)
    with ForkedServer(data_dir=tmp_path, database_url=fresh) as server:
        new = server.embed().headers["x-request-id"]
    database = Database.open(tmp_path, fresh)
    found, days = ledger(database)
    database.close()
    assert new in found
    assert len(found) == len(found & ids) + 1 == days[0]


def test_the_database_alone_holds_everything_when_nobody_writes(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    with database.write() as connection:
        connection.execute(sa.insert(stamps).values(name="news", value=1))

    def alone() -> bool:
        copy = tmp_path / "alone.db"
        shutil.copy(tmp_path / FILE_NAME, copy)
        connection = sqlite3.connect(copy)
        try:
            return bool(connection.execute("SELECT value FROM stamps WHERE name = 'news'").fetchone())
        except sqlite3.OperationalError:
            return False  # not even the table
        finally:
            connection.close()

    assert not alone()
    database.start()
    until = time.monotonic() + 60
    while not alone():
        assert time.monotonic() < until
        time.sleep(0.1)
    database.close()
