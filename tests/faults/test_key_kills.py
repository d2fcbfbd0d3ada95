"""kill -9 while keys are made and changed: what was told holds, what was not is whole or not there."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from embedserve.accounts.accounts import Accounts
from embedserve.accounts.keys import KeyStore
from embedserve.settings import Settings
from embedserve.storage.database import Database
from forked import ForkedServer

ADMIN = "admin-key-of-the-tests-0123"


class Administrator:
    """Makes and changes keys until the server is gone.

    Attributes:
        keys: id -> secret of every key whose reply came.
        told: id -> what the last reply said of its limit and of being paused.
        asked: id -> the change that was on its way when the server died.
    """

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.told: dict[str, tuple[int | None, str]] = {}
        self.asked: dict[str, tuple[int | None, str]] = {}

    def work(self, server: ForkedServer, seed: int) -> None:
        random_ = random.Random(seed)
        headers = {"Authorization": f"Bearer {ADMIN}"}
        with httpx.Client(base_url=f"{server.url}/admin", headers=headers, timeout=30) as client:
            try:
                while True:
                    made = client.post("/keys", json={"rpm": 1}).json()
                    self.keys[made["id"]] = made["secret"]
                    self.told[made["id"]] = (1, "active")
                    rpm, paused = random_.choice([None, 2, 3]), random_.random() < 0.5
                    self.asked[made["id"]] = (rpm, "paused" if paused else "active")
                    changed = client.patch(f"/keys/{made['id']}", json={"rpm": rpm, "paused": paused}).json()
                    self.told[made["id"]] = (changed["rpm"], changed["state"])
            except httpx.TransportError:
                return


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.4])
def test_the_server_is_killed_while_keys_are_made_and_changed(
    tmp_path: Path, database_url: str, seconds: float
) -> None:
    settings = {"data_dir": tmp_path, "database_url": database_url, "admin_key": ADMIN}
    crowd = [Administrator() for _ in range(3)]
    with ForkedServer(**settings) as server:
        threads = [
            threading.Thread(target=administrator.work, args=(server, number))
            for number, administrator in enumerate(crowd)
        ]
        for thread in threads:
            thread.start()
        while not all(administrator.keys for administrator in crowd):
            time.sleep(0.01)
        time.sleep(seconds)
        server.kill()
        for thread in threads:
            thread.join()
    store = KeyStore(Database.open(tmp_path, database_url))
    records = {record.id: record for record in store.list()}
    assert len({record.changed for record in records.values()}) == len(records)
    assert max(record.changed for record in records.values()) == store.version()
    store.database.close()
    with ForkedServer(**settings) as server:
        for administrator in crowd:
            for key_id in administrator.keys:
                now = (records[key_id].rpm, records[key_id].state())
                assert now in (administrator.told[key_id], administrator.asked[key_id])
            key_id = next(reversed(administrator.keys))
            expected = 401 if records[key_id].state() == "paused" else 200
            assert server.embed(key=administrator.keys[key_id]).status_code == expected


def test_the_command_is_killed_at_any_moment(tmp_path: Path, database_url: str) -> None:
    """A key that was printed is there and works; at most one more is there for each command."""
    command = [sys.executable, "-m", "embedserve", "keys", "create", "--rpm", "5"]
    command += ["--data-dir", str(tmp_path), "--database-url", database_url]
    subprocess.run(command, check=True, capture_output=True)
    printed: list[str] = []
    for _ in range(12):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            process.wait(random.uniform(0.3, 1.5))
        except subprocess.TimeoutExpired:
            process.kill()
        printed += process.communicate()[0].split()
    accounts = Accounts.open(Settings(data_dir=tmp_path, database_url=database_url))
    assert len(printed) + 1 <= len(accounts.keys.list()) <= 13
    for secret in printed:
        found = accounts._view.find_secret(secret)
        assert found is not None
        assert (found.rpm, found.state()) == (5, "active")
    accounts.database.close()
