"""How fast the backbone is, measured on the work itself, and what follows from it."""

from __future__ import annotations

from typing import Final

_MEMORY: Final = 0.9
"""Weight of the past at each chunk: the rate is a mean over about the last ten."""
_MIN_CHUNK: Final = 64


class Pace:
    """Turns measured chunks into a chunk size and waiting times.

    Args:
        chunk_seconds: how long a chunk should take.
        calm_seconds: how long one should take when no queries come.
        max_chunk: cost that a chunk may have at most, however fast the backbone is (bounds its memory).
    """

    def __init__(self, *, chunk_seconds: float, calm_seconds: float, max_chunk: int) -> None:
        self.chunk_seconds = chunk_seconds
        self.calm_seconds = calm_seconds
        self.max_chunk = max_chunk
        self._cost = 0.0
        self._seconds = 0.0

    def note(self, cost: float, seconds: float) -> None:
        """Learn from a chunk. Big chunks count for more: small ones show overhead, not rate."""
        self._cost = self._cost * _MEMORY + cost
        self._seconds = self._seconds * _MEMORY + seconds

    @property
    def rate(self) -> float:
        """Cost a second; 0 before the first chunk."""
        return self._cost / self._seconds if self._seconds else 0.0

    @property
    def chunk(self) -> int:
        """Cost that the next chunk may have."""
        return self._cost_of(self.chunk_seconds)

    @property
    def calm_chunk(self) -> int:
        """Cost that it may have when no queries come."""
        return self._cost_of(self.calm_seconds)

    def _cost_of(self, seconds: float) -> int:
        if not self._seconds:
            return min(self.max_chunk, 512)
        return max(_MIN_CHUNK, min(self.max_chunk, round(self.rate * seconds)))

    def seconds_for(self, cost: float) -> float:
        return cost / self.rate if self.rate else self.chunk_seconds
