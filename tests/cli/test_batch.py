"""``embedserve batch`` against a real server."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedserve.cli import batch_input
from embedserve.files.reader import Reading
from embedserve.files.rows import Columns
from embedserve.files.sources import find_sources
from serving import Server

parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `parquet`")


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where submitted rows are remembered."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def run(*arguments: object, server: Server | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedserve", *map(str, arguments)]
    if server:
        command += ["--url", server.url, "--key", server.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def write_table(folder: Path, suffix: str, texts: list[str]) -> Path:
    import pyarrow

    path = folder / f"rows{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "said"])
            writer.writerows(enumerate(texts))
    elif suffix == ".parquet":
        parquet.write_table(pyarrow.table({"id": list(range(len(texts))), "said": texts}), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": i, "said": text}) + "\n" for i, text in enumerate(texts)))
    else:
        path.write_text("\n".join(texts), encoding="utf-8")
    return path


TEXTS = ["一行", "two, with a comma", "", "four"]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet"])
def test_submit_waits_and_gives_the_results(server: Server, tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path, suffix, TEXTS)
    column = [] if suffix == ".txt" else ["--column", "said"]
    run("batch", "submit", path, *column, "--dimension", 64, "--wait", "-o", tmp_path / "out", server=server)
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == ["0", "1", "3"]
    asked = server.openai({"model": "text-embedding-v4", "input": "two, with a comma", "dimensions": 64})
    assert lines[1]["response"]["body"]["data"] == asked.json()["data"]


def test_submit_status_results_cancel(server: Server, tmp_path: Path) -> None:
    path = write_table(tmp_path, ".txt", ["one", "x" * 60_000])
    id = run("batch", "submit", path, "--name", "a name", server=server).stdout.strip()
    said = run("batch", "wait", id, "-o", tmp_path / "out", server=server, code=1)
    assert "1 of 2 lines failed" in said.stderr
    assert run("batch", "status", id, server=server).stdout.split("\t")[:5] == [
        id,
        "completed",
        "1",
        "1",
        "2",
    ]
    assert id in run("batch", "status", server=server).stdout
    assert run("batch", "results", id, server=server, code=1).stdout == (tmp_path / "out").read_text()
    errors = run("batch", "results", id, "--errors", server=server).stdout
    assert json.loads(errors)["custom_id"] == "1"
    assert "Cannot cancel" in run("batch", "cancel", id, server=server, code=2).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_waiting_shows_progress_on_a_terminal(server: Server, tmp_path: Path) -> None:
    import pty

    path = write_table(tmp_path, ".txt", [f"line {i}" for i in range(600)])
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "embedserve", "batch", "submit", path, "--dimension", "64", "--wait"]
    command += ["-o", tmp_path / "out", "--url", server.url, "--key", server.key]
    with subprocess.Popen(
        command, stderr=theirs, env=os.environ | {"COLUMNS": "160", "NO_COLOR": "1"}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:  # how Linux says that the other end was closed
            pass
    os.close(ours)
    assert process.returncode == 0
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)
    assert b"/600 lines, " in plain
    assert b" a second, done in " in plain
    assert len((tmp_path / "out").read_bytes().splitlines()) == 600


def test_ready_requests_go_as_they_are(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    body = {"model": "text-embedding-v3", "input": ["a", "b"], "dimensions": 64}
    request = {"custom_id": "mine", "method": "POST", "url": "/v1/embeddings", "body": body}
    path.write_text(json.dumps(request) + "\n")
    done = run("batch", "submit", path, "--wait", server=server)
    assert json.loads(done.stdout)["custom_id"] == "mine"
    path.write_text(json.dumps(request | {"method": "GET"}))
    failed = run("batch", "submit", path, "--wait", server=server, code=2)
    assert "(line 1)" in failed.stderr


def test_more_rows_become_more_batches(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_input, "MAX_LINES", 2)
    path = write_table(tmp_path, ".txt", ["a", "b", "", "c", "d", "e"])
    sources = find_sources([str(path)]).sources
    made = batch_input.input_files(sources, Columns(), Reading(), batch_input.Asked())
    assert [len(file.read_bytes().splitlines()) for file, _ in made] == [2, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "nowhere.txt"), "cannot read nowhere.txt"),
        (("status", "batch_none"), "No such batch"),
        (("submit", "empty.txt"), "has no text"),
        (("submit", "table.csv", "--column", "nothing"), "choose one of id, said"),
    ],
)
def test_refusals_are_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    write_table(tmp_path, ".csv", TEXTS).rename(tmp_path / "table.csv")
    said = run("batch", *arguments, server=server, code=2).stderr
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_embed_reads_tables(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path, suffix, TEXTS)
    done = run("embed", path, "--column", "said", "--dimension", 64)
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == [0, 1, 3]


KEPT = [{"id": 7, "text": "a", "n": 1.5}, {"id": 8, "text": None, "n": 2}, {"id": 9, "text": "c", "n": None}]


def write_kept(folder: Path) -> Path:
    path = folder / "kept.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in KEPT))
    return path


@pytest.mark.parametrize("form", ["jsonl", "npy", "parquet"])
def test_results_carry_the_callers_ids_and_columns(server: Server, tmp_path: Path, form: str) -> None:
    path, out = write_kept(tmp_path), tmp_path / f"out.{form}"
    said = run("batch", "submit", path, "--id", "id", "--keep", "n", "--dimension", 64, server=server)
    assert "2 rows submitted, 1 skipped (no text)" in said.stderr
    run("batch", "wait", said.stdout.strip(), "-o", out, server=server)
    plain = run("embed", path, "--id", "id", "--keep", "n", "--dimension", 64).stdout
    wanted = [json.loads(line) for line in plain.splitlines()]
    vectors = np.array([row.pop("embedding") for row in wanted], np.float32)
    if form == "jsonl":
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["custom_id"] for line in lines] == ["7", "9"]
        assert [line["row"] for line in lines] == [
            {name: row[name] for name in ("index", "id", "n")} for row in wanted
        ]
        return
    if form == "npy":
        found = [json.loads(line) for line in (tmp_path / "out.npy.rows.jsonl").read_text().splitlines()]
        assert np.array_equal(np.load(out), vectors)
    else:
        found = parquet.read_table(out).to_pylist()
        assert np.array_equal(np.array([row.pop("embedding") for row in found], np.float32), vectors)
    assert found == wanted


def test_results_of_requests_as_a_table(server: Server, tmp_path: Path) -> None:
    body = {"model": "text-embedding-v4", "input": ["a", "b"], "dimensions": 64}
    request = {"custom_id": "mine", "method": "POST", "url": "/v1/embeddings", "body": body}
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(request) + "\n")
    run("batch", "submit", path, "--wait", "-o", tmp_path / "out.parquet", server=server)
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["custom_id"], row["text_index"]) for row in found] == [("mine", 0), ("mine", 1)]
    asked = server.openai(body).json()["data"]
    assert [row["embedding"] for row in found] == [
        np.array(item["embedding"], np.float32).tolist() for item in asked
    ]


@pytest.mark.parametrize("case", ["mark", "blank", "capitals", "packed", "utf-16"])
def test_requests_are_known_for_what_they_are(server: Server, tmp_path: Path, case: str) -> None:
    body = {"model": "text-embedding-v4", "input": "衣服", "dimensions": 64}
    request = {"custom_id": "mine", "method": "POST", "url": "/v1/embeddings", "body": body}
    line = json.dumps(request, ensure_ascii=False) + "\n"
    name, data = {
        "mark": ("in.jsonl", line.encode("utf-8-sig")),
        "blank": ("in.jsonl", b"\n \n" + line.encode()),
        "capitals": ("IN.JSONL", line.encode()),
        "packed": ("in.jsonl.gz", gzip.compress(line.encode())),
        "utf-16": ("in.jsonl", line.encode("utf-16")),
    }[case]
    (tmp_path / name).write_bytes(data)
    done = run("batch", "submit", tmp_path / name, "--wait", server=server)
    assert json.loads(done.stdout)["custom_id"] == "mine"


def test_failing_lines_are_exit_code_1(server: Server, tmp_path: Path) -> None:
    path = write_table(tmp_path, ".txt", ["x " * 30_000, "y " * 30_000])
    done = run("batch", "submit", path, "--wait", "-o", tmp_path / "out.jsonl", server=server, code=1)
    assert "2 of 2 lines failed" in done.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    path = write_table(tmp_path, ".txt", ["fine"])
    assert run("batch", "submit", path, "--wait", "-o", path, server=server, code=2).stderr.count(
        "is the input"
    )
    assert path.read_text() == "fine"
    rows = tmp_path / "rows.jsonl"
    rows.write_text('"a"\n{"text": 3}\n"b"\n')
    said = run("batch", "submit", rows, server=server, code=2).stderr
    assert "rows.jsonl: line 2 has a number under 'text'" in said
    bad = tmp_path / "bad.jsonl"
    done = run("batch", "submit", rows, "--skip-errors", bad, "--wait", server=server)
    assert [json.loads(line)["custom_id"] for line in done.stdout.splitlines()] == ["0", "2"]
    assert json.loads(bad.read_text())["place"] == "line 2"
    rows.write_text('{"text": "a", "id": 1}\n{"text": "b", "id": 1}\n')
    said = run("batch", "submit", rows, "--id", "id", server=server, code=2).stderr
    assert "line 2 has the id '1' of a row before it" in said
