"""``--limits lenient``: what people ask the original for, through both dialects."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from embedserve import Embedder
from serving import Server

pytestmark = pytest.mark.quick

V4 = "text-embedding-v4"
LENGTH = "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 8192]"
HEADER = "x-embedserve-truncated"


def test_more_rows_than_the_original_takes(lenient_server: Server, embedder: Embedder) -> None:
    texts = [f"text {n}" for n in range(60)]
    expected = embedder.embed(texts, dimension=64).dense
    rows = lenient_server.openai({"model": V4, "input": texts, "dimensions": 64}).json()["data"]
    assert [row["index"] for row in rows] == list(range(60))
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), expected)
    reply = lenient_server.native({"model": V4, "input": {"texts": texts}, "parameters": {"dimension": 64}})
    rows = reply.json()["output"]["embeddings"]
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), expected)


def test_there_is_a_limit_all_the_same(lenient_server: Server) -> None:
    reply = lenient_server.openai({"model": V4, "input": ["x"] * 2049})
    assert reply.status_code == 400
    assert "it should not be larger than 2048" in reply.json()["error"]["message"]


def test_token_ids_are_the_text_they_spell(lenient_server: Server, embedder: Embedder) -> None:
    texts = ["The quality of the clothes is excellent", "衣服的质量杠杠的"]
    ids = [embedder.tokenizer.encode(text).tolist() for text in texts]
    expected = lenient_server.openai({"model": V4, "input": texts}).json()
    given = lenient_server.openai({"model": V4, "input": ids}).json()
    assert (given["data"], given["usage"]) == (expected["data"], expected["usage"])
    one = lenient_server.openai({"model": V4, "input": ids[0]}).json()
    assert one["data"] == expected["data"][:1]
    native = lenient_server.native({"model": V4, "input": {"texts": ids}}).json()
    assert [row["embedding"] for row in native["output"]["embeddings"]] == [
        row["embedding"] for row in expected["data"]
    ]


@pytest.mark.parametrize("ids", [[10**9], [2**70], [-5], [True], [[]], [["x"]], [1.5]])
def test_token_ids_that_are_none(lenient_server: Server, ids: list[object]) -> None:
    reply = lenient_server.openai({"model": V4, "input": [ids]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "InvalidParameter")


def test_an_empty_row_fails_alone(lenient_server: Server) -> None:
    texts = ["first", "", "third", " \n"]
    alone = lenient_server.openai({"model": V4, "input": ["first", "third"]}).json()
    answer = lenient_server.openai({"model": V4, "input": texts}).json()
    assert answer["usage"] == alone["usage"]
    assert [row["embedding"] for row in answer["data"]] == [
        alone["data"][0]["embedding"],
        [],
        alone["data"][1]["embedding"],
        [],
    ]
    assert [row.get("error") for row in answer["data"]] == [
        None,
        {"message": LENGTH, "code": "InvalidParameter"},
        None,
        {"message": LENGTH, "code": "InvalidParameter"},
    ]
    rows = lenient_server.native({"model": V4, "input": {"texts": texts}}).json()["output"]["embeddings"]
    assert [row["text_index"] for row in rows] == [0, 1, 2, 3]
    assert rows[1]["error"] == {"code": "InvalidParameter", "message": LENGTH}
    packed = lenient_server.openai({"model": V4, "input": texts, "encoding_format": "base64"}).json()["data"]
    assert [len(base64.b64decode(row["embedding"])) for row in packed] == [4096, 0, 4096, 0]


def test_nothing_but_empty_rows_is_refused(lenient_server: Server) -> None:
    for given in ("", ["", " "]):
        reply = lenient_server.openai({"model": V4, "input": given})
        assert (reply.status_code, reply.json()["error"]["message"]) == (400, LENGTH)


@pytest.mark.slow
def test_truncate_cuts_and_says_so(lenient_server: Server, embedder: Embedder) -> None:
    words = ["one", "two", "three", "house", "water", "world", "good"]  # a token each: cuts fall between
    text = " ".join(words[n * n % 7] for n in range(2100))
    tokens = len(embedder.tokenizer.encode(text))
    model = "text-embedding-v2"
    assert tokens > 2048
    assert lenient_server.openai({"model": model, "input": text}).status_code == 400
    for side in ("start", "end"):
        openai = lenient_server.openai({"model": model, "input": ["short", text], "truncate": side})
        assert openai.headers[HEADER] == f"1={tokens - 2048}"
        native = lenient_server.native(
            {"model": model, "input": {"texts": ["short", text]}, "parameters": {"truncate": side}}
        )
        assert native.headers[HEADER] == f"1={tokens - 2048}"
        vectors = [row["embedding"] for row in openai.json()["data"]]
        assert vectors == [row["embedding"] for row in native.json()["output"]["embeddings"]]
        ids = embedder.tokenizer.encode(text).tolist()
        kept = embedder.decode(ids[-2048:] if side == "start" else ids[:2048])
        assert np.array_equal(np.array(vectors[1], np.float32), embedder.embed(kept, dimension=1536).dense[0])
    reply = lenient_server.openai({"model": V4, "input": "short", "truncate": "end"})
    assert HEADER not in reply.headers


def test_the_extension_fields_of_openai_mode(lenient_server: Server, embedder: Embedder) -> None:
    text = "Research papers on machine learning"
    body = {"model": V4, "input": text, "dimensions": 256}
    for fields in (
        {"text_type": "document"},
        {"text_type": "query", "instruct": "Given a research paper query, retrieve relevant research paper"},
    ):
        row = lenient_server.openai(body | fields).json()["data"][0]
        mine = embedder.embed(text, dimension=256, **fields)  # type: ignore[arg-type]
        assert np.array_equal(np.array(row["embedding"], np.float32), mine.dense[0])
    both = lenient_server.openai(body | {"output_type": "dense&sparse"}).json()["data"][0]
    assert list(both) == ["embedding", "index", "object", "sparse_embedding"]
    sparse = lenient_server.openai(body | {"output_type": "sparse"}).json()["data"][0]
    assert sparse["embedding"] == []
    native = lenient_server.native(
        {"model": V4, "input": {"texts": [text]}, "parameters": {"output_type": "sparse"}}
    ).json()["output"]["embeddings"][0]["sparse_embedding"]
    assert sparse["sparse_embedding"] == both["sparse_embedding"] == native
    bad = lenient_server.openai(body | {"text_type": "title"})
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "InvalidParameter")


@pytest.mark.parametrize("given", [["x"] * 11, [[1, 2, 3]], ["x", ""]], ids=["rows", "ids", "empty"])
def test_strict_mode_refuses_all_of_it(server: Server, given: object) -> None:
    assert server.openai({"model": V4, "input": given}).status_code == 400
    assert server.native({"model": V4, "input": {"texts": given}}).status_code == 400
