"""What an output holds: vectors in the encoding asked for, and the columns that travel with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedserve.embedding.embedder import Embedding
from embedserve.embedding.quantisation import Encoding, to_binary, to_int8
from embedserve.embedding.sparse import SparseVector
from embedserve.files.rows import Row

INDEX = "index"
EMBEDDING = "embedding"
SCALE = "scale"
SPARSE = ("sparse_indices", "sparse_values", "sparse_tokens")
TOKENS = "tokens"
TYPES: dict[Encoding, str] = {"float": "<f4", "int8": "|i1", "binary": "|u1"}


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of an output.

    Attributes:
        dimension: of dense vectors; None: there are none.
        sparse: whether there are sparse vectors.
        encoding: of dense ones; int8 has a scale a row, binary holds eight signs a byte.
        carried: names of the columns that come from the input.
    """

    dimension: int | None = 1024
    sparse: bool = False
    encoding: Encoding = "float"
    carried: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers a dense row has."""
        dimension = self.dimension or 0
        return (dimension + 7) // 8 if self.encoding == "binary" else dimension

    @property
    def scaled(self) -> bool:
        return self.dimension is not None and self.encoding == "int8"

    @property
    def own_columns(self) -> list[str]:
        """Names that no carried column may have."""
        names = [INDEX]
        if self.sparse:
            names += SPARSE
        if self.dimension is not None:
            names += [EMBEDDING, *([SCALE] if self.scaled else [])]
        return [*names, TOKENS]


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows with their vectors.

    Attributes:
        rows: n rows.
        dense: (n, width) as the layout's encoding says; None if there are no dense vectors.
        scales: (n,) float32 for int8.
        sparse: n vectors; None if there are none.
        tokens: of each text.
    """

    rows: Sequence[Row]
    dense: NDArray[Any] | None
    scales: NDArray[np.float32] | None
    sparse: Sequence[SparseVector] | None
    tokens: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)


def make_block(layout: Layout, rows: Sequence[Row], embeddings: Sequence[Embedding]) -> Block:
    """Rows and what the engine gave for them, in the layout's encoding."""
    dense: NDArray[Any] | None = None
    scales = None
    if layout.dimension is not None:
        found = [item.dense for item in embeddings if item.dense is not None]
        dense = np.stack(found) if found else np.empty((0, layout.dimension), np.float32)
        if layout.encoding == "int8":
            dense, scales = to_int8(dense)
        elif layout.encoding == "binary":
            dense = to_binary(dense)
        dense = np.ascontiguousarray(dense, TYPES[layout.encoding])
    sparse = [item.sparse for item in embeddings if item.sparse is not None] if layout.sparse else None
    return Block(rows, dense, scales, sparse, [item.tokens for item in embeddings])
