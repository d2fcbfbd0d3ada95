"""The C++ core under sanitizers: built with the compilers that are here, its targets run for some seconds.

    python -m fuzz.native_core --seconds 60     # all targets together
    python -m fuzz.native_core --compile        # only: no warning from any compiler, no symbol that strays

With clang the targets of the address sanitizer are led by coverage (libFuzzer); with gcc, and those of the
thread sanitizer, they run on random bytes from a seed that is printed. What finds something ends with status
1; libFuzzer leaves its input in ``fuzz/findings``.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CORE = HERE.parent / "src/embedserve/embedding/backbones/native/core"
FINDINGS = HERE / "findings"
FLAGS = ["-std=c++17", "-pthread", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]
STRICT = ["-Wall", "-Wextra", "-Werror"]
# GCC 12 warns of its own AVX-512 header, whose registers begin undefined.
QUIET = {"g++": ["-Wno-uninitialized", "-Wno-maybe-uninitialized"], "clang++": []}
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1"]
THREAD = ["-fsanitize=thread", "-g1"]
HANGS_AFTER = 180.0
"""Seconds beyond its time in which a program ends, or never will."""
ENVIRONMENT = {
    "ASAN_OPTIONS": "allocator_may_return_null=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


def own_flags(source: Path, machine: str = platform.machine()) -> list[str]:
    """What the first line of a kernels_*.cpp asks of the compiler on its architecture, as for setup.py."""
    asked = re.match(r"// build: (\S+) (.*)", source.read_text(encoding="utf-8"))
    return asked[2].split() if asked and asked[1] == machine else []


def runs_here(source: Path) -> bool:
    """Whether this processor has the instructions that a file of kernels is compiled for."""
    try:
        has = set(Path("/proc/cpuinfo").read_text().replace("_", "").split())
    except OSError:
        return True
    return all(flag.removeprefix("-m") in has for flag in own_flags(source) if not flag.startswith("-march"))


def compile_core(
    compiler: str,
    flags: Iterable[str],
    folder: Path,
    *,
    machine: str = platform.machine(),
    plain: Iterable[Path] = (),
) -> list[Path]:
    """Objects of all files of the core, in ``folder``; two at a time.

    Args:
        plain: files that nobody will run, which are compiled without ``flags``.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        made = folder / f"{source.stem}.o"
        asked = ["-O0"] if source in plain else flags
        command = [compiler, *FLAGS, *asked, *own_flags(source, machine), "-c", str(source), "-o", str(made)]
        subprocess.run(command, check=True)
        return made

    slowest_first = sorted(CORE.glob("*.cpp"), key=lambda path: path.name, reverse=True)
    slowest_first.sort(key=lambda path: not path.name.startswith("kernels_"))
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, slowest_first))


def stray_symbols(objects: Iterable[Path]) -> list[str]:
    """Symbols that a file of kernels lends to other files, beside its table.

    The linker keeps one copy of what two files define alike: code compiled for AVX-512 must not become that
    of a file that runs on any processor.
    """
    found = []
    for made in objects:
        if not made.name.startswith("kernels_"):
            continue
        listed = subprocess.run(
            ["nm", "-C", "--defined-only", "--extern-only", made], check=True, capture_output=True, text=True
        ).stdout
        symbols = [line.split(None, 2)[2] for line in listed.splitlines() if line.strip()]
        found += [f"{made.name}: {name}" for name in symbols if name != f"embedserve::{made.stem}()"]
    return found


@dataclass(frozen=True)
class Target:
    name: str
    sanitizer: list[str]
    link: tuple[str, ...] = ()
    led: bool = True
    """By coverage, where the compiler is clang; else the bytes are random."""


TARGETS = [
    Target("tokenizer", ADDRESS),
    Target("encoder", ADDRESS),
    Target("decoder", ADDRESS),
    Target("memory", ADDRESS, ("-Wl,--wrap=posix_memalign",), led=False),
    Target("threads", THREAD, led=False),
]


def build(target: Target, compiler: str, objects: list[Path], folder: Path) -> tuple[Path, bool]:
    """The program, and whether libFuzzer leads it."""
    led = target.led and compiler == "clang++"
    program = folder / f"{target.name}-{compiler}"
    source = HERE / "core" / f"{target.name}.cpp"
    command = [
        compiler,
        *FLAGS,
        *STRICT,
        *QUIET[compiler],
        "-O1",
        *target.sanitizer,
        f"-I{CORE}",
        str(source),
    ]
    command += ["-fsanitize=fuzzer"] if led else [str(HERE / "core/main.cpp")]
    subprocess.run([*command, *target.link, *map(str, objects), "-o", str(program)], check=True)
    return program, led


def run(target: Target, program: Path, led: bool, seconds: float, seed: int | None) -> bool:
    """Whether it found nothing; what it said is printed if it did."""
    FINDINGS.mkdir(exist_ok=True)
    if led:
        command = [program, f"-max_total_time={max(1, round(seconds))}", "-timeout=60", "-rss_limit_mb=4096"]
        command += ["-max_len=4000", f"-artifact_prefix={FINDINGS}/{target.name}-", "-print_final_stats=1"]
        command += [f"-seed={seed}"] if seed is not None else []
    else:
        command = [program, "--seconds", str(seconds), *(["--seed", str(seed)] if seed is not None else [])]
    if target.sanitizer is THREAD and can_fix_layout():
        command = ["setarch", "-R", *command]
    try:
        ended = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds + HANGS_AFTER,
        )
    except subprocess.TimeoutExpired as hung:
        said = hung.stdout.decode(errors="replace") if isinstance(hung.stdout, bytes) else hung.stdout or ""
        print(f"{program.name} hangs:\n{said[-4000:]}", flush=True)
        return False
    runs = re.findall(r"(?:number_of_executed_units: +|^)(\d+)(?: runs)?$", ended.stdout, re.MULTILINE)
    how = "libFuzzer" if led else "random bytes"
    print(f"  {program.name}: {runs[-1] if runs else '?'} runs ({how})", flush=True)
    if ended.returncode:
        print(ended.stdout[-12_000:])
        print(f"{program.name} found something (status {ended.returncode})", flush=True)
    return ended.returncode == 0


@cache
def can_fix_layout() -> bool:
    """Whether addresses can be kept from being random: the thread sanitizer's map may clash with them."""
    return bool(shutil.which("setarch")) and subprocess.run(["setarch", "-R", "true"]).returncode == 0


@cache
def can_build(compiler: str, *flags: str) -> bool:
    """Whether the libraries that these flags need are here; Debian has clang's in a package apart."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.cpp"
        source.write_text("int main() {}\n")
        command = [compiler, *flags, str(source), "-o", f"{folder}/empty"]
        return subprocess.run(command, capture_output=True).returncode == 0


def choose_compiler(target: Target, compilers: Sequence[str]) -> str | None:
    """clang, whose programs can be led by coverage; for threads gcc, which knows its library's best."""
    preferred = compilers[::-1] if target.sanitizer is THREAD else compilers
    for compiler in preferred:
        if can_build(compiler, *target.sanitizer):
            return compiler
        print(f"SKIPPED: {compiler} has no {target.sanitizer[0]} here, so {target.name} is not built with it")
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--compile", action="store_true", help="strictly, with every compiler, and no more")
    parser.add_argument("targets", nargs="*", help=", ".join(target.name for target in TARGETS))
    chosen = parser.parse_args(arguments)
    compilers = [name for name in ("clang++", "g++") if shutil.which(name)]
    for name in {"clang++", "g++"}.difference(compilers):
        print(f"SKIPPED: no {name}, so the native core is not compiled and not fuzzed with it")
    if not compilers:
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if chosen.compile:
            for compiler in compilers:
                objects = compile_core(compiler, [*STRICT, *QUIET[compiler], "-O3"], folder / compiler)
                if strays := stray_symbols(objects):
                    print(
                        f"{compiler}: kernels define what other files may be linked to:", *strays, sep="\n  "
                    )
                    return 1
                print(f"native core: {len(objects)} files, no warning from {compiler}, no stray symbol")
            return 0
        targets = [target for target in TARGETS if not chosen.targets or target.name in chosen.targets]
        idle = [source for source in CORE.glob("kernels_*.cpp") if not runs_here(source)]
        made: dict[tuple[str, ...], list[Path]] = {}
        programs = []
        for target in targets:
            compiler = choose_compiler(target, compilers)
            if compiler is None:
                continue
            coverage = ["-fsanitize=fuzzer-no-link"] if compiler == "clang++" else []
            flags = ("-O1", *target.sanitizer, *coverage, *QUIET[compiler])
            if flags not in made:
                plain = idle if target.sanitizer is ADDRESS else [*idle, CORE / "kernels_scalar.cpp"]
                made[flags] = compile_core(compiler, flags, folder / str(len(made)), plain=plain)
            programs.append((target, *build(target, compiler, made[flags], folder)))
        share = chosen.seconds / max(1, len(programs))
        results = [run(target, program, led, share, chosen.seed) for target, program, led in programs]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
