"""Asynchronous text embedding: creation, …/tasks, and the result behind a signed link (protocol notes 7b)."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from embedserve.accounts.caller import Caller
from embedserve.accounts.errors import model_denied
from embedserve.catalogue import ASYNC_MODELS, find_model
from embedserve.errors import EmbedserveError
from embedserve.http.address import own_hosts, own_url
from embedserve.http.context import authenticate, in_database, jobs_of, request_id_of, service_of
from embedserve.http.dashscope.models import page_parameter
from embedserve.http.dashscope.task_lines import clock, task_status
from embedserve.http.fields import choice, stamp
from embedserve.http.json import reply
from embedserve.http.openai.files import stream_file
from embedserve.jobs.guard import refused
from embedserve.jobs.records import Job
from embedserve.jobs.store import Jobs
from embedserve.storage.tables import jobs as table

LINK_SECONDS = 24 * 3600
TASK_SECONDS = 24 * 3600.0
"""A task that is not done by then is given up."""
NO_ASYNC = "Current user api does not support asynchronous calls."
_OWN_FILE = re.compile(r"/files/(file-[A-Za-z0-9_-]{1,60})/content\Z")
"""At the end of a path: this server may stand below any prefix."""
REGION = "local"
_CONTENT_TYPE = "application/json;charset=UTF-8"
_CANNOT_CANCEL = "Failed to cancel the task, please confirm if the task is in PENDING status."


async def create_task(request: Request, caller: Caller, body: dict[str, Any]) -> Response:
    """The embedding endpoint with ``X-DashScope-Async: enable``."""
    await service_of(request).accounts.admit_call(caller, "tasks.create")
    jobs = jobs_of(request)
    job = await in_database(request, draft_task, request, body, caller, jobs)
    await in_database(request, jobs.submit, job)
    jobs.runner.wake()
    output = {"task_status": "PENDING", "task_id": job.id}
    return reply({"output": output, "request_id": job.request_id})


def draft_task(request: Request, body: dict[str, Any], caller: Caller, jobs: Jobs) -> Job:
    """Raises EmbedserveError (400, 403)."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise EmbedserveError(
            'Required parameter "model" missing from request.', code="BadRequest.EmptyModel"
        )
    if model not in ASYNC_MODELS:
        find_model(model)
        raise EmbedserveError(NO_ASYNC, status=403, code="AccessDenied")
    if caller.models is not None and model not in caller.models:
        raise model_denied()
    given, parameters = body.get("input"), body.get("parameters")
    parameters = {} if parameters is None else parameters
    if given is None:
        raise EmbedserveError("Required input parameter missing from request.", code="BadRequest.EmptyInput")
    if not isinstance(given, dict) or not isinstance(parameters, dict):
        raise EmbedserveError("The input parameter requires json format.", code="BadRequest.IllegalInput")
    url = given.get("url")
    if not isinstance(url, str) or not url:
        raise refused("The url is missing: input should be an object with the url of a text file.")
    text_type = choice(parameters, "text_type", ("query", "document"), None)
    now = time.time()
    return Job(
        id=str(uuid.uuid4()),
        kind="task",
        workspace=caller.workspace,
        key_id=caller.key_id,
        request_id=request_id_of(request),
        endpoint="text-embedding",
        created_at=now,
        deadline=now + TASK_SECONDS,
        model=model,
        options=orjson.dumps({"text_type": text_type}).decode(),
        **find_input(request, url, caller, jobs),
    )


def find_input(request: Request, url: str, caller: Caller, jobs: Jobs) -> dict[str, Any]:
    """An upload to this server is read from the store, never over HTTP; everything else must be allowed."""
    try:
        parts = urlsplit(url) if url.isascii() else None
    except ValueError:  # http://[
        parts = None
    if parts and parts.netloc in own_hosts(request) and (found := _OWN_FILE.search(parts.path)):
        return {"input_file_id": jobs.files.get(caller.workspace, found[1]).id, "input_url": None}
    jobs.inputs.check(url)
    return {"input_file_id": None, "input_url": url}


async def get_task(request: Request) -> Response:
    caller, jobs = await authenticate(request), jobs_of(request)
    id, request_id = request.path_params["id"], request_id_of(request)
    try:
        job = await in_database(request, jobs.queue.get, caller.workspace, id, "task")
    except EmbedserveError as error:
        if error.status != 404:
            raise
        unknown = {"task_id": id, "task_status": "UNKNOWN"}
        return _reply({"request_id": request_id, "output": unknown})
    output, usage = describe(job), None
    if job.output_file_id:  # of a task that failed half way too: what is there was billed
        output["url"] = result_url(request, job)
        usage = {"total_tokens": job.tokens}
    if job.status == "failed" and job.errors:
        problem = orjson.loads(job.errors)[0]
        output |= {"code": problem["code"], "message": problem["message"]}
    elif job.status == "expired":
        output |= {"code": "RequestTimeOut", "message": "Request timed out, please try again later."}
    body: dict[str, Any] = {"request_id": request_id, "output": output}
    if job.ended_at is not None:
        body["usage"] = usage
    return _reply(body)


def describe(job: Job) -> dict[str, Any]:
    output: dict[str, Any] = {
        "task_id": job.id,
        "task_status": task_status(job),
        "submit_time": clock(job.created_at),
    }
    if job.started_at is not None:
        output["scheduled_time"] = clock(job.started_at)
    if job.ended_at is not None:
        output["end_time"] = clock(job.ended_at)
    return output


def result_url(request: Request, job: Job) -> str:
    """A link that works without a key for LINK_SECONDS."""
    expires = int(time.time()) + LINK_SECONDS
    name = f"{job.id}_output_{int((job.ended_at or 0) * 1000)}.txt.gz"
    signature = jobs_of(request).links.sign(name, expires)
    return f"{own_url(request)}/api/v1/results/{name}?Expires={expires}&Signature={signature}"


async def get_result(request: Request) -> Response:
    """No key: whoever holds the link may read, as with the original's."""
    jobs, name = jobs_of(request), request.path_params["name"]
    query = request.query_params
    denied = EmbedserveError("The link is not valid or has expired.", status=403, code="AccessDenied")
    if not jobs.links.opens(name, query.get("Expires", ""), query.get("Signature", "")):
        raise denied
    file = await in_database(request, jobs.result_of, name.partition("_")[0])
    return await stream_file(request, jobs.files, file, "application/gzip")


async def cancel_task(request: Request) -> Response:
    caller, jobs = await authenticate(request), jobs_of(request)
    try:
        done = await in_database(
            request, jobs.queue.cancel, caller.workspace, request.path_params["id"], "task", only_pending=True
        )
    except EmbedserveError as error:
        if error.status != 404:
            raise
        done = None
    request_id = request_id_of(request)
    if done is None:
        body = {"request_id": request_id, "code": "UnsupportedOperation", "message": _CANNOT_CANCEL}
        return _reply(body, 400)
    return _reply({"request_id": request_id})


async def list_tasks(request: Request) -> Response:
    caller, jobs, query = await authenticate(request), jobs_of(request), request.query_params
    number, size = page_parameter(request, "page_no", 1), page_parameter(request, "page_size", 10)
    size = min(size, 100)
    conditions: list[sa.ColumnElement[bool]] = []
    since, until = stamp(query.get("start_time"), "start_time"), stamp(query.get("end_time"), "end_time")
    if since is not None:
        conditions.append(table.c.created_at >= since)
    if until is not None:
        conditions.append(table.c.created_at <= until)
    if model := query.get("model_name"):
        conditions.append(table.c.model == model)
    if key := query.get("api_key_id"):
        conditions.append(table.c.key_id == key)
    if status := query.get("status"):
        conditions.append(status_condition(status))
    if (region := query.get("region")) and region != REGION:
        conditions.append(sa.false())
    total = await in_database(request, jobs.queue.count, caller.workspace, "task", conditions)
    page, _ = await in_database(
        request, jobs.queue.page, caller.workspace, "task", conditions, limit=size, offset=(number - 1) * size
    )
    return _reply(
        {
            "total": total,
            "data": [entry_of(job) for job in page],
            "total_page": -(-total // size),
            "page_no": number,
            "request_id": request_id_of(request),
            "page_size": size,
        }
    )


def status_condition(status: str) -> sa.ColumnElement[bool]:
    begun = table.c.started_at.is_not(None)
    conditions: dict[str, sa.ColumnElement[bool]] = {
        "PENDING": (table.c.status == "validating") & ~begun,
        "RUNNING": ((table.c.status == "validating") & begun)
        | table.c.status.in_(("in_progress", "finalizing", "cancelling")),
        "SUCCEEDED": table.c.status == "completed",
        "FAILED": table.c.status.in_(("failed", "expired")),
        "CANCELED": table.c.status == "cancelled",
    }
    return conditions.get(status, sa.false())


def entry_of(job: Job) -> dict[str, Any]:
    """Key order as recorded; times in milliseconds."""

    def ms(moment: float | None) -> int | None:
        return None if moment is None else int(moment * 1000)

    return {
        "api_key_id": job.key_id,
        "caller_parent_id": job.workspace,
        "caller_uid": job.workspace,
        "end_time": ms(job.ended_at),
        "gmt_create": ms(job.created_at),
        "model_name": job.model,
        "region": REGION,
        "request_id": job.request_id,
        "start_time": ms(job.started_at),
        "status": task_status(job),
        "task_id": job.id,
        "user_api_unique_key": f"apikey:v1:embeddings:text-embedding:text-embedding:{job.model}",
    }


def _reply(body: dict[str, Any], status: int = 200) -> Response:
    return reply(body, status, {"content-type": _CONTENT_TYPE})
