"""Files and batches through the official ``openai`` SDK against a real server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from openai import AuthenticationError, BadRequestError, ConflictError, NotFoundError, OpenAI
from openai.types import Batch

from embedserve.accounts.keys import KeyStore
from embedserve.storage.database import Database
from serving import Server

DONE = ("completed", "failed", "expired", "cancelled")
BATCH_KEYS = [
    "id",
    "object",
    "endpoint",
    "errors",
    "input_file_id",
    "completion_window",
    "status",
    "output_file_id",
    "error_file_id",
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
    "request_counts",
    "metadata",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With a small upload limit, and no host that may be called back."""
    with Server(environment={"EMBEDSERVE_MAX_FILE_MB": "8"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(api_key=server.key, base_url=server.openai_url, max_retries=0)


def line(custom_id: str, url: str = "/v1/embeddings", method: str = "POST", **body: Any) -> str:
    body = {"model": "text-embedding-v4", "input": f"text of {custom_id}"} | body
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": body})


def upload(client: OpenAI, *lines: str, name: str = "in.jsonl") -> str:
    return client.files.create(file=(name, "\n".join(lines).encode()), purpose="batch").id


def create(client: OpenAI, file_id: str, **fields: Any) -> Batch:
    given: dict[str, Any] = {"endpoint": "/v1/embeddings", "completion_window": "24h"} | fields
    return client.batches.create(input_file_id=file_id, **given)


def wait(client: OpenAI, batch: Batch) -> Batch:
    until = time.monotonic() + 60
    while batch.status not in DONE and time.monotonic() < until:
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def lines_of(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def test_a_batch_gives_the_bytes_that_a_request_gives(client: OpenAI, server: Server) -> None:
    texts = ["风急天高猿啸哀", "渚清沙白鸟飞回"]
    file_id = upload(
        client,
        line("one", input=texts, dimensions=256),
        "",
        line("two", input=texts[0], dimensions=64, encoding_format="base64"),
        line("sparse", output_type="sparse"),
    )
    batch = wait(client, create(client, file_id, metadata={"ds_name": "poem", "ds_description": "two lines"}))
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"completed": 3, "failed": 0, "total": 3}
    one, two, sparse = lines_of(client, batch.output_file_id)
    assert list(one) == ["id", "custom_id", "response", "error"]
    assert list(one["response"]) == ["status_code", "request_id", "body"]
    assert list(one["response"]["body"]) == ["data", "model", "object", "usage", "id"]
    assert (one["custom_id"], one["error"], one["response"]["status_code"]) == ("one", None, 200)
    assert one["id"] == one["response"]["request_id"] == one["response"]["body"]["id"]
    asked = client.embeddings.create(
        model="text-embedding-v4", input=texts, dimensions=256, encoding_format="float"
    )
    assert [row["embedding"] for row in one["response"]["body"]["data"]] == [r.embedding for r in asked.data]
    assert one["response"]["body"]["usage"]["total_tokens"] == asked.usage.total_tokens
    packed = np.frombuffer(base64.b64decode(two["response"]["body"]["data"][0]["embedding"]), "<f4")
    single = client.embeddings.create(model="text-embedding-v4", input=texts[0], dimensions=64)
    assert packed.tolist() == single.data[0].embedding
    assert sparse["response"]["body"]["data"][0]["embedding"] == []


def test_shapes_and_key_order(client: OpenAI, server: Server) -> None:
    form = {
        "files": {"file": ("a.jsonl", line("a"))},
        "data": {"purpose": "batch"},
        "headers": server.headers,
    }
    file = httpx.post(f"{server.openai_url}/files", **form).json()  # type: ignore[arg-type]
    assert list(file) == [
        "id",
        "object",
        "bytes",
        "filename",
        "purpose",
        "status",
        "created_at",
        "status_details",
    ]
    assert file["id"].startswith("file-batch-")
    assert len(file["id"]) == len("file-batch-") + 24
    body = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "1d"}
    fresh = httpx.post(f"{server.openai_url}/batches", json=body, headers=server.headers)
    batch = fresh.json()
    assert list(batch) == BATCH_KEYS
    assert batch["id"].startswith("batch_")
    assert (batch["status"], batch["metadata"], batch["expires_at"]) == ("validating", None, None)
    assert list(batch["request_counts"].items()) == [("total", 0), ("completed", 0), ("failed", 0)]
    assert fresh.headers["x-request-id"]
    done = wait(client, client.batches.retrieve(batch["id"]))
    assert done.output_file_id is not None
    assert done.output_file_id.startswith("file-batch_output-")
    assert done.completed_at is not None
    assert done.in_progress_at is not None
    with_v1 = httpx.get(f"{server.url}/v1/batches/{batch['id']}", headers=server.headers)
    assert with_v1.json()["status"] == "completed"


def test_failed_lines_go_to_the_error_file_and_are_not_billed(client: OpenAI, server: Server) -> None:
    before = billed(server)
    file_id = upload(
        client, line("good", input="hello"), line("bad", input=""), line("many", input=["x"] * 11)
    )
    batch = wait(client, create(client, file_id))
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    (good,) = lines_of(client, batch.output_file_id)
    bad, many = lines_of(client, batch.error_file_id)
    assert batch.error_file_id is not None
    assert batch.error_file_id.startswith("file-batch_error-")
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("bad", 400)
    assert bad["error"]["code"] == "InvalidParameter"
    assert "batch size is invalid" in many["error"]["message"]
    after = billed(server)
    assert after[0] - before[0] == 1
    assert after[1] - before[1] == good["response"]["body"]["usage"]["total_tokens"]


def billed(server: Server) -> tuple[int, int]:
    """(requests, tokens) of the batch door, from the ledger on disk."""
    import sqlite3

    with sqlite3.connect(server.data_dir / "embedserve.db") as database:
        row = database.execute(
            "SELECT coalesce(sum(requests), 0), coalesce(sum(tokens), 0) FROM usage_daily "
            "WHERE door = 'batch'"
        ).fetchone()
    database.close()
    return int(row[0]), int(row[1])


BAD_FILES: dict[str, tuple[list[str], str | None, int | None]] = {
    "invalid_json_line": ([line("a"), "{"], None, 2),
    "duplicate_custom_id": ([line("a"), line("a")], "custom_id", 2),
    "mismatched_model": ([line("a"), line("b", model="text-embedding-v3")], "body.model", 2),
    "url_not_found": ([line("a", url="/v1/chat/completion")], "url", 1),
    "mismatched_url": ([line("a", url="/v1/chat/ds-test")], "url", 1),
    "model_not_found": ([line("a", model="gpt-4")], "body.model", 1),
    "invalid_method": ([line("a", method="GET")], "method", 1),
    "missing_required_parameter": (['{"method": "POST"}'], "custom_id", 1),
    "empty_file": (["", "  "], None, None),
    "line_too_long": ([line("a", input="x" * 6 * 2**20)], None, 1),
}


WORDS = {
    "duplicate_custom_id": "The custom_id 'a' for this request is a duplicate of another request. ",
    "mismatched_model": "The model 'text-embedding-v3' for this request does not match the rest of the "
    "batch. Each batch must contain requests for a single model.",
    "url_not_found": "The provided url '/v1/chat/completion' is not supported by the Batch API.",
    "model_not_found": "The provided model gpt-4 is not supported by the Batch API.",
}
"""The original's, where they are known."""


@pytest.mark.parametrize("code", BAD_FILES)
def test_a_file_that_cannot_run_fails_the_batch(client: OpenAI, code: str) -> None:
    lines, param, number = BAD_FILES[code]
    batch = wait(client, create(client, upload(client, *lines)))
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.object == "list"
    assert batch.errors.data is not None
    problem = batch.errors.data[0]
    assert (problem.code, problem.param, problem.line) == (code, param, number)
    assert (problem.message or "").startswith(WORDS.get(code, ""))
    assert batch.output_file_id is None


def test_the_recorded_message_of_a_wrong_url(client: OpenAI) -> None:
    batch = wait(client, create(client, upload(client, line("a", url="/v1/chat/completion"))))
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert batch.errors.data[0].message == (
        "The provided url '/v1/chat/completion' is not supported by the Batch API."
    )


def test_too_many_lines(client: OpenAI) -> None:
    lines = [line(str(i), input="a") for i in range(50_001)]
    batch = wait(client, create(client, upload(client, *lines)))
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert (batch.status, batch.errors.data[0].code) == ("failed", "too_many_lines")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"completion_window": "23h"}, "completion_window"),
        ({"completion_window": "337h"}, "completion_window"),
        ({"completion_window": "15d"}, "completion_window"),
        ({"completion_window": "1.5d"}, "completion_window"),
        ({"metadata": {"ds_name": "x" * 101}}, "metadata.ds_name"),
        ({"metadata": {"ds_description": "x" * 201}}, "metadata.ds_description"),
        (
            {"metadata": {"ds_batch_finish_callback": "http://169.254.169.254/"}},
            "metadata.ds_batch_finish_callback",
        ),
    ],
)
def test_create_is_refused(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    file_id = upload(client, line("a"))
    with pytest.raises(BadRequestError) as caught:
        create(client, file_id, **fields)
    assert (caught.value.param, caught.value.type, caught.value.code) == (
        param,
        "invalid_request_error",
        None,
    )


@pytest.mark.parametrize("window", ["24h", "336h", "14d", "1d"])
def test_windows_in_hours_and_days(client: OpenAI, window: str) -> None:
    assert create(client, upload(client, line("a")), completion_window=window).completion_window == window


def test_unknown_ids_are_404(client: OpenAI) -> None:
    for call in (
        lambda: create(client, "file-batch-none"),
        lambda: client.batches.retrieve("batch_none"),
        lambda: client.batches.cancel("batch_none"),
        lambda: client.files.retrieve("file-batch-none"),
        lambda: client.files.content("file-batch-none"),
        lambda: client.files.delete("file-batch-none"),
    ):
        with pytest.raises(NotFoundError):
            call()


def test_files_are_listed_read_and_deleted(client: OpenAI) -> None:
    ids = [upload(client, line(str(i)), name=f"../{i}.jsonl") for i in range(3)]
    page = client.files.list(limit=2, purpose="batch")
    assert [file.id for file in page.data] == [ids[2], ids[1]]
    assert page.has_more
    assert page.data[0].filename == "2.jsonl"
    following = page.get_next_page()
    assert following.data[0].id == ids[0]
    assert client.files.content(ids[0]).content == line("0").encode()
    deleted = client.files.delete(ids[0])
    assert (deleted.id, deleted.object, deleted.deleted) == (ids[0], "file", True)
    with pytest.raises(NotFoundError):
        client.files.retrieve(ids[0])
    assert client.files.list(extra_query={"create_before": "20200101000000"}).data == []


def test_wrong_uploads_are_refused(client: OpenAI, server: Server) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.files.create(file=("a.jsonl", b"x"), purpose="assistants")
    assert (caught.value.param, caught.value.code) == ("purpose", None)
    with pytest.raises(BadRequestError, match="Payload Too Large") as large:
        client.files.create(file=("a.jsonl", b"x" * (8 * 2**20 + 1)), purpose="batch")
    assert large.value.code == "BadRequest.TooLarge"
    url = f"{server.openai_url}/files"
    assert httpx.post(url, content=b"x", headers=server.headers).status_code == 400
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    headers = server.headers | {"content-type": "multipart/form-data; boundary=b"}
    assert httpx.post(url, content=cut, headers=headers).status_code == 400
    assert httpx.post(url, files={"file": ("a", b"x")}).status_code == 401
    assert not list((server.data_dir / "files" / "uploads").glob(".draft*"))


def test_a_file_of_exactly_the_limit_is_taken(client: OpenAI) -> None:
    file = client.files.create(file=("a.jsonl", b"x" * (8 * 2**20)), purpose="batch")
    assert file.bytes == 8 * 2**20
    client.files.delete(file.id)


def test_an_upload_may_expire(client: OpenAI) -> None:
    file = client.files.create(
        file=("a.jsonl", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(BadRequestError):
        client.files.create(
            file=("a.jsonl", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 60}
        )


def test_cancel_answers_the_open_lines(client: OpenAI, server: Server) -> None:
    before = billed(server)
    lines = [line(str(i), input=[f"text {i}, row {j}" for j in range(8)]) for i in range(1500)]
    batch = create(client, upload(client, *lines))
    until = time.monotonic() + 30
    while time.monotonic() < until:
        current = client.batches.retrieve(batch.id)
        if current.request_counts and current.request_counts.completed:
            break
        time.sleep(0.02)
    with pytest.raises(ConflictError):  # a file in use stays
        client.files.delete(batch.input_file_id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = wait(client, batch)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    assert batch.cancelling_at is not None
    counts = batch.request_counts
    assert counts is not None
    assert counts.total == counts.completed + counts.failed == 1500
    assert counts.failed > 0
    finished = lines_of(client, batch.output_file_id)
    assert len(finished) == counts.completed
    errors = lines_of(client, batch.error_file_id)
    assert {entry["error"]["code"] for entry in errors} == {"batch_cancelled"}
    assert {entry["custom_id"] for entry in finished + errors} == {str(i) for i in range(1500)}
    assert billed(server)[0] - before[0] == counts.completed
    with pytest.raises(ConflictError):
        client.batches.cancel(batch.id)


def test_a_revoked_key_ends_its_batch_and_keeps_what_is_done(client: OpenAI, server: Server) -> None:
    before = billed(server)
    database = Database.open(server.data_dir)
    keys = KeyStore(database)
    (leaver, secret), (_, colleague) = (keys.create(name, "team") for name in ("leaver", "colleague"))
    owner, reader = client.with_options(api_key=secret), client.with_options(api_key=colleague)
    until = time.monotonic() + 30
    while not (is_let_in(owner) and is_let_in(reader)):  # a server looks for new keys twice a second
        assert time.monotonic() < until
    lines = [line(str(i), input=[f"text {i}, row {j}" for j in range(8)]) for i in range(500)]
    batch = create(owner, upload(owner, *lines))
    while not (counts := reader.batches.retrieve(batch.id).request_counts) or not counts.completed:
        assert time.monotonic() < until
        time.sleep(0.02)
    keys.revoke(leaver.id)
    database.close()
    batch = wait(reader, batch)
    assert (batch.status, batch.error_file_id) == ("failed", None)
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert [entry.code for entry in batch.errors.data or []] == ["invalid_api_key"]
    counts = batch.request_counts
    assert counts is not None
    assert 0 < counts.completed < counts.total == 500
    assert counts.failed == 0
    assert len(lines_of(reader, batch.output_file_id)) == counts.completed == billed(server)[0] - before[0]
    assert not is_let_in(owner)


def is_let_in(client: OpenAI) -> bool:
    try:
        client.files.list()
    except AuthenticationError:
        time.sleep(0.05)
        return False
    return True


def test_the_list_filters_and_pages(client: OpenAI, server: Server) -> None:
    ids = []
    for i in range(3):
        batch = create(client, upload(client, line("a")), metadata={"ds_name": f"Filter-{i}_%"})
        ids.append(wait(client, batch).id)
    found = client.batches.list(extra_query={"ds_name": "filter-"}, limit=2)
    assert [batch.id for batch in found.data] == [ids[2], ids[1]]
    assert [batch.id for batch in found.get_next_page().data] == [ids[0]]
    url = f"{server.openai_url}/batches"

    def listed(**query: str) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(url, params=query, headers=server.headers).json()
        return answer

    one = listed(ds_name="Filter-1_%", status="completed,failed", create_after="20200101000000")
    assert (one["first_id"], one["last_id"], one["has_more"]) == (ids[1], ids[1], False)
    by_file = listed(input_file_ids=one["data"][0]["input_file_id"])
    assert [batch["id"] for batch in by_file["data"]] == [ids[1]]
    nothing = {"object": "list", "data": None, "first_id": None, "last_id": None, "has_more": False}
    assert listed(ds_name="no such name") == nothing
    assert listed(ds_name="Filter-1x") == nothing  # % and _ stand for themselves
    assert listed(create_before="20200101000000") == nothing
    for query in ({"status": "done"}, {"limit": "0"}, {"create_after": "yesterday"}):
        assert httpx.get(url, params=query, headers=server.headers).status_code == 400


def test_the_test_model_costs_nothing(client: OpenAI, server: Server) -> None:
    before = billed(server)
    lines = [line(str(i), url="/v1/chat/ds-test", model="batch-test-model") for i in range(100)]
    batch = wait(client, create(client, upload(client, *lines), endpoint="/v1/chat/ds-test"))
    assert batch.status == "completed"
    first = lines_of(client, batch.output_file_id)[0]
    assert first["response"]["status_code"] == 200
    assert billed(server) == before
    lines.append(line("100", url="/v1/chat/ds-test", model="batch-test-model"))
    batch = wait(client, create(client, upload(client, *lines), endpoint="/v1/chat/ds-test"))
    assert batch.status == "failed"


def test_workspaces_do_not_see_each_other(client: OpenAI, server: Server) -> None:
    other = client.with_options(default_headers={"X-DashScope-WorkSpace": "other"})
    file_id = upload(client, line("a"))
    batch = wait(client, create(client, file_id))
    for call in (
        lambda: other.files.retrieve(file_id),
        lambda: other.files.content(file_id),
        lambda: other.files.delete(file_id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: create(other, file_id),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert other.files.list().data == []
