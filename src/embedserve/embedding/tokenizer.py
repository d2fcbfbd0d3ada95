"""XLM-RoBERTa's Unigram tokenizer over the bundled vocabulary.

:class:`Normaliser` is shared by every implementation; :class:`UnigramTokenizer` is the plain one (pure
Python, the reference for the tests and the fall-back where the native core could not be built). Texts come
from :func:`embedserve.embedding.text.normalise`, so they hold no surrogates.

Source: Kudo 2018, "Subword Regularization" (the Unigram model); SentencePiece's nmt_nfkc rules per code
point as stored with the weights.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from embedserve.embedding.backbones.base import Ids
from embedserve.embedding.weights import BundledWeights

WORD_START = "\u2581"
UNKNOWN_PENALTY = 10.0
"""SentencePiece: an unknown character scores this much below the worst piece."""


class Tokenizer(Protocol):
    """Text to vocabulary ids, without special tokens."""

    bos_id: int
    eos_id: int

    def encode(self, text: str) -> Ids:
        """(n,) int32 content ids; n is 0 for text without visible characters."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """:meth:`encode` for each text."""
        ...

    def piece(self, token_id: int) -> str:
        """The vocabulary piece; a leading U+2581 marks the start of a word."""
        ...


class Normaliser:
    """Text as the vocabulary expects it: nmt_nfkc, one space between words, none around the text."""

    def __init__(self, weights: BundledWeights) -> None:
        self._table: dict[int, str] = dict(weights.normal_forms)
        self._table[0] = ""  # the stored table begins at 1
        self._table[ord(WORD_START)] = " "  # a literal word mark means a space, as in SentencePiece

    def words(self, text: str) -> list[str]:
        """The normalised text, cut at spaces; pieces never cross these cuts."""
        text = text.translate(self._table)
        if not text.isascii():
            # The table works code point by code point; composing afterwards makes NFD input equal to NFC.
            text = unicodedata.normalize("NFC", text)
        return text.split(" ") if "  " not in text else text.split()


class UnigramTokenizer:
    """Most probable segmentation of each word (Viterbi) by the Unigram model."""

    def __init__(self, weights: BundledWeights) -> None:
        self.bos_id, self.eos_id = weights.bos_id, weights.eos_id
        self._unk_id = weights.unk_id
        self._normaliser = Normaliser(weights)
        self._pieces = weights.pieces
        scores = weights.piece_scores.astype(np.float64)
        # Control symbols (<s>, <pad>, </s>, <unk>, <mask>) stand for themselves and never match text.
        text_ids = [i for i, score in enumerate(scores) if score != 0.0]
        self._unknown_score = float(scores.min()) - UNKNOWN_PENALTY
        self._entries = {self._pieces[i]: (float(scores[i]), i) for i in text_ids}
        self._longest = max(map(len, self._entries))
        self._segment_word = lru_cache(maxsize=65_536)(self._viterbi)

    def piece(self, token_id: int) -> str:
        return self._pieces[token_id]

    def encode(self, text: str) -> Ids:
        ids: list[int] = []
        for word in self._normaliser.words(text):
            if word:
                ids.extend(self._segment_word(WORD_START + word))
        return np.array(ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [self.encode(text) for text in texts]

    def _viterbi(self, word: str) -> tuple[int, ...]:
        size = len(word)
        best = [-np.inf] * (size + 1)
        best[0] = 0.0
        came_from = [(0, self._unk_id)] * (size + 1)
        for start in range(size):
            base = best[start]
            single = False
            for end in range(start + 1, min(start + self._longest, size) + 1):
                entry = self._entries.get(word[start:end])
                if entry is None:
                    continue
                single = single or end == start + 1
                if base + entry[0] > best[end]:
                    best[end] = base + entry[0]
                    came_from[end] = (start, entry[1])
            if not single and base + self._unknown_score > best[start + 1]:
                best[start + 1] = base + self._unknown_score
                came_from[start + 1] = (start, self._unk_id)
        ids: list[int] = []
        end = size
        while end:
            end, token = came_from[end]
            if not (token == self._unk_id and ids and ids[-1] == token):  # runs of unknowns are one <unk>
                ids.append(token)
        return tuple(reversed(ids))
