from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedserve.storage.database import Database


def run(*arguments: str, data_dir: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedserve", *arguments, "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def call(arguments: Sequence[str], data_dir: Path) -> SimpleNamespace:
    """The same entry point in this process: for many cases."""
    from embedserve import cli

    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(told):
        patch.setattr(sys, "argv", ["embedserve", *arguments, "--data-dir", str(data_dir)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return SimpleNamespace(exit_code=ended.value.code, stderr=told.getvalue())


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "list"),
        ("keys", "revoke", "key_0"),
        ("keys", "rotate", "key_0"),
        ("keys", "update", "key_0", "--rpm", "1"),
        ("usage",),
        ("backup", "copy.db"),
    ],
)
def test_commands_that_make_nothing_make_nothing(tmp_path: Path, arguments: Sequence[str]) -> None:
    nowhere = tmp_path / "nowhere"
    done = call(arguments, nowhere)
    assert done.exit_code == 2
    assert f"There is no database at {nowhere / 'embedserve.db'}" in done.stderr
    assert "--data-dir" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    url = f"sqlite:///{tmp_path / 'none.db'}"
    assert "There is no database" in call([*arguments, "--database-url", url], nowhere).stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_s_empty_database_is_left_empty(tmp_path: Path, postgres_url: str) -> None:
    import sqlalchemy as sa

    done = call(["keys", "list", "--database-url", postgres_url], tmp_path)
    assert done.exit_code == 2
    assert "is empty" in done.stderr
    engine = sa.create_engine(postgres_url.replace("postgresql", "postgresql+psycopg"))
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


def test_keys_on_the_command_line(tmp_path: Path) -> None:
    made = run("keys", "create", "--name", "alice", "--rpm", "60", "--expires", "90d", data_dir=tmp_path)
    secret = made.stdout.strip()
    assert secret.startswith("sk-")
    assert "\n" not in secret  # KEY=$(embedserve keys create)
    [shown] = json.loads(run("keys", "list", "--json", data_dir=tmp_path).stdout)
    assert (shown["name"], shown["rpm"], shown["state"]) == ("alice", 60, "active")
    assert secret not in run("keys", "list", data_dir=tmp_path).stdout
    assert (shown["budget"], shown["spent"]) == (None, 0)
    for arguments, field, value in (
        (("--rpm", "none"), "rpm", None),
        (("--tpm", "70"), "tpm", 70),
        (("--budget", "2.5"), "budget", 2.5),
        (("--models", "text-embedding-v3,text-embedding-v4"), "models", None),
        (("--models", "none"), "models", None),
        (("--expires", "9999-12-31"), "expires_at", "9999-12-31T00:00:00Z"),
        (("--expires", "none"), "expires_at", None),
        (("--name", "bob"), "name", "bob"),
        (("--pause",), "state", "paused"),
        (("--resume",), "state", "active"),
    ):
        told = json.loads(run("keys", "update", shown["id"], *arguments, "--json", data_dir=tmp_path).stdout)
        if field != "models":
            assert told[field] == value
    assert "is paused" in run("keys", "pause", shown["id"], data_dir=tmp_path).stderr
    assert "paused" in run("keys", "list", data_dir=tmp_path).stdout
    assert "is active" in run("keys", "resume", shown["id"], data_dir=tmp_path).stderr
    rotated = json.loads(run("keys", "rotate", shown["id"], "--json", data_dir=tmp_path).stdout)
    assert rotated["id"] == shown["id"]
    assert rotated["secret"] != secret
    run("keys", "revoke", shown["id"], data_dir=tmp_path)
    assert "revoked" in run("keys", "list", data_dir=tmp_path).stdout


def test_a_broken_plan_keeps_nobody_from_pausing_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = run("keys", "create", data_dir=tmp_path).stderr.split()[0]
    plan = tmp_path / "plan.toml"
    plan.write_bytes(b"\xff")
    monkeypatch.setenv("EMBEDSERVE_PLAN", str(plan))
    told = run("keys", "pause", key_id, data_dir=tmp_path).stderr
    assert "is paused" in told
    assert "not UTF-8" in told
    assert "not UTF-8" in run("keys", "list", data_dir=tmp_path, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("keys", "create", "--models", "nope"), "no model 'nope': choose from text-embedding-"),
        (("keys", "create", "--models", ""), "models is empty"),
        (("keys", "create", "--rpm", "0"), "rpm is 0: it lies between 1 and"),
        (("keys", "create", "--rpm", "9" * 30), "rpm is 999"),
        (("keys", "create", "--rpm", "9" * 5000), "rpm is '999"),
        (("keys", "create", "--tpm", "1.5"), "tpm is '1.5'"),
        (("keys", "create", "--budget", "nan"), "budget is nan"),
        (("keys", "create", "--budget", "inf"), "budget is inf"),
        (("keys", "create", "--budget=-1"), "budget is -1"),
        (("keys", "create", "--name", "a\nb"), "U+000A"),
        (("keys", "create", "--name", "a\udcff"), "U+DCFF"),
        (("keys", "create", "--workspace", "a/b"), "no workspace"),
        (("keys", "create", "--expires", "9999-12-31T23:59:59-12:00"), "beyond 9999-12-31T23:59:59Z"),
        (("keys", "create", "--expires", "999999999999w"), "beyond 9999-12-31T23:59:59Z"),
        (("keys", "create", "--expires", "0001-01-01T00:00:00+14:00"), "past"),
        (("keys", "create", "--expires", "0s"), "past"),
        (("keys", "update", "nope", "--rpm", "1"), "no key nope"),
        (("keys", "update", "nope"), "Nothing to change"),
        (("keys", "pause", "nope"), "no key nope"),
        (("keys", "rotate", "nope"), "no key nope"),
        (("keys", "rotate", "nope", "--grace", "31d"), "between 0 and 30 days"),
        (("usage", "--key", "nope"), "no key nope"),
        (("usage", "--model", "nope"), "no model 'nope': choose from"),
        (("usage", "--workspace", "nope"), "workspace 'nope'"),
        (("usage", "--since", "2030-1-1"), "is no day"),
        (("usage", "--since", "2030-01-02", "--until", "2030-01-01"), "comes after"),
        (("usage", "--plan", "nope.toml"), "nope.toml cannot be read"),
        (("keys", "revoke", "key_nobody"), "no key key_nobody"),
        (("keys", "create", "--expires", "soon"), "'soon' is no expiry"),
        (("usage", "--by", "colour"), "choose key, workspace, model, day"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    Database.open(tmp_path).close()
    done = call(arguments, tmp_path)
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_usage_on_the_command_line(tmp_path: Path) -> None:
    from embedserve.accounts.charges import Charge, write_charges
    from embedserve.storage.database import Database

    database = Database.open(tmp_path)
    day = 1_790_000_000.0
    with database.write() as connection:
        write_charges(
            connection,
            [
                Charge("r1", "key_a", "w", "text-embedding-v4", 1000, "sync", day),
                Charge("r2", "key_a", "w", "text-embedding-v4", 1000, "batch", day),
                Charge("r3", "key_b", "w", "text-embedding-v2", 10, "sync", day + 86400),
            ],
        )
    database.close()
    rows = list(csv.DictReader(io.StringIO(run("usage", "--by", "key", "--csv", data_dir=tmp_path).stdout)))
    assert [(r["key"], r["requests"], r["tokens"], r["cny"]) for r in rows] == [
        ("key_a", "2", "2000", "0.000750"),  # batch at half
        ("key_b", "1", "10", "0.000007"),
    ]
    assert "total" in run("usage", "--by", "day", data_dir=tmp_path).stdout
