"""What each key has used: exact, whoever writes and whoever reads, and found without its history."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedserve.accounts.accounts import Accounts
from embedserve.accounts.charges import Charge, reverse_charges, write_charges, write_fresh_charges
from embedserve.accounts.plan import Plan
from embedserve.accounts.spending import Spending
from embedserve.accounts.totals import read_changes, read_totals
from embedserve.settings import Settings
from embedserve.storage.database import Database
from embedserve.storage.tables import key_totals, usage_daily

V4 = "text-embedding-v4"


def charge(request_id: str, tokens: int, key_id: str = "key_a", door: str = "sync") -> Charge:
    return Charge(request_id, key_id, "default", V4, tokens, door)  # type: ignore[arg-type]


@pytest.fixture
def database(tmp_path: Path, database_url: str) -> Iterator[Database]:
    database = Database.open(tmp_path, database_url)
    yield database
    database.close()


def by_day(database: Database) -> dict[tuple[str, str, str], int]:
    columns = usage_daily.c
    query = sa.select(columns.key_id, columns.model, columns.door, sa.func.sum(columns.tokens))
    with database.read() as connection:
        rows = connection.execute(query.group_by(columns.key_id, columns.model, columns.door))
        return {(key, model, door): int(tokens) for key, model, door, tokens in rows}


def totals(database: Database) -> dict[tuple[str, str, str], int]:
    with database.read() as connection:
        return {row[:3]: row.tokens for row in read_totals(connection)}


def test_totals_are_the_sums_of_the_days_whatever_is_written_again_or_taken_back(database: Database) -> None:
    with database.write() as connection:
        booking = write_charges(connection, [charge("1", 10), charge("2", 5), charge("3", 7, "key_b")])
        assert {(t.key_id, t.tokens, t.version) for t in booking.totals} == {
            ("key_a", 15, 1),
            ("key_b", 7, 1),
        }
        again = write_charges(connection, [charge("1", 10), charge("4", 1, door="batch")])
        assert [(t.door, t.tokens) for t in again.totals] == [("batch", 1)]
        fresh = write_fresh_charges(connection, [charge(f"f{i}", 1, f"key_{i}") for i in range(50)])
        assert len(fresh.totals) == 50
        [back] = reverse_charges(connection, ["2", "never written"])
        assert (back.tokens, back.version) == (10, 2)
        assert reverse_charges(connection, ["2"]) == []
    assert totals(database) == by_day(database)


def test_an_older_database_gets_its_totals_from_its_days(tmp_path: Path, database_url: str) -> None:
    from alembic import command

    from embedserve.storage.migrate import alembic_config

    database = Database.open(tmp_path, database_url)
    with database.write() as connection:
        write_charges(connection, [charge(str(i), i, f"key_{i % 3}") for i in range(20)])
    expected = by_day(database)
    with database.write() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
    database.close()
    database = Database.open(tmp_path, database_url)
    assert totals(database) == expected
    database.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(["ours", "theirs", "read", "install", "reverse"]), max_size=25))
def test_memory_never_goes_back_to_what_was_read_earlier(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[str]
) -> None:
    """Reads and commits of two nodes in any order: after a last look both know what the database knows."""
    database = Database.open(tmp_path_factory.mktemp("totals"))
    ours, theirs = Spending(Plan()), Spending(Plan())
    news = None
    mine = 0  # what this node has itself committed is never forgotten
    for number, step in enumerate(steps):
        if step in ("ours", "theirs"):
            with database.write() as connection:
                booking = write_charges(connection, [charge(str(number), 1000)])
            (ours if step == "ours" else theirs).add(booking)
            mine += step == "ours"
        elif step == "read":
            with database.read() as connection:
                news = ours.read(connection)
        elif step == "install" and news:
            ours.refresh(*news)
        elif step == "reverse" and mine:
            with database.write() as connection:
                ids = [str(n) for n in range(number) if steps[n] == "ours"]
                back = reverse_charges(connection, ids[-1:])
            from embedserve.accounts.charges import Booking

            ours.add(Booking((), back))
            mine -= bool(back)
        assert ours.spent("key_a") >= mine * 0.0005 - 1e-9
    for node in (ours, theirs):
        with database.read() as connection:
            node.refresh(*node.read(connection))
        tokens = sum(totals(database).values())
        assert node.spent("key_a") == pytest.approx(tokens / 1000 * 0.0005)
    database.close()


def test_a_look_misses_no_transaction_that_ends_later_than_younger_ones(database: Database) -> None:
    """PostgreSQL's transactions end in any order: the older one is found after the younger was seen."""
    if database.dialect == "sqlite":
        pytest.skip("SQLite's writers take turns")
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with database.write() as connection:
            write_charges(connection, [charge("slow", 5, "key_slow")])
            begun.set()
            go_on.wait(30)

    thread = threading.Thread(target=slow)
    thread.start()
    begun.wait(30)
    with database.write() as connection:
        write_charges(connection, [charge("quick", 7, "key_quick")])
    with database.read() as connection:
        first = read_changes(connection, None)
    assert {row.key_id for row in first.rows} == {"key_quick"}
    go_on.set()
    thread.join()
    with database.read() as connection:
        second = read_changes(connection, first.mark)
    assert "key_slow" in {row.key_id for row in second.rows}
    with database.read() as connection:
        third = read_changes(connection, second.mark)
    assert third.rows == []


@contextmanager
def counted(database: Database) -> Iterator[list[int]]:
    """Rows that each SELECT brought."""
    rows: list[int] = []

    real = sa.Connection.execute

    def spy(self: sa.Connection, *arguments: object, **named: object) -> object:
        result = real(self, *arguments, **named)  # type: ignore[arg-type]
        frozen = result.freeze()
        rows.append(len(frozen.data))
        return frozen()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sa.Connection, "execute", spy)
        yield rows


def test_a_look_costs_the_same_whatever_the_keys_and_their_history(tmp_path: Path, database_url: str) -> None:
    """200 keys with budgets, each with a year of days: what is read at a tick is what changed since."""
    accounts = Accounts.open(Settings(data_dir=tmp_path, database_url=database_url, api_key="sk-tests"))
    keys = [accounts.keys.create(budget=1e9)[0].id for _ in range(200)]
    days = [date(2025, 1, 1) + timedelta(n) for n in range(365)]
    with accounts.database.write() as connection:
        for key_id in keys:
            row = {"key_id": key_id, "workspace": "w", "model": V4, "door": "sync", "requests": 1}
            connection.execute(sa.insert(usage_daily), [row | {"day": day, "tokens": 10} for day in days])
        total = {"model": V4, "door": "sync", "tokens": 3650, "version": 1, "changed": 0}
        connection.execute(sa.insert(key_totals), [total | {"key_id": key_id} for key_id in keys])
    accounts.refresh()
    accounts.refresh()
    assert accounts.spending.spent(keys[7]) == pytest.approx(3.65 * 0.0005)
    with counted(accounts.database) as rows:
        accounts.refresh()
    assert len(rows) <= 3
    assert sum(rows) <= 3, rows  # a stamp, a mark, and no total
    with accounts.database.write() as connection:
        write_charges(connection, [charge("x", 1000, keys[7])])
    with counted(accounts.database) as rows:
        accounts.refresh()
    assert sum(rows) <= 4, rows  # and the one that changed
    assert accounts.spending.spent(keys[7]) == pytest.approx(4.65 * 0.0005)
    accounts.database.close()


def test_no_commit_waits_while_totals_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = Accounts.open(Settings(data_dir=tmp_path, api_key="sk-tests"))
    accounts.create_key(budget=1)
    free: list[bool] = []
    real = Spending.read

    def reading(self: Spending, connection: sa.Connection) -> object:
        free.append(self.step.acquire(blocking=False))
        self.step.release()
        return real(self, connection)

    monkeypatch.setattr(Spending, "read", reading)
    accounts.refresh()
    assert free == [True]
    accounts.database.close()
