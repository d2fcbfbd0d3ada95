"""What a run over files shows: progress while it goes on, a summary at the end, and how to go on."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedserve.files.run import Sight
    from embedserve.files.unfinished import Counts


class ProgressLine:
    """A line on a terminal: share of the inputs, rows and tokens a second, time left.

    Args:
        quiet: show nothing; standard error that is no terminal shows nothing either.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._first: tuple[float, Sight] | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        if not self._shown:
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[told]}, done in"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as self._progress:
            self._task = self._progress.add_task("embed", total=None, told="reading")
            yield

    def show(self, sight: Sight) -> None:
        if not self._shown:
            return
        from dataclasses import replace

        now = time.monotonic()
        if self._first is None:
            self._first = now, replace(sight)
        began, first = self._first
        seconds = max(now - began, 1e-3)
        rows, tokens = (sight.read - first.read) / seconds, (sight.tokens - first.tokens) / seconds
        told = f"{sight.read:,} rows, {rows:,.0f} rows/s, {tokens:,.0f} tokens/s"
        total = 1.0 if sight.share else None
        self._progress.update(self._task, total=total, completed=sight.share, told=told)


def summarise(counts: Counts, output: str, errors: str | None, before: Counts, seconds: float) -> str:
    """``99 rows written to out.jsonl, 1 skipped (no text), 0 errors; 1,234 tokens in 1.2 s (…)``."""
    parts = [f"{_count(counts.written, 'row')} written to {output}", f"{counts.skipped:,} skipped (no text)"]
    parts.append(f"{_count(counts.errors, 'error')}" + (f" set aside in {errors}" if errors else ""))
    if counts.cut:
        parts.append(f"{_count(counts.cut, 'text')} cut")
    rows, tokens = counts.written - before.written, counts.tokens - before.tokens
    told = f"{', '.join(parts)}; {_count(counts.tokens, 'token')} in {seconds:.1f} s"
    told += f" ({rows / seconds:,.0f} rows/s, {tokens / seconds:,.0f} tokens/s)"
    return told + (f"; {before.written:,} rows were there before" if before.read else "")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def say(words: str) -> None:
    print(f"embedserve: {words}", file=sys.stderr, flush=True)


def going_on(arguments: Sequence[str]) -> str:
    """The command that goes on: what was typed, with ``--resume``."""
    kept = [word for word in arguments if word not in ("--overwrite", "--resume")]
    at = kept.index("--") if "--" in kept else len(kept)  # behind it there are files only
    return shlex.join([*program(), *kept[:at], "--resume", *kept[at:]])


def program() -> list[str]:
    """How this program was called: by its name alone only where a shell finds the same one under it."""
    called = sys.argv[0]
    if not os.access(called, os.X_OK) or called.endswith(".py"):
        return [sys.executable, called]
    found = shutil.which(os.path.basename(called))
    return [os.path.basename(called) if found and os.path.samefile(found, called) else called]


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second one ends the process at once."""
    stopped = threading.Event()
    signals = [signal.SIGINT, signal.SIGTERM]

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        for each in signals:
            signal.signal(each, signal.SIG_DFL)

    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield stopped
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
