"""Every kind of input, made for real, gives the rows that are in it, or a sentence that helps."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from embedserve.errors import EmbedserveError
from embedserve.files.errors import BadRow
from embedserve.files.reader import Reading, read_rows
from embedserve.files.rows import Columns, Row
from embedserve.files.sources import find_sources

TEXTS = ["plain", "with, comma", 'and "quotes"', "第三行 🙂", "a\u2028b\x0bc\x1cd", "last"]


def read(
    *files: object, said: str | None = None, reading: Reading | None = None, **columns: Any
) -> list[Any]:
    """Rows as texts (None: missing), bad ones as their sentence."""
    found = find_sources([str(file) for file in files], said)
    rows = read_rows(found.sources, Columns(**columns), reading)
    return [row.text if isinstance(row, Row) else str(row) for row in rows]


def write(path: Path, texts: Sequence[str | None], encoding: str = "utf-8") -> Path:
    """Texts in the format and compression that the name says, under ``text`` beside ``id``."""
    pytest.importorskip("pyarrow") if {".parquet", ".arrow", ".zst"} & set(path.suffixes) else None
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    suffix = Path(name).suffix.lower()
    if suffix in (".parquet", ".arrow", ".arrows"):
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist(rows)
        if suffix == ".parquet":
            pyarrow.parquet.write_table(table, path, row_group_size=2)
        else:
            make = pyarrow.ipc.new_stream if suffix == ".arrows" else pyarrow.ipc.new_file
            with make(path, table.schema) as writer:
                writer.write_table(table)
        return path
    if suffix in (".csv", ".tsv"):
        memory = io.StringIO(newline="")
        writer = csv.writer(memory, delimiter="\t" if suffix == ".tsv" else ",")
        writer.writerow(["id", "text"])
        writer.writerows((row["id"], row["text"]) for row in rows)
        content = memory.getvalue()
    elif suffix == ".json":
        content = json.dumps(rows, ensure_ascii=False, indent=1)
    elif suffix in (".jsonl", ".ndjson"):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        content = "\n".join(text or "" for text in texts)
    data = content.encode(encoding)
    if path.suffix == ".gz":
        half = len(data) // 2
        data = gzip.compress(data[:half]) + gzip.compress(data[half:])
    if path.suffix == ".zst":
        import pyarrow

        stream = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(stream, "zstd") as packed:
            packed.write(data)
        data = stream.getvalue().to_pybytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".TSV", ".json", ".jsonl", ".NDJSON"])
def test_text_formats_packed_or_not(tmp_path: Path, suffix: str, packed: str) -> None:
    assert read(write(tmp_path / f"rows{suffix}{packed}", TEXTS)) == TEXTS


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
def test_columnar_formats(tmp_path: Path, suffix: str) -> None:
    assert read(write(tmp_path / f"rows{suffix}", [*TEXTS, None, " "])) == [*TEXTS, None, None]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".jsonl", ".jsonl.gz"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, suffix: str, encoding: str) -> None:
    first = write(tmp_path / f"a{suffix}", TEXTS, encoding)
    second = write(tmp_path / f"b{suffix}", TEXTS, encoding)
    assert read(first, second) == TEXTS * 2


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16-le", "shift_jis", "big5", "latin-1"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".jsonl"])
def test_other_encodings_by_the_callers_word(tmp_path: Path, suffix: str, encoding: str) -> None:
    texts = {"shift_jis": ["日本語", "表示"], "big5": ["中文", "許功蓋"], "latin-1": ["é", "ß"]}.get(
        encoding, ["中文 🙂", "second"]
    )
    path = write(tmp_path / f"rows{suffix}", texts, encoding)
    assert read(path, reading=Reading(encoding)) == texts


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_line_ends(tmp_path: Path, suffix: str, end: str) -> None:
    lines = {
        ".txt": ["", "one", "", "two"],
        ".csv": ["text,n", "one,1", '"two",2'],
        ".jsonl": ["", '{"text": "one"}', "", '{"text": "two"}'],
    }[suffix]
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(end.join(lines).encode())
    assert [text for text in read(path) if text] == ["one", "two"]


def test_quoted_line_ends_stay_as_they_are_and_lines_are_counted_right(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'text,n\r\n"a\r\nb",1\r\n\r\nc,2,3\r\nd,4\r\n')
    rows = read(path)
    assert rows[0] == "a\r\nb"
    assert "rows.csv: line 5 has 3 fields, the header has 2" in rows[1]
    assert rows[2:] == ["d"]


BAD_CSV = {
    "open quote": ('1,"open\n2,fine\n3,also\n', ["line 2 opens a quote that nothing closes", "fine", "also"]),
    "closed by another": (
        '1,"open\n2,fine\n3,"quoted, fine"\n4,x\n',
        ["line 2", "fine", "quoted, fine", "x"],
    ),
    "open at the end": ('1,fine\n2,"open', ["fine", "line 3 opens a quote"]),
    "unquoted comma": (
        "1,cut, here\n2,fine\n",
        ["line 2 has 3 fields, the header has 2: a field with a", "fine"],
    ),
    "too few": ("1\n2,fine\n", ["line 2 has 1 fields", "fine"]),
    "junk behind a quote": ('1,"a"b\n2,fine\n', ["line 2 has a quote in the wrong place", "fine"]),
    "wrong bytes": (b"1,\xff\n2,fine\n", ["line 2 is not UTF-8 (byte 0xff after 2 characters)", "fine"]),
    "wrong bytes inside of quotes": (b'1,"a\n\xffb"\n2,fine\n', ["line 2", "line 3 is not UTF-8", "fine"]),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_wrong_csv_row_is_named_and_the_rest_is_read(tmp_path: Path, case: str) -> None:
    body, expected = BAD_CSV[case]
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id,text\n" + (body if isinstance(body, bytes) else body.encode()))
    rows = read(path)
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert wanted == row if not wanted.startswith("line") else wanted in row


BAD_LINES = {
    "not json": (b'{"text": "a"}\nnonsense\n"b"\n', "line 2 is not JSON"),
    "half an object": (b'{"text": "a"}\n{"text": \n"b"\n', "line 2 is not JSON"),
    "no column": (
        b'{"text": "a"}\n{"id": 1, "said": "x"}\n"b"\n',
        "line 2 has no column 'text': choose one of id, said",
    ),
    "a number": (b'{"text": "a"}\n{"text": 7}\n"b"\n', "line 2 has a number under 'text', not a text"),
    "a list": (b'{"text": "a"}\n[1]\n"b"\n', "line 2 is a list"),
    "wrong bytes": (b'{"text": "a"}\n{"text": "\xe4"}\n"b"\n', "line 2 is not UTF-8 (byte 0xe4"),
    "deep": (b'{"text": "a"}\n' + b"[" * 100_000 + b'\n"b"\n', "line 2 is not JSON"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_wrong_json_line_is_named_and_the_rest_is_read(tmp_path: Path, case: str) -> None:
    body, words = BAD_LINES[case]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(body)
    first, wrong, last = read(path)
    assert (first, last) == ("a", "b")
    assert f"rows.jsonl: {words}" in wrong


def test_missing_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": null}\n\n{"text": ""}\n{"text": " \\u3000 "}\nnull\n"x"\n')
    assert read(path) == [None] * 5 + ["x"]


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n "a",\n {"text": "b"}, null,\n 7]\n')
    assert read(path)[:3] == ["a", "b", None]
    assert "rows.json: line 4 is a number" in read(path)[3]
    path.write_text('{"text": "one document"}')
    assert read(path) == ["one document"]
    path.write_text('{"text": "JSON lines"}\n{"text": "under the name of .json"}\n')
    assert read(path) == ["JSON lines", "under the name of .json"]
    path.write_text("[]")
    assert read(path) == []
    path.write_text('["a", "b"')
    with pytest.raises(EmbedserveError, match=r"rows.json: the array is cut short: line 1"):
        read(path)
    path.write_text('["a",\n "b" "c"]')
    with pytest.raises(EmbedserveError, match=r"rows.json: line 2 is not JSON"):
        read(path)


def test_a_json_array_is_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedserve.files import json_values

    monkeypatch.setattr(json_values, "_BLOCK", 7)
    texts = ["x" * size for size in range(0, 400, 9)] + ["1.5e3", "🙂" * 50]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": text, "n": 12345.678} for text in texts], ensure_ascii=False))
    assert read(path) == [text or None for text in texts]


WRONG_FILES = {
    "unknown": ("notes.docx", b"x", "cannot tell what .*notes.docx holds by its name"),
    "no extension": ("notes", b"x", "--input-format txt"),
    "packed": ("rows.csv", gzip.compress(b"text\na\n"), "is gzip, not csv: say --input-format csv.gz"),
    "not packed": ("rows.csv.gz", b"text\na\n", "say --input-format csv"),
    "parquet": ("rows.csv", b"PAR1....", "is Parquet, not csv: say --input-format parquet"),
    "not parquet": ("rows.parquet", b"text\na\n", "is not Parquet"),
    "pdf": ("rows.txt", b"%PDF-1.7", "pdftotext"),
    "word": ("rows.txt", b"PK\x03\x04....", "zip archive"),
    "utf-16": ("rows.txt", "some text\n".encode("utf-16-le"), "--encoding-in utf-16-le"),
    "binary": ("rows.txt", bytes(200), "is no text"),
    "cut short": ("rows.txt.gz", gzip.compress(b"x" * 10_000)[:-9], "is cut short"),
    "damaged": (
        "rows.txt.gz",
        gzip.compress(bytes(range(256)) * 99)[:-30] + b"x" * 30,
        "is (damaged|cut short)",
    ),
    "packed table": ("rows.parquet.gz", b"x", "gunzip"),
    "no column": ("rows.csv", b"a,b\n1,2\n", "has no column 'text': choose one of a, b with --column"),
    "semicolons": ("rows.csv", b"id;text\n1;a\n", "say --delimiter ';'"),
    "twice": ("rows.csv", b"text,text\na,b\n", "names the column 'text' twice"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_that_is_something_else_is_refused_in_words(tmp_path: Path, case: str) -> None:
    name, content, words = WRONG_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EmbedserveError, match=words):
        read(tmp_path / name)


def test_damaged_columnar_files(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", [f"{n} " * 500 for n in range(50)])
    good = path.read_bytes()
    path.write_bytes(good[:40] + b"\xff" * 400 + good[440:])
    with pytest.raises(EmbedserveError, match=r"rows\.parquet cannot be read as parquet"):
        read(path)
    path.write_bytes(good[:-100])
    with pytest.raises(EmbedserveError, match=r"rows\.parquet cannot be read as parquet"):
        read(path)


def test_parquet_values_that_are_no_utf8_are_bad_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    binary = pyarrow.array([b"fine", b"\xff", b"too"])
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 3, binary.buffers())
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "rows.parquet")
    rows = read(tmp_path / "rows.parquet")
    assert (rows[0], rows[2]) == ("fine", "too")
    assert "row 2 is not UTF-8" in rows[1]
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "rows.parquet")
    with pytest.raises(EmbedserveError, match="the column 'text' holds int64, not texts"):
        read(tmp_path / "rows.parquet")


def test_several_files_globs_and_folders(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "b.jsonl", ["b"])
    write(tmp_path / "a.txt", ["a"])
    write(tmp_path / "deep" / "c.csv.gz", ["c"])
    (tmp_path / "picture.png").touch()
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "out.jsonl").write_text("not read")
    (tmp_path / "out.jsonl.manifest").write_text('{"state": "finished", "output": "out.jsonl"}')
    assert read(tmp_path) == ["a", "b", "c"]
    found = find_sources([str(tmp_path)])
    assert [Path(name).name for name in found.ignored] == ["picture.png"]
    assert read(tmp_path / "b.jsonl", tmp_path / "a.txt") == ["b", "a"]
    assert read(tmp_path / "**" / "*.gz") == ["c"]
    with pytest.raises(EmbedserveError, match="nothing matches"):
        read(tmp_path / "*.parquet")
    with pytest.raises(EmbedserveError, match="is named twice"):
        read(tmp_path / "a.txt", tmp_path)
    rows = list(read_rows(find_sources([str(tmp_path)]).sources, Columns()))
    assert [row.index for row in rows if not isinstance(row, BadRow)] == [0, 1, 2]


def test_columns_ids_and_headers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"said": "a", "key": "x", "n": 1}\n{"said": "b", "key": null, "n": 2}\n')
    found = find_sources([str(path)])
    rows = list(read_rows(found.sources, Columns("said", "key", ("n",))))
    assert isinstance(rows[0], Row)
    assert rows[0].carried == ("x", 1)
    assert "line 2 has no id under 'key'" in str(rows[1])
    table = tmp_path / "bare.csv"
    table.write_text("1;one\n2;two\n")
    assert read(table, reading=Reading(delimiter=";", header=False), text="2") == ["one", "two"]
    with pytest.raises(EmbedserveError, match="plain text, which has no columns"):
        read(write(tmp_path / "a.txt", ["x"]), text="said")


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "n": 123456789012345678901234567890, "s": "\\ud800"}\n')
    row = next(iter(read_rows(find_sources([str(path)]).sources, Columns(keep=("n", "s")))))
    assert isinstance(row, Row)
    assert row.carried == (123456789012345678901234567890, "\ud800")


def test_a_line_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedserve.files import records

    monkeypatch.setattr(records, "MAX_CHARACTERS", 100)
    path = tmp_path / "rows.txt"
    path.write_text("x" * 1000 + "\nfine\n")
    rows = read(path)
    assert "line 1 is longer than" in rows[0]
    assert rows[1:] == ["fine"]


def test_integers_keep_their_digits_however_deep_they_are(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    path.write_text(
        '{"text": "a", "x": [123456789012345678901], "y": {"z": [{"n": -98765432109876543210}]}}\n'
    )
    rows = list(read_rows(find_sources([str(path)]).sources, Columns(keep=("x", "y"))))
    assert [row.carried for row in rows if isinstance(row, Row)] == [
        ([123456789012345678901], {"z": [{"n": -98765432109876543210}]})
    ]


@pytest.mark.parametrize(
    ("written", "said", "words"),
    [
        ("utf-8-sig", "gb18030", "begins with the mark of UTF-8, --encoding-in says gb18030"),
        ("utf-16", "utf-8", "begins with the mark of UTF-16, --encoding-in says utf-8"),
        ("utf-16", "utf-16-le", None),
        ("utf-32", "utf-32", None),
        ("utf-8-sig", "utf-8", None),
    ],
)
def test_a_byte_order_mark_and_the_flag_may_not_contradict_each_other(
    tmp_path: Path, written: str, said: str, words: str | None
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("text\n你好\n".encode(written))
    rows = read_rows(find_sources([str(path)]).sources, Columns(), Reading(encoding=said))
    if words is None:
        assert [row.text for row in rows if isinstance(row, Row)] == ["你好"]
    else:
        with pytest.raises(EmbedserveError, match=words):
            list(rows)


def test_nothing_in_a_folder_is_left_out_in_silence(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "q.parts").mkdir(parents=True)
    for name in ("a.txt", "ab.txt", "q.parts/in.txt"):
        (folder / name).write_text("text\n")
    (folder / "a.manifest").write_text("of another program")
    (tmp_path / "else").mkdir()
    (folder / "link").symlink_to(tmp_path / "else")
    found = find_sources([str(folder)])
    assert [Path(source.name).name for source in found.sources] == ["a.txt", "ab.txt", "in.txt"]
    assert sorted(Path(name).name for name in found.ignored) == ["a.manifest", "link"]


def test_a_zstd_file_may_begin_with_a_frame_to_skip(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "rows.txt.zst"
    packed = pyarrow.compress(b"one\n", codec="zstd", asbytes=True)
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + packed)
    rows = read_rows(find_sources([str(path)]).sources, Columns())
    assert [row.text for row in rows if isinstance(row, Row)] == ["one"]
