from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
import sqlalchemy as sa

from embedserve.accounts.keys import KeyStore
from embedserve.storage.database import Database
from embedserve.storage.tables import api_keys, stamps
from light_server import LightServer
from real_servers import create_database

ADMIN = "admin-key-of-the-tests-0123"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[LightServer]:
    environment = {"EMBEDSERVE_ADMIN_KEY": ADMIN}
    if request.param == "postgresql":
        database = create_database(request.getfixturevalue("postgres_server"))
        environment["EMBEDSERVE_DATABASE_URL"] = database
    with LightServer(environment=environment) as running:
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
        ("/keys", {"rpm": 0}, 400, "rpm is 0"),
        ("/keys", {"rpm": True}, 400, "rpm is True"),
        ("/keys", {"rpm": "5"}, 400, "rpm is '5'"),
        ("/keys", {"rpm": 1.5}, 400, "rpm is 1.5"),
        ("/keys", {"tpm": 2**31}, 400, "2147483647"),
        ("/keys", {"tpm": 10**18}, 400, "tpm is 1000000000000000000"),
        ("/keys", {"tpm": 10**400}, 400, "body"),
        ("/keys", {"budget": -0.01}, 400, "budget is -0.01"),
        ("/keys", {"budget": True}, 400, "budget is True"),
        ("/keys", {"budget": 1e300}, 400, "1000000000000"),
        ("/keys", {"budget": "1"}, 400, "budget is '1'"),
        ("/keys", {"models": []}, 400, "models"),
        ("/keys", {"models": ["nope"]}, 400, "no model 'nope': choose from text-embedding-"),
        ("/keys", {"models": "text-embedding-v4"}, 400, "models"),
        ("/keys", {"name": "nul\0"}, 400, "U+0000"),
        ("/keys", {"name": "line\nbreak"}, 400, "U+000A"),
        ("/keys", {"name": None}, 400, "name is None"),
        ("/keys", {"name": "n" * 201}, 400, "200 characters"),
        ("/keys", {"workspace": "a b"}, 400, "no workspace"),
        ("/keys", {"workspace": "a\n"}, 400, "no workspace"),
        ("/keys", {"workspace": "a\0"}, 400, "no workspace"),
        ("/keys", {"workspace": ""}, 400, "no workspace"),
        ("/keys", {"nonsense": 1}, 400, "there is no 'nonsense' here: choose from name, "),
        ("/keys", {"expires_at": "9999-12-31T23:59:59-12:00"}, 400, "9999-12-31T23:59:59Z"),
        ("/keys", {"expires_at": "0001-01-01T00:00:00+14:00"}, 400, "past"),
        ("/keys", {"expires_at": "2999-01-01T00:00:00"}, 400, "timezone"),
        ("/keys", {"expires_at": 4_000_000_000}, 400, "like 2030-01-31T00:00:00Z"),
        ("/keys", {"expires_at": "4000000000"}, 400, "like 2030-01-31T00:00:00Z"),
        ("/keys", {"expires_at": True}, 400, "like 2030-01-31T00:00:00Z"),
        ("/keys", {"expires_at": "2001-01-01T00:00:00Z"}, 400, "past"),
        ("/keys", {"name": "x" * 70_000}, 400, "65536"),
        ("/keys/none/revoke", {}, 404, "no key none"),
        ("/keys/none/rotate", {}, 404, "no key none"),
        ("/keys/%00/revoke", {}, 404, ""),
        ("/keys/%0A/revoke", {}, 404, ""),
        ("/keys/%F0%9F%94%91/rotate", {}, 404, "no key "),
        (f"/keys/{'k' * 5000}/rotate", {}, 404, "no key "),
    ],
)
def test_refusals_say_why(admin: httpx.Client, path: str, body: object, status: int, words: str) -> None:
    reply = admin.post(path, json=body)
    assert reply.status_code == status
    assert words in reply.json()["error"]["message"]


def test_bad_queries_are_refused(admin: httpx.Client) -> None:
    for query in (
        {"by": "colour"},
        {"since": "yesterday"},
        {"since": "20300101"},
        {"since": "1700000000"},
        {"since": "0000-00-00"},
        {"since": "2030-01-02", "until": "2030-01-01"},
        {"format": "xml"},
        {"sinse": "2030-01-01"},
    ):
        assert admin.get("/usage", params=query).status_code == 400, query
    for query in (
        {"key": "nope"},
        {"key": "a b"},
        {"workspace": "nope"},
        {"workspace": "../etc"},
        {"model": "nope"},
        {"model": "鍵"},
    ):
        assert admin.get("/usage", params=query).status_code == 404, query
    for name in ("key", "workspace", "model", "since", "by"):
        assert admin.get("/usage", params={name: "\0"}).status_code in (400, 404), name
    wide = {"since": "0001-01-01", "until": "9999-12-31", "model": "text-embedding-v4", "by": "day"}
    assert admin.get("/usage", params=wide).status_code == 200


@pytest.mark.parametrize("name", ["", "é", "名前", "👩‍👩‍👧", "a" * 200, "\u202e"])
def test_names_come_back_as_they_were_given(admin: httpx.Client, name: str) -> None:
    made = admin.post("/keys", json={"name": name}).json()
    assert admin.get(f"/keys/{made['id']}").json()["name"] == name


def test_a_key_is_changed_field_by_field(server: LightServer, admin: httpx.Client) -> None:
    asked = {"name": "a", "rpm": 5, "tpm": 6, "budget": 7.5, "models": ["text-embedding-v4"]}
    made = admin.post("/keys", json=asked | {"expires_at": "9999-12-31T23:59:59Z"}).json()
    path, secret = f"/keys/{made.pop('id')}", made.pop("secret")
    assert made["expires_at"] == "9999-12-31T23:59:59Z"

    def shown() -> dict[str, object]:
        told = admin.get(path).json()
        return {name: told[name] for name in made}

    assert admin.patch(path, json={}).status_code == 200
    assert shown() == made
    changes: tuple[dict[str, object], ...] = (
        {"name": "b"},
        {"rpm": None},
        {"rpm": 8, "tpm": None},
        {"budget": 0.25},
        {"budget": None},
        {"models": ["text-embedding-v2", "text-embedding-v3"]},
        {"models": None},
        {"expires_at": "2999-01-01T00:00:00Z"},
        {"expires_at": None},
    )
    for change in changes:
        assert admin.patch(path, json=change).status_code == 200, change
        made |= change
        assert shown() == made
    assert embed(server, secret).status_code == 200
    for _ in range(2):
        paused = admin.patch(path, json={"paused": True}).json()
        assert paused["state"] == "paused"
    assert embed(server, secret).status_code == 401
    assert admin.patch(path, json={"paused": False, "rpm": None}).json()["state"] == "active"
    assert embed(server, secret).status_code == 200
    spent = admin.get(path).json()["spent"]
    [listed] = [key for key in admin.get("/keys").json()["data"] if path.endswith(key["id"])]
    assert listed["spent"] == spent > 0
    for wrong in (
        {"rpm": 0},
        {"rpm": "none"},
        {"name": None},
        {"paused": None},
        {"paused": 1},
        {"workspace": "elsewhere"},
        {"models": []},
        {"expires_at": "2001-01-01T00:00:00Z"},
    ):
        assert admin.patch(path, json=wrong).status_code == 400, wrong
    assert admin.patch("/keys/none", json={"rpm": 1}).status_code == 404
    admin.post(f"{path}/revoke")
    gone = admin.patch(path, json={"paused": False})
    assert gone.status_code == 400
    assert "revoked, and that is for good" in gone.json()["error"]["message"]
    assert embed(server, secret).status_code == 401


def test_a_listing_survives_what_earlier_releases_stored(server: LightServer, admin: httpx.Client) -> None:
    made = admin.post("/keys", json={"name": "odd"}).json()
    database = Database.open(server.data_dir, server.database_url)
    with database.write() as connection:
        connection.execute(sa.update(stamps).where(stamps.c.name == "keys").values(value=stamps.c.value + 1))
        stamp = sa.select(stamps.c.value).where(stamps.c.name == "keys").scalar_subquery()
        connection.execute(
            sa.update(api_keys)
            .where(api_keys.c.id == made["id"])
            .values(expires_at=253402343999.0, budget=float("inf"), old_until=1e300, changed=stamp)
        )
    database.close()
    told = admin.get("/keys")
    assert told.status_code == 200
    [shown] = [key for key in told.json()["data"] if key["id"] == made["id"]]
    assert (shown["expires_at"], shown["budget"]) == ("9999-12-31T23:59:59Z", None)
    assert admin.get(f"/keys/{made['id']}").status_code == 200
    assert embed(server, made["secret"]).status_code == 200
    assert admin.patch(f"/keys/{made['id']}", json={"expires_at": None}).json()["expires_at"] is None


def test_without_an_admin_key_there_is_no_admin_api() -> None:
    with LightServer() as server:
        assert httpx.get(f"{server.url}/admin/keys").status_code == 404


def test_a_key_revoked_on_the_command_line_is_refused_within_a_second(
    server: LightServer, admin: httpx.Client
) -> None:
    """The command line and the server are two processes: neither tells the other."""
    made = admin.post("/keys", json={}).json()
    assert embed(server, made["secret"]).status_code == 200
    database = Database.open(server.data_dir, server.database_url)
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
