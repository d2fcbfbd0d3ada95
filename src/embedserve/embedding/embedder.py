"""The one pipeline: text ► tokens ► windows ► network ► pool ► cut ► unit length, and sparse beside it.

Three steps, so that a server can put a queue between them and the library need not:

1. :meth:`Embedder.prepare` tokenises, checks lengths and cuts windows (CPU, microseconds a text),
2. ``backbone.encode`` runs the windows (all the time goes here),
3. :meth:`Embedder.finish` makes the vectors of one text (CPU, microseconds).

Each text is finished from its own windows only: neighbours cannot change a vector.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np

from embedserve.embedding.backbones.base import Backbone, Floats, Ids, Window
from embedserve.embedding.backbones.bundled import open_bundled
from embedserve.embedding.dense import DenseRecipe, Role
from embedserve.embedding.ladder import open_recipe
from embedserve.embedding.recipes import Recipe, e5
from embedserve.embedding.sparse import LexicalWeights, SparseVector, Terms
from embedserve.embedding.tokenizer import WORD_START, Tokenizer
from embedserve.embedding.weights import SHA256
from embedserve.embedding.windows import cut_windows
from embedserve.errors import bad_length, invalid_input

if TYPE_CHECKING:
    from embedserve.settings import Settings

OutputType = Literal["dense", "sparse", "dense&sparse"]
Truncate = Literal["none", "start", "end"]
"""What to do with a text over ``max_tokens``: refuse it, cut its start, or cut its end."""

CHUNK_TOKENS = 4096
"""Tokens per call of the network in the library's own loop: enough to keep all cores busy."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for one call; the same for all its texts."""

    text_type: Role | None = None
    """None means that the caller did not say: the query form for every side (docs/quality.md)."""
    instruct: str | None = None
    dimension: int = 1024
    output_type: OutputType = "dense"
    max_tokens: int = 8192
    truncate: Truncate = "none"

    @property
    def role(self) -> Role:
        return self.text_type or "query"

    @property
    def instructed(self) -> bool:
        """Documents stay as they are, whatever ``instruct`` says."""
        return bool(self.instruct) and self.role == "query"

    @property
    def dense(self) -> bool:
        return self.output_type != "sparse"

    @property
    def sparse(self) -> bool:
        return self.output_type != "dense"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One text, ready for the network."""

    windows: Sequence[Window]
    tokens: int
    cut: int
    terms: Terms | None


@dataclass(frozen=True, slots=True)
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


class Embeddings(Sequence[Embedding]):
    """The vectors of a list of texts, in its order; ``numpy.asarray`` gives the dense matrix."""

    def __init__(self, items: Sequence[Embedding]) -> None:
        self._items = tuple(items)

    @overload
    def __getitem__(self, index: int) -> Embedding: ...
    @overload
    def __getitem__(self, index: slice) -> Embeddings: ...
    def __getitem__(self, index: int | slice) -> Embedding | Embeddings:
        return Embeddings(self._items[index]) if isinstance(index, slice) else self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Embedding]:
        return iter(self._items)

    @property
    def dense(self) -> Floats:
        """(n, dimension) float32, rows of unit length. Raises ValueError for ``output_type="sparse"``."""
        rows = [item.dense for item in self._items if item.dense is not None]
        if len(rows) != len(self._items):
            raise ValueError('no dense vectors: ask for output_type="dense" or "dense&sparse"')
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    @property
    def sparse(self) -> list[SparseVector]:
        """n sparse vectors. Raises ValueError for ``output_type="dense"``."""
        rows = [item.sparse for item in self._items if item.sparse is not None]
        if len(rows) != len(self._items):
            raise ValueError('no sparse vectors: ask for output_type="sparse" or "dense&sparse"')
        return rows

    @property
    def tokens(self) -> int:
        """Tokens of all texts together."""
        return sum(item.tokens for item in self._items)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.dense, dtype)


class Embedder:
    """Texts to vectors on the bundled model, or on a backbone of the caller's.

    Args:
        recipe: ``ladder`` (docs/quality.md) or ``plain`` (e5 as published).
        isa: instruction set of the native engine, see ``embedserve doctor``.
        threads: threads of the engine; the usable cores when omitted.
        weights: a copy of the bundled weights file.
        backbone, tokenizer, model: another network with its tokenizer and recipe, instead of the bundled one.

    Raises:
        ModelLoadError: weights missing or damaged.

    >>> vectors = Embedder().embed(["What is AI?", "人工智能"], dimension=256)
    >>> vectors.dense.shape
    (2, 256)
    """

    def __init__(
        self,
        *,
        recipe: Literal["ladder", "plain"] = "ladder",
        isa: str = "auto",
        threads: int | None = None,
        weights: Path | None = None,
        backbone: Backbone | None = None,
        tokenizer: Tokenizer | None = None,
        model: Recipe | None = None,
    ) -> None:
        if backbone is None or tokenizer is None:
            backbone, tokenizer = open_bundled(isa=isa, threads=threads, path=weights)
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.model = model or e5(backbone.hidden_size)
        self.lexical = LexicalWeights(tokenizer)
        self.recipe: DenseRecipe = open_recipe(recipe, self.lexical, backbone.hidden_size)
        self._prefix = lru_cache(maxsize=1024)(self._encode_prefix)

    @classmethod
    def configure(cls, settings: Settings) -> Embedder:
        """The bundled model as the settings want it. Raises ModelLoadError like the constructor."""
        return cls(
            recipe=settings.recipe, isa=settings.isa, threads=settings.threads, weights=settings.weights
        )

    @property
    def native_dimension(self) -> int:
        """Size of the network's own vectors."""
        return self.backbone.hidden_size

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever a vector could: weights, recipe, arithmetic."""
        recipe = json.dumps(self.recipe.describe(), sort_keys=True, default=str)
        return self.model.fingerprint(SHA256, recipe, self.backbone.name)

    def choose_dimension(self, chosen: int, *, asked: bool) -> int:
        """The dimension to answer with: ``chosen`` by the catalogue, on the caller's word or by default."""
        return chosen

    def close(self) -> None:
        """Give the engine's threads and memory back."""
        self.backbone.close()

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        text_type: Role | None = None,
        dimension: int = 1024,
        output_type: OutputType = "dense",
        instruct: str | None = None,
        truncate: Truncate = "none",
    ) -> Embeddings:
        """Vectors of n texts.

        Args:
            texts: n texts (one string counts as a list of one), each of 1 … 8,192 tokens.
            text_type: ``query`` or ``document``; the query form when omitted.
            dimension: 1 … 2048; the API's steps are 64, 128, 256, 512, 768, 1024, 1536, 2048.
            output_type: ``dense``, ``sparse`` or ``dense&sparse``.
            instruct: task description for queries, English works best; ignored for documents.
            truncate: what to do with longer texts; ``none`` refuses them.

        Returns:
            n :class:`Embedding`; ``.dense`` is the (n, dimension) float32 matrix.

        Raises:
            EmbedserveError: an empty or over-long text, or a value that is not offered.
        """
        if isinstance(texts, str):
            texts = [texts]
        if text_type not in (None, "query", "document"):
            raise invalid_input(f"text_type is {text_type!r}, it should be 'query' or 'document'")
        if output_type not in get_args(OutputType):
            raise invalid_input(
                f"output_type is {output_type!r}, it should be 'dense', 'sparse' or 'dense&sparse'"
            )
        if not 1 <= dimension <= 2048:
            raise invalid_input(f"dimension is {dimension}, it should be in [1, 2048]")
        options = Options(text_type, instruct, dimension, output_type, truncate=truncate)
        prepared = self.prepare(texts, options)
        vectors = self._encode([window for item in prepared for window in item.windows])
        return Embeddings(self.finish_all(prepared, vectors, options))

    def prepare(self, texts: Sequence[str], options: Options) -> list[Prepared]:
        """Tokenise, check and cut into windows. Raises EmbedserveError on the first text out of range."""
        prefix = self._prefix(options.text_type, options.instruct)
        cuts, kept = [], []
        for text, ids in zip(texts, self.tokenizer.encode_batch(texts), strict=True):
            cut = max(0, len(ids) - options.max_tokens)
            if not len(ids) or (cut and options.truncate == "none"):
                raise bad_length(options.max_tokens)
            if cut:
                ids = ids[cut:] if options.truncate == "start" else ids[: options.max_tokens]
                text = self.decode(ids.tolist())
            cuts.append(cut)
            kept.append((text, ids))
        terms: Sequence[Terms | None] = [None] * len(kept)
        if kept and self._needs_terms(options):
            terms = self.lexical.terms_all([text for text, _ in kept])
        return [
            Prepared(self._frame(ids, prefix) if options.dense else (), len(ids), cut, own)
            for (_, ids), cut, own in zip(kept, cuts, terms, strict=True)
        ]

    def finish(self, prepared: Prepared, vectors: Floats, options: Options) -> Embedding:
        """The vectors of one text from the (windows, hidden_size) output of the network for it."""
        return self.finish_all([prepared], vectors, options)[0]

    def finish_all(self, prepared: Sequence[Prepared], vectors: Floats, options: Options) -> list[Embedding]:
        """:meth:`finish` for each text; ``vectors`` holds the rows of all their windows in order."""
        ends = [0, *accumulate(len(item.windows) for item in prepared)]
        parts = [vectors[a:b] for a, b in pairwise(ends)]
        dense: Sequence[Floats | None] = [None] * len(prepared)
        sparse: Sequence[SparseVector | None] = [None] * len(prepared)
        if options.dense and prepared:
            pooled = [
                self.recipe.combine(part, item.windows) for part, item in zip(parts, prepared, strict=True)
            ]
            # A lexical tail knows nothing of instructions: it would pull back what the instruction moved.
            terms = [None if options.instructed else item.terms for item in prepared]
            dense = list(self.recipe.finish(np.stack(pooled), options.role, options.dimension, terms))
        if options.sparse:
            sparse = [self._sparse(item, part, options) for item, part in zip(prepared, parts, strict=True)]
        return [
            Embedding(row, weights, item.tokens, item.cut)
            for item, row, weights in zip(prepared, dense, sparse, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of vocabulary ids (token-array input); special tokens are dropped.

        Raises:
            EmbedserveError: an id outside the vocabulary.
        """
        try:
            pieces = [self.tokenizer.piece(token) for token in ids if token > 3]
        except (IndexError, OverflowError):
            raise invalid_input(
                f"a token id is outside the served model's vocabulary: highest {max(ids)}; "
                "send text, or ids of the XLM-RoBERTa vocabulary"
            ) from None
        return "".join(pieces).replace(WORD_START, " ")

    def _encode_prefix(self, role: Role | None, instruct: str | None) -> Ids:
        prefix = self.tokenizer.encode(self.model.prompt(role, instruct))
        room = self.backbone.window_size // 2
        if len(prefix) > room:
            raise invalid_input(
                f"Value error, instruct has {len(prefix)} tokens, it should have at most {room}: "
                "shorten it to one sentence that names the task.: parameters.instruct"
            )
        return prefix

    def _frame(self, ids: Ids, prefix: Ids) -> list[Window]:
        tokenizer = self.tokenizer
        pieces = cut_windows(ids, prefix, tokenizer.bos_id, tokenizer.eos_id, self.backbone.window_size)
        return [Window(piece, self.recipe.pool_weights(piece, 1 + len(prefix))) for piece in pieces]

    def _needs_terms(self, options: Options) -> bool:
        if options.sparse:
            return True
        return self.recipe.needs_terms(options.dimension) and not options.instructed

    def _sparse(self, prepared: Prepared, vectors: Floats, options: Options) -> SparseVector | None:
        """Sparse weights of one text; ``vectors`` are the network's rows for it."""
        return None if prepared.terms is None else self.lexical.sparse(prepared.terms, options.role)

    def _encode(self, windows: Sequence[Window]) -> Floats:
        """All windows through the network, a chunk of about CHUNK_TOKENS at a time."""
        chunks: list[list[Window]] = []
        room = 0
        for window in windows:
            if len(window.ids) > room or not chunks:
                chunks.append([])
                room = CHUNK_TOKENS
            chunks[-1].append(window)
            room -= len(window.ids)
        parts = [self.backbone.encode(chunk) for chunk in chunks]
        return np.concatenate(parts) if parts else np.empty((0, self.backbone.hidden_size), np.float32)
