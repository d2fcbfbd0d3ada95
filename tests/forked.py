"""Server processes that start in a moment: forked from one that has imported everything.

The real application with real HTTP and a real database; only the network behind it is a dummy. For tests
that need many starts, like killing a server fifty times.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

KEY = "sk-tests-0123456789abcdef"

_context = multiprocessing.get_context("forkserver")


def _start_fork_server() -> None:
    """Start it once. Python 3.11 finds what it is to import only on PYTHONPATH, and else is silent."""
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([path] if path else [])])
    try:
        _context.set_forkserver_preload(["forked_preload"])
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path


def fork_context() -> Any:
    """A context of multiprocessing whose processes start in a moment."""
    _start_fork_server()
    return _context


class ForkedServer:
    """A server on a free port.

    Args:
        settings: fields of ``Settings``; ``data_dir`` is needed.
        fault: ``point:n`` of :func:`light_server.die_at`.
    """

    def __init__(self, *, fault: str = "", seconds_per_token: float = 0.0, **settings: Any) -> None:
        self.fault = fault
        self.seconds_per_token = seconds_per_token
        self.settings = {"api_key": KEY, "log_level": "error", **settings}
        self.url = ""

    def start(self) -> Self:
        _start_fork_server()
        ours, theirs = _context.Pipe(duplex=False)
        self.process = _context.Process(
            target=serve, args=(theirs, self.settings, self.fault, self.seconds_per_token), daemon=True
        )
        self.process.start()
        theirs.close()
        if not ours.poll(60):
            raise RuntimeError("the server did not start")
        self.url = f"http://127.0.0.1:{ours.recv()}"
        return self

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.join(30)

    def stop(self) -> None:
        """SIGTERM: what was accepted is answered."""
        self.process.terminate()
        self.process.join(30)

    @property
    def embeddings(self) -> str:
        return f"{self.url}/compatible-mode/v1/embeddings"

    def embed(self, text: str = "one two three", key: str = KEY, **more: Any) -> httpx.Response:
        body = {"model": "text-embedding-v4", "input": text, **more}
        return httpx.post(self.embeddings, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.is_alive():
            self.kill()


def serve(channel: Connection, fields: dict[str, Any], fault: str, seconds_per_token: float) -> None:
    """The forked process: what ``embedserve serve`` does, with the dummy network."""
    import signal

    import light_server
    from embedserve.cli.serve import listen
    from embedserve.http.app import create_app
    from embedserve.http.front.gate import Gate
    from embedserve.http.front.server import Server
    from embedserve.service import EmbeddingService
    from embedserve.settings import Settings

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in [n for n in os.environ if n.startswith(("EMBEDSERVE_", "DASHSCOPE_"))]:
        del os.environ[name]
    light_server.use_light_embedder(seconds_per_token)
    if fault:
        point, _, number = fault.partition(":")
        light_server.die_at(point, int(number))
    fields["data_dir"] = Path(fields["data_dir"])
    settings = Settings(**fields)
    app = create_app(EmbeddingService.open(settings))
    listener = listen("127.0.0.1", 0)
    listener.listen(1024)
    channel.send(listener.getsockname()[1])
    Server.of(app, settings, Gate.of(settings)).run([listener])
