"""The bundled vocabulary in Hugging Face's implementation, for what is to be held against it."""

from __future__ import annotations

from typing import Any

import pytest

from embedserve.embedding.weights import BundledWeights


@pytest.fixture(scope="module")
def library() -> Any:
    """Takes words as the normaliser cuts them."""
    tokenizers = pytest.importorskip("tokenizers")
    weights = BundledWeights()
    vocabulary = [
        # A control symbol that could match text would be wrong in both, so it is put out of reach here.
        (piece if score else f"\ue000control{i}", float(score))
        for i, (piece, score) in enumerate(zip(weights.pieces, weights.piece_scores, strict=True))
    ]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer
