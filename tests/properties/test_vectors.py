"""The vector contract: the same text gives the same bytes, whatever stands around it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedserve import Embedder, EmbedserveError
from serving import Server

V4 = "text-embedding-v4"
DIMENSIONS = (64, 128, 256, 512, 768, 1024, 1536, 2048)

# ruff: noqa: RUF005
odd_characters = st.sampled_from(
    ["\u200b", "\u202e", "\ufeff", "\x00", "\x07", "\u0301", "\u2581", "\ufffd", "\u00a0", "\ufdfa"]
    + ["\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f469\u200d\U0001f467", "e\u0301", "\U00020000"]
)
ordinary = st.sampled_from(
    ["hello", "World Cup", "代码改变世界", "مرحبا", "def f(x):", "naïve", "한국어", "42"]
)
characters = st.one_of(st.characters(exclude_categories=["Cs"]), odd_characters)
texts = st.one_of(
    st.lists(ordinary, min_size=1, max_size=6).map(" ".join),
    st.lists(characters, min_size=1, max_size=40).map("".join),
    st.builds("{} {}".format, ordinary, st.lists(characters, max_size=20).map("".join)),
)
batches = st.lists(texts, min_size=1, max_size=6)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(headers=server.headers, timeout=60) as client:
        yield client


def embeddable(embedder: Embedder, text: str) -> bool:
    """Whether anything of the text is left for the network."""
    return len(embedder.tokenizer.encode(text)) > 0


@settings(max_examples=20)
@given(batch=batches, seed=st.randoms(use_true_random=False))
def test_a_neighbour_changes_nothing(embedder: Embedder, batch: list[str], seed: object) -> None:
    batch = [text for text in batch if embeddable(embedder, text)]
    together = {text: row.dense for text, row in zip(batch, embedder.embed(batch), strict=True)}
    for text in together:
        assert np.array_equal(embedder.embed(text).dense[0], together[text])
    seed.shuffle(batch)  # type: ignore[attr-defined]
    for text, row in zip(batch, embedder.embed(batch), strict=True):
        assert np.array_equal(row.dense, together[text])


@settings(max_examples=40)
@given(text=texts, dimension=st.sampled_from(DIMENSIONS), role=st.sampled_from([None, "query", "document"]))
def test_a_vector_is_finite_and_of_unit_length(
    embedder: Embedder, text: str, dimension: int, role: str | None
) -> None:
    if not embeddable(embedder, text):
        with pytest.raises(EmbedserveError, match="Range of input length"):
            embedder.embed(text, dimension=dimension)
        return
    answer = embedder.embed(text, dimension=dimension, text_type=role, output_type="dense&sparse")  # type: ignore[arg-type]
    assert answer.dense.dtype == np.float32
    assert answer.dense.shape == (1, dimension)
    assert float(np.linalg.norm(answer.dense.astype(float))) == pytest.approx(1, abs=1e-5)
    sparse = answer.sparse[0]
    assert (sparse.values > 0).all()
    assert len(set(sparse.indices.tolist())) == len(sparse.indices) == len(sparse.tokens)


@settings(max_examples=40)
@given(batch=batches, dimension=st.sampled_from(DIMENSIONS))
def test_every_door_gives_the_same_bytes(
    server: Server, client: httpx.Client, embedder: Embedder, batch: list[str], dimension: int
) -> None:
    batch = [text for text in batch if embeddable(embedder, text)]
    if not batch:
        return
    mine = embedder.embed(batch, dimension=dimension).dense
    url, body = f"{server.openai_url}/embeddings", {"model": V4, "input": batch, "dimensions": dimension}
    floats = client.post(url, json=body).json()["data"]
    packed = client.post(url, json=body | {"encoding_format": "base64"}).json()["data"]
    native = client.post(
        f"{server.native_url}/services/embeddings/text-embedding/text-embedding",
        json={"model": V4, "input": {"texts": batch}, "parameters": {"dimension": dimension}},
    ).json()["output"]["embeddings"]
    assert np.array_equal(np.array([row["embedding"] for row in floats], np.float32), mine)
    assert np.array_equal(np.array([row["embedding"] for row in native], np.float32), mine)
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed]
    assert np.array_equal(np.array(decoded), mine)


@settings(max_examples=30)
@given(text=st.lists(st.characters(categories=["Cs"]) | characters, min_size=1, max_size=12).map("".join))
def test_half_a_surrogate_pair_is_a_replacement_character(
    server: Server, client: httpx.Client, text: str
) -> None:
    url = f"{server.openai_url}/embeddings"
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    replies = [
        client.post(url, content=json_of(f"{form} tail"), headers={"Content-Type": "application/json"})
        for form in (text, whole)
    ]
    assert replies[0].status_code == replies[1].status_code == 200
    assert replies[0].json()["data"] == replies[1].json()["data"]


def json_of(text: str) -> bytes:
    return json.dumps({"model": V4, "input": text, "dimensions": 64}).encode()


@pytest.mark.slow
def test_a_restart_changes_nothing(tmp_path: Path, embedder: Embedder) -> None:
    inputs = ["The quality of the clothes is excellent", "衣服的质量杠杠的", "x " * 700, "\u200b\ufeff1"]
    expected = embedder.embed(inputs, output_type="dense&sparse", text_type="document")
    for _ in range(2):
        with Server(data_dir=tmp_path / "data") as server:
            body = {"model": V4, "input": {"texts": inputs}}
            parameters = {"output_type": "dense&sparse", "text_type": "document"}
            rows = server.native(body | {"parameters": parameters}).json()["output"]["embeddings"]
            vectors: NDArray[np.float32] = np.array([row["embedding"] for row in rows], np.float32)
            assert np.array_equal(vectors, expected.dense)
            for row, sparse in zip(rows, expected.sparse, strict=True):
                assert [entry["token"] for entry in row["sparse_embedding"]] == list(sparse.tokens)
