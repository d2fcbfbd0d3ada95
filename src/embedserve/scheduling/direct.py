"""Encoding without an event loop: for the library and the command line, where nobody else waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from embedserve.embedding.backbones.base import Backbone, Floats, Window
from embedserve.scheduling.cache import window_key


def encode_directly(backbone: Backbone, windows: Sequence[Window], *, chunk_tokens: int = 4096) -> Floats:
    """Vectors of the windows in order, each distinct window computed once.

    Args:
        chunk_tokens: tokens that one call of the backbone gets at most; bounds its memory, and how long an
            interrupt from the keyboard has to wait.

    Returns:
        (len(windows), hidden_size) float32, not normalised.
    """
    first: dict[bytes, int] = {}
    sources = [first.setdefault(window_key(window), i) for i, window in enumerate(windows)]
    vectors = np.empty((len(windows), backbone.hidden_size), np.float32)
    for chunk in _slices(windows, list(first.values()), chunk_tokens):
        vectors[chunk] = backbone.encode([windows[i] for i in chunk])
    return vectors[np.array(sources, np.intp)]


def _slices(windows: Sequence[Window], numbers: Sequence[int], chunk_tokens: int) -> Iterator[list[int]]:
    chunk: list[int] = []
    room = chunk_tokens
    for i in numbers:
        tokens = len(windows[i].ids)
        if chunk and tokens > room:
            yield chunk
            chunk, room = [], chunk_tokens
        chunk.append(i)
        room -= tokens
    if chunk:
        yield chunk
