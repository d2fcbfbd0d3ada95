"""Measures `embedserve embed` beside the network's own rate on the same short lines.

    python benchmarks/embed.py [--lines 100000] [--rounds 3] [--format jsonl] [--dimension 1024]

Each round runs the network alone, on windows that were prepared before the clock starts, and the whole way
from a file to a file in a process of its own, as a user starts it. Rounds alternate the order, so that a
change of the machine's speed meets both. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from texts import TextSource

from embedserve import Embedder
from embedserve.embedding.embedder import Options
from embedserve.files.run import cut_pieces


def make_lines(embedder: Embedder, count: int, path: Path) -> list[str]:
    """Queries of 8 to 16 tokens, one a line."""
    source = TextSource(embedder.tokenizer)
    lines = [" ".join(source.short()[0].split()) for _ in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


def run_network(embedder: Embedder, lines: list[str], dimension: int) -> float:
    """Rows a second of the network alone, in pieces like those of a run."""
    options = Options(dimension=dimension)
    windows = [
        window
        for at in range(0, len(lines), 1024)
        for item in embedder.prepare(lines[at : at + 1024], options)
        for window in item.windows
    ]
    pieces = list(cut_pieces(windows))
    embedder.backbone.encode(pieces[0])
    began = time.perf_counter()
    for piece in pieces:
        embedder.backbone.encode(piece)
    return len(lines) / (time.perf_counter() - began)


def run_command(path: Path, output: Path, dimension: int) -> float:
    """Rows a second of the command, from its first row to the finished file, as its summary says."""
    command = [sys.executable, "-m", "embedserve", "embed", str(path), "-o", str(output), "--overwrite"]
    command += ["--dimension", str(dimension)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    written = json.loads(Path(f"{output}.manifest").read_text())["counts"]["written"]
    seconds = float(done.stderr.rpartition(" tokens in ")[2].partition(" s ")[0])
    return written / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--format", default="jsonl")
    parser.add_argument("--dimension", type=int, default=1024)
    given = parser.parse_args()
    embedder = Embedder()
    rates: dict[str, list[float]] = {"network": [], "command": []}
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "lines.txt", Path(folder) / f"out.{given.format}"
        lines = make_lines(embedder, given.lines, path)
        for number in range(given.rounds):
            for name in sorted(rates, reverse=number % 2 == 0):
                if name == "network":
                    rates[name].append(run_network(embedder, lines, given.dimension))
                else:
                    rates[name].append(run_command(path, output, given.dimension))
                print(f"round {number + 1}: {name:8} {rates[name][-1]:10,.1f} rows/s", flush=True)
    network, command = (statistics.median(rates[name]) for name in ("network", "command"))
    ratio = command / network
    print(f"\n{embedder.backbone.name}, {given.lines:,} lines to .{given.format}, medians of the rounds")
    print(f"network alone {network:,.1f} rows/s, embedserve embed {command:,.1f} rows/s: {ratio:.1%}")


if __name__ == "__main__":
    main()
