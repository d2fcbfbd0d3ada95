"""Who is told what the server looks like from inside: this machine, or whoever holds the token."""

from __future__ import annotations

import hashlib
import hmac
import re
from ipaddress import IPv6Address, ip_address

from starlette.requests import Request

from embedserve.accounts.errors import wrong_key
from embedserve.errors import EmbedserveError
from embedserve.http.context import service_of

_FORWARDED = re.compile(
    r"forwarded|x-forwarded.*|via|x-real-ip|x-client-ip|true-client-ip|[a-z]+-(?:client|connecting)-ip"
    r"|x-cluster-client-ip|x-envoy-external-address"
)
"""With one of these headers the peer is a proxy, and who stands behind it nobody knows."""


def is_operator(request: Request) -> bool:
    """Whether this is the bearer of the metrics token; where none is set, a caller on this machine."""
    token = service_of(request).settings.metrics_token
    if token is None:
        return _is_local(request)
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Digests have one length: the comparison cannot even tell how long the token is.
    genuine = hmac.compare_digest(_digest(given.strip()), _digest(token.get_secret_value()))
    return scheme.lower() == "bearer" and genuine


def require_operator(request: Request) -> None:
    """Raises EmbedserveError: 401 without the token, 403 from elsewhere where there is none."""
    if is_operator(request):
        return
    if service_of(request).settings.metrics_token is not None:
        raise wrong_key()
    raise EmbedserveError(
        "Metrics are shown to callers on the server's own machine alone, who ask localhost for them: set "
        "EMBEDSERVE_METRICS_TOKEN there, and send it as Authorization: Bearer.",
        status=403,
        code="AccessDenied",
        openai_code="access_denied",
    )


def _is_local(request: Request) -> bool:
    """On this machine, and it asked for this machine.

    A proxy that adds no header may still hand on the name that its caller used, and a page in a browser here
    can have its own name lead here: neither says localhost.
    """
    if request.client is None or any(map(_FORWARDED.fullmatch, request.headers)):
        return False
    named = re.sub(r":[0-9]*$", "", request.headers.get("host", "")).strip("[]").rstrip(".").lower()
    return _is_loopback(request.client.host) and (named == "localhost" or _is_loopback(named))


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
