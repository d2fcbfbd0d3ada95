import subprocess
import sys
from pathlib import Path

import pytest


def run(*words: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "embedserve", "models", *words, "--data-dir", str(data)],
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.quick
def test_what_is_not_there_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    assert run("list", data=tmp_path).stdout.startswith("bundled")
    for command in ("show", "verify", "remove"):
        done = run(command, "owner/name", data=tmp_path)
        assert done.returncode == 2
        assert done.stderr.strip().startswith("embedserve: the model owner/name is not here: run `embedserve")
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_pull_show_verify_remove_by_the_command_line(tmp_path: Path) -> None:
    for package in ("torch", "transformers", "safetensors"):
        pytest.importorskip(package)
    from tests.embedding.checkpoints import write_qwen3

    source = write_qwen3(tmp_path / "made")
    pulled = run("pull", str(source), "--name", "me/tiny", data=tmp_path)
    assert pulled.stdout.startswith("me/tiny"), pulled.stderr
    assert "me/tiny" in run("list", data=tmp_path).stdout
    shown = run("show", "me/tiny", data=tmp_path).stdout
    assert "name: 'qwen3-embedding'" in shown
    assert r"Query:'" in shown
    verified = run("verify", "me/tiny", "--precision", "fp32", data=tmp_path)
    assert "bit-equal alone and in a batch" in verified.stdout, verified.stderr
    assert run("remove", "me/tiny", data=tmp_path).returncode == 0
    assert "me/tiny" not in run("list", data=tmp_path).stdout
