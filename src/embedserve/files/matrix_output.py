"""NumPy: a matrix as .npy, or dense and sparse ones in an .npz; what they have no place for in a sidecar.

The sidecar (``FILE.rows.jsonl``) has a line for each row of the matrix: its index, ids and kept columns,
tokens, the scale of int8 codes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from embedserve.files.json_output import LinesFile, render_lines
from embedserve.files.layout import TYPES, Block
from embedserve.files.outputs import Output, Part, concatenate, sync
from embedserve.files.sources import SIDECAR

VOCABULARY = 250_002
"""Columns of a sparse matrix: ids of the XLM-RoBERTa vocabulary."""


class _Matrix(Output):
    suffixes: ClassVar[tuple[str, ...]] = ("", SIDECAR)

    def begin(self, stem: Path) -> Part:
        return _MatrixPart(self, stem)

    def _files(self, stems: Sequence[Path], suffix: str) -> list[Path]:
        return [stem.with_name(stem.name + suffix) for stem in stems]


class _MatrixPart(Part):
    """Arrays of one part, each an .npy of its own, and the sidecar's lines."""

    def __init__(self, output: _Matrix, stem: Path) -> None:
        self._output = output
        self._stem = stem
        self._lines = LinesFile(stem.with_name(stem.name + SIDECAR))
        self._blocks: list[Block] = []

    def add(self, block: Block) -> None:
        self._lines.write(render_lines(self._output.layout, block, vectors=False))
        self._blocks.append(block)

    def close(self) -> None:
        self._lines.close()
        for name, array in arrays_of(self._output, self._blocks).items():
            with self._stem.with_name(f"{self._stem.name}.{name}.npy").open("wb") as file:
                npy.write_array(file, array, allow_pickle=False)
                sync(file)


def arrays_of(output: Output, blocks: Sequence[Block]) -> dict[str, NDArray[Any]]:
    """What a part holds: ``dense``, ``data``, ``indices``, ``counts`` (of each sparse row), ``index``, …"""
    layout = output.layout
    arrays: dict[str, NDArray[Any]] = {}
    if layout.dimension is not None:
        empty = np.empty((0, layout.width), TYPES[layout.encoding])
        arrays["dense"] = np.concatenate([empty, *(b.dense for b in blocks if b.dense is not None)])
    if isinstance(output, NpyOutput):
        return arrays
    if layout.sparse:
        rows = [sparse for block in blocks for sparse in block.sparse or ()]
        orders = [np.argsort(sparse.indices) for sparse in rows]
        arrays["data"] = _join([s.values[order] for s, order in zip(rows, orders, strict=True)], "<f4")
        arrays["indices"] = _join([s.indices[order] for s, order in zip(rows, orders, strict=True)], "<i4")
        arrays["counts"] = np.array([len(sparse.indices) for sparse in rows], "<i8")
    arrays["index"] = np.array([row.index for block in blocks for row in block.rows], "<i8")
    arrays["tokens"] = np.array([count for block in blocks for count in block.tokens], "<i8")
    if layout.scaled:
        arrays["scale"] = _join([block.scales for block in blocks if block.scales is not None], "<f4")
    return arrays


def _join(parts: Sequence[NDArray[Any]], type: str) -> NDArray[Any]:
    return np.concatenate([np.empty(0, type), *parts]).astype(type, copy=False)


class NpyOutput(_Matrix):
    """A (rows, width) matrix."""

    def assemble(self, stems: Sequence[Path], target: Path) -> None:
        with target.open("wb") as file:
            write_joined(file, self._files(stems, ".dense.npy"))
            sync(file)
        concatenate(self._files(stems, SIDECAR), target.with_name(target.name + SIDECAR))


class NpzOutput(_Matrix):
    """``dense``, ``index``, ``tokens``, ``scale``, and what ``scipy.sparse.load_npz`` looks for."""

    def assemble(self, stems: Sequence[Path], target: Path) -> None:
        with target.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, write in self._members(stems):
                    member = zipfile.ZipInfo(f"{name}.npy")  # a fixed date: equal runs give equal bytes
                    with archive.open(member, "w", force_zip64=True) as into:
                        write(cast(BinaryIO, into))
            sync(file)
        concatenate(self._files(stems, SIDECAR), target.with_name(target.name + SIDECAR))

    def _members(self, stems: Sequence[Path]) -> Iterator[tuple[str, Callable[[BinaryIO], None]]]:
        def joined(name: str) -> tuple[str, Callable[[BinaryIO], None]]:
            return name, lambda into: write_joined(into, self._files(stems, f".{name}.npy"))

        def plain(name: str, array: Any) -> tuple[str, Callable[[BinaryIO], None]]:
            return name, lambda into: npy.write_array(into, np.asanyarray(array), allow_pickle=False)

        if self.layout.dimension is not None:
            yield joined("dense")
        if self.layout.scaled:
            yield joined("scale")
        if self.layout.sparse:
            counts = [np.load(path) for path in self._files(stems, ".counts.npy")]
            ends = np.concatenate([np.zeros(1, "<i8"), np.cumsum(np.concatenate(counts), dtype="<i8")])
            yield joined("indices")
            yield plain("indptr", ends)
            yield plain("format", np.array(b"csr"))
            yield plain("shape", np.array([len(ends) - 1, VOCABULARY], "<i8"))
            yield joined("data")
        yield joined("index")
        yield joined("tokens")


def write_joined(into: BinaryIO, files: Sequence[Path]) -> None:
    """Arrays of several .npy files, one below another, as one .npy."""
    heads = []
    for path in files:
        with path.open("rb") as file:
            npy.read_magic(file)
            heads.append((*npy.read_array_header_1_0(file), file.tell()))
    rows = sum(shape[0] for shape, _, _, _ in heads)
    shape, _, dtype, _ = heads[0]
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape[1:])}
    npy.write_array_header_1_0(into, header)
    for path, (_, _, _, offset) in zip(files, heads, strict=True):
        with path.open("rb") as file:
            file.seek(offset)
            while block := file.read(1 << 20):
                into.write(block)
