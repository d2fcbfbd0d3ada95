"""``embedserve batch``: files in, files out, through a server."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import orjson
import typer

from embedserve.cli.client import BatchClient
from embedserve.cli.readers import open_rows
from embedserve.errors import EmbedserveError

app = typer.Typer(help="Let a server embed files at half price.", no_args_is_help=True)

MAX_LINES = 50_000
MAX_BYTES = 480 * 2**20
"""Of one batch's file, with room below the server's 500 MB; more rows become more batches."""
DONE = ("completed", "failed", "expired", "cancelled")

Url = Annotated[
    str, typer.Option("--url", envvar="EMBEDSERVE_URL", help="The server, or any other of this API.")
]
Key = Annotated[
    str, typer.Option("--key", envvar="DASHSCOPE_API_KEY", help="API key; better in the environment.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Default: standard output.")]
LOCAL = "http://127.0.0.1:8080"


def connect(url: str, key: str) -> BatchClient:
    key = key or os.environ.get("EMBEDSERVE_API_KEY", "")
    if not key:
        raise EmbedserveError("there is no API key: set DASHSCOPE_API_KEY, or give --key")
    return BatchClient(url, key)


@app.command()
def submit(
    file: Annotated[str, typer.Argument(help="Requests or rows in .jsonl, .txt, .csv or .parquet.")],
    column: Annotated[str | None, typer.Option(help="Where the text is; default: text.")] = None,
    model: Annotated[str, typer.Option(help="Of rows; requests name their own.")] = "text-embedding-v4",
    dimension: Annotated[int | None, typer.Option(min=1, max=2048)] = None,
    window: Annotated[str, typer.Option(help="24h to 336h, or 1d to 14d.")] = "24h",
    name: Annotated[str, typer.Option(help="To find it again in lists.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Show progress, then write the results.")] = False,
    output: Output = None,
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Submit a file; print the ids of its batches (one for each 50,000 rows).

    A .jsonl of ready requests (custom_id, method, url, body) goes as it is. From rows, requests are made with
    the row's number as custom_id; blank rows are left out.
    """
    client = connect(url, key)
    ids = []
    for path in input_files(file, column, model, dimension):
        batch = client.create(client.upload(path), window, {"ds_name": name} if name else {})
        ids.append(batch["id"])
        print(batch["id"], file=sys.stderr if wait else sys.stdout, flush=True)
    if not ids:
        raise EmbedserveError(f"{file} has no text")
    if wait:
        finished = watch(client, ids)
        with open_output(output) as target:
            for batch in finished:
                deliver(client, batch, target)


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
    url: Url = LOCAL,
    key: Key = "",
) -> None:
    """Write the result lines of a batch that has ended."""
    client = connect(url, key)
    batch = client.get(id)
    if batch["status"] not in DONE:
        raise EmbedserveError(f"{id} is {batch['status']}: wait for it with `embedserve batch wait {id}`")
    with open_output(output) as target:
        if file_id := batch["error_file_id" if errors else "output_file_id"]:
            client.read(file_id, target)


@app.command("wait")
def wait_for(
    ids: Annotated[list[str], typer.Argument()], output: Output = None, url: Url = LOCAL, key: Key = ""
) -> None:
    """Show progress until batches have ended, then write their results."""
    client = connect(url, key)
    finished = watch(client, ids)
    with open_output(output) as target:
        for batch in finished:
            deliver(client, batch, target)


@app.command()
def cancel(id: str, url: Url = LOCAL, key: Key = "") -> None:
    """Stop a batch; lines that are done stay, and are billed."""
    print(connect(url, key).cancel(id)["status"])


def input_files(file: str, column: str | None, model: str, dimension: int | None) -> Iterator[Path]:
    """Files of requests, ready to upload; those that were made are gone afterwards."""
    if Path(file).suffix == ".jsonl" and column is None and _has_requests(Path(file)):
        yield Path(file)
        return
    with tempfile.TemporaryDirectory(prefix="embedserve-") as folder, open_rows(file, column) as (rows, _):
        lines = (request_line(number, text, model, dimension) for number, text in rows if text.strip())
        pending = next(lines, None)
        while pending is not None:
            path = Path(folder) / "input.jsonl"
            with path.open("wb") as target:
                count = 0
                while pending is not None and count < MAX_LINES and target.tell() + len(pending) < MAX_BYTES:
                    target.write(pending)
                    count, pending = count + 1, next(lines, None)
            yield path


def _has_requests(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first: Any = orjson.loads(file.readline())
    except OSError as error:
        raise EmbedserveError(f"cannot read {path}: {error.strerror}") from None
    except orjson.JSONDecodeError:
        return True  # the server says which line is wrong
    return isinstance(first, dict) and "custom_id" in first and "body" in first


def request_line(number: int, text: str, model: str, dimension: int | None) -> bytes:
    body: dict[str, Any] = {"model": model, "input": text}
    if dimension is not None:
        body["dimensions"] = dimension
    request = {"custom_id": str(number), "method": "POST", "url": "/v1/embeddings", "body": body}
    return orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)


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
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
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


def deliver(client: BatchClient, batch: dict[str, Any], target: BinaryIO) -> None:
    """Write the results of a batch, and say what failed."""
    if batch["output_file_id"]:
        client.read(batch["output_file_id"], target)
    counts = batch["request_counts"]
    if batch["status"] == "failed":
        problems = (batch["errors"] or {}).get("data") or [{"message": "no reason given", "line": None}]
        where = f" (line {problems[0]['line']})" if problems[0]["line"] else ""
        raise EmbedserveError(f"{batch['id']} failed: {problems[0]['message']}{where}")
    if counts["failed"]:
        print(
            f"{batch['id']}: {counts['failed']} of {counts['total']} lines failed; "
            f"see `embedserve batch results --errors {batch['id']}`",
            file=sys.stderr,
        )


@contextmanager
def open_output(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        target = path.open("wb")
    except OSError as error:
        raise EmbedserveError(f"cannot write {path}: {error.strerror}") from None
    with target:
        yield target
