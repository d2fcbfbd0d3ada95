"""What the pipeline asks of a neural network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Window:
    """One sequence for the network and how its token states become one vector.

    Pooling is a weighted mean over token states, so every pooling in use is a choice of weights: all ones
    is mean pooling, a single one on the first token is CLS pooling, on the last token last-token pooling.

    Attributes:
        ids: (n,) int32 vocabulary ids, special tokens included, n at most the backbone's ``window_size``.
        weights: (n,) float32, not negative, at least one above zero.
    """

    ids: Ids
    weights: Floats


class Backbone(Protocol):
    """A network that turns windows into pooled hidden states.

    The contract of every implementation: a window's vector does not depend on the windows beside it, on
    their order, or on the number of threads (bit-equal); ``encode`` may be called from any thread, one
    call at a time.
    """

    name: str
    """Short and stable, e.g. ``native-avx512vnni``; shown by ``embedserve doctor`` and in ``/models``."""
    hidden_size: int
    window_size: int
    """Longest window, special tokens included."""

    def encode(self, windows: Sequence[Window]) -> Floats:
        """Weighted mean of the last hidden states of each window.

        Returns:
            (len(windows), hidden_size) float32, not normalised: row i is sum(w * h) / sum(w).
        """
        ...

    def close(self) -> None:
        """Give threads and memory back. Idempotent."""
        ...
