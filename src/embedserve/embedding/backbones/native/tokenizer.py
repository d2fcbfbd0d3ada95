"""The Unigram tokenizer in the native core."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from embedserve.embedding.backbones.base import Ids
from embedserve.embedding.backbones.native.library import NativeUnavailable, load_library
from embedserve.embedding.tokenizer import UNKNOWN_PENALTY, Normaliser
from embedserve.embedding.weights import BundledWeights


class NativeTokenizer:
    """See :class:`embedserve.embedding.tokenizer.Tokenizer`; the same ids as ``UnigramTokenizer``.

    The text is normalised in Python (the rules are shared), segmented in C++ without the interpreter's lock.

    Raises:
        NativeUnavailable: no compiled core.
    """

    def __init__(self, weights: BundledWeights) -> None:
        self._library = load_library()
        self.bos_id, self.eos_id = weights.bos_id, weights.eos_id
        self._normaliser = Normaliser(weights)
        self._blob, self._offsets = weights.piece_blob, weights.piece_offsets
        self._unigram: int | None = self._library.unigram_create(
            self._blob,
            self._offsets.ctypes.data,
            weights.piece_scores.ctypes.data,
            weights.n_pieces,
            weights.unk_id,
            float(weights.piece_scores.min()) - UNKNOWN_PENALTY,
        )
        if not self._unigram:
            raise NativeUnavailable(self._library.last_error())

    def piece(self, token_id: int) -> str:
        if not 0 <= token_id < len(self._offsets) - 1:
            raise IndexError(f"there is no piece {token_id}: ids run from 0 to {len(self._offsets) - 2}")
        start, end = self._offsets[token_id], self._offsets[token_id + 1]
        return self._blob[start:end].decode()

    def encode(self, text: str) -> Ids:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        normal = [" ".join(self._normaliser.words(text)).encode() for text in texts]
        offsets = np.array([0, *accumulate(map(len, normal))], np.uintp)
        ids = np.empty(int(offsets[-1]) + len(texts) + 1, np.int32)
        counts = np.zeros(len(texts), np.int32)
        self._library.check(
            self._library.unigram_encode(
                self._unigram,
                b"".join(normal),
                offsets.ctypes.data,
                len(texts),
                ids.ctypes.data,
                counts.ctypes.data,
            )
        )
        ends = accumulate(counts.tolist(), initial=0)
        return [ids[start:end].copy() for start, end in pairwise(ends)]

    def __del__(self) -> None:
        unigram, self._unigram = getattr(self, "_unigram", None), None
        if unigram:
            self._library.unigram_destroy(unigram)
