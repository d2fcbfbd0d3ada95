"""The lexical side: sparse vectors, and the hashed tail of dense ones.

Both need only the tokenizer and a table of inverse document frequencies over the vocabulary, no network.
A text is first normalised (case, compatibility forms, identifiers split into words), then tokenised; a
piece at the start of a word and the same piece inside one count as one term.

Sources: Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond" (saturation and
length normalisation); Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning" (sketch).
The constants were chosen on half of the public quality suite, see docs/quality.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedserve.embedding.backbones.base import Floats, Ids
from embedserve.embedding.tokenizer import WORD_START, Tokenizer

SATURATION = 0.8
LENGTH_SHARE = 0.75
TYPICAL_LENGTH = 100.0
LONGEST_RATIO = 3.0
IDF_POWER = 0.6
TEN_THOUSAND = np.float32(10_000)
"""Values are rounded to four decimals."""

_IDENTIFIER_BORDER = re.compile(
    r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"
)
_JOINER = re.compile(r"(?<=\w)[\-./:#@+]+(?=\w)")


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A sparse vector over the vocabulary, largest value first (ties: lower index first).

    Attributes:
        indices: (n,) int32 vocabulary ids, each once.
        values: (n,) float32 above zero, rounded to 4 decimals.
        tokens: the pieces as a reader wants them, without the word mark.
    """

    indices: Ids
    values: Floats
    tokens: tuple[str, ...]

    def shown(self) -> str:
        """The weightiest terms in a line."""
        terms = [f"{token} {value:.4f}" for token, value in zip(self.tokens[:3], self.values, strict=False)]
        count = len(self.indices)
        return f"{count} term{'s' * (count != 1)} [{', '.join(terms)}{', …' * (count > 3)}]"

    def __repr__(self) -> str:
        return f"<SparseVector: {self.shown()}>"


@dataclass(frozen=True, slots=True)
class Terms:
    """The distinct terms of one text.

    Attributes:
        ids: (n,) int32 folded vocabulary ids, rising, each with a known weight above zero.
        counts: (n,) float32, how often each occurs.
        total: sum of the counts, the text's length in terms.
    """

    ids: Ids
    counts: Floats
    total: float


NO_TERMS = Terms(np.empty(0, np.int32), np.empty(0, np.float32), 0.0)


@dataclass(frozen=True, slots=True)
class IdfTable:
    """Weights of the vocabulary, one byte each, and which ids stand for the same term.

    Attributes:
        sparse: (vocabulary,) uint8, idf of the folded term on normalised text, 255 = never seen; 0 = no term.
        pooling: (vocabulary,) uint8, idf of the piece on text as it is, for IDF-weighted pooling.
        fold: (vocabulary,) int32, the id that stands for this piece.
    """

    sparse: NDArray[np.uint8]
    pooling: NDArray[np.uint8]
    fold: Ids

    @classmethod
    def load(cls) -> IdfTable:
        """The table shipped with the package (``data/idf.npz``, written by ``scripts/fit/idf.py``)."""
        with resources.files("embedserve.embedding").joinpath("data/idf.npz").open("rb") as file:
            stored = np.load(file)
            sparse, pooling = stored["sparse"], stored["pooling"]
            fold = np.arange(len(sparse), dtype=np.int32)
            fold[stored["word_starts"]] = stored["inner_pieces"]
        return cls(sparse, pooling, fold)


def normalise_terms(text: str) -> str:
    """Text as the lexical side sees it: identifiers split into words, NFKC, case folded."""
    text = _JOINER.sub(" ", text.replace("_", " "))
    text = unicodedata.normalize("NFKC", _IDENTIFIER_BORDER.sub(" ", text))
    return text.casefold()


def hash_ids(ids: Ids) -> NDArray[np.uint64]:
    """A fixed pseudo-random 64-bit number for each id (the finaliser of splitmix64)."""
    x = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class LexicalWeights:
    """Sparse vectors and sketches of texts.

    Args:
        tokenizer: the bundled model's tokenizer.
        idf: the table to weigh with; the shipped one, loaded on first use, when omitted.
    """

    def __init__(self, tokenizer: Tokenizer, idf: IdfTable | None = None) -> None:
        self._tokenizer = tokenizer
        self._given = idf
        self._show = lru_cache(maxsize=65_536)(self._read_piece)
        self._slots = lru_cache(maxsize=8)(self._hash_slots)

    @cached_property
    def _idf(self) -> IdfTable:
        return self._given or IdfTable.load()

    @cached_property
    def _term_weights(self) -> Floats:
        weights: Floats = (self._idf.sparse / np.float32(255)).astype(np.float32)
        return weights

    @cached_property
    def _softened_weights(self) -> Floats:
        weights: Floats = self._term_weights ** np.float32(IDF_POWER)
        return weights

    @cached_property
    def pooling_weights(self) -> Floats:
        """(vocabulary,) float32 in 0..1: how rare each piece is in text as it is."""
        weights: Floats = (self._idf.pooling / np.float32(255)).astype(np.float32)
        return weights

    @property
    def tables(self) -> bytes:
        """What was fitted, for telling one release's vectors from another's."""
        return self._idf.sparse.tobytes() + self._idf.pooling.tobytes()

    @cached_property
    def _signed_weights(self) -> Floats:
        """(vocabulary,) weights with the sign that a term has in a sketch."""
        signs = np.where(self._hashes & np.uint64(1), np.float32(1), np.float32(-1))
        return signs * self._term_weights

    @property
    def _hashes(self) -> NDArray[np.uint64]:
        return hash_ids(np.arange(len(self._idf.fold), dtype=np.int32))

    def _hash_slots(self, buckets: int) -> NDArray[np.int16]:
        """(vocabulary,) where each term goes in a sketch of this size."""
        return ((self._hashes >> np.uint64(8)) % np.uint64(buckets)).astype(np.int16)

    def terms(self, text: str) -> Terms:
        """The text's terms; none for a text without letters or digits."""
        return self.terms_all([text])[0]

    def terms_all(self, texts: Sequence[str]) -> list[Terms]:
        """:meth:`terms` for each of at least one text."""
        sequences = self._tokenizer.encode_batch([normalise_terms(text) for text in texts])
        size = len(self._idf.fold)
        # All texts at once, told apart by an offset: NumPy's price is by the call.
        offsets = np.repeat(np.arange(len(texts)) * size, [len(ids) for ids in sequences])
        folded = self._idf.fold[np.concatenate(sequences)] + offsets
        distinct, counts = np.unique(folded, return_counts=True)
        ids = (distinct % size).astype(np.int32)
        known = self._idf.sparse[ids] > 0
        ids, kept = ids[known], counts[known].astype(np.float32)
        ends = np.searchsorted(distinct[known], np.arange(len(texts) + 1) * size).tolist()
        return [Terms(ids[a:b], kept[a:b], float(kept[a:b].sum())) for a, b in pairwise(ends)]

    def sparse(self, terms: Terms, role: Literal["query", "document"]) -> SparseVector:
        """The sparse vector of one text; empty when it has no terms.

        Args:
            terms: what :meth:`terms` gave.
            role: accepted for symmetry with dense vectors; both sides are weighted alike, because in a
                short text the saturated frequency is nearly constant.
        """
        weights: Floats = self._frequency(terms) * self._softened_weights[terms.ids]
        values = np.rint(weights * TEN_THOUSAND) / TEN_THOUSAND
        shown = values > 0
        ids, values = terms.ids[shown], values[shown]
        order = np.argsort(-values, kind="stable")  # ids rise, so ties keep the lower one first
        ids = ids[order]
        return SparseVector(ids, values[order], tuple(map(self._show, ids.tolist())))

    def sketch(self, terms: Terms, buckets: int) -> Floats:
        """The terms hashed into ``buckets`` signed sums: (buckets,) of unit length, zero without terms.

        The dot product of two sketches is, up to collisions, the cosine of the texts' tf-idf vectors.
        """
        sketch: Floats = self.sketch_all([terms], buckets)[0]
        return sketch

    def sketch_all(self, texts: Sequence[Terms], buckets: int) -> Floats:
        """:meth:`sketch` for each of n texts, at least one: (n, buckets)."""
        ids = np.concatenate([terms.ids for terms in texts])
        rows = np.repeat(np.arange(len(texts)), [len(terms.ids) for terms in texts])
        frequency = np.concatenate([self._frequency(terms) for terms in texts])
        slots, weights = self._slots(buckets)[ids] + rows * buckets, frequency * self._signed_weights[ids]
        sums = np.bincount(slots, weights, minlength=len(texts) * buckets).astype(np.float32)
        sketches: Floats = sums.reshape(len(texts), buckets)
        for row in sketches:
            norm = np.sqrt(np.dot(row, row))
            row[:] = row / norm if norm > 1e-9 else 0
        return sketches

    def _read_piece(self, token_id: int) -> str:
        return self._tokenizer.piece(token_id).removeprefix(WORD_START)

    def _frequency(self, terms: Terms) -> Floats:
        """Saturated term frequencies: (n,) in 0..1."""
        ratio = min(terms.total / TYPICAL_LENGTH, LONGEST_RATIO)
        half = np.float32(SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * ratio))
        frequency: Floats = terms.counts / (terms.counts + half)
        return frequency
