"""50,000 lines through both batch dialects, and what somebody who waits feels of it.

    python benchmarks/batch.py [--quick] [--lines N] [--tokens N] [--json FILE]

Starts a server on a free port; asks single queries, five a second, while nothing else runs; then submits a
batch (OpenAI dialect) and a task (DashScope dialect) of the same texts, one after the other, and asks the
same queries during each, from the first byte of the upload on. Reported: lines a second from submission to
the end, latencies of the queries before and during, and the memory of the server process before and its
highest while a job ran. Every result line is read back and counted, and the ledger is compared with them,
before any figure is printed.

With nothing else on two cores the 50,000 lines take two to four minutes a dialect, and the whole under ten.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from contenders import rss_of
from load import Samples, open_loop, prepare
from texts import TextSource

from embedserve.embedding.embedder import Embedder

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from serving import Server  # noqa: E402

DONE = ("completed", "failed", "SUCCEEDED", "FAILED")
QUERY_RATE = 5.0
MODEL = "text-embedding-v4"


@dataclass
class Row:
    """One line of the table; latencies in milliseconds, memory in MiB."""

    what: str
    lines_per_s: float | None
    p50: float
    p99: float
    worst: float
    errors: int
    queries: int
    memory: float
    memory_added: float


class Bench:
    def __init__(self, server: Server, texts: list[str], queries: list[str]) -> None:
        self.server = server
        self.texts = texts
        self.client = httpx.Client(headers=server.headers, timeout=600)
        self.port = int(server.url.rpartition(":")[2])
        self.calls = [
            prepare(
                "127.0.0.1",
                "/compatible-mode/v1/embeddings",
                server.headers,
                json.dumps({"model": MODEL, "input": query}).encode(),
                1,
                0,
            )
            for query in queries
        ]
        self.idle_memory = rss_of(server.process.pid)

    def quiet(self, seconds: float) -> Row:
        samples, peak = asyncio.run(self._ask(seconds=seconds))
        self.idle_memory = peak
        return self._row("queries alone", None, samples, peak)

    def batch(self) -> Row:
        state: dict[str, Any] = {}

        def begin() -> None:
            with tempfile.TemporaryFile() as file:
                for i, text in enumerate(self.texts):
                    body = {"model": MODEL, "input": text}
                    line = {"custom_id": str(i), "method": "POST", "url": "/v1/embeddings", "body": body}
                    file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file_id = self._upload(file)
            fields = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
            state["began"] = time.perf_counter()
            state.update(self._ok(self.client.post(f"{self.server.openai_url}/batches", json=fields)))

        def ended() -> bool:
            state.update(self._ok(self.client.get(f"{self.server.openai_url}/batches/{state['id']}")))
            return state["status"] in DONE

        samples, peak = asyncio.run(self._ask(begin, ended))
        seconds = time.perf_counter() - state["began"]
        tokens = count = 0
        with self.client.stream(
            "GET", f"{self.server.openai_url}/files/{state['output_file_id']}/content"
        ) as a:
            for line in a.iter_lines():
                parsed = json.loads(line)
                assert parsed["custom_id"] == str(count)
                tokens += parsed["response"]["body"]["usage"]["total_tokens"]
                count += 1
        assert count == len(self.texts) == state["request_counts"]["completed"]
        self._check_ledger(MODEL, count, tokens)
        return self._row("batch (OpenAI)", len(self.texts) / seconds, samples, peak)

    def task(self) -> Row:
        model = "text-embedding-async-v2"
        state: dict[str, Any] = {}

        def begin() -> None:
            with tempfile.TemporaryFile() as file:
                for text in self.texts:
                    file.write(text.replace("\n", " ").encode() + b"\n")
                file_id = self._upload(file)
            body = {"model": model, "input": {"url": f"{self.server.openai_url}/files/{file_id}/content"}}
            url = f"{self.server.native_url}/services/embeddings/text-embedding/text-embedding"
            state["began"] = time.perf_counter()
            state.update(self._ok(self.client.post(url, json=body, headers={"X-DashScope-Async": "enable"})))

        def ended() -> bool:
            id = state["output"]["task_id"]
            state.update(self._ok(self.client.get(f"{self.server.native_url}/tasks/{id}")))
            return state["output"]["task_status"] in DONE

        samples, peak = asyncio.run(self._ask(begin, ended))
        seconds = time.perf_counter() - state["began"]
        with tempfile.TemporaryFile() as result:
            with self.client.stream("GET", state["output"]["url"]) as answer:
                for block in answer.iter_bytes():
                    result.write(block)
            result.seek(0)
            with gzip.open(result) as unpacked:
                lines = [json.loads(line)["output"]["text_index"] for line in unpacked]
        assert lines == list(range(len(self.texts)))
        self._check_ledger(model, len(lines), state["usage"]["total_tokens"])
        return self._row("task (DashScope)", len(self.texts) / seconds, samples, peak)

    async def _ask(
        self,
        begin: Callable[[], None] = lambda: None,
        ended: Callable[[], bool] = lambda: False,
        seconds: float = 7200,
    ) -> tuple[Samples, float]:
        """Queries from the beginning of a job to its end; (what they met, highest memory)."""
        total, peak, last = Samples(), 0.0, time.perf_counter()
        until = time.perf_counter() + seconds
        beginning = asyncio.create_task(asyncio.to_thread(begin))
        while time.perf_counter() < until:
            part = await open_loop(self.port, self.calls, QUERY_RATE, 2.0)
            total.seconds += part.seconds
            total.errors += part.errors
            peak = max(peak, rss_of(self.server.process.pid))
            if beginning.done() and time.perf_counter() - last > 1:
                last = time.perf_counter()
                beginning.result()
                if await asyncio.to_thread(ended):
                    break
        return total, peak

    def _check_ledger(self, model: str, requests: int, tokens: int) -> None:
        with sqlite3.connect(self.server.data_dir / "embedserve.db") as database:
            row = database.execute(
                "SELECT sum(requests), sum(tokens) FROM usage_daily WHERE door = 'batch' AND model = ?",
                (model,),
            ).fetchone()
        assert row == (requests, tokens), (row, requests, tokens)

    def _upload(self, file: Any) -> str:
        file.seek(0)
        answer = self.client.post(
            f"{self.server.openai_url}/files", files={"file": ("in.jsonl", file)}, data={"purpose": "batch"}
        )
        return str(self._ok(answer)["id"])

    def _ok(self, answer: httpx.Response) -> dict[str, Any]:
        answer.raise_for_status()
        parsed: dict[str, Any] = answer.json()
        return parsed

    def _row(self, what: str, rate: float | None, samples: Samples, peak: float) -> Row:
        return Row(
            what,
            rate,
            samples.percentile(50),
            samples.percentile(99),
            samples.percentile(100),
            samples.errors,
            len(samples.seconds),
            peak,
            peak - self.idle_memory,
        )


@contextmanager
def open_bench(lines: int, tokens: int) -> Iterator[Bench]:
    embedder = Embedder()
    source = TextSource(embedder.tokenizer)
    texts = [source.text(source.random.randint(max(1, tokens // 2), tokens * 3 // 2)) for _ in range(lines)]
    queries = [source.short()[0] for _ in range(200)]
    embedder.close()
    with Server("--log-level", "warning", timeout=120) as server:
        yield Bench(server, texts, queries)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1,000 lines and ten quiet seconds")
    parser.add_argument("--lines", type=int)
    parser.add_argument("--tokens", type=int, default=30, help="of a text, on average")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    lines = given.lines or (1_000 if given.quick else 50_000)
    with open_bench(lines, given.tokens) as bench:
        rows = [bench.quiet(10 if given.quick else 60), bench.batch(), bench.task()]
    print(f"{lines} lines of about {given.tokens} tokens; {QUERY_RATE:g} queries a second")
    heads = ("lines/s", "p50 ms", "p99 ms", "worst ms", "errors", "queries", "MiB", "added")
    print(" " * 18 + "".join(f"{head:>9}" for head in heads))
    for row in rows:
        rate = f"{row.lines_per_s:.0f}" if row.lines_per_s else "-"
        cells = (f"{row.p50:.1f}", f"{row.p99:.1f}", f"{row.worst:.1f}", row.errors, row.queries)
        memory = (f"{row.memory:.0f}", f"{row.memory_added:.0f}")
        print(f"{row.what:<18}" + "".join(f"{cell:>9}" for cell in (rate, *cells, *memory)))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
