"""The same text gives the same bytes through every door."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from embedserve import Embedder
from serving import Server

pytestmark = pytest.mark.quick


def test_library_and_both_dialects_give_the_same_bytes(server: Server, embedder: Embedder) -> None:
    text = "The quality of the clothes is excellent"
    mine = embedder.embed(text, dimension=256).dense[0]
    body = {"model": "text-embedding-v4", "input": [text, "衣服的质量杠杠的"], "dimensions": 256}
    floats = server.openai(body).json()["data"][0]["embedding"]
    packed = server.openai(body | {"encoding_format": "base64"}).json()["data"][0]["embedding"]
    native = server.native(
        {"model": "text-embedding-v4", "input": {"texts": [text]}, "parameters": {"dimension": 256}}
    ).json()["output"]["embeddings"][0]["embedding"]
    assert np.array_equal(np.array(floats, np.float32), mine)
    assert np.array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), mine)
    assert np.array_equal(np.array(native, np.float32), mine)
    assert abs(float(np.linalg.norm(mine)) - 1) < 1e-6
