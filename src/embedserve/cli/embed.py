"""``embedserve embed``: the texts of files to vectors, of any size, without a server."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from embedserve.cli.choices import DenseEncoding, OutputType, TextType, Truncate, split_names
from embedserve.cli.sight import ProgressLine, going_on, say, stopped_by_signals, summarise
from embedserve.errors import EmbedserveError

if TYPE_CHECKING:
    from embedserve.embedding.recipes import Role
    from embedserve.files.job import Places


def embed(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files, 'patterns*', folders, or - for standard input: .txt (one text a line), .csv, .tsv, "
            ".json, .jsonl, .parquet, .arrow; also with .gz or .zst behind it.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where to write: .jsonl (also .gz, .zst), .npy, .npz, .parquet, .arrow; default: JSON lines "
            "on standard output. An earlier output is replaced when the new one is whole.",
        ),
    ] = None,
    format: Annotated[str | None, typer.Option(help="Of an output whose name does not say it.")] = None,
    dimension: Annotated[int, typer.Option(min=1, max=2048)] = 1024,
    text_type: Annotated[TextType | None, typer.Option(help="Default: as the API without it.")] = None,
    instruct: Annotated[str | None, typer.Option(help="Task description for queries.")] = None,
    output_type: Annotated[OutputType, typer.Option()] = OutputType.DENSE,
    truncate: Annotated[Truncate, typer.Option(help="For texts over 8,192 tokens.")] = Truncate.NONE,
    encoding: Annotated[
        DenseEncoding,
        typer.Option(help="int8: a quarter of the room; binary: sign bits; see docs/quality.md."),
    ] = DenseEncoding.FLOAT,
    recipe: Annotated[str, typer.Option(help="ladder or plain; see docs/quality.md.")] = "ladder",
    column: Annotated[str | None, typer.Option(help="Where the text is; default: text.")] = None,
    id: Annotated[str | None, typer.Option(help="Column that names the rows; goes out as id.")] = None,
    keep: Annotated[str | None, typer.Option(help="Columns to carry to the output: a,b.")] = None,
    input_format: Annotated[
        str | None, typer.Option(help="Of inputs whose names do not say it, e.g. jsonl or csv.gz.")
    ] = None,
    encoding_in: Annotated[
        str | None,
        typer.Option(help="Of text files, e.g. gb18030; default: UTF-8, or by its mark."),
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of .csv; default: a comma.")] = None,
    header: Annotated[
        bool, typer.Option("--header/--no-header", help="Without one, columns are called 1, 2, …")
    ] = True,
    skip_errors: Annotated[
        Path | None,
        typer.Option(help="Write rows that cannot be taken to this .jsonl, and go on; default: end there."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run ended.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace whatever is there, an interrupted run too.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Embed the texts of files.

    Every row keeps its number as index, counted from 0 through all files. Rows without a text (null, blank)
    are skipped and counted. See docs/files.md.
    """
    from embedserve.embedding.embedder import Embedder, Options
    from embedserve.files.decoding import check_encoding
    from embedserve.files.formats import output_kind
    from embedserve.files.groups import check_options
    from embedserve.files.job import describe_ignored, find_places, is_plain_lines, run_job
    from embedserve.files.layout import Layout
    from embedserve.files.outputs import open_output
    from embedserve.files.reader import Reading
    from embedserve.files.rows import Columns
    from embedserve.files.run import Stopped

    if recipe not in ("ladder", "plain"):
        raise EmbedserveError(f"recipe is {recipe!r}, it should be 'ladder' or 'plain'")
    places = find_places(files, input_format, output, skip_errors)
    columns = Columns(column, id, split_names(keep))
    kind = output_kind(str(output) if output else None, format)
    size = dimension if output_type is not OutputType.SPARSE else None
    sparse = output_type is not OutputType.DENSE
    layout = Layout(size, sparse, encoding.value, tuple(columns.carried))
    columns.check(layout.own_columns)
    reading = Reading(check_encoding(encoding_in) if encoding_in else None, delimiter, header)
    role: Role | None = text_type.value if text_type else None
    options = Options(role, instruct, dimension, output_type.value, truncate=truncate.value)
    writer = open_output(kind, layout)
    if places.path is None and (resume or not is_plain_lines(kind)):
        asked = "--resume" if resume else f"--format {kind.suffix[1:]}"
        raise EmbedserveError(f"{asked} needs a file to write to: add --output FILE{kind.suffix}")
    if resume and (once := places.found.once):
        raise EmbedserveError(f"--resume reads the input again, which {once} cannot: save it to a file first")
    wanted = {
        "--recipe": recipe,
        "--text-type": role,
        "--instruct": instruct,
        "--dimension": dimension,
        "--output-type": output_type.value,
        "--truncate": truncate.value,
        "--encoding": encoding.value,
        "--format": kind.suffix[1:],
        "--column": column,
        "--id": id,
        "--keep": list(columns.keep),
        "--input-format": input_format,
        "--encoding-in": reading.encoding,
        "--delimiter": delimiter,
        "--header": header,
    }
    if (told := describe_ignored(places.found)) and not quiet:
        say(told)
    line = ProgressLine(quiet=quiet)
    outcome = None
    with line.open(), stopped_by_signals() as stopped:
        embedder = Embedder(recipe="plain" if recipe == "plain" else "ladder")
        check_options(embedder, options)
        wanted["model"] = embedder.fingerprint
        began = time.monotonic()
        with suppress(Stopped):
            outcome = run_job(
                embedder,
                options,
                places,
                columns,
                reading,
                writer,
                wanted,
                resume=resume,
                overwrite=overwrite,
                watch=line.show,
                stopped=stopped,
            )
    if outcome is None:
        end_interrupted(places)
    if quiet:
        return
    if outcome.finished:
        say(f"{output} is finished: {outcome.counts.written:,} rows; there is nothing to resume")
        return
    for note in outcome.notes:
        say(note)
    shown, aside = str(output or "standard output"), str(skip_errors) if skip_errors else None
    say(summarise(outcome.counts, shown, aside, outcome.before, time.monotonic() - began))


def end_interrupted(places: Places) -> NoReturn:
    """Say what is done and how to go on; nobody waits for a reader that waits for standard input."""
    from embedserve.files.places import parts_of
    from embedserve.files.unfinished import read_manifest

    left = read_manifest(parts_of(places.path) / "manifest.json") if places.path else None
    done = left["counts"]["written"] if left else 0
    if places.path is None:
        say("interrupted; a run with --output FILE could be gone on with")
    elif not done:
        say(f"interrupted before any rows of {places.output} were safe: start again")
    elif places.found.once:
        say(f"interrupted; {done:,} rows were done, but {places.found.once} cannot be read again")
    else:
        say(f"interrupted; {done:,} rows of {places.output} are done. Go on with:")
        print(f"  {going_on(sys.argv[1:])}", file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGINT)
