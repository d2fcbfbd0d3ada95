"""The engine's figures in /metrics."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import Server

pytestmark = pytest.mark.quick


def figures(server: Server) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name + "".join(sample.labels.values()): sample.value for sample in samples}


def test_work_done_shows_and_the_queue_is_empty_afterwards(server: Server) -> None:
    before = figures(server)
    texts = ["metrics of the first text", "metrics of another text"]
    assert server.native({"model": "text-embedding-v4", "input": {"texts": texts}}).status_code == 200
    after = figures(server)
    assert after["embedserve_engine_windows_total"] >= before["embedserve_engine_windows_total"] + 2
    assert after["embedserve_engine_chunks_total"] > before["embedserve_engine_chunks_total"]
    assert after["embedserve_queue_tokensinteractive"] == 0
    assert 0 <= after["embedserve_memory_held_bytes"] < after["embedserve_memory_limit_bytes"]
