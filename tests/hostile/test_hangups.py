"""A caller who hangs up withdraws his work and pays nothing; one who would wait too long is told at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from hostile.raw import DOORS, EMBEDDINGS, body_for, connect, head, post
from light_server import LightServer
from serving import Server

SLOW = {"SECONDS_PER_TOKEN": "0.002", "EMBEDSERVE_MAX_WAIT_SECONDS": "0"}
LONG_TEXT = "word " * 2000


def metric(server: Server, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def until(met: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LightServer]:
    plan = tmp_path / "plan.toml"
    plan.write_text("[limits]\nper_second = false\n[limits.key]\ntpm = 200000\n")
    with LightServer(environment={**SLOW, "EMBEDSERVE_PLAN": str(plan)}) as running:
        yield running


@pytest.mark.parametrize("door", DOORS)
def test_who_hangs_up_withdraws_his_work_and_pays_nothing(server: LightServer, door: str) -> None:
    path = DOORS[door]
    for round in range(4):  # 80,000 tokens each: the third would be over the limit if the others had paid
        left = [
            post(server, path, body_for(path, [f"{LONG_TEXT} {round} {i} {j}" for j in range(10)]))
            for i in range(4)
        ]
        until(lambda: metric(server, "embedserve_queue_requests") == 4)
        for connection in left:
            connection.close()
        until(lambda: metric(server, "embedserve_queue_requests") == 0)
        assert metric(server, "embedserve_queue_tokens") == 0
    assert metric(server, "embedserve_memory_held_bytes") == 0
    assert metric(server, "embedserve_billed_requests_total") == 0
    assert server.openai({"model": "text-embedding-v4", "input": "still here"}).status_code == 200
    until(lambda: metric(server, "embedserve_billed_requests_total") == 1)
    assert server.log.count(" 499 ") == 16
    assert "Traceback" not in server.log


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("length", [1000, 1_000_000, None], ids=["short", "long", "chunked"])
def test_who_hangs_up_while_he_sends_leaves_nothing(
    server: LightServer, door: str, length: int | None
) -> None:
    for _ in range(5):
        connection = connect(server)
        begun = b'{"model":' if length else b'5\r\n{"mod\r\n'
        connection.sendall(head(server, DOORS[door], length) + begun)
        connection.close()
    until(lambda: server.log.count(" 499 ") == 5)
    assert metric(server, "embedserve_memory_held_bytes") == 0
    assert "Traceback" not in server.log


def test_who_would_wait_too_long_is_told_when_to_come_back() -> None:
    environment = {**SLOW, "EMBEDSERVE_MAX_WAIT_SECONDS": "5"}
    with LightServer(environment=environment) as server:
        assert server.openai({"model": "text-embedding-v4", "input": LONG_TEXT}).status_code == 200
        texts = [f"{LONG_TEXT} {i}" for i in range(10)]
        waiting = post(server, EMBEDDINGS, body_for(EMBEDDINGS, texts))
        until(lambda: metric(server, "embedserve_queue_requests") == 1)
        refused = server.openai({"model": "text-embedding-v4", "input": [LONG_TEXT + "x"] * 10})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "Please try again later" in refused.json()["error"]["message"]
        # A query goes before all of these: it is answered.
        assert server.openai({"model": "text-embedding-v4", "input": "short"}).status_code == 200
        waiting.close()
        until(lambda: metric(server, "embedserve_queue_requests") == 0)
        again = server.openai({"model": "text-embedding-v4", "input": LONG_TEXT + "x"})
        assert again.status_code == 200
