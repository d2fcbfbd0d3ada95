"""All gates that look for what nobody thought of, two at a time; what each found is told at the end.

python -m fuzz --seconds 60                 # a minute each: the native core, then every parser
python -m fuzz --seconds 600 bodies front   # ten minutes each of these
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fuzz.parsers import FORMATTER, NAMES

CORE = "core"


@dataclass(frozen=True)
class Ended:
    name: str
    status: int
    told: str


def run(name: str, seconds: float) -> Ended:
    module = ["fuzz.native_core"] if name == CORE else ["fuzz.parsers", name]
    ended = subprocess.run(
        [sys.executable, "-m", *module, "--seconds", str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    for line in ended.stdout.splitlines():
        if line.startswith(("SKIPPED", "  ")) and (name == CORE or line.startswith("SKIPPED")):
            print(line, flush=True)
    runs = re.findall(r"number_of_executed_units: *(\d+)", ended.stdout)
    if runs and name != CORE:
        print(f"  {name}: {runs[-1]} inputs", flush=True)
    return Ended(name, ended.returncode, ended.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=FORMATTER)
    parser.add_argument("--seconds", type=float, default=60, help="for each; the core's targets share one")
    parser.add_argument("targets", nargs="*", choices=[[], CORE, *NAMES], metavar="TARGET")
    chosen = parser.parse_args()
    strict = 0
    if not chosen.targets or CORE in chosen.targets:
        strict = subprocess.run([sys.executable, "-m", "fuzz.native_core", "--compile"]).returncode
    with ThreadPoolExecutor(2) as pool:
        every = list(pool.map(lambda name: run(name, chosen.seconds), chosen.targets or [CORE, *NAMES]))
    bad = [one for one in every if one.status]
    for one in bad:
        print(f"\n{one.name} found something (status {one.status}):\n{one.told[-8000:]}")
    print(f"{len(every) - len(bad)} of {len(every)} found nothing")
    return 1 if bad or strict else 0


if __name__ == "__main__":
    sys.exit(main())
