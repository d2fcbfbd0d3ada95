"""Sparse vectors on the wire."""

from __future__ import annotations

from typing import Any

from embedserve.embedding.sparse import SparseVector


def sparse_entries(sparse: SparseVector) -> list[dict[str, Any]]:
    """[{index, value, token}, …], largest value first, values of at most four decimals."""
    values = sparse.values.astype(float).round(4).tolist()
    rows = zip(sparse.indices.tolist(), values, sparse.tokens, strict=True)
    return [{"index": index, "value": value, "token": token} for index, value, token in rows]
