"""A real server in its own process, started the way a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

KEY = "sk-tests-0123456789abcdef"


class Server:
    """``embedserve serve`` on a free port.

    Args:
        arguments: further command-line options.
        environment: further environment variables; None removes one.
        data_dir: kept between servers if given, otherwise a fresh one.
    """

    program: Sequence[str] = ("-m", "embedserve", "serve")

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str | None] | None = None,
        data_dir: Path | None = None,
        key: str | None = KEY,
        timeout: float = 60,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="embedserve-test-")
        self.data_dir = data_dir or Path(self._folder.name) / "data"
        self.arguments: Sequence[str] = arguments
        variables = {name: v for name, v in os.environ.items() if not name.startswith("EMBEDSERVE_")}
        variables.pop("DASHSCOPE_API_KEY", None)
        if key:
            variables["EMBEDSERVE_API_KEY"] = key
        for name, value in (environment or {}).items():
            if value is None:
                variables.pop(name, None)
            else:
                variables[name] = value
        self._environment = variables
        self._timeout = timeout
        self._lines: list[str] = []
        self.key = key or ""
        self.url = ""
        self.database_url = variables.get("EMBEDSERVE_DATABASE_URL")

    def start(self) -> Self:
        """Start and wait until ``/ready`` says yes."""
        self.process = subprocess.Popen(
            [
                sys.executable,
                *self.program,
                "--port",
                "0",
                "--data-dir",
                self.data_dir,
                *self.arguments,
            ],
            env=self._environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            if not self.url and (found := re.search(r"embedserve on (http://\S+)", self.log)):
                self.url = found[1]
            if self.url:
                try:
                    if httpx.get(f"{self.url}/ready", timeout=5).status_code == 200:
                        return self
                except httpx.TransportError:
                    pass
            time.sleep(0.02)
        raise RuntimeError(f"the server did not get ready:\n{self.log}")

    def stop(self, signal_number: int = signal.SIGTERM, timeout: float = 30) -> int:
        """Ask it to end and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(timeout)

    @property
    def log(self) -> str:
        """Everything it wrote to standard error so far."""
        return "".join(self._lines)

    @property
    def openai_url(self) -> str:
        return f"{self.url}/compatible-mode/v1"

    @property
    def native_url(self) -> str:
        return f"{self.url}/api/v1"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def openai(self, body: object, **headers: str) -> httpx.Response:
        """POST to the OpenAI-mode endpoint."""
        return httpx.post(
            f"{self.openai_url}/embeddings", json=body, headers=self.headers | headers, timeout=60
        )

    def native(self, body: object, **headers: str) -> httpx.Response:
        """POST to the native endpoint."""
        url = f"{self.native_url}/services/embeddings/text-embedding/text-embedding"
        return httpx.post(url, json=body, headers=self.headers | headers, timeout=60)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self._lines.extend(iter(self.process.stderr.readline, ""))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()
