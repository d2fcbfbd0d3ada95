"""Every piece of code in README and docs runs as it stands there.

A new block is found by itself. It runs if its language is one of those below, in a folder with the files that
the documents speak of, against a real server; what cannot run is excused by name and with a reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.docs.snippets import ROOT, SHELL, Snippet, find_snippets

from embedserve.accounts.plan import Plan
from embedserve.embedding.models.opening import read_table
from serving import Server

ADDRESS = "http://127.0.0.1:8080"
NODE = ROOT / "tests" / "compat" / "node"
STAND_INS = Path(__file__).parent / "stand_ins" / "commands.py"
EXCUSED = {
    'vectors = load("Qwen/Qwen3-Embedding-0.6B")': "needs a model that was pulled from a hub",
}
"""What a block holds -> why it cannot run here."""

SNIPPETS = find_snippets()


def excuse(snippet: Snippet) -> str | None:
    return next((reason for words, reason in EXCUSED.items() if words in snippet.text), None)


@dataclass(frozen=True)
class Desk:
    """A reader's folder, beside a server."""

    server: Server
    folder: Path
    stand_ins: dict[str, str]

    def fill_in(self, program: str) -> str:
        """The program with what a reader puts in for himself."""
        for shown, real in {ADDRESS: self.server.url, **self.stand_ins}.items():
            program = program.replace(shown, real)
        return program

    def run(self, *command: str | Path) -> str:
        environment = {**os.environ, "COLUMNS": "200", "EMBEDSERVE_DATA_DIR": str(self.server.data_dir)}
        environment["EMBEDSERVE_URL"] = self.server.url
        environment |= dict.fromkeys(("DASHSCOPE_API_KEY", "OPENAI_API_KEY"), self.server.key)
        folders = [self.folder / "bin", Path(sys.executable).parent, environment["PATH"]]
        environment["PATH"] = os.pathsep.join(map(str, folders))
        done = subprocess.run(command, capture_output=True, env=environment, cwd=self.folder, timeout=200)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


@pytest.fixture(scope="module")
def desk(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    write_files(folder)
    (folder / "bin").mkdir()
    for name in ("pip", "npm", "make", "python", "embedserve"):
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_INS}" {name} "$@"\n')
        command.chmod(0o755)
    return Desk(server, folder, make_stand_ins(server) | {"/backups/": f"{folder}/"})


def write_files(folder: Path) -> None:
    """Files by the names that the documents give them."""
    texts = ["The quality of the clothes is excellent", "衣服的质量杠杠的", "Where can I return a parcel?"]
    (folder / "notes.txt").write_text("\n".join(texts), "utf-8")
    rows = [{"id": i, "title": f"title {i}", "text": text, "body": text} for i, text in enumerate(texts)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    requests = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/embeddings"}
        | {"body": {"model": "text-embedding-v4", "input": text}}
        for i, text in enumerate(texts)
    ]
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in requests))
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        return
    parquet.write_table(pa.Table.from_pylist(rows), folder / "texts.parquet")


def make_stand_ins(server: Server) -> dict[str, str]:
    """What the documents show -> something of its kind that is there."""
    command = [sys.executable, "-m", "embedserve", "keys"]
    folder = ["--data-dir", str(server.data_dir)]
    subprocess.run([*command, "create", "--name", "documents", *folder], check=True, capture_output=True)
    listed = subprocess.run([*command, "list", "--json", *folder], check=True, capture_output=True)
    found = re.findall(r"key_[0-9a-f]{16}", listed.stdout.decode())
    files = {"file": ("in.txt", b"one\ntwo\n")}
    made = httpx.post(
        f"{server.openai_url}/files", files=files, data={"purpose": "batch"}, headers=server.headers
    )
    return {"key_0123456789abcdef": found[-1], "file-batch-…": made.json()["id"]}


@pytest.mark.quick
def test_every_block_says_what_it_is_and_no_excuse_is_stale() -> None:
    unnamed = [str(snippet) for snippet in SNIPPETS if not snippet.language]
    assert not unnamed, "name the language of these, or `text` for what nobody runs"
    unknown = [str(s) for s in SNIPPETS if s.language not in RUNNERS and not excuse(s)]
    assert not unknown, "nothing here runs these: add a runner, or an excuse with its reason"
    told = "\n".join(snippet.text for snippet in SNIPPETS)
    assert not [words for words in EXCUSED if words not in told]
    assert len(SNIPPETS) > 20
    assert len(EXCUSED) < 8


def shell(desk: Desk, snippet: Snippet) -> None:
    printed = desk.run("bash", "-euo", "pipefail", "-c", desk.fill_in(snippet.program))
    assert '"error":{' not in printed
    if "curl" in snippet.text:
        assert printed


def python(desk: Desk, snippet: Snippet) -> None:
    program = desk.folder / "program.py"
    program.write_text(desk.fill_in(snippet.program), "utf-8")
    assert desk.run(sys.executable, program).strip() or "print(" not in snippet.text


def javascript(desk: Desk, snippet: Snippet) -> None:
    if shutil.which("node") is None or not (NODE / "node_modules" / "openai").is_dir():
        pytest.skip("needs node and its openai package (make test installs it)")
    program = NODE / f"snippet-{snippet.line}.mjs"  # beside node_modules, where node looks
    program.write_text(desk.fill_in(snippet.program), "utf-8")
    try:
        assert desk.run("node", program).strip() or "console.log" not in snippet.text
    finally:
        program.unlink()


def java(desk: Desk, snippet: Snippet) -> None:
    if shutil.which("java") is None:
        pytest.skip("needs java")
    named = re.search(r"^(?:public )?class (\w+)", snippet.text, re.M)
    program = desk.folder / f"{named[1] if named else 'Program'}.java"
    program.write_text(desk.fill_in(snippet.program), "utf-8")
    assert desk.run("java", program).strip()


def toml(desk: Desk, snippet: Snippet) -> None:
    """As what it is: a table of models, or a plan of limits and prices."""
    if "models" in tomllib.loads(snippet.text) and "[models]" in snippet.text:
        (desk.folder / "models.toml").write_text(snippet.text, "utf-8")
        assert read_table(desk.folder)
    else:
        (desk.folder / "plan.toml").write_text(snippet.text, "utf-8")
        assert Plan.read(desk.folder / "plan.toml")


def as_json(desk: Desk, snippet: Snippet) -> None:
    assert json.loads(snippet.text)


def as_text(desk: Desk, snippet: Snippet) -> None:
    """A figure, an output, a formula: nobody runs it, so it must not hold what somebody would."""
    assert not re.search(r"^(\$ |embedserve |curl |pip install |npm |make )", snippet.text, re.M)


RUNNERS = {
    **dict.fromkeys(SHELL, shell),
    "python": python,
    "javascript": javascript,
    "java": java,
    "toml": toml,
    "json": as_json,
    "text": as_text,
}


@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if s.language in RUNNERS], ids=str)
def test_it_runs(snippet: Snippet, desk: Desk) -> None:
    if reason := excuse(snippet):
        pytest.skip(reason)
    RUNNERS[snippet.language](desk, snippet)
