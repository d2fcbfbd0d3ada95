"""BM25 over words (and character pairs where words are not spaced): the yardstick of the sparse vectors.

Source: Robertson & Zaragoza 2009. The idf is that of the searched pool, an advantage that a service which
sees one text at a time does not have.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from embedserve.embedding.backbones.base import Floats

K1 = 1.2
B = 0.75
_WORD = re.compile(r"[\w\-.+/:#@]+")
_UNSPACED = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_RUN = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")
_PARTS = re.compile(r"[\-.+/:#@_]+")


def split_words(text: str) -> list[str]:
    """Lower-case words; compounds also by their parts; unspaced scripts as character pairs."""
    words: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if re.search(f"[{_UNSPACED}]", word):
            for run in _RUN.findall(word):
                words.extend(run[i : i + 2] for i in range(max(1, len(run) - 1)))
            continue
        bare = word.strip("-.+/:") or word
        words.append(bare)
        parts = [part for part in _PARTS.split(bare) if part]
        if len(parts) > 1:
            words.extend(parts)
    return words


class BM25:
    """An index of one pool of documents."""

    def __init__(self, documents: Sequence[str]) -> None:
        counted = [Counter(split_words(document)) for document in documents]
        lengths = np.array([sum(counts.values()) for counts in counted], np.float64)
        self._norms = K1 * (1 - B + B * lengths / (lengths.mean() or 1))
        self._size = len(documents)
        self._postings: dict[str, tuple[list[int], list[int]]] = {}
        for i, counts in enumerate(counted):
            for word, count in counts.items():
                rows, times = self._postings.setdefault(word, ([], []))
                rows.append(i)
                times.append(count)

    def scores(self, query: str) -> Floats:
        """(documents,) float32."""
        scores = np.zeros(self._size)
        for word in split_words(query):
            if posting := self._postings.get(word):
                rows, times = np.array(posting[0]), np.array(posting[1])
                idf = np.log(1 + (self._size - len(rows) + 0.5) / (len(rows) + 0.5))
                scores[rows] += idf * times * (K1 + 1) / (times + self._norms[rows])
        return scores.astype(np.float32)
