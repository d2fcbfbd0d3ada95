"""The lines of a batch: what is accepted, how one is answered (protocol notes 7a)."""

from __future__ import annotations

import logging
import time
import uuid
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import orjson

from embedserve.accounts.caller import Caller
from embedserve.catalogue import MODELS
from embedserve.embedding.embedder import Embedding
from embedserve.errors import EmbedserveError, internal
from embedserve.http.bounded_json import JSONError, parse_json
from embedserve.http.openai.parsing import Encoding, parse, wants_nothing
from embedserve.http.openai.rendering import error_body, render_reply
from embedserve.jobs.dialect import Answer
from embedserve.jobs.errors import outlives_the_line
from embedserve.jobs.records import Job, Problem
from embedserve.jobs.tries import tell
from embedserve.service import EmbeddingService, EmbedReply, EmbedRequest

log = logging.getLogger("embedserve.jobs")

EMBEDDINGS = "/v1/embeddings"
TEST_URL = "/v1/chat/ds-test"
TEST_MODEL = "batch-test-model"
TEST_LINES, TEST_BYTES = 100, 2**20
TEST_BODY = {"content": "This is a test result."}

_WORDS = {
    "empty": ("empty_file", "The input file has no requests: it should have one JSON object a line."),
    "too_many_lines": ("too_many_lines", "The input file has more than {limit} requests: split it."),
    "line_too_long": ("line_too_long", "The line is longer than {limit} bytes."),
    "too_large": ("file_too_large", "The input file is larger than {limit} bytes: split it."),
    "missing": ("file_not_found", "The input file is no longer there."),
    "storage_full": ("storage_full", "{message}"),
    "given_up": (
        "internal_error",
        "The batch was given up after {tries} tries, all of which met an internal error. Lines that were "
        "done are in the output file.",
    ),
}


def is_blank(number: int, line: bytes) -> bool:
    return not (line.removeprefix(BOM_UTF8) if number == 0 else line).strip()


class BatchChecker:
    """Remembers a digest of every custom_id, not the ids: 16 bytes each."""

    def __init__(self, job: Job) -> None:
        self.model = ""
        self._endpoint = job.endpoint
        self._seen: set[bytes] = set()
        self._test_size = 0

    def check(self, number: int, line: bytes) -> int | Problem:
        at = number + 1
        if is_blank(number, line):
            return 0
        try:
            given = parse_json(line)
        except JSONError as error:
            message = f"This line is not parseable as valid JSON: {error}."
            return Problem("invalid_json_line", message, None, at)
        if not isinstance(given, dict):
            return Problem("invalid_json_line", "This line is not a JSON object.", None, at)
        return self._check_fields(given, at) or self._check_model(given["body"], at, len(line))

    def _check_fields(self, given: Mapping[str, Any], at: int) -> Problem | None:
        custom_id, url = given.get("custom_id"), given.get("url")
        if not isinstance(custom_id, str) or not custom_id:
            return _no_text("custom_id", custom_id, at)
        digest = blake2b(custom_id.encode(), digest_size=16).digest()
        if digest in self._seen:
            return Problem(
                "duplicate_custom_id",
                f"The custom_id '{custom_id[:64]}' for this request is a duplicate of another request. "
                "Each request must have a custom_id of its own.",
                "custom_id",
                at,
            )
        self._seen.add(digest)
        if given.get("method") != "POST":
            return Problem("invalid_method", "The method of a request must be POST.", "method", at)
        if not isinstance(url, str) or not url:
            return _no_text("url", url, at)
        if url not in (EMBEDDINGS, TEST_URL):
            message = f"The provided url '{url[:64]}' is not supported by the Batch API."
            return Problem("url_not_found", message, "url", at)
        if url != self._endpoint:
            message = (
                f"The url '{url}' for this request does not match the batch endpoint '{self._endpoint}'."
            )
            return Problem("mismatched_url", message, "url", at)
        body = given.get("body")
        if body is None:
            return _missing("body", at)
        return None if isinstance(body, dict) else _wrong_type("body", "an object", body, at)

    def _check_model(self, body: Mapping[str, Any], at: int, size: int) -> int | Problem:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            return _no_text("body.model", model, at)
        if self.model and model != self.model:
            return Problem(
                "mismatched_model",
                f"The model '{model[:64]}' for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model.",
                "body.model",
                at,
            )
        fits = model == TEST_MODEL if self._endpoint == TEST_URL else model in MODELS
        if not fits:
            message = f"The provided model {model[:64]} is not supported by the Batch API."
            return Problem("model_not_found", message, "body.model", at)
        self.model = model
        if model == TEST_MODEL:
            self._test_size += size
            if len(self._seen) > TEST_LINES or self._test_size > TEST_BYTES:
                message = f"A batch of {TEST_MODEL} may have {TEST_LINES} lines and {TEST_BYTES} bytes."
                return Problem("file_too_large", message, None, at)
        rows = body.get("input")
        return max(1, len(rows)) if isinstance(rows, list) else 1


def _no_text(param: str, value: Any, at: int) -> Problem:
    """A field that should be a text, and is none or an empty one."""
    missing = value is None or value == ""
    return _missing(param, at) if missing else _wrong_type(param, "a string", value, at)


def _wrong_type(param: str, expected: str, value: Any, at: int) -> Problem:
    """In the words of OpenAI's API."""
    kinds = {bool: "a boolean", int: "an integer", float: "a number", list: "an array", dict: "an object"}
    given = kinds.get(type(value), "a string")
    message = f"Invalid type for '{param}': expected {expected}, but got {given} instead."
    return Problem("invalid_type", message, param, at)


def _missing(param: str, at: int) -> Problem:
    message = f"Missing required parameter: '{param}'."
    return Problem("missing_required_parameter", message, param, at)


@dataclass(frozen=True, slots=True)
class _Request:
    """A line to be answered: with what is asked, with an error, or (with neither) by the test model."""

    custom_id: str
    request: EmbedRequest | None = None
    encoding: Encoding = "float"
    wants_nothing: bool = False
    error: EmbedserveError | None = None


class BatchLines:
    """Implements :class:`embedserve.jobs.dialect.Dialect`."""

    max_lines = 50_000
    max_line_bytes = 6 * 2**20
    compress = False
    split = True

    def __init__(self, max_file_bytes: int = 500 * 2**20) -> None:
        self.max_file_bytes = max_file_bytes

    def open_checker(self, job: Job) -> BatchChecker:
        return BatchChecker(job)

    def problem(self, what: str, **values: Any) -> Problem:
        code, words = _WORDS[what]
        return Problem(code, words.format(**values), None, values.get("line"))

    def refusal(self, error: EmbedserveError) -> Problem:
        return Problem(error.openai_code, error.openai_message)

    def is_blank(self, number: int, line: bytes) -> bool:
        return is_blank(number, line)

    def read(self, job: Job, number: int, line: bytes, *, lenient: bool) -> _Request:
        given = parse_json(line)
        custom_id, body = given["custom_id"], given["body"]
        if job.endpoint == TEST_URL:
            return _Request(custom_id)
        try:
            asked, encoding = parse(body, lenient=lenient)
        except EmbedserveError as error:
            return _Request(custom_id, error=error)
        nothing = not lenient and wants_nothing(body)
        return _Request(custom_id, replace(asked, lane="bulk"), encoding, nothing)

    async def answer(
        self, service: EmbeddingService, caller: Caller, job: Job, number: int, asked: _Request
    ) -> Answer:
        id = job.line_id(number)
        if asked.error is not None:
            return Answer(False, partial(failure_line, id, asked.custom_id, asked.error))
        if asked.request is None:
            return Answer(True, partial(success_line, id, asked.custom_id, TEST_BODY), id)
        try:
            answer, reservation = await service.compute(caller, asked.request, id)
        except EmbedserveError as error:
            if outlives_the_line(error):
                raise
            return Answer(False, partial(failure_line, id, asked.custom_id, error))
        except Exception as error:  # one line must not hold up the others, nor the job for ever
            log.error("line %d of %s failed: %s", number + 1, job.id, tell(error))
            return Answer(False, partial(failure_line, id, asked.custom_id, internal()))
        if asked.wants_nothing:
            answer = EmbedReply(answer.model, [Embedding(None, None, 0) for _ in answer.rows], answer.tokens)

        def render() -> bytes:
            return success_line(id, asked.custom_id, render_reply(answer, asked.encoding, id))

        return Answer(True, render, id, answer.tokens, reservation)

    def decline(self, job: Job, number: int, line: bytes) -> Answer:
        if job.status == "cancelling":
            error = {
                "code": "batch_cancelled",
                "message": "This request was not run: the batch was cancelled.",
            }
        else:
            message = "This request was not run: the completion window ended before its turn came."
            error = {"code": "batch_expired", "message": message}
        body = {"id": job.line_id(number), "custom_id": parse_json(line)["custom_id"], "response": None}
        return Answer(False, partial(dump_line, body | {"error": error}))

    def describe(self, job: Job) -> dict[str, Any]:
        return describe(job)


def dump_line(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def success_line(id: str, custom_id: str, body: Mapping[str, Any]) -> bytes:
    response = {"status_code": 200, "request_id": id, "body": body}
    return dump_line({"id": id, "custom_id": custom_id, "response": response, "error": None})


def failure_line(id: str, custom_id: str, error: EmbedserveError) -> bytes:
    response = {"status_code": error.openai_status, "request_id": id, "body": error_body(error, id)}
    told = {"code": error.openai_code, "message": error.openai_message}
    return dump_line({"id": id, "custom_id": custom_id, "response": response, "error": told})


def new_batch_id() -> str:
    return f"batch_{uuid.uuid4()}"


def describe(job: Job) -> dict[str, Any]:
    """The batch object; key order as recorded. ``expires_at`` is null in the original too."""
    problems = orjson.loads(job.errors) if job.errors else None

    def at(moment: float | None) -> int | None:
        return None if moment is None else int(moment)

    def ended(status: str) -> int | None:
        return at(job.ended_at) if job.status == status else None

    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.endpoint,
        "errors": {"object": "list", "data": problems} if problems else None,
        "input_file_id": job.input_file_id,
        "completion_window": job.window,
        "status": job.status,
        "output_file_id": job.output_file_id,
        "error_file_id": job.error_file_id,
        "created_at": int(job.created_at),
        "in_progress_at": at(job.in_progress_at),
        "expires_at": None,
        "finalizing_at": at(job.finalizing_at),
        "completed_at": ended("completed"),
        "failed_at": ended("failed"),
        "expired_at": ended("expired"),
        "cancelling_at": at(job.cancelling_at),
        "cancelled_at": ended("cancelled"),
        "request_counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "metadata": orjson.loads(job.metadata) if job.metadata else None,
    }


LIST_SECONDS = 30 * 86400
"""How far back the list goes, as in the original."""


def oldest_listed() -> float:
    return time.time() - LIST_SECONDS
