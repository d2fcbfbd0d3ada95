"""The NEON kernels, cross-compiled and run on an emulated AArch64 CPU, against plain arithmetic."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import embedserve.embedding.backbones.native as native

CORE = Path(native.__file__).parent / "core"
CHECK = Path(__file__).with_name("check_kernels.cpp")
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def test_neon_kernels_under_emulation(tmp_path: Path) -> None:
    for program in (COMPILER, EMULATOR):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: `apt install g++-aarch64-linux-gnu qemu-user`")
    sources = sorted(CORE.glob("*.cpp"))
    flags = ["-std=c++17", "-O1", "-static", "-pthread", "-ffp-contract=off", f"-I{CORE}"]
    subprocess.run([COMPILER, *flags, *sources, CHECK, "-o", tmp_path / "check"], check=True)
    ran = subprocess.run([EMULATOR, tmp_path / "check", "neon"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "bit-equal in a batch with 3 threads" in ran.stdout
