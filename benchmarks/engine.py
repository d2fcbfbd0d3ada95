"""Measures the engine beside other runtimes on the same weights, on token ids, without a server.

    python benchmarks/engine.py [--threads 1] [--contenders embedserve,onnxruntime] [--quick] [--json FILE]
    python benchmarks/engine.py --profile                  # where embedserve's time goes, stage by stage
    python benchmarks/engine.py --scaling                  # embedserve on one core and on all, interleaved

Shapes: ``a`` one query of about 12 tokens, ``b`` ten texts of about 30, ``mix`` 64 texts with
lognormal lengths from 10 to 388 tokens, ``d`` four of 512. Every engine is a process of its own; rounds
are interleaved, so that a change of the machine's speed meets all of them. With one thread tokens/s are
counted in CPU time, so other processes cost little; with more in wall time. The best round counts, and
below the table the median of what the rounds say about embedserve beside the best of the others.
Cosine is to the fp32 NumPy encoder of the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from engines import BUILDERS, OPENERS, missing
from stages import render_profile
from texts import PAIRS, TextSource

from embedserve.embedding.backbones.bundled import open_bundled
from embedserve.embedding.weights import BundledWeights

HERE = Path(__file__).resolve().parent
SHAPES = ("a", "b", "mix", "d")
OPERATIONS_PER_TOKEN = 2 * 12 * (4 * 384 * 384 + 2 * 384 * 1536)
"""The linear layers' multiply-adds, counted twice; attention is not counted."""


@dataclass
class Row:
    contender: str
    shape: str
    threads: int
    tokens_per_s: float
    p50_ms: float
    peak_percent: float | None
    cosine_mean: float
    cosine_min: float
    rss_mb: float
    errors: int = 0


class Worker:
    """An engine in a process of its own."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name = name
        limits = {
            name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "engines.py"), name, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **limits},
        )

    def ask(self, ids: list[list[int]], texts: list[str], *, vectors: bool = False) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"ids": ids, "texts": texts, "vectors": vectors}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(30)


@dataclass
class Work:
    ids: list[list[int]]
    texts: list[str]
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = sum(map(len, self.ids))


def make_shapes(path: Path, quick: bool) -> dict[str, Work]:
    _, tokenizer = open_bundled(threads=1)
    source = TextSource(tokenizer, path)
    lengths = np.clip(np.exp(np.random.default_rng(1).normal(4.1, 0.8, 8 if quick else 64)), 10, 388)
    wanted = {
        "a": [8],
        "b": [26] * 10,
        "mix": [int(n) for n in lengths],
        "d": [508] * (1 if quick else 4),
    }
    shapes = {}
    for shape, sizes in wanted.items():
        texts = ["query: " + source.text(size) for size in sizes]
        ids = [[0, *tokens[:510].tolist(), 2] for tokens in tokenizer.encode_batch(texts)]
        shapes[shape] = Work(ids, texts)
    return shapes


def measure_peak() -> float | None:
    """int8 GOP/s of one core, by benchmarks/peak.c; None without a C compiler or dot instructions."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        subprocess.run([compiler, "-O2", "-march=native", HERE / "peak.c", "-o", program], check=True)
        found = float(subprocess.run([program], check=True, capture_output=True, text=True).stdout)
    return found or None


def start_build(name: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process that converts the weights for one engine."""
    command = [sys.executable, str(HERE / "engines.py"), "build", name, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found: np.ndarray = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


Samples = dict[tuple[str, str], list[dict[str, Any]]]
"""By contender and shape, in the order of the rounds."""


def measure(
    workers: list[Worker], shapes: dict[str, Work], rounds: int, threads: int, peak: float | None
) -> tuple[list[Row], Samples]:
    with tempfile.TemporaryDirectory() as folder:
        reference = Worker("reference", Path(folder), os.cpu_count() or 1)
        truth = {shape: reference.ask(w.ids, w.texts, vectors=True)["vectors"] for shape, w in shapes.items()}
        reference.stop()
    for worker in workers:
        worker.ask(shapes["a"].ids, shapes["a"].texts)
    times: Samples = {}
    vectors: dict[tuple[str, str], np.ndarray] = {}
    for round_number in range(rounds + 1):
        for shape, work in shapes.items():
            for worker in workers:
                first = round_number == 0  # is checked and warms up; only a quick run counts its time, too
                repeats = 1 if first else 10 if shape == "a" else 2
                found = [worker.ask(work.ids, work.texts, vectors=first) for _ in range(repeats)]
                if first:
                    vectors[worker.name, shape] = np.array(found[0]["vectors"])
                if not first or not rounds:
                    times.setdefault((worker.name, shape), []).extend(found)
    rows = []
    for worker in workers:
        for shape, work in shapes.items():
            samples = times[worker.name, shape]
            best = min(sample[clock_of(threads)] for sample in samples)
            rate = work.tokens / best * 1e3
            percent = rate * OPERATIONS_PER_TOKEN / (peak * threads * 1e9) * 100 if peak else None
            close = cosines(vectors[worker.name, shape], np.array(truth[shape]))
            p50 = float(np.median([sample["wall_ms"] for sample in samples]))
            rss = max(sample["rss_mb"] for sample in samples)
            rows.append(
                Row(
                    worker.name,
                    shape,
                    threads,
                    rate,
                    p50,
                    percent,
                    float(close.mean()),
                    float(close.min()),
                    rss,
                )
            )
    return rows, times


def clock_of(threads: int) -> str:
    return "cpu_ms" if threads == 1 else "wall_ms"


def compare(times: Samples, clock: str) -> str:
    """For each shape the best of the others by median, and how many times its speed embedserve has."""
    found = []
    for shape in SHAPES:
        medians = {
            name: float(np.median([sample[clock] for sample in samples]))
            for (name, at), samples in times.items()
            if at == shape
        }
        ours = medians.pop("embedserve", None)
        if ours is None or not medians:
            continue
        best = min(medians, key=lambda name: medians[name])
        pairs = zip(times[best, shape], times["embedserve", shape], strict=True)
        ratio = np.median([theirs[clock] / mine[clock] for theirs, mine in pairs])
        found.append(f"{shape} {ratio:.2f} ({best})")
    return (
        f"embedserve beside the best other, median of interleaved rounds: {', '.join(found)}" if found else ""
    )


def measure_scaling(shapes: dict[str, Work], threads: int, rounds: int = 30) -> str:
    """How much faster ``threads`` threads are than one, in wall time, call by call in turn."""
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker("embedserve", Path(folder), count) for count in (1, threads)]
        lines = [f"| shape | 1 thread, ms | {threads} threads, ms | times as fast |", "|---|---:|---:|---:|"]
        for shape, work in shapes.items():
            walls = np.array(
                [
                    [worker.ask(work.ids, work.texts)["wall_ms"] for worker in workers]
                    for _ in range(rounds + 1)
                ]
            )[1:]
            one, all_threads = np.median(walls, axis=0)
            ratio = np.median(walls[:, 0] / walls[:, 1])
            lines.append(f"| {shape} | {one:.2f} | {all_threads:.2f} | {ratio:.2f} |")
        for worker in workers:
            worker.stop()
    return "\n".join(lines)


def render_table(rows: list[Row]) -> str:
    lines = [
        "| engine | shape | tokens/s | p50 ms | % int8 peak | cosine mean | min | RSS MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: (SHAPES.index(row.shape), -row.tokens_per_s)):
        percent = "" if row.peak_percent is None else f"{row.peak_percent:.0f}"
        lines.append(
            f"| {row.contender} | {row.shape} | {row.tokens_per_s:,.0f} | {row.p50_ms:.2f} | {percent} | "
            f"{row.cosine_mean:.5f} | {row.cosine_min:.5f} | {row.rss_mb:.0f} |"
        )
    return "\n".join(lines)


def name_cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [name for name in OPENERS if name != "reference"]
    parser.add_argument(
        "--contenders", default=",".join(names), help="comma-separated; default: all installed"
    )
    parser.add_argument("--threads", type=int, default=None, help="default: 1")
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: fewer texts, each run once after one query"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="instead: embedserve's time by stage of the network, one thread",
    )
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="instead: embedserve on one thread and on --threads (default: all cores), interleaved",
    )
    parser.add_argument("--texts", type=Path, default=PAIRS, help="JSON lines with query and document")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    options = parser.parse_args()
    asked = options.contenders.split(",")
    if unknown := set(asked) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    absent = {name: why for name in asked if (why := missing(name))}

    weights = BundledWeights()
    peak, shapes = measure_peak(), make_shapes(options.texts, options.quick)
    if options.profile:
        print(render_profile({shape: work.ids for shape, work in shapes.items()}, peak))
        print(f"\n{name_cpu()}, int8 peak {peak or 0:.0f} GOP/s a core.")
        return
    if options.scaling:
        print(measure_scaling(shapes, options.threads or os.cpu_count() or 1))
        print(f"\n{name_cpu()}, median wall time of a call and median of the ratios.")
        return
    threads = options.threads or 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        builds = {
            name: start_build(name, folder) for name in asked if name in BUILDERS and name not in absent
        }
        absent |= {name: "its model could not be built" for name, build in builds.items() if build.wait()}
        workers = [Worker(name, folder, threads) for name in asked if name not in absent]
        try:
            rows, times = measure(workers, shapes, 0 if options.quick else 4, threads, peak)
        finally:
            for worker in workers:
                worker.stop()
    print(render_table(rows))
    print(f"\n{compare(times, clock_of(threads))}\n\n{name_cpu()}, {threads} thread(s), int8 peak ", end="")
    print(f"{peak:.0f} GOP/s a core." if peak else "not measured.", f"Weights: {weights.path.name}.")
    for name, why in absent.items():
        print(f"Absent: {name} ({why}).")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
