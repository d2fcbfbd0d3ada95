"""Who may use the admin API, and how its requests are read."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from embedserve.accounts.bounds import explain, refuse, show
from embedserve.accounts.errors import missing_key, wrong_key
from embedserve.http.body import read_json
from embedserve.http.context import service_of

Body = TypeVar("Body", bound=BaseModel)


def authorize(request: Request) -> None:
    """Let the admin key pass and nothing else. Raises EmbedserveError (401)."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise missing_key()
    admin_key = service_of(request).settings.admin_key
    expected = admin_key.get_secret_value() if admin_key else ""
    # Digests have one length: the comparison cannot even tell how long the key is.
    if not expected or not hmac.compare_digest(_digest(given.strip()), _digest(expected)):
        raise wrong_key()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def read_body(request: Request, model: type[Body]) -> Body:
    """The request's JSON as ``model``; an absent body is an empty one. Raises EmbedserveError (400)."""
    empty = request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers
    fields = {} if empty else await read_json(request, 65_536)
    return validate(model, fields)


def validate(model: type[Body], fields: dict[str, Any]) -> Body:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        told = "; ".join(_explain(model, item) for item in error.errors(include_url=False))
        raise refuse(told) from None


def _explain(model: type[BaseModel], item: ErrorDetails) -> str:
    """Name, value and what is wrong with it."""
    place = ".".join(map(str, item["loc"]))[:64]
    if item["type"] == "extra_forbidden":
        return f"there is no {show(place)} here: choose from {', '.join(model.model_fields)}"
    return explain(place, item["input"], item["msg"])
