"""No text and no key of a caller in anything that is written, at level debug, through doors that fail too."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path

import httpx
import pytest

from embedserve.logs import JSONFormatter, TextFormatter
from light_server import LightServer

MARK = "zanzibarmarmalade"
KEY = "sk-marked-0123456789abcdef"
ADMIN = "admin-marked-0123456789"
V4 = "text-embedding-v4"
NATIVE = "/api/v1/services/embeddings/text-embedding/text-embedding"


def knock(server: LightServer) -> None:
    """Every door, with the mark wherever a caller can put a text."""
    client = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    marked = {
        "X-Request-Id": MARK,
        "User-Agent": MARK,
        "X-Forwarded-For": MARK,
        "X-DashScope-WorkSpace": "default",
    }
    bodies = [
        {"model": V4, "input": MARK},
        {"model": V4, "input": [MARK] * 11},
        {"model": MARK, "input": MARK},
        {"model": V4, "input": {MARK: MARK}},
        {"model": V4, "input": MARK, "dimensions": MARK, "encoding_format": MARK},
        {"model": V4, "input": f"{MARK}\ud800\0"},
        {MARK: MARK},
    ]
    for body in bodies:
        content = json.dumps(body).encode()
        for path in (
            "/v1/embeddings",
            NATIVE,
            "/v1/batches",
            "/admin/keys",
            "/services/embeddings/multimodal-embedding/multimodal-embedding",
        ):
            client.post(path, content=content, headers=marked)
        client.post("/admin/keys", content=content, headers={"Authorization": f"Bearer {ADMIN}"})
        client.post(
            NATIVE,
            json=body
            | {
                "input": {"texts": [MARK], "url": f"http://{MARK}/[", MARK: 1},
                "parameters": {"text_type": MARK},
            }
            if "\ud800" not in str(body)
            else {},
            headers=marked,
        )
    for content in (MARK.encode(), b'{"input": "' + MARK.encode(), b"\xff" + MARK.encode()):
        client.post("/v1/embeddings", content=content, headers={"Content-Encoding": MARK})
    async_body = {"model": "text-embedding-async-v2", "input": {"url": f"http://{MARK}.example/{MARK}"}}
    client.post(NATIVE, json=async_body, headers={"X-DashScope-Async": "enable"})
    line = {
        "custom_id": MARK,
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": V4, "input": MARK},
    }
    lines = "\n".join(
        [json.dumps(line), json.dumps(line | {"custom_id": MARK + "2", "body": {"model": V4, "input": [1]}})]
    )
    form = {"files": {"file": (f"{MARK}.jsonl", lines.encode())}, "data": {"purpose": "batch"}}
    file = client.post("/v1/files", **form).json()["id"]
    batch = {
        "input_file_id": file,
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "metadata": {"ds_name": MARK, "ds_description": f"{MARK}\0"},
    }
    made = client.post("/v1/batches", json=batch).json()
    until = time.monotonic() + 30
    while client.get(f"/v1/batches/{made.get('id')}").json().get("status") not in (
        "completed",
        "failed",
        None,
    ):
        assert time.monotonic() < until
        time.sleep(0.1)
    client.post(
        "/v1/files", content=MARK.encode(), headers={"Content-Type": f"multipart/form-data; boundary={MARK}"}
    )
    for path in (
        f"/v1/files/{MARK}",
        f"/{MARK}",
        f"/v1/models/{MARK}",
        f"/api/v1/tasks/{MARK}%00",
        f"/admin/keys/{MARK}",
        f"/v1/batches?after={MARK}%00",
        f"/v1/files?limit={MARK}",
        f"/api/v1/results/{MARK}?Expires={MARK}",
    ):
        client.get(path, headers=marked)
        client.request(MARK.upper(), path, headers=marked)
    for wrong in (KEY + MARK, MARK, "x"):
        client.get("/v1/models", headers={"Authorization": f"Bearer {wrong}"})


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_of_a_caller_is_logged(form: str, database_url: str, tmp_path: Path) -> None:
    environment = {
        "EMBEDSERVE_LOG_LEVEL": "debug",
        "EMBEDSERVE_LOG_FORMAT": form,
        "EMBEDSERVE_ADMIN_KEY": ADMIN,
        "EMBEDSERVE_DATABASE_URL": database_url,
        "EMBEDSERVE_URL_HOSTS": "*.example",
    }
    with LightServer(key=KEY, environment=environment) as server:
        knock(server)
        metrics = httpx.get(f"{server.url}/metrics").text
        server.stop()
        written = (server.log + metrics).lower()
        assert "post /v1/embeddings 200" in written
        for secret in (MARK, KEY, ADMIN):
            assert secret not in written, re.findall(f".*{secret}.*", written)[:3]
        if form == "json":
            records = [json.loads(line) for line in server.log.splitlines()]
            asked = [r for r in records if r.get("route") == "/v1/embeddings" and r["status"] == 200]
            assert {"time", "method", "ms", "key", "model", "rows", "tokens", "in", "out", "id"} <= asked[
                0
            ].keys()
            assert (asked[0]["model"], asked[0]["rows"], asked[0]["tokens"]) == (V4, 1, 1)
            assert {
                r["route"] for r in records if r["logger"] == "embedserve.access" and MARK in str(r)
            } == set()


@pytest.mark.parametrize("formatter", [TextFormatter(), JSONFormatter()])
def test_an_error_is_logged_without_what_it_quotes(formatter: logging.Formatter) -> None:
    def stumble() -> None:
        try:
            {}[MARK]
        except KeyError:
            raise ExceptionGroup(
                MARK, [ValueError(MARK), UnicodeDecodeError("utf-8", MARK.encode(), 0, 1, MARK)]
            ) from None

    try:
        stumble()
    except ExceptionGroup as error:
        record = logging.LogRecord(
            "asyncio",
            40,
            __file__,
            1,
            f"never retrieved\nfuture: {MARK!r}",
            None,
            (type(error), error, error.__traceback__),
        )
    told = formatter.format(record)
    assert MARK not in told
    assert "in stumble" in told
    assert "ValueError" in told
    if isinstance(formatter, JSONFormatter):
        assert json.loads(told)["message"] == "never retrieved"
