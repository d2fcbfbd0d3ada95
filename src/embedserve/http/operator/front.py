"""The front's figures among the metrics: connections now, and those that it ended."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from embedserve.http.front.gate import Gate


class FrontCollector(Collector):
    """Read when somebody asks: nothing is done on the path of a connection."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("embedserve_connections", "Connections now", value=len(self._gate))
        ended = CounterMetricFamily(
            "embedserve_connections_ended", "Connections that the front ended", labels=["reason"]
        )
        for reason, count in self._gate.ended.copy().items():
            ended.add_metric([reason], count)
        yield ended
