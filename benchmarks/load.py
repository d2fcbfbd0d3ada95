"""A load generator that costs the machine little: prepared bytes over kept connections, no HTTP library."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np


@dataclass
class Samples:
    """What one run of one kind of request gave."""

    seconds: list[float] = field(default_factory=list)
    """Latency of each good answer; in an open loop counted from the moment it was due to be sent."""
    texts: int = 0
    tokens: int = 0
    errors: int = 0
    elapsed: float = 0.0

    def percentile(self, p: float) -> float:
        """In milliseconds; NaN if nothing was answered."""
        return float(np.percentile(self.seconds, p)) * 1000 if self.seconds else float("nan")

    @property
    def texts_per_second(self) -> float:
        return self.texts / self.elapsed if self.elapsed else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.elapsed if self.elapsed else 0.0


@dataclass(frozen=True)
class Call:
    """One prepared request."""

    payload: bytes
    texts: int
    tokens: int


def prepare(host: str, path: str, headers: dict[str, str], body: bytes, texts: int, tokens: int) -> Call:
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}", "", ""]
    return Call("\r\n".join(lines).encode() + body, texts, tokens)


class Connection:
    """One kept HTTP/1.1 connection; opened on first use, and anew after a failure."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, call: Call) -> bool:
        """True for status 200 with a whole body."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)
            reader, writer = self._streams
            writer.write(call.payload)
            head = await reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            if b"transfer-encoding: chunked" in lower:
                while size := int(await reader.readline(), 16):
                    await reader.readexactly(size + 2)
                await reader.readline()
            else:
                at = lower.index(b"content-length:") + 15
                await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
            if b"connection: close" in lower:
                self.close()
            return head[9:12] == b"200"
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return False

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None


async def closed_loop(port: int, calls: Sequence[Call], clients: int, seconds: float) -> Samples:
    """Each client sends its next request when it has the answer to the last."""
    samples = Samples()
    began = time.perf_counter()
    turn = iter(range(1 << 60))

    async def client() -> None:
        connection = Connection(port)
        while (sent := time.perf_counter()) < began + seconds:
            call = calls[next(turn) % len(calls)]
            note(samples, call, await connection.send(call), sent)
        connection.close()

    await wait_for([asyncio.create_task(client()) for _ in range(clients)], seconds + grace(seconds), samples)
    samples.elapsed = time.perf_counter() - began
    return samples


async def open_loop(port: int, calls: Sequence[Call], rate: float, seconds: float) -> Samples:
    """Requests leave at random moments, ``rate`` a second on average, without waiting for answers."""
    samples = Samples()
    random = Random(2)
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()
    began = due = time.perf_counter()
    turn = 0

    async def fire(call: Call, due: float) -> None:
        connection = idle.pop() if idle else Connection(port)
        note(samples, call, await connection.send(call), due)
        idle.append(connection)

    while due < began + seconds:
        await asyncio.sleep(due - time.perf_counter())
        task = asyncio.create_task(fire(calls[turn % len(calls)], due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += random.expovariate(rate)
        turn += 1
    await wait_for(tasks, grace(seconds), samples)
    samples.elapsed = time.perf_counter() - began
    for connection in idle:
        connection.close()
    return samples


def grace(seconds: float) -> float:
    """Time for answers under way when a run of so many seconds ends."""
    return min(10.0, 2 * seconds)


async def wait_for(tasks: Collection[asyncio.Task[None]], seconds: float, samples: Samples) -> None:
    """Whoever has no answer by then is an error: a server may be slow, but it does not stop the show."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        samples.errors += len(late)
        for task in late:
            task.cancel()


def note(samples: Samples, call: Call, good: bool, since: float) -> None:
    if good:
        samples.seconds.append(time.perf_counter() - since)
        samples.texts += call.texts
        samples.tokens += call.tokens
    else:
        samples.errors += 1


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Talk:
    """One connection for requests of every sort, whole or in part; opened on first use.

    Args:
        patience: seconds after which :meth:`ask` raises TimeoutError.
    """

    def __init__(self, port: int, patience: float = 120) -> None:
        self.port, self.patience = port, patience
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def payload(
        self, method: str, path: str, key: str, body: bytes = b"", content_type: str = "application/json"
    ) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
        lines += [f"content-type: {content_type}"] if body else []
        lines += [f"authorization: Bearer {key}"] if key else []
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def send(self, data: bytes) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)
        self._streams[1].write(data)
        await self._streams[1].drain()

    async def receive(self, slowly: float = 0) -> Reply:
        """The next reply.

        Args:
            slowly: seconds between one kilobyte of the body and the next.

        Raises:
            asyncio.IncompleteReadError: the server closed the connection before its end.
        """
        if self._streams is None:
            raise OSError("nothing was sent")
        reader = self._streams[0]
        status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {}
        for name, _, value in (line.partition(":") for line in lines if line):
            headers[name.lower()] = value.strip()
        body = bytearray()
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        else:
            left = int(headers.get("content-length", "0"))
            while left:
                body += await reader.readexactly(min(left, 1024) if slowly else left)
                left = int(headers["content-length"]) - len(body)
                await asyncio.sleep(slowly)
        if headers.get("connection") == "close":
            self.close()
        return Reply(int(status_line.split(" ")[1]), headers, bytes(body))

    async def ask(
        self, method: str, path: str, key: str, body: object = b"", content_type: str = "application/json"
    ) -> Reply:
        """One request and its reply; ``body`` as bytes, or anything that becomes JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        async with asyncio.timeout(self.patience):
            await self.send(self.payload(method, path, key, data, content_type))
            return await self.receive()

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None
