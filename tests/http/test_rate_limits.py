"""The limits at the door: who is let in, and what the others hear in each dialect."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path

import httpx
import openai
import pytest

from forked import KEY, ForkedServer
from real_servers import RedisServer

EXACT = "[limits]\nper_second = false\n"


def write_plan(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text)
    return path


async def ask_at_once(servers: list[ForkedServer], clients: int) -> list[httpx.Response]:
    body = {"model": "text-embedding-v4", "input": "one two three", "dimensions": 64}
    headers = {"Authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=60, headers=headers, limits=limits) as client:
        urls = [servers[number % len(servers)].embeddings for number in range(clients)]
        return list(await asyncio.gather(*(client.post(url, json=body) for url in urls)))


def test_two_hundred_clients_at_the_edge_of_the_limit(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, EXACT + "key = {rpm = 100}\n")
    with ForkedServer(data_dir=tmp_path, plan=plan) as server:
        replies = asyncio.run(ask_at_once([server], 200))
        assert Counter(reply.status_code for reply in replies) == {200: 100, 429: 100}
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert 0 < int(refused.headers["retry-after"]) <= 60


def test_two_hundred_clients_and_a_limit_of_tokens(tmp_path: Path) -> None:
    with ForkedServer(data_dir=tmp_path / "a") as server:
        tokens = server.embed("one two three").json()["usage"]["total_tokens"]
    plan = write_plan(tmp_path, EXACT + f"model = {{tpm = {100 * tokens}}}\n")
    with ForkedServer(data_dir=tmp_path / "b", plan=plan) as server:
        replies = asyncio.run(ask_at_once([server], 200))
        assert Counter(reply.status_code for reply in replies) == {200: 100, 429: 100}


def test_two_nodes_on_one_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    plan = write_plan(tmp_path, EXACT + "workspace = {rpm = 100}\n")
    given = {"plan": plan, "redis_url": redis_server.url, "redis_timeout": 5.0}
    with (
        ForkedServer(data_dir=tmp_path / "a", **given) as one,
        ForkedServer(data_dir=tmp_path / "b", **given) as two,
    ):
        replies = asyncio.run(ask_at_once([one, two], 200))
        assert Counter(reply.status_code for reply in replies) == {200: 100, 429: 100}


def refused(calls: Iterable[Callable[[], httpx.Response]]) -> httpx.Response:
    """The first 429 among the replies."""
    for call in calls:
        if (reply := call()).status_code == 429:
            return reply
    raise AssertionError("nothing was refused")


def test_files_batches_and_tasks_have_the_published_rates(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, "[limits]\npublished = true\n")
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        ForkedServer(data_dir=tmp_path / "data", plan=plan) as server,
        httpx.Client(headers=headers) as client,
    ):
        v1, native = f"{server.url}/compatible-mode/v1", f"{server.url}/api/v1"
        task = {"model": "text-embedding-async-v2", "input": {"url": "http://example.invalid/a"}}
        form = {"files": {"file": ("a.jsonl", b"x")}, "data": {"purpose": "batch"}}
        first = client.post(f"{v1}/files", **form).json()
        uploads = repeat(lambda: client.post(f"{v1}/files", **form), 50)
        others = repeat(lambda: client.get(f"{v1}/files/{first['id']}"), 200)
        lists = repeat(lambda: client.get(f"{v1}/batches"), 101)
        asynchronous = {"X-DashScope-Async": "enable"}
        tasks = repeat(
            lambda: client.post(
                f"{native}/services/embeddings/text-embedding/text-embedding", json=task, headers=asynchronous
            ),
            10,
        )
        for calls in (uploads, others, lists):
            reply = refused(calls)
            assert reply.json()["error"]["code"] == "limit_requests"
            assert 0 < int(reply.headers["retry-after"]) <= 60
        reply = refused(tasks)
        assert reply.json()["code"] == "Throttling.RateQuota"
        assert reply.json()["message"] == "Requests rate limit exceeded, please try again later."
        elsewhere = {"X-DashScope-WorkSpace": "elsewhere"}
        assert client.get(f"{v1}/batches", headers=elsewhere).status_code == 200
        assert client.get(f"{v1}/files/{first['id']}/content").status_code == 200  # reading has no rate


def test_what_is_refused_elsewhere_gives_its_reservation_back(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, EXACT + "key = {rpm = 2}\n")
    with ForkedServer(data_dir=tmp_path, plan=plan) as server:
        for _ in range(5):
            assert server.embed("word " * 9000).status_code == 400
        assert [server.embed().status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("limit", "native", "openai_error"),
    [
        (
            "rpm = 1",
            ("Throttling.RateQuota", "Requests rate limit exceeded, please try again later."),
            (
                "limit_requests",
                "You have exceeded your current request limit. For details, see: "
                "https://help.aliyun.com/zh/model-studio/error-code#rate-limit",
            ),
        ),
        (
            "tpm = 1",
            (
                "Throttling.AllocationQuota",
                "Allocated quota exceeded, please increase your quota limit.",
            ),
            (
                "insufficient_quota",
                "You exceeded your current quota, please check your plan and billing details.",
            ),
        ),
    ],
)
def test_the_words_of_a_refusal(
    tmp_path: Path, limit: str, native: tuple[str, str], openai_error: tuple[str, str]
) -> None:
    plan = write_plan(tmp_path, EXACT + f"key = {{{limit}}}\n")
    with ForkedServer(data_dir=tmp_path, plan=plan) as server:
        server.embed()
        refused = server.embed()
        assert refused.status_code == 429
        code, message = openai_error
        assert refused.json() == {
            "error": {"message": message, "type": code, "param": None, "code": code},
            "request_id": refused.headers["x-request-id"],
        }
        assert int(refused.headers["retry-after"]) >= 1
        told = httpx.post(
            f"{server.url}/api/v1/services/embeddings/text-embedding/text-embedding",
            json={"model": "text-embedding-v4", "input": {"texts": ["one two"]}},
            headers={"Authorization": f"Bearer {KEY}"},
        )
        assert told.status_code == 429
        assert (told.json()["code"], told.json()["message"]) == native
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
        with pytest.raises(openai.RateLimitError, match="You"):
            client.embeddings.create(model="text-embedding-v4", input="one two")


def test_the_words_of_money(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, '[free_quota]\nonly = true\ntokens = {"text-embedding-v4" = 1}\n')
    with ForkedServer(data_dir=tmp_path, plan=plan) as server:
        refused = server.embed()
        assert refused.status_code == 403
        error = refused.json()["error"]
        assert error["code"] == error["type"] == "AllocationQuota.FreeTierOnly"
        assert error["message"].startswith("The free tier of the model has been exhausted.")


def test_a_budget_ends_in_arrearage(tmp_path: Path) -> None:
    from embedserve.accounts.keys import KeyStore
    from embedserve.storage.database import Database

    database = Database.open(tmp_path)
    _, secret = KeyStore(database).create(budget=0)
    database.close()
    with ForkedServer(data_dir=tmp_path) as server:
        refused = server.embed(key=secret)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "Arrearage"
        assert refused.json()["error"]["message"] == (
            "Access denied, please make sure your account is in good standing. For details, see: "
            "https://help.aliyun.com/zh/model-studio/error-code#overdue-payment"
        )
