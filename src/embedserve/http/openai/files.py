"""…/files: upload, list, get, content, delete (protocol notes 7a)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from embedserve.accounts.caller import Caller
from embedserve.http.context import authenticate, hold_of, in_database, jobs_of, let_in, service_of
from embedserve.http.fields import stamp
from embedserve.http.json import reply
from embedserve.http.multipart import HELD, receive_upload
from embedserve.jobs.errors import StorageFullError, is_full, no_such, refused
from embedserve.jobs.files import FileStore
from embedserve.jobs.records import StoredFile

PURPOSE = "batch"
ADOPT_SECONDS = 120.0
"""For the disk to take a large upload; the database within has its own time."""
_EXPIRES = range(3600, 2_592_001)
"""Seconds that a caller may give a file to live."""


def describe(file: StoredFile) -> dict[str, Any]:
    """The file object; key order as recorded."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "created_at": int(file.created_at),
        "status_details": None,
    } | ({"expires_at": int(file.expires_at)} if file.expires_at else {})


async def create_file(request: Request) -> Response:
    caller = await let_in(request, "files.upload")
    service, store = service_of(request), jobs_of(request).files
    hold_of(request, caller).grow(HELD)
    draft = store.draft()
    try:
        limit = service.settings.max_file_mb * 2**20
        await in_database(request, store.check_room)
        upload = await receive_upload(request, draft, limit=limit, run=service.run_upload)
        if upload.fields.get("purpose") != PURPOSE:
            raise refused(f"'purpose' must be '{PURPOSE}'", param="purpose")
        if upload.filename is None or not upload.size:
            raise refused("'file' must be a file that is not empty", param="file")
        file = await service_of(request).accounts.database.run_within(
            ADOPT_SECONDS,
            store.adopt,
            draft,
            workspace=caller.workspace,
            purpose=PURPOSE,
            filename=upload.filename,
            expires_at=expiry_of(upload.fields),
        )
    except OSError as error:
        if is_full(error):
            raise StorageFullError("The server's disk is full: free some room and upload again.") from error
        raise
    finally:
        draft.unlink(missing_ok=True)
    return reply(describe(file))


def expiry_of(fields: dict[str, str]) -> float | None:
    """``expires_after[seconds]``, counted from now."""
    given = fields.get("expires_after[seconds]")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) in _EXPIRES):
        raise refused(
            f"'expires_after[seconds]' is {given[:20]!r}, it should be in [{_EXPIRES[0]}, {_EXPIRES[-1]}]",
            param="expires_after",
        )
    return time.time() + int(given)


async def list_files(request: Request) -> Response:
    caller = await let_in(request, "files.other")
    query = request.query_params
    page, more = await in_database(
        request,
        jobs_of(request).files.page,
        caller.workspace,
        limit=page_limit(query.get("limit"), 10_000, 10_000),
        after=query.get("after") or None,
        purpose=query.get("purpose") or None,
        since=stamp(query.get("create_after"), "create_after"),
        until=stamp(query.get("create_before"), "create_before"),
        oldest_first=query.get("order") == "asc",
    )
    data = [describe(file) for file in page]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return reply({"object": "list", "data": data, "has_more": more} | ends)


async def get_file(request: Request) -> Response:
    return reply(describe(await _find(request, await let_in(request, "files.other"))))


async def delete_file(request: Request) -> Response:
    caller = await let_in(request, "files.other")
    id = request.path_params["id"]
    await in_database(request, jobs_of(request).files.delete, caller.workspace, id)
    return reply({"id": id, "object": "file", "deleted": True})


async def get_content(request: Request) -> Response:
    file = await _find(request, await authenticate(request))
    media_type = "application/gzip" if file.filename.endswith(".gz") else "application/octet-stream"
    return await stream_file(request, jobs_of(request).files, file, media_type)


async def stream_file(request: Request, store: FileStore, file: StoredFile, media_type: str) -> Response:
    """The bytes of a file, read as the client takes them. Raises EmbedserveError (404): they are gone."""
    blocks = store.blocks(file)
    try:
        first = await in_database(request, next, blocks, b"")
    except FileNotFoundError:
        raise no_such("File object", file.id) from None
    headers = {
        "content-length": str(file.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename)}",
    }
    return StreamingResponse(_read(first, blocks), headers=headers, media_type=media_type)


async def _read(block: bytes, blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while block:
        yield block
        block = await asyncio.to_thread(next, blocks, b"")


async def _find(request: Request, caller: Caller) -> StoredFile:
    return await in_database(request, jobs_of(request).files.get, caller.workspace, request.path_params["id"])


def page_limit(given: str | None, default: int, highest: int) -> int:
    if not given:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 7 and 1 <= int(given) <= highest):
        raise refused(f"'limit' is {given[:20]!r}, it should be in [1, {highest}]", param="limit")
    return int(given)
