"""What callers invent grows neither memory nor metrics for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from embedserve.accounts.charges import Charge
from embedserve.accounts.tally import OTHER, Tally, Workspaces
from embedserve.errors import EmbedserveError
from forked import KEY, ForkedServer

V4 = "text-embedding-v4"


@pytest.mark.quick
def test_sums_beyond_the_bound_are_counted_together_and_nothing_is_lost() -> None:
    tally = Tally(limit=10)
    for number in range(1000):
        tally.add([Charge(str(number), f"key_{number % 40}", f"w{number}", V4, 3)])
        tally.add([Charge(f"again {number}", "key_0", "w0", V4, 2)])
    items = tally.items()
    assert len(items) <= 2 * 10 + 1
    assert sum(total[0] for _, total in items) == 2000
    assert sum(total[1] for _, total in items) == 5000
    found = dict(items)
    assert found["key_0", "w0", V4, "sync"] == (1001, 2003)  # who was there first keeps its own
    assert (OTHER, OTHER, V4, "sync") in found
    assert Counter(series[1] for series in found)[OTHER] > 1


@pytest.mark.quick
def test_a_key_names_so_many_workspaces_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    workspaces, now = Workspaces(3), 1_790_000_000.0
    monkeypatch.setattr("embedserve.accounts.tally.time.time", lambda: now)
    for name in ("a", "b", "c", "a"):
        workspaces.enter("key_1", name)
    with pytest.raises(EmbedserveError, match=r"named 3 workspaces today.*EMBEDSERVE_MAX_WORKSPACES"):
        workspaces.enter("key_1", "d")
    workspaces.enter("key_1", "b")
    workspaces.enter("key_2", "d")
    now += 86400
    workspaces.enter("key_1", "d")


def test_invented_workspaces_end_in_a_clear_refusal(tmp_path: Path) -> None:
    with ForkedServer(data_dir=tmp_path, max_workspaces=5) as server:

        async def ask() -> list[httpx.Response]:
            headers = {"Authorization": f"Bearer {KEY}"}
            async with httpx.AsyncClient(headers=headers, timeout=30) as client:
                body = {"model": V4, "input": "one two"}
                return [
                    await client.post(
                        server.embeddings, json=body, headers={"X-DashScope-WorkSpace": f"invented-{n}"}
                    )
                    for n in [*range(8), 0]
                ]

        replies = asyncio.run(ask())
        assert [r.status_code for r in replies] == [200] * 5 + [403] * 3 + [200]
        assert "EMBEDSERVE_MAX_WORKSPACES" in replies[6].json()["error"]["message"]
        assert server.embed().status_code == 403  # `default` would be a sixth
