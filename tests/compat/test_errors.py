"""Every row of the original's error tables that can occur here, in both dialects, to the byte.

The messages are written out here, not imported: what clients match on must not drift with the code.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from serving import Server

pytestmark = pytest.mark.quick

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
V4 = "text-embedding-v4"
PREFIX = "<400> InternalError.Algo.InvalidParameter: "
NOT_TEXT = PREFIX + "Value error, contents is neither str nor list of str.: input.contents"
LENGTH = PREFIX + "Range of input length should be [1, 8192]"
MALFORMED = "Required body invalid, please check the request body format."
MISSING = "Required parameter(s) missing or invalid, please check the request parameters."
WRONG_URL = (
    "url error, please check url！ For details, see: "
    "https://help.aliyun.com/zh/model-studio/error-code#error-url"
)
LONG = "word " * 8200
TEXT_PATH = "/api/v1/services/embeddings/text-embedding/text-embedding"
MULTIMODAL_PATH = "/api/v1/services/embeddings/multimodal-embedding/multimodal-embedding"
OPENAI_PATH = "/compatible-mode/v1/embeddings"


def rows(limit: int) -> str:
    return (
        PREFIX + f"Value error, batch size is invalid, it should not be larger than {limit}.: input.contents"
    )


def embed_native(texts: Any, model: str = V4, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "input": {"texts": texts}, "parameters": parameters}


def embed_openai(given: Any, model: str = V4, **fields: Any) -> dict[str, Any]:
    return {"model": model, "input": given} | fields


def check_native(reply: httpx.Response, status: int, code: str, message: str) -> None:
    body = reply.json()
    assert list(body) == ["code", "message", "request_id"]
    assert (reply.status_code, body["code"], body["message"]) == (status, code, message)
    check_id(reply, body["request_id"])


def check_openai(
    reply: httpx.Response, status: int, code: str, message: str, kind: str | None = None, *, engine: bool
) -> None:
    """Engine errors carry ``id`` before ``request_id``, the gateway's do not."""
    body = reply.json()
    assert list(body) == (["error", "id", "request_id"] if engine else ["error", "request_id"])
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"] == {"message": message, "type": kind or code, "param": None, "code": code}
    assert reply.status_code == status
    if engine:
        assert body["id"] == body["request_id"]
    check_id(reply, body["request_id"])


def check_id(reply: httpx.Response, told: str) -> None:
    assert UUID.fullmatch(told)
    assert reply.headers["x-request-id"] == told
    assert reply.headers["content-type"] == "application/json"


NATIVE = {
    "rows v4": (embed_native(["x"] * 11), 400, "InvalidParameter", rows(10)),
    "rows v3": (embed_native(["x"] * 11, "text-embedding-v3"), 400, "InvalidParameter", rows(10)),
    "rows v2": (embed_native(["x"] * 26, "text-embedding-v2"), 400, "InvalidParameter", rows(25)),
    "rows v1": (embed_native(["x"] * 26, "text-embedding-v1"), 400, "InvalidParameter", rows(25)),
    "ints": (embed_native([1, 2]), 400, "InvalidParameter", NOT_TEXT),
    "token arrays": (embed_native([[1, 2]]), 400, "InvalidParameter", NOT_TEXT),
    "objects": (embed_native([{"text": "x"}]), 400, "InvalidParameter", NOT_TEXT),
    "null item": (embed_native(["x", None]), 400, "InvalidParameter", NOT_TEXT),
    "number": (embed_native(7), 400, "InvalidParameter", NOT_TEXT),
    "too long": (embed_native(["x", LONG]), 400, "InvalidParameter", LENGTH),
    "too long v2": (
        embed_native([LONG], "text-embedding-v2"),
        400,
        "InvalidParameter",
        PREFIX + "Range of input length should be [1, 2048]",
    ),
    "empty row": (embed_native(["x", ""]), 400, "InvalidParameter", LENGTH),
    "blank row": (embed_native([" \n\t"]), 400, "InvalidParameter", LENGTH),
    "empty list": (
        embed_native([]),
        400,
        "InvalidParameter",
        PREFIX + "Value error, batch size is invalid, it should be in [1, 10].: input.contents",
    ),
    "dimension": (
        embed_native(["x"], dimension=100),
        400,
        "InvalidParameter",
        PREFIX + "Value error, dimension 100 is not supported by text-embedding-v4, it should be one of "
        "2048, 1536, 1024, 768, 512, 256, 128, 64.: parameters.dimension",
    ),
    "dimension v3": (
        embed_native(["x"], "text-embedding-v3", dimension=2048),
        400,
        "InvalidParameter",
        PREFIX + "Value error, dimension 2048 is not supported by text-embedding-v3, it should be one of "
        "1024, 768, 512, 256, 128, 64.: parameters.dimension",
    ),
    "dimension type": (
        embed_native(["x"], dimension="big"),
        400,
        "InvalidParameter",
        PREFIX + "Value error, dimension is 'big', it should be an integer.: dimension",
    ),
    "text_type": (
        embed_native(["x"], text_type="title"),
        400,
        "InvalidParameter",
        PREFIX + "Value error, text_type is 'title', it should be one of query, document.: text_type",
    ),
    "output_type": (
        embed_native(["x"], output_type="colbert"),
        400,
        "InvalidParameter",
        PREFIX + "Value error, output_type is 'colbert', it should be one of dense, sparse, dense&sparse.: "
        "output_type",
    ),
    "input is an array": (
        {"model": V4, "input": ["x"]},
        400,
        "BadRequest.IllegalInput",
        "The input parameter requires json format.",
    ),
    "input is a string": (
        {"model": V4, "input": "x"},
        400,
        "BadRequest.IllegalInput",
        "The input parameter requires json format.",
    ),
    "no input": (
        {"model": V4},
        400,
        "BadRequest.EmptyInput",
        "Required input parameter missing from request.",
    ),
    "no texts": ({"model": V4, "input": {}}, 400, "InvalidParameter", MISSING),
    "no model": (
        {"input": {"texts": ["x"]}},
        400,
        "BadRequest.EmptyModel",
        'Required parameter "model" missing from request.',
    ),
    "unknown model": (embed_native(["x"], "no-such"), 400, "InvalidParameter", "Model not exist."),
    "async-only model": (
        embed_native(["x"], "text-embedding-async-v2"),
        403,
        "AccessDenied",
        "current user api does not support synchronous calls.",
    ),
    "multimodal model": (
        embed_native(["x"], "multimodal-embedding-v1"),
        400,
        "InvalidParameter",
        WRONG_URL,
    ),
}

OPENAI = {
    "rows v4": (embed_openai(["x"] * 11), 400, "InvalidParameter", rows(10), None, True),
    "rows v2": (embed_openai(["x"] * 26, "text-embedding-v2"), 400, "InvalidParameter", rows(25), None, True),
    "ints": (embed_openai([1, 2]), 400, "InvalidParameter", NOT_TEXT, None, True),
    "token arrays": (embed_openai([[1, 2]]), 400, "InvalidParameter", NOT_TEXT, None, True),
    "object": (embed_openai({"texts": ["x"]}), 400, "InvalidParameter", NOT_TEXT, None, True),
    "null item": (embed_openai(["x", None]), 400, "InvalidParameter", NOT_TEXT, None, True),
    "too long": (embed_openai(LONG), 400, "InvalidParameter", LENGTH, None, True),
    "empty string": (embed_openai(""), 400, "InvalidParameter", LENGTH, None, True),
    "blank line of a file": (embed_openai(["x\n", "\n"]), 400, "InvalidParameter", LENGTH, None, True),
    "empty list": (
        embed_openai([]),
        400,
        "InvalidParameter",
        PREFIX + "Value error, batch size is invalid, it should be in [1, 10].: input.contents",
        None,
        True,
    ),
    "dimensions": (
        embed_openai("x", dimensions=3),
        400,
        "InvalidParameter",
        PREFIX + "Value error, dimension 3 is not supported by text-embedding-v4, it should be one of "
        "2048, 1536, 1024, 768, 512, 256, 128, 64.: parameters.dimension",
        None,
        True,
    ),
    "encoding_format": (
        embed_openai("x", encoding_format="hex"),
        400,
        "InvalidParameter",
        PREFIX + "Value error, encoding_format is 'hex', it should be one of float, base64.: encoding_format",
        None,
        True,
    ),
    "no input": ({"model": V4}, 400, "InvalidParameter", MISSING, "invalid_request_error", False),
    "no model": (
        {"input": "x"},
        400,
        "invalid_request_error",
        "you must provide a model parameter",
        None,
        False,
    ),
    "unknown model": (
        embed_openai("x", "no-such"),
        404,
        "model_not_found",
        "The model `no-such` does not exist or you do not have access to it.",
        "invalid_request_error",
        False,
    ),
    "async-only model": (
        embed_openai("x", "text-embedding-async-v2"),
        404,
        "model_not_supported",
        "Unsupported model `text-embedding-async-v2` for OpenAI compatibility mode.",
        None,
        False,
    ),
    "multimodal model": (
        embed_openai("x", "qwen3-vl-embedding"),
        404,
        "model_not_supported",
        "Unsupported model `qwen3-vl-embedding` for OpenAI compatibility mode.",
        None,
        False,
    ),
}


@pytest.mark.parametrize(("body", "status", "code", "message"), NATIVE.values(), ids=NATIVE)
def test_native_errors(server: Server, body: Any, status: int, code: str, message: str) -> None:
    check_native(server.native(body), status, code, message)


@pytest.mark.parametrize(("body", "status", "code", "message", "kind", "engine"), OPENAI.values(), ids=OPENAI)
def test_openai_errors(
    server: Server, body: Any, status: int, code: str, message: str, kind: str | None, engine: bool
) -> None:
    check_openai(server.openai(body), status, code, message, kind, engine=engine)


def test_old_models_take_any_dimension(server: Server) -> None:
    for model in ("text-embedding-v1", "text-embedding-v2"):
        reply = server.native(embed_native(["x"], model, dimension=3))
        assert len(reply.json()["output"]["embeddings"][0]["embedding"]) == 1536
        assert (
            len(server.openai(embed_openai("x", model, dimensions=3)).json()["data"][0]["embedding"]) == 1536
        )


@pytest.mark.parametrize("given", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": NaN}', b"[" * 5000])
def test_a_body_that_is_no_json_object(server: Server, given: bytes) -> None:
    headers = server.headers | {"content-type": "application/json"}
    reply = httpx.post(server.url + TEXT_PATH, content=given, headers=headers)
    check_native(reply, 400, "InvalidParameter", MALFORMED)
    reply = httpx.post(server.url + OPENAI_PATH, content=given, headers=headers)
    code = "invalid_request_error"
    check_openai(reply, 400, code, MALFORMED, engine=False)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic eDp5", "sk-tests-0123456789abcdef"])
def test_no_key(server: Server, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    reply = httpx.post(server.url + TEXT_PATH, json=embed_native(["x"]), headers=headers)
    check_native(reply, 401, "InvalidApiKey", "No API-key provided.")
    reply = httpx.post(server.url + OPENAI_PATH, json=embed_openai("x"), headers=headers)
    message = (
        "You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
    )
    check_openai(reply, 401, "invalid_api_key", message, "invalid_request_error", engine=False)


@pytest.mark.parametrize("key", ["sk-wrong", "sk-tests-0123456789abcde", "ключ", "x" * 4000])
def test_a_wrong_key(server: Server, key: str) -> None:
    headers = [(b"authorization", b"Bearer " + key.encode())]
    reply = httpx.post(server.url + TEXT_PATH, json=embed_native(["x"]), headers=headers)
    check_native(reply, 401, "InvalidApiKey", "Invalid API-key provided.")
    reply = httpx.post(server.url + OPENAI_PATH, json=embed_openai("x"), headers=headers)
    message = (
        "Incorrect API key provided. For details, see: "
        "https://help.aliyun.com/zh/model-studio/error-code#apikey-error"
    )
    check_openai(reply, 401, "invalid_api_key", message, "invalid_request_error", engine=False)


def test_the_key_is_asked_for_before_anything_else(server: Server) -> None:
    assert httpx.post(server.url + TEXT_PATH, content=b"{").status_code == 401
    assert httpx.get(f"{server.openai_url}/models").status_code == 401


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_method_that_is_not_served(server: Server, method: str) -> None:
    message = f"Request method '{method}' is not supported."
    reply = httpx.request(method, server.url + TEXT_PATH, headers=server.headers)
    check_native(reply, 400, "InvalidParameter", message)
    reply = httpx.request(method, server.url + OPENAI_PATH, headers=server.headers)
    check_openai(reply, 400, "InvalidParameter", message, engine=False)


def test_a_path_that_is_not_served(server: Server) -> None:
    check_native(httpx.get(f"{server.url}/api/v1/nothing"), 404, "NotFound", "Not found!")
    check_openai(
        httpx.get(f"{server.url}/compatible-mode/v1/nothing"), 404, "NotFound", "Not found!", engine=False
    )


def test_a_synchronous_model_does_not_make_tasks(server: Server) -> None:
    reply = server.native(embed_native(["x"]), **{"X-DashScope-Async": "enable"})
    check_native(reply, 403, "AccessDenied", "Current user api does not support asynchronous calls.")
    assert server.native(embed_native(["x"]), **{"X-DashScope-Async": "disable"}).status_code == 200


def test_the_multimodal_endpoint_knows_names_only(server: Server) -> None:
    def post(model: str) -> httpx.Response:
        body = {"model": model, "input": {"contents": [{"text": "x"}]}}
        return httpx.post(server.url + MULTIMODAL_PATH, json=body, headers=server.headers)

    check_native(post(V4), 400, "InvalidParameter", WRONG_URL)
    check_native(post("multimodal-embedding-v1"), 404, "ModelNotFound", "Model can not be found.")


def test_encrypted_input_is_refused(server: Server) -> None:
    reply = server.native(embed_native(["x"]), **{"X-DashScope-EncryptionKey": "{}"})
    assert (reply.status_code, reply.json()["code"]) == (400, "InvalidParameter")


def test_a_body_over_the_limit() -> None:
    with Server(environment={"EMBEDSERVE_MAX_BODY_BYTES": "2000"}) as server:
        for reply in (server.native(embed_native(["x" * 3000])), server.openai(embed_openai("x" * 3000))):
            told = reply.json()
            assert reply.status_code == 400
            assert told.get("code") or told["error"]["code"] == "BadRequest.TooLarge"
            message = told.get("message") or told["error"]["message"]
            assert message.startswith("Payload Too Large: the body is over 2000 bytes")
        assert server.openai(embed_openai("short")).status_code == 200


@pytest.mark.parametrize("texts", [["fine", " ", "fine"], ["fine", "word " * 9000]], ids=["blank", "long"])
def test_a_header_names_the_row(server: Server, texts: list[str]) -> None:
    native = server.native({"model": "text-embedding-v4", "input": {"texts": texts}})
    openai = server.openai({"model": "text-embedding-v4", "input": texts})
    for reply in (native, openai):
        assert (reply.status_code, reply.headers["x-embedserve-row"]) == (400, "1")
    assert "x-embedserve-row" not in server.openai({"model": "text-embedding-v4", "input": [1.5]}).headers
