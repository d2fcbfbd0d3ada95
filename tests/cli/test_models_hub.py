"""``embedserve models pull`` by the real hub library, against a small local stand-in for the hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "1_Pooling/config.json": b'{"pooling_mode_lasttoken": true}',
    "onnx/model.onnx": b"not wanted",
    "pytorch_model.bin": b"not wanted either",
}


class Hub(ThreadingHTTPServer):
    """Serves one model; ``wrong`` makes the bytes differ from the stated hashes."""

    wrong = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fetched: list[str] = []

    def list_files(self) -> list[dict[str, Any]]:
        told = []
        for sibling in self.describe()["siblings"]:
            file = {
                "type": "file",
                "path": sibling["rfilename"],
                "size": sibling["size"],
                "oid": sibling["blobId"],
            }
            if lfs := sibling.get("lfs"):
                file["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 130}
            told.append(file)
        return told

    def describe(self) -> dict[str, Any]:
        siblings = []
        for name, content in FILES.items():
            told: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": etag(content)[:40]}
            if not name.endswith(".json"):
                told["lfs"] = {"sha256": etag(content), "size": len(content), "pointerSize": 130}
            siblings.append(told)
        return {"_id": "1", "id": "me/model", "modelId": "me/model", "sha": COMMIT, "siblings": siblings}


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        path = self.path.partition("?")[0]
        status, headers = 200, {"X-Repo-Commit": COMMIT}
        if path.startswith("/api/models/me/model/tree"):
            content = json.dumps(self.server.list_files()).encode()
            headers["Content-Type"] = "application/json"
        elif path.startswith("/api/models/me/model"):
            content = json.dumps(self.server.describe()).encode()
            headers["Content-Type"] = "application/json"
        elif path.startswith("/me/model/resolve/"):
            name = path.split("/", 5)[5]
            content = FILES[name]
            headers |= {"ETag": f'"{etag(content)}"', "Accept-Ranges": "bytes"}
            if not head:
                self.server.fetched.append(name)
                if self.server.wrong and name == "model.safetensors":
                    content = b"Weights" * 1000
        else:
            status, content = 404, b"{}"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def pull(hub: Hub, data: Path) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    variables |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(data / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "embedserve", "models", "pull", "me/model", "--data-dir", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=variables)


@pytest.mark.slow
def test_pull_takes_what_is_needed_and_checks_it(hub: Hub, tmp_path: Path) -> None:
    done = pull(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "me--model"
    wanted = {"config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"}
    assert set(hub.fetched) == wanted
    manifest = json.loads((folder / "embedserve_manifest.json").read_text())
    assert set(manifest["files"]) == wanted
    assert manifest["revision"] == COMMIT
    assert manifest["files"]["model.safetensors"]["sha256"] == etag(FILES["model.safetensors"])


@pytest.mark.slow
def test_bytes_that_are_not_the_hubs_are_refused_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.wrong = True
    done = pull(hub, tmp_path)
    assert done.returncode == 2
    assert "model.safetensors" in done.stderr
    assert not (tmp_path / "models" / "me--model").exists()
    hub.wrong = False
    hub.fetched.clear()
    again = pull(hub, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "model.safetensors" in hub.fetched
    assert "tokenizer.json" not in hub.fetched  # what was whole is not fetched twice


def test_no_network_names_the_way_without_one(tmp_path: Path) -> None:
    with Hub() as hub:
        pass  # closed again: nobody listens
    done = pull(hub, tmp_path)
    assert done.returncode == 2
    assert "copy the folder from another machine" in done.stderr
    assert "Traceback" not in done.stderr
