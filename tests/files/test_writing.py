"""Every output form carries vectors, ids and kept columns, or refuses what it cannot."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedserve import Embedder
from embedserve.embedding.quantisation import from_int8
from light_embed import light_embed

FORMS = ["jsonl", "jsonl.gz", "jsonl.zst", "npy", "npz", "parquet", "arrow"]
ROWS = [
    {"text": "one", "key": "a", "n": 1, "tags": ["x", "y"], "when": {"year": 2024}},
    {"text": None, "key": "b", "n": 2, "tags": [], "when": None},
    {"text": "three words here", "key": "c", "n": 2.5, "tags": None, "when": {"year": 2025}},
]
CARRIED = [{"id": row["key"], "n": row["n"], "tags": row["tags"], "when": row["when"]} for row in ROWS]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of an output, whatever its form, as the same objects."""
    if ".jsonl" in path.name:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        if path.suffix == ".zst":
            pyarrow = pytest.importorskip("pyarrow")
            data = pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd").read()
        return [json.loads(line) for line in data.splitlines()]
    if path.suffix in (".parquet", ".arrow"):
        return list(table(path).to_pylist())
    sidecar = [json.loads(line) for line in Path(f"{path}.rows.jsonl").read_text().splitlines()]
    dense = np.load(path)
    if path.suffix == ".npz":
        assert dense["index"].tolist() == [row["index"] for row in sidecar]
        assert dense["tokens"].tolist() == [row["tokens"] for row in sidecar]
        dense = dense["dense"]
    return [row | {"embedding": vector.tolist()} for row, vector in zip(sidecar, dense, strict=True)]


def table(path: Path) -> Any:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet as parquet

    return parquet.read_table(path) if path.suffix == ".parquet" else pyarrow.ipc.open_file(path).read_all()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_carries_ids_and_kept_columns(rows: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"out.{form}"
    done = light_embed(rows, "-o", out, "--dimension", 8, "--id", "key", "--keep", "n,tags,when")
    assert b"2 rows written to" in done.stderr
    assert b"1 skipped" in done.stderr
    found = load(out)
    whole = light_embed(rows, "--dimension", 8, "--id", "key", "--keep", "n,tags,when").stdout
    plain = [json.loads(line) for line in whole.splitlines()]
    assert [{name: row[name] for name in CARRIED[0]} for row in found] == [CARRIED[0], CARRIED[2]]
    assert [row["index"] for row in found] == [0, 2]
    assert [row["tokens"] for row in found] == [1, 3]
    assert np.array_equal(
        np.array([row["embedding"] for row in found], np.float32),
        np.array([row["embedding"] for row in plain], np.float32),
    )


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_tables_have_fixed_size_lists_and_the_types_of_their_source(tmp_path: Path, form: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    source = pyarrow.table(
        {
            "text": pyarrow.array(["a", None, "c"]).dictionary_encode(),
            "day": pyarrow.array([dt.date(2024, 1, 1), None, dt.date(2025, 1, 1)]),
            "at": pyarrow.array([1, 2, 3], pyarrow.timestamp("ns", "UTC")),
            "small": pyarrow.array([1, 2, 3], pyarrow.int8()),
            "blob": pyarrow.array([b"\xff", b"", None]),
            "price": pyarrow.array([1, 2, None], pyarrow.decimal128(10, 2)),
            "nested": pyarrow.array([[{"a": 1}], [], None]),
        }
    )
    parquet.write_table(source, tmp_path / "in.parquet")
    out = tmp_path / f"out.{form}"
    keep = [name for name in source.column_names if name != "text"]
    light_embed(tmp_path / "in.parquet", "-o", out, "--dimension", 8, "--keep", ",".join(keep))
    found = table(out)
    kept = source.select(keep).take([0, 2])
    assert (
        found.select(keep).schema.types
        == parquet.read_table(tmp_path / "in.parquet").select(keep).schema.types
    )
    assert found.select(keep).equals(kept.cast(found.select(keep).schema))
    assert found.schema.field("embedding").type == pyarrow.list_(pyarrow.float32(), 8)
    done = light_embed(tmp_path / "in.parquet", "--keep", "blob", code=2)
    assert b"'blob' holds binary, which JSON cannot carry" in done.stderr
    lines = light_embed(tmp_path / "in.parquet", "--dimension", 2, "--keep", "day,at,price,nested").stdout
    first = json.loads(lines.splitlines()[0])
    assert (first["day"], first["price"], first["nested"]) == ("2024-01-01", "1.00", [{"a": 1}])
    assert first["at"].startswith("1970-01-01 00:00:00.000000001")


def test_a_column_of_several_types_goes_out_as_json_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    values = [1, "two", None, {"three": 3}, 2**70]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "t", "v": value}) + "\n" for value in values))
    done = light_embed(path, "-o", tmp_path / "out.parquet", "--keep", "v", PART_ROWS="1")
    assert b"'v' holds what has no one type in a table: written as JSON texts" in done.stderr
    found = table(tmp_path / "out.parquet").column("v").to_pylist()
    assert [None if value is None else json.loads(value) for value in found] == values


def test_sparse_vectors(tmp_path: Path, embedder: Embedder) -> None:
    scipy = pytest.importorskip("scipy.sparse")
    texts = ["The quality of the clothes is excellent", "衣服的质量杠杠的", "..."]
    path = tmp_path / "rows.txt"
    path.write_text("\n".join(texts))
    mine = embedder.embed(texts, dimension=64, output_type="dense&sparse")
    from embedserve.cli import embed as command  # in this process: the engine is open already

    assert command
    import subprocess
    import sys

    for form in ("npz", "parquet", "jsonl"):
        arguments = [
            "--output-type",
            "dense&sparse",
            "--dimension",
            "64",
            "-o",
            str(tmp_path / f"out.{form}"),
        ]
        subprocess.run(
            [sys.executable, "-m", "embedserve", "embed", str(path), *arguments, "-q"],
            check=True,
            timeout=120,
        )
    matrix = scipy.load_npz(tmp_path / "out.npz")
    assert matrix.shape == (3, 250_002)
    for row, sparse in enumerate(mine.sparse):
        dense = np.zeros(250_002, np.float32)
        dense[sparse.indices] = sparse.values
        assert np.array_equal(matrix[[row]].toarray()[0], dense)
    assert np.array_equal(np.load(tmp_path / "out.npz")["dense"], mine.dense)
    for found in (load(tmp_path / "out.parquet"), load(tmp_path / "out.jsonl")):
        assert [row["sparse_indices"] for row in found] == [s.indices.tolist() for s in mine.sparse]
        assert [row["sparse_tokens"] for row in found] == [list(s.tokens) for s in mine.sparse]
        values = [np.array(row["sparse_values"], np.float32) for row in found]
        assert all(np.array_equal(a, s.values) for a, s in zip(values, mine.sparse, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_int8_has_its_scales_and_binary_its_width_in_every_form(tmp_path: Path, form: str) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("one\n\nthree words here\n")
    out = tmp_path / f"out.{form}"
    light_embed(path, "-o", out, "--dimension", 20, "--encoding", "int8")
    found = load(out)
    codes = np.array([row["embedding"] for row in found], np.int8)
    scales = np.array([row["scale"] for row in found], np.float32)
    plain = light_embed(path, "--dimension", 20).stdout
    vectors = np.array([json.loads(line)["embedding"] for line in plain.splitlines()], np.float32)
    assert from_int8(codes, scales) == pytest.approx(vectors, abs=0.01)
    light_embed(path, "-o", out, "--dimension", 20, "--encoding", "binary")
    assert {len(row["embedding"]) for row in load(out)} == {3}


@pytest.mark.parametrize("form", FORMS)
def test_nothing_in_nothing_out_and_yet_a_whole_file(tmp_path: Path, form: str) -> None:
    (tmp_path / "rows.txt").write_text("\n \n")
    out = tmp_path / f"out.{form}"
    done = light_embed(tmp_path / "rows.txt", "-o", out, "--dimension", 8)
    assert b"0 rows written" in done.stderr
    assert b"2 skipped" in done.stderr
    assert load(out) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "out.npy", "--output-type", "sparse"), "npy holds dense vectors only"),
        (("-o", "out.npy", "--output-type", "dense&sparse"), "npy holds dense vectors only"),
        (("-o", "out.xyz"), "cannot tell the format of out.xyz"),
        (("-o", "out.csv"), "out.csv cannot be written"),
        (("-o", "out.parquet.gz"), "only jsonl is written as .gz"),
        (("-o", "out.npy", "--format", "jsonl"), "is called .npy, but --format says jsonl"),
        (("--format", "npy"), "add --output FILE.npy"),
        (("--format", "docx"), "--format is 'docx'"),
        (("--keep", "tokens"), "the output has a column 'tokens' of its own"),
        (("--keep", "embedding"), "the output has a column 'embedding' of its own"),
        (("--keep", "id", "--id", "n"), "the output has a column 'id' of its own"),
        (("--keep", "n,n"), "names 'n' twice"),
        (("--encoding-in", "klingon"), "--encoding-in is 'klingon'"),
        (("--delimiter", "ab"), "--delimiter is 'ab'"),
        (("--input-format", "docx"), "--input-format is 'docx'"),
        (("-o", "folder"), "is a folder"),
        (("-o", "none/out.jsonl"), "there is no folder"),
        (("--resume",), "--resume needs a file to write to"),
    ],
)
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "rows.csv").write_text("text,n\na,1\n")
    before = sorted(tmp_path.iterdir())
    done = light_embed("rows.csv", *arguments, code=2)
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_format_without_an_extension(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("text,n\na,1\n")
    light_embed(
        tmp_path / "rows", "--input-format", "csv", "--format", "npy", "-o", tmp_path / "vectors", "-q"
    )
    assert np.load(tmp_path / "vectors").shape == (1, 1024)


def test_times_that_python_has_no_value_for_are_carried(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    micro, nano = pyarrow.timestamp("us"), pyarrow.timestamp("ns")
    far = {
        "day": pyarrow.array([10**7, None], pyarrow.date32()),
        "moment": pyarrow.array([2**58, None], micro),
        "list": pyarrow.array([[2**58, None], None], pyarrow.list_(micro)),
        "struct": pyarrow.array([{"at": 1}, None], pyarrow.struct({"at": nano})),
    }
    rows = pyarrow.table({"text": ["a", "b"], **far})
    parquet.write_table(rows, tmp_path / "rows.parquet")
    for form in ("parquet", "jsonl"):
        out = tmp_path / f"out.{form}"
        light_embed(tmp_path / "rows.parquet", "--keep", ",".join(far), "-o", out, "--dimension", "16")
    written = parquet.read_table(tmp_path / "out.parquet").select(list(far))
    assert written.equals(rows.select(list(far)))
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    moment = "11103-08-29 17:22:31.711744"
    told = ["29349-01-26", moment, [moment, None], {"at": "1970-01-01 00:00:00.000000001"}]
    assert [first[name] for name in far] == told
    assert [second[name] for name in far] == [None] * 4


def test_what_parquet_cannot_carry_is_known_before_the_first_row(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = pyarrow.table({"text": ["a"], "span": pyarrow.array([pyarrow.MonthDayNano([1, 2, 3])])})
    with pyarrow.ipc.new_file(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table)
    options = ("--keep", "span", "--dimension", "16", "-o")
    done = light_embed(tmp_path / "rows.arrow", *options, tmp_path / "out.parquet", code=2)
    assert b"the column 'span' holds month_day_nano_interval, which parquet cannot carry" in done.stderr
    light_embed(tmp_path / "rows.arrow", *options, tmp_path / "out.arrow")
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "span": {}}\n')
    light_embed(tmp_path / "rows.jsonl", *options, tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet")["span"].to_pylist() == ["{}"]
