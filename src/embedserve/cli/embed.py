"""``embedserve embed``: the lines of a file to vectors, without a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from embedserve.errors import EmbedserveError

GROUP = 256
"""Lines embedded at a time: enough to fill the engine, little enough to show progress."""


class Format(StrEnum):
    JSONL = "jsonl"
    NPY = "npy"
    PARQUET = "parquet"


class TextType(StrEnum):
    QUERY = "query"
    DOCUMENT = "document"


class OutputType(StrEnum):
    DENSE = "dense"
    SPARSE = "sparse"
    BOTH = "dense&sparse"


class DenseEncoding(StrEnum):
    FLOAT = "float"
    INT8 = "int8"
    BINARY = "binary"


class Truncate(StrEnum):
    NONE = "none"
    START = "start"
    END = "end"


def embed(
    file: Annotated[str, typer.Argument(help="Text file in UTF-8, one text a line; - reads standard input.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; default: standard output.")
    ] = None,
    format: Annotated[Format, typer.Option(help="npy and parquet need --output.")] = Format.JSONL,
    dimension: Annotated[int, typer.Option(min=1, max=2048)] = 1024,
    text_type: Annotated[TextType | None, typer.Option(help="Default: the query form.")] = None,
    instruct: Annotated[str | None, typer.Option(help="Task description for queries.")] = None,
    output_type: Annotated[OutputType, typer.Option()] = OutputType.DENSE,
    truncate: Annotated[Truncate, typer.Option(help="For texts over 8,192 tokens.")] = Truncate.NONE,
    encoding: Annotated[
        DenseEncoding,
        typer.Option(help="int8: a quarter of the room; binary: sign bits; see docs/quality.md."),
    ] = DenseEncoding.FLOAT,
    recipe: Annotated[str, typer.Option(help="ladder or plain; see docs/quality.md.")] = "ladder",
) -> None:
    """Embed the lines of a file. Blank lines are skipped; the others keep their line number as ``index``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from embedserve.cli.writers import open_writer
    from embedserve.embedding.embedder import Embedder

    if recipe not in ("ladder", "plain"):
        raise EmbedserveError(f"recipe is {recipe!r}, it should be 'ladder' or 'plain'")
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("lines"), TimeElapsedColumn())
    total = None if file == "-" else count_lines(Path(file))
    with (
        sys.stdin.buffer if file == "-" else open_text(Path(file)) as source,
        open_writer(
            format, output, dense=output_type is not OutputType.SPARSE, encoding=encoding.value
        ) as writer,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        embedder = Embedder(recipe="plain" if recipe == "plain" else "ladder")
        task = progress.add_task("embed", total=total)
        rows = numbered_lines(source)
        while group := list(islice(rows, GROUP)):
            texts = [(number, text) for number, text in group if text.strip()]
            vectors = embedder.embed(
                [text for _, text in texts],
                text_type=text_type.value if text_type else None,
                dimension=dimension,
                output_type=output_type.value,
                instruct=instruct,
                truncate=truncate.value,
            )
            for (number, _), vector in zip(texts, vectors, strict=True):
                writer.write(number, vector)
            progress.update(task, completed=group[-1][0] + 1)


def open_text(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise EmbedserveError(f"cannot read {path}: {error.strerror}") from None


def count_lines(path: Path) -> int:
    with open_text(path) as source:
        return sum(1 for _ in source)


def numbered_lines(source: BinaryIO) -> Iterator[tuple[int, str]]:
    """(line number from 0, text without its line end); EmbedserveError for bytes that are not UTF-8."""
    for number, line in enumerate(source):
        try:
            yield number, line.decode("utf-8-sig" if number == 0 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise EmbedserveError(
                f"line {number + 1} is not UTF-8: convert the file first, e.g. iconv -f gb18030 -t utf-8"
            ) from None
