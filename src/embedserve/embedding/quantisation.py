"""Dense vectors in a quarter or a thirty-second of the room, for people who store millions.

int8 keeps every cosine to the third decimal. Sign bits lose more (docs/quality.md says how much at which
dimension); they serve as a first, fast pass whose best candidates are scored again with full vectors.

Sources: Charikar 2002, "Similarity Estimation Techniques from Rounding Algorithms" (sign bits, angle from
Hamming distance); Ailon & Chazelle 2009, "The Fast Johnson-Lindenstrauss Transform" (random signs, then an
orthonormal transform, instead of a dense random rotation).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.sparse import hash_ids

Encoding = Literal["float", "int8", "binary"]
Codes = NDArray[np.int8]
Bits = NDArray[np.uint8]
UNROTATED = 384
"""Up to this dimension the ladder's components are alike enough for their signs to be worth a bit each."""


def to_int8(vectors: Floats) -> tuple[Codes, Floats]:
    """(n, d) vectors to (n, d) codes and (n,) scales: ``codes * scale`` is the vector again.

    One scale for each vector, its largest component over 127, so that no component is clipped.
    """
    scales = (np.abs(vectors).max(axis=1) / np.float32(127)).astype(np.float32)
    steps = np.where(scales > 0, scales, np.float32(1))
    return np.rint(vectors / steps[:, None]).astype(np.int8), scales


def from_int8(codes: Codes, scales: Floats) -> Floats:
    """(n, d) float32 of unit length from what :func:`to_int8` gave (the scale only sets the length)."""
    vectors = codes.astype(np.float32) * scales[:, None]
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def int8_scores(queries: Codes, documents: Codes) -> Floats:
    """Cosines of int8 codes: (queries, documents) float32; scales cancel out."""
    q, d = queries.astype(np.float32), documents.astype(np.float32)
    lengths = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(d, axis=1)[None, :]
    scores: Floats = q @ d.T / np.maximum(lengths, 1e-12)
    return scores


def to_binary(vectors: Floats) -> Bits:
    """(n, d) vectors to (n, ceil(d / 8)) bytes of sign bits, first component in the highest bit.

    Above 384 dimensions the vectors are turned first by a fixed rotation: it leaves every cosine as it is and
    spreads what the mostly empty lexical tail says over all bits. Bits of different dimensions never compare.
    """
    turned = rotate(vectors) if vectors.shape[1] > UNROTATED else vectors
    return np.packbits(turned > 0, axis=1)


def binary_scores(queries: Bits, documents: Bits, dimension: int) -> Floats:
    """Estimated cosines from sign bits: (queries, documents) float32."""
    differing = np.empty((len(queries), len(documents)), np.float32)
    for row, query in zip(differing, queries, strict=True):
        row[:] = _ONES[np.bitwise_xor(documents, query)].sum(axis=1, dtype=np.int32)
    scores: Floats = np.cos(np.float32(np.pi) * differing / np.float32(dimension))
    return scores


def rotate(vectors: Floats) -> Floats:
    """A fixed pseudo-random rotation of (n, d) vectors: twice random signs and a Hartley transform."""
    size = vectors.shape[1]
    turned = vectors
    for turn in range(2):
        draws = hash_ids(np.arange(turn * size, (turn + 1) * size, dtype=np.int32))
        signs = np.where(draws & np.uint64(1), np.float32(1), np.float32(-1))
        waves = np.fft.fft(turned * signs, axis=1, norm="ortho")
        turned = (waves.real - waves.imag).astype(np.float32)
    return turned


_ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)
