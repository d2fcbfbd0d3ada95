"""From pooled token states to the dense vector a caller gets.

A recipe decides how tokens are weighted inside a window, how the windows of a long text become one vector,
and how that vector takes the asked dimension. Every recipe obeys the same contract: unit length, finite,
the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from embedserve.embedding.backbones.base import Floats, Ids, Window
from embedserve.embedding.sparse import Terms

Role = Literal["query", "document"]


class DenseRecipe(Protocol):
    """What the pipeline asks of a way to make dense vectors."""

    name: str

    def pool_weights(self, ids: Ids, prefix: int) -> Floats:
        """(n,) float32 weights of one window's tokens, special tokens included, at least one above zero.

        Args:
            ids: (n,) ids of the window.
            prefix: number of leading ids (``bos`` and the prompt) that are not the caller's text.
        """
        ...

    def combine(self, vectors: Floats, windows: Sequence[Window]) -> Floats:
        """(windows, hidden) pooled states of one long text -> (hidden,)."""
        ...

    def needs_terms(self, dimension: int) -> bool:
        """Whether ``finish`` wants the text's :class:`~embedserve.embedding.sparse.Terms` at this size."""
        ...

    def finish(self, pooled: Floats, role: Role, dimension: int, terms: Sequence[Terms | None]) -> Floats:
        """(n, hidden) pooled states of n texts and their terms -> (n, dimension) float32 of unit length.

        A row may not depend on the rows beside it, to the bit.
        """
        ...

    def describe(self) -> dict[str, object]:
        """Plain facts about the recipe, as ``GET /models/{id}`` shows them."""
        ...


def to_unit(vectors: Floats) -> Floats:
    """(n, d) rows at unit length; one without a direction (all zero, not finite) becomes the first axis.

    A caller's index must never meet a zero or NaN vector, whatever the text was.
    """
    # Row by row: a sum over many rows at once may round differently than over one.
    norms: Floats = np.sqrt(np.array([np.dot(row, row) for row in vectors], np.float32))
    lost = ~(np.isfinite(norms) & (norms >= 1e-12))
    norms[lost] = 1
    unit: Floats = vectors / norms[:, None]
    if lost.any():
        unit[lost] = 0
        unit[lost, 0] = 1
    return unit


def mean_of_windows(vectors: Floats, windows: Sequence[Window]) -> Floats:
    """(windows, hidden) pooled states -> (hidden,), each window counting by the sum of its token weights."""
    if len(vectors) == 1:
        only: Floats = vectors[0]
        return only
    shares = np.array([window.weights.sum() for window in windows], np.float32)
    mean: Floats = shares @ vectors / shares.sum()
    return mean


class PlainRecipe:
    """multilingual-e5-small as published: mean over all tokens, cut or zero-extended to the dimension.

    Source: Wang et al. 2024, "Multilingual E5 Text Embeddings" (mean pooling, unit length). Cutting and
    zero-extending are this package's: e5 was not trained for either.
    """

    name = "plain"

    def pool_weights(self, ids: Ids, prefix: int) -> Floats:
        return np.ones(len(ids), np.float32)

    def combine(self, vectors: Floats, windows: Sequence[Window]) -> Floats:
        return mean_of_windows(vectors, windows)

    def needs_terms(self, dimension: int) -> bool:
        return False

    def finish(self, pooled: Floats, role: Role, dimension: int, terms: Sequence[Terms | None]) -> Floats:
        unit = to_unit(pooled[:, :dimension])
        return np.pad(unit, ((0, 0), (0, dimension - unit.shape[1])))

    def describe(self) -> dict[str, object]:
        return {
            "name": self.name,
            "pooling": "mean over all tokens",
            "below_native_dimension": "cut and normalised",
            "above_native_dimension": "zero-extended",
        }
