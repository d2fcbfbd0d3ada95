"""What is not in a job's lines holds up nobody either: URLs, callbacks, large inputs, dying workers."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import httpx
import orjson
import pytest
import sqlalchemy as sa

from batch_workers import embedding_line, start_worker, submit_batch, submit_task
from embedserve.jobs import litter
from embedserve.jobs.records import Job
from embedserve.jobs.store import Jobs
from embedserve.settings import Settings
from embedserve.storage.database import Database
from embedserve.storage.tables import jobs as table
from job_store import Made, find, finish, lines, running, wait_for
from light_server import LightServer

NOWHERE = [
    "http://[",
    "http://[::1",
    "http://[v1.x]/",
    "http://[::1%25lo]/",
    "http://" + "a" * 64 + ".example.org/",
    "http://" + "a." * 130 + "org/",
    "http://a..b/",
    "http://.example.org/",
    "http://-a.example.org/",
    "http://xn--a-ecp.example.org:99999/",
    "http://example.org:٣/",
    "http://example.org:-1/",
    "http://user:word@example.org/",
    "http://example.org\\@127.0.0.1/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://2130706433/",
    "http://127.1/",
    "http://ex ample.org/",
    "http://ex\tample.org/",
    "http://example.org/\x00",
    "http://ｅxample.org/",
    "http://\ud83d\ude00.example.org/",
    "//",
    "http://",
    "http:",
    "file:///etc/passwd",
    "gopher://example.org:70/",
    "data:text/plain,a",
    "\udcff",
]


class Site(http.server.BaseHTTPRequestHandler):
    """``/to/<quoted url>`` leads there; ``/bytes/<n>`` has so many; ``/raw/<quoted bytes>`` answers those."""

    told: list[str]

    def do_GET(self) -> None:
        name, _, rest = self.path[1:].partition("/")
        if name == "to":
            self.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: ")
            self.wfile.write(unquote(rest, errors="surrogatepass").encode("utf-8", "surrogatepass"))
            self.wfile.write(b"\r\nContent-Length: 0\r\n\r\n")
        elif name == "raw":
            self.wfile.write(unquote(rest).encode("latin-1"))
        elif name == "bytes":
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(b"a text\n" * (int(rest) // 7))

    def do_POST(self) -> None:
        self.server.told.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/slow":
            time.sleep(3)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


class Outside(http.server.ThreadingHTTPServer):
    """Somebody else's host."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Site)
        self.told: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_address[1]}"

    @property
    def opened(self) -> dict[str, object]:
        """Settings that allow it."""
        hosts = [f"localhost:{self.server_address[1]}"]
        return {"url_hosts": hosts, "callback_hosts": hosts, "url_networks": ["127.0.0.0/8", "::1/128"]}


@pytest.fixture
def outside() -> Iterator[Outside]:
    with Outside() as server:
        yield server
        server.shutdown()


def submit_url(store: Jobs, id: str, url: str, workspace: str) -> Job:
    """A task whose input is to be fetched."""
    job = submit_task(store, id, b"a", workspace)
    with store.queue.database.write() as connection:
        row = sa.update(table).where(table.c.id == id)
        connection.execute(row.values(input_url=url, input_file_id=None))
    return job


# URLs


def quoted(url: str) -> str:
    return "".join(f"%{byte:02x}" for byte in url.encode("utf-8", "surrogatepass"))


BROKEN = [
    b"",
    b"\x00" * 100,
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 70000 + b"\r\n",
    b"HTTP/1.1 999999999 \r\n\r\n",
    b"HTTP/1.1 302 x\r\nLocation:\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\nabc",
    b"HTTP/9.9 200 OK\r\n\r\n",
]


def test_wherever_a_url_leads_its_task_fails_in_words_and_others_run(
    make_store: Made, outside: Outside
) -> None:
    store = make_store(**outside.opened)
    ids = []
    for number, place in enumerate(NOWHERE):
        ids.append(f"to-{number}")
        submit_url(store, ids[-1], f"{outside.url}/to/{quoted(place)}", f"poison-{number}")
    for number, answer in enumerate(BROKEN):
        ids.append(f"raw-{number}")
        url = f"{outside.url}/raw/" + "".join(f"%{byte:02x}" for byte in answer[:600])
        submit_url(store, ids[-1], url, f"poison-raw-{number}")
    submit_url(store, "good", f"{outside.url}/bytes/700", "good")
    good, *poison = finish(store, "good", *ids)
    assert (good.status, good.completed) == ("completed", 100)
    for job in poison:
        assert job.status == "failed", job.id
        (problem,) = orjson.loads(job.errors or "[]")
        assert problem["code"].startswith(("InvalidURL", "BadRequest", "InvalidFile")), (job.id, problem)
        assert problem["message"]


def test_a_url_in_a_row_may_be_anything(make_store: Made, outside: Outside) -> None:
    """The door refuses them; one that came in otherwise, or before it did, fails its task."""
    store = make_store(**outside.opened)
    urls = [url for url in NOWHERE if "\x00" not in url and url.isprintable()]
    for number, url in enumerate(urls):
        submit_url(store, f"t{number}", url, f"w{number}")
    done = finish(store, *(f"t{number}" for number in range(len(urls))))
    assert {job.status for job in done} == {"failed"}
    assert {orjson.loads(job.errors or "")[0]["code"] for job in done} == {"InvalidURL"}


def test_a_host_without_an_answer_costs_other_workspaces_nothing(make_store: Made, outside: Outside) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        hosts = [*outside.opened["url_hosts"], f"localhost:{silent.getsockname()[1]}"]  # type: ignore[misc]
        store = make_store(**outside.opened | {"url_hosts": hosts})
        url = f"http://localhost:{silent.getsockname()[1]}/"
        for number in range(10):
            submit_url(store, f"slow-{number}", url, "slow")
        submit_url(store, "good", f"{outside.url}/bytes/7", "good")
        with running(store):
            (good,) = wait_for(store, "good", seconds=15)
            assert good.status == "completed"
            assert store.queue.cancel("slow", "slow-9", "task", only_pending=True)
            started = time.monotonic()
        assert time.monotonic() - started < 15  # and the end of the server does not wait for them
        assert {job.status for job in find(store, "slow-0", "slow-1")} == {"validating"}
        assert {job.attempts for job in find(store, "slow-0", "slow-1")} == {0}


@pytest.mark.parametrize("url", NOWHERE)
def test_the_door_refuses_such_a_url(tmp_path: Path, shared_light_server: LightServer, url: str) -> None:
    body = {"model": "text-embedding-async-v2", "input": {"url": url}}
    endpoint = f"{shared_light_server.native_url}/services/embeddings/text-embedding/text-embedding"
    raw = orjson.dumps(body) if url.isprintable() else json.dumps(body).encode()
    headers = shared_light_server.headers | {
        "X-DashScope-Async": "enable",
        "content-type": "application/json",
    }
    reply = httpx.post(endpoint, content=raw, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "InvalidURL")


@pytest.fixture(scope="module")
def shared_light_server() -> Iterator[LightServer]:
    environment = {"EMBEDSERVE_URL_HOSTS": "*.example.org,example.org"}
    with LightServer(environment=environment) as server:
        yield server


# room


def test_fetched_inputs_count_against_the_quota_while_they_are_there(
    make_store: Made, outside: Outside
) -> None:
    store = make_store(**outside.opened, files_quota_mb=3)
    submit_url(store, "large", f"{outside.url}/bytes/{4 * 2**20}", "one")
    submit_batch(store, "good", lines(3), "two")
    large, good = finish(store, "large", "good")
    assert good.status == "completed"
    (problem,) = orjson.loads(large.errors or "")
    assert (large.status, problem["code"]) == ("failed", "InternalError.StorageFull")
    assert "EMBEDSERVE_FILES_QUOTA_MB" in problem["message"]
    left = [path for path in store.files.job_folder("large").glob("*")]
    assert left == []

    def used() -> int:
        with store.queue.database.read() as connection:
            return store.files.used_bytes(connection)

    store.runner.upkeep.tidy()
    job = submit_url(store, "held", f"{outside.url}/bytes/700000", "one")
    before = used()
    assert store.queue.lease_fetch("w") is not None
    store.files.input_draft(job).with_name("input").write_bytes(b"a\n" * 350_000)
    store.files.hold_input(job, "w", 700_000)
    assert store.queue.end_fetch(job, "w", 700_000)
    assert used() == before + 700_000
    assert store.queue.fail(job, [])
    store.runner.upkeep.tidy()
    assert used() == before
    assert not store.files.input_path(find(store, "held")[0]).exists()


def test_what_accidents_left_is_swept_and_what_lives_is_not(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "lives", lines(3))
    finish(store, "lives")
    folder = store.files.folder
    old = ["jobs/gone/000000.output", "jobs/gone/.input-ab", "uploads/.draft-1", "uploads/file-batch-none"]
    young = ["jobs/new/000000.output", "uploads/.draft-2", "uploads/file-batch-new"]
    for name in old + young:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name in [
        *old,
        "jobs/gone",
        "jobs/lives",
        *(str(p.relative_to(folder)) for p in folder.glob("jobs/lives/*")),
    ]:
        os.utime(folder / name, (0, 0))
    litter.sweep(store.files.database, folder)
    assert not any((folder / name).exists() for name in [*old, "jobs/gone"])
    assert all((folder / name).exists() for name in young)
    assert (folder / "jobs/lives/000000.output").exists()


def test_the_files_of_another_database_are_no_litter(make_store: Made, tmp_path: Path) -> None:
    store = make_store()
    submit_batch(store, "lives", lines(3))
    finish(store, "lives")  # marks the folder as this database's
    other = Database.open(tmp_path / "other")
    for path in [*store.files.folder.glob("*/*"), *store.files.folder.glob("*/*/*")]:
        os.utime(path, (0, 0))
    litter.sweep(other, store.files.folder)
    assert (store.files.folder / "jobs/lives/000000.output").exists()
    assert store.files.upload_path(find(store, "lives")[0].input_file_id or "").exists()
    other.close()


# callbacks and upkeep


def test_a_callback_that_raises_or_is_slow_ends_nothing(
    make_store: Made, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedserve.jobs.upkeep.Upkeep.pause", 0.05)
    monkeypatch.setattr("embedserve.jobs.callbacks._PAUSES", (0.1, 0.1))
    store = make_store(**outside.opened)
    urls = [*(url for url in NOWHERE if url.isprintable() and "\x00" not in url), f"{outside.url}/slow"]
    for number, url in enumerate(urls):
        submit_batch(store, f"b{number}", lines(1), "poison")
        set_row(store, f"b{number}", callback=url)
    submit_batch(store, "bad-metadata", lines(1), "poison")
    set_row(store, "bad-metadata", callback=f"{outside.url}/never", metadata="{no json")
    submit_batch(store, "good", lines(1), "good")
    set_row(store, "good", callback=f"{outside.url}/good")
    submit_batch(store, "old", lines(1), "good")
    with running(store):
        wait_for(store, "good", "old", *(f"b{number}" for number in range(len(urls))))
        until = time.monotonic() + 30
        while "/good" not in outside.told or "/slow" not in outside.told:
            assert time.monotonic() < until, outside.told
            time.sleep(0.05)
        set_row(store, "old", ended_at=1.0)
        store.runner.upkeep._swept_at = -1e9
        while find(store, "old"):  # retention goes on
            assert time.monotonic() < until
            time.sleep(0.05)
        set_row(store, "bad-metadata", ended_at=1.0 + time.time() - 3700)
        while find(store, "bad-metadata")[0].callback:  # and is given up after an hour
            assert time.monotonic() < until
            time.sleep(0.05)
    assert outside.told.count("/good") == 1


def set_row(store: Jobs, id: str, **values: object) -> None:
    with store.queue.database.write() as connection:
        connection.execute(sa.update(table).where(table.c.id == id).values(**values))


@pytest.mark.parametrize(
    "step", ["_renew", "take_back", "_purge_jobs", "_purge_files", "_forget_turns", "_sweep"]
)
def test_an_upkeep_step_that_always_raises_ends_no_other(
    make_store: Made, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = make_store()
    upkeep = store.runner.upkeep
    ran: list[str] = []

    def note(name: str) -> None:
        def work(*given: object) -> None:
            ran.append(name)
            if name == step:
                raise ValueError

        monkeypatch.setattr(upkeep, name, work)

    for name in ("_renew", "take_back", "_purge_jobs", "_purge_files", "_forget_turns", "_sweep"):
        note(name)
    upkeep.look_after()
    upkeep.tidy()
    assert ran == ["_renew", "take_back", "_purge_jobs", "_purge_files", "_forget_turns", "_sweep"]


# turns


def test_a_workspace_with_a_thousand_jobs_is_one_caller(make_store: Made) -> None:
    store = make_store()
    for number in range(12):
        submit_batch(store, f"many-{number}", lines(1), "many")
    submit_batch(store, "one", lines(200), "one")
    checked = []
    for number in range(4):
        job = store.queue.lease_check(f"w{number}")
        assert job is not None
        checked.append(job.id)
    assert checked.index("one") < 2


def test_large_inputs_hold_up_no_check_of_a_small_one(
    make_store: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedserve.jobs import steps

    whole, released = steps.make_plan, threading.Event()

    def plan(path: Path, job: Job, *rest: object) -> object:
        if job.id.startswith("giant"):
            released.wait(60)
        return whole(path, job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("embedserve.jobs.steps.make_plan", plan)
    monkeypatch.setattr("embedserve.jobs.turns.SMALL_BYTES", 1000)
    store = make_store()
    for number in range(6):
        submit_batch(store, f"giant-{number}", lines(50), f"giants-{number % 4}")
    submit_batch(store, "small", lines(2), "small")
    with running(store):
        (small,) = wait_for(store, "small", seconds=30)
        assert small.status == "completed"
        released.set()
        done = wait_for(store, *(f"giant-{number}" for number in range(6)))
    assert {job.status for job in done} == {"completed"}


# workers that die


def work_deadly(settings: Settings, seconds_per_token: float) -> None:
    """A worker whom some lines kill, as a fault in native code would."""
    from batch_workers import work
    from embedserve.http.openai import batch_lines
    from embedserve.jobs import queue

    queue.pause_after = lambda tries: 0.05 * max(tries, 0)
    check, read = batch_lines.BatchChecker.check, batch_lines.BatchLines.read

    def check_or_die(self: batch_lines.BatchChecker, number: int, line: bytes) -> object:
        if b"kill the check" in line:
            os.kill(os.getpid(), signal.SIGKILL)
        return check(self, number, line)

    def read_or_die(self: batch_lines.BatchLines, job: Job, number: int, line: bytes, **more: bool) -> object:
        if b"kill the run" in line:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, job, number, line, **more)

    batch_lines.BatchChecker.check = check_or_die  # type: ignore[assignment, method-assign]
    batch_lines.BatchLines.read = read_or_die  # type: ignore[assignment, method-assign]
    work(settings, seconds_per_token)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
@pytest.mark.parametrize("stage", ["check", "run"])
def test_a_job_that_kills_its_workers_ends_and_others_complete(make_store: Made, stage: str) -> None:
    store = make_store()
    poison = [embedding_line(f"p{i}", f"kill the {stage}") for i in range(500)]
    submit_batch(store, "poison", poison, "poison")
    submit_batch(store, "good", lines(500), "good")
    deaths = 0
    until = time.monotonic() + 120
    worker = start_worker(store.runner.service.settings, 0.0, work_deadly)
    while {job.status for job in find(store, "poison", "good")} & {"validating", "in_progress"}:
        assert time.monotonic() < until, find(store, "poison", "good")
        worker.join(0.05)
        if worker.exitcode is not None:
            deaths += 1
            assert deaths < 16
            worker = start_worker(store.runner.service.settings, 0.0, work_deadly)
    worker.kill()
    worker.join()
    ended, good = find(store, "poison", "good")
    assert (good.status, good.completed) == ("completed", 500)
    assert ended.status == "failed"
    (problem,) = orjson.loads(ended.errors or "")
    assert (problem["code"], "7 tries" in problem["message"]) == ("internal_error", True)
    assert deaths >= 7
