"""Telling the dead from the living."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embedserve.jobs.leases import Worker

pytestmark = [pytest.mark.quick, pytest.mark.skipif(sys.platform == "win32", reason="needs flock")]


def test_a_killed_worker_is_found_and_a_living_one_is_not(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from embedserve.jobs.leases import Worker;"
        "w = Worker(Path(sys.argv[1])); print(w.name, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    me = Worker(tmp_path)
    assert me.find_dead() == []
    other.kill()
    other.wait()
    assert me.find_dead() == [name]
    me.bury(name)
    assert me.find_dead() == []
    me.close()
    assert list(tmp_path.iterdir()) == []
