"""kill -9 and SIGTERM in the middle of everything at once: what was told holds, nothing is there twice.

Uploads, batches, keys and single queries run against one server, which is ended at a random moment and
started again on the same data, over and over. Then every upload that was answered is there byte for byte,
every batch completes with each line once, every key is as its last reply said, and the ledger holds each
answer once.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from embedserve.accounts.keys import KeyStore
from embedserve.storage.database import Database
from embedserve.storage.tables import jobs as jobs_table
from embedserve.storage.tables import usage_daily, usage_requests
from forked import KEY, ForkedServer

pytestmark = pytest.mark.slow

ADMIN = "admin-key-of-the-tests-0123"
ROUNDS = 5
SHUTDOWN_SECONDS = 4
Line = dict[str, Any]


class Crowd:
    """Callers who go on until the server is gone.

    Attributes:
        files: id -> content of every upload that was answered.
        batches: id -> number of lines of every batch that was answered.
        replies: request id -> tokens of every 200 to a query.
        keys: id -> what the last reply said: limit, state.
        asked: id -> the change of a key that was on its way.
        open: queries that were on their way at an end.
    """

    def __init__(self, seed: int) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, int] = {}
        self.replies: dict[str, int] = {}
        self.keys: dict[str, tuple[int | None, str]] = {}
        self.asked: dict[str, tuple[int | None, str]] = {}
        self.open = 0
        self._seed = seed
        self._lock = threading.Lock()

    def work(self, server: ForkedServer, round_: int, end: Callable[[], None]) -> None:
        """Let all of them work, call ``end`` at a random moment, wait until they have noticed."""
        kinds = [self.upload, self.upload, self.submit, self.ask, self.ask, self.change_keys]
        dice = random.Random(f"{self._seed}-{round_}")
        threads = [
            threading.Thread(target=self._go_on, args=(server, kind, dice.randrange(2**32))) for kind in kinds
        ]
        before = self._done()
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while self._done() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 0.8))
        end()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a caller waits for a server that has ended"

    def _done(self) -> int:
        return len(self.files) + len(self.batches) + len(self.replies) + len(self.keys)

    def _go_on(self, server: ForkedServer, kind: Callable[..., None], seed: int) -> None:
        dice = random.Random(seed)
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=30) as client:
            try:
                while True:
                    kind(client, dice)
            except (httpx.TransportError, Closing):
                with self._lock:
                    self.open += kind == self.ask

    def upload(self, client: httpx.Client, dice: random.Random) -> str:
        return self._put(client, dice.randbytes(dice.choice([100, 20_000, 700_000])))

    def _put(self, client: httpx.Client, content: bytes) -> str:
        form = {"file": ("a.jsonl", content)}
        made = told(client.post("/compatible-mode/v1/files", data={"purpose": "batch"}, files=form))
        self.files[made["id"]] = content
        return str(made["id"])

    def submit(self, client: httpx.Client, dice: random.Random) -> None:
        lines = [
            {
                "custom_id": f"{i}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": "text-embedding-v4", "input": f"line {i}", "dimensions": 64},
            }
            for i in range(dice.randint(1, 300))
        ]
        file_id = self._put(client, b"\n".join(map(orjson.dumps, lines)))
        asked = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
        made = told(client.post("/compatible-mode/v1/batches", json=asked))
        self.batches[made["id"]] = len(lines)
        time.sleep(0.05)

    def ask(self, client: httpx.Client, dice: random.Random) -> None:
        words = " ".join(["word"] * dice.randint(1, 9))
        body = {"model": "text-embedding-v4", "input": words, "dimensions": 64}
        reply = client.post("/compatible-mode/v1/embeddings", json=body)
        self.replies[reply.headers["x-request-id"]] = told(reply)["usage"]["total_tokens"]

    def change_keys(self, client: httpx.Client, dice: random.Random) -> None:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        made = told(client.post("/admin/keys", json={"rpm": 1}, headers=headers))
        self.keys[made["id"]] = (1, "active")
        rpm, paused = dice.choice([None, 2, 3]), dice.random() < 0.5
        self.asked[made["id"]] = (rpm, "paused" if paused else "active")
        change = {"rpm": rpm, "paused": paused}
        changed = told(client.patch(f"/admin/keys/{made['id']}", json=change, headers=headers))
        self.keys[made["id"]] = (changed["rpm"], changed["state"])


class Closing(Exception):
    """The server says that it is on its way out."""


def told(reply: httpx.Response) -> Any:
    if reply.status_code == 503 and "retry-after" in reply.headers:
        raise Closing
    assert reply.status_code in (200, 201), reply.text
    return reply.json()


def finish_batches(server: ForkedServer, database: Database) -> None:
    """Every batch there is, also one whose caller was never told of it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with database.read() as connection:
            states = set(connection.execute(sa.select(jobs_table.c.status)).scalars())
        if states <= {"completed"}:
            return
        assert states <= {"completed", "validating", "in_progress", "finalizing"}, states
        time.sleep(0.1)
    raise AssertionError(f"jobs are still {states}")


def check_files(client: httpx.Client, crowd: Crowd) -> None:
    for file_id, content in crowd.files.items():
        assert client.get(f"/compatible-mode/v1/files/{file_id}/content").content == content


def check_batches(client: httpx.Client, crowd: Crowd) -> None:
    for batch_id, lines in crowd.batches.items():
        batch = told(client.get(f"/compatible-mode/v1/batches/{batch_id}"))
        assert batch["request_counts"] == {"total": lines, "completed": lines, "failed": 0}
        output = client.get(f"/compatible-mode/v1/files/{batch['output_file_id']}/content").content
        rows = [orjson.loads(line) for line in output.splitlines()]
        assert sorted(int(row["custom_id"]) for row in rows) == list(range(lines))


def check_ledger(database: Database, crowd: Crowd) -> None:
    row, day = usage_requests.c, usage_daily.c
    with database.read() as connection:
        listed = connection.execute(sa.select(row.request_id, row.tokens).where(row.door == "sync")).all()
        of_jobs = connection.execute(sa.select(row.request_id).where(row.door == "batch")).scalars().all()
        lines = connection.execute(sa.select(sa.func.sum(jobs_table.c.total))).scalar_one()
        summed = connection.execute(sa.select(sa.func.sum(day.requests))).scalar_one()
    ledger = {request_id: tokens for request_id, tokens in listed}
    assert {id_: ledger.get(id_) for id_ in crowd.replies} == crowd.replies
    assert len(listed) == len(ledger) <= len(crowd.replies) + crowd.open
    assert len(set(of_jobs)) == len(of_jobs) == lines
    assert summed == len(listed) + len(of_jobs)


def check_keys(database: Database, crowd: Crowd) -> None:
    records = {record.id: record for record in KeyStore(database).list()}
    for key_id, said in crowd.keys.items():
        now = (records[key_id].rpm, records[key_id].state())
        assert now in (said, crowd.asked.get(key_id))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_an_end_at_any_moment_loses_and_doubles_nothing(
    tmp_path: Path, database_url: str, number: signal.Signals
) -> None:
    settings = {
        "data_dir": tmp_path,
        "database_url": database_url,
        "admin_key": ADMIN,
        "shutdown_seconds": SHUTDOWN_SECONDS,
    }
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    crowd = Crowd(seed)
    for round_ in range(ROUNDS):
        with ForkedServer(seconds_per_token=0.0002, **settings) as server:

            def end(server: ForkedServer = server) -> None:
                if number == signal.SIGKILL:
                    server.kill()
                    return
                began = time.monotonic()
                server.process.terminate()
                server.process.join(SHUTDOWN_SECONDS + 30)  # a busy machine may be late; for ever it may not
                assert server.process.exitcode in (0, -signal.SIGTERM), time.monotonic() - began

            crowd.work(server, round_, end)
    assert crowd.files
    assert crowd.replies
    assert crowd.keys
    database = Database.open(tmp_path, database_url)
    if number == signal.SIGTERM:
        assert not list(tmp_path.glob("files/uploads/.draft-*")), "half an upload is left"
    with ForkedServer(**settings) as server:
        finish_batches(server, database)
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=30) as client:
            check_files(client, crowd)
            check_batches(client, crowd)
    check_ledger(database, crowd)
    check_keys(database, crowd)
    database.close()
