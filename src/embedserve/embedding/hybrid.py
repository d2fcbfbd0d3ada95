"""Dense and sparse scores together.

Both say in one unit how far a document stands out: the cosine in its own spread over the documents, the
sparse score as the share of the query's weight that the document covers. So one weight serves every
dimension, short queries and long ones, and a query whose words occur nowhere (another language) keeps its
dense ranking, which ranks or scores normalised by their maximum would not (docs/quality.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.sparse import SparseVector

COVERAGE_WEIGHT = 6.0
"""Full coverage counts for as many spreads of the cosine."""
REPEATS_POWER = 0.25
"""A document's values are raised to this: one mention counts nearly as much as many."""
LONG_ENTRIES = 170
"""Sparse entries of a document of which one dense vector still says enough; in longer ones terms count for
more, with the square of the ratio."""
TRUST_RANGE = (0.5, 2.0)


def sparse_scores(
    queries: Sequence[SparseVector], documents: Sequence[SparseVector], *, collection: bool = False
) -> Floats:
    """Dot products: (queries, documents) float32.

    Args:
        queries: n sparse vectors.
        documents: m sparse vectors.
        collection: the share of each query's weight that each document covers instead, 0 … 1; terms are
            weighed again by how rare they are among these documents, and repeats count for little.
    """
    rows = np.repeat(np.arange(len(documents)), [len(vector.indices) for vector in documents])
    columns = np.concatenate([vector.indices for vector in documents] or [np.empty(0, np.int32)])
    values = np.concatenate([vector.values for vector in documents] or [np.empty(0, np.float32)])
    by_term = np.argsort(columns, kind="stable")
    rows, columns, values = rows[by_term], columns[by_term], values[by_term]
    if collection:
        values = values ** np.float32(REPEATS_POWER)
    scores = np.zeros((len(queries), len(documents)), np.float32)
    for row, query in zip(scores, queries, strict=True):
        starts = np.searchsorted(columns, query.indices, "left")
        ends = np.searchsorted(columns, query.indices, "right")
        weights = query.values
        if collection and len(weights):
            weights = weights * _rarity(ends - starts, len(documents))
            weights = weights / weights.sum()
        for start, end, weight in zip(starts.tolist(), ends.tolist(), weights, strict=True):
            row[rows[start:end]] += weight * values[start:end]  # a document has a term once
    return scores


def hybrid_scores(
    query_dense: Floats,
    document_dense: Floats,
    query_sparse: Sequence[SparseVector],
    document_sparse: Sequence[SparseVector],
    *,
    weight: float = COVERAGE_WEIGHT,
) -> Floats:
    """Cosine plus the sparse share: (queries, documents) float32, to rank the documents of one query by.

    The documents are the collection, or the candidates that a first search found: spread and rarity are
    taken over them, so scores of different calls do not compare.

    Args:
        query_dense: (queries, d) of unit length.
        document_dense: (documents, d) of unit length.
        query_sparse: as many as queries.
        document_sparse: as many as documents.
        weight: what full coverage counts for, in spreads of the cosine; less (3) where languages mix.

    >>> from embedserve import Embedder, hybrid_scores
    >>> embedder = Embedder()
    >>> q = embedder.embed("reset a password", text_type="query", output_type="dense&sparse")
    >>> d = embedder.embed(["How to reset a password"], text_type="document", output_type="dense&sparse")
    >>> hybrid_scores(q.dense, d.dense, q.sparse, d.sparse).shape
    (1, 1)
    """
    cosine: Floats = np.asarray(query_dense, np.float32) @ np.asarray(document_dense, np.float32).T
    covered = sparse_scores(query_sparse, document_sparse, collection=True)
    return add_coverage(cosine, covered, median_entries(document_sparse), weight)


def add_coverage(cosine: Floats, covered: Floats, entries: float, weight: float = COVERAGE_WEIGHT) -> Floats:
    """The scores of :func:`hybrid_scores` from its parts: (queries, documents) float32.

    Args:
        cosine: (queries, documents).
        covered: (queries, documents), ``sparse_scores(..., collection=True)``.
        entries: of a typical document, :func:`median_entries`.
        weight: see :func:`hybrid_scores`.
    """
    if not cosine.size:
        return cosine
    spread = cosine.std(axis=1, keepdims=True)
    lean = max(1.0, entries / LONG_ENTRIES) / _trust(cosine, spread)
    hybrid: Floats = cosine + np.float32(weight) * spread * lean**2 * covered
    return hybrid


def median_entries(documents: Sequence[SparseVector]) -> float:
    """Sparse entries of the typical document; 0 without documents."""
    return float(np.median([len(vector.indices) for vector in documents])) if documents else 0.0


def _trust(cosine: Floats, spread: Floats) -> Floats:
    """How far each query's best cosine stands above what chance would give: (queries, 1), about 1.

    The largest of n normal values lies near sqrt(2 log n) spreads above their mean.
    """
    highest = (cosine.max(axis=1, keepdims=True) - cosine.mean(axis=1, keepdims=True)) / (spread + 1e-9)
    by_chance = np.sqrt(2 * np.log(max(cosine.shape[1], 2)))
    trust: Floats = np.clip(highest / by_chance, *TRUST_RANGE).astype(np.float32)
    return trust


def _rarity(found: np.ndarray[tuple[int], np.dtype[np.intp]], documents: int) -> Floats:
    """Inverse document frequency within the collection, 1 for a term in none of it."""
    idf: Floats = np.log1p((documents - found + 0.5) / (found + 0.5)) / np.log1p((documents + 0.5) / 0.5)
    return np.asarray(idf, np.float32)
