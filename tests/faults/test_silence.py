"""Dependencies that accept connections and never answer; keys that end while they are in use."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
import sqlalchemy as sa

from batch_workers import embedding_line
from embedserve.accounts.keys import KeyStore
from embedserve.storage.database import Database
from embedserve.storage.tables import usage_requests
from forked import KEY, ForkedServer
from freezing import FreezingProxy
from real_servers import RedisServer


def through(url: str, proxy: FreezingProxy) -> str:
    port = urlsplit(url).port
    return url.replace(f":{port}/", f":{proxy.port}/")


def ledger_ids(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(sa.select(usage_requests.c.request_id)).scalars())


def test_a_silent_postgresql_is_503_in_bounded_time_and_nothing_is_billed(
    tmp_path: Path, postgres_url: str
) -> None:
    pytest.importorskip("psycopg")
    with FreezingProxy(urlsplit(postgres_url).port or 0) as proxy:
        settings = {"data_dir": tmp_path, "database_url": through(postgres_url, proxy)}
        with ForkedServer(database_timeout=1.0, **settings) as server:
            answered = {server.embed().headers["x-request-id"] for _ in range(5)}
            proxy.freeze()
            started = time.monotonic()
            refused = server.embed()
            assert time.monotonic() - started < 15
            assert refused.status_code == 503
            assert "nothing was billed" in refused.json()["error"]["message"]
            proxy.thaw()
            deadline = time.monotonic() + 60
            while (reply := server.embed()).status_code != 200:
                assert time.monotonic() < deadline, reply.text
            answered.add(reply.headers["x-request-id"])
            database = Database.open(tmp_path, postgres_url)
            while ledger_ids(database) != answered:  # what was in doubt is taken back
                assert time.monotonic() < deadline
                time.sleep(0.2)
            database.close()


def test_a_job_outlives_a_silent_postgresql_and_is_billed_once(tmp_path: Path, postgres_url: str) -> None:
    pytest.importorskip("psycopg")
    with FreezingProxy(urlsplit(postgres_url).port or 0) as proxy:
        settings = {"data_dir": tmp_path, "database_url": through(postgres_url, proxy)}
        with (
            ForkedServer(database_timeout=1.0, seconds_per_token=0.0005, **settings) as server,
            httpx.Client(
                base_url=f"{server.url}/v1", headers={"Authorization": f"Bearer {KEY}"}, timeout=60
            ) as client,
        ):
            lines = [embedding_line(str(i), f"line {i}") for i in range(1500)]
            form = {"files": {"file": ("in.jsonl", b"\n".join(lines))}, "data": {"purpose": "batch"}}
            fields = {
                "input_file_id": client.post("/files", **form).json()["id"],
                "endpoint": "/v1/embeddings",
                "completion_window": "24h",
            }
            url = f"/batches/{client.post('/batches', json=fields).json()['id']}"
            until = time.monotonic() + 60
            while not client.get(url).json()["request_counts"]["completed"]:
                assert time.monotonic() < until
            proxy.freeze()
            time.sleep(3)  # longer than any statement may take
            proxy.thaw()
            while (reply := client.get(url)).status_code != 200 or reply.json()["status"] != "completed":
                assert time.monotonic() < until, reply.text
                time.sleep(0.1)
            assert reply.json()["request_counts"] == {"total": 1500, "completed": 1500, "failed": 0}
            output = client.get(f"/files/{reply.json()['output_file_id']}/content").content.splitlines()
            database = Database.open(tmp_path, postgres_url)
            assert [orjson.loads(line)["custom_id"] for line in output] == [str(i) for i in range(1500)]
            assert {orjson.loads(line)["id"] for line in output} == ledger_ids(database)
            database.close()


def test_a_silent_redis_makes_nobody_wait_long(tmp_path: Path, redis_server: RedisServer) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text("[limits]\nper_second = false\nkey = {rpm = 10}\n")
    with FreezingProxy(redis_server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        with ForkedServer(data_dir=tmp_path, plan=plan, redis_url=url) as server:
            proxy.freeze()
            started = time.monotonic()
            told = [server.embed().status_code for _ in range(12)]
            assert time.monotonic() - started < 15
            assert told == [200] * 10 + [429] * 2  # the server's own count, from zero


def test_a_key_that_is_revoked_while_it_is_in_use_ends_on_every_node_within_a_second(
    tmp_path: Path, database_url: str
) -> None:
    database = Database.open(tmp_path, database_url)
    store = KeyStore(database)
    record, secret = store.create("in use")
    settings = {"data_dir": tmp_path, "database_url": database_url}
    with ForkedServer(**settings) as one, ForkedServer(**settings) as two:
        last_answer = {one.url: 0.0, two.url: 0.0}
        stop = threading.Event()

        def ask(server: ForkedServer) -> None:
            while not stop.is_set():
                asked = time.monotonic()
                if server.embed(key=secret).status_code == 200:
                    last_answer[server.url] = asked

        threads = [threading.Thread(target=ask, args=(server,)) for server in (one, two)]
        for thread in threads:
            thread.start()
        while not all(last_answer.values()):
            time.sleep(0.01)
        store.revoke(record.id)
        revoked = time.monotonic()
        time.sleep(2)
        stop.set()
        for thread in threads:
            thread.join()
        # A request may have begun before the second was over; none that began later was let in.
        assert all(asked < revoked + 1 for asked in last_answer.values())
    database.close()
