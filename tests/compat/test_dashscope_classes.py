"""The dashscope SDK's 1.x-style classes."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

import dashscope
import numpy as np
import pytest
from dashscope import TextEmbedding

from embedserve import Embedder
from serving import KEY, Server

MODEL = "text-embedding-v4"
TEXT = "衣服的质量杠杠的"


@pytest.fixture(autouse=True)
def _point_the_sdk_here(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashscope, "base_http_api_url", server.native_url)
    monkeypatch.setattr(dashscope, "api_key", KEY)


@pytest.mark.quick
def test_a_string_gives_one_vector_and_the_usage(embedder: Embedder) -> None:
    answer = TextEmbedding.call(model=MODEL, input=TEXT)
    assert (answer.status_code, answer.code, answer.message) == (HTTPStatus.OK, "", "")
    assert [row["text_index"] for row in answer.output["embeddings"]] == [0]
    expected = embedder.embed(TEXT)
    assert np.array_equal(
        np.array(answer.output["embeddings"][0]["embedding"], np.float32), expected.dense[0]
    )
    assert answer.usage["total_tokens"] == expected.tokens
    assert len(answer.request_id) == 36


def test_the_class_constants_name_served_models() -> None:
    for model in (TextEmbedding.Models.text_embedding_v3, TextEmbedding.Models.text_embedding_v4):
        assert TextEmbedding.call(model=model, input=TEXT).status_code == HTTPStatus.OK


def test_an_open_file_is_a_list_of_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("first line\nsecond line\n", "utf-8")
    with path.open(encoding="utf-8") as file:
        from_file = TextEmbedding.call(model=MODEL, input=file)
    from_list = TextEmbedding.call(model=MODEL, input=["first line", "second line"])
    assert from_file.output == from_list.output


@pytest.mark.quick
def test_dense_and_sparse(embedder: Embedder) -> None:
    answer = TextEmbedding.call(
        model=MODEL, input=["风急天高猿啸哀"], dimension=256, output_type="dense&sparse", text_type="document"
    )
    row = answer.output["embeddings"][0]
    assert list(row) == ["sparse_embedding", "embedding", "text_index"]
    mine = embedder.embed(["风急天高猿啸哀"], dimension=256, output_type="dense&sparse", text_type="document")
    assert np.array_equal(np.array(row["embedding"], np.float32), mine.dense[0])
    assert [entry["index"] for entry in row["sparse_embedding"]] == mine.sparse[0].indices.tolist()
    for entry in row["sparse_embedding"]:
        assert list(entry) == ["index", "value", "token"]
        assert entry["value"] > 0
        assert round(entry["value"], 4) == entry["value"]


def test_sparse_alone_has_no_embedding_key() -> None:
    row = TextEmbedding.call(model=MODEL, input=TEXT, output_type="sparse").output["embeddings"][0]
    assert list(row) == ["sparse_embedding", "text_index"]


def test_query_and_instruct_reach_the_model(embedder: Embedder) -> None:
    asked = {
        "text_type": "query",
        "instruct": "Given a research paper query, retrieve relevant research paper",
    }
    vectors = {
        name: TextEmbedding.call(model=MODEL, input="Research papers on machine learning", **kwargs).output[
            "embeddings"
        ][0]["embedding"]
        for name, kwargs in {
            "none": {},
            "query": {"text_type": "query"},
            "document": {"text_type": "document"},
            "instruct": asked,
        }.items()
    }
    assert vectors["none"] == vectors["query"]
    assert vectors["document"] != vectors["query"] != vectors["instruct"]
    mine = embedder.embed("Research papers on machine learning", **asked).dense[0]  # type: ignore[arg-type]
    assert np.array_equal(np.array(vectors["instruct"], np.float32), mine)


@pytest.mark.parametrize("model", ["text-embedding-v1", "text-embedding-v2"])
def test_old_models_ignore_dimension_and_sparse(model: str) -> None:
    answer = TextEmbedding.call(model=model, input=TEXT, dimension=64, output_type="dense&sparse")
    row = answer.output["embeddings"][0]
    assert list(row) == ["embedding", "text_index"]
    assert len(row["embedding"]) == 1536


def test_unknown_parameters_are_ignored() -> None:
    plain = TextEmbedding.call(model=MODEL, input=TEXT)
    assert TextEmbedding.call(model=MODEL, input=TEXT, colour="blue", stream=True).output == plain.output


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"input": ["x"] * 11}, 400, "InvalidParameter"),
        ({"input": []}, 400, "InvalidParameter"),
        ({"input": ""}, 400, "InvalidParameter"),
        ({"input": TEXT, "dimension": 100}, 400, "InvalidParameter"),
        ({"input": TEXT, "model": "no-such"}, 400, "InvalidParameter"),
        ({"input": TEXT, "api_key": "sk-wrong"}, 401, "InvalidApiKey"),
        ({"input": TEXT, "headers": {"X-DashScope-Async": "enable"}}, 403, "AccessDenied"),
    ],
    ids=["rows", "no rows", "empty", "dimension", "model", "key", "async"],
)
def test_errors_come_back_as_status_code_and_message(
    asked: dict[str, object], status: int, code: str
) -> None:
    answer = TextEmbedding.call(**({"model": MODEL} | asked))
    assert (answer.status_code, answer.code, answer.output) == (status, code, None)
    assert answer.message
    assert len(answer.request_id) == 36


def test_a_workspace_is_accepted() -> None:
    assert TextEmbedding.call(model=MODEL, input=TEXT, workspace="ws-1").status_code == HTTPStatus.OK
