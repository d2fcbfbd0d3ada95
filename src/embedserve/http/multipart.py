"""A ``multipart/form-data`` body: one file streamed to disk, small fields in memory, whatever the size."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from embedserve.errors import EmbedserveError
from embedserve.http.body import caller_left
from embedserve.http.coding import refuse_coded

MAX_FIELD = 8 * 1024
"""Bytes of one field that is no file."""
MAX_FIELDS = 32
MAX_BOUNDARY = 200
"""Bytes; RFC 2046 allows 70."""
MAX_NAME = 512
"""Characters of a file's name; of a longer one the middle is left out."""
_PIECE = 128 * 1024
HELD = 4 * _PIECE + MAX_FIELDS * MAX_FIELD
"""Bytes of memory that an upload takes, whatever its size."""


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


async def receive_upload(
    request: Request,
    path: Path,
    *,
    limit: int,
    run: Callable[..., Awaitable[Any]] = asyncio.to_thread,
) -> Upload:
    """Read the form; the part named ``file`` is written to ``path``.

    What follows a refusal is left to the server, which reads a part of it so that the client sees the reply.

    Args:
        run: calls a function in a thread: a disk that is behind makes a write wait, and queries are on this
            loop.

    Raises:
        EmbedserveError: 415, compressed; 400, over ``limit`` bytes of file, or no such form; 499 if the
            caller hung up.
        OSError: the disk.
    """
    refuse_coded(request)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise malformed_form("it should be multipart/form-data with a field file")
    if len(boundary) > MAX_BOUNDARY:
        raise malformed_form(f"its boundary has more than {MAX_BOUNDARY} bytes")
    declared = request.headers.get("content-length", "")
    most = limit + MAX_FIELDS * MAX_FIELD
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > most):
        raise too_large(limit)
    with path.open("wb") as target:
        form = _Form(target, limit)
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        try:
            async for block in _gather(request.stream()):
                await run(parser.write, block)
                if form.ended:
                    break  # what follows means nothing, and might have no end
        except ClientDisconnect:
            raise caller_left() from None
        except FormParserError as error:
            long = "header" in str(error) and "exceeded" in str(error)
            why = "the headers of a part are too long" if long else "the parts are not separated as announced"
            raise malformed_form(why) from None
        if not form.ended:
            raise malformed_form("it ends in the middle of a part")
    return form.upload


def clean_name(given: str) -> str:
    """A file's name without folders, of at most MAX_NAME characters.

    Raises:
        EmbedserveError: 400, it holds control characters.
    """
    if any(unicodedata.category(character) == "Cc" for character in given):
        raise malformed_form("the file's name holds a control character")
    name = PurePath(given.replace("\\", "/")).name or "file"
    if len(name) > MAX_NAME:
        suffix = PurePath(name).suffix[-20:]
        name = name[: MAX_NAME - len(suffix)] + suffix
    return name


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
        self._parts = 0
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
        self._parts += 1
        if self._parts > MAX_FIELDS + 1:  # whatever they are called, the file among them
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
            self.upload.filename = clean_name(options.get(b"filename", b"file").decode("utf-8", "replace"))

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
