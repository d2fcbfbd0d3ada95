"""JSON lines: one object a row, also compressed; and the JSON of values that travel along."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from embedserve.errors import EmbedserveError
from embedserve.files.formats import Compression, Kind
from embedserve.files.layout import EMBEDDING, INDEX, SCALE, SPARSE, TOKENS, Block, Layout
from embedserve.files.outputs import Output, Part, concatenate, need_arrow, sync


def dump_value(value: Any) -> bytes:
    """One value as JSON. What JSON has no form for (decimals, durations) becomes its usual text, NaN null."""
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError:  # halves of surrogate pairs, integers over 64 bits, keys that are no text
        return json.dumps(value, default=_plain).encode("ascii")


def _plain(value: Any) -> Any:
    if not hasattr(value, "as_py"):
        return str(value)
    if isinstance(value, Mapping):  # Arrow's own, which Python has no equal for
        return dict(value.items())
    if hasattr(value, "values"):
        return None if value.values is None else list(value.values)
    try:
        return value.cast("string").as_py()
    except Exception:
        return value.as_py()


def dump_line(value: Any) -> bytes:
    return dump_value(value) + b"\n"


def render_lines(layout: Layout, block: Block, *, vectors: bool = True) -> Iterator[bytes]:
    """The rows of a block as JSON lines.

    Args:
        vectors: False: without what a matrix holds, dense vectors and sparse ids and values.
    """
    names = [b"," + orjson.dumps(name) + b":" for name in layout.carried]
    for at, row in enumerate(block.rows):
        own: dict[str, Any] = {}
        if block.sparse is not None:
            sparse = block.sparse[at]
            held = (sparse.indices, sparse.values, list(sparse.tokens))
            own.update(zip(SPARSE, held, strict=True))
        if block.dense is not None and vectors:
            own[EMBEDDING] = block.dense[at]
        if block.scales is not None:
            own[SCALE] = float(block.scales[at])
        own[TOKENS] = block.tokens[at]
        if not vectors:
            own.pop(SPARSE[0], None)
            own.pop(SPARSE[1], None)
        carried = b"".join(name + dump_value(value) for name, value in zip(names, row.carried, strict=True))
        rest = orjson.dumps(own, option=orjson.OPT_SERIALIZE_NUMPY)[1:]
        yield b'{"%s":%d%s,%s\n' % (INDEX.encode(), row.index, carried, rest)


def refuse_types(file: str, types: dict[str, Any]) -> None:
    """Refuse Arrow columns that JSON cannot carry. Raises EmbedserveError."""
    for name, type in types.items():
        if "binary" in (words := str(type)) or words.startswith(("dense_union", "sparse_union")):
            raise EmbedserveError(
                f"{file}: the column {name!r} holds {words}, which JSON cannot carry: leave it out of "
                "--keep, or write .parquet or .arrow"
            )


class LinesFile:
    """A file of lines that is being written, compressed or not."""

    def __init__(self, path: Path, compression: Compression = Compression.NONE) -> None:
        self._file = path.open("wb")
        self._packed: Any = None
        if compression is Compression.GZIP:
            raw = cast(io.BufferedIOBase, self._file)
            self._packed = gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0)
        elif compression is Compression.ZSTD:
            self._packed = need_arrow("zstd").CompressedOutputStream(self._file, "zstd")

    def write(self, lines: Iterator[bytes] | Sequence[bytes]) -> None:
        target = self._packed or self._file
        target.write(b"".join(lines))

    def close(self) -> None:
        if self._packed is not None:
            self._packed.close()
        if not self._file.closed:
            sync(self._file)
            self._file.close()


class JsonOutput(Output):
    """Parts are the output's own form; gzip and zstd allow one behind another, so no part is packed twice."""

    def begin(self, stem: Path) -> Part:
        return _LinesPart(self.layout, self._path(stem), self.kind)

    def assemble(self, stems: Sequence[Path], target: Path) -> None:
        concatenate([self._path(stem) for stem in stems], target)

    def _path(self, stem: Path) -> Path:
        return stem.with_name(stem.name + self.kind.suffix)


class _LinesPart(Part):
    def __init__(self, layout: Layout, path: Path, kind: Kind) -> None:
        self._layout = layout
        self._file = LinesFile(path, kind.compression)

    def add(self, block: Block) -> None:
        self._file.write(render_lines(self._layout, block))

    def close(self) -> None:
        self._file.close()


class LineStream(Part):
    """JSON lines to something that cannot be put beside and renamed: standard output, a pipe, a device."""

    def __init__(self, layout: Layout, file: BinaryIO) -> None:
        self._layout = layout
        self._file = file

    def add(self, block: Block) -> None:
        self._file.write(b"".join(render_lines(self._layout, block)))
        self._file.flush()

    def close(self) -> None:
        self._file.flush()
