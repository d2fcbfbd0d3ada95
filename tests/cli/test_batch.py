"""``embedserve batch`` against a real server, and ``embedserve embed --resume`` after a kill."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedserve import Embedder
from serving import Server

parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `parquet`")


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
    said = run("batch", "wait", id, "-o", tmp_path / "out", server=server)
    assert "1 of 2 lines failed" in said.stderr
    assert run("batch", "status", id, server=server).stdout.split("\t")[:5] == [
        id,
        "completed",
        "1",
        "1",
        "2",
    ]
    assert id in run("batch", "status", server=server).stdout
    assert run("batch", "results", id, server=server).stdout == (tmp_path / "out").read_text()
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
    from embedserve.cli import batch

    monkeypatch.setattr(batch, "MAX_LINES", 2)
    path = write_table(tmp_path, ".txt", ["a", "b", "", "c", "d", "e"])
    sizes = [
        len(made.read_bytes().splitlines())
        for made in batch.input_files(str(path), None, "text-embedding-v4", None)
    ]
    assert sizes == [2, 2, 1]


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


@pytest.mark.parametrize("format", ["jsonl", "parquet", "arrow"])
def test_a_killed_run_is_resumed_to_the_same_file(
    tmp_path: Path, format: str, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run in this process; a killed one, and its resumption, as the user has them."""
    from embedserve.cli import embed, writers

    rows = 600
    path = write_table(tmp_path, ".txt", ["" if i % 7 == 3 else f"row {i}" for i in range(rows)])
    whole, killed = tmp_path / f"whole.{format}", tmp_path / f"killed.{format}"
    program = (
        "import sys; from embedserve.cli import embed, main, writers; embed.GROUP = 32;"
        "writers.TableWriter.GROUP_ROWS = 64; main()"
    )
    options = ["--format", format, "--dimension", "64"]
    command = [sys.executable, "-c", program, "embed", str(path), *options, "-o", str(killed)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    progress = killed if format == "jsonl" else tmp_path / f"killed.{format}.parts"
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        size = progress.stat().st_size if progress.is_file() else len(list(progress.glob("*.parquet")))
        if size:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    interrupted = format == "jsonl" or not killed.exists()
    if interrupted:
        subprocess.run([*command, "--resume"], check=True, stderr=subprocess.DEVNULL, timeout=120)
    monkeypatch.setattr(embed, "GROUP", 32)
    monkeypatch.setattr(writers.TableWriter, "GROUP_ROWS", 64)
    run("embed", path, *options, "-o", whole)
    assert not progress.is_dir()
    if format == "jsonl":
        assert killed.read_bytes() == whole.read_bytes()
    else:
        assert read_table(killed).equals(read_table(whole))
    indices = [i for i in range(rows) if i % 7 != 3]
    if format == "parquet":
        table = read_table(killed)
        assert table.column("index").to_pylist() == indices
        first = np.array(table.column("embedding")[0].as_py(), np.float32)
        assert np.array_equal(first, embedder.embed("row 0", dimension=64).dense[0])


def read_table(path: Path):  # type: ignore[no-untyped-def]
    import pyarrow

    if path.suffix == ".arrow":
        return pyarrow.ipc.open_file(path).read_all()
    return parquet.read_table(path)


def test_resuming_checks_what_is_there(tmp_path: Path) -> None:
    path = write_table(tmp_path, ".txt", ["a", "b"])
    output = tmp_path / "out.jsonl"
    run("embed", path, "--dimension", 64, "-o", output)
    whole = output.read_bytes()
    output.write_bytes(whole[:-5])  # the last line is not whole
    assert (
        "begun with other options"
        in run("embed", path, "--dimension", 128, "-o", output, "--resume", code=2).stderr
    )
    run("embed", path, "--dimension", 64, "-o", output, "--resume")
    assert output.read_bytes() == whole
    output.write_text("something else\n")
    assert "not an output" in run("embed", path, "-o", output, "--resume", code=2).stderr
    assert "needs a file" in run("embed", path, "--resume", code=2).stderr
    assert (
        "line numbers"
        in run("embed", path, "--format", "npy", "-o", tmp_path / "x.npy", "--resume", code=2).stderr
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_embed_reads_tables(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path, suffix, TEXTS)
    done = run("embed", path, "--column", "said", "--dimension", 64)
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == [0, 1, 3]
