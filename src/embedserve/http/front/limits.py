"""What a connection may take before and around its requests, and how many there may be."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from embedserve.settings import Settings

HELD_BYTES = 16 * 2**20
"""Bytes of all connections together that are no request yet: heads without an end, requests that wait behind
another on their connection. Part of the 64 MiB that the memory promise leaves beside its limit."""

DRAIN_BYTES = 64 * 2**20
"""How much of a body that nobody wants is read, so that its sender gets to see why."""

LINGER_SECONDS = 2.0
"""How long a connection that was told its end is read on, so that no reset overtakes what was told."""

_MOST_DESCRIPTORS = 65_536
_MOST_CONNECTIONS = 4096
"""By default: about 10 KiB each in the worst case, within the memory promise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, bytes and bytes a second; see the settings of the same names.

    Attributes:
        connections: how many at a time.
        backlog: connections that the system may hold for us meanwhile.
    """

    head_bytes: int = 64 * 2**10
    headers: int = 128
    first_byte: float = 30
    head: float = 20
    body_stall: float = 20
    reply_stall: float = 60
    rate: int = 240
    keep_alive: float = 75
    connections: int = _MOST_CONNECTIONS
    backlog: int = 1024

    @classmethod
    def of(cls, settings: Settings, descriptors: int) -> Limits:
        reserve = reserve_of(descriptors)
        return cls(
            head_bytes=settings.max_header_bytes,
            headers=settings.max_headers,
            first_byte=settings.first_byte_seconds,
            head=settings.header_seconds,
            body_stall=settings.body_stall_seconds,
            reply_stall=settings.reply_stall_seconds,
            rate=settings.min_bytes_per_second,
            keep_alive=settings.keep_alive_seconds,
            connections=min(settings.max_connections or _MOST_CONNECTIONS, descriptors - reserve),
            # All of it may be accepted in one turn of the loop, before one of them is closed again.
            backlog=max(16, min(1024, reserve // 2)),
        )


def reserve_of(descriptors: int) -> int:
    """Descriptors kept from connections: files, uploads, the database, the listener."""
    return min(descriptors // 2, max(128, descriptors // 4))


def raise_descriptor_limit() -> int:
    """Lift the soft limit as far as it goes without asking anybody; the limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    most = _MOST_DESCRIPTORS if hard == unlimited else min(hard, _MOST_DESCRIPTORS)
    if soft != unlimited and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return _MOST_DESCRIPTORS if soft == unlimited else soft
