"""What the system knows about a connection and its transport does not tell."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import struct
import sys
import termios
from contextlib import suppress

_RESET = struct.pack("ii", 1, 0)
_CLOSED = 7  # TCP_CLOSE in <netinet/tcp.h>


_GONE = (OSError, ValueError)
"""What a question about a socket raises after its end; uvloop's have no descriptor then, a ValueError."""


def untaken(transport: asyncio.Transport) -> int:
    """Bytes that were written and the other side has not confirmed, in our buffer or the system's."""
    waiting = transport.get_write_buffer_size()
    if (tcp := transport.get_extra_info("socket")) is not None:
        with suppress(*_GONE):
            queued = fcntl.ioctl(tcp.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
            waiting += int.from_bytes(queued, sys.byteorder)
    return waiting


def was_reset(transport: asyncio.Transport) -> bool:
    """The other side refused what it was sent. Not noticed by itself while nothing is read."""
    tcp = transport.get_extra_info("socket")
    try:
        return tcp is not None and tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSED
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.EBADF)
    except ValueError:
        return True


def reset(transport: asyncio.Transport) -> None:
    """End it at once, in a way that nobody takes for the end of a reply."""
    tcp = transport.get_extra_info("socket")
    if tcp is not None:
        with suppress(*_GONE):
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
