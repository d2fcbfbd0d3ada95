"""Dense and sparse scores together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.sparse import SparseVector

SPARSE_WEIGHT = 0.05


def sparse_scores(queries: Sequence[SparseVector], documents: Sequence[SparseVector]) -> Floats:
    """Dot products: (queries, documents) float32."""
    size = 1 + max((int(vector.indices.max()) for vector in documents if len(vector.indices)), default=0)
    rows = np.repeat(np.arange(len(documents)), [len(vector.indices) for vector in documents])
    columns = np.concatenate([vector.indices for vector in documents] or [np.empty(0, np.int32)])
    values = np.concatenate([vector.values for vector in documents] or [np.empty(0, np.float32)])
    by_term = np.argsort(columns, kind="stable")
    rows, columns, values = rows[by_term], columns[by_term], values[by_term]
    scores = np.zeros((len(queries), len(documents)), np.float32)
    for row, query in zip(scores, queries, strict=True):
        known = query.indices < size
        starts = np.searchsorted(columns, query.indices[known], "left")
        ends = np.searchsorted(columns, query.indices[known], "right")
        for start, end, value in zip(starts, ends, query.values[known], strict=True):
            row[rows[start:end]] += value * values[start:end]  # a document has a term once
    return scores


def hybrid_scores(
    query_dense: Floats,
    document_dense: Floats,
    query_sparse: Sequence[SparseVector],
    document_sparse: Sequence[SparseVector],
    *,
    weight: float = SPARSE_WEIGHT,
) -> Floats:
    """Cosine plus ``weight`` times the sparse dot product: (queries, documents) float32.

    Reciprocal-rank fusion is no substitute where languages mix: a query without a real lexical match still
    gets a full ranking of accidental ones (docs/quality.md).

    Args:
        query_dense: (queries, d) of unit length.
        document_dense: (documents, d) of unit length.
        query_sparse: as many as queries.
        document_sparse: as many as documents.
        weight: 0.05 suits collections in many languages; 0.1 those in one, and dimensions of 128 and less.

    >>> from embedserve import Embedder, hybrid_scores
    >>> embedder = Embedder()
    >>> q = embedder.embed("reset a password", text_type="query", output_type="dense&sparse")
    >>> d = embedder.embed(["How to reset a password"], text_type="document", output_type="dense&sparse")
    >>> hybrid_scores(q.dense, d.dense, q.sparse, d.sparse).shape
    (1, 1)
    """
    cosine: Floats = np.asarray(query_dense, np.float32) @ np.asarray(document_dense, np.float32).T
    return cosine + np.float32(weight) * sparse_scores(query_sparse, document_sparse)
