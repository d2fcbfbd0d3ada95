"""Jobs hold up nobody else: poison lines, URLs and callbacks through the real runner, on both databases."""

from __future__ import annotations

import json
import pkgutil
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DataError, OperationalError

from batch_workers import EMBEDDINGS, embedding_line, submit_batch, submit_task
from embedserve.jobs.records import Job, Problem
from embedserve.jobs.store import Jobs
from job_store import Made, find, finish, lines, running, text_of, wait_for

GOOD = "good"
"""The workspace of a job that must always complete."""

# poison lines

texts = st.text(st.characters(codec=None), max_size=30)  # halves of surrogate pairs and NUL, too
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def almost_lines(draw: st.DrawFn) -> bytes:
    """A good line of which something was changed, as JSON writes it: with escapes."""
    line = orjson.loads(embedding_line(draw(st.sampled_from(["a", "b", "c"])), "one text", "two"))
    for _ in range(draw(st.integers(1, 3))):
        place = line if draw(st.booleans()) or not isinstance(line.get("body"), dict) else line["body"]
        names = st.sampled_from([*place, "encoding_format", "instruct", "text_type"]) | texts
        place[draw(names)] = draw(values)
    return json.dumps(line, ensure_ascii=True).encode()


raw_lines = (
    almost_lines()
    | st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b""))
    | values.map(lambda value: json.dumps(value).encode())
    | st.just(embedding_line("fine", "a good line"))
)
LONE = rb'{"custom_id":"x","method":"POST","url":"\ud800","body":{"model":"text-embedding-v4","input":"a"}}'
POISON = [
    LONE,
    LONE.replace(rb"\ud800", EMBEDDINGS.encode()).replace(b"text-embedding-v4", rb"\udfff"),
    LONE.replace(rb"\ud800", EMBEDDINGS.encode()).replace(b'"x"', rb'"\ud800"'),
    LONE.replace(rb"\ud800", EMBEDDINGS.encode()).replace(b'"x"', rb'"\u0000"'),
    LONE.replace(rb"\ud800", EMBEDDINGS.encode()).replace(b'"a"', rb'"a\ud83d"'),
    LONE.replace(rb'"url":', rb'"\ud800":1,"url":'),
    b'{"custom_id":"n","method":"POST","url":"/v1/embeddings","body":'
    + b'{"a":' * 5000
    + b"1"
    + b"}" * 5000
    + b"}",
    b"[" * 100_000,
    b'{"custom_id":' + b"9" * 5000 + b"}",
    b'{"custom_id":1e999,"method":NaN}',
    b"\xff\xfe{\x00}\x00",
    b"\xed\xa0\x80",
]


def check_ended(store: Jobs, job: Job) -> None:
    """Ended with all of its lines told of, or with a reason."""
    assert job.status in ("completed", "failed")
    if job.status == "failed":
        problems = orjson.loads(job.errors or "[]")
        assert problems
        assert all(entry["code"] and entry["message"] for entry in problems)
        assert "internal" not in problems[0]["code"].lower()
        return
    assert job.completed + job.failed == job.total
    told = text_of(store, job, job.output_file_id).splitlines()
    told += text_of(store, job, job.error_file_id).splitlines()
    assert len(told) == job.total
    for line in told:
        orjson.loads(line)


def test_whatever_the_lines_are_another_workspaces_job_completes(make_store: Made) -> None:
    store = make_store()
    count = iter(range(10**6))

    @settings(max_examples=60)
    @given(st.lists(raw_lines, min_size=1, max_size=6), st.booleans())
    @example(POISON[:1], True)
    def hold(found: list[bytes], task: bool) -> None:
        number = next(count)
        if task:
            submit_task(store, f"poison-{number}", b"\n".join(found), "poison")
        else:
            submit_batch(store, f"poison-{number}", found, "poison")
        submit_batch(store, f"good-{number}", lines(2), GOOD)
        poison, good = wait_for(store, f"poison-{number}", f"good-{number}")
        assert (good.status, good.completed) == ("completed", 2)
        check_ended(store, poison)

    with running(store):
        hold()


def test_poison_ends_its_own_job_at_most(make_store: Made) -> None:
    store = make_store()
    for number, line in enumerate(POISON):
        submit_batch(store, f"alone-{number}", [line], "poison")
        submit_batch(store, f"beside-{number}", [embedding_line("fine", "text"), line], "poison")
    submit_batch(store, "good", lines(2), GOOD)
    ids = [f"{name}-{number}" for name in ("alone", "beside") for number in range(len(POISON))]
    good, *poison = finish(store, "good", *ids)
    assert (good.status, good.completed) == ("completed", 2)
    for job in poison:
        check_ended(store, job)


@pytest.mark.parametrize(
    ("custom_id", "code", "words"),
    [
        (7, "invalid_type", "expected a string, but got an integer"),
        (7.5, "invalid_type", "expected a string, but got a number"),
        (True, "invalid_type", "expected a string, but got a boolean"),
        (["7"], "invalid_type", "expected a string, but got an array"),
        (None, "missing_required_parameter", "Missing required parameter"),
    ],
)
def test_a_custom_id_that_is_no_string_is_told_what_it_is(
    make_store: Made, custom_id: object, code: str, words: str
) -> None:
    store = make_store()
    line = orjson.loads(embedding_line("x", "text")) | {"custom_id": custom_id}
    submit_batch(store, "b", [orjson.dumps(line)])
    (job,) = finish(store, "b")
    (problem,) = orjson.loads(job.errors or "")
    assert (job.status, problem["code"], problem["line"], problem["param"]) == (
        "failed",
        code,
        1,
        "custom_id",
    )
    assert words in problem["message"]


def test_lines_that_are_blank_in_any_script_count_nowhere(make_store: Made) -> None:
    store = make_store()
    submit_task(store, "t", "\ufeff\none\n\u3000\n\x85\u2028\ntwo\n \t\n".encode())
    submit_batch(store, "b", [b"\xef\xbb\xbf", b"  ", embedding_line("a", "text"), b"\r"])
    task, batch = finish(store, "t", "b")
    assert (task.status, task.completed, task.failed, task.total) == ("completed", 2, 0, 2)
    assert (batch.status, batch.completed, batch.failed, batch.total) == ("completed", 1, 0, 1)


# whatever raises

PLACES: dict[str, str] = {
    "looking for the key": "embedserve.jobs.steps.Steps._caller_of",
    "checking": "embedserve.http.openai.batch_lines.BatchChecker.check",
    "cutting": "embedserve.jobs.steps.make_plan",
    "beginning": "embedserve.jobs.queue.JobQueue.begin",
    "reading": "embedserve.http.openai.batch_lines.BatchLines.read",
    "answering": "embedserve.http.openai.batch_lines.BatchLines.answer",
    "rendering": "embedserve.http.openai.batch_lines.success_line",
    "writing": "embedserve.jobs.files.FileStore.write_part",
    "booking": "embedserve.jobs.queue.JobQueue.finish_chunk",
}


class PanicError(BaseException):
    """As native code raises it."""


ERRORS: list[BaseException] = [
    ValueError("a caller's text"),
    DataError("a caller's text", {}, ValueError()),
    MemoryError(),
    RecursionError(),
    UnicodeDecodeError("utf-8", b"a caller's text", 0, 1, "x"),
    KeyError("a caller's text"),
    IsADirectoryError(21, "a caller's text"),
    PanicError("a caller's text"),
]


def break_at(monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException, seen: list[int]) -> None:
    """Raise there for everything that has to do with the poison."""
    whole = pkgutil.resolve_name(place)

    def broken(*given: Any, **named: Any) -> Any:
        if "poison" in repr(given) + repr(named):
            seen.append(1)
            raise error
        return whole(*given, **named)

    monkeypatch.setattr(place, broken)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_whatever_raises_ends_one_job_after_a_few_tries(
    make_store: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    monkeypatch.setattr("embedserve.jobs.runner.pause_after", lambda tries: 0.02)
    store = make_store()
    with running(store):
        for error in ERRORS:
            kind = type(error).__name__
            with monkeypatch.context() as patch:
                seen: list[int] = []
                break_at(patch, place, error, seen)
                submit_batch(store, f"poison-{kind}", [embedding_line("poison", "poison")], "poison")
                submit_batch(store, f"good-{kind}", lines(2), GOOD)
                poison, good = wait_for(store, f"poison-{kind}", f"good-{kind}")
            assert (good.status, good.completed) == ("completed", 2)
            assert poison.status == "failed"
            (problem,) = orjson.loads(poison.errors or "")
            assert problem["code"] == "internal_error"
            assert "3 tries" in problem["message"]
            assert 3 <= len(seen) <= 6
    assert "a caller's text" not in caplog.text
    assert "poison" not in caplog.text.replace("job poison-", "")


def test_an_outage_is_no_try(make_store: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedserve.jobs.runner._BROKEN_SECONDS", 0.02)
    store = make_store()
    whole, left = store.queue.begin, [8]

    def begin(*given: Any) -> bool:
        if left[0]:
            left[0] -= 1
            raise OperationalError("SELECT 1", {}, Exception("the server closed the connection"))
        return whole(*given)

    monkeypatch.setattr(store.queue, "begin", begin)
    submit_batch(store, "b", lines(2))
    (job,) = finish(store, "b")
    assert (job.status, job.completed, left) == ("completed", 2, [0])


def test_a_job_that_cannot_even_be_failed_ends(make_store: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedserve.jobs.runner.pause_after", lambda tries: 0.02)
    store = make_store()

    def raise_data_error(*given: Any, **named: Any) -> None:
        raise DataError("INSERT", {}, ValueError())

    monkeypatch.setattr("embedserve.jobs.steps.make_plan", raise_data_error)
    monkeypatch.setattr("embedserve.jobs.queue.fail_job", raise_data_error)
    submit_batch(store, "b", lines(2))
    (job,) = finish(store, "b")
    assert (job.status, orjson.loads(job.errors or "")[0]["code"]) == ("failed", "internal_error")


@pytest.mark.parametrize("text", ["\0", "\ud800", "\udfff\0x", "x" * 10**6, "\U0001f600" * 5000])
def test_any_words_of_a_problem_can_be_kept(make_store: Made, text: str) -> None:
    store = make_store()
    submit_batch(store, "b", lines(1))
    assert store.queue.fail(find(store, "b")[0], [Problem(text, text, text, 1)])
    (entry,) = orjson.loads(find(store, "b")[0].errors or "")
    assert 0 < len(entry["message"]) <= 2000


def test_many_leases_that_fail_at_once_are_all_given_back(
    make_store: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is away nothing can be given back, and then everything is, each once."""
    monkeypatch.setattr("embedserve.jobs.runner._BROKEN_SECONDS", 0.02)
    store = make_store(batch_concurrency=8)
    away = [True]
    whole_finish, whole_back = store.queue.finish_chunk, store.queue.give_back

    def unless_away(whole: Callable[..., Any]) -> Callable[..., Any]:
        def work(*given: Any, **named: Any) -> Any:
            if away[0]:
                time.sleep(0.01)
                raise OperationalError("UPDATE", {}, Exception("no connection"))
            return whole(*given, **named)

        return work

    monkeypatch.setattr(store.queue, "finish_chunk", unless_away(whole_finish))
    monkeypatch.setattr(store.queue, "give_back", unless_away(whole_back))
    for number in range(4):
        submit_batch(store, f"b{number}", lines(130), f"workspace-{number}")
    with running(store):
        time.sleep(1.5)
        away[0] = False
        done = wait_for(store, *(f"b{number}" for number in range(4)))
    assert [(job.status, job.completed) for job in done] == [("completed", 130)] * 4
