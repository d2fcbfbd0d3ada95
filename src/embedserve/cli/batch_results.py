"""The result lines of batches to a file: as they come, or as rows with the caller's ids and columns."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from embedserve.cli.batch_rows import recall_rows
from embedserve.cli.client import BatchClient
from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.embedder import Embedding
from embedserve.errors import EmbedserveError
from embedserve.files.formats import Format, Kind, output_kind
from embedserve.files.json_output import LinesFile, dump_value
from embedserve.files.layout import Layout, make_block
from embedserve.files.outputs import open_output
from embedserve.files.places import (
    cannot_write,
    check_replaceable,
    manifest_of,
    open_stream,
    put,
    resolve_place,
)
from embedserve.files.records import parse_json
from embedserve.files.rows import Origin, Row
from embedserve.files.sources import Source
from embedserve.files.unfinished import write_manifest

BLOCK_ROWS = 1024
PART_ROWS = 8192
OWN = ("custom_id", "text_index")
"""Columns of results whose requests were the caller's own: a request may hold several texts."""


@dataclass(frozen=True, slots=True)
class ResultsPlace:
    """Where results go.

    Attributes:
        output: as the caller named it; None: standard output.
        path: the file behind it; None for a stream.
        kind: its format.
    """

    output: Path | None
    path: Path | None
    kind: Kind


def find_results_place(
    output: Path | None, format: str | None, sources: Sequence[Source] = (), *, overwrite: bool = False
) -> ResultsPlace:
    """Refuse, before anything is done, a place that cannot be written to. Raises EmbedserveError."""
    path = resolve_place(output, sources) if output is not None else None
    kind = output_kind(str(output) if output else None, format)
    if path is None and kind != Kind(Format.JSONL):
        raise EmbedserveError(f"--format {kind.suffix[1:]} needs a file: add --output FILE{kind.suffix}")
    open_output(kind, Layout())
    if output is not None and path is not None:
        check_replaceable(output, path, overwrite=overwrite)
    return ResultsPlace(output, path, kind)


def write_results(
    client: BatchClient, batches: Sequence[dict[str, Any]], place: ResultsPlace, field: str = "output_file_id"
) -> None:
    """Fetch the results of ended batches and write them, one batch behind the other.

    Args:
        field: ``error_file_id`` for the lines that failed.

    Raises:
        EmbedserveError: they cannot be fetched, written, or put into this format.
    """
    try:
        if place.path is None:
            with open_stream(place.output, ()) as stream:
                for line in _lines(client, batches, field, Path(tempfile.gettempdir())):
                    stream.write(line)
            return
        with tempfile.TemporaryDirectory(prefix=f".{place.path.name}.", dir=place.path.parent) as folder:
            draft = Path(folder) / "output"
            if place.kind.format is Format.JSONL:
                target = LinesFile(draft, place.kind.compression)
                for line in _lines(client, batches, field, Path(folder)):
                    target.write([line])
                target.close()
                suffixes: tuple[str, ...] = ("",)
            else:
                suffixes = _write_rows(client, batches, place.kind, Path(folder), draft)
            for suffix in reversed(suffixes):
                put(draft.with_name(draft.name + suffix), place.path.with_name(place.path.name + suffix))
            content = {"state": "finished", "output": place.path.name, "batches": [b["id"] for b in batches]}
            write_manifest(manifest_of(place.path), content)
    except OSError as error:
        raise cannot_write(place.output, error) from error


def _lines(
    client: BatchClient, batches: Sequence[dict[str, Any]], field: str, folder: Path
) -> Iterator[bytes]:
    """Result lines as the server gave them; with ``row``, the caller's columns, where there are such."""
    for batch in batches:
        if not batch[field]:
            continue
        rows = recall_rows(batch["id"])
        for line in _fetch(client, batch[field], folder):
            if rows is None or not rows.carried:
                yield line
                continue
            index, values = rows.find(parse_json(line.decode())["custom_id"])
            told = {"index": index, **dict(zip(rows.carried, values, strict=True))}
            yield line.rstrip()[:-1] + b',"row":' + dump_value(told) + b"}\n"


def _fetch(client: BatchClient, file_id: str, folder: Path) -> Iterator[bytes]:
    with tempfile.TemporaryFile(dir=folder) as file:
        client.read(file_id, cast(BinaryIO, file))
        file.seek(0)
        yield from file


def _write_rows(
    client: BatchClient, batches: Sequence[dict[str, Any]], kind: Kind, folder: Path, draft: Path
) -> tuple[str, ...]:
    """Parts in ``folder``, put together as ``draft``; the suffixes of its files."""
    stems: list[Path] = []
    carried, rows = _result_rows(client, batches, folder)
    first = next(rows, None)
    size = len(first[1].dense) if first and first[1].dense is not None else 1024
    output = open_output(kind, Layout(size, carried=carried))
    pending = [first] if first else []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder / "parts", ignore_errors=True)
        (folder / "parts").mkdir()
        while True:
            while len(pending) < PART_ROWS and (row := next(rows, None)) is not None:
                if row[1].dense is not None and len(row[1].dense) != size:
                    raise EmbedserveError(
                        f"the results have vectors of {size} and of {len(row[1].dense)} numbers, which one "
                        f"{kind.format} file cannot carry: write .jsonl"
                    )
                pending.append(row)
            if not pending and stems:
                break
            stems.append(folder / "parts" / f"{len(stems):06d}")
            part = output.begin(stems[-1])
            part.add(make_block(output.layout, [row for row, _ in pending], [found for _, found in pending]))
            part.close()
            pending = []
        output.assemble(stems, draft)
    return output.suffixes


def _result_rows(
    client: BatchClient, batches: Sequence[dict[str, Any]], folder: Path
) -> tuple[tuple[str, ...], Iterator[tuple[Row, Embedding]]]:
    """(carried columns, rows with their vectors) of all batches, which must have the same columns."""
    recalled = [recall_rows(batch["id"]) for batch in batches]
    names = {found.carried if found else OWN for found in recalled}
    if len(names) > 1:
        raise EmbedserveError(
            "the batches were submitted with different --id and --keep: write one at a time"
        )
    carried = names.pop() if names else OWN

    def rows() -> Iterator[tuple[Row, Embedding]]:
        origin = Origin("results", "row", carried, {})
        count = 0
        for batch, found in zip(batches, recalled, strict=True):
            if not batch["output_file_id"]:
                continue
            for line in _fetch(client, batch["output_file_id"], folder):
                given = parse_json(line.decode())
                vectors, tokens = read_answer(given)
                for number, vector in enumerate(vectors):
                    index, values = count, (given["custom_id"], number)
                    if found:
                        index, values = found.find(given["custom_id"])
                    row = Row(index, origin, count + 1, "", values)
                    yield row, Embedding(vector, None, 0 if number else tokens)
                    count += 1

    return carried, rows()


def read_answer(line: dict[str, Any]) -> tuple[list[Floats], int]:
    """(dense vectors, tokens of all of them) in one result line.

    Raises:
        EmbedserveError: there is something else in it, which only JSON lines can carry.
    """
    body = line["response"]["body"]
    items = body.get("data")
    vectors = [_read_vector(item) for item in items] if isinstance(items, list) else [None]
    found = [vector for vector in vectors if vector is not None]
    if len(found) != len(vectors):
        raise EmbedserveError(
            f"the result {line['custom_id'][:64]!r} holds other things than dense vectors: write .jsonl"
        )
    return found, int(body["usage"]["total_tokens"])


def _read_vector(item: dict[str, Any]) -> Floats | None:
    """The dense vector of one text; None if there is anything else."""
    given = item.get("embedding")
    if any("sparse" in name for name in item) or not isinstance(given, list | str):
        return None
    if isinstance(given, str):
        return np.frombuffer(base64.b64decode(given), "<f4")
    return np.array(given, np.float32)
