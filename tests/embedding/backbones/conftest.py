"""A small Qwen3-Embedding checkpoint in the real format, and its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.embedding.checkpoints import write_qwen3

from embedserve.embedding.hub_tokenizer import HubTokenizer
from embedserve.embedding.recipes import qwen3_embedding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("qwen3"), shard="200KB")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> HubTokenizer:
    return HubTokenizer(folder, qwen3_embedding(64).end_token)
