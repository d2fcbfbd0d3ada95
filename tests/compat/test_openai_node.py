"""The openai SDK for Node: it asks for base64 and would garble floats."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from embedserve import Embedder
from serving import KEY, Server

FOLDER = Path(__file__).parent / "node"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules" / "openai").is_dir(), reason="make test installs the npm package openai"
    ),
]


def run(script: str, url: str) -> dict[str, object]:
    """What a script of ours under node/ prints, as JSON."""
    done = subprocess.run(
        ["node", FOLDER / script], env={"BASE_URL": url, "API_KEY": KEY}, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_the_sdk_gets_full_vectors_and_its_error_classes(server: Server, embedder: Embedder) -> None:
    told = run("embed.mjs", server.openai_url)
    text = "The quality of the clothes is excellent"
    assert np.array_equal(np.array(told["byDefault"], np.float32), embedder.embed(text).dense[0])
    assert np.array_equal(np.array(told["asFloat"], np.float32), np.array(told["byDefault"], np.float32))
    assert told["lengths"] == [256, 256, 256]
    assert told["order"] == [0, 1, 2]
    assert told["usage"] == {
        "prompt_tokens": embedder.embed(text).tokens,
        "total_tokens": embedder.embed(text).tokens,
    }
    assert told["requestId"] == told["id"]
    assert told["models"] == [f"text-embedding-v{n}" for n in (4, 3, 2, 1)]
    assert told["rows"] == {"name": "BadRequestError", "status": 400, "code": "InvalidParameter"}
    assert told["model"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert told["key"] == {"name": "AuthenticationError", "status": 401, "code": "invalid_api_key"}
