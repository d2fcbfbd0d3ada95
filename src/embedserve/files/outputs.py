"""What every output format does: parts while the run goes on, one file out of the parts at the end.

Most formats cannot be appended to once they are closed, and a file that was not closed cannot be read. So a
run writes parts, each of them whole, and what has to stand in one file is put together when all are there.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from embedserve.errors import EmbedserveError
from embedserve.files.formats import Compression, Format, Kind
from embedserve.files.layout import Block, Layout
from embedserve.files.rows import Origin


class Part(ABC):
    """One part that is being written."""

    @abstractmethod
    def add(self, block: Block) -> None:
        """Take more rows."""

    @abstractmethod
    def close(self) -> None:
        """Make what was added last: it survives the machine from here on."""


class Output(ABC):
    """One format.

    Attributes:
        suffixes: of the files that an output is made of, behind its name; the first is the output itself.
        notes: what to tell about the output when it is made.
    """

    suffixes: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, kind: Kind, layout: Layout) -> None:
        self.kind = kind
        self.layout = layout
        self.notes: list[str] = []

    def check_types(self, file: str, types: dict[str, Any]) -> None:
        """Refuse columns of an input that this format cannot carry. Raises EmbedserveError."""
        if not types:
            return
        from embedserve.files.json_output import refuse_types

        refuse_types(file, types)

    def check_origin(self, origin: Origin) -> None:
        """As :meth:`check_types`, for a file that is about to be read."""
        self.check_types(origin.name, origin.types)

    @abstractmethod
    def begin(self, stem: Path) -> Part:
        """A part whose files are ``stem`` and a suffix."""

    @abstractmethod
    def assemble(self, stems: Sequence[Path], target: Path) -> None:
        """All parts, in order, as ``target`` and what stands beside it."""


def open_output(kind: Kind, layout: Layout) -> Output:
    """The writer of a format.

    Raises:
        EmbedserveError: it cannot carry what is asked for, or needs a library that is not there.
    """
    if kind.format is Format.NPY:
        from embedserve.files.matrix_output import NpyOutput

        if layout.dimension is None or layout.sparse:
            raise EmbedserveError(
                "npy holds dense vectors only: write .npz (sparse ones as a SciPy matrix), .jsonl, .parquet"
            )
        return NpyOutput(kind, layout)
    if kind.format is Format.NPZ:
        from embedserve.files.matrix_output import NpzOutput

        return NpzOutput(kind, layout)
    if kind.columnar:
        from embedserve.files.table_output import TableOutput

        return TableOutput(kind, layout)
    if kind.compression is Compression.ZSTD:
        need_arrow("zstd")
    from embedserve.files.json_output import JsonOutput

    return JsonOutput(kind, layout)


def need_arrow(what: str) -> Any:
    """pyarrow. Raises EmbedserveError without it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise EmbedserveError(f"writing {what} needs pyarrow: pip install 'embedserve[parquet]'") from None
    return pyarrow


def sync(file: Any) -> None:
    """Flush a file of ours to the disk."""
    file.flush()
    os.fsync(file.fileno())


def concatenate(sources: Sequence[Path], target: Path) -> None:
    """Files one behind another, as one, on the disk."""
    with target.open("wb") as file:
        for source in sources:
            with source.open("rb") as part:
                while block := part.read(1 << 20):
                    file.write(block)
        sync(file)
