"""A key works the moment it is printed and is refused within a second of its end, on every node."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from embedserve.accounts.accounts import Accounts
from embedserve.accounts.keys import KeyStore
from embedserve.accounts.watch import GAP, Watch
from embedserve.errors import EmbedserveError
from embedserve.settings import Settings
from embedserve.storage.database import Database
from forked import KEY, ForkedServer
from freezing import FreezingProxy

ADMIN = "admin-key-of-the-tests-0123"


@pytest.fixture
def nodes(tmp_path: Path, database_url: str) -> Iterator[tuple[ForkedServer, ForkedServer]]:
    """Two servers that share a database."""
    settings = {"data_dir": tmp_path, "database_url": database_url, "admin_key": ADMIN}
    with ForkedServer(**settings) as one, ForkedServer(**settings) as two:
        yield one, two


def admin(server: ForkedServer, method: str, path: str, **fields: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    reply = httpx.request(method, f"{server.url}/admin{path}", json=fields, headers=headers, timeout=30)
    assert reply.status_code < 300, reply.text
    return reply


def test_a_key_works_at_once_at_every_door_of_every_node(
    nodes: tuple[ForkedServer, ForkedServer], tmp_path: Path, database_url: str
) -> None:
    store = KeyStore(Database.open(tmp_path, database_url))
    for number in range(10):
        assert nodes[number % 2].embed(key=store.create()[1]).status_code == 200
    one, two = nodes
    made = admin(one, "POST", "/keys").json()
    assert two.embed(key=made["secret"]).status_code == 200
    rotated = admin(two, "POST", f"/keys/{made['id']}/rotate").json()["secret"]
    assert one.embed(key=rotated).status_code == 200
    doors = (
        ("GET", "/v1/models"),
        ("GET", "/v1/files"),
        ("GET", "/v1/batches"),
        ("GET", "/api/v1/models"),
        ("GET", "/api/v1/tasks/none"),
    )
    for method, path in doors:
        headers = {"Authorization": f"Bearer {store.create()[1]}"}
        assert httpx.request(method, one.url + path, headers=headers).status_code == 200, path
        wrong = {"Authorization": "Bearer sk-wrong"}
        assert httpx.request(method, one.url + path, headers=wrong).status_code == 401, path
    store.database.close()


def test_the_key_that_the_command_line_prints_works(tmp_path: Path) -> None:
    with ForkedServer(data_dir=tmp_path) as server:
        command = [sys.executable, "-m", "embedserve", "keys", "create", "--data-dir", str(tmp_path)]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        assert server.embed(key=made.stdout.strip()).status_code == 200


def test_every_change_holds_on_the_other_node_within_a_second(
    nodes: tuple[ForkedServer, ForkedServer],
) -> None:
    one, two = nodes
    made = admin(one, "POST", "/keys", name="changing").json()
    path, secret = f"/keys/{made['id']}", made["secret"]

    def told(after: float = 1.0) -> list[int | str]:
        time.sleep(after)
        replies = [server.embed(key=secret) for server in nodes]
        return [r.status_code if r.status_code != 400 else r.json()["error"]["code"] for r in replies]

    assert told(0) == [200, 200]
    assert admin(one, "PATCH", path, paused=True).json()["state"] == "paused"
    assert told() == [401, 401]
    assert admin(one, "PATCH", path, paused=False).json()["state"] == "active"
    assert told(0) == [200, 200]  # a refusal is looked up first
    admin(two, "PATCH", path, models=["text-embedding-v3"])
    assert told() == [403, 403]
    admin(two, "PATCH", path, models=None, budget=0)
    assert told() == ["Arrearage", "Arrearage"]
    admin(one, "PATCH", path, budget=5, rpm=1)
    first = told()
    assert sorted(first + told(0)) == [200, 200, 429, 429]  # each counts for itself without Redis
    admin(two, "PATCH", path, rpm=None, expires_at="2999-01-01T00:00:00+02:00", name="changed")
    assert told() == [200, 200]
    shown = admin(one, "GET", path).json()
    assert (shown["name"], shown["rpm"], shown["budget"]) == ("changed", None, 5)
    assert shown["expires_at"] == "2998-12-31T22:00:00Z"
    assert shown["spent"] > 0
    assert shown["spent"] == admin(two, "GET", path).json()["spent"]
    admin(one, "POST", f"{path}/revoke")
    assert told() == [401, 401]


def test_a_flood_of_wrong_keys_costs_few_looks_and_no_new_key_waits_for_it(tmp_path: Path) -> None:
    accounts = Accounts.open(Settings(data_dir=tmp_path, api_key=KEY))
    looks = 0
    refresh = accounts.refresh

    def counting() -> None:
        nonlocal looks
        looks += 1
        refresh()

    accounts._watch = Watch(counting)

    async def scenario() -> float:
        await accounts.start()
        began = time.monotonic()
        wrong = 0
        stop = False

        async def guess(number: int) -> None:
            nonlocal wrong
            while not stop:
                with pytest.raises(EmbedserveError, match="Invalid API-key"):
                    await accounts.authenticate(f"sk-{number}-{wrong}")
                wrong += 1

        guessers = [asyncio.create_task(guess(n)) for n in range(200)]
        for _ in range(5):
            secret = (await asyncio.to_thread(accounts.keys.create))[1]
            assert (await accounts.authenticate(secret)).workspace == "default"
        stop = True
        await asyncio.gather(*guessers)
        assert wrong >= 5 * 200  # each was answered by the looks that the good keys asked for
        seconds = time.monotonic() - began
        await accounts.close()
        return seconds

    seconds = asyncio.run(scenario())
    assert looks <= seconds / GAP + 2


def test_with_a_silent_database_known_keys_pass_and_unknown_ones_are_told_to_come_again(
    tmp_path: Path, postgres_url: str
) -> None:
    pytest.importorskip("psycopg")
    with FreezingProxy(urlsplit(postgres_url).port or 0) as proxy:
        url = postgres_url.replace(f":{urlsplit(postgres_url).port}/", f":{proxy.port}/")
        with ForkedServer(data_dir=tmp_path, database_url=url, database_timeout=1.0) as server:

            def models(key: str) -> httpx.Response:
                headers = {"Authorization": f"Bearer {key}"}
                return httpx.get(f"{server.url}/v1/models", headers=headers, timeout=30)

            assert (models(KEY).status_code, models("sk-wrong").status_code) == (200, 401)
            proxy.freeze()
            refused: list[httpx.Response] = []
            threads = [threading.Thread(target=lambda: refused.append(models("sk-wrong"))) for _ in range(20)]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            assert models(KEY).status_code == 200
            for thread in threads:
                thread.join()
            assert time.monotonic() - began < 15
            assert {reply.status_code for reply in refused} == {503}
            assert all(reply.headers["retry-after"] == "1" for reply in refused)
            proxy.thaw()
            deadline = time.monotonic() + 60
            while models("sk-wrong").status_code != 401:
                assert time.monotonic() < deadline
                time.sleep(0.2)


def test_a_look_that_fails_in_a_way_nobody_foresaw_does_not_end_the_looks() -> None:
    told: list[str] = []

    def look() -> None:
        told.append("look")
        if len(told) == 2:
            raise ValueError("a row that cannot be read")

    async def scenario() -> None:
        watch = Watch(look)
        watch.start()
        until = time.monotonic() + 30
        while len(told) < 4:
            assert time.monotonic() < until
            await watch.fresh()
            await asyncio.sleep(0.01)
        assert await watch.fresh()
        watch.close(5)

    asyncio.run(scenario())
