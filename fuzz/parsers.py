"""One target led by coverage (atheris), or without it on mutations of its seeds.

    python -m fuzz.parsers bodies --seconds 60
    python -m fuzz.parsers bodies fuzz/findings/bodies-crash-…      # look at one again

A target is a module of ``fuzz/targets`` with SEEDS and ``check(data)``, which raises what should not be.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import pkgutil
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType

from fuzz import targets

FINDINGS = Path(__file__).parent / "findings"
FORMATTER = argparse.RawDescriptionHelpFormatter
TROUBLE = (b"\xff", b"\r\n", b"\0", b'"', b"{", b"\\ud800", b"-1", b"9" * 20)
NAMES = sorted(module.name for module in pkgutil.iter_modules(targets.__path__))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"fuzz.targets.{name}")


def mutations(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Seeds with bytes changed, cut, doubled and mixed, for ever."""
    dice = random.Random(seed)
    while True:
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 6)):
            at = dice.randint(0, len(data))
            match dice.randrange(5):
                case 0:
                    data[at : at + 1] = bytes([dice.randrange(256)])
                case 1:
                    del data[at : at + dice.randint(1, 20)]
                case 2:
                    data[at:at] = data[at : at + dice.randint(1, 40)] * dice.randint(1, 3)
                case 3:
                    other = dice.choice(seeds)
                    begin = dice.randint(0, len(other))
                    data[at:at] = other[begin : begin + dice.randint(1, 40)]
                case 4:
                    data[at:at] = dice.choice(TROUBLE)
        yield bytes(data)


def led_by_coverage(name: str, seconds: float, seed: int | None) -> None:
    """Does not return: libFuzzer ends the process, with a status that is not 0 if it found something."""
    import atheris

    with atheris.instrument_imports(include=["embedserve", "python_multipart"]):
        target = load(name)
    FINDINGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="embedserve-fuzz-") as corpus:
        for i, data in enumerate(target.SEEDS):
            (Path(corpus) / f"seed-{i}").write_bytes(data)
        options = [f"-max_total_time={max(1, round(seconds))}", "-timeout=10", "-rss_limit_mb=768"]
        options += [
            "-max_len=8192",
            f"-artifact_prefix={FINDINGS}/{name}-",
            "-print_final_stats=1",
            "-verbosity=0",
        ]
        options += [] if seed is None else [f"-seed={seed}"]
        atheris.Setup([sys.argv[0], corpus, *options], target.check, enable_python_coverage=True)
        atheris.Fuzz()


def at_random(check: Callable[[bytes], None], seeds: Sequence[bytes], seconds: float, seed: int) -> int:
    """How many inputs were checked: the seeds, and mutations of them until the time is over."""
    end, runs = time.monotonic() + seconds, 0
    for runs, data in enumerate(chain(seeds, mutations(seeds, seed))):
        if time.monotonic() > end and runs >= len(seeds):
            break
        try:
            check(data)
        except BaseException:
            FINDINGS.mkdir(exist_ok=True)
            (FINDINGS / "random-input").write_bytes(data)
            raise
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("inputs", nargs="*", type=Path, help="to be looked at again")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)  # refusals are told to callers, not to us
    if chosen.inputs:
        check = load(chosen.target).check
        for path in chosen.inputs:
            check(path.read_bytes())
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        print(f"SKIPPED: no atheris for this Python, so {chosen.target} runs on mutations of its seeds only")
        target = load(chosen.target)
        runs = at_random(target.check, target.SEEDS, chosen.seconds, chosen.seed or random.randrange(2**32))
        print(f"number_of_executed_units: {runs}")
        return 0
    led_by_coverage(chosen.target, chosen.seconds, chosen.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
