"""The openai Python SDK, as a user of the original drives it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from embedserve import Embedder
from serving import KEY, Server

MODEL = "text-embedding-v4"
TEXT = "The quality of the clothes is excellent"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(api_key=KEY, base_url=server.openai_url, max_retries=0)


@pytest.mark.quick
def test_a_string_gives_one_vector_and_the_usage(client: OpenAI, embedder: Embedder) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXT)
    assert [(item.index, item.object, len(item.embedding)) for item in answer.data] == [
        (0, "embedding", 1024)
    ]
    assert (answer.model, answer.object) == (MODEL, "list")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == embedder.embed(TEXT).tokens
    assert UUID.fullmatch(answer.id)  # type: ignore[attr-defined]
    assert np.array_equal(np.array(answer.data[0].embedding, np.float32), embedder.embed(TEXT).dense[0])


def test_a_list_keeps_its_order(client: OpenAI) -> None:
    texts = ["one", "two", "three", "one"]
    answer = client.embeddings.create(model=MODEL, input=texts, dimensions=64)
    assert [item.index for item in answer.data] == [0, 1, 2, 3]
    vectors = [item.embedding for item in answer.data]
    assert vectors[0] == vectors[3] != vectors[1]


@pytest.mark.quick
def test_base64_which_the_sdk_asks_for_and_float_are_the_same_numbers(client: OpenAI) -> None:
    packed = client.embeddings.create(model=MODEL, input=TEXT).data[0].embedding
    floats = client.embeddings.create(model=MODEL, input=TEXT, encoding_format="float").data[0].embedding
    assert np.array_equal(np.array(packed, np.float32), np.array(floats, np.float32))


def test_explicit_base64_stays_a_string(client: OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXT, encoding_format="base64")
    assert isinstance(answer.data[0].embedding, str)


@pytest.mark.parametrize("dimensions", [2048, 1536, 1024, 768, 512, 256, 128, 64])
def test_every_dimension_is_served_at_unit_length(client: OpenAI, dimensions: int) -> None:
    vector = client.embeddings.create(model=MODEL, input=TEXT, dimensions=dimensions).data[0].embedding
    assert len(vector) == dimensions
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "default"),
    [("text-embedding-v1", 1536), ("text-embedding-v2", 1536), ("text-embedding-v3", 1024)],
)
def test_every_model_has_its_own_default(client: OpenAI, model: str, default: int) -> None:
    answer = client.embeddings.create(model=model, input=TEXT)
    assert len(answer.data[0].embedding) == default
    assert answer.model == model


@pytest.mark.quick
def test_an_open_file_is_a_list_of_its_lines(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "texts_to_embedding.txt"
    path.write_text("first line\nsecond line\n", "utf-8")
    with path.open(encoding="utf-8") as file:
        from_file = client.embeddings.create(model=MODEL, input=file)  # type: ignore[arg-type]
    from_list = client.embeddings.create(model=MODEL, input=["first line", "second line"])
    assert [item.embedding for item in from_file.data] == [item.embedding for item in from_list.data]
    assert from_file.usage == from_list.usage


def test_the_async_client(server: Server, client: OpenAI) -> None:
    async def ask() -> list[float]:
        async with AsyncOpenAI(api_key=KEY, base_url=server.openai_url) as asynchronous:
            several = [asynchronous.embeddings.create(model=MODEL, input=TEXT) for _ in range(8)]
            return [answer.data[0].embedding for answer in await asyncio.gather(*several)]

    expected = client.embeddings.create(model=MODEL, input=TEXT).data[0].embedding
    assert asyncio.run(ask()) == [expected] * 8


def test_models_are_listed_and_described(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [f"text-embedding-v{n}" for n in (4, 3, 2, 1)]
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object) == (MODEL, "model")
    assert model.embedserve["recipe"]["name"]  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


def test_unknown_fields_are_ignored(client: OpenAI) -> None:
    plain = client.embeddings.create(model=MODEL, input=TEXT)
    answer = client.embeddings.create(
        model=MODEL,
        input=TEXT,
        user="somebody",
        extra_body={"drop_params": True, "stream": False, "text_type": 7, "instruct": [], "truncate": "yes"},
    )
    assert answer.data == plain.data


@pytest.mark.quick
def test_sparse_is_an_empty_vector_in_openai_mode(client: OpenAI) -> None:
    for encoding in ({"encoding_format": "float"}, {}):
        answer = client.embeddings.create(
            model=MODEL, input=["a", "b"], extra_body={"output_type": "sparse"}, **encoding
        )
        assert [list(item.embedding) for item in answer.data] == [[], []]


@pytest.mark.parametrize(
    ("asked", "kind", "code"),
    [
        ({"input": ["x"] * 11}, openai.BadRequestError, "InvalidParameter"),
        ({"input": [[1, 2, 3]]}, openai.BadRequestError, "InvalidParameter"),
        ({"input": ""}, openai.BadRequestError, "InvalidParameter"),
        ({"input": TEXT, "dimensions": 100}, openai.BadRequestError, "InvalidParameter"),
        ({"input": TEXT, "model": "no-such"}, openai.NotFoundError, "model_not_found"),
        ({"input": TEXT, "model": "text-embedding-async-v2"}, openai.NotFoundError, "model_not_supported"),
    ],
    ids=["rows", "tokens", "empty", "dimensions", "model", "unsupported"],
)
def test_errors_have_their_class_code_and_request_id(
    client: OpenAI, asked: dict[str, object], kind: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        client.embeddings.create(**({"model": MODEL} | asked))  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.param is None
    assert caught.value.request_id == caught.value.response.json()["request_id"]


@pytest.mark.quick
def test_a_wrong_key_is_an_authentication_error(server: Server) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        OpenAI(api_key="sk-wrong", base_url=server.openai_url).embeddings.create(model=MODEL, input=TEXT)
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")
    assert caught.value.request_id


def test_the_request_id_of_a_reply_is_its_id(client: OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(model=MODEL, input=TEXT)
    assert raw.headers["x-request-id"] == raw.parse().id  # type: ignore[attr-defined]
