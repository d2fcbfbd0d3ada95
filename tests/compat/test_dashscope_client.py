"""The dashscope SDK's v2 ``Client`` and ``AsyncClient``."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from dashscope import AsyncClient, Client
from dashscope.v2 import errors

from embedserve import Embedder
from serving import KEY, Server

MODEL = "text-embedding-v4"
TEXT = "风急天高猿啸哀"


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return Client(api_key=KEY, base_url=server.native_url)


@pytest.mark.quick
def test_a_string_gives_one_vector_and_the_usage(client: Client, embedder: Embedder) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXT)
    expected = embedder.embed(TEXT)
    assert [item.index for item in answer.embeddings] == [0]
    assert np.array_equal(np.array(answer.embeddings[0].embedding, np.float32), expected.dense[0])
    assert answer.usage.total_tokens == expected.tokens
    assert len(answer.request_id) == 36


def test_the_host_alone_is_enough(server: Server, client: Client) -> None:
    bare = Client(api_key=KEY, base_url=server.url)
    assert (
        bare.embeddings.create(model=MODEL, input=TEXT).embeddings
        == client.embeddings.create(model=MODEL, input=TEXT).embeddings
    )


def test_dense_and_sparse_with_instruct(client: Client) -> None:
    answer = client.embeddings.create(
        model=MODEL,
        input=[TEXT, "渚清沙白鸟飞回"],
        dimension=512,
        output_type="dense&sparse",
        text_type="query",
        instruct="Find lines of the same poem",
    )
    assert [item.index for item in answer.embeddings] == [0, 1]
    assert all(len(item.embedding) == 512 for item in answer.embeddings)
    assert all(item.sparse_embedding[0]["value"] > 0 for item in answer.embeddings)  # type: ignore[attr-defined]


def test_sparse_alone_parses(client: Client) -> None:
    item = client.embeddings.create(model=MODEL, input=TEXT, output_type="sparse").embeddings[0]
    assert item.embedding == []
    assert item.sparse_embedding  # type: ignore[attr-defined]


def test_unknown_parameters_are_ignored(client: Client) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXT, parameters={"colour": "blue"})
    assert len(answer.embeddings[0].embedding) == 1024


def test_the_async_client(server: Server, client: Client) -> None:
    async def ask() -> list[float]:
        async with AsyncClient(api_key=KEY, base_url=server.native_url) as asynchronous:
            answer = await asynchronous.embeddings.create(model=MODEL, input=TEXT)
            return list(answer.embeddings[0].embedding)

    assert asyncio.run(ask()) == client.embeddings.create(model=MODEL, input=TEXT).embeddings[0].embedding


@pytest.mark.parametrize(
    ("asked", "kind", "code"),
    [
        ({"input": ["x"] * 11}, errors.BadRequestError, "InvalidParameter"),
        ({"input": ""}, errors.BadRequestError, "InvalidParameter"),
        ({"input": TEXT, "model": "no-such"}, errors.BadRequestError, "InvalidParameter"),
        ({"input": TEXT, "parameters": {"dimension": 3}}, errors.BadRequestError, "InvalidParameter"),
    ],
    ids=["rows", "empty", "model", "dimension"],
)
def test_errors_are_typed_and_carry_the_request_id(
    client: Client, asked: dict[str, object], kind: type[errors.DashScopeError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        client.embeddings.create(**({"model": MODEL} | asked))
    assert (caught.value.code, caught.value.status_code) == (code, 400)
    assert caught.value.request_id == caught.value.headers["x-request-id"]


@pytest.mark.quick
def test_a_wrong_key_is_an_authentication_error(server: Server) -> None:
    with pytest.raises(errors.AuthenticationError) as caught:
        Client(api_key="sk-wrong", base_url=server.native_url).embeddings.create(model=MODEL, input=TEXT)
    assert (caught.value.code, caught.value.message) == ("InvalidApiKey", "Invalid API-key provided.")
