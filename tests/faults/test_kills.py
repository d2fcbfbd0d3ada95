"""kill -9 at any moment: the ledger equals the replies that were received."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from embedserve.storage.database import Database
from embedserve.storage.tables import usage_daily, usage_requests
from forked import KEY, ForkedServer
from light_server import FAULT_POINTS

CLIENTS = 8
KILLS = {"sqlite": 40, "postgresql": 12}


class Crowd:
    """Clients that ask until the server is gone.

    Attributes:
        replies: request id -> tokens of every 200 that was received in whole.
        open: how many requests were on their way when the server died, over all rounds.
    """

    def __init__(self) -> None:
        self.replies: dict[str, int] = {}
        self.open = 0

    async def ask(self, server: ForkedServer, random_: random.Random) -> None:
        async with httpx.AsyncClient(timeout=30, headers={"Authorization": f"Bearer {KEY}"}) as client:
            while True:
                words = " ".join(["word"] * random_.randint(1, 9))
                body = {"model": "text-embedding-v4", "input": words, "dimensions": 64}
                try:
                    reply = await client.post(server.embeddings, json=body)
                except httpx.TransportError:
                    self.open += 1
                    return
                assert reply.status_code == 200, reply.text
                request_id = reply.headers["x-request-id"]
                assert request_id not in self.replies
                self.replies[request_id] = reply.json()["usage"]["total_tokens"]
                self.answered.set()

    async def ask_until_killed(self, server: ForkedServer, seed: int, after: float | None) -> None:
        """Let ``CLIENTS`` ask; SIGKILL after so many seconds, or let the server's own fault do it."""
        self.answered = asyncio.Event()
        clients = [
            asyncio.create_task(self.ask(server, random.Random(f"{seed}-{number}")))
            for number in range(CLIENTS)
        ]
        if after is not None:
            await self.answered.wait()  # count from the first reply, however slow the machine
            await asyncio.sleep(after)
            await asyncio.to_thread(server.kill)
        async with asyncio.timeout(60):
            await asyncio.gather(*clients)
        await asyncio.to_thread(server.process.join, 30)


def check_ledger(database: Database, crowd: Crowd) -> None:
    """Every reply is in the ledger once, with its tokens; beyond that only requests cut off on their way."""
    with database.read() as connection:
        rows = connection.execute(sa.select(usage_requests.c.request_id, usage_requests.c.tokens)).all()
        days = connection.execute(
            sa.select(sa.func.sum(usage_daily.c.requests), sa.func.sum(usage_daily.c.tokens))
        ).one()
    ledger = {request_id: tokens for request_id, tokens in rows}
    assert len(ledger) == len(rows)
    assert {id_: ledger.get(id_) for id_ in crowd.replies} == crowd.replies
    assert len(ledger) - len(crowd.replies) <= crowd.open
    assert (days[0] or 0, days[1] or 0) == (len(ledger), sum(ledger.values()))


@pytest.mark.parametrize("point", FAULT_POINTS)
@pytest.mark.parametrize("count", [1, 7])
def test_killed_at_each_point_of_a_commit(tmp_path: Path, database_url: str, point: str, count: int) -> None:
    crowd = Crowd()
    settings = {"data_dir": tmp_path, "database_url": database_url}
    with ForkedServer(fault=f"{point}:{count}", **settings) as server:
        asyncio.run(crowd.ask_until_killed(server, count, None))
    assert crowd.open == CLIENTS
    database = Database.open(tmp_path, database_url)
    check_ledger(database, crowd)
    with ForkedServer(**settings) as server:  # and it starts again as if nothing had been
        reply = server.embed()
        assert reply.status_code == 200
        crowd.replies[reply.headers["x-request-id"]] = reply.json()["usage"]["total_tokens"]
    check_ledger(database, crowd)
    database.close()


@pytest.mark.slow
def test_random_kills(tmp_path: Path, database_url: str) -> None:
    crowd, seed = Crowd(), random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    database: Database | None = None
    kills = KILLS[database_url.partition(":")[0]]
    for number in range(kills):
        with ForkedServer(data_dir=tmp_path, database_url=database_url) as server:
            asyncio.run(crowd.ask_until_killed(server, seed + number, moments.uniform(0, 0.25)))
        if number % 10 == 0:
            database = database or Database.open(tmp_path, database_url)
            check_ledger(database, crowd)
    assert database is not None
    check_ledger(database, crowd)
    database.close()
    assert len(crowd.replies) >= kills


def test_a_server_that_is_asked_to_end_answers_and_bills_what_it_accepted(tmp_path: Path) -> None:
    async def ask(server: ForkedServer) -> Iterable[httpx.Response]:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(timeout=30, headers=headers) as client:
            body = {"model": "text-embedding-v4", "input": "one two three"}
            asked = [asyncio.create_task(client.post(server.embeddings, json=body)) for _ in range(20)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            server.process.terminate()
            return [
                r
                for r in await asyncio.gather(*asked, return_exceptions=True)
                if not isinstance(r, BaseException)
            ]

    crowd = Crowd()
    with ForkedServer(data_dir=tmp_path, seconds_per_token=0.01) as server:
        for reply in asyncio.run(ask(server)):
            if reply.status_code == 200:
                crowd.replies[reply.headers["x-request-id"]] = reply.json()["usage"]["total_tokens"]
        server.process.join(30)
    assert crowd.replies
    database = Database.open(tmp_path)
    check_ledger(database, crowd)
    database.close()
