from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str, data_dir: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedserve", *arguments, "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def test_keys_on_the_command_line(tmp_path: Path) -> None:
    made = run("keys", "create", "--name", "alice", "--rpm", "60", "--expires", "90d", data_dir=tmp_path)
    secret = made.stdout.strip()
    assert secret.startswith("sk-")
    assert "\n" not in secret  # KEY=$(embedserve keys create)
    [shown] = json.loads(run("keys", "list", "--json", data_dir=tmp_path).stdout)
    assert (shown["name"], shown["rpm"], shown["state"]) == ("alice", 60, "active")
    assert secret not in run("keys", "list", data_dir=tmp_path).stdout
    rotated = json.loads(run("keys", "rotate", shown["id"], "--json", data_dir=tmp_path).stdout)
    assert rotated["id"] == shown["id"]
    assert rotated["secret"] != secret
    run("keys", "revoke", shown["id"], data_dir=tmp_path)
    assert "revoked" in run("keys", "list", data_dir=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("keys", "revoke", "key_nobody"), "no key key_nobody"),
        (("keys", "create", "--expires", "soon"), "'soon' is no expiry"),
        (("usage", "--by", "colour"), "choose key, workspace, model, day"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments, data_dir=tmp_path, code=2)
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
