"""The store under a runner in this process: leases, deadlines, room, retention. On both databases."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa

from batch_workers import WORKSPACE, embedding_line, key_of, submit_batch, submit_task
from embedserve.errors import EmbedserveError
from embedserve.jobs.files import FileStore
from embedserve.jobs.leases import Worker
from embedserve.jobs.litter import sweep
from embedserve.jobs.queue import ChunkResult
from embedserve.jobs.records import ENDED, Chunk
from embedserve.jobs.store import Jobs
from embedserve.storage.tables import api_keys, files, job_chunks, jobs, stamps
from job_store import Made, billed, change, find, finish, lines, run


def test_a_job_runs_in_order_and_is_billed_line_by_line(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(200))
    (job,) = finish(store, "b")
    assert (job.status, job.completed, job.failed, billed(store)) == ("completed", 200, 0, 200)
    assert job.output_file_id is not None
    output = b"".join(store.files.blocks(store.files.get(WORKSPACE, job.output_file_id)))
    parsed = [orjson.loads(line) for line in output.splitlines()]
    assert [line["custom_id"] for line in parsed] == [f"line-{i}" for i in range(200)]
    assert sum(line["response"]["body"]["usage"]["total_tokens"] for line in parsed) == job.tokens


def test_who_lost_his_lease_books_nothing(make_store: Made) -> None:
    store, other = make_store("one"), make_store("two")
    submit_batch(store, "b", lines(10))
    job = store.queue.lease_check("w-1")
    assert job is not None
    assert other.queue.lease_check("w-2") is None
    assert store.queue.begin(job, "w-1", "text-embedding-v4", [Chunk(0, 0, 10, 0, 100)])
    leased = store.queue.lease_chunk("w-1")
    assert leased is not None
    assert other.queue.lease_chunk("w-2") is None
    change(store, job_chunks, lease_until=time.time() - 1)
    taken = other.queue.lease_chunk("w-2")
    assert taken is not None
    result = ChunkResult(1, 0, 5, 0, [("line-id", 3)])
    assert store.queue.finish_chunk(*leased, "w-1", result) is None
    assert billed(store) == 0
    assert other.queue.finish_chunk(*taken, "w-2", result)
    assert other.queue.finish_chunk(*taken, "w-2", result) is None
    assert (billed(store), find(store, "b")[0].status) == (1, "completed")


def test_jobs_take_turns(make_store: Made) -> None:
    store = make_store()
    for name in ("a", "b"):
        submit_batch(store, name, lines(300, name))
        job = store.queue.lease_check("w")
        assert job is not None
        chunks = [Chunk(i, i, 1, i, 1) for i in range(3)]
        assert store.queue.begin(job, "w", "text-embedding-v4", chunks)
    served = []
    for _ in range(4):
        leased = store.queue.lease_chunk("w")
        assert leased is not None
        served.append(leased[0].id)
    assert served[:2] in (["a", "b"], ["b", "a"])
    assert served[2:] == served[:2]


def test_a_dead_neighbours_leases_are_taken_back_at_once(make_store: Made, tmp_path: Path) -> None:
    store = make_store()
    submit_batch(store, "b", lines(10))
    (tmp_path / "node" / "workers").mkdir(exist_ok=True)
    (tmp_path / "node" / "workers" / "w-dead").touch()
    assert store.queue.lease_check("w-dead") is not None
    (job,) = finish(store, "b")
    assert job.status == "completed"


def test_a_passed_deadline_answers_the_open_lines(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(200))
    job = store.queue.lease_check("w")
    assert job is not None
    content = store.files.upload_path(job.input_file_id or "").read_bytes()
    half = content.index(b"\n", len(content) // 2) + 1
    count = content[:half].count(b"\n")
    chunks = [Chunk(0, 0, count, 0, half), Chunk(1, count, 200 - count, half, len(content) - half)]
    assert store.queue.begin(job, "w", "text-embedding-v4", chunks)
    leased = store.queue.lease_chunk("w")
    assert leased is not None
    size = store.files.write_part("b", 0, ".output", [b"done\n"] * count)
    done = ChunkResult(count, 0, size, 0, [(f"id-{i}", 1) for i in range(count)])
    assert store.queue.finish_chunk(*leased, "w", done)
    change(store, jobs, deadline=time.time() - 1)
    assert store.queue.expire_due()
    (job,) = finish(store, "b")
    assert (job.status, job.completed, job.failed) == ("expired", count, 200 - count)
    assert job.error_file_id is not None
    errors = b"".join(store.files.blocks(store.files.get(WORKSPACE, job.error_file_id)))
    assert {orjson.loads(line)["error"]["code"] for line in errors.splitlines()} == {"batch_expired"}
    assert billed(store) == count


def test_a_job_that_was_never_begun_expires_too(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(1))
    change(store, jobs, deadline=time.time() - 1)
    assert store.queue.expire_due()
    assert find(store, "b")[0].status == "expired"


def test_a_full_quota_fails_the_job_and_nothing_else(make_store: Made) -> None:
    store = make_store(files_quota_mb=1)
    submit_batch(store, "big", [embedding_line(str(i), *["x"] * 10, dimensions=1024) for i in range(200)])
    (job,) = finish(store, "big")
    assert job.status == "failed"
    problem = orjson.loads(job.errors or "")[0]
    assert problem["code"] == "storage_full"
    assert "EMBEDSERVE_FILES_QUOTA_MB" in problem["message"]
    assert billed(store) == job.completed
    if job.output_file_id:  # what was billed can be had
        output = b"".join(store.files.blocks(store.files.get(WORKSPACE, job.output_file_id)))
        assert len(output.splitlines()) == job.completed
        store.files.delete(WORKSPACE, job.output_file_id)


def test_the_service_goes_on_after_a_full_disk(make_store: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    monkeypatch.setattr(store.files, "reserve_bytes", 2**62)
    submit_batch(store, "first", lines(3))
    (job,) = finish(store, "first")
    assert job.status == "failed"
    assert "disk" in orjson.loads(job.errors or "")[0]["message"]
    again = make_store()
    submit_batch(again, "second", lines(3))
    assert finish(again, "second")[0].status == "completed"


def test_uploads_are_held_to_quota_and_number(make_store: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(files_quota_mb=1)

    def adopt(size: int) -> None:
        draft = store.files.draft()
        draft.write_bytes(b"x" * size)
        store.files.adopt(draft, workspace=WORKSPACE, purpose="batch", filename="a")

    adopt(2**20)
    with pytest.raises(EmbedserveError, match=r"Upload file capacity exceed limit\."):
        adopt(1)
    monkeypatch.setattr("embedserve.jobs.files.MAX_FILES", 1)
    with pytest.raises(EmbedserveError, match=r"Upload file number exceed limit\."):
        adopt(0)


def test_ended_jobs_and_their_files_go_after_their_time(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(3))
    submit_task(store, "t", b"one\n")
    finish(store, "b", "t")
    old = time.time() - 25 * 3600
    change(store, jobs, ended_at=old)
    store.runner.upkeep.purge()
    assert [job.id for job in find(store, "b", "t")] == ["b"]  # a day for tasks, thirty for batches
    assert not store.files.job_folder("t").exists()
    change(store, jobs, ended_at=time.time() - 31 * 86400)
    store.runner.upkeep.purge()
    assert find(store, "b") == []
    with store.queue.database.read() as connection:
        left = connection.execute(sa.select(files.c.id, files.c.job_id)).all()
        assert connection.execute(sa.select(sa.func.count()).select_from(job_chunks)).scalar() == 0
    assert [job_id for _, job_id in left] == [None, None]  # the uploads stay
    change(store, files, expires_at=time.time() - 1)
    store.runner.upkeep.purge()
    assert list((store.files.folder / "uploads").iterdir()) == []


def test_litter_is_swept_and_files_are_not(make_store: Made) -> None:
    import os

    store = make_store()
    submit_batch(store, "b", lines(3))
    draft, orphan = store.files.draft(), store.files.upload_path("file-batch-orphan")
    for path in (draft, orphan):
        path.touch()
    for path in (store.files.folder / "uploads").iterdir():
        os.utime(path, (0, 0))
    sweep(store.files.database, store.files.folder)
    assert not draft.exists()
    assert not orphan.exists()
    assert store.files.upload_path(find(store, "b")[0].input_file_id or "").exists()


def test_a_missing_input_fails_the_job(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(3))
    for path in (store.files.folder / "uploads").iterdir():
        path.unlink()
    (job,) = finish(store, "b")
    assert (job.status, orjson.loads(job.errors or "")[0]["code"]) == ("failed", "file_not_found")


def test_unfinished_jobs_are_limited(make_store: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    monkeypatch.setattr("embedserve.jobs.queue.OPEN_JOBS", {"task": 1})
    submit_task(store, "one", b"a")
    with pytest.raises(EmbedserveError) as caught:
        submit_task(store, "two", b"a")
    assert (caught.value.status, caught.value.code) == (429, "Throttling.AllocationQuota")


def test_a_lease_of_a_clock_that_was_set_back_is_not_waited_for(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(3))
    change(store, jobs, owner="w-elsewhere", lease_until=time.time() + 30)
    assert store.queue.lease_check("here") is None
    change(store, jobs, owner="w-elsewhere", lease_until=time.time() + 86_400)
    (job,) = finish(store, "b")
    assert job.status == "completed"


def test_a_host_that_is_slow_holds_up_no_other_job(make_store: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def fetch(url: str, path: Path, *rest: object, **more: object) -> int:
        released.wait(60)
        return path.write_bytes(b"a\n")

    monkeypatch.setattr("embedserve.jobs.steps.download", fetch)
    store = make_store()
    for i in range(3):
        submit_task(store, f"t{i}", b"a")
    change(store, jobs, input_url="http://data.example.org/slow", input_file_id=None)
    submit_batch(store, "b", lines(3))

    async def wait() -> None:
        while find(store, "b")[0].status not in ENDED:  # noqa: ASYNC110 (waits for rows)
            await asyncio.sleep(0.02)
        assert {job.status for job in find(store, "t0", "t1", "t2")} == {"validating"}
        released.set()
        while not all(job.status in ENDED for job in find(store, "t0", "t1", "t2")):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    run(store, wait)
    assert {job.status for job in find(store, "b", "t0", "t1", "t2")} == {"completed"}


def test_a_callback_that_does_not_answer_holds_up_no_lease(
    make_store: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr("embedserve.jobs.callbacks.notify", lambda *_, **__: released.wait(60))
    monkeypatch.setattr("embedserve.jobs.upkeep.Upkeep.pause", 0.02)
    store = make_store()
    submit_batch(store, "told", lines(1))
    change(store, jobs, callback="http://data.example.org/done")
    submit_batch(store, "late", lines(1))
    later = sa.update(jobs).where(jobs.c.id == "late")
    held = later.values(owner="w-gone", lease_until=time.time() + 50)
    with store.queue.database.write() as connection:
        connection.execute(held)

    async def wait() -> None:
        while find(store, "told")[0].status not in ENDED:  # noqa: ASYNC110 (waits for rows)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)  # the callback is being told
        with store.queue.database.write() as connection:
            connection.execute(later.values(deadline=time.time() - 1))
        while find(store, "late")[0].status != "expired":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        released.set()

    run(store, wait)


def test_three_tasks_of_a_workspace_run_at_a_time(make_store: Made) -> None:
    store = make_store()
    for i in range(5):
        submit_task(store, f"t{i}", b"a")
    taken = [store.queue.lease_check(f"worker {i}") for i in range(4)]
    assert [job and job.id for job in taken] == ["t0", "t1", "t2", None]
    assert taken[0] is not None
    store.queue.fail(taken[0], [])
    after = store.queue.lease_check("worker 4")
    assert after is not None
    assert after.id == "t3"


def limit_key(store: Jobs, **values: object) -> None:
    """Change the key as no command can."""
    change(store, stamps, value=stamps.c.value + 1)
    changed = sa.select(stamps.c.value).where(stamps.c.name == "keys").scalar_subquery()
    change(store, api_keys, **values, changed=changed)
    store.runner.service.accounts.refresh()


def test_a_spent_budget_ends_a_batch_with_what_it_paid_for(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(1000))
    prices = store.runner.service.accounts.plan
    tokens = 20 * 64  # some of the lines
    limit_key(store, budget=prices.cost("text-embedding-v4", "batch", tokens))
    (job,) = finish(store, "b")
    assert (job.status, job.failed, job.error_file_id) == ("failed", 0, None)
    assert [entry["code"] for entry in orjson.loads(job.errors or "")] == ["Arrearage"]
    assert 0 < job.completed == billed(store) < 1000
    assert job.tokens <= tokens
    output = b"".join(store.files.blocks(store.files.get(WORKSPACE, job.output_file_id or "")))
    assert len(output.splitlines()) == job.completed


def test_a_revoked_key_ends_its_jobs_within_a_chunk_on_every_node(make_store: Made) -> None:
    here, there = make_store("here"), make_store("there")
    submit_batch(here, "b", lines(4000))
    submit_task(here, "t", b"".join(b"line %d\n" % i for i in range(4000)))
    seen: list[int] = []

    async def revoke_half_way() -> None:
        service = there.runner.service
        await service.engine.scheduler.start()
        await service.accounts.start()  # looks for changes, as every server does
        await there.start()
        try:
            while not all(job.completed > 100 for job in find(here, "b", "t")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asyncio.to_thread(here.runner.service.accounts.revoke_key, key_of(here))
            seen.extend(job.completed for job in find(here, "b", "t"))
            while not all(job.status in ENDED for job in find(here, "b", "t")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        finally:
            await there.runner.close()
            await service.engine.scheduler.close()

    run(here, revoke_half_way)
    done = find(here, "b", "t")
    assert [job.status for job in done] == ["failed", "failed"]
    codes = [[entry["code"] for entry in orjson.loads(job.errors or "")] for job in done]
    assert codes == [["invalid_api_key"], ["InvalidApiKey"]]
    assert all(before <= job.completed < 4000 for job, before in zip(done, seen, strict=True))
    assert sum(job.completed for job in done) == billed(here)
    for job in done:
        output = b"".join(here.files.blocks(here.files.get(WORKSPACE, job.output_file_id or "")))
        plain = gzip.decompress(output) if job.kind == "task" else output
        assert len(plain.splitlines()) == job.completed
    submit_batch(here, "late", lines(2))
    (late,) = finish(make_store("late"), "late")
    assert (late.status, late.completed, late.in_progress_at) == ("failed", 0, None)


def test_a_key_that_expires_ends_its_jobs(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(2))
    limit_key(store, expires_at=time.time() - 1)
    (job,) = finish(store, "b")
    assert (job.status, job.completed, billed(store)) == ("failed", 0, 0)


def test_a_key_that_was_made_on_another_node_a_moment_ago_is_known(make_store: Made) -> None:
    here, there = make_store("here"), make_store("there")
    made, _ = here.runner.service.accounts.create_key("new")
    submit_batch(here, "b", lines(2))
    change(here, jobs, key_id=made.id)
    (job,) = finish(there, "b")
    assert (job.status, job.completed) == ("completed", 2)


def test_models_that_a_key_may_not_use_fail_line_by_line(make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(2))
    limit_key(store, models='["text-embedding-v3"]')
    (job,) = finish(store, "b")
    assert (job.completed, job.failed) == (0, 2)


def test_workers_of_other_machines_are_left_alone(tmp_path: Path) -> None:
    here, there = Worker(tmp_path / "here"), Worker(tmp_path / "there")
    there.close()
    assert here.find_dead() == []
    here.close()


def test_parts_that_nobody_booked_are_not_read(tmp_path: Path, make_store: Made) -> None:
    store = make_store()
    submit_batch(store, "b", lines(3))
    (job,) = finish(store, "b")
    before = b"".join(store.files.blocks(store.files.get(WORKSPACE, job.output_file_id or "")))
    FileStore.write_part(store.files, "b", 7, ".output", [b"stray\n"])
    after = b"".join(store.files.blocks(store.files.get(WORKSPACE, job.output_file_id or "")))
    assert before == after
