"""Lines of batches and tasks: a checker names the problem, and what it lets through can be read."""

from __future__ import annotations

import orjson

from embedserve.errors import EmbedserveError
from embedserve.http.dashscope.task_lines import TaskLines
from embedserve.http.openai.batch_lines import EMBEDDINGS, TEST_URL, BatchLines, failure_line
from embedserve.jobs.records import Job, Problem

_LINE = b'{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": '
SEEDS = [
    b"\x00" + _LINE + b'{"model": "text-embedding-v4", "input": "x"}}',
    b"\x00" + _LINE + b'{"model": "text-embedding-v4", "input": ["x", "y"], "dimensions": 7}}\n'
    b'{"custom_id": "2", "method": "POST", "url": "/v1/embeddings", "body": {"model": "text-embedding-v3"}}',
    b'\x00{"custom_id": 7, "method": "GET", "url": "\\ud800", "body": []}',
    b'\x01{"custom_id": "\\ud800", "method": "POST", "url": "/v1/chat/ds-test", '
    b'"body": {"model": "batch-test-model"}}',
    b"\x02\xef\xbb\xbfsome text\r\n\nmore\x00 text",
    b"\x03\xff\xfe",
]


def job_of(kind: int) -> Job:
    endpoint = TEST_URL if kind & 1 else EMBEDDINGS
    return Job("job", "batch", "w", "key", "request", endpoint, 0.0, 1.0, model="text-embedding-v4")


def check(data: bytes) -> None:
    kind, lines = data[0] if data else 0, data[1:].split(b"\n")
    dialect = TaskLines() if kind & 2 else BatchLines()
    job = job_of(kind)
    checker = dialect.open_checker(job)
    for number, line in enumerate(lines):
        found = checker.check(number, line)
        if isinstance(found, Problem):
            told = orjson.dumps(found.as_dict())
            assert len(told) < 16_000, "a problem quotes too much"
            assert b"\\u0000" not in told, "no database would take it"
            return
        assert dialect.is_blank(number, line) == (found == 0)
        if found == 0:
            continue
        asked = dialect.read(job, number, line, lenient=bool(kind & 4))
        orjson.loads(dialect.decline(job, number, line).render())
        error = getattr(asked, "error", None)
        if error is not None:
            assert isinstance(error, EmbedserveError)
            assert 400 <= error.openai_status < 500
            orjson.loads(failure_line("id", asked.custom_id, error))
