"""Request bodies of both dialects: refused with 4xx, or what Python's own reader of JSON makes of them."""

from __future__ import annotations

import json
from typing import Any

import orjson
from fuzz.requests import at_once, cut, loop, request_of

from embedserve.embedding.text import mend_surrogates
from embedserve.errors import EmbedserveError
from embedserve.http.body import parse_json, read_json
from embedserve.http.dashscope import parsing as native
from embedserve.http.dashscope.rendering import render_error as render_native
from embedserve.http.openai import parsing as openai
from embedserve.http.openai.rendering import render_error as render_openai

LIMIT = 200_000
_OPENAI = b'{"model": "text-embedding-v4", "input": ["a", "b"], "dimensions": 256, "encoding_format": "float"'
_NATIVE = b'{"model": "text-embedding-v4", "input": {"texts": ["a"]}, "parameters": {"dimension": 64.0'
SEEDS = [
    b"\x00\x00" + _OPENAI + b"}",
    b"\x01\x05" + _OPENAI + b', "truncate": "end", "instruct": "i", "text_type": "query"}',
    b"\x02\x00" + _NATIVE + b', "output_type": "dense&sparse", "text_type": "document"}}',
    b'\x03\x01{"model": "text-embedding-v4", "input": [[1, 2, 3], [4]]}',
    b'\x01\x00{"model": "text-embedding-v1", "input": "\\ud800 \\ud83d\\ude00 \\u0000"}',
    b"\x00\x00\xef\xbb\xbf{}",
    b"\x00\x00" + b"[" * 600,
    b'\x00\x00{"a": [1e400, -0.0, 18446744073709551616, 1E-9, true, null], "a": {"b": {}}}',
]


def check(data: bytes) -> None:
    kind, size, body = data[0] if data else 0, data[1:2], data[2:]
    try:
        given = loop.run_until_complete(
            read_json(request_of(cut(body, size), {}, whole=kind < 128), LIMIT, None, at_once)
        )
    except EmbedserveError as error:
        check_refusal(error)
        return
    assert kind < 128, "a body without its end was taken"
    check_value(body, given)
    walked = parse_json(body)
    assert orjson.dumps(walked) == orjson.dumps(given)
    for parse, lenient in ((openai.parse, bool(kind & 1)), (native.parse, bool(kind & 1))):
        try:
            parse(given, lenient=lenient)
        except EmbedserveError as error:
            check_refusal(error)


def check_refusal(error: EmbedserveError) -> None:
    """The caller's fault, and told in words that go over the wire."""
    assert 400 <= error.status < 500, error.status
    assert 400 <= error.openai_status < 500, error.openai_status
    for render in (render_openai, render_native):
        told = render(error, "id")
        assert len(told.body) < 4000, "a refusal quotes too much"
        json.loads(bytes(told.body).decode())


def check_value(body: bytes, given: Any) -> None:
    expected = json.loads(body.decode("utf-8-sig"))
    assert same(expected, given), "Python reads another value"


def same(expected: Any, given: Any) -> bool:
    """Equal, but that halves of surrogate pairs are U+FFFD and large integers floats."""
    stack = [(expected, given)]
    while stack:
        left, right = stack.pop()
        if isinstance(left, dict) and isinstance(right, dict):
            mended = {mend_surrogates(key): value for key, value in left.items()}
            if mended.keys() != right.keys():
                return False
            stack += [(value, right[key]) for key, value in mended.items()]
        elif isinstance(left, list) and isinstance(right, list):
            if len(left) != len(right):
                return False
            stack += zip(left, right, strict=True)
        elif isinstance(left, str):
            if mend_surrogates(left) != right:
                return False
        elif isinstance(left, int) and isinstance(right, float):
            if float(left) != right:
                return False
        elif type(left) is not type(right) or left != right:
            return False
    return True
