"""A database that is locked or silent: 503 with Retry-After in bounded time on every route."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from batch_workers import embedding_line
from freezing import FreezingProxy
from light_server import LightServer

TIMEOUT = 1.0
PATIENCE = 6.0
"""Generous beside a timeout of one second; a wait without end is what must not be."""
ADMIN = "admin-key-of-this-test"
V4 = "text-embedding-v4"
TEXT_EMBEDDING = "/api/v1/services/embeddings/text-embedding/text-embedding"

WRITES = (
    "POST /v1/embeddings",
    f"POST {TEXT_EMBEDDING}",
    "POST /v1/files",
    "DELETE /v1/files/{file}",
    "POST /v1/batches",
    "POST /v1/batches/{batch}/cancel",
    f"POST {TEXT_EMBEDDING}#async",
    "POST /api/v1/tasks/{task}/cancel",
    "POST /admin/keys",
    "PATCH /admin/keys/{key}",
    "POST /admin/keys/{key}/rotate",
    "POST /admin/keys/{key}/revoke",
)
READS = (
    "GET /v1/files",
    "GET /v1/files/{file}",
    "GET /v1/files/{file}/content",
    "GET /v1/batches",
    "GET /v1/batches/{batch}",
    "GET /api/v1/tasks",
    "GET /api/v1/tasks/{task}",
    "GET /admin/keys",
    "GET /admin/keys/{key}",
    "GET /admin/usage",
)


class World:
    """A server with something of every kind in it."""

    def __init__(self, server: LightServer) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, headers=server.headers, timeout=60)
        self.ids = {"file": self._upload()}
        self.ids["batch"] = self.send("POST /v1/batches").json()["id"]
        task = self.send(f"POST {TEXT_EMBEDDING}#async")
        self.ids["task"] = task.json()["output"]["task_id"]
        self.ids["file"] = self._upload()  # one that no batch reads
        self.ids["key"] = self.send("POST /admin/keys").json()["id"]

    def _upload(self) -> str:
        return str(self.send("POST /v1/files").json()["id"])

    def send(self, call: str) -> httpx.Response:
        method, _, template = call.partition(" ")
        path, _, mode = template.partition("#")
        path = path.format(**getattr(self, "ids", {}))
        headers, more = {}, {}
        if path.startswith("/admin"):
            headers["Authorization"] = f"Bearer {ADMIN}"
            more["json"] = {"name": "x"} if path == "/admin/keys" or method == "PATCH" else {}
        elif path == "/v1/files":
            more["files"] = {"file": ("a.jsonl", embedding_line("1", "a"))}
            more["data"] = {"purpose": "batch"}
        elif path == "/v1/batches":
            more["json"] = {
                "input_file_id": self.ids["file"],
                "endpoint": "/v1/embeddings",
                "completion_window": "24h",
            }
        elif mode == "async":
            headers["X-DashScope-Async"] = "enable"
            url = f"{self.server.url}/v1/files/{self.ids['file']}/content"
            more["json"] = {"model": "text-embedding-async-v2", "input": {"url": url}}
        elif path == TEXT_EMBEDDING:
            more["json"] = {"model": V4, "input": {"texts": ["a"]}}
        elif path == "/v1/embeddings":
            more["json"] = {"model": V4, "input": "a"}
        if method in ("GET", "DELETE"):
            more = {}
        return self.client.request(method, path, headers=headers, **more)


@contextmanager
def world(**environment: str) -> Iterator[World]:
    settings = {
        "EMBEDSERVE_DATABASE_TIMEOUT": str(TIMEOUT),
        "EMBEDSERVE_ADMIN_KEY": ADMIN,
        "EMBEDSERVE_BATCH_CONCURRENCY": "0",  # jobs stay as they were put in
        **environment,
    }
    with LightServer(environment=settings) as server:
        yield World(server)


def refused(made: World, call: str) -> str | None:
    """What is wrong with the answer of a server whose database is away; None if it is as it should be."""
    started = time.monotonic()
    reply = made.send(call)
    took = time.monotonic() - started
    body = reply.json()
    native = call.split(" ")[1].startswith("/api/")
    message = body.get("message") if native else body.get("error", {}).get("message")
    good = reply.status_code == 503 and reply.headers.get("retry-after") and message and took < PATIENCE
    return None if good else f"{call}: {reply.status_code} in {took:.1f} s {reply.text[:200]}"


def check_log(made: World) -> None:
    assert "Traceback" not in made.server.log
    assert ", in " not in made.server.log  # a frame
    assert " ERROR " not in made.server.log


def test_a_locked_sqlite_is_503_on_every_route_that_writes_and_all_right_on_those_that_read() -> None:
    with world() as made:
        holder = sqlite3.connect(made.server.data_dir / "embedserve.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        try:
            with ThreadPoolExecutor(len(WRITES)) as pool:  # together: nobody waits behind the others
                wrong = [told for told in pool.map(lambda call: refused(made, call), WRITES) if told]
            assert wrong == []
            assert {call: made.send(call).status_code for call in READS} == dict.fromkeys(READS, 200)
        finally:
            holder.execute("ROLLBACK")
            holder.close()
        check_log(made)
        # What was refused was not done: the file, the batch and the key are as they were.
        assert made.send("GET /v1/files/{file}").status_code == 200
        assert made.send("GET /v1/batches/{batch}").json()["status"] == "validating"
        assert made.send("GET /admin/keys/{key}").json()["state"] == "active"
        assert len(made.send("GET /v1/batches").json()["data"]) == 1
        assert made.send("POST /v1/embeddings").status_code == 200


def test_a_silent_postgresql_is_503_on_every_route(postgres_url: str) -> None:
    pytest.importorskip("psycopg")
    port = urlsplit(postgres_url).port
    with FreezingProxy(port or 0) as proxy:
        url = postgres_url.replace(f":{port}/", f":{proxy.port}/")
        with world(EMBEDSERVE_DATABASE_URL=url) as made:
            proxy.freeze()
            calls = (*WRITES, *READS)
            with ThreadPoolExecutor(len(calls)) as pool:
                wrong = [told for told in pool.map(lambda call: refused(made, call), calls) if told]
            assert wrong == []
            proxy.thaw()
            until = time.monotonic() + 60
            while made.send("POST /v1/embeddings").status_code != 200:
                assert time.monotonic() < until
                time.sleep(0.2)
            check_log(made)
            assert made.send("GET /v1/files/{file}").status_code == 200
            assert made.send("GET /v1/batches/{batch}").json()["status"] == "validating"
            assert made.send("GET /admin/keys/{key}").json()["state"] == "active"


def test_a_damaged_database_is_no_bug_of_a_request(tmp_path: Path) -> None:
    with world() as made:
        path = made.server.data_dir / "embedserve.db"
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
        path.with_name("embedserve.db-wal").write_bytes(b"\xff" * 65_536)
        reply = made.send("GET /v1/batches")
        assert reply.status_code in (200, 503)  # a page that is still in memory answers
        assert ", in " not in made.server.log
