"""…/batches: create, get, list, cancel (protocol notes 7a)."""

from __future__ import annotations

import re
import time
from typing import Any

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from embedserve.accounts.caller import Caller
from embedserve.errors import EmbedserveError
from embedserve.http.body import read_json
from embedserve.http.context import in_database, jobs_of, let_in, request_id_of
from embedserve.http.fields import show, stamp
from embedserve.http.json import reply
from embedserve.http.openai.batch_lines import (
    EMBEDDINGS,
    TEST_URL,
    describe,
    new_batch_id,
    oldest_listed,
)
from embedserve.http.openai.files import page_limit
from embedserve.jobs.errors import refused
from embedserve.jobs.records import Job
from embedserve.jobs.store import Jobs
from embedserve.storage.tables import jobs as table

_WINDOW = re.compile(r"([0-9]{1,4})([hd])")
_WINDOW_HOURS = range(24, 337)
_NAME, _DESCRIPTION, _CALLBACK = "ds_name", "ds_description", "ds_batch_finish_callback"
_LENGTHS = {_NAME: 100, _DESCRIPTION: 200}
_MAX_METADATA = 16
MAX_BODY = 64 * 1024
"""Bytes of a request that creates a batch: sixteen pairs of metadata and a few names."""
_STATUSES = frozenset(
    ["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"]
)


async def create_batch(request: Request) -> Response:
    jobs = jobs_of(request)
    caller = await let_in(request, "batches.create")
    body = await read_json(request, MAX_BODY)
    job = await in_database(request, draft_batch, body, caller, jobs, request_id_of(request))
    await in_database(request, jobs.submit, job)
    jobs.runner.wake()
    return reply(describe(job))


def draft_batch(body: dict[str, Any], caller: Caller, jobs: Jobs, request_id: str) -> Job:
    """Raises EmbedserveError (400, 404) for a field that will not do."""
    window, endpoint = body.get("completion_window"), body.get("endpoint")
    if endpoint not in (EMBEDDINGS, TEST_URL):
        raise refused(
            f"'endpoint' is {show(endpoint)}, this server has '{EMBEDDINGS}' and '{TEST_URL}'",
            param="endpoint",
        )
    hours = window_hours(window)
    if hours is None:
        raise refused(
            f"'completion_window' is {show(window)}, it should be a whole number of hours or days from "
            "24h to 336h (14d)",
            param="completion_window",
        )
    file_id = body.get("input_file_id")
    if not isinstance(file_id, str) or not file_id:
        raise refused("you must provide an input_file_id parameter", param="input_file_id")
    file = jobs.files.get(caller.workspace, file_id)
    if file.job_id is not None:
        raise refused(f"The file {file.id} is a result, not an upload", param="input_file_id")
    metadata = check_metadata(body.get("metadata"))
    callback = metadata.get(_CALLBACK) if metadata else None
    if callback:
        check_callback(callback, jobs)
    now = time.time()
    return Job(
        id=new_batch_id(),
        kind="batch",
        workspace=caller.workspace,
        key_id=caller.key_id,
        request_id=request_id,
        endpoint=str(endpoint),
        created_at=now,
        deadline=now + hours * 3600,
        input_file_id=file.id,
        metadata=orjson.dumps(metadata).decode() if metadata is not None else None,
        title=metadata.get(_NAME, "") if metadata else "",
        callback=callback,
        window=str(window),
    )


def window_hours(given: Any) -> int | None:
    """``24h`` … ``336h`` or ``1d`` … ``14d``; None for anything else."""
    found = _WINDOW.fullmatch(given) if isinstance(given, str) else None
    if not found:
        return None
    hours = int(found[1]) * (24 if found[2] == "d" else 1)
    return hours if hours in _WINDOW_HOURS else None


def check_metadata(given: Any) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise refused("'metadata' should be an object of strings", param="metadata")
    if len(given) > _MAX_METADATA:
        raise refused(f"'metadata' has {len(given)} entries, it may have {_MAX_METADATA}", param="metadata")
    for name, value in given.items():
        limit = _LENGTHS.get(name, 4096 if name == _CALLBACK else 512)
        if len(value) > limit or len(name) > 64:
            raise refused(
                f"'metadata.{name[:64]}' has {len(value)} characters, it may have {limit}",
                param=f"metadata.{name[:64]}",
            )
    return given


def check_callback(url: str, jobs: Jobs) -> None:
    try:
        jobs.callbacks.check(url)
    except EmbedserveError as error:
        raise refused(f"'metadata.{_CALLBACK}': {error.message}", param=f"metadata.{_CALLBACK}") from None


async def get_batch(request: Request) -> Response:
    caller = await let_in(request, "batches.get")
    found = await in_database(
        request, jobs_of(request).queue.get, caller.workspace, request.path_params["id"], "batch"
    )
    return reply(describe(found))


async def cancel_batch(request: Request) -> Response:
    caller, jobs = await let_in(request, "batches.cancel"), jobs_of(request)
    id = request.path_params["id"]
    cancelled = await in_database(request, jobs.queue.cancel, caller.workspace, id, "batch")
    if cancelled is None:
        current = await in_database(request, jobs.queue.get, caller.workspace, id, "batch")
        raise refused(f"Cannot cancel a batch with status '{current.status}'.", status=409)
    jobs.runner.wake()
    return reply(describe(cancelled))


async def list_batches(request: Request) -> Response:
    caller, query = await let_in(request, "batches.list"), request.query_params
    conditions: list[sa.ColumnElement[bool]] = [table.c.created_at >= oldest_listed()]
    if name := query.get(_NAME):
        conditions.append(table.c.title.icontains(name, autoescape=True))
    if given := query.get("input_file_ids"):
        ids = given.split(",")
        if len(ids) > 20:
            raise refused(f"'input_file_ids' has {len(ids)} ids, it may have 20", param="input_file_ids")
        conditions.append(table.c.input_file_id.in_(ids))
    if given := query.get("status"):
        statuses = given.split(",")
        if unknown := set(statuses) - _STATUSES:
            raise refused(f"'status' has {min(unknown)[:20]!r}, which is none", param="status")
        conditions.append(table.c.status.in_(statuses))
    since, until = (stamp(query.get(name), name) for name in ("create_after", "create_before"))
    if since is not None:
        conditions.append(table.c.created_at >= since)
    if until is not None:
        conditions.append(table.c.created_at <= until)
    page, more = await in_database(
        request,
        jobs_of(request).queue.page,
        caller.workspace,
        "batch",
        conditions,
        limit=page_limit(query.get("limit"), 20, 100),
        after=query.get("after") or None,
    )
    data = [describe(job) for job in page] or None
    return reply(
        {
            "object": "list",
            "data": data,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": more,
        }
    )
