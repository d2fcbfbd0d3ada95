"""The engine's own figures among the metrics: read when somebody asks, so they cost nothing otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from embedserve.service import EmbeddingService


class EngineCollector(Collector):
    """Queue, work done, memory and cache of one service's engine."""

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: the registry need not collect before the engine runs."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        stats = self._service.engine.scheduler.stats
        queued = GaugeMetricFamily(
            "embedserve_queue_tokens", "Tokens accepted and not yet computed", labels=["lane"]
        )
        for lane, tokens in stats.queued_tokens.items():
            queued.add_metric([lane], tokens)
        yield queued
        for name, help_text, gauge in (
            ("queue_requests", "Requests whose vectors are not all computed", stats.requests_waiting),
            ("memory_held_bytes", "Memory that accepted work holds", stats.held_bytes),
            ("memory_limit_bytes", "Memory that accepted work may hold", stats.limit_bytes),
            ("engine_tokens_per_second", "Measured rate of the backbone", stats.tokens_per_second),
            ("cache_bytes", "Size of the vector cache", stats.cache_bytes),
        ):
            yield GaugeMetricFamily(f"embedserve_{name}", help_text, value=gauge)
        for name, help_text, count in (
            ("engine_busy_seconds", "Time in which the backbone computed", stats.busy_seconds),
            ("engine_chunks", "Calls of the backbone", stats.chunks),
            ("engine_windows", "Distinct windows computed", stats.windows),
            ("engine_windows_shared", "Windows on their way for somebody else", stats.windows_shared),
            ("engine_refused", "Requests refused for want of memory", stats.refused),
            ("cache_hits", "Windows found in the cache", stats.cache_hits),
            ("cache_misses", "Windows not found in the cache", stats.cache_misses),
        ):
            yield CounterMetricFamily(f"embedserve_{name}", help_text, value=count)
