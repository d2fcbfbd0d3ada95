"""A small client of the batch API: what ``embedserve batch`` needs, on the standard library."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urlsplit

from embedserve.errors import EmbedserveError

_BLOCK = 1 << 20
_SECONDS = 300.0


class BatchClient:
    """Talks to ``…/compatible-mode/v1`` of this server, or of any other that speaks the same.

    Args:
        url: base URL, with or without ``/compatible-mode/v1``.

    Methods raise EmbedserveError for what the server refuses, and when it cannot be reached.
    """

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EmbedserveError(f"--url is {url!r}: expected http://host:port")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._root = parts.path.rstrip("/") or "/compatible-mode/v1"
        self._headers = {"Authorization": f"Bearer {key}"}

    def upload(self, path: Path) -> str:
        """Send a file; its id."""
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="input.jsonl"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + path.stat().st_size + len(tail)),
        }

        def body() -> Iterator[bytes]:
            yield head
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    yield block
            yield tail

        return str(self._json("POST", "/files", body(), headers)["id"])

    def create(self, file_id: str, window: str, metadata: dict[str, str]) -> dict[str, Any]:
        body = {
            "input_file_id": file_id,
            "endpoint": "/v1/embeddings",
            "completion_window": window,
            "metadata": metadata or None,
        }
        return self._json("POST", "/batches", json.dumps(body).encode(), {"Content-Type": "application/json"})

    def get(self, batch_id: str) -> dict[str, Any]:
        return self._json("GET", f"/batches/{batch_id}")

    def list(self, limit: int) -> list[dict[str, Any]]:
        return self._json("GET", "/batches?" + urlencode({"limit": limit}))["data"] or []

    def cancel(self, batch_id: str) -> dict[str, Any]:
        return self._json("POST", f"/batches/{batch_id}/cancel")

    def read(self, file_id: str, target: BinaryIO) -> None:
        """The bytes of a file, as they come."""
        connection, answer = self._send("GET", f"/files/{file_id}/content")
        try:
            promised, size = answer.length, 0
            while block := self._block(answer):
                size += len(block)
                target.write(block)
            if promised is not None and size != promised:
                raise EmbedserveError(f"reading the results broke off after {size:,} of {promised:,} bytes")
        finally:
            connection.close()

    @staticmethod
    def _block(answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise EmbedserveError(f"reading the results broke off: {error}") from None

    def _json(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        connection, answer = self._send(method, path, body, headers)
        try:
            parsed: dict[str, Any] = json.loads(answer.read())
            return parsed
        except ValueError:
            raise EmbedserveError(f"{self._host} does not speak this API: no JSON from {path}") from None
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_SECONDS)
        try:
            connection.request(method, self._root + path, body, self._headers | (headers or {}))
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise EmbedserveError(f"cannot reach {self._host}: {error}; is the server running?") from None
        if answer.status != 200:
            told = _message_of(answer.read())
            connection.close()
            raise EmbedserveError(f"the server answered {answer.status}: {told}")
        return connection, answer


def _message_of(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
