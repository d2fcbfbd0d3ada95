"""The NEON kernels, cross-compiled and run on an emulated AArch64 CPU, against plain arithmetic."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from fuzz.native_core import CORE, FLAGS, compile_core

CHECK = Path(__file__).with_name("check_kernels.cpp")
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def test_neon_kernels_under_emulation(tmp_path: Path) -> None:
    for program in (COMPILER, EMULATOR):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: `apt install g++-aarch64-linux-gnu qemu-user`")
    objects = compile_core(COMPILER, ["-O1"], tmp_path, machine="aarch64")
    command = [COMPILER, *FLAGS, "-O1", "-static", f"-I{CORE}", CHECK, *objects, "-o", tmp_path / "check"]
    subprocess.run(command, check=True)
    ran = subprocess.run([EMULATOR, tmp_path / "check", "neon"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "bit-equal in a batch with 3 threads" in ran.stdout
