"""What the front lets handlers know and say about the connection under a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

EXTENSION = "embedserve.front"


class Hook(Protocol):
    """The connection, as ``scope["extensions"]["embedserve.front"]``; absent under another server."""

    def vouch(self) -> None:
        """A valid key was presented: this connection is not given up for newcomers any more."""

    def on_hangup(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the event loop, once, when the client of the running request is gone.

        At once (in the next turn of the loop) if he is gone already; never after the reply was handed over
        whole. No task has to wait for it. A client that only closed its sending half still waits for his
        reply and is not gone.
        """


def hook_of(scope: Mapping[str, Any]) -> Hook | None:
    hook: Hook | None = scope.get("extensions", {}).get(EXTENSION)
    return hook
