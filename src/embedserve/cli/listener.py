"""The port to listen on: bound before anything heavy is loaded, or refused in a sentence that helps."""

from __future__ import annotations

import errno
import os
import socket
import sys

from embedserve.errors import EmbedserveError

UNPRIVILEGED = 1024
"""Ports below are for root, unless the system was told otherwise."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises EmbedserveError with the reason and the remedy where that cannot be."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no resolver could be asked for
        listener.close()
        raise EmbedserveError(f"cannot listen on {host}:{port}: {explain(error, host, port)}") from None
    return listener


def explain(error: Exception, host: str, port: int) -> str:
    """What is wrong and what to do, in the words of how the server was started."""
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return (
            f"no address is known for {host!r}; name one of this machine, e.g. "
            f"{change('host', '127.0.0.1')}, or 0.0.0.0 for all of its networks"
        )
    other = port + 1 if port < 65535 else 8080
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return f"the port is taken, perhaps by another embedserve; choose another: {change('port', other)}"
    if code == errno.EADDRNOTAVAIL:
        return (
            f"{host} is no address of this machine; listen on {change('host', '127.0.0.1')}, or on 0.0.0.0 "
            "for all of its networks"
        )
    if code == errno.EACCES and port < UNPRIVILEGED:
        return (
            f"ports below {UNPRIVILEGED} are for root; choose another, e.g. {change('port', 8080)}, and put "
            "a proxy in front for the public one"
        )
    return f"{getattr(error, 'strerror', error)}; choose another: {change('port', other)}"


def change(setting: str, value: object) -> str:
    """How to start with another value: as the server was started this time."""
    variable, option = f"EMBEDSERVE_{setting.upper()}", f"--{setting}"
    on_the_line = any(word == option or word.startswith(f"{option}=") for word in sys.argv[1:])
    if "MAKELEVEL" in os.environ and not on_the_line:
        return f"{variable}={value} make run"
    if variable in os.environ and not on_the_line:
        return f"{variable}={value}"
    return f"{option} {value}"
