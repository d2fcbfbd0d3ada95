"""Dialects below a prefix, request ids, metrics for whom, readiness of configured models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from embedserve.embedding.embedder import Embedder
from embedserve.http.app import create_app
from embedserve.service import EmbeddingService
from embedserve.settings import Settings
from light_server import LightServer, use_light_embedder
from serving import KEY

HEADERS = {"Authorization": f"Bearer {KEY}"}
NATIVE = "/api/v1/services/embeddings/text-embedding/text-embedding"
TOKEN = "token-of-sixteen-or-more"


@pytest.fixture
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The application mounted in another one, below /ai."""
    monkeypatch.setattr(Embedder, "configure", Embedder.configure)  # put back what is replaced next
    use_light_embedder()
    app = create_app(EmbeddingService.open(Settings(data_dir=tmp_path, api_key=KEY)))
    inner = app
    while not isinstance(inner, Starlette):
        inner = inner.app  # type: ignore[attr-defined]
    outer = Starlette(routes=[Mount("/ai", app)], lifespan=inner.router.lifespan_context)
    with TestClient(outer, raise_server_exceptions=False) as client:
        yield client


def test_below_a_prefix_every_error_is_told_in_the_dialect_of_its_route(below: TestClient) -> None:
    for method, path in (
        ("POST", NATIVE),
        ("GET", NATIVE),
        ("GET", "/api/v1/nothing"),
        ("GET", "/api/v1/tasks"),
        ("DELETE", "/tasks/x"),
        ("GET", "/services/x"),
        ("GET", "/api/v1/tasks/%00"),
    ):
        assert below.request(method, f"/ai{path}").json().keys() == {"code", "message", "request_id"}, path
    for method, path in (
        ("POST", "/v1/embeddings"),
        ("GET", "/compatible-mode/v1/embeddings"),
        ("GET", "/v1/files/%00"),
        ("GET", "/apiary"),
        ("GET", "/tasksx"),
    ):
        assert below.request(method, f"/ai{path}").json()["error"]["message"], path
    answer = below.post(
        f"/ai{NATIVE}", json={"model": "text-embedding-v4", "input": {"texts": ["a"]}}, headers=HEADERS
    )
    assert answer.status_code == 200
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_request_has_one_id_and_it_is_ours() -> None:
    with LightServer() as server:
        for path in ("/v1/models", "/nothing", "/health", "/v1/files/%00"):
            headers = {**HEADERS, "X-Request-Id": "of-the-caller"}
            reply = httpx.get(f"{server.url}{path}", headers=headers)
            given = reply.headers.get_list("x-request-id")
            assert len(given) == 1
            assert re.fullmatch(r"[0-9a-f-]{36}", given[0])
        assert "of-the-caller" not in server.log


THROUGH_A_PROXY = [
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Host": "localhost"},
    {"Forwarded": "for=127.0.0.1"},
    {"X-Real-IP": "127.0.0.1"},
    {"CF-Connecting-IP": "127.0.0.1"},
    {"True-Client-IP": "127.0.0.1"},
    {"X-Envoy-External-Address": "127.0.0.1"},
    {"Via": "1.1 proxy"},
    {"Host": "embeddings.example.com"},  # a proxy that adds nothing, or a name that leads a browser here
    {"Host": "203.0.113.5:8080"},
    {"Host": "localhost.example.com"},
    {"Host": "127.0.0.1.example.com"},
]


def test_metrics_are_for_this_machine_and_not_for_whoever_comes_through_a_proxy_on_it() -> None:
    with LightServer() as server:
        url = f"{server.url}/metrics"
        for host in ("127.0.0.1", "localhost:8080", "LOCALHOST.", "[::1]:80"):
            assert httpx.get(url, headers={"Host": host}).status_code == 200, host
        for headers in THROUGH_A_PROXY:
            refused = httpx.get(url, headers=headers)
            assert refused.status_code == 403, headers
            assert "EMBEDSERVE_METRICS_TOKEN" in refused.json()["error"]["message"]


def test_with_a_token_metrics_are_for_its_bearer_alone_and_labels_are_bounded() -> None:
    with LightServer(environment={"EMBEDSERVE_METRICS_TOKEN": TOKEN}) as server:
        url = f"{server.url}/metrics"
        for headers in (
            {},
            HEADERS,
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
        ):
            assert httpx.get(url, headers=headers).status_code == 401
        for path in ("/a", "/b/c", "/v1/files/x"):
            httpx.request("PROPFIND", f"{server.url}{path}")
            httpx.get(f"{server.url}{path}")
        text = httpx.get(
            url, headers={"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "192.0.2.1"}
        ).text
        routes = set(re.findall(r'embedserve_requests_total\{route="([^"]+)"', text))
        assert routes == {"other", "probes.ready", "probes.metrics", "openai.get_file"} or "other" in routes
        assert not [route for route in routes if "/" in route]


def test_a_configured_server_that_is_away_starts_and_says_so_to_the_probe() -> None:
    away = "http://me:password@127.0.0.1:9/v1#some-model"
    server = LightServer("--model", f"text-embedding-v3={away}", timeout=8)
    with pytest.raises(RuntimeError, match="did not get ready"):
        server.start()
    try:
        mine = httpx.get(f"{server.url}/ready")
        assert mine.status_code == 503
        assert "text-embedding-v3" in mine.json()["reason"]
        strangers = httpx.get(f"{server.url}/ready", headers={"X-Forwarded-For": "192.0.2.1"})
        assert strangers.json()["reason"] == "text-embedding-v3 cannot be served"
        told = [line for line in server.log.splitlines() if "text-embedding-v3 cannot be served" in line]
        assert len(told) == 1
        assert "password" not in server.log
        assert server.openai({"model": "text-embedding-v4", "input": "a"}).status_code == 200
    finally:
        server.stop()
