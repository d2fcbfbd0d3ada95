"""Whatever is in a file: rows in = rows out + skipped + errors, in order, each text as it was."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedserve import Embedder
from embedserve.embedding.embedder import Options
from embedserve.errors import EmbedserveError
from embedserve.files.formats import output_kind
from embedserve.files.job import find_places, run_job
from embedserve.files.layout import Layout
from embedserve.files.outputs import open_output
from embedserve.files.reader import Reading, read_rows
from embedserve.files.rows import Columns, Row
from embedserve.files.sources import find_sources
from light_embed import light_embedder

plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
json_text = st.text(max_size=30)  # lone surrogates, too
values = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | plain | st.lists(plain, max_size=2)
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def light() -> Embedder:
    return light_embedder()


def rows_of(name: str, data: bytes, columns: Columns | None = None) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        return list(read_rows(find_sources([str(path)]).sources, columns or Columns(), Reading()))


def expected(texts: list[str]) -> list[str | None]:
    return [text if text.strip() else None for text in texts]


@given(st.lists(plain.filter(lambda text: not {"\n", "\r"} & set(text)), max_size=8))
@quick
def test_plain_lines(texts: list[str]) -> None:
    rows = rows_of("rows.txt", "".join(f"{text}\n" for text in texts).encode("utf-8-sig"))
    assert [row.text for row in rows] == expected(texts)


@given(st.lists(st.tuples(plain, plain), max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
@quick
def test_whatever_a_csv_writer_writes(pairs: list[tuple[str, str]], end: str, tabs: bool) -> None:
    memory = io.StringIO(newline="")
    # Everything in quotes: Python 3.11 writes a lone CR without them, which no reader takes for text.
    delimiter = "\t" if tabs else ","
    writer = csv.writer(memory, lineterminator=end, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "k"), *pairs])
    rows = rows_of("rows.tsv" if tabs else "rows.csv", memory.getvalue().encode(), Columns(keep=("k",)))
    assert [(row.text, row.carried) for row in rows] == [
        (text if text.strip() else None, (k,)) for text, k in pairs
    ]


@given(st.lists(st.tuples(json_text, values), max_size=8), st.booleans(), st.booleans())
@quick
def test_json_in_both_forms(pairs: list[tuple[str, Any]], array: bool, ascii_only: bool) -> None:
    given_rows = [{"text": text, "k": value} for text, value in pairs]
    try:
        lines = [json.dumps(row, ensure_ascii=ascii_only).encode() for row in given_rows]
    except UnicodeEncodeError:  # only escapes can spell half a pair
        lines = [json.dumps(row).encode() for row in given_rows]
    data = b"[" + b",\n".join(lines) + b"]" if array else b"".join(line + b"\n" for line in lines)
    rows = rows_of("rows.json" if array else "rows.jsonl", data, Columns(keep=("k",)))
    joined = [json.loads(json.dumps(text)) for text, _ in pairs]  # JSON joins halves that belong together
    assert [row.text for row in rows] == expected(joined)
    assert [row.carried[0] for row in rows] == [value for _, value in pairs]


@given(st.binary(max_size=200), st.sampled_from(["txt", "csv", "tsv", "json", "jsonl", "jsonl.gz", "csv.gz"]))
@quick
def test_any_bytes_give_rows_or_a_sentence(data: bytes, form: str) -> None:
    rows = []
    with suppress(EmbedserveError):  # anything else is a failure
        rows = rows_of(f"rows.{form}", b"text\n" + data if form == "csv" else data)
    assert [row.index for row in rows] == list(range(len(rows)))
    assert all(row.text is None or row.text.strip() for row in rows if isinstance(row, Row))


@given(
    st.lists(
        st.one_of(
            json_text.map(lambda text: json.dumps({"text": text})),
            st.sampled_from(
                ["", "null", "7", "{", '{"said": "x"}', '{"text": null}', '"\\u200b"', '[["x"]]']
            ),
            st.just(json.dumps("word " * 9000)),
        ),
        max_size=12,
    ),
    st.sampled_from(["jsonl", "npy", "parquet"]),
)
@quick
def test_nothing_is_lost(light: Embedder, lines: list[str], form: str) -> None:
    pytest.importorskip("pyarrow")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
        out, bad = folder / f"out.{form}", folder / "bad.jsonl"
        places = find_places([str(folder / "rows.jsonl")], None, out, bad)
        output = open_output(output_kind(str(out), None), Layout(4))
        outcome = run_job(light, Options(dimension=4), places, Columns(), Reading(), output, {})
        counts = outcome.counts
        assert counts.read == len(lines) == counts.written + counts.skipped + counts.errors
        wrong = [json.loads(line)["index"] for line in bad.read_text().splitlines()]
        assert len(wrong) == counts.errors
        if form == "jsonl":
            right = [json.loads(line)["index"] for line in out.read_text().splitlines()]
            assert right == sorted(right)
            assert not set(right) & set(wrong)
            assert len(right) == counts.written
