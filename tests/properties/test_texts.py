"""Any string that JSON can hold, through every door there is: the same bytes, dense and sparse.

Doors: the library, ``embedserve embed``, both dialects, both kinds of batch. A few dozen texts a run, so that
the doors that take files open once for all of them.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from embedserve import Embedder, SparseVector
from embedserve.embedding.text import normalise
from serving import Server

V4 = "text-embedding-v4"
DIMENSION = 1536
"""What asynchronous tasks give; the hashed tail of the terms is in it."""

Vector = tuple[bytes, bytes | None, bytes | None]
"""Dense, sparse ids, sparse values; None where a door gives no sparse vectors."""
Door = Callable[[list[str]], list[Vector]]

# ruff: noqa: RUF005
halves = st.characters(categories=["Cs"])
odd = st.sampled_from(
    ["\x00", "\x07", "\x1b[0m", "\x7f", "\x85", "\u2028", "\x0b", "\x1c", "\ufeff", "\u200b", "\u00ad"]
    + ["\r\n", "\n", "\r", "\t", "\u202e", "\u2066", "\ue000", "\U0010ffff", "\ufffe", "\ufdd0", "\ufffd"]
    + ["e\u0301", "A\u030ab", "\u1100\u1161\u11a8", "\u0958", "\u212b", "ﬁ", "①", "\u0338", "Ǆ", "İ", "ß"]
    + ["\ud83d\ude00", "\ud83d", "\ude00", "</s>", "<|im_end|>", "\u2581", '"', "\\", "\\ud800", "🏳️‍🌈"]
)
words = st.sampled_from(
    ["hello", "snake_case", "camelCase2x", "café-bar", "代码", "مرحبا", "한국어", "3.14", " "]
)
texts = st.lists(st.one_of(words, odd, st.characters(), halves), min_size=1, max_size=12).map("".join)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Lenient, for many rows a request and sparse vectors in OpenAI mode."""
    with Server("--limits", "lenient") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(headers=server.headers, timeout=60) as client:
        yield client


def vector_of(dense: Any, entries: list[dict[str, Any]] | None) -> Vector:
    row = np.frombuffer(base64.b64decode(dense), "<f4") if isinstance(dense, str) else np.array(dense)
    if entries is None:
        return row.astype("<f4").tobytes(), None, None
    ids = np.array([entry["index"] for entry in entries], np.int32)
    return row.astype("<f4").tobytes(), *sparse_bytes(ids, [entry["value"] for entry in entries])


def sparse_bytes(ids: Any, values: Any) -> tuple[bytes, bytes]:
    return np.array(ids, np.int32).tobytes(), np.array(values, np.float32).tobytes()


def from_library(embedder: Embedder, texts: list[str]) -> list[Vector]:
    def told(dense: Any, sparse: SparseVector) -> Vector:
        return dense.tobytes(), *sparse_bytes(sparse.indices, sparse.values)

    asked: dict[str, Any] = {"dimension": DIMENSION, "output_type": "dense&sparse", "text_type": "document"}
    answer = embedder.embed(texts, **asked)
    made = [told(*pair) for pair in zip(answer.dense, answer.sparse, strict=True)]
    stream = embedder.embed_iter(iter(texts), chunk=7, **asked)
    assert made == [told(row.dense, row.sparse) for row in stream if row.sparse is not None]
    return made


def openai_body(texts: list[str], encoding: str = "base64") -> dict[str, Any]:
    extra = {"text_type": "document", "output_type": "dense&sparse", "encoding_format": encoding}
    return {"model": V4, "input": texts, "dimensions": DIMENSION} | extra


def spell(body: Any) -> list[bytes]:
    """JSON with escapes, and as UTF-8 where it has such a form."""
    spellings = [json.dumps(body).encode()]
    with contextlib.suppress(UnicodeEncodeError):
        spellings.append(json.dumps(body, ensure_ascii=False).encode())
    return spellings


def from_openai(server: Server, client: httpx.Client, texts: list[str]) -> list[Vector]:
    answers = []
    for encoding in ("base64", "float"):
        for body in spell(openai_body(texts, encoding)):
            reply = client.post(f"{server.openai_url}/embeddings", content=body)
            rows = reply.json()["data"]
            answers.append([vector_of(row["embedding"], row["sparse_embedding"]) for row in rows])
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def from_native(server: Server, client: httpx.Client, texts: list[str]) -> list[Vector]:
    parameters = {"dimension": DIMENSION, "text_type": "document", "output_type": "dense&sparse"}
    body = {"model": V4, "input": {"texts": texts}, "parameters": parameters}
    url = f"{server.native_url}/services/embeddings/text-embedding/text-embedding"
    answers = []
    for spelling in spell(body):
        rows = client.post(url, content=spelling).json()["output"]["embeddings"]
        answers.append([vector_of(row["embedding"], row["sparse_embedding"]) for row in rows])
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def from_command(folder: Path, texts: list[str]) -> list[Vector]:
    given, made = folder / "texts.jsonl", folder / "vectors.jsonl"
    given.write_bytes(b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts))
    options = ["--dimension", str(DIMENSION), "--text-type", "document", "--output-type", "dense&sparse"]
    command = [sys.executable, "-m", "embedserve", "embed", given, "--output", made, *options]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    rows = [json.loads(line) for line in made.read_bytes().splitlines()]
    made.unlink()
    return [
        (vector_of(row["embedding"], None)[0], *sparse_bytes(row["sparse_indices"], row["sparse_values"]))
        for row in rows
    ]


def upload(server: Server, client: httpx.Client, name: str, content: bytes) -> str:
    files = {"file": (name, content)}
    return str(client.post(f"{server.openai_url}/files", files=files, data={"purpose": "batch"}).json()["id"])


def wait(ask: Callable[[], dict[str, Any]], field: str, ends: set[str]) -> dict[str, Any]:
    until = time.monotonic() + 120
    while (told := ask())[field] not in ends and time.monotonic() < until:
        time.sleep(0.05)
    return told


def from_batch_file(server: Server, client: httpx.Client, texts: list[str]) -> list[Vector]:
    """Ten texts a line."""
    asked_lines = []
    for at in range(0, len(texts), 10):
        line = {"custom_id": str(at), "method": "POST", "url": "/v1/embeddings"}
        asked_lines.append(json.dumps(line | {"body": openai_body(texts[at : at + 10])}))
    file = upload(server, client, "in.jsonl", "\n".join(asked_lines).encode())
    asked = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    url = f"{server.openai_url}/batches"
    batch = client.post(url, json=asked).json()
    done = wait(lambda: client.get(f"{url}/{batch['id']}").json(), "status", {"completed", "failed"})
    content = client.get(f"{server.openai_url}/files/{done['output_file_id']}/content").content
    answers = {
        int(line["custom_id"]): line["response"]["body"] for line in map(json.loads, content.splitlines())
    }
    rows = [row for at in sorted(answers) for row in answers[at]["data"]]
    return [vector_of(row["embedding"], row["sparse_embedding"]) for row in rows]


def from_task(server: Server, client: httpx.Client, texts: list[str]) -> list[Vector]:
    """A text a line."""
    file = upload(server, client, "in.txt", "\n".join(texts).encode())
    asked = {
        "model": "text-embedding-async-v2",
        "input": {"url": f"{server.openai_url}/files/{file}/content"},
        "parameters": {"text_type": "document"},
    }
    url = f"{server.native_url}/services/embeddings/text-embedding/text-embedding"
    made = client.post(url, json=asked, headers={"X-DashScope-Async": "enable"}).json()["output"]
    task = f"{server.native_url}/tasks/{made['task_id']}"
    done = wait(lambda: client.get(task).json()["output"], "task_status", {"SUCCEEDED", "FAILED"})
    lines = gzip.decompress(httpx.get(done["url"]).content).splitlines()
    return [vector_of(json.loads(line)["output"]["embedding"], None) for line in lines]


def fits_a_line(text: str) -> bool:
    """Whether a text file can hold it as one line."""
    return normalise(text) == text and "\n" not in text and not text.endswith("\r")


@settings(
    max_examples=3,
    # No shrinking: the message names the texts that differ, and each step takes seconds.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(drawn=st.lists(texts, min_size=30, max_size=60))
def test_every_door_gives_the_same_bytes_for_any_string(
    drawn: list[str],
    embedder: Embedder,
    server: Server,
    client: httpx.Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    given = [text for text in drawn if len(embedder.tokenizer.encode(normalise(text)))]
    if not given:
        return
    mine = from_library(embedder, given)
    folder = tmp_path_factory.mktemp("door")
    doors: dict[str, list[Vector]] = {
        "openai": from_openai(server, client, given),
        "native": from_native(server, client, given),
        "command": from_command(folder, given),
        "batch file": from_batch_file(server, client, given),
    }
    for door, theirs in doors.items():
        assert len(theirs) == len(given), door
        different = [ascii(text) for text, a, b in zip(given, mine, theirs, strict=True) if a != b]
        assert not different, door
    lines = [(text, vector) for text, vector in zip(given, mine, strict=True) if fits_a_line(text)]
    if lines:
        theirs = from_task(server, client, [text for text, _ in lines])
        assert len(theirs) == len(lines)
        assert not [ascii(text) for (text, a), b in zip(lines, theirs, strict=True) if a[0] != b[0]]
