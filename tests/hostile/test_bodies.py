"""Request bodies over the whole of JSON and beyond: one reply below 500, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from embedserve.accounts.accounts import Accounts
from embedserve.embedding.backbones.dummy import DummyBackbone
from embedserve.embedding.embedder import Embedder
from embedserve.engines import Engine
from embedserve.http.app import create_app
from embedserve.scheduling.scheduler import Scheduler
from embedserve.service import EmbeddingService
from embedserve.settings import Settings
from hostile.raw import DOORS, EMBEDDINGS, NATIVE, body_for
from hostile.test_memory import fill, many_texts, wide_text
from light_server import LightServer, WordTokenizer
from serving import KEY

MODEL = b'{"model":"text-embedding-v4","input":'
LONGEST_STEP = 0.05
"""Seconds of this process's own work between two turns of the loop: 10 ms are promised, on a machine that has
nothing else to do."""

odd = st.sampled_from(
    [2**31, -1, 2**64, 10**30, 1e308, "", "\0", "\ud800", "a\udfff", " ", "\u200b", True, None, [], {}, 1024]
)
values = st.recursive(
    odd | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=12)
        | st.dictionaries(st.sampled_from(["texts", "model", "input", "dimension"]) | st.text(), inner)
    ),
    max_leaves=15,
)
parameters = st.dictionaries(
    st.sampled_from(["dimension", "dimensions", "text_type", "instruct", "output_type", "encoding_format"]),
    values,
)
requests = st.one_of(
    values,
    st.builds(lambda rows, more: {"model": "text-embedding-v4", "input": rows, **more}, values, parameters),
    st.builds(
        lambda rows, more: {"model": "text-embedding-v4", "input": {"texts": rows}, "parameters": more},
        values,
        parameters | values,
    ),
)
spelled = st.builds(
    lambda given, plain, padding: (json.dumps(given, ensure_ascii=not plain) + " " * padding).encode(
        "utf-8", "surrogatepass"
    ),
    requests,
    st.booleans(),
    st.sampled_from([0, 0, 70_000]),  # long ones are read in another way
)
broken = st.one_of(
    st.builds(lambda body, at: body[: len(body) * at // 100], spelled, st.integers(0, 99)),
    st.builds(lambda body, mark: body + b" " * 66_000 + mark, spelled, st.binary(min_size=1, max_size=4)),
    st.binary(max_size=100),
    st.sampled_from(
        [MODEL + word + b"}" for word in (b"NaN", b"1e999", b"-Infinity", b"9" * 20_000, b"0x1")]
    ),
    st.sampled_from(["utf-8-sig", "utf-16", "utf-32", "latin-1"]).map(
        lambda encoding: '{"model": "text-embedding-v4", "input": "é"}'.encode(encoding)
    ),
    st.sampled_from([b'{"model":"text-embedding-v4","input":"a","input":["b"]}', b'{"a":1,"a":2}']),
)


@pytest.fixture(scope="module", params=["strict", "lenient"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with (
        LightServer("--limits", request.param) as server,
        httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client,
    ):
        yield client
        assert "Traceback" not in server.log


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from([EMBEDDINGS, NATIVE]), body=spelled | broken, chunked=st.booleans())
def test_any_body(client: httpx.Client, path: str, body: bytes, chunked: bool) -> None:
    content: Any = iter([body[:10], body[10:]]) if chunked else body
    reply = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code < 500, reply.text
    told = reply.json()
    if reply.status_code != 200:
        assert told["error"]["message"] if path == EMBEDDINGS else told["message"]


@pytest.mark.parametrize("door", DOORS)
def test_without_a_key_a_body_is_not_read(client: httpx.Client, door: str) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2000):
            sent += 2**16
            yield b" " * 2**16

    try:
        reply = client.post(DOORS[door], content=pieces(), headers={"Authorization": "Bearer sk-unknown"})
    except httpx.TransportError:
        assert sent < 2000 * 2**16  # the connection was closed under it
    else:
        assert reply.status_code == 401


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Any]:
    """The application in this process, on a network that takes no time."""
    chosen = Settings(data_dir=folder, api_key=SecretStr(KEY), limits="lenient")
    backbone = DummyBackbone()
    embedder = Embedder(backbone=backbone, tokenizer=WordTokenizer(), recipe="plain")
    scheduler = Scheduler(backbone, memory_limit=chosen.memory_limit_mb * 2**20)
    service = EmbeddingService(chosen, Accounts.open(chosen), Engine(embedder, scheduler))
    await service.start()
    try:
        yield create_app(service)
    finally:
        await service.close()


async def call(app: Any, path: str, body: bytes) -> tuple[int, int]:
    """Status and size of the reply to a POST that comes in as it does over a network."""
    pieces = [body[i : i + 65_536] for i in range(0, len(body), 65_536)]
    status = size = 0

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if not pieces:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, size
        status = message.get("status", status)
        size += len(message.get("body", b""))

    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("x", 80)}
    await app(scope | {"client": ("x", 1), "root_path": "", "asgi": {"version": "3.0"}}, receive, send)
    return status, size


class Heartbeat:
    """How much this process works between two turns of its loop; time that others took does not count."""

    longest = 0.0

    async def beat(self) -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0.001)
            now = time.process_time()
            self.longest, last = max(self.longest, now - last), now


ROWS = [f"row {i}" for i in range(2048)]
LARGE = {
    "objects": fill(b'{"z":[', b"{}"),
    "empty rows": fill(MODEL + b"[", b'""'),
    "numbers": fill(MODEL + b"[", b"1"),
    "allowed numbers": fill(MODEL + b"[", b"70000", 6_000_000),
    "rows of numbers": fill(MODEL + b"[", b"[" + b",".join([b"70000"] * 400) + b"]", 6_000_000),
    "deep": MODEL + b"[" * 31 * 2**20,
    "digits": MODEL + b"9" * 31 * 2**20 + b"}",
    "one string": wide_text(False),
    "one wide string": wide_text(True),
    "escapes": MODEL + b'"' + b"\\n" * 10_000_000 + b'x"}',
    "halves": MODEL + b'"' + b"\\ud800" * 90_000 + b'x"}',
    "many texts": many_texts(),
    "no JSON": b"x" * 31 * 2**20,
    "wide replies": body_for(EMBEDDINGS, ROWS, dimensions=2048),
    "wide replies in base64": body_for(EMBEDDINGS, ROWS, dimensions=2048, encoding_format="base64"),
    "wide native replies": body_for(NATIVE, ROWS, dimension=2048, output_type="dense&sparse"),
}


@pytest.fixture
def as_served() -> Iterator[None]:
    """The interpreter as the server sets it: threads take turns quickly, what is there is no garbage."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("as_served")
@pytest.mark.parametrize("name", LARGE)
def test_nobody_waits_for_a_large_body_or_reply(tmp_path: Path, name: str) -> None:
    path, body = NATIVE if "native" in name else EMBEDDINGS, LARGE[name]

    async def scenario() -> float:
        async with running(tmp_path) as app:
            await call(app, EMBEDDINGS, body_for(EMBEDDINGS, ["warm"]))
            heart = Heartbeat()
            beating = asyncio.create_task(heart.beat())
            status, size = await call(app, path, body)
            beating.cancel()
            print(f"{name}: {status}, {size} bytes, {heart.longest * 1000:.1f} ms at most in one step")
            assert status in (200, 400)
            return heart.longest

    # Once is enough: where one step takes long by itself, it takes long every time.
    # One quiet pass is enough: where a step takes long by itself, it takes long every time.
    assert any(asyncio.run(scenario()) < LONGEST_STEP for _ in range(6))
