"""The reader of long documents: orjson's values, whatever the window, and nothing without bound."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedserve.http import bounded_json
from embedserve.http.bounded_json import (
    MAX_DEPTH,
    MAX_PARTS,
    MAX_SCALARS,
    MAX_STRING,
    SMALL,
    JSONError,
    parse_json,
)

documents = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
near_json = st.text(alphabet='{}[]",:1e-+ .tfn\\u0dD8ab\n', max_size=24).map(str.encode)


def read_in_windows(document: bytes, window: int) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded_json, "SMALL", -1)
        patch.setattr(bounded_json, "_WINDOW", window)
        return parse_json(document)


@settings(max_examples=300)
@given(documents, st.sampled_from([None, 1]), st.booleans(), st.sampled_from([40, 64, SMALL]))
def test_reads_what_orjson_reads(value: Any, indent: int | None, ascii_only: bool, window: int) -> None:
    document = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert repr(read_in_windows(document, window)) == repr(orjson.loads(document))


@settings(max_examples=500)
@given(st.binary(max_size=30) | near_json)
def test_refuses_what_orjson_refuses(document: bytes) -> None:
    try:
        expected = repr(orjson.loads(document))
    except orjson.JSONDecodeError:
        if b"\\u" not in document and not document.startswith(b"\xef\xbb\xbf"):
            with pytest.raises(JSONError):
                read_in_windows(document, SMALL)
    else:
        assert repr(read_in_windows(document, SMALL)) == expected


@pytest.mark.parametrize("padding", [0, 7, SMALL - 9, 3 * SMALL])
@pytest.mark.parametrize(
    ("escaped", "read"),
    [
        (r"\ud800", "\ufffd"),
        (r"\udfff\ud800", "\ufffd\ufffd"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\\ud800", r"\ud800"),
        ("衣\U0001f600é", "衣\U0001f600é"),
    ],
)
def test_characters_wherever_a_window_ends(padding: int, escaped: str, read: str) -> None:
    told = " " * padding
    for shift in range(12):
        document = f'["{told}{"x" * shift}{escaped}{told}"]'.encode()
        assert parse_json(document) == [told + "x" * shift + read + told]


@pytest.mark.parametrize("size", [10, 2 * SMALL])
@pytest.mark.parametrize(
    "document",
    [
        *("{", '"', "[", "NaN", "[1e999]", '{"a":1e999}', "1" * 10_000, "[" + "1" * 10_000 + "]", ""),
        *(
            '"\\x"',
            '"\x01"',
            "[1,]",
            "[,1]",
            '[1,"a",]',
            '{"a":1,}',
            '{"a" 1}',
            "{1:1}",
            "[] []",
            "[1}",
            '["a"}',
        ),
    ],
)
def test_refuses_mistakes_small_and_large(size: int, document: str) -> None:
    with pytest.raises(JSONError):
        parse_json(b" " * size + document.encode())


@pytest.mark.parametrize("size", [0, SMALL])
def test_bytes_that_are_no_utf8_and_a_byte_order_mark(size: int) -> None:
    padding = b" " * size
    for wrong in (b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3"', b'"' + b"\x80" * 100_000 + b'"', b'{"\xff":1}'):
        with pytest.raises(JSONError):
            parse_json(padding + wrong)
    assert parse_json(b'\xef\xbb\xbf{"a":1}' + padding) == {"a": 1}


@pytest.mark.parametrize("size", [0, SMALL])
def test_the_last_of_two_equal_keys_counts(size: int) -> None:
    assert parse_json(b'{"a":[1],"b":2,"a":{"c":[]}}' + b" " * size) == {"a": {"c": []}, "b": 2}


@pytest.mark.parametrize(
    "document",
    [
        b"[" + b",".join([b"{}"] * (MAX_PARTS + 1)) + b"]",
        b'{"input":[' + b",".join([b'""'] * (MAX_PARTS + 1)) + b"]}",
        b"{" + b",".join(b'"%d":1' % i for i in range(MAX_PARTS + 1)) + b"}",
        b'"' + b"\\ud800" * (MAX_PARTS + 1) + b'"',
        b"[" + b",".join([b"7"] * (MAX_SCALARS + 1)) + b"]",
        b"[" * SMALL * 2,
        b'"' + b"x" * (MAX_STRING + 1) + b'"',
        b'{"a":' * (MAX_DEPTH + 1) + b"0" * SMALL,
    ],
    ids=["objects", "strings", "keys", "halves", "numbers", "arrays deep", "long string", "objects deep"],
)
def test_stops_before_too_much_is_built(document: bytes) -> None:
    told: list[int] = []
    with pytest.raises(JSONError, match="more than"):
        parse_json(document, told.append)
    assert sum(told) < 64 * 2**20


def test_says_what_it_builds() -> None:
    text, told = "x" * 2**21 + "\U0001f600", []  # one emoji makes every character take four bytes
    assert parse_json(json.dumps([text]).encode(), told.append) == [text]
    assert 4 * len(text) <= sum(told) <= 7 * len(text)
