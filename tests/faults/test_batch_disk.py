"""A disk that is really full: the job fails and says so, the service goes on."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving import Server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_fails_the_job_and_leaves_the_service_healthy(small_disk: Path) -> None:
    environment = {"EMBEDSERVE_FILES_DIR": str(small_disk), "EMBEDSERVE_FILES_RESERVE_MB": "0"}
    with Server(environment=environment) as server:
        client = httpx.Client(base_url=server.openai_url, headers=server.headers, timeout=60)

        def upload(content: bytes) -> httpx.Response:
            return client.post("/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"})

        def run(rows: int) -> dict[str, Any]:
            body = {"model": "text-embedding-v4", "input": ["one text"] * rows}
            lines = [
                json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/embeddings", "body": body})
                for i in range(60)
            ]
            fields = {
                "input_file_id": upload("\n".join(lines).encode()).json()["id"],
                "endpoint": "/v1/embeddings",
                "completion_window": "24h",
            }
            id = client.post("/batches", json=fields).json()["id"]
            until = time.monotonic() + 60
            while time.monotonic() < until:
                batch: dict[str, Any] = client.get(f"/batches/{id}").json()
                if batch["status"] in ("completed", "failed"):
                    return batch
                time.sleep(0.1)
            raise AssertionError("the batch does not end")

        failed = run(rows=10)
        assert failed["status"] == "failed"
        assert failed["errors"]["data"][0]["code"] == "storage_full"
        assert "disk" in failed["errors"]["data"][0]["message"]
        refused = upload(b"x" * 4 * 2**20)
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
        assert server.openai({"model": "text-embedding-v4", "input": "still here"}).status_code == 200
        assert httpx.get(f"{server.url}/ready").status_code == 200
        for name in ("output_file_id", "error_file_id", "input_file_id"):
            if failed[name]:
                assert client.delete(f"/files/{failed[name]}").status_code == 200
        assert run(rows=1)["status"] == "completed"
