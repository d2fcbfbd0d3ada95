"""Fit the table of inverse document frequencies that ships as ``embedding/data/idf.npz``.

    python scripts/fit/idf.py PATH/TO/calib

Only rounded, aggregate frequencies are stored. The result depends on nothing but the corpora and the
vocabulary: run twice, it writes the same bytes.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from calibration import read_texts
from numpy.typing import NDArray

from embedserve.embedding.sparse import normalise_terms
from embedserve.embedding.tokenizer import WORD_START, UnigramTokenizer
from embedserve.embedding.weights import BundledWeights

SMALLEST_LANGUAGE = 1_500
"""Languages with fewer texts have no estimate of their own."""
POOLING_PRIOR = 300.0
"""How many texts the frequency over all languages counts for in a language's estimate."""
SPARSE_PRIOR = 1_000.0
"""The same for sparse weights, where one badly estimated term can decide a ranking."""
EXPECTED_TEXTS = 30_000.0
"""How many texts the vocabulary's own scores count for."""
LANGUAGES_SHARING = 20.0
"""By how much a piece is more frequent in its own language than over the vocabulary's training text."""
TOKENS_PER_TEXT = 30.0


def fold_pieces(pieces: list[str]) -> NDArray[np.int32]:
    """The id that stands for each piece: that of the same piece without the word mark, where there is one."""
    first: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        first.setdefault(piece, i)
    fold = np.arange(len(pieces), dtype=np.int32)
    for i, piece in enumerate(pieces):
        if len(piece) > 1 and piece[0] == WORD_START:
            fold[i] = first.get(piece[1:], i)
    return fold


def expect_frequencies(scores: NDArray[np.float32], fold: NDArray[np.int32]) -> NDArray[np.float64]:
    """(vocabulary,) guess of each term's document frequency within a language, from the vocabulary itself.

    A Unigram piece's score is its log probability in the vocabulary's training text, which covers a hundred
    languages; terms that the corpora miss are not all equally rare.
    """
    probabilities = np.where(scores == 0, 0.0, np.exp(scores.astype(np.float64)))  # 0: control symbols
    terms = np.zeros_like(probabilities)
    np.add.at(terms, fold, probabilities)
    return 1 - np.exp(-np.minimum(terms * LANGUAGES_SHARING, 1) * TOKENS_PER_TEXT)


def fit_idf(
    frequencies: dict[str, NDArray[np.int32]],
    texts: Counter[str],
    expected: NDArray[np.float64],
    prior: float,
) -> NDArray[np.float64]:
    """(vocabulary,) in 0..1 from document frequencies by language.

    A piece's probability is the largest of its estimates by language and over all texts: what is common in
    one language is a common word, however rare that language is in the corpora.
    """
    total = sum(texts.values())
    counted = np.sum(list(frequencies.values()), axis=0)
    overall = (counted + EXPECTED_TEXTS * expected) / (total + EXPECTED_TEXTS)
    best = np.maximum(overall, 0.5 / (total + 0.5))
    for language, count in sorted(texts.items()):
        if count >= SMALLEST_LANGUAGE:
            best = np.maximum(best, (frequencies[language] + prior * overall) / (count + prior))
    idf: NDArray[np.float64] = -np.log(np.minimum(best, 1.0)) / np.log((total + 0.5) / 0.5)
    return np.clip(idf, 0, 1)


def to_bytes(idf: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.maximum(np.rint(idf * 255), 1).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("calib", type=Path)
    parser.add_argument("--out", type=Path, default=Path("src/embedserve/embedding/data/idf.npz"))
    arguments = parser.parse_args()

    weights = BundledWeights()
    tokenizer = UnigramTokenizer(weights)
    size = weights.n_pieces
    fold = fold_pieces(weights.pieces)
    no_fold = np.arange(size, dtype=np.int32)
    texts: Counter[str] = Counter()
    terms: dict[str, NDArray[np.int32]] = defaultdict(lambda: np.zeros(size, np.int32))
    raw: dict[str, NDArray[np.int32]] = defaultdict(lambda: np.zeros(size, np.int32))
    for text in read_texts(arguments.calib):
        texts[text.language] += 1
        terms[text.language][np.unique(fold[tokenizer.encode(normalise_terms(text.text))])] += 1
        raw[text.language][np.unique(tokenizer.encode(text.text))] += 1

    sparse = to_bytes(fit_idf(terms, texts, expect_frequencies(weights.piece_scores, fold), SPARSE_PRIOR))
    is_term = np.array([any(c.isalnum() for c in piece) for piece in weights.pieces])
    is_term[[weights.bos_id, weights.eos_id, weights.pad_id, weights.unk_id]] = False
    sparse[~is_term] = 0
    word_starts = np.flatnonzero(fold != np.arange(size)).astype(np.int32)
    np.savez_compressed(
        arguments.out,
        sparse=sparse,
        pooling=to_bytes(
            fit_idf(raw, texts, expect_frequencies(weights.piece_scores, no_fold), POOLING_PRIOR)
        ),
        word_starts=word_starts,
        inner_pieces=fold[word_starts],
    )
    stored = arguments.out.stat().st_size
    print(f"{sum(texts.values())} texts, {len(texts)} languages -> {arguments.out} ({stored} bytes)")


if __name__ == "__main__":
    main()
