from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from light_server import LightServer

ADMIN = "admin-key-of-the-tests-0123"


@pytest.fixture(scope="module")
def server() -> Iterator[LightServer]:
    with LightServer(environment={"EMBEDSERVE_ADMIN_KEY": ADMIN}) as running:
        yield running


@pytest.fixture
def admin(server: LightServer) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"{server.url}/admin", headers={"Authorization": f"Bearer {ADMIN}"}, timeout=30
    ) as client:
        yield client


def embed(server: LightServer, secret: str, model: str = "text-embedding-v4") -> httpx.Response:
    return server.openai({"model": model, "input": "one two three"}, Authorization=f"Bearer {secret}")


def test_a_key_from_its_making_to_its_end(server: LightServer, admin: httpx.Client) -> None:
    made = admin.post("/keys", json={"name": "alice", "workspace": "team-a", "models": ["text-embedding-v4"]})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    key, secret = made.json(), made.json()["secret"]
    assert key["state"] == "active"
    assert secret.startswith(key["prefix"].rstrip("…"))

    assert embed(server, secret).status_code == 200
    denied = embed(server, secret, "text-embedding-v3")
    assert denied.status_code == 403
    assert denied.json()["error"] == {
        "message": "Access denied.",
        "type": "access_denied",
        "param": None,
        "code": "access_denied",
    }
    native = server.native(
        {"model": "text-embedding-v3", "input": {"texts": ["a"]}}, Authorization=f"Bearer {secret}"
    )
    assert native.status_code == 403
    assert native.json()["code"] == "AccessDenied"
    assert native.json()["message"] == "Access denied."

    rotated = admin.post(f"/keys/{key['id']}/rotate").json()["secret"]
    assert embed(server, secret).status_code == 401
    assert embed(server, rotated).status_code == 200

    assert admin.post(f"/keys/{key['id']}/revoke").json()["state"] == "revoked"
    assert embed(server, rotated).status_code == 401
    shown = {k["id"]: k for k in admin.get("/keys").json()["data"]}[key["id"]]
    assert shown["state"] == "revoked"
    assert "secret" not in shown
    assert "digest" not in shown


def test_the_ledger_says_what_was_answered(server: LightServer, admin: httpx.Client) -> None:
    made = admin.post("/keys", json={"name": "=bob"}).json()
    for _ in range(3):
        assert embed(server, made["secret"]).status_code == 200
    assert embed(server, made["secret"], "no-such-model").status_code == 404
    today = datetime.now(UTC).date().isoformat()
    [row] = [r for r in admin.get("/usage", params={"by": "key"}).json()["data"] if r["group"] == made["id"]]
    tokens = server.openai({"model": "text-embedding-v4", "input": "one two three"}).json()["usage"]
    assert (row["name"], row["requests"], row["tokens"]) == ("=bob", 3, 3 * tokens["total_tokens"])
    assert row["cny"] == pytest.approx(row["tokens"] / 1000 * 0.0005)
    by_day = admin.get(
        "/usage", params={"by": "day", "key": made["id"], "since": today, "until": today}
    ).json()
    assert by_day["data"][0]["requests"] == 3
    told = admin.get("/usage", params={"by": "key", "format": "csv", "key": made["id"]})
    assert told.headers["content-type"].startswith("text/csv")
    [line] = list(csv.DictReader(io.StringIO(told.text)))
    assert line["name"] == "'=bob"  # no spreadsheet takes it for a formula
    metrics = httpx.get(f"{server.url}/metrics").text
    assert f'key="{made["id"]}"' in metrics
    assert "embedserve_billed_tokens_total" in metrics


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer x", f"Basic {ADMIN}", "api-key"])
def test_only_the_admin_key_opens_the_admin_api(server: LightServer, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    if authorization == "api-key":
        headers = server.headers
    for method, path in (("GET", "/keys"), ("POST", "/keys"), ("GET", "/usage"), ("POST", "/keys/x/revoke")):
        reply = httpx.request(method, f"{server.url}/admin{path}", headers=headers)
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "invalid_api_key"


def test_the_admin_key_embeds_nothing(server: LightServer) -> None:
    assert embed(server, ADMIN).status_code == 401


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/keys", {"rpm": 0}, 400, "rpm"),
        ("/keys", {"workspace": "a b"}, 400, "no workspace"),
        ("/keys", {"nonsense": 1}, 400, "nonsense"),
        ("/keys", {"expires_at": "2001-01-01T00:00:00Z"}, 400, "past"),
        ("/keys", {"name": "x" * 70_000}, 400, "65536"),
        ("/keys/none/revoke", {}, 404, "no key none"),
        ("/keys/none/rotate", {}, 404, "no key none"),
    ],
)
def test_refusals_say_why(admin: httpx.Client, path: str, body: object, status: int, words: str) -> None:
    reply = admin.post(path, json=body)
    assert reply.status_code == status
    assert words in reply.json()["error"]["message"]


def test_bad_queries_are_refused(admin: httpx.Client) -> None:
    for query in ({"by": "colour"}, {"since": "yesterday"}, {"format": "xml"}):
        assert admin.get("/usage", params=query).status_code == 400


def test_without_an_admin_key_there_is_no_admin_api() -> None:
    with LightServer() as server:
        assert httpx.get(f"{server.url}/admin/keys").status_code == 404


def test_a_key_revoked_on_the_command_line_is_refused_within_a_second(
    server: LightServer, admin: httpx.Client
) -> None:
    """The command line and the server are two processes: neither tells the other."""
    from embedserve.accounts.keys import KeyStore
    from embedserve.storage.database import Database

    made = admin.post("/keys", json={}).json()
    assert embed(server, made["secret"]).status_code == 200
    database = Database.open(server.data_dir)
    KeyStore(database).revoke(made["id"])
    revoked_at = time.monotonic()
    time.sleep(0.9)
    assert embed(server, made["secret"]).status_code == 401, time.monotonic() - revoked_at
    database.close()


def test_the_description_fits_the_routes(server: LightServer) -> None:
    told = httpx.get(f"{server.url}/admin/openapi.json").json()
    assert told["openapi"].startswith("3.1")
    assert set(told["paths"]) == {
        "/admin/keys",
        "/admin/keys/{id}",
        "/admin/keys/{id}/revoke",
        "/admin/keys/{id}/rotate",
        "/admin/usage",
    }
    assert told["components"]["schemas"]["NewKey"]["properties"]["rpm"]["description"] == "Requests a minute."


def test_what_is_described_is_what_happens(server: LightServer) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{server.url}/admin/openapi.json")
    from hypothesis import HealthCheck, given, settings

    for operation in schema.get_all_operations():
        case_of = operation.ok().as_strategy()

        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=case_of)
        def check(case: object) -> None:
            reply = case.call(headers={"Authorization": f"Bearer {ADMIN}"})  # type: ignore[attr-defined]
            assert reply.status_code < 500
            case.operation.validate_response(reply)  # type: ignore[attr-defined]

        check()
