"""A ``multipart/form-data`` body: one file streamed to disk, small fields in memory, whatever the size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from embedserve.errors import EmbedserveError
from embedserve.http.coding import refuse_coded

MAX_FIELD = 64 * 1024
"""Bytes of one field that is no file."""
MAX_FIELDS = 32
_PIECE = 512 * 1024
_MAX_DRAIN = 64 * 2**20
"""How much more of a refused body is read, so that the client gets to see the refusal."""


@dataclass
class Upload:
    """What a form contained.

    Attributes:
        filename: as the client named it; None if there was no file.
        size: bytes of the file.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    size: int = 0


def too_large(limit: int) -> EmbedserveError:
    return EmbedserveError(
        f"Payload Too Large: the file is over {limit} bytes; split it into several.",
        code="BadRequest.TooLarge",
        openai_type="invalid_request_error",
        param="file",
    )


def malformed_form(why: str) -> EmbedserveError:
    return EmbedserveError(
        f"Required body invalid, please check the request body format: {why}.",
        openai_code="invalid_request_error",
        openai_type="invalid_request_error",
    )


async def receive_upload(request: Request, path: Path, *, limit: int) -> Upload:
    """Read the form; the part named ``file`` is written to ``path``.

    Raises:
        EmbedserveError: 415, compressed; 400, over ``limit`` bytes of file, or no such form.
        OSError: the disk.
    """
    refuse_coded(request)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise malformed_form("it should be multipart/form-data with a field file")
    declared = request.headers.get("content-length", "")
    refusal: EmbedserveError | None = None
    if declared.isdigit() and int(declared) > limit + MAX_FIELDS * MAX_FIELD:
        refusal = too_large(limit)
    drained = 0
    with path.open("wb") as target:
        form = _Form(target, limit)
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        async for block in _gather(request.stream()):
            if refusal is None:
                try:
                    # In a thread: a disk that is behind makes a write wait, and queries are on this loop.
                    await asyncio.to_thread(parser.write, block)
                except EmbedserveError as error:
                    refusal = error
                except MultipartParseError:
                    refusal = malformed_form("the parts are not separated as announced")
            else:
                drained += len(block)
                if drained > _MAX_DRAIN:
                    break
        if refusal is not None:
            raise refusal
        if not form.ended:
            raise malformed_form("it ends in the middle of a part")
    return form.upload


async def _gather(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces."""
    gathered = bytearray()
    async for block in blocks:
        gathered += block
        if len(gathered) >= _PIECE:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


class _Form:
    """Callbacks of the parser."""

    def __init__(self, target: BinaryIO, limit: int) -> None:
        self.upload = Upload()
        self.ended = False
        self._target = target
        self._limit = limit
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_value = b""
        self._name: str | None = None
        self._is_file = False
        self._value = bytearray()

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._field_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers, self._name, self._is_file, self._value = {}, None, False, bytearray()
        if len(self.upload.fields) >= MAX_FIELDS:
            raise malformed_form(f"it has more than {MAX_FIELDS} fields")

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _field_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._name == "file"
        if self._is_file:
            if self.upload.filename is not None:
                raise malformed_form("it has more than one file")
            self.upload.filename = options.get(b"filename", b"file").decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.upload.size += end - start
            if self.upload.size > self._limit:
                raise too_large(self._limit)
            self._target.write(memoryview(data)[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD:
            raise malformed_form(f"a field has more than {MAX_FIELD} bytes")

    def _part_end(self) -> None:
        if not self._is_file and self._name:
            self.upload.fields[self._name] = bytes(self._value).decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True
