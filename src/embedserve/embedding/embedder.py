"""The one pipeline: text ► tokens ► windows ► network ► pool ► cut ► unit length, and sparse beside it.

Three steps, so that a server can put a queue between them and the library need not:

1. :meth:`Embedder.prepare` tokenises, checks lengths and cuts windows (CPU, microseconds a text),
2. ``backbone.encode`` runs the windows (all the time goes here),
3. :meth:`Embedder.finish` makes the vectors of one text (CPU, microseconds).

Each text is finished from its own windows only: neighbours cannot change a vector.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np

from embedserve.embedding.backbones.base import Backbone, Floats, Ids, Window
from embedserve.embedding.backbones.bundled import open_bundled
from embedserve.embedding.dense import DenseRecipe, Role
from embedserve.embedding.inputs import Texts, read_rows
from embedserve.embedding.ladder import open_recipe
from embedserve.embedding.recipes import Recipe, e5
from embedserve.embedding.sparse import LexicalWeights, SparseVector, Terms
from embedserve.embedding.stream import embed_stream
from embedserve.embedding.text import normalise
from embedserve.embedding.tokenizer import WORD_START, Tokenizer
from embedserve.embedding.turns import Turns
from embedserve.embedding.vectors import Embedding as Embedding
from embedserve.embedding.vectors import Embeddings as Embeddings
from embedserve.embedding.vectors import Space
from embedserve.embedding.weights import SHA256
from embedserve.embedding.windows import cut_windows
from embedserve.errors import EmbedserveError, bad_length, in_plain_words, invalid_input

if TYPE_CHECKING:
    from embedserve.settings import Settings

OutputType = Literal["dense", "sparse", "dense&sparse"]
Truncate = Literal["none", "start", "end"]
"""What to do with a text over ``max_tokens``: refuse it, cut its start, or cut its end."""

BUNDLED_NAME = "multilingual-e5-small"
MAX_DIMENSION = 2048
STREAM_ROWS = 256
"""Rows that :meth:`Embedder.embed_iter` takes at a time: enough to fill the engine."""
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


class Embedder:
    """Texts to vectors on the bundled model, or on a backbone of the caller's.

    Threads may share one: they take turns at the network. Use it as a context manager, or :meth:`close` it,
    to give its threads and memory back. A forked child may go on using the bundled model; an Embedder cannot
    be pickled, each process makes its own.

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
        bundled = backbone is None or tokenizer is None
        if backbone is None or tokenizer is None:
            backbone, tokenizer = open_bundled(isa=isa, threads=threads, path=weights)
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.model = model or e5(backbone.hidden_size)
        self._name = BUNDLED_NAME if bundled else self.model.name
        self.lexical = LexicalWeights(tokenizer)
        self.recipe: DenseRecipe = open_recipe(recipe, self.lexical, backbone.hidden_size)
        self._prefix = lru_cache(maxsize=1024)(self._encode_prefix)
        self._turns = Turns(backbone)

    @classmethod
    def configure(cls, settings: Settings) -> Embedder:
        """The bundled model as the settings want it. Raises ModelLoadError like the constructor."""
        return cls(
            recipe=settings.recipe, isa=settings.isa, threads=settings.threads, weights=settings.weights
        )

    @property
    def name(self) -> str:
        """Of the model, for people; :attr:`fingerprint` tells its spaces apart."""
        return self._name

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

    @property
    def default_dimension(self) -> int:
        """The size for callers of :meth:`embed` who name none."""
        return 1024

    def close(self) -> None:
        """Give the engine's threads and memory back, once a call under way has ended. Idempotent."""
        self._turns.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> str:
        raise TypeError("an Embedder holds threads and maps of files: make one in each process")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} on {self.backbone.name}, {self.fingerprint}>"

    def embed(
        self,
        texts: Texts,
        *,
        text_type: Role | None = None,
        dimension: int | None = None,
        output_type: OutputType = "dense",
        instruct: str | None = None,
        truncate: Truncate = "none",
    ) -> Embeddings:
        """Vectors of n texts.

        Args:
            texts: n strings in any iterable (a list, a generator, a column of pandas, polars or pyarrow, …),
                each of 1 … 8,192 tokens; one string counts as a list of one.
            text_type: ``query`` or ``document``; the query form when omitted.
            dimension: 1 … 2048, 1024 when omitted; the API's steps are 64, 128, 256, 512, 768, 1024, 1536,
                2048. Other models have their own sizes and default.
            output_type: ``dense``, ``sparse`` or ``dense&sparse``.
            instruct: task description for queries, English works best; ignored for documents.
            truncate: what to do with longer texts; ``none`` refuses them.

        Returns:
            n :class:`Embedding`; ``.dense`` is the (n, dimension) float32 matrix.

        Raises:
            RowError: a row that is missing, no string (a TypeError, too), blank or too long: see ``.row``.
            EmbedserveError: ``texts`` holds no strings, a value is not offered, or the Embedder is closed.
        """
        options = self._choose(text_type, dimension, output_type, instruct, truncate)
        rows = list(read_rows(texts))
        try:
            items = self.compute(self.prepare(rows, options), options)
        except EmbedserveError as error:
            raise in_plain_words(error) from None
        return Embeddings(items, self._place(options))

    def embed_iter(
        self,
        texts: Texts,
        *,
        text_type: Role | None = None,
        dimension: int | None = None,
        output_type: OutputType = "dense",
        instruct: str | None = None,
        truncate: Truncate = "none",
        chunk: int = STREAM_ROWS,
    ) -> Generator[Embedding, None, None]:
        """As :meth:`embed` for texts without end: one :class:`Embedding` after another, in bounded memory.

        Reading, tokenising, the network and what the caller does with the results overlap. The source is read
        at most three chunks ahead of what came out, in the caller's thread; where that is a generator it is
        closed with this one.

        Args:
            chunk: texts at a time; fewer for a source that waits between its texts.

        Raises:
            RowError, EmbedserveError: as :meth:`embed`, and whatever the source raises, but only after all
                rows before it came out.
        """
        options = self._choose(text_type, dimension, output_type, instruct, truncate)
        if chunk < 1:
            raise EmbedserveError(f"chunk is {chunk}, it should be at least 1")
        return self._stream(texts, options, chunk)

    def _stream(self, texts: Texts, options: Options, chunk: int) -> Generator[Embedding, None, None]:
        try:
            yield from embed_stream(self, read_rows(texts), options, chunk=chunk)
        finally:
            if isinstance(texts, Generator):
                texts.close()

    def _choose(
        self,
        text_type: Role | None,
        dimension: int | None,
        output_type: OutputType,
        instruct: str | None,
        truncate: Truncate,
    ) -> Options:
        """The options of a program, checked: unlike a request's they come through no door's parser."""
        self._turns.check()
        if text_type not in (None, "query", "document"):
            raise EmbedserveError(f"text_type is {text_type!r}, it should be 'query' or 'document'")
        if output_type not in get_args(OutputType):
            raise EmbedserveError(
                f"output_type is {output_type!r}, it should be 'dense', 'sparse' or 'dense&sparse'"
            )
        if truncate not in get_args(Truncate):
            raise EmbedserveError(f"truncate is {truncate!r}, it should be 'none', 'start' or 'end'")
        if not isinstance(instruct, str | None):
            raise EmbedserveError(f"instruct is {instruct!r}, it should be a string")
        if dimension is None:
            dimension = self.default_dimension
        if not hasattr(dimension, "__index__"):
            raise EmbedserveError(f"dimension is {dimension!r}, it should be a whole number")
        self._check_dimension(dimension)
        return Options(text_type, instruct, int(dimension), output_type, truncate=truncate)

    def _check_dimension(self, dimension: int) -> None:
        if not 1 <= dimension <= MAX_DIMENSION:
            raise EmbedserveError(f"dimension is {dimension}, it should be in [1, {MAX_DIMENSION}]")

    def _place(self, options: Options) -> Space:
        asked = (options.dimension, options.output_type, options.text_type, options.instruct)
        return Space(self.name, self.fingerprint, *asked)

    def prepare(self, texts: Sequence[str], options: Options) -> list[Prepared]:
        """Tokenise, check and cut into windows. Raises EmbedserveError on the first text out of range."""
        if options.instruct:
            options = replace(options, instruct=normalise(options.instruct))
        return self._prepare([normalise(text) for text in texts], options)

    def compute(self, prepared: Sequence[Prepared], options: Options) -> list[Embedding]:
        """The vectors of prepared texts, here and now; servers put a scheduler between the two steps."""
        vectors = self._encode([window for item in prepared for window in item.windows])
        return self.finish_all(prepared, vectors, options)

    def _prepare(self, texts: Sequence[str], options: Options) -> list[Prepared]:
        """:meth:`prepare` for normalised texts."""
        prefix = self._prefix(options.text_type, options.instruct)
        cuts: list[int] = []
        kept: list[tuple[str, Ids]] = []
        for text, ids in zip(texts, self.tokenizer.encode_batch(texts), strict=True):
            cut = max(0, len(ids) - options.max_tokens)
            if not len(ids) or (cut and options.truncate == "none"):
                raise bad_length(options.max_tokens, len(kept), len(ids))
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
        parts = [self._turns.encode(chunk) for chunk in chunks]
        return np.concatenate(parts) if parts else np.empty((0, self.backbone.hidden_size), np.float32)
