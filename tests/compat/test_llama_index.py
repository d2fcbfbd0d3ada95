"""LlamaIndex's ``DashScopeEmbedding``; it sends its text type where nobody looks (``parameters.kwargs``)."""

from __future__ import annotations

from typing import Any

import dashscope
import numpy as np
import pytest

from embedserve import Embedder
from serving import KEY, Server

DashScopeEmbedding = pytest.importorskip("llama_index.embeddings.dashscope").DashScopeEmbedding

TEXTS = [f"sentence number {n}" for n in range(12)]


@pytest.fixture
def embedding(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(dashscope, "base_http_api_url", server.native_url)
    return DashScopeEmbedding(model_name="text-embedding-v4", api_key=KEY, embed_batch_size=10)


def test_documents_and_query(embedding: Any, embedder: Embedder) -> None:
    expected = embedder.embed(TEXTS).dense
    assert np.array_equal(np.array(embedding.get_text_embedding_batch(TEXTS), np.float32), expected)
    assert np.array_equal(np.array(embedding.get_query_embedding(TEXTS[3]), np.float32), expected[3])


def test_its_default_batch_of_25_fits_the_model_it_was_written_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, embedder: Embedder
) -> None:
    monkeypatch.setattr(dashscope, "base_http_api_url", server.native_url)
    texts = TEXTS * 2 + ["one more"]
    vectors = DashScopeEmbedding(api_key=KEY).get_text_embedding_batch(texts)
    assert np.array_equal(np.array(vectors, np.float32), embedder.embed(texts, dimension=1536).dense)
