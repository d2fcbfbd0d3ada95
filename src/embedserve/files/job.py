"""A run as a command line asks for it: where it reads, where it writes, what it finds there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from embedserve.embedding.embedder import Embedder, Options
from embedserve.errors import EmbedserveError
from embedserve.files.formats import Format, Kind
from embedserve.files.groups import ERROR_FIELDS
from embedserve.files.json_output import LineStream
from embedserve.files.outputs import Output
from embedserve.files.places import (
    cannot_write,
    check_replaceable,
    manifest_of,
    open_stream,
    parts_of,
    resolve_place,
)
from embedserve.files.reader import Progress, Reading, read_rows
from embedserve.files.rows import Columns
from embedserve.files.run import Sight, Target, run
from embedserve.files.sources import MANIFEST, SIDECAR, Found, find_sources
from embedserve.files.unfinished import VERSION, Counts, Unfinished, find_difference, read_manifest


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run reads and writes.

    Attributes:
        found: its inputs.
        output: as the caller named it; None: standard output.
        path: the file behind that name; None for what is written as it is (a pipe, a device).
        errors: where bad rows go.
    """

    found: Found
    output: Path | None
    path: Path | None
    errors: Path | None


def find_places(
    files: Sequence[str], said: str | None, output: Path | None, errors: Path | None = None
) -> Places:
    """Find the inputs, and refuse to write over any of them, or two things to one place.

    Raises:
        EmbedserveError: with what is in the way.
    """
    written = [path for path in (output, errors) if path is not None]
    if output is not None:
        written += [Path(f"{output}{SIDECAR}"), manifest_of(output)]
    found = find_sources(files, said, leave_out=written)
    path = resolve_place(output, found.sources) if output is not None else None
    if errors is not None:
        bad = resolve_place(errors, found.sources)
        if bad is None:
            raise EmbedserveError(f"--skip-errors {errors}: name a file to be written")
        beside = [] if path is None else [path, path.with_name(path.name + SIDECAR), manifest_of(path)]
        if bad in beside or (path is not None and parts_of(path) in bad.parents):
            raise EmbedserveError(f"--skip-errors {errors} would be written over by the output: name another")
        errors = bad
    if path is not None:
        for suffix in (SIDECAR, MANIFEST):
            resolve_place(Path(f"{path}{suffix}"), found.sources)
        for source in found.sources:
            if parts_of(path) in Path(source.name).resolve().parents:
                raise EmbedserveError(
                    f"the input {source.name} is in {parts_of(path).name}, which a run to {output} keeps for "
                    "itself: write to another file"
                )
    return Places(found, output, path, errors)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has done.

    Attributes:
        counts: all of it; ``before``: what was there when it began.
        notes: what to tell about the output.
        finished: whether there was nothing left to do.
    """

    counts: Counts
    before: Counts = field(default_factory=Counts)
    notes: Sequence[str] = ()
    finished: bool = False


def run_job(
    embedder: Embedder,
    options: Options,
    places: Places,
    columns: Columns,
    reading: Reading,
    output: Output,
    wanted: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    watch: Callable[[Sight], None] = lambda sight: None,
    stopped: threading.Event | None = None,
) -> Outcome:
    """Embed the inputs into the output.

    Args:
        wanted: everything that decides the output's bytes, besides the inputs.

    Raises:
        EmbedserveError: as :func:`~embedserve.files.run.run`, or what is there cannot be gone on with or
            written over.
        Stopped: as asked for.
    """
    with _refusals_in_words(places.output), ExitStack() as stack:
        sources = places.found.sources
        unfinished, stream = None, None
        if places.path is None:
            if places.errors is not None:
                check_errors(places.errors, overwrite=overwrite)
            file = stack.enter_context(open_stream(places.output, sources))
            stream = LineStream(output.layout, file)
        else:
            assert places.output
            inputs = [source.identity() for source in sources if source.repeatable]
            wanted = {**wanted, "inputs": inputs}
            if resume and (done := find_finished(places.path, wanted)):
                return Outcome(done, done, finished=True)
            check_replaceable(places.output, places.path, overwrite=overwrite)
            if places.errors is not None:
                check_errors(places.errors, overwrite=overwrite)
            unfinished = stack.enter_context(Unfinished(places.path, wanted))
            unfinished.open(resume=resume, restart=overwrite)
            if unfinished.counts.errors and places.errors is None:
                raise EmbedserveError(
                    f"the interrupted run has set {unfinished.counts.errors:,} rows aside: resume with "
                    "--skip-errors FILE"
                )
        target = Target(output.layout, output, unfinished, stream, places.errors)
        before = replace(target.counts)
        if not before.ended:
            progress = Progress()
            rows = read_rows(
                sources,
                columns,
                reading,
                progress,
                output.check_origin,
            )
            run(embedder, options, rows, target, progress=progress, watch=watch, stopped=stopped)
        if unfinished is not None:
            unfinished.finish(output, places.errors)
        return Outcome(target.counts, before, output.notes)


@contextmanager
def _refusals_in_words(output: Path | None) -> Iterator[None]:
    """Whatever the system refuses while an output is written, its closing included."""
    try:
        yield
    except OSError as error:
        raise cannot_write(output, error) from error


def check_errors(path: Path, *, overwrite: bool) -> None:
    """Refuse to write bad rows over a file that holds something else. Raises EmbedserveError."""
    with suppress(OSError, ValueError, TypeError), path.open("rb") as file:
        first = orjson.loads(file.readline())
        if isinstance(first, dict) and list(first) == ERROR_FIELDS:
            return
    check_replaceable(path, path, overwrite=overwrite)


def find_finished(path: Path, wanted: Mapping[str, Any]) -> Counts | None:
    """What a finished run of the same kind has done; None where there is something left to do.

    Raises:
        EmbedserveError: the output is there, and was made otherwise, or by nobody knows whom.
    """
    if parts_of(path).exists() or not path.exists():
        return None
    manifest = read_manifest(manifest_of(path))
    if manifest is None:
        if not path.stat().st_size:
            return None
        raise EmbedserveError(
            f"{path} is not an output of embedserve embed (there is no {manifest_of(path).name} beside it): "
            "name another, or start anew with --overwrite"
        )
    if difference := find_difference(manifest["wanted"], {"version": VERSION, **wanted}):
        raise EmbedserveError(
            f"{path} was made with {difference}: there is nothing to go on with; leave out --resume to make "
            "it anew"
        )
    if manifest["bytes"] != path.stat().st_size:
        raise EmbedserveError(
            f"{path} has {path.stat().st_size:,} bytes, it was written with {manifest['bytes']:,}: somebody "
            "has changed it; leave out --resume to make it anew"
        )
    return Counts(**manifest["counts"])


def is_plain_lines(kind: Kind) -> bool:
    """Whether it can be written to a pipe, bit by bit."""
    return kind == Kind(Format.JSONL)


def describe_ignored(found: Found) -> str | None:
    """What was left out of folders, in a sentence."""
    if not found.ignored:
        return None
    names = ", ".join(Path(name).name for name in found.ignored[:3])
    more = ", …" if len(found.ignored) > 3 else ""
    return (
        f"left out {len(found.ignored)} whose names say nothing that can be read, or that are links to "
        f"folders: {names}{more}"
    )
