"""``embedserve embed``: the texts of a file to vectors, of any size, without a server."""

from __future__ import annotations

from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from embedserve.errors import EmbedserveError

GROUP = 256
"""Lines embedded at a time: enough to fill the engine, little enough to show progress."""


class Format(StrEnum):
    JSONL = "jsonl"
    NPY = "npy"
    PARQUET = "parquet"
    ARROW = "arrow"


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
    file: Annotated[
        str,
        typer.Argument(help="UTF-8 text, one a line (- for standard input), or .jsonl, .csv, .parquet."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; default: standard output.")
    ] = None,
    format: Annotated[Format, typer.Option(help="All but jsonl need --output.")] = Format.JSONL,
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
    column: Annotated[str | None, typer.Option(help="Of .jsonl, .csv, .parquet; default: text.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what an interrupted run has written, and go on from there.")
    ] = False,
) -> None:
    """Embed the lines of a file. Blank lines are skipped; the others keep their line number as ``index``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from embedserve.cli.readers import open_rows
    from embedserve.cli.writers import open_writer
    from embedserve.embedding.embedder import Embedder

    if recipe not in ("ladder", "plain"):
        raise EmbedserveError(f"recipe is {recipe!r}, it should be 'ladder' or 'plain'")
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("lines"), TimeElapsedColumn())
    with (
        open_rows(file, column) as (rows, total),
        open_writer(
            format, output, dense=output_type is not OutputType.SPARSE, encoding=encoding.value, resume=resume
        ) as writer,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        embedder = Embedder(recipe="plain" if recipe == "plain" else "ladder")
        task = progress.add_task("embed", total=total)
        rows = (row for row in rows if row[0] >= writer.next_index)
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
            writer.checkpoint()
            progress.update(task, completed=group[-1][0] + 1)
