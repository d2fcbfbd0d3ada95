"""What the library gives back: the vectors of one text, and those of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.sparse import SparseVector

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Space:
    """Where vectors belong: only those of one model, fingerprint and dimension may be compared.

    Attributes:
        model: the family's name.
        fingerprint: of weights, recipe and arithmetic, see :attr:`Embedder.fingerprint`.
        dimension: of dense vectors.
        output_type: ``dense``, ``sparse`` or ``dense&sparse``.
        text_type, instruct: as asked for.
    """

    model: str
    fingerprint: str
    dimension: int
    output_type: str = "dense"
    text_type: str | None = None
    instruct: str | None = None

    def describe(self) -> dict[str, Any]:
        """The fields that say something; JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The vectors of one text.

    Attributes:
        dense: (dimension,) float32 of unit length; None for ``output_type="sparse"``.
        sparse: lexical weights, largest first; None for ``output_type="dense"``.
        tokens: tokens of the text that were read (prompt and special tokens not counted).
        cut: tokens dropped by ``truncate``.
    """

    dense: Floats | None
    sparse: SparseVector | None
    tokens: int
    cut: int = 0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.dense is None:
            raise _no_dense()
        return as_array(self.dense, dtype, copy)

    def __repr__(self) -> str:
        told = []
        if self.dense is not None:
            start = ", ".join(f"{value:.4f}" for value in self.dense[:3])
            told.append(f"dense ({len(self.dense)},) float32 [{start}{', …' * (len(self.dense) > 3)}]")
        if self.sparse is not None:
            told.append(f"sparse {self.sparse.shown()}")
        told.append(f"{self.tokens} tokens" + (f", {self.cut} cut off" if self.cut else ""))
        return f"<Embedding: {'; '.join(told)}>"


class Embeddings(Sequence[Embedding]):
    """The vectors of n texts, in their order; a slice of it is another one.

    Args:
        items: one for each text.
        space: where they belong.

    ``numpy.asarray`` gives the dense matrix.
    """

    def __init__(self, items: Sequence[Embedding], space: Space) -> None:
        self._items = tuple(items)
        self.space = space

    @overload
    def __getitem__(self, index: int) -> Embedding: ...
    @overload
    def __getitem__(self, index: slice) -> Embeddings: ...
    def __getitem__(self, index: int | slice) -> Embedding | Embeddings:
        if isinstance(index, slice):
            return Embeddings(self._items[index], self.space)
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Embedding]:
        return iter(self._items)

    def __repr__(self) -> str:
        space, count = self.space, len(self)
        told = [f"{count} text{'s' * (count != 1)}"]
        if space.output_type != "sparse":
            told.append(f"dense ({count}, {space.dimension}) float32")
        if space.output_type != "dense":
            sizes = [len(vector.indices) for vector in self.sparse] or [0]
            few, most = min(sizes), max(sizes)
            told.append(f"sparse {few if few == most else f'{few}–{most}'} terms a text")
        told += [f"{self.tokens} token{'s' * (self.tokens != 1)}", f"model {space.model} {space.fingerprint}"]
        if space.text_type:
            told.append(f"text_type {space.text_type}")
        return f"<Embeddings: {', '.join(told)}>"

    @cached_property
    def dense(self) -> Floats:
        """(n, dimension) float32, rows of unit length; always the same array, so copy it before changing it.

        Raises:
            ValueError: ``output_type="sparse"``.
        """
        if self.space.output_type == "sparse":
            raise _no_dense()
        rows = [item.dense for item in self._items if item.dense is not None]
        return np.stack(rows) if rows else np.empty((0, self.space.dimension), np.float32)

    @property
    def sparse(self) -> list[SparseVector]:
        """n sparse vectors. Raises ValueError for ``output_type="dense"``."""
        if self.space.output_type == "dense":
            raise ValueError('no sparse vectors: ask for output_type="sparse" or "dense&sparse"')
        return [item.sparse for item in self._items if item.sparse is not None]

    @property
    def tokens(self) -> int:
        """Tokens of all texts together."""
        return sum(item.tokens for item in self._items)

    def to_pandas(self, index: Any = None) -> pd.DataFrame:
        """A DataFrame with the columns of :meth:`to_arrow`, arrays in its cells.

        Args:
            index: of the frame, e.g. that of the Series the texts came from; 0 … n-1 when omitted.

        Raises:
            EmbedserveError: pandas is not installed.
        """
        from embedserve.embedding.tables import make_frame

        return make_frame(self, index)

    def to_arrow(self) -> pa.Table:
        """A table: ``embedding`` (a fixed-size list of float32), ``sparse_indices``, ``sparse_values`` and
        ``sparse_tokens`` (lists), as far as they were asked for, and ``tokens``; :attr:`space` as JSON in the
        schema's metadata under ``embedserve``.

        Raises:
            EmbedserveError: pyarrow is not installed.
        """
        from embedserve.embedding.tables import make_table

        return make_table(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return as_array(self.dense, dtype, copy)


def as_array(values: Floats, dtype: Any, copy: bool | None) -> np.ndarray[Any, Any]:
    """NumPy's array protocol. Raises ValueError where ``copy=False`` cannot be kept."""
    wanted = values.dtype if dtype is None else np.dtype(dtype)
    if copy is False and wanted != values.dtype:
        raise ValueError(f"{wanted} needs a copy of what is {values.dtype}: do not ask for copy=False")
    return values.astype(wanted, copy=bool(copy))


def _no_dense() -> ValueError:
    return ValueError('no dense vectors: ask for output_type="dense" or "dense&sparse"')
