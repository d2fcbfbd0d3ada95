"""How each family of models wants to be used: prompts, pooling, end token, sizes, and a way to prove it.

The same weights give useless vectors under the wrong recipe, and nothing crashes when that happens. So a
recipe is data, shown in ``GET /models/{id}`` with its fingerprint, and checked by golden scores at load.

Sources: the models' own cards and reference programs (Qwen/Qwen3-Embedding, FlagOpen/FlagEmbedding,
Wang et al. 2024 for multilingual E5).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from embedserve.embedding import text
from embedserve.embedding.backbones.base import Floats
from embedserve.errors import EmbedserveError, invalid_input

Role = Literal["query", "document"]
"""What a caller sends as ``text_type``; ``None`` where the caller could not say (OpenAI mode)."""


class Pooling(StrEnum):
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Golden:
    """Published cosine scores of a few queries (rows) with a few documents (columns)."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    tolerance: float
    """Largest difference allowed: the publisher's precision plus that of the arithmetic in use."""
    source: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """One family's way from text to vector.

    Prompts are prefixes: the text follows at once, without a separator of ours.
    """

    name: str
    pooling: Pooling
    native_size: int
    max_tokens: int
    """Longest sequence the network reads at once, special tokens included."""
    query: str = ""
    document: str = ""
    unspecified: str = ""
    """Prefix when the caller named no role."""
    instructed: str | None = None
    """Prefix for a query with an instruction, ``{instruct}`` in it; None: the family takes none."""
    default_instruct: str | None = None
    """The task that ``query`` already spells out; ``instruct`` replaces it."""
    end_token: str | None = None
    """Token that must come last, once, also after truncation; None: the tokenizer's own template rules."""
    positions: Literal["rotary", "absolute", "absolute-offset"] = "absolute"
    smallest_size: int | None = None
    """Matryoshka: any size from here to ``native_size``; None: see ``sizes``."""
    sizes: tuple[int, ...] = ()
    """Matryoshka: the sizes trained for, besides ``native_size``."""
    sparse: Literal["lexical", "head"] = "lexical"
    """``head``: the checkpoint has its own; ``lexical``: the shared XLM-R lexical weights serve it."""
    golden: Golden | None = None

    def prompt(self, role: Role | None, instruct: str | None = None) -> str:
        """The prefix for a text in this role.

        ``instruct`` tells what a query is after, so it counts for queries, and for texts whose caller could
        name no role; documents stay as they are whatever it says (the original's rule).
        """
        if role == "document":
            return self.document
        if instruct and self.instructed is not None:
            return self.instructed.replace("{instruct}", instruct)
        return self.query if role == "query" else self.unspecified

    @property
    def dimensions(self) -> Container[int]:
        """Vector sizes this model was trained to be cut to."""
        if self.smallest_size is not None:
            return range(self.smallest_size, self.native_size + 1)
        return (*self.sizes, self.native_size)

    def check_dimension(self, asked: int, *, larger: str | None = None) -> None:
        """Refuse a size that the checkpoint cannot give; zeros are never padded on.

        Args:
            asked: the caller's ``dimension``.
            larger: a model that could serve it, named in the message.

        Raises:
            EmbedserveError: 400 InvalidParameter.
        """
        if asked in self.dimensions:
            return
        raise self._bad_dimension(asked, larger)

    def _bad_dimension(self, asked: int, larger: str | None) -> EmbedserveError:
        if self.smallest_size is not None:
            allowed = f"in [{self.smallest_size}, {self.native_size}]"
        else:
            allowed = f"one of {sorted({*self.sizes, self.native_size})}"
        remedy = f"ask for {self.native_size} or fewer"
        if asked > self.native_size:
            bigger = larger or "a larger checkpoint (such as Qwen3-Embedding-4B, 2560, or -8B, 4096)"
            remedy += f", or serve this name from {bigger}"
        return invalid_input(
            f"Value error, dimension is invalid, it should be {allowed}, got {asked}: {remedy}.: "
            "parameters.dimension"
        )

    def pool_weights(self, length: int) -> Floats:
        """(length,) weights over token states that make this pooling, special tokens included."""
        if self.pooling is Pooling.MEAN:
            return np.ones(length, np.float32)
        weights = np.zeros(length, np.float32)
        weights[0 if self.pooling is Pooling.CLS else -1] = 1
        return weights

    def describe(self) -> dict[str, Any]:
        """What ``GET /models/{id}`` shows; JSON values only."""
        told = {key: value for key, value in asdict(self).items() if value not in (None, ())}
        told["pooling"] = str(self.pooling)
        told["normalised"] = True
        return told

    def fingerprint(self, *parts: str) -> str:
        """16 hex digits that change whenever a vector could: how text is read, recipe, weights, arithmetic.

        What was measured to prove the recipe (``golden``) does not count: it changes no vector.
        """
        told = [text.RULE, replace(self, golden=None).describe(), *parts]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=False).encode())
        return digest.hexdigest()[:16]


def cut_and_normalise(pooled: Floats, dimension: int) -> Floats:
    """(n, d) pooled states to (n, dimension) unit vectors: cut first, then divide by the length.

    A zero row stays zero instead of becoming NaN.
    """
    cut = pooled[:, :dimension]
    lengths = np.sqrt((cut.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    unit: Floats = (cut / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


def e5(native_size: int, *, max_tokens: int = 512) -> Recipe:
    """multilingual-e5-{small,base,large} and e5-*-v2: role prefixes, mean pooling, one size.

    A text without a role takes the query form, the better of the two when both sides come unmarked.
    """
    return Recipe(
        name="e5",
        pooling=Pooling.MEAN,
        native_size=native_size,
        max_tokens=max_tokens,
        query="query: ",
        document="passage: ",
        unspecified="query: ",
        instructed="query: {instruct}: ",
        positions="absolute-offset",
    )


DEFAULT_TASK = "Given a web search query, retrieve relevant passages that answer the query"


def e5_instruct(native_size: int = 1024, *, max_tokens: int = 512) -> Recipe:
    """multilingual-e5-large-instruct: a task before queries (a space after ``Query:``), documents bare."""
    return Recipe(
        name="e5-instruct",
        pooling=Pooling.MEAN,
        native_size=native_size,
        max_tokens=max_tokens,
        query=f"Instruct: {DEFAULT_TASK}\nQuery: ",
        instructed="Instruct: {instruct}\nQuery: ",
        default_instruct=DEFAULT_TASK,
        positions="absolute-offset",
    )


def bge_m3(native_size: int = 1024, *, max_tokens: int = 8192) -> Recipe:
    """bge-m3: no prompts, the first token's state, a sparse head of its own."""
    return Recipe(
        name="bge-m3",
        pooling=Pooling.CLS,
        native_size=native_size,
        max_tokens=max_tokens,
        positions="absolute-offset",
        sparse="head",
    )


QWEN3_GOLDEN = Golden(
    queries=("What is the capital of China?", "Explain gravity"),
    documents=(
        "The capital of China is Beijing.",
        "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects "
        "and is responsible for the movement of planets around the sun.",
    ),
    scores=((0.7646, 0.1414), (0.1355, 0.6000)),
    tolerance=0.01,
    source="Qwen3-Embedding README, 0.6B",
)


BGE_M3_GOLDEN = Golden(
    queries=("What is BGE M3?", "Defination of BM25"),
    documents=(
        "BGE M3 is an embedding model supporting dense retrieval, lexical matching and multi-vector "
        "interaction.",
        "BM25 is a bag-of-words retrieval function that ranks a set of documents based on the query terms "
        "appearing in each document",
    ),
    scores=((0.6265, 0.3477), (0.3499, 0.678)),
    tolerance=0.01,
    source="FlagEmbedding README, bge-m3",
)


def qwen3_embedding(native_size: int, *, max_tokens: int = 8192) -> Recipe:
    """Qwen3-Embedding-{0.6B,4B,8B}: a task before queries, documents bare, the end token's state.

    No space follows ``Query:`` (ports that put one there get other vectors). Any size from 32 up, cut
    before normalising. The networks take 32k tokens; 8192 is what the product sells.
    """
    return Recipe(
        name="qwen3-embedding",
        pooling=Pooling.LAST,
        native_size=native_size,
        max_tokens=max_tokens,
        query=f"Instruct: {DEFAULT_TASK}\nQuery:",
        instructed="Instruct: {instruct}\nQuery:",
        default_instruct=DEFAULT_TASK,
        end_token="<|endoftext|>",
        positions="rotary",
        smallest_size=min(32, native_size),
    )


def check_golden(golden: Golden, queries: Floats, documents: Floats) -> float:
    """The largest difference between the golden scores and those of these unit vectors.

    Args:
        queries: (len(golden.queries), d) unit vectors made under the recipe.
        documents: (len(golden.documents), d) likewise.
    """
    return float(np.abs(queries @ documents.T - np.array(golden.scores)).max())


def read_prompts(prompts: dict[str, str], names: Sequence[str]) -> str:
    """The first of ``names`` in a sentence-transformers prompt table, else no prefix."""
    return next((prompts[name] for name in names if name in prompts), "")
