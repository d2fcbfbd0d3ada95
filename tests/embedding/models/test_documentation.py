import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.quick
def test_the_memory_table_is_the_one_that_the_command_prints() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/qwen3_shapes.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in (ROOT / "docs" / "models.md").read_text("utf-8")
