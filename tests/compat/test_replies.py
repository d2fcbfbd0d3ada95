"""Replies to the byte: key order, ids, headers, the aliases of paths."""

from __future__ import annotations

import base64
import struct
from typing import Any

import httpx
import pytest

from serving import Server

pytestmark = pytest.mark.quick

V4 = "text-embedding-v4"
POEM = ["风急天高猿啸哀", "渚清沙白鸟飞回", "无边落木萧萧下", "不尽长江滚滚来"]


def test_openai_mode(server: Server) -> None:
    reply = server.openai({"model": V4, "input": POEM, "dimensions": 64, "encoding_format": "float"})
    body = reply.json()
    assert list(body) == ["data", "model", "object", "usage", "id"]
    assert [list(row) for row in body["data"]] == [["embedding", "index", "object"]] * 4
    assert [row["index"] for row in body["data"]] == [0, 1, 2, 3]
    assert (body["model"], body["object"]) == (V4, "list")
    assert list(body["usage"]) == ["prompt_tokens", "total_tokens"]
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0
    assert reply.headers["x-request-id"] == body["id"]


def test_native(server: Server) -> None:
    reply = server.native({"model": V4, "input": {"texts": POEM}, "parameters": {"dimension": 64}})
    body = reply.json()
    assert list(body) == ["output", "usage", "request_id"]
    assert list(body["output"]) == ["embeddings"]
    assert [list(row) for row in body["output"]["embeddings"]] == [["embedding", "text_index"]] * 4
    assert [row["text_index"] for row in body["output"]["embeddings"]] == [0, 1, 2, 3]
    assert list(body["usage"]) == ["total_tokens"]
    assert reply.headers["x-request-id"] == body["request_id"]


@pytest.mark.parametrize(
    ("output_type", "keys"),
    [
        ("dense", ["embedding", "text_index"]),
        ("sparse", ["sparse_embedding", "text_index"]),
        ("dense&sparse", ["sparse_embedding", "embedding", "text_index"]),
    ],
)
def test_native_output_types(server: Server, output_type: str, keys: list[str]) -> None:
    for model in (V4, "text-embedding-v3"):
        body = {"model": model, "input": {"texts": POEM}, "parameters": {"output_type": output_type}}
        rows = server.native(body).json()["output"]["embeddings"]
        assert [list(row) for row in rows] == [keys] * 4


def test_usage_is_the_same_whatever_is_asked(server: Server) -> None:
    def tokens(**parameters: Any) -> int:
        body = {"model": V4, "input": {"texts": POEM}, "parameters": parameters}
        return int(server.native(body).json()["usage"]["total_tokens"])

    plain = tokens()
    assert plain == tokens(output_type="dense&sparse") == tokens(text_type="query", instruct="Find poems")
    openai = server.openai({"model": V4, "input": POEM}).json()["usage"]["total_tokens"]
    assert openai == plain


def test_parameters_may_be_absent_null_or_empty(server: Server) -> None:
    body: dict[str, Any] = {"model": V4, "input": {"texts": POEM}}
    replies = [server.native(body | more) for more in ({}, {"parameters": None}, {"parameters": {}})]
    assert len({str(reply.json()["output"]) for reply in replies}) == 1


def test_native_texts_may_be_one_string(server: Server) -> None:
    one = server.native({"model": V4, "input": {"texts": POEM[0]}}).json()
    assert one["output"] == server.native({"model": V4, "input": {"texts": POEM[:1]}}).json()["output"]


def test_strict_mode_ignores_the_native_only_fields_in_openai_mode(server: Server) -> None:
    body = {"model": V4, "input": POEM[0]}
    fields = {"text_type": "document", "instruct": "Find poems", "output_type": "dense&sparse", "truncate": 1}
    assert server.openai(body | fields).json()["data"] == server.openai(body).json()["data"]


def test_sparse_in_openai_mode_is_an_empty_vector(server: Server) -> None:
    body = {"model": V4, "input": POEM, "output_type": "sparse"}
    rows = server.openai(body).json()["data"]
    assert [row["embedding"] for row in rows] == [[]] * 4
    rows = server.openai(body | {"encoding_format": "base64"}).json()["data"]
    assert [row["embedding"] for row in rows] == [""] * 4


def test_base64_is_little_endian_float32(server: Server) -> None:
    body = {"model": V4, "input": POEM[0], "dimensions": 64}
    packed = server.openai(body | {"encoding_format": "base64"}).json()["data"][0]["embedding"]
    floats = server.openai(body).json()["data"][0]["embedding"]
    raw = base64.b64decode(packed, validate=True)
    assert len(raw) == 4 * 64
    assert raw == struct.pack("<64f", *floats)


def test_line_ends_of_a_file_do_not_count(server: Server) -> None:
    with_ends = server.openai({"model": V4, "input": ["one\n", "two\r\n"]}).json()
    without = server.openai({"model": V4, "input": ["one", "two"]}).json()
    assert (with_ends["data"], with_ends["usage"]) == (without["data"], without["usage"])


@pytest.mark.parametrize("path", ["/compatible-mode/v1/embeddings", "/v1/embeddings", "/embeddings"])
def test_paths_of_openai_mode(server: Server, path: str) -> None:
    body = {"model": V4, "input": "x"}
    assert httpx.post(server.url + path, json=body, headers=server.headers).status_code == 200


@pytest.mark.parametrize("root", ["/api/v1", ""])
def test_paths_of_the_native_api(server: Server, root: str) -> None:
    url = f"{server.url}{root}/services/embeddings/text-embedding/text-embedding"
    body = {"model": V4, "input": {"texts": ["x"]}}
    assert httpx.post(url, json=body, headers=server.headers).status_code == 200


def test_the_content_type_of_a_request_does_not_matter(server: Server) -> None:
    for content_type in ("application/json; charset=utf-8", "text/plain", "application/octet-stream"):
        reply = server.openai({"model": V4, "input": "x"}, **{"Content-Type": content_type})
        assert reply.status_code == 200


def test_every_reply_has_an_id_of_its_own(server: Server) -> None:
    urls = [f"{server.openai_url}/models", f"{server.url}/health", f"{server.url}/nothing", server.url]
    ids = {httpx.get(url, headers=server.headers).headers["x-request-id"] for url in urls * 2}
    assert len(ids) == 2 * len(urls)


def test_a_model_says_what_serves_it(server: Server) -> None:
    told = httpx.get(f"{server.openai_url}/models/{V4}", headers=server.headers).json()
    assert list(told)[:4] == ["id", "object", "created", "owned_by"]
    assert told["embedserve"]["dimensions"] == [2048, 1536, 1024, 768, 512, 256, 128, 64]
    assert told["embedserve"]["max_rows"] == 10
    assert told["embedserve"]["backbone"]
    assert told["embedserve"]["recipe"]["name"]


def test_health_readiness_and_metrics(server: Server) -> None:
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert httpx.get(f"{server.url}/ready").json()["status"] == "ready"
    metrics = httpx.get(f"{server.url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'embedserve_requests_total{route="openai.create_embeddings",status="200"}' in metrics.text
