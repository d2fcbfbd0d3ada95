"""embedserve: text-embedding-v4 on your own machine.

>>> from embedserve import Embedder
>>> Embedder().embed(["What is AI?"], dimension=512, output_type="dense&sparse").dense.shape
(1, 512)

Importing this package loads nothing heavy; the names below arrive on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedserve.embedding.embedder import Embedder
    from embedserve.embedding.hybrid import hybrid_scores
    from embedserve.embedding.sparse import SparseVector
    from embedserve.embedding.vectors import Embedding, Embeddings, Space
    from embedserve.errors import EmbedserveError, RowError

__version__ = "0.1.0"

_HOMES = {
    "Embedder": "embedserve.embedding.embedder",
    "Embedding": "embedserve.embedding.vectors",
    "Embeddings": "embedserve.embedding.vectors",
    "EmbedserveError": "embedserve.errors",
    "RowError": "embedserve.errors",
    "Space": "embedserve.embedding.vectors",
    "SparseVector": "embedserve.embedding.sparse",
    "hybrid_scores": "embedserve.embedding.hybrid",
}

__all__ = [
    "Embedder",
    "Embedding",
    "Embeddings",
    "EmbedserveError",
    "RowError",
    "Space",
    "SparseVector",
    "__version__",
    "hybrid_scores",
]


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
