"""The server: uvicorn's, with an end that comes in time."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from embedserve.http.front.gate import Gate
from embedserve.settings import Settings

log = logging.getLogger("embedserve.front")


class Server(uvicorn.Server):
    """Ends within ``seconds`` of SIGTERM or Ctrl-C, and at once on the second.

    Four fifths of that time are for requests that were sent whole; then connections are cut, work is
    withdrawn and the application closes; what is not done by the end is left, as kill -9 would leave it.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate, seconds: float) -> None:
        super().__init__(config)
        self._gate = gate
        self._seconds = seconds

    @classmethod
    def of(cls, app: ASGIApp, settings: Settings, gate: Gate) -> Server:
        config = uvicorn.Config(
            app,
            http=gate.connect,  # type: ignore[arg-type]  # called as the class would be
            ws="none",
            access_log=False,
            log_level=settings.log_level,
            log_config=None,
            server_header=False,
            backlog=gate.limits.backlog,
        )
        return cls(config, gate, settings.shutdown_seconds)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        last = threading.Timer(self._seconds, self._give_up)
        last.daemon = True
        last.start()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self._seconds * 0.8, self._cut)
        await super().shutdown(sockets)

    def _cut(self) -> None:
        self._gate.abort_all()
        for task in self.server_state.tasks:
            task.cancel()

    def _give_up(self) -> None:
        log.error("not everything ended within %g seconds (EMBEDSERVE_SHUTDOWN_SECONDS)", self._seconds)
        os._exit(1)
