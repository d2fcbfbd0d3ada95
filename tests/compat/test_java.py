"""``java.net.http.HttpClient`` as it comes: langchain4j and Spring AI stand on it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from light_server import LightServer
from serving import KEY

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed")


@pytest.mark.parametrize("path", ["/compatible-mode/v1/embeddings", "/v1/embeddings"])
def test_the_client_of_the_jdk(path: str) -> None:
    texts = ["one", "one two", "one two three" * 3000, "风急天高猿啸哀"]
    bodies = [json.dumps({"model": "text-embedding-v4", "input": [text], "dimensions": 64}) for text in texts]
    with LightServer() as server:
        program = str(Path(__file__).with_name("Ask.java"))
        command = ["java", program, f"{server.url}{path}", KEY, *bodies]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        replies = done.stdout.splitlines()
        assert server.log.count("POST") == len(texts)  # one request each, and nothing read from a body
    assert [line.split(" ")[:2] for line in replies] == [["200", "HTTP_1_1"]] * len(texts)
    assert all(len(json.loads(line.split(" ", 2)[2])["data"][0]["embedding"]) == 64 for line in replies)
