"""``embedserve batch``: files in, files out, through a server."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from embedserve.cli.batch_input import Asked, Tally, input_files
from embedserve.cli.batch_results import ResultsPlace, find_results_place, write_results
from embedserve.cli.choices import split_names
from embedserve.cli.client import BatchClient
from embedserve.cli.sight import program, say
from embedserve.errors import EmbedserveError
from embedserve.files.decoding import check_encoding
from embedserve.files.job import check_errors, describe_ignored, find_places
from embedserve.files.reader import Reading
from embedserve.files.rows import Columns

app = typer.Typer(help="Let a server embed files at half price.", no_args_is_help=True)

DONE = ("completed", "failed", "expired", "cancelled")

Url = Annotated[
    str, typer.Option("--url", envvar="EMBEDSERVE_URL", help="The server, or any other of this API.")
]
Key = Annotated[
    str, typer.Option("--key", envvar="DASHSCOPE_API_KEY", help="API key; better in the environment.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Where to write: .jsonl (result lines as they come), .npy, .npz, .parquet, .arrow; default: "
        "standard output.",
    ),
]
Format = Annotated[str | None, typer.Option(help="Of an output whose name does not say it.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace whatever is there.")]
LOCAL = "http://127.0.0.1:8080"


def connect(url: str, key: str) -> BatchClient:
    key = key or os.environ.get("EMBEDSERVE_API_KEY", "")
    if not key:
        raise EmbedserveError("there is no API key: set DASHSCOPE_API_KEY, or give --key")
    return BatchClient(url, key)


@app.command()
def submit(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Rows in any file that `embed` reads, 'patterns*', folders, - for standard input; or a "
            ".jsonl of ready requests.",
        ),
    ],
    column: Annotated[str | None, typer.Option(help="Where the text is; default: text.")] = None,
    id: Annotated[str | None, typer.Option(help="Column that names the rows: their custom_id.")] = None,
    keep: Annotated[str | None, typer.Option(help="Columns to carry to the results: a,b.")] = None,
    model: Annotated[str, typer.Option(help="Of rows; requests name their own.")] = "text-embedding-v4",
    dimension: Annotated[int | None, typer.Option(min=1, max=2048)] = None,
    window: Annotated[str, typer.Option(help="24h to 336h, or 1d to 14d.")] = "24h",
    name: Annotated[str, typer.Option(help="To find it again in lists.")] = "",
    input_format: Annotated[str | None, typer.Option(help="Of inputs whose names do not say it.")] = None,
    encoding_in: Annotated[str | None, typer.Option(help="Of text files, e.g. gb18030.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of .csv; default: a comma.")] = None,
    header: Annotated[
        bool, typer.Option("--header/--no-header", help="Without one, columns are called 1, 2, …")
    ] = True,
    skip_errors: Annotated[
        Path | None, typer.Option(help="Write rows that cannot be taken to this .jsonl, and go on.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress, then write the results.")] = False,
    output: Output = None,
    format: Format = None,
    overwrite: Overwrite = False,
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Submit files; print the ids of their batches (one for each 50,000 rows).

    A .jsonl of ready requests (custom_id, method, url, body) goes as it is. From rows, requests are made with
    the row's number, or its --id, as custom_id; rows without a text are left out and counted. Exit code 1 if
    any line failed.
    """
    client = connect(url, key)
    if not wait and (output is not None or format):
        raise EmbedserveError("--output is for --wait; without it, `embedserve batch results` writes")
    places = find_places(files, input_format, output, skip_errors)
    columns = Columns(column, id, split_names(keep))
    columns.check(("index", "embedding", "tokens"))
    reading = Reading(check_encoding(encoding_in) if encoding_in else None, delimiter, header)
    place = find_results_place(output, format, places.found.sources, overwrite=overwrite)
    if places.errors is not None:
        check_errors(places.errors, overwrite=overwrite)
    if told := describe_ignored(places.found):
        say(told)
    ids: list[str] = []
    tally = Tally()
    made = input_files(
        places.found.sources,
        columns,
        reading,
        Asked(model, dimension),
        skip_errors=places.errors,
        tally=tally,
    )
    try:
        for path, rows in made:
            batch = client.create(client.upload(path), window, {"ds_name": name} if name else {})
            ids.append(batch["id"])
            if rows is not None:
                rows.keep(batch["id"])
            print(batch["id"], file=sys.stderr if wait else sys.stdout, flush=True)
    except EmbedserveError as error:
        if ids:
            error.message += f" (batches that were submitted before it: {' '.join(ids)})"
        raise
    told = f"{tally.rows:,} rows submitted, {tally.skipped:,} skipped (no text), {tally.errors:,} errors"
    if tally.errors:
        told += f" set aside in {skip_errors}"
    if not ids:
        raise EmbedserveError(f"{' '.join(files)} has no text: {told}")
    if tally.skipped or tally.errors:
        say(told)
    if wait:
        end(client, watch(client, ids), place)


@app.command()
def status(
    ids: Annotated[list[str] | None, typer.Argument()] = None, url: Url = LOCAL, key: Key = ""
) -> None:
    """One line for each batch: id, status, done, failed, total; without ids the latest twenty."""
    client = connect(url, key)
    for batch in [client.get(id) for id in ids] if ids else client.list(20):
        counts = batch["request_counts"]
        title = (batch["metadata"] or {}).get("ds_name", "")
        cells = (batch["id"], batch["status"], counts["completed"], counts["failed"], counts["total"], title)
        print("\t".join(map(str, cells)))


@app.command()
def results(
    id: str,
    output: Output = None,
    errors: Annotated[bool, typer.Option("--errors", help="The failed lines instead.")] = False,
    format: Format = None,
    overwrite: Overwrite = False,
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Write the results of a batch that has ended. Exit code 1 if any line failed."""
    client = connect(url, key)
    place = find_results_place(output, format, overwrite=overwrite)
    if errors and place.kind.format != "jsonl":
        raise EmbedserveError("failed lines have no vectors: write them to a .jsonl")
    batch = client.get(id)
    if batch["status"] not in DONE:
        raise EmbedserveError(f"{id} is {batch['status']}: wait for it with `embedserve batch wait {id}`")
    if errors:
        write_results(client, [batch], place, "error_file_id")
    else:
        end(client, [batch], place)


@app.command("wait")
def wait_for(
    ids: Annotated[list[str], typer.Argument()],
    output: Output = None,
    format: Format = None,
    overwrite: Overwrite = False,
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Show progress until batches have ended, then write their results. Exit code 1 if any line failed."""
    client = connect(url, key)
    place = find_results_place(output, format, overwrite=overwrite)
    end(client, watch(client, ids), place)


@app.command()
def cancel(id: str, url: Url = LOCAL, key: Key = "") -> None:
    """Stop a batch; lines that are done stay, and are billed."""
    print(connect(url, key).cancel(id)["status"])


def watch(client: BatchClient, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The batches, when all have ended; progress on standard error meanwhile."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[status]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("lines, {task.fields[rate]} a second, done in"),
        TimeRemainingColumn(),
    )
    with (
        going_on_later(ids),
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        bar = progress.add_task("batch", total=None, status="validating", rate="-")
        began, first, pause = time.monotonic(), None, 0.2
        while True:
            batches = [client.get(id) for id in ids]
            counts = [batch["request_counts"] for batch in batches]
            done = sum(count["completed"] + count["failed"] for count in counts)
            total = sum(count["total"] for count in counts)
            if first is None and done:
                began, first = time.monotonic(), done
            seconds = time.monotonic() - began
            rate = f"{(done - (first or 0)) / seconds:.0f}" if first is not None and seconds > 1 else "-"
            open_ones = [batch["status"] for batch in batches if batch["status"] not in DONE]
            shown = open_ones[0] if open_ones else "finished"
            progress.update(bar, total=total or None, completed=done, status=shown, rate=rate)
            if not open_ones:
                return batches
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)


def end(client: BatchClient, batches: Sequence[dict[str, Any]], place: ResultsPlace) -> None:
    """Write the results of ended batches and say what failed.

    Raises:
        EmbedserveError: a batch could not run at all; the others are written.
        typer.Exit: code 1, if any line failed.
    """
    ran = [batch for batch in batches if batch["output_file_id"]]
    broken = [batch for batch in batches if batch["status"] == "failed"]
    if ran or len(broken) < len(batches):
        write_results(client, batches, place)
    wrong = False
    for batch in batches:
        counts = batch["request_counts"]
        if counts["failed"]:
            wrong = True
            say(
                f"{batch['id']}: {counts['failed']} of {counts['total']} lines failed; "
                f"see `embedserve batch results --errors {batch['id']}`"
            )
        if batch["status"] in ("expired", "cancelled"):
            wrong = True
            done = f"{counts['completed']} of {counts['total']} lines are done"
            say(f"{batch['id']} is {batch['status']}: {done}")
    if broken:
        raise EmbedserveError("; ".join(_why(batch) for batch in broken))
    if wrong:
        raise typer.Exit(1)


def _why(batch: dict[str, Any]) -> str:
    problems = (batch["errors"] or {}).get("data") or [{"message": "no reason given", "line": None}]
    where = f" (line {problems[0]['line']})" if problems[0]["line"] else ""
    return f"{batch['id']} failed: {problems[0]['message']}{where}"


@contextmanager
def going_on_later(ids: Sequence[str]) -> Iterator[None]:
    """Ctrl-C ends the waiting, not the batches: say how to come back."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted; the server goes on. Wait for it again with:")
        print(f"  {shlex.join([*program(), 'batch', 'wait', *ids])}", file=sys.stderr, flush=True)
        raise typer.Exit(130) from None
