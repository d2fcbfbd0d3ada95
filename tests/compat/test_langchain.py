"""LangChain's two embedding classes that people point at the original."""

from __future__ import annotations

from typing import Any

import dashscope
import numpy as np
import pytest

from embedserve import Embedder
from serving import KEY, Server

DashScopeEmbeddings = pytest.importorskip("langchain_community.embeddings").DashScopeEmbeddings
OpenAIEmbeddings = pytest.importorskip("langchain_openai").OpenAIEmbeddings

TEXTS = [f"sentence number {n}" for n in range(12)]


@pytest.fixture
def native(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashscope, "base_http_api_url", server.native_url)
    monkeypatch.setattr(dashscope, "api_key", KEY)


def openai_mode(server: Server, **kwargs: object) -> Any:
    return OpenAIEmbeddings(
        model="text-embedding-v4", api_key=KEY, base_url=server.openai_url, dimensions=256, **kwargs
    )


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("model", ["text-embedding-v2", "text-embedding-v4"])
def test_dashscope_embeddings_splits_and_tells_query_from_document(model: str, embedder: Embedder) -> None:
    embeddings = DashScopeEmbeddings(model=model, dashscope_api_key=KEY)
    dimension = 1536 if model.endswith("v2") else 1024
    documents = embeddings.embed_documents(TEXTS)
    expected = embedder.embed(TEXTS, text_type="document", dimension=dimension).dense
    assert np.array_equal(np.array(documents, np.float32), expected)
    query = embeddings.embed_query(TEXTS[0])
    expected = embedder.embed(TEXTS[0], text_type="query", dimension=dimension).dense
    assert np.array_equal(np.array([query], np.float32), expected)


@pytest.mark.usefixtures("native")
def test_dashscope_embeddings_tells_a_refusal() -> None:
    embeddings = DashScopeEmbeddings(model="text-embedding-v4", dashscope_api_key=KEY)
    with pytest.raises(ValueError, match=r"Range of input length should be \[1, 8192\]"):
        embeddings.embed_documents(["fine", ""])


def test_openai_embeddings_with_the_settings_the_original_needs(server: Server, embedder: Embedder) -> None:
    embeddings = openai_mode(server, check_embedding_ctx_length=False, chunk_size=10)
    vectors = embeddings.embed_documents(TEXTS)
    assert np.array_equal(np.array(vectors, np.float32), embedder.embed(TEXTS, dimension=256).dense)


def test_openai_embeddings_sending_too_many_rows_hears_the_limit(server: Server) -> None:
    embeddings = openai_mode(server, check_embedding_ctx_length=False, max_retries=0)
    with pytest.raises(Exception, match="batch size is invalid, it should not be larger than 10"):
        embeddings.embed_documents(TEXTS)


def test_openai_embeddings_needs_no_chunk_size_in_lenient_mode(
    lenient_server: Server, embedder: Embedder
) -> None:
    embeddings = openai_mode(lenient_server, check_embedding_ctx_length=False)
    vectors = embeddings.embed_documents(TEXTS)
    assert np.array_equal(np.array(vectors, np.float32), embedder.embed(TEXTS, dimension=256).dense)
