"""Requests by hand: bytes on a socket, as no client library would send them."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from serving import Server

EMBEDDINGS = "/compatible-mode/v1/embeddings"
NATIVE = "/api/v1/services/embeddings/text-embedding/text-embedding"
DOORS = {"openai": EMBEDDINGS, "native": NATIVE}


def body_for(path: str, texts: list[str], model: str = "text-embedding-v4", **more: object) -> bytes:
    """A request for these texts in the dialect of a path; ``more`` are parameters."""
    if path == NATIVE:
        return json.dumps({"model": model, "input": {"texts": texts}, "parameters": more}).encode()
    return json.dumps({"model": model, "input": texts, **more}).encode()


def connect(server: Server) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)


def head(server: Server, path: str, length: int | None, headers: Mapping[str, str] | None = None) -> bytes:
    """Request line and headers of a POST; chunked without a length."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {server.key}"]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in (headers or {"Content-Type": "application/json"}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


def post(server: Server, path: str, body: bytes) -> socket.socket:
    """A connection on which this request was sent; nobody has read the reply."""
    connection = connect(server)
    connection.sendall(head(server, path, len(body)) + body)
    return connection
