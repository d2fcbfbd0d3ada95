"""Memory and threads that the system does not give: an error in Python, and the model works as before."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.backbones.native import NativeUnavailable
from embedserve.embedding.backbones.native.library import load_library
from embedserve.errors import EmbedserveError
from embedserve.scheduling.worker import compute_rows

PROGRAM = """
import resource
from pathlib import Path
import numpy as np
from embedserve.embedding.backbones.base import Window
from embedserve.embedding.backbones.native import NativeBackbone
from embedserve.embedding.weights import BundledWeights

backbone = NativeBackbone.from_bundled(BundledWeights(), threads=3)
dice = np.random.default_rng(1)
windows = [
    Window(dice.integers(5, 250_000, size).astype(np.int32), np.ones(size, np.float32))
    for size in [512] * 5 + [60] * 6
]
alone = np.concatenate([backbone.encode([window]) for window in windows[-3:]])
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
for spare in range(0, 12 << 20, 3 << 20):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, hard))
    try:
        backbone.encode(windows)
    except MemoryError as error:
        print(error, flush=True)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert backbone.encode(windows)[-3:].tobytes() == alone.tobytes()
print("as before")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space, and reads it in /proc")
def test_a_process_without_memory_goes_on() -> None:
    try:
        load_library()
    except NativeUnavailable as error:
        pytest.skip(str(error))
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "the native core: " in ran.stdout
    assert ran.stdout.endswith("as before\n")


def test_who_finds_no_memory_is_told_to_come_back() -> None:
    class Full:
        name, hidden_size = "full", 4

        def encode(self, windows: list[Window]) -> Floats:
            raise MemoryError("none left")

    window = Window(np.array([5], np.int32), np.array([1.0], np.float32))
    for row in compute_rows(Full(), [window, window]):  # type: ignore[arg-type]
        assert isinstance(row, EmbedserveError)
        assert (row.status, row.retry_after) == (503, 1.0)
