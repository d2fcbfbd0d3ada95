"""Speed over HTTP, with latencies, errors and memory beside it.

    python benchmarks/server.py [--quick] [--contenders embedserve,infinity] [--json FILE]
                                 [--python infinity=/path/to/python]

Starts each server on a free port, one at a time, asks all the same, and stops it; several rounds, so that a
drift of the machine falls on all alike, and the median of the rounds counts. `engine` is embedserve's own
network on the same windows without a server: the bound that a server can come near to. Contenders that are
not installed are named and left out.

Shapes: `short` is one query of 8-16 tokens; `10x30` ten texts of about 30 tokens; `mix` one to ten texts of
10-388 tokens. `closed N`: N clients, each with one request under way. `open`: requests at random moments, at
60 % of the rate that the same server reached in the closed loop; latency counts from the moment a request was
due. `beside bulk`: single queries, twenty a second, while eight clients send ten texts of 400 tokens each
without pause.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path

from contenders import Contender, all_contenders, make_folder, rss_of
from load import Call, Samples, closed_loop, open_loop
from texts import TextSource

from embedserve.embedding.embedder import Embedder, Options

Requests = dict[str, list[tuple[list[str], int]]]
"""shape -> requests, each its texts and their tokens"""


ENGINE_SHAPES = {
    "short": "short, closed 1",
    "ten": "10x30, closed 8",
    "mix": "mix, closed 8",
    "long": "bulk, closed 8",
}


@dataclass
class Row:
    """One line of the table: the medians of the rounds."""

    contender: str
    shape: str
    texts_per_s: float
    tokens_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int
    rss_mb: float
    start_ms: float


def make_requests(count: int) -> tuple[Requests, bool]:
    embedder = Embedder()
    source = TextSource(embedder.tokenizer)
    requests: Requests = {}
    for shape in ("short", "ten", "mix", "long"):
        requests[shape] = []
        for texts in source.requests(shape, count):
            prepared = embedder.prepare(texts, Options())
            requests[shape].append((texts, sum(item.tokens for item in prepared)))
    embedder.close()
    return requests, source.real


async def measure(contender: Contender, requests: Requests, seconds: float) -> dict[str, Samples]:
    """All shapes against a running server."""
    port = contender.port
    calls: dict[str, list[Call]] = {
        shape: [contender.call(texts, tokens) for texts, tokens in rows] for shape, rows in requests.items()
    }
    await closed_loop(port, calls["ten"], 2, seconds / 4)  # warm
    results = {
        "short, closed 1": await closed_loop(port, calls["short"], 1, seconds),
        "short, closed 16": await closed_loop(port, calls["short"], 16, seconds),
        "10x30, closed 8": await closed_loop(port, calls["ten"], 8, seconds),
        "mix, closed 8": await closed_loop(port, calls["mix"], 8, seconds),
    }
    mix = results["mix, closed 8"]
    if mix.seconds:
        rate = 0.6 * len(mix.seconds) / mix.elapsed
        results["mix, open 60 %"] = await open_loop(port, calls["mix"], rate, seconds)
    queries, bulk = await asyncio.gather(
        open_loop(port, calls["short"], 20, seconds * 1.5), closed_loop(port, calls["long"], 8, seconds * 1.5)
    )
    results["short beside bulk"], results["bulk, closed 8"] = queries, bulk
    return results


def measure_engine(requests: Requests, seconds: float) -> tuple[dict[str, Samples], float, float]:
    """The network alone on the windows of the same requests, one request a call, back to back.

    Returns:
        samples by shape, resident MiB, milliseconds from opening the model to the first vector.
    """
    began = time.perf_counter()
    embedder = Embedder()
    embedder.embed("the first vector")
    start_ms = (time.perf_counter() - began) * 1000
    results = {}
    for shape, label in ENGINE_SHAPES.items():
        batches = [
            ([w for item in embedder.prepare(texts, Options()) for w in item.windows], len(texts), tokens)
            for texts, tokens in requests[shape][:200]
        ]
        samples = Samples()
        began = time.perf_counter()
        for windows, texts, tokens in cycle(batches):
            sent = time.perf_counter()
            if sent > began + seconds:
                break
            embedder.backbone.encode(windows)
            samples.seconds.append(time.perf_counter() - sent)
            samples.texts += texts
            samples.tokens += tokens
        samples.elapsed = time.perf_counter() - began
        results[label] = samples
    rss = rss_of(os.getpid())
    embedder.close()
    return results, rss, start_ms


def make_row(name: str, shape: str, samples: Samples, rss_mb: float, start_ms: float) -> Row:
    return Row(
        name,
        shape,
        samples.texts_per_second,
        samples.tokens_per_second,
        samples.percentile(50),
        samples.percentile(95),
        samples.percentile(99),
        samples.errors,
        rss_mb,
        start_ms,
    )


def run_once(contender: Contender | None, requests: Requests, seconds: float, folder: Path) -> list[Row]:
    """One contender (None: the bare engine) through all shapes."""
    if contender is None:
        # In a process of its own, so that its threads and memory are not the load generator's.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            results, rss, start_ms = pool.submit(measure_engine, requests, seconds).result()
        return [make_row("engine", shape, samples, rss, start_ms) for shape, samples in results.items()]
    contender.start(folder)
    try:
        results = asyncio.run(measure(contender, requests, seconds))
        rss = contender.rss_mb
    finally:
        contender.stop()
    return [
        make_row(contender.name, shape, samples, rss, contender.start_ms)
        for shape, samples in results.items()
    ]


def merge(rounds: Sequence[Row]) -> Row:
    """The median of each figure; errors add up, memory counts at its highest."""
    merged = Row(**asdict(rounds[0]))
    for figure in ("texts_per_s", "tokens_per_s", "p50_ms", "p95_ms", "p99_ms", "start_ms"):
        setattr(merged, figure, statistics.median(getattr(row, figure) for row in rounds))
    merged.errors = sum(row.errors for row in rounds)
    merged.rss_mb = max(row.rss_mb for row in rounds)
    return merged


def render_table(rows: Sequence[Row]) -> str:
    """Markdown, ordered by shape, so that contenders stand under one another."""
    lines = [
        "| shape | contender | texts/s | tokens/s | p50 ms | p95 ms | p99 ms | errors | RSS MB "
        "| first vector ms |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    shapes = list(dict.fromkeys(row.shape for row in rows))
    for row in sorted(rows, key=lambda row: shapes.index(row.shape)):
        lines.append(
            f"| {row.shape} | {row.contender} | {row.texts_per_s:,.0f} | {row.tokens_per_s:,.0f} "
            f"| {row.p50_ms:.1f} | {row.p95_ms:.1f} | {row.p99_ms:.1f} | {row.errors} "
            f"| {row.rss_mb:.0f} | {row.start_ms:.0f} |"
        )
    return "\n".join(lines)


def judge(rows: Sequence[Row]) -> list[str]:
    """The promises of docs/performance.md, each with the figures that hold or break it."""
    at = {(row.contender, row.shape): row for row in rows}
    peers = {row.contender for row in rows} - {"engine", "embedserve"}
    told = []
    for shape in ("10x30, closed 8", "mix, closed 8"):
        ours, engine = at.get(("embedserve", shape)), at.get(("engine", shape))
        if ours and engine:
            share = ours.tokens_per_s / engine.tokens_per_s
            told.append(f"{shape}: server at {share:.0%} of the engine's rate (to reach: 90 %)")
        best = max((at[peer, shape].tokens_per_s for peer in peers if (peer, shape) in at), default=0.0)
        if ours and best:
            told.append(f"{shape}: {ours.tokens_per_s / best:.1f}x the best peer (to reach: 2x)")
    alone, beside = at.get(("embedserve", "short, closed 1")), at.get(("embedserve", "short beside bulk"))
    engine = at.get(("engine", "short, closed 1"))
    if alone and beside:
        told.append(
            f"single queries: p50 {alone.p50_ms:.1f} ms unloaded, p99 {beside.p99_ms:.1f} ms beside bulk "
            f"(to reach: {3 * alone.p50_ms:.1f} ms plus one chunk)"
        )
        told.append(
            f"memory {alone.rss_mb:.0f} MB (to reach: 200), first vector {alone.start_ms:.0f} ms (1000)"
        )
    if alone and engine:
        told.append(f"a lone query: {alone.p50_ms - engine.p50_ms:.2f} ms on top of the network")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--contenders", default="", help="some of them, by comma; all that are installed if omitted"
    )
    parser.add_argument("--quick", action="store_true", help="one short round: under 60 s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each shape in each round")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="a contender's interpreter"
    )
    options = parser.parse_args()
    rounds, seconds = (1, 1.0) if options.quick else (options.rounds, options.seconds)

    servers = all_contenders(dict(pair.split("=", 1) for pair in options.python))
    wanted = options.contenders.split(",") if options.contenders else ["engine", *servers]
    if unknown := set(wanted) - {"engine", *servers}:
        parser.error(
            f"no such contender: {', '.join(sorted(unknown))}; there are engine, {', '.join(servers)}"
        )
    for name in [name for name in wanted if name in servers]:
        if reason := servers[name].missing():
            print(f"{name} is left out: {reason}", file=sys.stderr)
            wanted.remove(name)

    requests, real = make_requests(400)
    rows: dict[tuple[str, str], list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="embedserve-benchmark-") as scratch:
        folder = Path(scratch)
        make_folder(folder)
        for turn in range(rounds):
            for name in wanted:
                print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr)
                try:
                    for row in run_once(servers.get(name), requests, seconds, folder):
                        rows.setdefault((row.contender, row.shape), []).append(row)
                except RuntimeError as error:
                    print(error, file=sys.stderr)
    table = [merge(several) for several in rows.values()]
    print(f"{os.cpu_count()} cores, {rounds} x {seconds:g} s a shape, {'real' if real else 'random'} text\n")
    print(render_table(table))
    print("\n" + "\n".join(f"- {line}" for line in judge(table)))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in table], indent=1) + "\n")


if __name__ == "__main__":
    main()
