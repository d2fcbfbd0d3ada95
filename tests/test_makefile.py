"""``make run`` installs anew when what an installation is made of has changed, and only then."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = "src/embedserve/embedding/backbones/native/core"

pytestmark = [
    pytest.mark.quick,
    pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here"),
]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A virtual environment, as far as make can tell, with everything installed just now."""
    (tmp_path / "bin").mkdir()
    for name in ("bin/python", ".run", ".test"):
        (tmp_path / name).touch()
    return tmp_path


def plan(venv: Path, target: str, *options: str) -> str:
    """What make would do."""
    command = ["make", "--dry-run", f"VENV={venv}", *options, target]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_nothing_changed_nothing_installed(installed: Path) -> None:
    assert "pip install" not in plan(installed, "run")
    assert "embedserve serve" in plan(installed, "run")


@pytest.mark.parametrize("target", ["run", "test"])
@pytest.mark.parametrize("changed", ["pyproject.toml", "setup.py", f"{CORE}/model.cpp", f"{CORE}/kernels.h"])
def test_a_change_of_what_is_installed_installs_it(installed: Path, target: str, changed: str) -> None:
    assert (ROOT / changed).is_file()
    assert "pip install" in plan(installed, target, f"--what-if={changed}")
