"""Real PostgreSQL and Redis on free ports; tests that need them are skipped where they are not installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args} does not listen on {port}")


def find_program(name: str) -> str | None:
    """On the PATH, or where Debian puts PostgreSQL's programs."""
    found = shutil.which(name)
    if found:
        return os.path.realpath(found) if name == "postgres" else found
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(versions[-1]) if versions else None


@dataclass
class RedisServer:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    program = find_program("redis-server") or find_program("valkey-server")
    if not program:
        pytest.skip("needs redis-server (apt-get install redis-server)")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for_port(port, process)
            yield RedisServer(port, process)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """An empty Redis."""
    import redis

    client = redis.Redis.from_url(redis_process.url)
    client.flushall()
    client.close()
    return redis_process


@dataclass
class PostgresServer:
    port: int
    process: subprocess.Popen[bytes]

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    initdb, postgres = find_program("initdb"), find_program("postgres")
    if not initdb or not postgres:
        pytest.skip("needs PostgreSQL (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    as_user: list[str] = []
    folder = tempfile.mkdtemp(prefix="embedserve-pg-")
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
    data, port = f"{folder}/data", free_port()
    options = {"cwd": folder, "stdout": subprocess.DEVNULL}
    subprocess.run(
        [*as_user, initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"], check=True, **options
    )
    settings = ("listen_addresses=127.0.0.1", "fsync=off")  # clients get killed, the machine does not
    command = [*as_user, postgres, "-D", data, "-p", str(port), "-k", folder]
    command += [word for setting in settings for word in ("-c", setting)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    try:
        wait_for_port(port, process)
        yield PostgresServer(port, process)
    finally:
        process.send_signal(signal.SIGINT)  # a quick end, without waiting for clients
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def create_database(server: PostgresServer) -> str:
    """The URL of a fresh, empty database."""
    import psycopg

    name = f"t{uuid.uuid4().hex[:12]}"
    for _ in range(100):  # the port opens a moment before the server takes connections
        try:
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            break
        except psycopg.OperationalError as error:
            if "starting up" not in str(error):
                raise
            time.sleep(0.1)
    return server.url(name)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A fresh, empty database."""
    return create_database(postgres_server)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same test against both stores."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'embedserve.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
