"""A run from files to a file: reading, the network and writing at the same time, each in a thread of its own.

The network is what takes the time, so it must never wait: groups of rows are read and tokenised ahead of it,
and vectors are rendered and written behind it. Two short queues hold what is between, so memory does not grow
with the files.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.embedder import CHUNK_TOKENS, Embedder, Options
from embedserve.errors import EmbedserveError
from embedserve.files.errors import BadRow
from embedserve.files.groups import (
    PART_ROWS,
    PART_TOKENS,
    Chain,
    Group,
    error_line,
    make_groups,
    prepare_group,
)
from embedserve.files.json_output import LinesFile
from embedserve.files.layout import Layout, make_block
from embedserve.files.outputs import Output, Part
from embedserve.files.places import cannot_write
from embedserve.files.reader import Progress
from embedserve.files.rows import Row
from embedserve.files.unfinished import ERRORS, Counts, Unfinished

AHEAD = 3
"""Groups that may wait before the network, and behind it."""
SWITCH_SECONDS = 0.0005
"""How long Python lets a thread go on while the network's wants to start its next piece."""


class Stopped(Exception):
    """Somebody asked the run to end."""


class BadRowFound(EmbedserveError):
    """A row that cannot be taken ended the run."""

    def __init__(self, row: BadRow) -> None:
        super().__init__(f"{row}. Such rows are set aside, and the rest goes on, with --skip-errors FILE")


@dataclass(slots=True)
class Sight:
    """What a run shows while it goes on.

    Attributes:
        read, written, tokens: done so far, what an earlier run did included.
        share: of the inputs, 0 … 1; 0 where that is not known.
    """

    read: int = 0
    written: int = 0
    tokens: int = 0
    share: float = 0.0


class Target:
    """Where groups go: parts of a file, or a stream.

    Args:
        output: the format.
        unfinished: the folder of parts; None for a stream.
        stream: what to write to instead.
        errors: where bad rows go; None ends the run at the first.
    """

    def __init__(
        self,
        layout: Layout,
        output: Output | None,
        unfinished: Unfinished | None,
        stream: Part | None,
        errors: Path | None,
    ) -> None:
        self.layout = layout
        self.output = output
        self.unfinished = unfinished
        self.counts = unfinished.counts if unfinished else Counts()
        self._stream = stream
        self.skips_errors = errors is not None
        self._pending = replace(self.counts)
        self._part: Part | None = None
        self._wrong: LinesFile | None = None if unfinished or errors is None else LinesFile(errors)

    def add(self, group: Group, embeddings: Sequence[Any]) -> None:
        """Write a group."""
        block = make_block(self.layout, group.rows, embeddings)
        self._open_part().add(block)
        if group.bad:
            if self._wrong is None:
                assert self.unfinished
                stem = self.unfinished.stem(self.counts.parts)
                self._wrong = LinesFile(stem.with_name(stem.name + ERRORS))
            self._wrong.write([error_line(row) for row in group.bad])
        pending = self._pending
        pending.read += group.read
        pending.written += len(group.rows)
        pending.skipped += group.skipped
        pending.errors += len(group.bad)
        pending.cut += sum(item.cut > 0 for item in group.prepared)
        pending.tokens += group.tokens
        pending.digest = group.digest
        if group.closes:
            self.close_part()

    @property
    def path(self) -> Path | None:
        """The output; None for a stream."""
        return self.unfinished.path if self.unfinished else None

    def _open_part(self) -> Part:
        if self._stream is not None:
            return self._stream
        if self._part is None:
            assert self.output
            assert self.unfinished
            self._part = self.output.begin(self.unfinished.stem(self.counts.parts))
        return self._part

    def close_part(self, *, ended: bool = False) -> None:
        """From here on what was added survives, and counts."""
        if self.unfinished is None:
            if ended and self._wrong is not None:
                self._wrong.close()
            self.counts = replace(self._pending)
            return
        if self._part is not None or (ended and not self.counts.parts):
            self._open_part().close()
            if self._wrong is not None:
                self._wrong.close()
            self._part = self._wrong = None
            self._pending.parts += 1
        self._pending.ended = ended
        self.counts = self.unfinished.counts = replace(self._pending)
        self.unfinished.save()


def run(
    embedder: Embedder,
    options: Options,
    rows: Iterator[Row | BadRow],
    target: Target,
    *,
    progress: Progress | None = None,
    watch: Callable[[Sight], None] = lambda sight: None,
    stopped: threading.Event | None = None,
) -> Counts:
    """Embed all rows that the target does not have yet.

    Args:
        rows: from the first one on; those that are done are read again and compared.
        stopped: set from elsewhere: the run raises :class:`Stopped` after the piece it is at.

    Raises:
        EmbedserveError: a bad row, unreadable input, other rows than before, or the output cannot be written.
        Stopped: as asked for; what was done is in the parts.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    line = _Line(embedder, options, target, progress or Progress(), stopped or threading.Event())
    try:
        line.run(rows, watch)
    finally:
        sys.setswitchinterval(before)
    return target.counts


class _Line:
    """The three stations of a run. What fails at one goes down the line in its place, so that everything
    before it is written first; only a writer that fails stops the others at once."""

    def __init__(
        self,
        embedder: Embedder,
        options: Options,
        target: Target,
        progress: Progress,
        stopped: threading.Event,
    ) -> None:
        self._embedder = embedder
        self._options = options
        self._target = target
        self._progress = progress
        self._stopped = stopped
        self._failed: BaseException | None = None
        self._over = threading.Event()
        self._prepared: queue.Queue[Group | BaseException | None] = queue.Queue(AHEAD)
        self._embedded: queue.Queue[tuple[Group, Floats] | BaseException | None] = queue.Queue(AHEAD)

    def run(self, rows: Iterator[Row | BadRow], watch: Callable[[Sight], None]) -> None:
        # A reader may wait for ever for standard input, so nobody waits for him.
        threading.Thread(target=self._prepare, args=(rows,), name="read", daemon=True).start()
        writer = threading.Thread(target=self._write, args=(watch,), name="write")
        writer.start()
        try:
            self._embed()
        except _Over:
            pass
        except BaseException:
            self._over.set()
            raise
        finally:
            writer.join()
        if self._failed is not None:
            raise self._failed

    def _prepare(self, rows: Iterator[Row | BadRow]) -> None:
        last: BaseException | None = None
        try:
            for group in self._groups(rows):
                self._put(self._prepared, group)
                if group.bad and not self._target.skips_errors:
                    break
        except _Over:
            return
        except BaseException as error:
            last = error
        with suppress(_Over):
            self._put(self._prepared, last)

    def _groups(self, rows: Iterator[Row | BadRow]) -> Iterator[Group]:
        chain = Chain()
        part_rows = part_tokens = 0
        for taken, changes in make_groups(self._unread(rows, chain)):
            group = prepare_group(self._embedder, taken, self._options)
            for row in taken:
                chain.add(row)
            part_rows += group.read
            part_tokens += group.tokens
            group.digest, group.bytes_read = chain.value, self._progress.done
            group.closes = changes or part_rows >= PART_ROWS or part_tokens >= PART_TOKENS
            if group.closes:
                part_rows = part_tokens = 0
            yield group

    def _unread(self, rows: Iterator[Row | BadRow], chain: Chain) -> Iterator[Row | BadRow]:
        """The rows after those that are done, which must be the ones that were read then."""
        done = self._target.counts
        for number in range(done.read):
            if self._stopped.is_set():
                raise Stopped
            row = next(rows, None)
            if row is None:
                raise EmbedserveError(
                    f"the inputs have {number:,} rows now, and {done.read:,} were done: start anew with "
                    "--overwrite"
                )
            chain.add(row)
        if done.read and chain.value != done.digest:
            raise EmbedserveError(
                f"the first {done.read:,} rows of the inputs are others than before (digest "
                f"{done.digest[:8]}, now {chain.value[:8]}): start anew with --overwrite"
            )
        yield from rows

    def _embed(self) -> None:
        while (item := self._get()) is not None:
            if isinstance(item, BaseException):
                self._put(self._embedded, item)
                return
            wanted = self._target.skips_errors or not item.bad
            windows = [window for each in item.prepared for window in each.windows] if wanted else []
            try:
                vectors = self._encode(windows)
            except (Stopped, EmbedserveError) as error:
                self._put(self._embedded, error)
                return
            self._put(self._embedded, (item, vectors))
        self._put(self._embedded, None)

    def _encode(self, windows: Sequence[Window]) -> Floats:
        backbone = self._embedder.backbone
        parts = [np.empty((0, backbone.hidden_size), np.float32)]
        for piece in cut_pieces(windows):
            if self._stopped.is_set():
                raise Stopped
            parts.append(backbone.encode(piece))
        return np.concatenate(parts)

    def _write(self, watch: Callable[[Sight], None]) -> None:
        try:
            self._write_all(watch)
        except OSError as error:
            self._failed = cannot_write(self._target.path, error)
        except BaseException as error:
            self._failed = error
        finally:
            self._over.set()

    def _write_all(self, watch: Callable[[Sight], None]) -> None:
        counts = self._target.counts
        sight = Sight(counts.read, counts.written, counts.tokens)
        while not self._over.is_set():
            try:
                item = self._embedded.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                self._target.close_part(ended=True)
                return
            if isinstance(item, BaseException):
                raise item
            group, vectors = item
            if group.bad and not self._target.skips_errors:
                raise BadRowFound(group.bad[0])
            self._target.add(group, self._embedder.finish_all(group.prepared, vectors, self._options))
            sight.read += group.read
            sight.written += len(group.rows)
            sight.tokens += group.tokens
            sight.share = group.bytes_read / self._progress.total if self._progress.total else 0.0
            watch(sight)

    def _put(self, to: queue.Queue[Any], item: Any) -> None:
        while not self._over.is_set():
            try:
                to.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
        raise _Over

    def _get(self) -> Group | BaseException | None:
        while not self._over.is_set():
            if self._stopped.is_set():
                return Stopped()
            try:
                return self._prepared.get(timeout=0.1)
            except queue.Empty:
                continue
        raise _Over


class _Over(Exception):
    """The writer has ended."""


def cut_pieces(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Windows in pieces of about CHUNK_TOKENS, one call of the network each."""
    piece: list[Window] = []
    room = CHUNK_TOKENS
    for window in windows:
        if piece and len(window.ids) > room:
            yield piece
            piece, room = [], CHUNK_TOKENS
        piece.append(window)
        room -= len(window.ids)
    if piece:
        yield piece
