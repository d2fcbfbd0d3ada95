"""The accounts' counters for Prometheus: what was billed, what was refused."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from embedserve.accounts.accounts import Accounts


class AccountsCollector(Collector):
    """Reads the sums that accounts keep anyway: nothing is done on the path of a request."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts

    def collect(self) -> Iterator[Metric]:
        labels = ["key", "workspace", "model", "door"]
        requests = CounterMetricFamily("embedserve_billed_requests", "Requests in the ledger", labels=labels)
        tokens = CounterMetricFamily("embedserve_billed_tokens", "Tokens in the ledger", labels=labels)
        for names, (count, amount) in self.accounts.totals.items():
            requests.add_metric(names, count)
            tokens.add_metric(names, amount)
        refused = CounterMetricFamily(
            "embedserve_refused_requests", "Requests that accounts refused", labels=["code"]
        )
        for code, count in self.accounts.refused.copy().items():
            refused.add_metric([code], count)
        yield from (requests, tokens, refused)
        yield GaugeMetricFamily(
            "embedserve_limits_degraded",
            "1 while Redis does not answer and rate limits are this server's own",
            value=float(self.accounts.degraded),
        )
