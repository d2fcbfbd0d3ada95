"""Asynchronous text embedding through the official ``dashscope`` SDK, both generations, on a real server."""

from __future__ import annotations

import gzip
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import dashscope
import httpx
import pytest
import sqlalchemy as sa
from dashscope import BatchTextEmbedding
from dashscope.common.error import InvalidTask

from embedserve.accounts.keys import KeyStore
from embedserve.storage.database import Database
from embedserve.storage.tables import usage_requests
from serving import Server

MODEL = "text-embedding-async-v2"
TEXT = "风急天高猿啸哀\n\nhello world\n   \nlast line"


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow.txt":
            gate.wait(30)
        if self.path == "/private.txt":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.end_headers()
            return
        self.send_response(200 if self.path != "/missing.txt" else 404)
        self.end_headers()
        self.wfile.write("甲".encode("gb18030") * 5 if self.path == "/gbk.txt" else b"one\ntwo\n")

    def do_POST(self) -> None:
        told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


gate = threading.Event()
told: list[dict[str, Any]] = []


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    gate.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def server(site: str) -> Iterator[Server]:
    """May fetch from and call the test's own site, which the operator opened on purpose."""
    environment = {
        "EMBEDSERVE_URL_HOSTS": f"{site},localhost:1,169.254.169.254,example.invalid",
        "EMBEDSERVE_CALLBACK_HOSTS": site,
        "EMBEDSERVE_URL_NETWORKS": "127.0.0.0/8",
    }
    with Server(environment=environment) as running:
        yield running


@pytest.fixture
def sdk(server: Server, monkeypatch: pytest.MonkeyPatch) -> type[BatchTextEmbedding]:
    monkeypatch.setattr(dashscope, "base_http_api_url", server.native_url)
    monkeypatch.setattr(dashscope, "api_key", server.key)
    return BatchTextEmbedding


def upload(server: Server, content: bytes, name: str = "in.txt", workspace: str = "default") -> str:
    """The content URL of an uploaded file."""
    answer = httpx.post(
        f"{server.openai_url}/files",
        files={"file": (name, content)},
        data={"purpose": "batch"},
        headers=server.headers | {"X-DashScope-WorkSpace": workspace},
    )
    return f"{server.openai_url}/files/{answer.json()['id']}/content"


def read_result(url: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(httpx.get(url).content).splitlines()]


def test_call_waits_and_the_link_holds_one_line_a_text(sdk: type[BatchTextEmbedding], server: Server) -> None:
    url = upload(server, TEXT.encode())
    answer = sdk.call(MODEL, url=url, text_type="document")
    assert answer.status_code == 200
    assert answer.output.task_status == "SUCCEEDED"
    lines = read_result(answer.output.url)
    assert [line["output"]["text_index"] for line in lines] == [0, 2, 4]  # blank lines keep their numbers
    assert [list(line["output"]) for line in lines] == [["code", "embedding", "text_index"]] * 3
    assert answer.usage.total_tokens == sum(line["usage"]["total_tokens"] for line in lines)
    body = {
        "model": "text-embedding-v2",
        "input": {"texts": ["hello world"]},
        "parameters": {"text_type": "document"},
    }
    asked = server.native(body).json()["output"]["embeddings"][0]["embedding"]
    assert lines[1]["output"]["embedding"] == asked
    assert len(asked) == 1536


def test_shapes_and_key_order(server: Server) -> None:
    body = {"model": MODEL, "input": {"url": upload(server, b"one\n")}, "parameters": {}}
    created = server.native(body, **{"X-DashScope-Async": "enable"})
    made = created.json()
    assert list(made) == ["output", "request_id"]
    assert list(made["output"]) == ["task_status", "task_id"]
    assert made["output"]["task_status"] == "PENDING"
    assert made["request_id"] == created.headers["x-request-id"]
    url = f"{server.native_url}/tasks/{made['output']['task_id']}"
    while (answer := httpx.get(url, headers=server.headers)).json()["output"]["task_status"] != "SUCCEEDED":
        time.sleep(0.05)
    assert answer.headers["content-type"] == "application/json;charset=UTF-8"
    task = answer.json()
    assert list(task) == ["request_id", "output", "usage"]
    keys = ["task_id", "task_status", "submit_time", "scheduled_time", "end_time", "url"]
    assert list(task["output"]) == keys
    for key in keys[2:5]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", task["output"][key])
    assert re.search(r"/\S+_output_\d{13}\.txt\.gz\?Expires=\d+&Signature=\w+$", task["output"]["url"])
    forged = task["output"]["url"][:-1] + ("0" if task["output"]["url"][-1] != "0" else "1")
    assert httpx.get(forged).status_code == 403
    assert httpx.get(task["output"]["url"].partition("?")[0]).status_code == 403
    tail = f"{server.url}/tasks/{made['output']['task_id']}"
    assert httpx.get(tail, headers=server.headers).json()["output"]["task_id"] == made["output"]["task_id"]


def test_header_and_model_must_match(sdk: type[BatchTextEmbedding], server: Server) -> None:
    without = server.native({"model": MODEL, "input": {"texts": ["a"]}})
    assert (without.status_code, without.json()["code"]) == (403, "AccessDenied")
    assert without.json()["message"] == "current user api does not support synchronous calls."
    with_header = server.native(
        {"model": "text-embedding-v4", "input": {"texts": ["a"]}}, **{"X-DashScope-Async": "enable"}
    )
    assert (with_header.status_code, with_header.json()["code"]) == (403, "AccessDenied")
    assert with_header.json()["message"] == "Current user api does not support asynchronous calls."
    answer = sdk.async_call("text-embedding-v3", url="http://example.invalid/a.txt")
    assert (answer.status_code, answer.code) == (403, "AccessDenied")


def test_an_allowed_host_is_fetched(sdk: type[BatchTextEmbedding], site: str) -> None:
    answer = sdk.call(MODEL, url=f"http://{site}/in.txt")
    assert answer.output.task_status == "SUCCEEDED"
    assert len(read_result(answer.output.url)) == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/a.txt",
        "http://127.0.0.1:22/a.txt",
        "http://localhost/a.txt",
        "http://[::1]/a.txt",
        "http://169.254.169.254/latest/meta-data",  # on the list, and yet
        "file:///etc/passwd",
        "http://user@example.invalid/a.txt",
        "nothing",
    ],
)
def test_other_urls_are_refused_at_once(sdk: type[BatchTextEmbedding], url: str) -> None:
    answer = sdk.async_call(MODEL, url=url)
    assert (answer.status_code, answer.code) == (400, "InvalidURL")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/private.txt", "InvalidURL"),
        ("/missing.txt", "BadRequest.InputDownloadFailed"),
        ("/gbk.txt", "InvalidFile.NotUtf8"),
    ],
)
def test_what_goes_wrong_later_fails_the_task_with_200(
    sdk: type[BatchTextEmbedding], server: Server, site: str, path: str, code: str
) -> None:
    answer = sdk.call(MODEL, url=f"http://{site}{path}")
    assert (answer.status_code, answer.output.task_status, answer.usage) == (200, "FAILED", None)
    assert answer.output["code"] == code
    assert answer.output["message"]


def test_a_name_that_does_not_resolve(sdk: type[BatchTextEmbedding]) -> None:
    answer = sdk.call(MODEL, url="http://example.invalid/a.txt")
    assert answer.output["code"] == "InvalidURL.ConnectionRefused"


def test_files_of_other_workspaces_are_not_there(sdk: type[BatchTextEmbedding], server: Server) -> None:
    answer = sdk.async_call(MODEL, url=upload(server, b"mine"), workspace="other")
    assert answer.status_code == 404
    with pytest.raises(InvalidTask):
        sdk.call(MODEL, url=upload(server, b"mine"), workspace="other")


def test_unknown_tasks_are_told_with_200(sdk: type[BatchTextEmbedding], server: Server) -> None:
    answer = httpx.get(f"{server.native_url}/tasks/1111", headers=server.headers)
    assert answer.status_code == 200
    assert list(answer.json()) == ["request_id", "output"]
    assert answer.json()["output"] == {"task_id": "1111", "task_status": "UNKNOWN"}
    assert sdk.fetch("1111").output.task_status == "UNKNOWN"
    assert sdk.wait("1111").output.task_status == "UNKNOWN"


def test_only_pending_tasks_can_be_cancelled(
    sdk: type[BatchTextEmbedding], server: Server, site: str
) -> None:
    gate.clear()
    running = [sdk.async_call(MODEL, url=f"http://{site}/slow.txt") for _ in range(3)]
    while {"RUNNING"} != {sdk.fetch(task).output.task_status for task in running}:
        time.sleep(0.05)
    waiting = sdk.async_call(MODEL, url=f"http://{site}/slow.txt")
    assert sdk.fetch(waiting).output.task_status == "PENDING"
    assert sdk.cancel(waiting).status_code == 200
    assert sdk.fetch(waiting).output.task_status == "CANCELED"
    id = running[0].output.task_id
    answer = httpx.post(f"{server.native_url}/tasks/{id}/cancel", headers=server.headers)
    assert answer.status_code == 400
    assert list(answer.json()) == ["request_id", "code", "message"]
    assert answer.json()["code"] == "UnsupportedOperation"
    assert answer.json()["message"] == (
        "Failed to cancel the task, please confirm if the task is in PENDING status."
    )
    gate.set()
    for task in running:
        assert sdk.wait(task).output.task_status == "SUCCEEDED"


def test_a_revoked_key_fails_its_task_and_the_link_holds_what_is_done(
    sdk: type[BatchTextEmbedding], server: Server
) -> None:
    database = Database.open(server.data_dir)
    keys = KeyStore(database)
    (leaver, secret), (_, colleague) = (keys.create(name, "team") for name in ("leaver", "colleague"))
    url = upload(server, b"\n".join(b"text %d" % i for i in range(8000)), workspace="team")
    until = time.monotonic() + 30
    while (task := sdk.async_call(MODEL, url=url, api_key=secret)).status_code == 401:
        assert time.monotonic() < until  # a server looks for new keys twice a second
        time.sleep(0.05)
    while not billed(database, leaver.id):
        assert time.monotonic() < until
        time.sleep(0.02)
    keys.revoke(leaver.id)
    done = sdk.wait(task.output.task_id, api_key=colleague)
    assert (done.status_code, done.output.task_status) == (200, "FAILED")
    assert done.output["code"] == "InvalidApiKey"
    assert "revoked" in done.output["message"]
    lines = read_result(done.output["url"])
    assert 0 < len(lines) == billed(database, leaver.id) < 8000
    assert done.usage.total_tokens == sum(line["usage"]["total_tokens"] for line in lines)
    database.close()


def billed(database: Database, key_id: str) -> int:
    with database.read() as connection:
        count = sa.select(sa.func.count()).where(usage_requests.c.key_id == key_id)
        return connection.execute(count).scalar_one()


def test_a_model_that_the_key_may_not_use_makes_no_task(
    sdk: type[BatchTextEmbedding], server: Server
) -> None:
    database = Database.open(server.data_dir)
    _, secret = KeyStore(database).create("narrow", models=["text-embedding-v4"])
    database.close()
    url, until = "http://example.invalid/a.txt", time.monotonic() + 30
    while (answer := sdk.async_call(MODEL, url=url, api_key=secret)).status_code == 401:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert (answer.status_code, answer.code, answer.message) == (403, "AccessDenied", "Access denied.")


def test_the_list_filters_and_pages(sdk: type[BatchTextEmbedding], server: Server) -> None:
    space = "listed"
    file = httpx.post(
        f"{server.openai_url}/files",
        files={"file": ("a.txt", b"a")},
        data={"purpose": "batch"},
        headers=server.headers | {"X-DashScope-WorkSpace": space},
    ).json()
    url = f"{server.openai_url}/files/{file['id']}/content"
    for _ in range(3):
        assert sdk.call("text-embedding-async-v1", url=url, workspace=space).output.task_status == "SUCCEEDED"
    raw = httpx.get(
        f"{server.native_url}/tasks",
        params={"page_no": 2, "page_size": 2},
        headers=server.headers | {"X-DashScope-WorkSpace": space},
    ).json()
    assert list(raw) == ["total", "data", "total_page", "page_no", "request_id", "page_size"]
    assert (raw["total"], raw["total_page"], len(raw["data"])) == (3, 2, 1)
    assert list(raw["data"][0]) == [
        "api_key_id",
        "caller_parent_id",
        "caller_uid",
        "end_time",
        "gmt_create",
        "model_name",
        "region",
        "request_id",
        "start_time",
        "status",
        "task_id",
        "user_api_unique_key",
    ]
    assert raw["data"][0]["user_api_unique_key"].endswith(":text-embedding:text-embedding-async-v1")

    def total(**filters: str) -> int:
        answer = sdk.list(workspace=space, **filters)
        return int(answer.output["total"])

    assert total(status="SUCCEEDED", model_name="text-embedding-async-v1") == 3
    assert total(status="PENDING") == total(model_name=MODEL) == total(region="cn-beijing") == 0
    assert total(start_time="20200101000000", end_time="20200102000000") == 0


def test_the_second_generation_client(server: Server) -> None:
    from dashscope.v2 import Client

    client = Client(api_key=server.key, base_url=server.native_url)
    job = client.embeddings.jobs.create(model=MODEL, file_url=upload(server, b"one\ntwo"), text_type="query")
    done = client.embeddings.jobs.wait(job, poll_interval=0.1)
    assert done.succeeded
    # It looks for "tasks" where the recorded answer has "data", so of the list it sees the total.
    assert client.embeddings.jobs.list(status="SUCCEEDED", page_size=100).total >= 1
    assert client.embeddings.jobs.fetch("1111").status == "UNKNOWN"


def test_a_batch_tells_its_callback(server: Server, site: str) -> None:
    content = json.dumps(
        {
            "custom_id": "a",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "text-embedding-v4", "input": "a"},
        }
    ).encode()
    file_id = upload(server, content).split("/")[-2]
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "metadata": {"ds_batch_finish_callback": f"http://{site}/done"},
    }
    batch = httpx.post(f"{server.openai_url}/batches", json=body, headers=server.headers).json()
    until = time.monotonic() + 30
    while not told and time.monotonic() < until:
        time.sleep(0.05)
    assert [(item["id"], item["status"]) for item in told] == [(batch["id"], "completed")]
