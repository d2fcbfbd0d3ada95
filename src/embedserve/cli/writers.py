"""Vectors to a file, a row at a time: JSON Lines, NumPy, Parquet."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.embedder import Embedding
from embedserve.embedding.quantisation import Encoding, to_binary, to_int8
from embedserve.errors import EmbedserveError

NPY_TYPES: dict[Encoding, str] = {"float": "<f4", "int8": "|i1", "binary": "|u1"}


def open_writer(format: str, path: Path | None, *, dense: bool, encoding: Encoding = "float") -> Writer:
    """The writer for ``jsonl``, ``npy`` or ``parquet``. Raises EmbedserveError where they do not fit."""
    if format == "jsonl":
        return JsonlWriter(path, encoding)
    if path is None:
        raise EmbedserveError(f"--format {format} needs a file to write to: add --output FILE.{format}")
    if format == "parquet":
        return ParquetWriter(path, encoding)
    if not dense:
        raise EmbedserveError("--format npy holds dense vectors only: use jsonl or parquet for sparse ones")
    return NpyWriter(path, encoding)


def row_of(index: int, embedding: Embedding, encoding: Encoding = "float") -> dict[str, Any]:
    """One embedding as plain columns; the column ``index`` is the line it came from.

    int8 vectors come with their ``scale``; binary ones are bytes of eight signs each.
    """
    row: dict[str, Any] = {"index": index}
    if embedding.sparse is not None:
        sparse = embedding.sparse
        row["sparse_indices"], row["sparse_values"] = sparse.indices, sparse.values
        row["sparse_tokens"] = list(sparse.tokens)
    if embedding.dense is not None:
        row["embedding"], scale = encode_dense(embedding.dense, encoding)
        if encoding == "int8":
            row["scale"] = scale
    row["tokens"] = embedding.tokens
    return row


def encode_dense(vector: Floats, encoding: Encoding) -> tuple[NDArray[Any], float]:
    """A vector in the encoding asked for, and its int8 scale (1 for the others)."""
    if encoding == "int8":
        codes, scales = to_int8(vector[None])
        return codes[0], float(scales[0])
    return (to_binary(vector[None])[0] if encoding == "binary" else vector), 1.0


class Writer(ABC):
    """Takes one embedding after another; the file is complete when the ``with`` block ends."""

    def __init__(self, path: Path | None, encoding: Encoding = "float") -> None:
        self.encoding = encoding
        try:
            self._file: BinaryIO = path.open("wb") if path else sys.stdout.buffer
        except OSError as error:
            raise EmbedserveError(f"cannot write {path}: {error.strerror}") from None
        self._owned = path is not None

    @abstractmethod
    def write(self, index: int, embedding: Embedding) -> None:
        """Add the vectors of line ``index``."""

    def finish(self) -> None:  # noqa: B027 (most formats need nothing)
        """Complete the file; called when everything was written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        self._file.flush()
        if self._owned:
            self._file.close()


class JsonlWriter(Writer):
    """One JSON object a line."""

    def write(self, index: int, embedding: Embedding) -> None:
        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        self._file.write(orjson.dumps(row_of(index, embedding, self.encoding), option=option))


class NpyWriter(Writer):
    """A (lines, dimension) matrix: float32, int8 codes (scales left out), or bytes of sign bits.

    Rows are streamed; the header, which NumPy pads so that the number of rows can grow in place, is written
    again at the end.
    """

    rows = 0
    columns = 0

    def write(self, index: int, embedding: Embedding) -> None:
        if index != self.rows:
            raise EmbedserveError(
                f"line {self.rows + 1} is blank, and an npy matrix has no place for it: remove blank lines, "
                "or use --format jsonl, which keeps line numbers"
            )
        assert embedding.dense is not None
        row, _ = encode_dense(embedding.dense, self.encoding)
        if not self.rows:
            self.columns = len(row)
            self._write_header()
        self.rows += 1
        self._file.write(np.ascontiguousarray(row, NPY_TYPES[self.encoding]).tobytes())

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        header = {
            "descr": NPY_TYPES[self.encoding],
            "fortran_order": False,
            "shape": (self.rows, self.columns),
        }
        npy.write_array_header_1_0(self._file, header)


class ParquetWriter(Writer):
    """Columns index, embedding (list<float>), sparse_*, tokens; needs the extra ``parquet``."""

    GROUP_ROWS = 4096

    def __init__(self, path: Path, encoding: Encoding = "float") -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise EmbedserveError(
                "--format parquet needs pyarrow: pip install 'embedserve[parquet]'"
            ) from None
        super().__init__(path, encoding)
        self._arrow = pyarrow
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def write(self, index: int, embedding: Embedding) -> None:
        self._rows.append(row_of(index, embedding, self.encoding))
        if len(self._rows) >= self.GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        if self._rows or self._writer is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        arrow = self._arrow
        columns = {name: [row[name] for row in self._rows] for name in (self._rows or [{"index": 0}])[0]}
        types = {
            "index": arrow.int64(),
            "embedding": arrow.list_(
                {"float": arrow.float32(), "int8": arrow.int8(), "binary": arrow.uint8()}[self.encoding]
            ),
            "scale": arrow.float32(),
            "sparse_indices": arrow.list_(arrow.int32()),
            "sparse_values": arrow.list_(arrow.float32()),
            "sparse_tokens": arrow.list_(arrow.string()),
            "tokens": arrow.int64(),
        }
        table = arrow.table({name: arrow.array(values, types[name]) for name, values in columns.items()})
        if self._writer is None:
            self._writer = arrow.parquet.ParquetWriter(self._file, table.schema, compression="zstd")
        self._writer.write_table(table)
        self._rows.clear()
