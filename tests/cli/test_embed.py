"""``embedserve embed``: files of lines to files of vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedserve import Embedder
from embedserve.embedding.quantisation import binary_scores, from_int8, int8_scores, to_binary, to_int8

LINES = ["first line", "", "第三行", "  ", "last line without an end"]


def embed(*arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "embedserve", "embed", *arguments]
    return subprocess.run(command, capture_output=True, input=stdin, timeout=120)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_bytes(("\ufeff" + "\r\n".join(LINES)).encode())
    return path


def test_json_lines_keep_the_number_of_the_line(notes: Path, embedder: Embedder) -> None:
    done = embed(notes, "--dimension", "64", "--text-type", "document", "--output-type", "dense&sparse")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["index"] for row in rows] == [0, 2, 4]
    mine = embedder.embed(
        [LINES[0], LINES[2], LINES[4]], dimension=64, text_type="document", output_type="dense&sparse"
    )
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), mine.dense)
    assert [row["sparse_tokens"] for row in rows] == [list(sparse.tokens) for sparse in mine.sparse]
    assert sum(row["tokens"] for row in rows) == mine.tokens


def test_standard_input(embedder: Embedder) -> None:
    done = embed("-", "--dimension", "64", stdin=b"one\ntwo\n")
    rows = [json.loads(line)["embedding"] for line in done.stdout.splitlines()]
    assert np.array_equal(np.array(rows, np.float32), embedder.embed(["one", "two"], dimension=64).dense)


def test_an_npy_matrix(tmp_path: Path, embedder: Embedder) -> None:
    texts = [f"line {n}" for n in range(300)]
    source, target = tmp_path / "lines.txt", tmp_path / "lines.npy"
    source.write_text("\n".join(texts))
    done = embed(source, "--format", "npy", "--output", target, "--dimension", "128")
    assert done.returncode == 0, done.stderr
    matrix = np.load(target)
    assert (matrix.shape, matrix.dtype) == ((300, 128), np.float32)
    assert np.array_equal(matrix[:5], embedder.embed(texts[:5], dimension=128).dense)


def test_parquet(notes: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "notes.parquet"
    done = embed(notes, "--format", "parquet", "-o", target, "--output-type", "dense&sparse")
    assert done.returncode == 0, done.stderr
    table = parquet.read_table(target)
    assert table.column("index").to_pylist() == [0, 2, 4]
    assert {len(row) for row in table.column("embedding").to_pylist()} == {1024}
    assert table.column("sparse_tokens").to_pylist()[0]


@pytest.mark.parametrize("format", ["jsonl", "npy", "parquet"])
def test_int8_and_binary_find_what_floats_find(format: str, tmp_path: Path, embedder: Embedder) -> None:
    texts = [
        "The moon moves the tides.",
        "Cats sleep most of the day.",
        "Bread rises because yeast makes gas.",
    ]
    source = tmp_path / "lines.txt"
    source.write_text("\n".join(texts))
    plain = embedder.embed(texts, text_type="document", dimension=512).dense
    asked = embedder.embed("what causes tides", dimension=512).dense
    found = {}
    for encoding in ("int8", "binary"):
        target = tmp_path / f"{encoding}.{format}"
        arguments = ("--encoding", encoding, "--dimension", "512", "--text-type", "document")
        done = embed(source, *arguments, "--format", format, "-o", target)
        assert done.returncode == 0, done.stderr
        found[encoding] = read_codes(target, format)
    codes, scales = found["int8"]
    if scales is not None:  # a bare matrix has no room for them
        assert from_int8(codes, scales) == pytest.approx(plain, abs=0.005)
    assert int8_scores(to_int8(asked)[0], codes).argmax() == 0
    bits, _ = found["binary"]
    assert bits.shape == (3, 64)
    assert binary_scores(to_binary(asked), bits, 512).argmax() == 0


def read_codes(path: Path, format: str) -> tuple[Any, Any]:
    if format == "npy":
        return np.load(path), None
    if format == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    codes = np.array([row["embedding"] for row in rows], np.int8 if "scale" in rows[0] else np.uint8)
    return codes, np.array([row["scale"] for row in rows], np.float32) if "scale" in rows[0] else None


def test_nothing_in_nothing_out(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    done = embed(empty)
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (b"fine\n\xff\xfe bad\n", (), "line 2 is not UTF-8"),
        (b"one\n", ("--format", "npy"), "add --output FILE.npy"),
        (b"one\n", ("--format", "npy", "--output-type", "sparse", "-o", "out.npy"), "dense vectors only"),
        (b"word " * 9000, (), "Range of input length should be [1, 8192]"),
        (b"one\n", ("--recipe", "magic"), "recipe is 'magic'"),
        (b"one\n", ("-o", "no/such/folder/out.jsonl"), "cannot write"),
        (None, (), "cannot read"),
    ],
    ids=["bad bytes", "npy to stdout", "sparse npy", "too long", "recipe", "output", "input"],
)
def test_a_refusal_is_one_line(
    content: bytes | None, arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    source = tmp_path / "lines.txt"
    if content is not None:
        source.write_bytes(content)
    places = tuple(str(tmp_path / word) if word.startswith("out.") else word for word in arguments)
    done = embed(source, *places)
    told = done.stderr.decode().strip().splitlines()
    assert done.returncode == 2
    assert words in told[-1]
    assert "Traceback" not in done.stderr.decode()
