"""A backbone without a network, for tests of everything around one.

It keeps the contract (a window's vector depends on nothing but the window, and equal windows give equal
bits) and takes as long as it is told to, so whole services can be tested end to end in milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from embedserve.embedding.backbones.base import Floats, Window


class DummyBackbone:
    """Vectors are hashes of the window.

    Args:
        seconds_per_token: how long ``encode`` sleeps for each token (without the GIL, as a real one would).
    """

    def __init__(
        self, *, hidden_size: int = 384, window_size: int = 512, seconds_per_token: float = 0.0
    ) -> None:
        self.name = "dummy"
        self.hidden_size = hidden_size
        self.window_size = window_size
        self.seconds_per_token = seconds_per_token

    def encode(self, windows: Sequence[Window]) -> Floats:
        if self.seconds_per_token:
            time.sleep(self.seconds_per_token * sum(len(window.ids) for window in windows))
        vectors = np.empty((len(windows), self.hidden_size), np.float32)
        for row, window in zip(vectors, windows, strict=True):
            digest = blake2b(window.ids.tobytes() + window.weights.tobytes(), digest_size=8).digest()
            row[:] = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(self.hidden_size)
        return vectors

    def close(self) -> None:
        pass
