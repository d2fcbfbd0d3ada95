"""The engine's text step: the same text however it is spelled, for every engine."""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.embedding import checkpoints

from embedserve import Embedder
from embedserve.embedding.backbones.remote import RemoteBackbone
from embedserve.embedding.hub_tokenizer import HubTokenizer
from embedserve.embedding.models.hub_embedder import HubEmbedder
from embedserve.embedding.models.remote_embedder import RemoteEmbedder
from embedserve.embedding.recipes import e5, qwen3_embedding
from embedserve.embedding.text import normalise

pytestmark = pytest.mark.quick

SPELLINGS = [
    ("half a pair \ud83d", "half a pair \ufffd"),
    ("\udcffx\ud800\ud800", "\ufffdx\ufffd\ufffd"),
    ("wrong way round \ude00\ud83d", "wrong way round \ufffd\ufffd"),
    ("a pair \ud83d\ude00, split", "a pair \U0001f600, split"),
    ("\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
    (unicodedata.normalize("NFD", "café-bar ÅB 한국어"), "café-bar ÅB 한국어"),
    ("\ud83de\u0301", "\ufffdé"),
]


@pytest.mark.parametrize(("given", "meant"), SPELLINGS, ids=[ascii(pair[0]) for pair in SPELLINGS])
def test_spellings_of_one_text(given: str, meant: str) -> None:
    assert normalise(given) == meant


@pytest.mark.parametrize("text", ["plain", "a\x00b\r\nc", "代码 🙂\u202e", "\ufffe\ue000é", ""])
def test_a_text_in_its_normal_form_stays_as_it_is(text: str) -> None:
    assert normalise(text) is text or normalise(text) == text


@given(st.text(st.characters()))
def test_what_comes_out_is_utf_8_and_stays(text: str) -> None:
    once = normalise(text)
    once.encode()
    assert normalise(once) == once
    assert normalise(json.loads(json.dumps(text))) == once  # JSON joins pairs, Python does not


class Listener(BaseHTTPRequestHandler):
    """An embeddings server of another kind; keeps the bodies that it got."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append(body)
        texts = json.loads(body.decode("utf-8", "strict"))["input"]
        vectors = [[float(len(text)), float(sum(map(ord, text)) % 97), 1.0] for text in texts]
        data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        reply = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        pass


def open_hub(folder: Path, bundled: Embedder) -> Embedder:
    from embedserve.embedding.backbones.dummy import DummyBackbone

    checkpoints.write_qwen_tokenizer(folder)
    tokenizer = HubTokenizer(folder, "<|endoftext|>")
    return HubEmbedder(DummyBackbone(hidden_size=64), tokenizer, qwen3_embedding(64), bundled.lexical)


@pytest.fixture(scope="module", params=["bundled", "plain python", "hub", "remote"])
def engine(
    request: pytest.FixtureRequest, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Embedder]:
    if request.param == "bundled":
        yield embedder
    elif request.param == "plain python":
        with Embedder(isa="reference") as plain:
            yield plain
    elif request.param == "hub":
        pytest.importorskip("tokenizers")
        yield open_hub(tmp_path_factory.mktemp("hub"), embedder)
    else:
        pytest.importorskip("httpx")
        Listener.bodies = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        backbone = RemoteBackbone(f"http://127.0.0.1:{server.server_port}/v1", "m")
        with RemoteEmbedder(backbone, e5(3), embedder.tokenizer, embedder.lexical) as remote:
            yield remote
        server.shutdown()
        server.server_close()


def test_every_engine_takes_them_for_one_text(engine: Embedder) -> None:
    """Dense, sparse and instruction; what a remote engine gets over the wire is UTF-8 or fails there."""
    given = engine.embed([text for text, _ in SPELLINGS], output_type="dense&sparse")
    meant = engine.embed([text for _, text in SPELLINGS], output_type="dense&sparse")
    for one, other in zip(given, meant, strict=True):
        assert one.dense is not None
        assert other.dense is not None
        assert one.sparse is not None
        assert other.sparse is not None
        assert one.dense.tobytes() == other.dense.tobytes()
        assert one.sparse.indices.tobytes() == other.sparse.indices.tobytes()
        assert one.sparse.values.tobytes() == other.sparse.values.tobytes()
        assert one.tokens == other.tokens
    asked = [engine.embed("x", text_type="query", instruct=text).dense for text in SPELLINGS[0]]
    assert np.array_equal(*asked)


def test_line_ends_and_controls_are_the_bundled_tokenizers_business(embedder: Embedder) -> None:
    """As its vocabulary's rules have it: any white space is a space, controls are nothing."""
    lines = embedder.embed(["one\ntwo", "one\r\ntwo", "one\rtwo", "one\u2028two", "one two"]).dense
    assert (lines == lines[0]).all()
    controls = embedder.embed(["a\x00b", "a\x07b", "ab"]).dense
    assert (controls == controls[0]).all()
