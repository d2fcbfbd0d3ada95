"""What this server is called, in links it gives out and in URLs that name it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.requests import Request

from embedserve.http.context import service_of

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def host_of(request: Request) -> str:
    """As the caller named it, with the port; the address it came in on where he named none that could be."""
    given = request.headers.get("host", "")
    if _HOST.fullmatch(given):
        return given
    host, port = request.scope.get("server") or ("localhost", None)
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host


def own_hosts(request: Request) -> set[str]:
    """How callers name this server. What a caller claims here opens only his own workspace's files."""
    public = service_of(request).settings.public_url
    return {host_of(request)} | ({urlsplit(public).netloc} if public else set())


def own_url(request: Request) -> str:
    """Where this application's root is, without a slash at its end; below the prefix it is mounted under."""
    public = service_of(request).settings.public_url
    prefix = request.scope.get("root_path", "")
    return (public or f"{request.scope['scheme']}://{host_of(request)}{prefix}").rstrip("/")
