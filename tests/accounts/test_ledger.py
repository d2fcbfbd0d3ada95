from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedserve.accounts.charges import Charge, reverse_charges, write_charges
from embedserve.accounts.ledger import Ledger
from embedserve.errors import EmbedserveError
from embedserve.storage.database import Database
from embedserve.storage.tables import free_quota, usage_daily, usage_requests

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def database(tmp_path: Path, database_url: str) -> Database:
    return Database.open(tmp_path, database_url)


def charge(request_id: str | None = None, tokens: int = 10, **more: object) -> Charge:
    values = {"key_id": "key_a", "workspace": "default", "model": "text-embedding-v4", "at": NOON, **more}
    return Charge(request_id or str(uuid.uuid4()), tokens=tokens, **values)  # type: ignore[arg-type]


def sums(database: Database) -> tuple[int, int, int]:
    """(request rows, requests by day, tokens by day)"""
    with database.read() as connection:
        rows = connection.execute(sa.select(sa.func.count()).select_from(usage_requests)).scalar_one()
        by_day = connection.execute(
            sa.select(sa.func.sum(usage_daily.c.requests), sa.func.sum(usage_daily.c.tokens))
        ).one()
    return rows, int(by_day[0] or 0), int(by_day[1] or 0)


def test_a_charge_counts_once_however_often_it_is_written(database: Database) -> None:
    for _ in range(3):
        with database.write() as connection:
            write_charges(connection, [charge("r1"), charge("r1"), charge("r2", 5)])
    assert sums(database) == (2, 2, 15)


def test_a_reversed_charge_leaves_no_trace(database: Database) -> None:
    with database.write() as connection:
        write_charges(connection, [charge("r1"), charge("r2", 5)])
        reverse_charges(connection, ["r1", "never written"])
        reverse_charges(connection, ["r1"])
    assert sums(database) == (1, 1, 5)


def test_days_are_utc_and_a_clock_that_jumps_only_moves_the_day(database: Database) -> None:
    with database.write() as connection:
        write_charges(connection, [charge(at=NOON), charge(at=NOON + 86400), charge(at=NOON - 10 * 86400)])
        days = connection.execute(sa.select(usage_daily.c.day).order_by(usage_daily.c.day)).scalars().all()
    assert [str(day) for day in days] == ["2029-12-22", "2030-01-01", "2030-01-02"]
    assert sums(database) == (3, 3, 30)


def test_concurrent_requests_share_commits_and_every_one_is_durable_when_told(database: Database) -> None:
    groups: list[int] = []
    ledger = Ledger(database, on_commit=lambda booking: groups.append(len(booking.charges)))

    async def scenario() -> None:
        ledger.start()
        charges = [charge(tokens=n) for n in range(300)]

        async def record(one: Charge) -> None:
            await ledger.record(one)

        await asyncio.gather(*map(record, charges))
        assert sums(database) == (300, 300, sum(range(300)))

    asyncio.run(scenario())
    ledger.close()
    assert groups == [300]  # they came in one turn of the event loop
    with database.read() as connection:
        assert connection.execute(sa.select(free_quota.c.model)).scalars().all() == ["text-embedding-v4"]


def test_what_is_queued_is_written_before_the_end(database: Database) -> None:
    async def scenario() -> None:
        ledger = Ledger(database)
        waiting = [asyncio.create_task(ledger.record(charge())) for _ in range(50)]
        await asyncio.sleep(0)
        ledger.start()
        await asyncio.to_thread(ledger.close)
        await asyncio.gather(*waiting)

    asyncio.run(scenario())
    assert sums(database)[0] == 50


@pytest.mark.quick
def test_a_locked_database_is_refused_in_bounded_time_and_bills_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path, timeout=0.2)
    other = Database.open(tmp_path)

    async def scenario() -> None:
        ledger = Ledger(database, timeout=0.5)
        ledger.start()
        with other.write():  # another process holds the lock
            started = time.monotonic()
            with pytest.raises(EmbedserveError) as caught:
                await ledger.record(charge("refused"))
            assert time.monotonic() - started < 5
        assert caught.value.status == 503
        assert caught.value.retry_after
        await ledger.record(charge("answered", 7))  # and it goes on as if nothing had been
        await asyncio.to_thread(ledger.close)

    asyncio.run(scenario())
    assert sums(database) == (1, 1, 7)


class FlakyDatabase:
    """Commits, or not, and then says that the connection was lost: nobody can know which."""

    def __init__(self, database: Database, outcomes: Sequence[str]) -> None:
        self.database, self.outcomes, self.timeout = database, list(outcomes), database.timeout

    def write(self) -> object:
        return (self.outcomes and _Flaky(self.database, self.outcomes.pop(0))) or self.database.write()


class _Flaky:
    def __init__(self, database: Database, outcome: str) -> None:
        self.block, self.outcome = database.write(), outcome

    def __enter__(self) -> sa.Connection:
        return self.block.__enter__()

    def __exit__(self, *error: object) -> None:
        lost = sa.exc.OperationalError("COMMIT", {}, Exception("server closed the connection"))
        if self.outcome == "committed":
            self.block.__exit__(None, None, None)
        else:
            self.block.__exit__(type(lost), lost, None)
        raise lost


@pytest.mark.quick
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(["committed", "lost"]), max_size=4), st.integers(1, 5))
def test_a_commit_of_unknown_fate_is_tried_again_and_counts_once(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[str], requests: int
) -> None:
    database = Database.open(tmp_path_factory.mktemp("ledger"))

    async def scenario() -> None:
        ledger = Ledger(FlakyDatabase(database, outcomes))  # type: ignore[arg-type]
        ledger.start()
        await asyncio.gather(*(ledger.record(charge()) for _ in range(requests)))
        await asyncio.to_thread(ledger.close)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedserve.accounts.ledger.FIRST_PAUSE", 0.002)  # it doubles with every failure
        asyncio.run(scenario())
    assert sums(database) == (requests, requests, 10 * requests)
    database.close()


@pytest.mark.quick
@pytest.mark.parametrize("outcome", ["committed", "lost"])
def test_a_caller_who_gave_up_is_not_billed_whatever_became_of_the_commit(
    tmp_path: Path, outcome: str
) -> None:
    database = Database.open(tmp_path)

    async def scenario() -> None:
        ledger = Ledger(FlakyDatabase(database, [outcome] * 8), timeout=0.3)  # type: ignore[arg-type]
        ledger.start()
        with pytest.raises(EmbedserveError):
            await ledger.record(charge("given up"))
        while True:  # the others go on
            try:
                await ledger.record(charge("answered", 7))
                break
            except EmbedserveError:
                continue
        await asyncio.to_thread(ledger.close)

    asyncio.run(scenario())
    assert sums(database) == (1, 1, 7)
    database.close()


@pytest.mark.quick
def test_a_cancelled_request_is_not_billed(tmp_path: Path) -> None:
    database = Database.open(tmp_path)

    async def scenario() -> None:
        ledger = Ledger(database)
        task = asyncio.create_task(ledger.record(charge()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ledger.start()
        await ledger.record(charge("r2", 3))
        await asyncio.to_thread(ledger.close)

    asyncio.run(scenario())
    assert sums(database) == (1, 1, 3)


@pytest.mark.quick
def test_old_request_rows_go_and_the_sums_stay(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    with database.write() as connection:
        write_charges(connection, [charge(at=time.time() - 8 * 86400), charge(at=time.time() - 6 * 86400)])

    async def scenario() -> None:
        ledger = Ledger(database, keep_days=7)
        ledger.start()
        await ledger.record(charge(at=time.time()))
        await asyncio.to_thread(ledger.close)

    asyncio.run(scenario())
    assert sums(database) == (2, 3, 30)
