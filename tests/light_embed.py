"""``embedserve embed`` with a network that takes no time, or as long as ``SECONDS_PER_TOKEN`` says.

:func:`light_embed` runs it in a process that is forked from one that has imported everything, which takes
milliseconds. Run as a program, this file takes the arguments of ``embedserve``: for tests that need pipes and
signals. ``PART_ROWS`` makes parts small, so that a killed run has some.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from embedserve import Embedder
from embedserve.embedding.backbones.dummy import DummyBackbone
from forked import fork_context
from light_server import WordTokenizer

Done = subprocess.CompletedProcess[bytes]


def light_embedder(*, recipe: Any = "plain", seconds_per_token: float = 0.0) -> Embedder:
    backbone = DummyBackbone(seconds_per_token=seconds_per_token)
    return Embedder(backbone=backbone, tokenizer=WordTokenizer(), recipe="plain")


def command(*arguments: object) -> list[str]:
    """For :mod:`subprocess`."""
    return [sys.executable, str(Path(__file__)), *map(str, arguments)]


def light_embed(*arguments: object, code: int = 0, stdin: bytes = b"", **environment: str) -> Done:
    """Run ``embedserve embed`` to its end, which must be this exit code, without a traceback."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("in", "out", "err")]
        files[0].write_bytes(stdin)
        words = ["embedserve", "embed", *map(str, arguments)]
        process = fork_context().Process(
            target=run_forked, args=(words, environment, Path.cwd(), [str(path) for path in files])
        )
        process.start()
        process.join(120)
        done = Done(words, process.exitcode, files[1].read_bytes(), files[2].read_bytes())
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def run_forked(words: list[str], environment: dict[str, str], folder: Path, files: list[str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    for number, (path, flags) in enumerate(
        zip(files, (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT), strict=True)
    ):
        os.dup2(os.open(path, flags), number)
    sys.stdin = os.fdopen(os.dup(0), "r")
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    sys.argv = words
    run_light()


def run_light() -> None:
    import embedserve.embedding.embedder as engine
    from embedserve.cli import main
    from embedserve.files import groups, run

    if rows := int(os.environ.get("PART_ROWS", "0")):
        groups.GROUP_ROWS = min(groups.GROUP_ROWS, rows)
        run.PART_ROWS = rows
    seconds = float(os.environ.get("SECONDS_PER_TOKEN", "0"))
    engine.Embedder = partial(light_embedder, seconds_per_token=seconds)  # type: ignore[assignment, misc]
    main()


if __name__ == "__main__":
    run_light()
