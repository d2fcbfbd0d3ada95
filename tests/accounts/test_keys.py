from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from embedserve.accounts.accounts import Accounts
from embedserve.accounts.bounds import ANY_WORKSPACE
from embedserve.accounts.caller import Caller
from embedserve.accounts.keys import KeyStore, make_secret
from embedserve.accounts.view import KeyView
from embedserve.errors import EmbedserveError
from embedserve.settings import Settings
from embedserve.storage.database import Database

quick = pytest.mark.quick


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return Accounts.open(Settings(data_dir=tmp_path, api_key="sk-given-by-the-environment"))


def enter(accounts: Accounts, secret: str | None, workspace: str | None = None) -> Caller:
    return asyncio.run(accounts.authenticate(secret, workspace))


def refused(accounts: Accounts, secret: str | None, workspace: str | None = None) -> EmbedserveError:
    with pytest.raises(EmbedserveError) as caught:
        enter(accounts, secret, workspace)
    return caught.value


@quick
def test_a_key_works_until_it_is_revoked(accounts: Accounts) -> None:
    record, secret = accounts.create_key("alice", "team-a", models=["text-embedding-v4"], rpm=5, budget=1.5)
    caller = enter(accounts, secret)
    assert (caller.key_id, caller.name, caller.workspace) == (record.id, "alice", "team-a")
    assert (caller.models, caller.rpm, caller.tpm, caller.budget) == (
        frozenset({"text-embedding-v4"}),
        5,
        None,
        1.5,
    )
    assert accounts.revoke_key(record.id).state() == "revoked"
    assert refused(accounts, secret).status == 401
    assert accounts.revoke_key(record.id).state() == "revoked"


@quick
def test_secrets_are_random_and_long(accounts: Accounts) -> None:
    secrets = {accounts.create_key()[1] for _ in range(20)}
    assert len(secrets) == 20
    assert all(re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", secret) for secret in secrets)


@quick
def test_nothing_of_a_secret_is_stored_but_its_first_letters(tmp_path: Path) -> None:
    accounts = Accounts.open(Settings(data_dir=tmp_path, api_key="sk-short-and-guessable"))
    record, secret = accounts.create_key("bob")
    _, rotated = accounts.rotate_key(record.id, grace=60)
    asyncio.run(accounts.close())
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert record.id.encode() in stored
    for hidden in (secret, rotated):
        assert hidden[:10].encode() not in stored
        assert hidden[10:].encode() not in stored
    assert b"sk-short" not in stored
    assert b"guessable" not in stored


@quick
@pytest.mark.parametrize("secret", [None, ""])
def test_no_key(accounts: Accounts, secret: str | None) -> None:
    error = refused(accounts, secret)
    assert (error.status, error.code, error.message) == (401, "InvalidApiKey", "No API-key provided.")
    assert error.openai_message.startswith("You didn't provide an API key.")
    assert (error.openai_code, error.openai_type) == ("invalid_api_key", "invalid_request_error")


@quick
@pytest.mark.parametrize("secret", ["sk-wrong", "sk-given-by-the-environmen", "\udcff", "x" * 100_000])
def test_a_wrong_key(accounts: Accounts, secret: str) -> None:
    error = refused(accounts, secret)
    assert (error.status, error.code, error.message) == (401, "InvalidApiKey", "Invalid API-key provided.")
    assert error.openai_message == (
        "Incorrect API key provided. For details, see: "
        "https://help.aliyun.com/zh/model-studio/error-code#apikey-error"
    )


@quick
def test_workspaces(accounts: Accounts) -> None:
    secret = accounts.create_key(workspace="team-a")[1]
    assert enter(accounts, secret, "team-a").workspace == "team-a"
    assert enter(accounts, secret).workspace == "team-a"
    foreign = refused(accounts, secret, "team-b")
    assert (foreign.status, foreign.code) == (401, "NOT AUTHORIZED")
    assert foreign.message.startswith("Access denied: Either you are not authorized to access this workspace")
    impossible = refused(accounts, secret, "../etc")
    assert (impossible.status, impossible.code) == (404, "WorkSpaceNotFound")
    free = "sk-given-by-the-environment"  # adopted keys may name any workspace
    assert enter(accounts, free, "llm-abc123").workspace == "llm-abc123"
    assert enter(accounts, free).workspace == "default"


@quick
def test_expiry(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    record, secret = accounts.create_key(expires_at=time.time() + 60)
    enter(accounts, secret)
    later = time.time() + 61
    monkeypatch.setattr("time.time", lambda: later)
    assert refused(accounts, secret).code == "InvalidApiKey"
    assert accounts.keys.get(record.id).state() == "expired"


@quick
def test_rotation_with_grace_keeps_the_old_secret_for_a_while(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, old = accounts.create_key()
    _, new = accounts.rotate_key(record.id, grace=60)
    assert enter(accounts, old).key_id == enter(accounts, new).key_id == record.id
    later = time.time() + 61
    monkeypatch.setattr("time.time", lambda: later)
    refused(accounts, old)
    enter(accounts, new)
    _, newest = accounts.rotate_key(record.id)
    refused(accounts, new)
    enter(accounts, newest)


@quick
def test_adopting_is_idempotent_and_does_not_undo_a_revocation(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, api_key="sk-environment")
    first = Accounts.open(settings)
    key_id = enter(first, "sk-environment").key_id
    asyncio.run(first.close())
    second = Accounts.open(settings)
    assert enter(second, "sk-environment").key_id == key_id
    assert second.new_secret is None
    second.revoke_key(key_id)
    asyncio.run(second.close())
    third = Accounts.open(settings)
    refused(third, "sk-environment")
    asyncio.run(third.close())


@quick
def test_the_first_start_without_a_key_makes_one(tmp_path: Path) -> None:
    accounts = Accounts.open(Settings(data_dir=tmp_path))
    assert accounts.new_secret is not None
    enter(accounts, accounts.new_secret, "any-workspace")
    asyncio.run(accounts.close())
    assert Accounts.open(Settings(data_dir=tmp_path)).new_secret is None


@quick
def test_the_admin_key_may_not_be_an_api_key(tmp_path: Path) -> None:
    same = "sk-the-same-for-both-doors"
    with pytest.raises(EmbedserveError, match="admin_key and api_key"):
        Accounts.open(Settings(data_dir=tmp_path, api_key=same, admin_key=same))


@quick
@pytest.mark.parametrize("name", ["api_key", "admin_key"])
@pytest.mark.parametrize("secret", [" " * 20, "ключ-длиннее-шестнадцати", "a-key-with-a\0-in-it-0123"])
def test_a_key_of_the_settings_that_nobody_can_send(name: str, secret: str) -> None:
    with pytest.raises(ValidationError, match="printable ASCII without blanks") as caught:
        Settings(**{name: secret})
    assert secret not in str(caught.value)


@quick
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workspace": "a b"}, "no workspace"),
        ({"rpm": 0}, "rpm is 0"),
        ({"tpm": -1}, "tpm is -1"),
        ({"budget": -0.5}, "budget is -0.5"),
        ({"models": []}, "models is empty"),
        ({"expires_at": 1.0}, "past"),
        ({"name": "n" * 201}, "201 characters"),
    ],
)
def test_values_that_cannot_be(accounts: Accounts, values: dict[str, object], message: str) -> None:
    with pytest.raises(EmbedserveError, match=message):
        accounts.create_key(**values)  # type: ignore[arg-type]


def test_changes_are_seen_by_every_other_process(tmp_path: Path, database_url: str) -> None:
    ours, theirs = (
        KeyStore(Database.open(tmp_path, database_url)),
        KeyStore(Database.open(tmp_path, database_url)),
    )
    before = theirs.version()
    record, _ = ours.create("carol", ANY_WORKSPACE)
    assert theirs.version() > before
    assert theirs.get(record.id) == record
    before = ours.version()
    theirs.revoke(record.id)
    assert ours.version() > before
    assert ours.get(record.id).state() == "revoked"
    for store in (ours, theirs):
        store.database.close()


def test_many_nodes_may_adopt_one_key_at_once(tmp_path: Path, database_url: str) -> None:
    stores = [KeyStore(Database.open(tmp_path, database_url)) for _ in range(4)]
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda store=store: found.append(store.adopt("sk-one").id))  # type: ignore[misc]
        for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    for store in stores:
        store.database.close()


@quick
def test_every_comparison_of_a_secret_is_constant_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right, almost right and wrong secrets all go through hmac.compare_digest, on digests of one length."""
    import hmac

    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def spy(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    view, secret = KeyView(), make_secret()
    monkeypatch.setattr(hmac, "compare_digest", spy)
    for given in (secret, secret[:-1] + "x", "sk-nothing"):
        assert view.find_secret(given) is None
    assert len(compared) == 3
    assert {length for _, length in compared} == {64}
