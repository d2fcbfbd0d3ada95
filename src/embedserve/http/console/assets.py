"""GET /console/…: a handful of files held in memory, with headers that forbid everything they do not need."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Own files only, no inline script or style, no frame, no form that leaves, no HTML made from strings."""

HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    # Names carry no version: a browser asks each time and is told 304 until an upgrade.
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    media_type: str
    etag: str


@cache
def load_assets() -> dict[str, Asset]:
    """Every file of the console by name; ``""`` is the page itself."""
    assets = {}
    for file in resources.files(__package__).joinpath("static").iterdir():
        media_type = MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if media_type is None:  # an editor's leftovers are not served
            continue
        content = file.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        assets["" if file.name == "index.html" else file.name] = Asset(content, media_type, etag)
    return assets


async def serve_asset(request: Request) -> Response:
    """One file, or 304 to a browser that has it already."""
    asset = load_assets().get(request.path_params.get("name", ""))
    if asset is None:
        raise HTTPException(404)
    headers = HEADERS | {"etag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


async def lead_to_console(request: Request) -> Response:
    """From ``/`` and ``/console``; a relative address, so that it holds behind a proxy's prefix."""
    return RedirectResponse("console/")
