"""Dense and sparse scores together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.sparse import SparseVector

SPARSE_WEIGHT = 0.05
LONG_SPARSE_WEIGHT = 10.0
LONG_ENTRIES = 170
"""Documents with more sparse entries than this (the median of the collection) are long: a single dense
vector of them says little about a detail, so the terms lead and the dense score decides near-ties."""


def sparse_scores(
    queries: Sequence[SparseVector], documents: Sequence[SparseVector], *, collection: bool = False
) -> Floats:
    """Dot products: (queries, documents) float32.

    Args:
        queries: n sparse vectors.
        documents: m sparse vectors.
        collection: weigh terms also by how rare they are among these documents, and count one mention nearly
            as much as many; better where documents are long, or all about one matter.
    """
    rows = np.repeat(np.arange(len(documents)), [len(vector.indices) for vector in documents])
    columns = np.concatenate([vector.indices for vector in documents] or [np.empty(0, np.int32)])
    values = np.concatenate([vector.values for vector in documents] or [np.empty(0, np.float32)])
    by_term = np.argsort(columns, kind="stable")
    rows, columns, values = rows[by_term], columns[by_term], values[by_term]
    if collection:
        values = np.sqrt(values)
    scores = np.zeros((len(queries), len(documents)), np.float32)
    for row, query in zip(scores, queries, strict=True):
        starts = np.searchsorted(columns, query.indices, "left")
        ends = np.searchsorted(columns, query.indices, "right")
        weights = query.values * (_rarity(ends - starts, len(documents)) if collection else np.float32(1))
        for start, end, weight in zip(starts.tolist(), ends.tolist(), weights, strict=True):
            row[rows[start:end]] += weight * values[start:end]  # a document has a term once
    return scores


def hybrid_scores(
    query_dense: Floats,
    document_dense: Floats,
    query_sparse: Sequence[SparseVector],
    document_sparse: Sequence[SparseVector],
    *,
    weight: float | None = None,
) -> Floats:
    """Cosine plus a share of the sparse score: (queries, documents) float32.

    For collections of long documents (median of more than 170 sparse entries) the sparse score is that of
    ``sparse_scores(..., collection=True)`` with a weight that lets it lead; for all others the plain dot
    product times 0.05.

    Reciprocal-rank fusion is no substitute where languages mix: a query without a real lexical match still
    gets a full ranking of accidental ones (docs/quality.md).

    Args:
        query_dense: (queries, d) of unit length.
        document_dense: (documents, d) of unit length.
        query_sparse: as many as queries.
        document_sparse: as many as documents.
        weight: of the plain dot product, instead of the choice above; 0.1 suits collections in one language,
            and dimensions of 128 and less.

    >>> from embedserve import Embedder, hybrid_scores
    >>> embedder = Embedder()
    >>> q = embedder.embed("reset a password", text_type="query", output_type="dense&sparse")
    >>> d = embedder.embed(["How to reset a password"], text_type="document", output_type="dense&sparse")
    >>> hybrid_scores(q.dense, d.dense, q.sparse, d.sparse).shape
    (1, 1)
    """
    cosine: Floats = np.asarray(query_dense, np.float32) @ np.asarray(document_dense, np.float32).T
    return cosine + lexical_share(query_sparse, document_sparse, weight)


def lexical_share(
    queries: Sequence[SparseVector], documents: Sequence[SparseVector], weight: float | None = None
) -> Floats:
    """What :func:`hybrid_scores` adds to the cosine: (queries, documents) float32."""
    typical = np.median([len(vector.indices) for vector in documents]) if documents else 0
    if weight is None and typical > LONG_ENTRIES:
        return np.float32(LONG_SPARSE_WEIGHT) * sparse_scores(queries, documents, collection=True)
    return np.float32(SPARSE_WEIGHT if weight is None else weight) * sparse_scores(queries, documents)


def _rarity(found: np.ndarray[tuple[int], np.dtype[np.intp]], documents: int) -> Floats:
    """Inverse document frequency within the collection, 1 for a term in none of it."""
    idf: Floats = np.log1p((documents - found + 0.5) / (found + 0.5)) / np.log1p((documents + 0.5) / 0.5)
    return np.asarray(idf, np.float32)
