"""From the start of the process to the first vector, memory at rest and after work, and size on disk.

    python benchmarks/start.py [--starts 5] [--seconds 6] [--json FILE]

`fresh` has an empty data directory (tables are made, a key is adopted), `again` one that was used before.
Time counts from the launch of the process to the reply of the first request over HTTP; requests are tried
every 5 ms. One start is made beforehand and not counted: it compiles the sources, as an installer does.
Processor time is the process's own until that reply: with two free cores less of it passes on the clock.

Memory is what Linux counts as resident (mapped pages of the weights file included) after the first vector,
and after eight clients have sent first a mix of texts, then bulk, for so many seconds each. Disk: the files
of embedserve and of everything that `pip install embedserve` brings with it, for this Python.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from contenders import Contender, all_contenders
from load import closed_loop
from texts import TextSource

import embedserve
from embedserve.embedding.embedder import Embedder

MB = 2**20


@dataclass
class Figures:
    """Medians; times in milliseconds, sizes in MiB."""

    fresh_ms: float
    fresh_cpu_ms: float
    again_ms: float
    again_cpu_ms: float
    rest_mb: float
    loaded_mb: float
    installed_mb: float
    weights_mb: float
    package_mb: float
    packages: int


def time_start(server: Contender, folder: Path) -> tuple[float, float]:
    """Milliseconds on the clock and on the processor to the first vector; the server is stopped again."""
    server.start(folder)
    try:
        return server.start_ms, server.cpu_seconds * 1000
    finally:
        server.stop()


def measure_memory(server: Contender, folder: Path, seconds: float) -> tuple[float, float]:
    """Resident MiB after the first vector, and after work."""
    embedder = Embedder()
    source = TextSource(embedder.tokenizer)
    loads = [[server.call(texts, 0) for texts in source.requests(shape, 100)] for shape in ("mix", "long")]
    embedder.close()
    server.start(folder)
    try:
        rest = server.rss_mb
        for calls in loads:
            samples = asyncio.run(closed_loop(server.port, calls, 8, seconds))
            if samples.errors:
                raise SystemExit(f"{samples.errors} requests failed")
        return rest, server.rss_mb
    finally:
        server.stop()


def find_installed(name: str) -> dict[str, Distribution]:
    """A distribution and all that it needs on this machine without extras, by name."""
    found: dict[str, Distribution] = {}
    queue = [name]
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another platform or Python
            continue
        for line in found[name].requires or []:
            if "extra ==" not in line:
                queue.append(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0])
    return found


def size_of(paths: list[Path]) -> float:
    """In MiB; what is not there counts as nothing."""
    return sum(path.stat().st_size for path in paths if path.is_file()) / MB


def measure_disk() -> tuple[float, float, float, int]:
    """MiB of everything, of the weights alone and of embedserve itself; number of distributions."""
    package = Path(embedserve.__file__).parent
    own = size_of(list(package.rglob("*")))  # not by its list of files: an editable install has none
    found = find_installed("embedserve")
    total, weights = own, 0.0
    for name, installed in found.items():
        if name == "embedserve":
            continue
        files = [Path(str(installed.locate_file(file))) for file in installed.files or []]
        total += size_of(files)
        weights += size_of([file for file in files if file.suffix == ".bin"])
    return total, weights, own, len(found)


def measure(starts: int, seconds: float) -> Figures:
    server = all_contenders({})["embedserve"]
    fresh, again = [], []
    with tempfile.TemporaryDirectory(prefix="embedserve-benchmark-") as scratch:
        folder = Path(scratch)
        time_start(server, folder)
        for _ in range(starts):
            shutil.rmtree(folder / "data")
            fresh.append(time_start(server, folder))
            again.append(time_start(server, folder))
        rest, loaded = measure_memory(server, folder, seconds)
    (fresh_ms, fresh_cpu), (again_ms, again_cpu) = (
        [statistics.median(column) for column in zip(*rows, strict=True)] for rows in (fresh, again)
    )
    return Figures(fresh_ms, fresh_cpu, again_ms, again_cpu, rest, loaded, *measure_disk())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load before memory is read")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = measure(options.starts, options.seconds)
    print(f"{os.cpu_count()} cores, medians of {options.starts} starts\n")
    print("| what | figure |\n|---|---:|")
    print(f"| first vector, fresh data directory | {figures.fresh_ms:.0f} ms |")
    print(f"| its processor time | {figures.fresh_cpu_ms:.0f} ms |")
    print(f"| first vector, started before | {figures.again_ms:.0f} ms |")
    print(f"| its processor time | {figures.again_cpu_ms:.0f} ms |")
    print(f"| resident after the first vector | {figures.rest_mb:.0f} MB |")
    print(f"| resident after work | {figures.loaded_mb:.0f} MB |")
    print(f"| on disk, {figures.packages} distributions | {figures.installed_mb:.0f} MB |")
    print(f"| of which the weights | {figures.weights_mb:.0f} MB |")
    print(f"| of which embedserve | {figures.package_mb:.1f} MB |")
    if options.json:
        options.json.write_text(json.dumps(asdict(figures), indent=1) + "\n")


if __name__ == "__main__":
    main()
