"""A job's memory does not grow with its file."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from batch_workers import WORKSPACE, embedding_line, open_jobs, open_service, start_worker, submit_batch
from embedserve.jobs.records import ENDED
from embedserve.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

LINES, DIMENSION = 10_000, 256
LIMIT_MB = 300


def peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def run(folder: Path, lines: list[bytes]) -> float:
    """Peak memory in MiB of a worker that ran one batch."""
    settings = Settings(data_dir=folder, api_key=SecretStr("sk-test-0123456789"))
    service = open_service(settings)
    jobs = open_jobs(service)
    submit_batch(jobs, "batch_memory", lines)
    worker = start_worker(settings, 0.0)
    while jobs.queue.get(WORKSPACE, "batch_memory", "batch").status not in ENDED:
        assert worker.is_alive()
        time.sleep(0.2)
    assert worker.pid is not None
    peak = peak_mb(worker.pid)
    worker.kill()
    worker.join()
    job = jobs.queue.get(WORKSPACE, "batch_memory", "batch")
    assert (job.status, job.completed) == ("completed", len(lines))
    service.accounts.database.close()
    return peak


def test_many_lines_take_little_more_than_a_few(tmp_path: Path) -> None:
    lines = [embedding_line(f"r{i}", f"line {i}", dimensions=DIMENSION) for i in range(LINES)]
    few, many = run(tmp_path / "few", lines[:64]), run(tmp_path / "many", lines)
    print(f"peak with 64 lines {few:.0f} MiB, with {LINES} lines {many:.0f} MiB")
    assert many - few < LIMIT_MB
